"""Raw rows of a whole capture on disk, between the two passes of an import."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.rows import ADD, BBO, DEPTH, RAW, SNAPSHOT, TRADE, UNKNOWN_NS
from mmenv.times import DAY

SPOOL_ROWS: Final = 1 << 19
STEP_ROWS: Final = 1000
"""Rows of a block whose greatest common divisor counts when tick and lot are inferred."""


class Spool:
    """Raw rows on disk, and what has to be known of all of them before the first can be converted.

    Pickled, it stands for the rows it had then; `reopen` forgets later ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._price_steps, self._size_steps = array("q"), array("q")  # greatest common divisors of blocks
        self.least_delay_ns: int | None = None
        self.price_range: dict[int, tuple[int, int]] = {}
        self.days: set[int] = set()
        self.orders = False
        """There are single orders among the rows."""
        self.last_ns = 0
        path.write_bytes(b"")

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
        for name, steps in (("price", self._price_steps), ("size", self._size_steps)):
            _add_steps(steps, rows[name], -self.rows % STEP_ROWS)
        self.rows += len(rows)
        self.orders = self.orders or bool((rows["kind"] >= ADD).any())
        first_ns, self.last_ns = int(rows["local_ns"][0]), int(rows["local_ns"][-1])
        self.days.update(range(first_ns // DAY, self.last_ns // DAY + 1))
        stamped = rows[rows["exch_ns"] != UNKNOWN_NS]
        if len(stamped):
            delay = int((stamped["local_ns"] - stamped["exch_ns"]).min())
            self.least_delay_ns = delay if self.least_delay_ns is None else min(delay, self.least_delay_ns)
        for kind in (TRADE, BBO, DEPTH, SNAPSHOT):
            prices = rows["price"][rows["kind"] == kind]
            if len(prices):
                low, high = self.price_range.get(kind, (int(prices[0]), int(prices[0])))
                self.price_range[kind] = min(low, int(prices.min())), max(high, int(prices.max()))
        with self.path.open("ab") as file:
            rows.tofile(file)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """First row and greatest common divisor of the prices of each block, int64 [n, 2]."""
        steps = np.array(self._price_steps, np.int64)
        return np.stack([STEP_ROWS * np.arange(len(steps)), steps], axis=1)

    @property
    def size_steps(self) -> Counter[int]:
        """Greatest common divisors of the sizes of blocks."""
        return Counter(self._size_steps)

    def chunks(self, first: int) -> Iterator[NDArray[np.void]]:
        """The rows from number `first`."""
        with self.path.open("rb") as file:
            file.seek(first * RAW.itemsize)
            while len(rows := np.fromfile(file, RAW, SPOOL_ROWS)):
                yield rows


def _add_steps(steps: array[int], values: NDArray[np.int64], first: int) -> None:
    """Add the divisors of blocks of `values` [n]; those before `first`, where a block begins, belong to the
    last one: blocks do not depend on how the rows come."""
    if first and steps:
        steps[-1] = int(np.gcd.reduce(np.append(values[:first], steps[-1])))
    starts = np.arange(first, len(values), STEP_ROWS)
    if len(starts):
        steps.extend(np.gcd.reduceat(values, starts).tolist())
