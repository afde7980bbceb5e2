"""Single orders in a tape: who stands where in a queue, kept in step with the levels they add up to.

A source by order (LOBSTER, Databento mbo, Bitstamp) gives rows of kind ADD, CANCEL, MODIFY and FILL beside
its levels, before those of the same message; `id` is the order's. A FILL takes nothing off the book: a CANCEL
that follows does. `reconcile` leaves ADD, CANCEL and FILL alone in a tape, all of orders that stand in the
book, whose sizes are at every level row those of the levels.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data import table
from mmenv.data.book import longer
from mmenv.data.rows import ADD, BUY, CANCEL, CLEAR, DEPTH, FILL, MODIFY, ROW, SNAPSHOT, TRADE
from mmenv.data.table import find, full, larger, put, remove

UNKNOWN_ORDERS: Final = 1 << 62
"""Lots of a level that no order explains, such as those from before the recording, are one order: this id
plus twice its tick, and one for a bid."""
ID, SIDE, TICK, LOTS, PLACE, BEFORE, AFTER = range(7)
"""Columns of resting orders; PLACE is the number of its arrival: smaller ones of the same price stand before
it. BEFORE and AFTER are the orders next to it at its level, NOBODY where there is none."""
SIZE, NEWEST = 1, 2
"""Of levels, by a key, twice the tick and one more for a bid: lots, and the order that came last."""
NOBODY: Final = table.FREE


class Queues:
    """The orders of a book, and what they add up to by level."""

    def __init__(self) -> None:
        self.resting: Any = table.empty(6)
        """Table of SIDE and what follows by id."""
        self.levels: Any = table.empty(2)
        """Table of SIZE and NEWEST by level."""
        self.arrivals = np.zeros(1, np.int64)
        """[1], how many orders there have been."""

    def orders(self) -> NDArray[np.int64]:
        """[n, 5], what stands in the book, first come first: ID to PLACE."""
        rows = table.rows(self.resting)[:, : PLACE + 1]
        return rows[np.argsort(rows[:, PLACE])]

    def reconcile(self, rows: NDArray[np.void]) -> tuple[NDArray[np.void], int, int]:
        """Rows whose orders stand in the book and add up to its levels.

        Parameters
        ----------
        rows
            `ROW` [n] in arrival order.

        Returns
        -------
        rows
            `ROW` [m].
        strays
            Rows of orders that nobody has heard of, at a level that has none; left out.
        unexplained
            Changes of levels that no order explains: one of unknown place stands for them.
        """
        found, strays, unexplained, self.resting, self.levels = _reconcile(
            rows, self.resting, self.levels, self.arrivals
        )
        return found, strays, unexplained

    def placed(self, rows: NDArray[np.void], low_tick: int, high_tick: int) -> NDArray[np.void]:
        """The trades, clears and orders among `ROW` rows [n], within a window of ticks, as `PLACED` [m].

        The last row but one says whether it is a trade that met no order: let no trade be the last one.
        """
        found, self.resting = _placed(rows, low_tick, high_tick, self.resting, self.arrivals)
        return found


PLACED: Final = np.dtype([*ROW.descr, ("place", "<i8"), ("left", "<i8")])
"""A row as replay reads it: of an order's, when that arrived and the lots it has left; of a trade's, `left`
is 1 where it met no order in the book."""


@njit(cache=True, nogil=True)
def _placed(rows, low_tick, high_tick, resting, arrivals):
    """As `Queues.placed`; and the orders."""
    out = np.empty(len(rows), PLACED)
    count = 0
    for number in range(len(rows)):
        row = rows[number]
        within = low_tick <= row.price <= high_tick
        if row.kind not in (TRADE, CLEAR) and (row.kind < ADD or not within):
            continue
        found = out[count]
        found.exch_ns, found.local_ns, found.kind, found.side = row.exch_ns, row.local_ns, row.kind, row.side
        found.price, found.size, found.id = row.price, row.size, row.id
        found.place = found.left = 0
        if row.kind == TRADE:
            found.left = number + 1 >= len(rows) or rows[number + 1].kind != FILL
        elif row.kind == CLEAR:
            table.clear(resting)
        elif row.kind == ADD:
            if full(resting):
                resting = larger(resting)
            arrivals[0] += 1
            at = put(resting, row.id)
            resting[at, SIDE], resting[at, TICK] = row.side, row.price
            resting[at, LOTS], resting[at, PLACE] = row.size, arrivals[0]
            found.place, found.left = arrivals[0], row.size
        else:
            at = find(resting, row.id)
            if at < 0:
                continue
            left = resting[at, LOTS] - (row.size if row.kind == CANCEL else 0)
            found.place, found.left = resting[at, PLACE], left
            if left == 0:
                remove(resting, at)
            else:
                resting[at, LOTS] = left
        count += 1
    return out[:count].copy(), resting


def as_rows(queues: Queues, rows: NDArray[np.void]) -> NDArray[np.void]:
    """The orders as ADD `ROW` rows [n], first come first, at the times of the first of `rows`."""
    orders = queues.orders()
    found = np.zeros(len(orders), ROW)
    found["kind"] = ADD
    for name in ("exch_ns", "local_ns"):
        found[name] = rows[name][0]
    for name, column in (("id", ID), ("side", SIDE), ("price", TICK), ("size", LOTS)):
        found[name] = orders[:, column]
    return found


@njit(cache=True, nogil=True)
def _reconcile(rows, resting, levels, arrivals):
    """As `Queues.reconcile`; and the orders and levels."""
    out = np.empty(len(rows) + len(rows) // 8 + 64, ROW)
    count, strays, unexplained = np.int64(0), 0, 0  # numba compiles what takes a literal anew
    for number in range(len(rows)):
        row = rows[number]
        if count + 8 > len(out):
            out = longer(out, count, 2 * len(out))
        if full(resting):
            resting = larger(resting)
        if full(levels):
            levels = larger(levels)
        kind, id = row.kind, max(row.id, table.FREE + 1)
        if kind == CLEAR:
            table.clear(resting)
            table.clear(levels)
        key = 2 * row.price + (1 if row.side == BUY else 0)
        at = find(resting, id) if kind >= ADD else -1
        if kind > ADD and at < 0:
            # From before the recording, or at a level out of view: of those that nobody has told apart.
            if kind == MODIFY:
                kind = ADD
            else:
                id = UNKNOWN_ORDERS + key
                at = find(resting, id)
                if at < 0:
                    strays += 1
                    continue
        out[count] = row
        if kind == FILL:
            found = out[count]
            found.id, found.side, found.price = id, resting[at, SIDE], resting[at, TICK]
            found.size = min(row.size, resting[at, LOTS])
            count += 1
            continue
        if kind in (ADD, MODIFY) and at >= 0:
            lots = resting[at, LOTS]
            if resting[at, TICK] == row.price and resting[at, SIDE] == row.side and row.size < lots:
                # Less of the same keeps its place.
                kind = CANCEL
                out[count].size = lots - row.size
            else:
                count = _take(out, count, at, lots, resting, levels)
                out[count] = row
                kind = ADD
        if kind == CANCEL:
            count = _take(out, count, at, out[count].size, resting, levels)
        elif kind in (ADD, MODIFY):
            count = _add(out, count, id, row.size, resting, levels, arrivals)
        elif kind in (DEPTH, SNAPSHOT):
            place = find(levels, key)
            missing = row.size - (levels[place, SIZE] if place >= 0 else 0)
            if missing != 0:
                unexplained += kind == DEPTH
                left = max(-missing, 0)
                unknown = find(resting, UNKNOWN_ORDERS + key)
                if unknown >= 0:
                    # What is left of it goes to the end of the queue, if there is now more.
                    lots = resting[unknown, LOTS]
                    gone = lots if missing > 0 else min(left, lots)
                    count = _take(out, count, unknown, gone, resting, levels)
                    missing += gone if missing > 0 else 0
                    left -= gone if left > 0 else 0
                while left > 0:
                    if count + 8 > len(out):
                        out = longer(out, count, 2 * len(out))
                    newest = find(resting, levels[find(levels, key), NEWEST])
                    gone = min(left, resting[newest, LOTS])
                    out[count] = row
                    count = _take(out, count, newest, gone, resting, levels)
                    left -= gone
                if missing > 0:
                    out[count] = row
                    count = _add(out, count, UNKNOWN_ORDERS + key, missing, resting, levels, arrivals)
            out[count] = row
            count += 1
        else:
            count += 1
    return out[:count], strays, unexplained, resting, levels


@njit(cache=True, nogil=True)
def _take(out, count, at, lots, resting, levels):
    """Take lots off an order, and make the row at `count` say so; how many rows there are then."""
    side, tick = resting[at, SIDE], resting[at, TICK]
    lots = min(lots, resting[at, LOTS])
    row = out[count]
    row.kind, row.id, row.side, row.price, row.size = CANCEL, resting[at, ID], side, tick, lots
    level = find(levels, 2 * tick + (1 if side == BUY else 0))
    resting[at, LOTS] -= lots
    levels[level, SIZE] -= lots
    if resting[at, LOTS] == 0:
        _leave(at, resting, levels, level)
    return count + 1


@njit(cache=True, nogil=True)
def _leave(at, resting, levels, level):
    """Remove an order, and with the last one its level; those next to it are then next to each other."""
    before, after = resting[at, BEFORE], resting[at, AFTER]
    if before != NOBODY:
        resting[find(resting, before), AFTER] = after
    if after != NOBODY:
        resting[find(resting, after), BEFORE] = before
    elif before != NOBODY:
        levels[level, NEWEST] = before
    else:
        remove(levels, level)
    remove(resting, at)


@njit(cache=True, nogil=True)
def _add(out, count, id, lots, resting, levels, arrivals):
    """Add an order of so many lots, and make the row at `count` say so; how many rows there are then."""
    row = out[count]
    row.kind, row.id, row.size = ADD, id, lots
    arrivals[0] += 1
    at = put(resting, id)
    resting[at, SIDE], resting[at, TICK], resting[at, LOTS] = row.side, row.price, lots
    resting[at, PLACE] = arrivals[0]
    known, key = levels[len(levels) - 1, 0], 2 * row.price + (1 if row.side == BUY else 0)
    level = put(levels, key)
    if levels[len(levels) - 1, 0] != known:
        levels[level, SIZE], levels[level, NEWEST] = 0, NOBODY
    before = levels[level, NEWEST]
    if before != NOBODY:
        resting[find(resting, before), AFTER] = id
    resting[at, BEFORE], resting[at, AFTER] = before, NOBODY
    levels[level, SIZE] += lots
    levels[level, NEWEST] = id
    return count + 1
