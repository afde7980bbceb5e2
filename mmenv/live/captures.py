"""Raw captures as they grow: everything received, a line each, in files that a kill does not hurt.

A line that was handed to the operating system survives a kill at any moment. The next start closes the file
that was open, up to its last whole line, and goes on in a new one.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import threading
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np

from mmenv.data.rows import CaptureError
from mmenv.files import replacing
from mmenv.times import DAY, HOUR

PART: Final = ".part"
"""Ending of a file that still grows."""


class Captures:
    """The raw captures of one symbol, the last of them growing; use as a context manager.

    A file is `rotate_ns` long, and every day begins a new one. Raises `CaptureError` if another recorder has
    this symbol of this store.
    """

    def __init__(self, store: Path, venue: str, symbol: str, rotate_ns: int = HOUR) -> None:
        self.folder = store / "captures" / f"venue={venue}" / f"symbol={symbol}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rotate_ns = rotate_ns
        self.bytes = 0
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise CaptureError(f"{self.folder}: another recorder writes here; stop it first") from None
        self._open: BinaryIO | None = None
        self._ends_ns = 0
        self.closed: list[Path] = []
        """Files not compressed yet."""
        self._compressing = threading.Lock()
        self._recover()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rotate()
        self.compress()
        self._lock.close()

    def keep(self, local_ns: int, message: bytes) -> None:
        """Append a message, received at a local time."""
        if local_ns >= self._ends_ns:
            self.rotate()
            self._ends_ns = (local_ns // self.rotate_ns + 1) * self.rotate_ns
            self._ends_ns = min(self._ends_ns, (local_ns // DAY + 1) * DAY)
            self._open = (self.folder / f"{_name(local_ns)}{PART}").open("ab")
        assert self._open is not None
        self.bytes += self._open.write(b"%d %b\n" % (local_ns, message))

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        if self._open is not None:
            self._open.flush()

    def rotate(self) -> None:
        """Close the growing file; the next message begins another."""
        if self._open is not None:
            self._open.close()
            self.closed.append(Path(self._open.name))
            self._open, self._ends_ns = None, 0

    def compress(self) -> None:
        """Turn closed files into gzip files. Takes long; may run in a thread."""
        with self._compressing:
            while self.closed:
                path = self.closed[0]
                with (
                    replacing(path.with_suffix(".gz")) as temporary,
                    path.open("rb") as lines,
                    gzip.open(temporary, "wb", compresslevel=5) as packed,
                ):
                    shutil.copyfileobj(lines, packed, 1 << 20)
                path.unlink()
                self.closed.pop(0)

    def _recover(self) -> None:
        """Close what a killed recorder left open, at its last whole line."""
        for path in sorted(self.folder.glob(f"*{PART}")):
            with path.open("r+b") as lines:
                lines.truncate(_whole_lines(lines))
                empty = lines.seek(0, os.SEEK_END) == 0
            if empty:
                path.unlink()
            else:
                self.closed.append(path)
        for path in self.folder.glob(".*.tmp"):
            path.unlink()


def finished(folder: Path) -> dict[str, list[Path]]:
    """Finished captures by UTC day, in time order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.gz")):
        found.setdefault(path.name[:10], []).append(path)
    return found


def _name(local_ns: int) -> str:
    return str(np.datetime64(local_ns, "ns")).replace(":", "").replace(".", "-")


def _whole_lines(lines: BinaryIO) -> int:
    """Bytes up to the end of the last whole line."""
    at = lines.seek(0, os.SEEK_END)
    while at > 0:
        start = max(at - (1 << 16), 0)
        lines.seek(start)
        found = lines.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0
