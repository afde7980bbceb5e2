"""From the orders of Databento's mbo records to the levels they add up to, compiled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data import rows as kinds
from mmenv.data import table
from mmenv.data.rows import BUY, DEPTH, RAW, SELL, SNAPSHOT
from mmenv.data.table import find, full, larger, put, remove

ORDER: Final = np.dtype(
    [
        ("line", "<i8"), ("exch_ns", "<i8"), ("local_ns", "<i8"), ("order", "<i8"), ("price", "<i8"),
        ("size", "<i8"), ("flags", "<i8"), ("action", "u1"), ("side", "i1"), ("file", "<i2"),
    ]
)  # fmt: skip
"""A record as we use it: price and size in `RAW` units, side as in `RAW` or 0."""
ADD, CANCEL, MODIFY, CLEAR, TRADE, FILL, NOTHING = b"ACMRTFN"
"""Actions."""
F_LAST: Final = 1 << 7
F_TOB: Final = 1 << 6
F_SNAPSHOT: Final = 1 << 5
F_MBP: Final = 1 << 4
F_MAYBE_BAD_BOOK: Final = 1 << 2

NUMBERS: Final = (1 << 63) - 1
"""Numbers of orders are taken up to here."""

PROBLEM: Final = np.dtype([("record", "i8"), ("code", "i8")])
UNKNOWN, DUPLICATE, TOO_MUCH = range(3)
"""Codes of problems."""


NUMBER, SIDE, PRICE, SIZE = range(4)
"""Columns of resting orders by number; price and size are in `RAW` units."""
_NOW, _TOLD, _OPEN = range(1, 4)
"""Columns of levels, whose key is twice their price, one more for a bid: size, what it was when it was last
told, and whether it has changed in the open event."""


class Orders:
    """Resting orders, and the levels they add up to."""

    def __init__(self) -> None:
        self.resting: Any = table.empty(3)
        self.levels: Any = table.empty(3)
        self.changed: Any = np.zeros(64, np.int64)
        """Keys of levels that have changed in the open event, in order."""
        self.open = 0
        """How many of them there are."""

    def apply(
        self, heads: NDArray[np.void], records: NDArray[np.void]
    ) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Follow the orders; the trades, the orders, and at the end of each event the levels it changed.

        Parameters
        ----------
        heads
            `RAW` [n], the records as rows.
        records
            `ORDER` [n].

        Returns
        -------
        rows
            `RAW` [m].
        problems
            `PROBLEM` [p].
        """
        rows, problems, self.resting, self.levels, self.changed, self.open = _apply(
            heads, records, self.resting, self.levels, self.changed, self.open
        )
        return rows, problems


@njit(cache=True, nogil=True)
def _apply(heads, records, resting, levels, changed, open):
    """As `Orders.apply`; and the orders, levels and changes."""
    out = np.empty(4 * len(heads) + open + 1, RAW)
    problems = np.empty(len(heads), PROBLEM)
    count, wrong = 0, 0
    for place in range(len(heads)):
        head, record = heads[place], records[place]
        action, number, code = record.action, record.order, -1
        if full(resting):
            resting = larger(resting)
        if open + 2 > len(changed):
            changed = _longer(changed)
        while 2 * (levels[len(levels) - 1, 0] + 2) >= len(levels) - 1:
            levels = larger(levels)
        if action == TRADE:
            out[count] = head
            count += 1
        elif action == CLEAR:
            table.clear(resting)
            table.clear(levels)
            open = 0
            out[count] = head
            out[count].side, out[count].price, out[count].size = BUY, 0, 0
            count += 1
        elif action in (ADD, MODIFY):
            at = find(resting, number)
            if at >= 0:
                code = DUPLICATE if action == ADD else code
                open = _shift(
                    levels, changed, open, resting[at, SIDE], resting[at, PRICE], -resting[at, SIZE]
                )
            else:
                at = put(resting, number)
            resting[at, SIDE], resting[at, PRICE], resting[at, SIZE] = record.side, record.price, record.size
            out[count] = head
            out[count].kind = kinds.ADD if action == ADD else kinds.MODIFY
            out[count].id = number
            count += 1
            open = _shift(levels, changed, open, np.int64(record.side), record.price, record.size)
        elif action == CANCEL:
            at = find(resting, number)
            if at < 0:
                code = UNKNOWN
            else:
                side, price, size = resting[at, SIDE], resting[at, PRICE], resting[at, SIZE]
                code = TOO_MUCH if record.size > size else code
                gone = min(size, record.size)
                out[count] = head
                out[count].kind, out[count].id = kinds.CANCEL, number
                out[count].side, out[count].price, out[count].size = side, price, gone
                count += 1
                open = _shift(levels, changed, open, side, price, -gone)
                if gone == size:
                    remove(resting, at)
                else:
                    resting[at, SIZE] = size - gone
        elif action == FILL:
            at = find(resting, number)
            if at >= 0:
                out[count] = head
                out[count].kind, out[count].id = kinds.FILL, number
                out[count].side, out[count].price = resting[at, SIDE], resting[at, PRICE]
                out[count].size = record.size
                count += 1
        if code >= 0:
            problems[wrong].record, problems[wrong].code = place, code
            wrong += 1
        if record.flags & F_LAST:
            for each in range(open):
                key = changed[each]
                level = find(levels, key)
                now = levels[level, _NOW]
                if now != levels[level, _TOLD]:
                    out[count] = head
                    out[count].kind = SNAPSHOT if record.flags & F_SNAPSHOT else DEPTH
                    out[count].side = BUY if key & 1 else SELL
                    out[count].price, out[count].size = key >> 1, now
                    count += 1
                levels[level, _TOLD], levels[level, _OPEN] = now, 0
                if now == 0:
                    remove(levels, level)
            open = 0
    return out[:count].copy(), problems[:wrong].copy(), resting, levels, changed, open


@njit(cache=True, nogil=True)
def _longer(keys):
    """The keys, with room for as many more."""
    found = np.zeros(2 * len(keys), np.int64)
    for at in range(len(keys)):
        found[at] = keys[at]
    return found


@njit(cache=True, nogil=True)
def _shift(levels, changed, open, side, price, size):
    """Add to the size of a level; how many levels have then changed in the open event."""
    key = 2 * price + (1 if side == BUY else 0)
    at = find(levels, key)
    if at < 0:
        at = put(levels, key)
        levels[at, _NOW] = levels[at, _TOLD] = levels[at, _OPEN] = 0
    levels[at, _NOW] += size
    if not levels[at, _OPEN]:
        levels[at, _OPEN] = 1
        changed[open] = key
        open += 1
    return open
