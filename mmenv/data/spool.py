"""Raw rows of a whole capture on disk, between the two passes of an import."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import ADD, BBO, DEPTH, RAW, SNAPSHOT, TRADE, UNKNOWN_NS
from mmenv.times import DAY

SPOOL_ROWS: Final = 1 << 19
STEP_ROWS: Final = 1000
"""Rows of a block whose greatest common divisor counts when tick and lot are inferred."""
_PRICED: Final = (TRADE, BBO, DEPTH, SNAPSHOT)
_KINDS: Final = 16
"""All kinds of rows are below."""
_MOST: Final = np.iinfo(np.int64).max


class Spool:
    """Raw rows on disk, and what has to be known of all of them before the first can be converted.

    They are of so many `files`. Pickled, it stands for the rows it had then; `reopen` forgets later ones.
    """

    def __init__(self, path: Path, files: int) -> None:
        self.path, self._files = path, files
        self.rows = 0
        self._price_steps, self._size_steps = array("q"), array("q")  # greatest common divisors of blocks
        self._ranges = np.tile([_MOST, -1], (_KINDS, 1))
        """[kind, 2], lowest and highest price; also of kinds without any."""
        self._days: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
        """Of each day: how far local time is at least behind the exchange's [1], and the files with rows."""
        self.last_ns = 0
        self._file: BinaryIO | None = None
        path.write_bytes(b"")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def reopen(self) -> bool:
        """Cut off what was written after this state was saved; False if the file is not all there."""
        size = self.rows * RAW.itemsize
        if not self.path.exists() or self.path.stat().st_size < size:
            return False
        with self.path.open("r+b") as file:
            file.truncate(size)
        return True

    def append(self, rows: NDArray[np.void]) -> None:
        """Write rows and take note of them."""
        if not len(rows):
            return
        missing = -(-(self.rows + len(rows)) // STEP_ROWS) - len(self._price_steps)
        for steps in (self._price_steps, self._size_steps):
            steps.extend([0] * missing)
        prices, sizes = (np.frombuffer(steps, np.int64) for steps in (self._price_steps, self._size_steps))
        for part in by_day(rows):
            day = int(part["local_ns"][0]) // DAY
            found = self._days.setdefault(day, (np.array([_MOST]), np.zeros(self._files, np.bool_)))
            _note(part, self.rows, STEP_ROWS, prices, sizes, self._ranges, *found)
            self.rows += len(part)
        self.last_ns = int(rows["local_ns"][-1])
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write(np.ascontiguousarray(rows).view(np.uint8).data)
        self._file.flush()

    @property
    def orders(self) -> bool:
        """Whether there are single orders among the rows."""
        return bool((self._ranges[ADD:, 1] >= 0).any())

    @property
    def price_range(self) -> dict[int, tuple[int, int]]:
        """Lowest and highest price by kind of row, of those that are levels or trades."""
        found = {kind: (int(self._ranges[kind, 0]), int(self._ranges[kind, 1])) for kind in _PRICED}
        return {kind: (low, high) for kind, (low, high) in found.items() if high >= low}

    @property
    def days(self) -> Set[int]:
        """Those that have rows, by the recorder's clock."""
        return self._days.keys()

    def least_delay_ns(self, day: int) -> int | None:
        """Of local time behind the exchange's on this day; None where no row has both."""
        least = int(self._days[day][0][0])
        return None if least == _MOST else least

    def files(self, day: int) -> list[int]:
        """Numbers of the files that have rows of this day."""
        return np.flatnonzero(self._days[day][1]).tolist()

    @property
    def blocks(self) -> NDArray[np.int64]:
        """First row and greatest common divisor of the prices of each block, int64 [n, 2]."""
        steps = np.array(self._price_steps, np.int64)
        return np.stack([STEP_ROWS * np.arange(len(steps)), steps], axis=1)

    @property
    def size_steps(self) -> Counter[int]:
        """Greatest common divisors of the sizes of blocks."""
        return Counter(self._size_steps)

    def messages(self, first: int) -> Iterator[NDArray[np.void]]:
        """The rows from number `first`, cut so that no message lies in two chunks."""
        if self._file is not None:
            self._file.close()
            self._file = None
        at = end = first
        with self.path.open("rb") as file:
            while at < self.rows:
                end = min(end + SPOOL_ROWS, self.rows)
                file.seek(at * RAW.itemsize)
                rows = np.fromfile(file, RAW, end - at)
                cut = len(rows) if end == self.rows else int(_last_message(rows))
                yield rows[:cut]
                at += cut


def by_day(rows: NDArray[np.void]) -> list[NDArray[np.void]]:
    """Parts of `RAW` rows [n], in order of local time, by its day."""
    if rows["local_ns"][0] // DAY == rows["local_ns"][-1] // DAY:
        return [rows]
    return np.split(rows, np.flatnonzero(np.diff(rows["local_ns"] // DAY)) + 1)


@njit(cache=True, nogil=True)
def same_message(row, other):
    """Whether two rows, one after the other, are of the same message."""
    return row.id == other.id and row.kind == other.kind


@njit(cache=True, nogil=True)
def _last_message(rows):
    """The row at which the last message begins."""
    at = len(rows) - 1
    while at > 0 and same_message(rows[at - 1], rows[at]):
        at -= 1
    return at


@njit(cache=True, nogil=True)
def _note(rows, at, step_rows, price_steps, size_steps, ranges, least_delay, files):
    """Take note of `RAW` rows [n], the first of which is row `at` of all; see `Spool`."""
    for number in range(len(rows)):
        row = rows[number]
        block = (at + number) // step_rows
        price_steps[block] = _divisor(price_steps[block], row.price)
        size_steps[block] = _divisor(size_steps[block], row.size)
        kind = np.int64(row.kind)
        files[row.file] = True
        ranges[kind, 0], ranges[kind, 1] = min(ranges[kind, 0], row.price), max(ranges[kind, 1], row.price)
        if row.exch_ns != UNKNOWN_NS:
            least_delay[0] = min(least_delay[0], row.local_ns - row.exch_ns)


@njit(cache=True, nogil=True)
def _divisor(step, value):
    """The greatest common divisor of two whole numbers."""
    value = abs(value)
    if step > 0 and value % step == 0:
        return step
    while step:
        value, step = step, value % step
    return value
