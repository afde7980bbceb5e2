"""Matching where single orders are known: our order has its exact place, first in, first out.

The rules, as of an order that cannot move the market; arrival and expiry are those of `mmenv.venue.matcher`:

- What stands at our price when we arrive is before us, what comes later is behind us. What an order before us
  loses, cancelled or executed, moves us up; what one behind us loses does not.
- Where an order behind us is executed, or one at a price beyond ours, we would have been first: the execution
  fills us instead, as many lots as it has.
- A hidden execution beyond our price, or at our price when nothing visible is before us, fills us alike: what
  is hidden gives way to what is shown.
- A level that comes to stand at or beyond our price, from the other side, fills all that is left of us.

hftbacktest 2.4 fills nothing but whole orders here, lets hidden executions pass, and leaves an order of ours
that stands before the touch unfilled when the touch behind it is executed. `as_hftbacktest` does the last two
as well, for comparison (`benchmarks.crosscheck`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mmenv.data.events import BUY_FLAG
from mmenv.data.rows import ADD, BUY, CANCEL, CLEAR, FILL, MODIFY, TRADE
from mmenv.venue.matcher import clear, cross, fill, put
from mmenv.venue.outcome import count_trade


@njit(cache=True, nogil=True)
def apply_order(book, event, as_hftbacktest):
    """An EVENT of a tape of single orders reaches the exchange: an `OrderBook`."""
    kind, tick, time_ns = event.ev & 0xFF, int(event.px), event.exch_ts
    side = BUY if event.ev & BUY_FLAG else -BUY
    if kind == FILL:
        _execute(book, side, tick, int(event.qty), event.ival, time_ns, as_hftbacktest)
    elif kind == TRADE:
        if event.fval > 0 and not as_hftbacktest:
            # Whatever came before us and is still there would have been met first.
            _execute(book, -side, tick, int(event.qty), np.int64(-1), time_ns, False)
    elif kind == CLEAR:
        clear(book)
    else:
        became_best = change_level(book, event)
        if kind == ADD:
            book.arrivals[0] = event.ival
            if became_best:
                cross(book, side, tick, time_ns)
        else:
            _move_up(book, side, tick, int(event.fval), event.ival)


@njit(cache=True, nogil=True)
def change_level(levels, event):
    """What an ADD, MODIFY or CANCEL does to its level; whether that became the best of its side."""
    kind, tick = event.ev & 0xFF, int(event.px)
    side = BUY if event.ev & BUY_FLAG else -BUY
    at = tick - levels.low_tick
    if kind not in (ADD, MODIFY, CANCEL) or not 0 <= at < levels.sizes.shape[1]:
        return False
    lots = levels.sizes[0 if side == BUY else 1, at] + (event.fval if kind == ADD else -event.fval)
    return put(levels, side, tick, max(lots, 0.0))[1]


@njit(cache=True, nogil=True)
def see_order(levels, event, outcome):
    """An EVENT of a tape of single orders reaches us: `Levels`, and the outcome of the interval."""
    kind = event.ev & 0xFF
    if kind == TRADE:
        count_trade(outcome, (event.ev & BUY_FLAG) != 0, int(event.px), int(event.qty))
    elif kind == CLEAR:
        clear(levels)
    else:
        change_level(levels, event)


@njit(cache=True, nogil=True)
def _move_up(book, side, tick, lots, arrival):
    """An order of others loses lots."""
    for place in range(book.resting[-1]):
        order = book.orders[book.resting[place]]
        if order.side == side and order.tick == tick and arrival <= order.place:
            order.ahead = max(order.ahead - lots, 0.0)


@njit(cache=True, nogil=True)
def _execute(book, side, tick, lots, arrival, time_ns, as_hftbacktest):
    """Lots of a resting order are executed; `arrival` -1: of a hidden one."""
    place = 0
    best = book.best[0 if side == BUY else 1]
    while place < book.resting[-1]:
        order = book.orders[book.resting[place]]
        beyond = (order.tick - tick) * side
        first = order.ahead <= 0 if arrival < 0 else arrival > order.place
        meets = order.side == side and (beyond > 0 or (beyond == 0 and first))
        if as_hftbacktest and beyond > 0 and (best - order.tick) * side < 0:
            meets = False
        done = False
        if meets and (lots > 0 or not book.partial_fills):
            filled = min(lots, order.left) if book.partial_fills else order.left
            lots -= filled
            done = fill(book, place, filled, time_ns)
        place += not done
