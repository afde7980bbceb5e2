"""Raw files of cryptofeed (`raw_data_collection`), of any venue whose captures are read.

https://github.com/bmoscon/cryptofeed, cryptofeed/raw_data_collection.py: a line is `<seconds>: <message>`;
an answer of the venue's REST interface is `<address> -> <seconds>: <message>`, and others tell of connections
and of what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.formats.base import IMPORTERS, Importer, ImportOptions, head_of, register
from mmenv.data.formats.binance import Binance
from mmenv.data.formats.feed import FeedImporter
from mmenv.data.problems import Report
from mmenv.data.rows import CaptureError

HEAD: Final = re.compile(rb"^configuration: \{", re.M)
LINE: Final = re.compile(rb"^(?:https?://\S* -> )?(\d{1,10})(?:\.(\d{1,9}))?\d*: (\{.*)$")


def translated(text: bytes) -> bytes:
    """Lines of `<ns> <message>`; an empty one for each that holds no message."""
    return b"\n".join(_line(line) for line in text.split(b"\n"))


def _line(line: bytes) -> bytes:
    match = LINE.match(line)
    return b"%s%s %s" % (match[1], (match[2] or b"").ljust(9, b"0"), match[3]) if match else b""


@register
class Cryptofeed(Importer):
    """Files of one venue and symbol, read by the importer of the venue's own captures."""

    name = "cryptofeed"
    description = "cryptofeed's raw files, of any venue here whose websocket captures are read"
    notes = "as the venue's own format; what was sent, and of REST all but snapshots, is left out"

    def __init__(self, inner: Importer) -> None:
        self._inner = inner
        self.source, self.names, self.places, self.size = inner.source, inner.names, inner.places, inner.size

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return HEAD.search(head) is not None

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Cryptofeed]:
        found: dict[type[Importer], list[Path]] = {}
        for path in paths:
            found.setdefault(_venue(path), []).append(path)
        importers: list[Importer] = []
        for venue, files in found.items():
            if issubclass(venue, Binance):
                importers += venue.open(files, options, translated)
            elif issubclass(venue, FeedImporter):
                importers += [
                    venue(source, chosen, options, translate=translated)
                    for source, chosen in venue.captures(files, options, translated)
                ]
        return [cls(inner) for inner in importers]

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        self._inner.readers = self.readers
        for rows in self._inner.chunks(report):
            self.done = self._inner.done
            yield rows


def _venue(path: Path) -> type[Importer]:
    """The importer of a file's messages."""
    head = translated(head_of(path))
    for name in sorted(IMPORTERS):
        venue = IMPORTERS.find(name)
        if issubclass(venue, Binance | FeedImporter) and venue.looks_like(head, path):
            return venue
    raise CaptureError(
        f"{path.name}: no messages of a venue whose captures are read, as cryptofeed writes them"
    )
