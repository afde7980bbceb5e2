"""Books and trades of a feed as checked rows' raw material: numbered messages, changes of whole books, levels
that a venue no longer speaks of."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.formats.json_work import inner
from mmenv.data.rows import BUY, CLEAR, DEPTH, RAW, SELL, SNAPSHOT, TRADE

PLAIN, WHOLE, CUT = range(3)
"""What a venue's book messages are: new sizes; all levels each time; new sizes of the best levels, where
those that fall behind them are not heard of again."""
DEPTHS: Final = (10, 25, 100, 500, 1000)
"""Of the best levels there are so many, the fewest that hold the snapshot."""
NOTHING: Final = np.zeros((0, 3), np.int64)
"""Side, price and size of no level."""
_BUY, _SELL, _CLEAR, _DEPTH, _SNAPSHOT, _TRADE, _NOTHING = map(
    np.int64, (BUY, SELL, CLEAR, DEPTH, SNAPSHOT, TRADE, 0)
)
"""Of one type, for which a function is compiled once."""


@njit(cache=True, nogil=True)
def rows_of_parts(parts, levels, file, number, mode, depth, held):
    """Books and trades as rows.

    Parameters
    ----------
    parts, levels
        As `mmenv.data.formats.json_scan.scan` gives them; those of other symbols are left out.
    file, number
        Number of the file, and of the last book message.
    mode
        PLAIN, WHOLE or CUT.
    depth
        Of CUT: how many levels a side there are, 0 before the first snapshot.
    held
        int64 [k, 3], side, price and size of the levels known; kept unless `mode` is PLAIN.

    Returns
    -------
    rows
        `RAW` [n].
    number, depth, held
        As above, after it.
    """
    out = np.empty(4 * len(levels) + len(parts) + 2 * len(held) + 8, RAW)
    book = np.empty((len(levels) + len(held) + 8, 3), np.int64)
    known = len(held)
    for level in range(known):
        for column in range(3):
            book[level, column] = held[level, column]
    count, at = 0, 0
    for part in parts:
        size = part.bids + part.asks
        mine = levels[at : at + size]
        at += size
        if not part.ours:
            continue
        if part.trade:
            count = _put(out, count, part, file, _TRADE, np.int64(part.side), mine[0, 0], mine[0, 1], part.id)
            continue
        whole = part.snapshot and (mode != WHOLE or number == 0)
        if whole:
            number += 1
            count = _put(out, count, part, file, _CLEAR, _BUY, _NOTHING, _NOTHING, number)
            known = 0
            if mode == CUT:
                depth = _depth(max(part.bids, part.asks))
        number += 1
        if mode == WHOLE:
            count = _removed(out, count, part, file, mine, book[:known], number)
        kind = _SNAPSHOT if whole else _DEPTH
        found = _NOTHING
        for level in range(size):
            side = _BUY if level < part.bids else _SELL
            before = 0
            if mode == WHOLE:
                found = _found(book, known, side, mine[level, 0], found)
                before = book[found, 2] if found < known else 0
            if mode != WHOLE or before != mine[level, 1]:
                count = _put(out, count, part, file, kind, side, mine[level, 0], mine[level, 1], number)
            if mode == CUT:
                known = _set(book, known, side, mine[level, 0], mine[level, 1])
        if mode == WHOLE:
            for level in range(size):
                book[level, 0] = BUY if level < part.bids else SELL
                book[level, 1], book[level, 2] = mine[level, 0], mine[level, 1]
            known = size
        if mode == CUT and not whole:
            for side in (_BUY, _SELL):
                worst = _worst(book[:known], side, depth)
                while worst >= 0:
                    count = _put(out, count, part, file, _DEPTH, side, book[worst, 1], _NOTHING, number)
                    known = _set(book, known, side, book[worst, 1], _NOTHING)
                    worst = _worst(book[:known], side, depth)
    return out[:count].copy(), number, depth, book[:known].copy()


@inner
def _put(out, count, part, file, kind, side, price, size, id):
    row = out[count]
    row.exch_ns, row.local_ns, row.line, row.file = part.exch_ns, part.local_ns, part.line, file
    row.kind, row.side, row.price, row.size, row.id = kind, side, price, size, id
    return count + 1


@inner
def _depth(levels):
    for depth in DEPTHS:
        if levels <= depth:
            return depth
    return levels


@inner
def _find(book, side, price):
    for at in range(len(book)):
        if book[at, 0] == side and book[at, 1] == price:
            return at
    return -1


@inner
def _found(book, known, side, price, after):
    """Where the level of a price is among those known, `known` where it is not.

    Books come in one order: each level stands soon after the one that was looked for before, at `after`.
    """
    for step in range(known):
        at = after + step
        at -= known if at >= known else 0
        if book[at, 1] == price and book[at, 0] == side:
            return at
    return known


@inner
def _set(book, known, side, price, size):
    """Give a level its size; how many there are then."""
    at = _find(book[:known], side, price)
    if size > 0:
        at = known if at < 0 else at
        book[at, 0], book[at, 1], book[at, 2] = side, price, size
        return max(known, at + 1)
    if at < 0:
        return known
    # One by one: what numba compiles for a copy of a row takes seconds.
    for column in range(3):
        book[at, column] = book[known - 1, column]
    return known - 1


@inner
def _worst(book, side, depth):
    """The level farthest from the touch, -1 where there are no more than `depth`."""
    found, count = -1, 0
    for at in range(len(book)):
        if book[at, 0] == side:
            count += 1
            if found < 0 or (book[at, 1] - book[found, 1]) * side < 0:
                found = at
    return found if count > depth else -1


@inner
def _removed(out, count, part, file, levels, book, number):
    """Rows of levels that the book has no more."""
    level = 0
    for at in range(len(book)):
        side, price = book[at, 0], book[at, 1]
        begin, end = (0, part.bids) if side == BUY else (part.bids, len(levels))
        level = min(max(level, begin), end)
        still = level < end and levels[level, 0] == price
        # It stands where the last one did, or somewhat further; or else anywhere.
        for other in range(begin if not still else end, end):
            if levels[other, 0] == price:
                level, still = other, True
                break
        level += still
        if not still:
            count = _put(out, count, part, file, _DEPTH, side, price, _NOTHING, number)
    return count


def fresh(parts: NDArray[np.void], follows: int) -> tuple[NDArray[np.bool_], int]:
    """Which of `PART` [n] that are books do not continue the one before, the first of them `follows` (-1: not
    known); and the number of the last one."""
    before = np.concatenate([[follows], parts["update"][:-1]])
    numbered = (parts["snapshot"] == 0) & (parts["previous"] >= 0) & (before >= 0)
    last = int(parts["update"][-1]) if len(parts) else follows
    return numbered & (parts["previous"] != before), last
