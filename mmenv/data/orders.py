"""Single orders in a tape: who stands where in a queue, kept in step with the levels they add up to.

A source by order (LOBSTER, Databento mbo, Bitstamp) gives rows of kind ADD, CANCEL, MODIFY and FILL beside
its levels, before those of the same message; `id` is the order's. A FILL takes nothing off the book: a CANCEL
that follows does. `reconcile` leaves ADD, CANCEL and FILL alone in a tape, all of orders that stand in the
book, whose sizes are at every level row those of the levels.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit, typed, types
from numpy.typing import NDArray

from mmenv.data.book import longer
from mmenv.data.rows import ADD, BUY, CANCEL, CLEAR, DEPTH, FILL, MODIFY, ROW, SNAPSHOT, TRADE

UNKNOWN_ORDERS: Final = 1 << 62
"""Lots of a level that no order explains, such as those from before the recording, are one order: this id
plus twice its tick, and one for a bid."""


class Resting(NamedTuple):
    """An order in the book."""

    side: Any
    tick: Any
    lots: Any
    place: Any
    """Number of its arrival: smaller ones of the same price stand before it."""


class Queues(NamedTuple):
    """The orders of a book, and what they add up to by level: twice the tick, and one more for a bid."""

    resting: Any
    """`Resting` by id."""
    levels: Any
    """Lots by level."""
    arrivals: Any
    """int64 [1], how many orders there have been."""


_RESTING = types.NamedUniTuple(types.int64, 4, Resting)
_PACKED: Final = np.dtype([(name, "i8") for name in ("id", *Resting._fields)])


@njit(cache=True)
def no_orders() -> Any:
    """An empty book."""
    return Queues(
        typed.Dict.empty(types.int64, _RESTING),
        typed.Dict.empty(types.int64, types.int64),
        np.zeros(1, np.int64),
    )


@njit(cache=True)
def _pack(resting):
    out = np.empty(len(resting), _PACKED)
    for row, (number, order) in enumerate(resting.items()):
        out[row].id, out[row].side, out[row].tick = number, order.side, order.tick
        out[row].lots, out[row].place = order.lots, order.place
    return out


def pack(queues: Queues) -> tuple[NDArray[np.void], int]:
    """The book as an array of what stands in it, first come first, and the number of arrivals."""
    orders = _pack(queues.resting)
    return orders[np.argsort(orders["place"])], int(queues.arrivals[0])


@njit(cache=True)
def unpack(orders, arrivals):
    """Inverse of `pack`."""
    queues = no_orders()
    queues.arrivals[0] = arrivals
    for order in orders:
        queues.resting[order.id] = Resting(np.int64(order.side), order.tick, order.lots, order.place)
        key = 2 * order.tick + (1 if order.side == BUY else 0)
        queues.levels[key] = queues.levels.get(key, 0) + order.lots
    return queues


PLACED: Final = np.dtype([*ROW.descr, ("place", "<i8"), ("left", "<i8")])
"""A row as replay reads it: of an order's, when that arrived and the lots it has left; of a trade's, `left`
is 1 where it met no order in the book."""


@njit(cache=True, nogil=True)
def placed(rows, low_tick, high_tick, resting, arrivals):
    """The trades, clears and orders among `ROW` rows [n], within a window of ticks, as `PLACED` [m].

    The last row but one says whether it is a trade that met no order: let no trade be the last one.
    """
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
            resting.clear()
        elif row.kind == ADD:
            arrivals[0] += 1
            resting[row.id] = Resting(np.int64(row.side), row.price, row.size, arrivals[0])
            found.place, found.left = arrivals[0], row.size
        else:
            order = resting[row.id]
            left = order.lots - (row.size if row.kind == CANCEL else 0)
            found.place, found.left = order.place, left
            if left == 0:
                resting.pop(row.id)
            else:
                resting[row.id] = Resting(order.side, order.tick, left, order.place)
        count += 1
    return out[:count].copy()


def as_rows(queues: Queues, rows: NDArray[np.void]) -> NDArray[np.void]:
    """The orders as ADD `ROW` rows [n], first come first, at the times of the first of `rows`."""
    orders, _ = pack(queues)
    found = np.zeros(len(orders), ROW)
    found["kind"] = ADD
    for name in ("exch_ns", "local_ns"):
        found[name] = rows[name][0]
    for name, source in (("id", "id"), ("side", "side"), ("price", "tick"), ("size", "lots")):
        found[name] = orders[source]
    return found


@njit(cache=True, nogil=True)
def reconcile(rows, resting, levels, arrivals):
    """Rows whose orders stand in the book and add up to its levels.

    Parameters
    ----------
    rows
        `ROW` [n] in arrival order.
    resting, levels, arrivals
        As in `Queues`; updated.

    Returns
    -------
    rows
        `ROW` [m].
    strays
        Rows of orders that nobody has heard of, at a level that has none; left out.
    unexplained
        Changes of levels that no order explains: one of unknown place stands for them.
    """
    out = np.empty(2 * len(rows) + 64, ROW)
    count, strays, unexplained = 0, 0, 0
    for number in range(len(rows)):
        row = rows[number]
        if count + 8 > len(out):
            out = longer(out, count, 2 * len(out))
        kind, id = row.kind, row.id
        if kind == CLEAR:
            resting.clear()
            levels.clear()
        key = 2 * row.price + (1 if row.side == BUY else 0)
        if kind >= ADD and kind != ADD and id not in resting:
            # From before the recording, or at a level out of view: of those that nobody has told apart.
            if kind == MODIFY:
                kind = ADD
            elif UNKNOWN_ORDERS + key in resting:
                id = UNKNOWN_ORDERS + key
            else:
                strays += 1
                continue
        if kind == FILL:
            old = resting[id]
            out[count] = row
            out[count].id, out[count].side, out[count].price = id, old.side, old.tick
            out[count].size = min(row.size, old.lots)
            count += 1
            continue
        if kind in (ADD, MODIFY) and id in resting:
            old = resting[id]
            if old.tick == row.price and old.side == row.side and row.size < old.lots:
                # Less of the same keeps its place.
                kind = CANCEL
                out[count] = row
                out[count].size = old.lots - row.size
            else:
                out[count] = row
                count = _take(out, count, id, old.lots, resting, levels)
                kind = ADD
        elif kind == CANCEL:
            out[count] = row
        if kind == CANCEL:
            count = _take(out, count, id, out[count].size, resting, levels)
        elif kind == ADD:
            out[count] = row
            count = _add(out, count, id, row.size, resting, levels, arrivals)
        elif kind in (DEPTH, SNAPSHOT):
            missing = row.size - levels.get(key, 0)
            unknown = UNKNOWN_ORDERS + key
            if missing != 0:
                unexplained += kind == DEPTH
                left = max(-missing, 0)
                if unknown in resting:
                    # What is left of it goes to the end of the queue, if there is now more.
                    gone = resting[unknown].lots if missing > 0 else min(left, resting[unknown].lots)
                    out[count] = row
                    count = _take(out, count, unknown, gone, resting, levels)
                    missing += gone if missing > 0 else 0
                    left -= gone if left > 0 else 0
                while left > 0:
                    if count + 8 > len(out):
                        out = longer(out, count, 2 * len(out))
                    each = _newest(row, resting)
                    gone = min(left, resting[each].lots)
                    out[count] = row
                    count = _take(out, count, each, gone, resting, levels)
                    left -= gone
                if missing > 0:
                    out[count] = row
                    count = _add(out, count, unknown, missing, resting, levels, arrivals)
            out[count] = row
            count += 1
        else:
            out[count] = row
            count += 1
    return out[:count].copy(), strays, unexplained


@njit(cache=True, nogil=True)
def _newest(level, resting):
    """The order at a level that came last."""
    found, place = np.int64(0), np.int64(-1)
    for each, order in resting.items():
        if order.tick == level.price and order.side == level.side and order.place > place:
            found, place = each, order.place
    return found


@njit(cache=True, nogil=True)
def _take(out, count, id, lots, resting, levels):
    """Take lots off an order, and make the row at `count` say so; how many rows there are then."""
    old = resting[id]
    lots = min(lots, old.lots)
    row = out[count]
    row.kind, row.id, row.side, row.price, row.size = CANCEL, id, old.side, old.tick, lots
    key = 2 * old.tick + (1 if old.side == BUY else 0)
    left = levels[key] - lots
    if left > 0:
        levels[key] = left
    else:
        levels.pop(key)
    if lots == old.lots:
        resting.pop(id)
    else:
        resting[id] = Resting(old.side, old.tick, old.lots - lots, old.place)
    return count + 1


@njit(cache=True, nogil=True)
def _add(out, count, id, lots, resting, levels, arrivals):
    """Add an order of so many lots, and make the row at `count` say so; how many rows there are then."""
    row = out[count]
    row.kind, row.id, row.size = ADD, id, lots
    arrivals[0] += 1
    resting[id] = Resting(np.int64(row.side), row.price, lots, arrivals[0])
    key = 2 * row.price + (1 if row.side == BUY else 0)
    levels[key] = levels.get(key, 0) + lots
    return count + 1
