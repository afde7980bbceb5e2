"""The compiled part of an import's second pass: rows on the grid, the book followed and uncrossed."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from mmenv.data.rows import ADD, BBO, BUY, CLEAR, DEPTH, ROW, SELL, TRADE, UNKNOWN_NS
from mmenv.data.spool import same_message

TOUCH: Final = np.dtype(
    [
        ("bid", "i8"),  # index of the best level in the window; -1 and its width where there is none
        ("ask", "i8"),
        ("message", "i8"),  # number of the message
        ("low_tick", "i8"),  # lowest and highest best tick of the day
        ("high_tick", "i8"),
        ("traded", "i8"),  # tick of the last trade, 0 before the first
        ("moved", "i8"),  # side of the last trade at another price than the one before
    ]
)

DAY_STATS: Final = np.dtype(
    [
        (name, "i8")
        for name in ("first_ns", "last_ns", "disorder_ns", "latency_ns", "trades", "orders", "newest_exch_ns")
    ]
)
"""What is measured of a day, named as in `TapeInfo`, and the latest exchange time so far."""


class Levels(NamedTuple):
    """The book being followed."""

    low_tick: int
    sizes: Any
    """int64 [2, width], bids first."""
    ages: Any
    """int64 [2, width], number of the message that set each level."""
    touch: Any
    """`TOUCH` [1]."""


SIDE_RULES: Final = ("leave-out", "tick", "quote")
"""What becomes of trades whose aggressor is unknown. "tick": a buy above the price before, a sell below it,
at the same price as the last change; "quote": a buy at the ask or nearer to it than to the bid, a sell at the
bid or nearer to that, and in the middle by the tick rule (Lee and Ready 1991)."""
LEAVE_OUT, _TICK, _QUOTE = range(len(SIDE_RULES))
# Not literals, for each of which numba would compile the functions that take them.
_UP, _DOWN = np.int64(1), np.int64(-1)


@njit(cache=True, nogil=True)
def in_units(raw, tick, lot, offset_ns):
    """`RAW` rows [n] on the grid as `ROW` rows, of which those that lie on it count, and how many do not.

    Local time stands for an unknown one of the exchange.
    """
    rows = np.empty(len(raw), ROW)
    off = 0
    for at in range(len(raw)):
        row, found = raw[at], rows[at]
        known = row.exch_ns != UNKNOWN_NS
        found.exch_ns = row.exch_ns if known else row.local_ns + offset_ns
        found.local_ns = row.local_ns
        found.kind, found.side, found.id = row.kind, row.side, row.id
        price, size = row.price // tick, row.size // lot
        found.price, found.size = price, size
        off += price * tick != row.price or size * lot != row.size
    return rows, off


@njit(cache=True, nogil=True)
def measure(rows, offset_ns, stats):
    """Take note of the times and kinds of `ROW` rows [n] in `DAY_STATS` [1]."""
    now = stats[0]
    for at in range(len(rows)):
        row = rows[at]
        now.newest_exch_ns = max(now.newest_exch_ns, row.exch_ns)
        now.disorder_ns = max(now.disorder_ns, now.newest_exch_ns - row.exch_ns)
        now.latency_ns = max(now.latency_ns, row.local_ns + offset_ns - row.exch_ns)
        if now.first_ns < 0:
            now.first_ns = row.local_ns
        now.last_ns = row.local_ns
        now.trades += row.kind == TRADE
        now.orders += row.kind >= ADD


@njit(cache=True, nogil=True)
def follow(rows, levels, side_rule):
    """Apply `ROW` rows [n] to the book and uncross it after each message.

    Trades without a side get one by the rule, an index into `SIDE_RULES`, where it has something to go by.

    Returns
    -------
    after
        Row [m] at the end of each message that crosses a level.
    removals
        `ROW` [m] that remove the older of the levels there.
    """
    low_tick, sizes, ages, touch = levels.low_tick, levels.sizes, levels.ages, levels.touch[0]
    width = sizes.shape[1]
    bid, ask, message = touch.bid, touch.ask, touch.message
    stale, count = np.empty((64, 3), np.int64), np.int64(0)
    for number in range(len(rows)):
        row = rows[number]
        if row.kind == TRADE:
            _take_side(row, touch, bid + low_tick if bid >= 0 else 0, ask + low_tick, ask < width, side_rule)
        if row.kind == TRADE or row.kind == BBO or row.kind >= ADD:
            continue
        if row.kind == CLEAR:
            sizes[:] = 0
            bid, ask = -1, width
            continue
        at = row.price - low_tick
        if 0 <= at < width:
            side = 0 if row.side == BUY else 1
            sizes[side, at], ages[side, at] = row.size, message
            if side == 0:
                bid = _best(sizes[0], bid, at, _DOWN)
            else:
                ask = _best(sizes[1], ask, at, _UP)
        elif row.size > 0 and (at >= width) == (row.side == BUY):
            # A bid above everything, or an ask below it: it crosses whatever is there.
            stale = _room(stale, count)
            stale[count, 0], stale[count, 1], stale[count, 2] = number, row.side, row.price
            count += 1
        if number + 1 < len(rows) and same_message(row, rows[number + 1]):
            continue
        message += 1
        while bid >= ask and bid >= 0 and ask < width:
            bid_is_older = ages[0, bid] < ages[1, ask]
            at = bid if bid_is_older else ask
            stale = _room(stale, count)
            stale[count, 0], stale[count, 1] = number, BUY if bid_is_older else SELL
            stale[count, 2] = at + low_tick
            count += 1
            if bid_is_older:
                sizes[0, at] = 0
                bid = _best(sizes[0], bid, at, _DOWN)
            else:
                sizes[1, at] = 0
                ask = _best(sizes[1], ask, at, _UP)
        if bid >= 0 and ask < width:
            touch.low_tick = min(touch.low_tick, bid + low_tick)
            touch.high_tick = max(touch.high_tick, ask + low_tick)
    touch.bid, touch.ask, touch.message = bid, ask, message
    return stale[:count, 0].copy(), _removals(rows, stale, count)


@njit(cache=True, nogil=True)
def _room(stale, count):
    """The array, or a copy twice as long where it is full."""
    if count < len(stale):
        return stale
    longer = np.empty((2 * count, stale.shape[1]), np.int64)
    for row in range(count):
        for column in range(stale.shape[1]):
            longer[row, column] = stale[row, column]
    return longer


@njit(cache=True, nogil=True)
def _take_side(trade, touch, bid, ask, has_ask, rule):
    """Give a trade the side that the rule says, if it has none; `bid` is 0 where there is none."""
    if touch.traded > 0 and trade.price != touch.traded:
        touch.moved = BUY if trade.price > touch.traded else SELL
    touch.traded = trade.price
    if trade.side != 0 or rule == LEAVE_OUT:
        return
    if rule == _QUOTE and bid > 0 and has_ask and 2 * trade.price != bid + ask:
        trade.side = BUY if 2 * trade.price > bid + ask else SELL
    else:
        trade.side = touch.moved


@njit(cache=True, nogil=True)
def _removals(rows, stale, count):
    """`ROW` [count] that empty levels, each at the time of a row."""
    removals = np.empty(count, ROW)
    for place in range(count):
        removal = removals[place]
        removals[place] = rows[stale[place, 0]]
        removal.kind, removal.size = DEPTH, 0
        removal.side, removal.price = stale[place, 1], stale[place, 2]
    return removals


@njit(cache=True, nogil=True)
def _best(sizes, best, changed, away):
    """Best index of one side after level `changed` was set; `away` points from the mid into that side."""
    if sizes[changed] > 0:
        return changed if (best - changed) * away > 0 else best
    if changed == best:
        while 0 <= best < len(sizes) and sizes[best] == 0:
            best += away
    return best
