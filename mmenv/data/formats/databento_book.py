"""From the orders of Databento's mbo records to the levels they add up to, compiled."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit, typed, types

from mmenv.data import rows as kinds
from mmenv.data.rows import BUY, DEPTH, RAW, SELL, SNAPSHOT

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

PROBLEM: Final = np.dtype([("record", "i8"), ("code", "i8")])
UNKNOWN, DUPLICATE, TOO_MUCH = range(3)
"""Codes of problems."""


class Resting(NamedTuple):
    """An order in the book."""

    side: Any
    price: Any
    size: Any


class Orders(NamedTuple):
    """Resting orders and the levels they add up to, whose key is twice their price, one more for a bid."""

    resting: Any
    """`Resting` by number."""
    levels: Any
    """Size by key."""
    told: Any
    """Size by key when it was last told."""
    changed: Any
    """Keys of what has changed in the open event, each with 0."""


_RESTING = types.NamedUniTuple(types.int64, 3, Resting)


@njit(cache=True)
def no_orders():
    """An empty book."""
    return Orders(
        typed.Dict.empty(types.int64, _RESTING),
        typed.Dict.empty(types.int64, types.int64),
        typed.Dict.empty(types.int64, types.int64),
        typed.Dict.empty(types.int64, types.int64),
    )


def pack(orders: Orders) -> Orders:
    """The book as arrays, which can be pickled."""
    resting, *sizes = orders
    return Orders(_pack_orders(resting), *map(_pack_sizes, sizes))


def unpack(packed: Orders) -> Orders:
    """Inverse of `pack`."""
    resting, *sizes = packed
    return Orders(_unpack_orders(resting), *map(_unpack_sizes, sizes))


_PACKED_ORDER: Final = np.dtype([(name, "i8") for name in ("number", "side", "price", "size")])
_PACKED_SIZE: Final = np.dtype([("key", "i8"), ("size", "i8")])


@njit(cache=True)
def _pack_orders(resting):
    out = np.empty(len(resting), _PACKED_ORDER)
    for row, (number, order) in enumerate(resting.items()):
        out[row].number, out[row].side = number, order.side
        out[row].price, out[row].size = order.price, order.size
    return out


@njit(cache=True)
def _unpack_orders(rows):
    resting = typed.Dict.empty(types.int64, _RESTING)
    for row in rows:
        resting[row.number] = Resting(row.side, row.price, row.size)
    return resting


@njit(cache=True)
def _pack_sizes(found):
    out = np.empty(len(found), _PACKED_SIZE)
    for row, (key, size) in enumerate(found.items()):
        out[row].key, out[row].size = key, size
    return out


@njit(cache=True)
def _unpack_sizes(rows):
    found = typed.Dict.empty(types.int64, types.int64)
    for row in rows:
        found[row.key] = row.size
    return found


@njit(cache=True, nogil=True)
def apply(heads, records, resting, levels, told, changed):
    """Follow the orders; the trades, the orders, and at the end of each event the levels it changed.

    It is one function, because references to dictionaries are counted at every call, which takes longer than
    to follow an order.

    Parameters
    ----------
    heads
        `RAW` [n], the records as rows.
    records
        `ORDER` [n].
    resting, levels, told, changed
        As in `Orders`, which it takes longer to pass; updated.

    Returns
    -------
    rows
        `RAW` [m].
    problems
        `PROBLEM` [p].
    """
    out = np.empty(4 * len(heads) + len(changed) + 1, RAW)
    problems = np.empty(len(heads), PROBLEM)
    count, wrong = 0, 0
    for place in range(len(heads)):
        head, record = heads[place], records[place]
        action, number, code = record.action, record.order, -1
        if action == TRADE:
            out[count] = head
            count += 1
        elif action == CLEAR:
            resting.clear()
            levels.clear()
            told.clear()
            changed.clear()
            out[count] = head
            out[count].side, out[count].price, out[count].size = BUY, 0, 0
            count += 1
        elif action in (ADD, MODIFY):
            if number in resting:
                code = DUPLICATE if action == ADD else code
                old = resting[number]
                _shift(levels, changed, old.side, old.price, -old.size)
            resting[number] = Resting(np.int64(record.side), record.price, record.size)
            out[count] = head
            out[count].kind = kinds.ADD if action == ADD else kinds.MODIFY
            out[count].id = number
            count += 1
            _shift(levels, changed, np.int64(record.side), record.price, record.size)
        elif action == CANCEL:
            if number not in resting:
                code = UNKNOWN
            else:
                old = resting[number]
                code = TOO_MUCH if record.size > old.size else code
                gone = min(old.size, record.size)
                out[count] = head
                out[count].kind, out[count].id = kinds.CANCEL, number
                out[count].side, out[count].price, out[count].size = old.side, old.price, gone
                count += 1
                _shift(levels, changed, old.side, old.price, -gone)
                if gone == old.size:
                    resting.pop(number)
                else:
                    resting[number] = Resting(old.side, old.price, old.size - gone)
        elif action == FILL and number in resting:
            old = resting[number]
            out[count] = head
            out[count].kind, out[count].id = kinds.FILL, number
            out[count].side, out[count].price, out[count].size = old.side, old.price, record.size
            count += 1
        if code >= 0:
            problems[wrong].record, problems[wrong].code = place, code
            wrong += 1
        if record.flags & F_LAST:
            for key in changed:
                now = levels.get(key, 0)
                if now != told.get(key, 0):
                    out[count] = head
                    out[count].kind = SNAPSHOT if record.flags & F_SNAPSHOT else DEPTH
                    out[count].side = BUY if key & 1 else SELL
                    out[count].price, out[count].size = key >> 1, now
                    count += 1
                told[key] = now
                if now == 0:
                    told.pop(key)
                    if key in levels:
                        levels.pop(key)
            changed.clear()
    return out[:count].copy(), problems[:wrong].copy()


@njit(cache=True, nogil=True)
def _shift(levels, changed, side, price, size):
    """Add to the size of a level."""
    key = 2 * price + (1 if side == BUY else 0)
    levels[key] = levels.get(key, 0) + size
    changed[key] = 0
