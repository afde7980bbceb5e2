"""hftbacktest's own event files (`.npz` or `.npy`), which it calls normalised data; `mmenv.data.store` writes
them too.

https://hftbacktest.readthedocs.io/en/latest/data.html: an event has flags for the exchange's and for the
local side, where the two orders of time differ it is there twice; prices and sizes are floats. What the local
side sees is read. Numbers of trades and messages are not kept in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.decimals import INVALID
from mmenv.data.events import BUY_FLAG, EVENT, LOCAL_FLAG, SELL_FLAG
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.problems import Report, valid
from mmenv.data.rows import BUY, CLEAR, DEPTH, RAW, SELL, SNAPSHOT, TRADE, CaptureError
from mmenv.data.sequence import Arrival, ExchangeTime
from mmenv.data.source import Source, source_of

CHUNK: Final = 1 << 18
READ: Final = (DEPTH, TRADE, CLEAR, SNAPSHOT)


@register
class HftBacktest(Importer):
    """Consecutive files of one symbol."""

    name = "hftbacktest"
    description = "hftbacktest's event files, `.npz` or `.npy`"
    notes = (
        "give `--venue` and `--symbol`; floats are rounded to 8 places; neither orders nor tickers are read"
    )

    def __init__(self, source: Source, paths: Sequence[Path]) -> None:
        self.source, self.names, self._paths = source, [path.name for path in paths], tuple(paths)
        self.size = sum(path.stat().st_size for path in paths)
        self._file, self._row, self._message = 0, 0, 0
        self._last = 0, -1
        """Local time and kind of the last event."""
        self._arrival, self._book_time, self._trade_time = Arrival(), ExchangeTime(), ExchangeTime()

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[HftBacktest]:
        firsts = []
        for path in paths:
            events = _events(path)
            if not len(events):
                raise CaptureError(f"{path.name}: no events")
            firsts.append((int(events["local_ts"][0]), path))
        if options.one_symbol is None or options.venue is None:
            missing = "--symbol" if options.one_symbol is None else "--venue"
            raise CaptureError(f"{paths[0].name}: it does not say what it is of; give {missing}")
        return [cls(source_of(options.venue, options.one_symbol), [path for _, path in sorted(firsts)])]

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return path.suffix in (".npz", ".npy") and (head.startswith(b"\x93NUMPY") or path.suffix == ".npz")

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while self._file < len(self._paths):
            events = _events(self._paths[self._file])
            while self._row < len(events):
                begins, part = self._row == 0, events[self._row : self._row + CHUNK]
                rows = self._rows(part, report)
                self._row += len(part)
                self.done = min(self.done + self.size * len(part) // max(len(events), 1), self.size)
                rows = rows[valid(rows, report)]
                self._arrival.set(rows, report, begins)
                self._book_time.set(rows, rows["kind"] != TRADE, report)
                self._trade_time.set(rows, rows["kind"] == TRADE, report)
                yield rows
            self._file, self._row = self._file + 1, 0

    def _rows(self, part: NDArray[np.void], report: Report) -> NDArray[np.void]:
        """What the local side sees of some events."""
        flags = part["ev"].astype(np.int64)
        kind, seen = flags & 0xFF, (flags & LOCAL_FLAG) > 0
        read = seen & np.isin(kind, READ)
        report.note("event of single orders or of another kind, not used", int((seen & ~read).sum()))
        lines = self._row + 1 + np.flatnonzero(read)
        part, kind, flags = part[read], kind[read], flags[read]
        rows = np.zeros(len(part), RAW)
        rows["kind"], rows["file"], rows["line"] = kind, self._file, lines
        rows["side"] = np.where(flags & BUY_FLAG, BUY, np.where(flags & SELL_FLAG, SELL, 0))
        rows["side"][kind == CLEAR] = BUY
        rows["exch_ns"], rows["local_ns"] = part["exch_ts"], part["local_ts"]
        for name, source, places in zip(("price", "size"), ("px", "qty"), self.places, strict=True):
            good = np.abs(part[source]) < 2.0**62 / 10.0**places
            values = np.where(good, part[source], 0.0) * 10.0**places
            rows[name] = np.where(good, np.rint(values).astype(np.int64), INVALID)
        for name in ("price", "size"):
            rows[name][kind == CLEAR] = 0
        # Rows of one kind and time are taken to be one message.
        changed = np.diff(part["local_ts"], prepend=self._last[0]) != 0
        changed |= np.diff(kind, prepend=self._last[1]) != 0
        rows["id"] = self._message + np.cumsum(changed)
        if len(part):
            self._message, self._last = int(rows["id"][-1]), (int(part["local_ts"][-1]), int(kind[-1]))
        rows["id"][kind == TRADE] = -1
        return rows


def _events(path: Path) -> NDArray[np.void]:
    """The events of a file. Raises `CaptureError` if it has none of the right layout."""
    try:
        found = np.load(path, allow_pickle=False)
        array = found if isinstance(found, np.ndarray) else found["data"]
    except FileNotFoundError:
        raise CaptureError(f"{path}: no such file; check its name") from None
    except Exception as error:  # a damaged archive raises whatever it likes
        raise CaptureError(f"{path.name}: no file of hftbacktest's events ({error})") from None
    fields = [(name, array.dtype[name]) for name in array.dtype.names or ()]
    if fields != [(name, EVENT[name]) for name in EVENT.names or ()] or array.ndim != 1:
        raise CaptureError(f"{path.name}: no events of hftbacktest: fields {fields}")
    return array
