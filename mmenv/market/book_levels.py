"""Several orders of ours a side in the queues of market `book`: `mmenv.market.book_orders`, level by level.

Each level has its own place. The nearest is met first: what an order of the others takes of it, those behind
do not get. Nothing else differs from one order a side, and one level gives the same bytes: all stages but
those of our orders are those of `mmenv.market.book_stages`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.actions.ladder import LADDER, between
from mmenv.engine.maths import D, I
from mmenv.engine.stage import at, inlined, over_lanes, stage
from mmenv.engine.state import LANES, LEVELS, STANDING
from mmenv.market.book_orders import either, fill, front, place, reach, surprise
from mmenv.market.book_state import PARAMS, STATE

EACH = (2, LEVELS, LANES)
"""By side, asks first, level and lane."""

LEVEL_STATE = np.dtype(
    [
        ("book", STATE),  # what the stages that know no levels work on
        ("paid", "f8", (2, LANES)),  # lots x ticks of the fills since the decision
        ("wanted", "i4", EACH),  # ticks
        ("lots", "i4", EACH),  # asked for
        # Our orders: ticks, lots placed with, left and ahead, and left when their fills were last counted.
        ("price", "i4", EACH),
        ("placed", "i4", EACH),
        ("left", "i4", EACH),
        ("ahead", "i4", EACH),
        ("counted", "i4", EACH),
        ("was", "i4", (4, *EACH)),  # price to ahead before the decision arrives
        # What the nearer ones lost in a micro-step to the market order, to the opposite touch, and to the
        # market order had it been an uninformed or an informed one.
        ("nearer", "i4", (4, LANES)),
        ("ladder", LADDER),  # the action's own
        ("age", "i4", EACH),  # decisions since an order first stood at this price
        ("standing", STANDING),
    ],
    align=True,
)


@stage(LEVEL_STATE, PARAMS)
def decision(s, w, p, x):
    """Take over where the levels of the decision stand."""
    for k in range(w.ladder.levels):
        for i in prange(s.count):
            mid = s.mid[i]
            w.wanted[0, k, i] = I(I(mid + w.ladder.ask_distance[k, i]) >> I(1))
            w.wanted[1, k, i] = I(I(mid - w.ladder.bid_distance[k, i]) >> I(1))
    for side in range(2):
        for i in prange(s.count):
            w.paid[side, i] = 0.0
        grow_older(w, s.count, side)


@over_lanes
def grow_older(w, count, side):
    """How long each order that is asked for has stood at its price; `was` is free until it arrives."""
    for k in range(w.ladder.levels):
        for i in prange(count):
            w.was[0, side, k, i] = either(w.left[side, k, i] > 0, I(w.age[side, k, i] + I(1)), I(0))
    for k in range(w.ladder.levels):
        for i in prange(count):
            w.age[side, k, i] = I(0)
        for j in range(w.ladder.levels):
            for i in prange(count):
                same = w.price[side, j, i] == w.wanted[side, k, i]
                w.age[side, k, i] = max(w.age[side, k, i], either(same, w.was[0, side, j, i], I(0)))


@over_lanes
def count_fills(w, count):
    """Add to fills and money what our orders lost since this was last asked: their prices stay meanwhile."""
    for k in range(w.ladder.levels):
        for i in prange(count):
            w.book.ask_fill[i] += I(w.counted[0, k, i] - w.left[0, k, i])
            w.book.bid_fill[i] += I(w.counted[1, k, i] - w.left[1, k, i])
        for side in range(2):
            for i in prange(count):
                lots, price = I(w.counted[side, k, i] - w.left[side, k, i]), w.price[side, k, i]
                w.paid[side, i] += D(lots) * D(price)
                w.counted[side, k, i] = w.left[side, k, i]


@inlined
def late_and_lots(w, side, i):
    """Fills before the decision takes effect, and the lots of a side that it asked for."""
    return (w.book.bid_fill[i], w.book.bid_lots[i]) if side else (w.book.ask_fill[i], w.book.ask_lots[i])


@over_lanes
def arrive(w, p, count, side):
    """The quotes of a side take effect, those at one tick as one order; one that stands keeps its place."""
    most, direction = w.ladder.levels, I(-1) if side else I(1)
    for k in range(most):
        for i in prange(count):
            late, lots = late_and_lots(w, side, i)
            room = max(I(lots - late), I(0))
            each = between(w.ladder.before[k, i], w.ladder.before[k + 1, i], room)
            w.lots[side, k, i] = each if room > 0 else I(0)
            w.was[0, side, k, i], w.was[1, side, k, i] = w.price[side, k, i], w.placed[side, k, i]
            w.was[2, side, k, i], w.was[3, side, k, i] = w.left[side, k, i], w.ahead[side, k, i]
    for k in range(1, most):
        for i in prange(count):
            joins = w.wanted[side, k, i] == w.wanted[side, k - 1, i]
            lots = w.lots[side, k - 1, i] if joins else I(0)
            w.lots[side, k, i] += lots
            w.lots[side, k - 1, i] -= lots
    for k in range(most):
        for i in prange(count):
            w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i] = I(0), I(0), I(0)
        for j in range(most):
            for i in prange(count):
                same = (w.was[0, side, j, i] == w.wanted[side, k, i]) & (w.was[2, side, j, i] > 0)
                w.placed[side, k, i] = either(same, w.was[1, side, j, i], w.placed[side, k, i])
                w.left[side, k, i] = either(same, w.was[2, side, j, i], w.left[side, k, i])
                w.ahead[side, k, i] = either(same, w.was[3, side, j, i], w.ahead[side, k, i])
        for i in prange(count):
            depth, wanted, b = I(at(p.depth, i)), w.wanted[side, k, i], w.book
            touch, queue = (b.bid[i], b.bid_queue[i]) if side else (b.ask[i], b.ask_queue[i])
            opposite = b.ask[i] if side else b.bid[i]
            order = wanted, w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i]
            order = place(order, wanted, w.lots[side, k, i], touch, queue, opposite, depth, direction)
            w.price[side, k, i], w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i] = order
            w.counted[side, k, i] = order[2]


@stage(LEVEL_STATE, PARAMS)
def arrival(s, w, p, x):
    """Our quotes of this decision reach the book as it stands."""
    count_fills(w, s.count)
    for i in prange(s.count):
        w.book.ask_late[i], w.book.bid_late[i] = w.book.ask_fill[i], w.book.bid_fill[i]
    arrive(w, p, s.count, 0)
    arrive(w, p, s.count, 1)


@over_lanes
def orders(w, p, count, side):
    """What the last micro-step does to our orders of a side."""
    direction = I(-1) if side else I(1)
    for part in range(4):
        for i in prange(count):
            w.nearer[part, i] = I(0)
    for k in range(w.ladder.levels):
        for i in prange(count):
            depth, rounding, b = I(at(p.depth, i)), w.book.rounding[i], w.book
            met, crossed, by_plain, by_informed = (
                w.nearer[0, i], w.nearer[1, i], w.nearer[2, i], w.nearer[3, i]
            )  # fmt: skip
            order = w.price[side, k, i], w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i]
            if side:
                old, volume, cancel = (b.old_bid[i], b.old_bid_queue[i]), b.sell[i], b.bid_cancel[i]
                new = b.bid[i], b.bid_queue[i], b.ask[i], max(I(b.ask_queue[i] - crossed), I(0))
                plain, informed, sweep = b.plain_sell[i], b.informed_sell[i], b.sweep_down[i]
            else:
                old, volume, cancel = (b.old_ask[i], b.old_ask_queue[i]), b.buy[i], b.ask_cancel[i]
                new = b.ask[i], b.ask_queue[i], b.bid[i], max(I(b.bid_queue[i] - crossed), I(0))
                plain, informed, sweep = b.plain_buy[i], b.informed_buy[i], b.sweep_up[i]
            volume = I(volume - met)
            size, sweep = I(b.order_size[i] - by_plain), I(sweep - by_informed)
            before = front(order, old, depth, direction)
            taken, ahead = fill(order, before, volume, cancel, rounding, old, new, direction)
            missed = surprise(order, before, volume, (plain, size, informed, sweep))
            now = reach(order, before, volume)
            w.nearer[0, i] = I(met + now)
            w.nearer[1, i] = I(crossed + I(taken - now))
            w.nearer[2, i] = I(by_plain + reach(order, before, size))
            w.nearer[3, i] = I(by_informed + reach(order, before, sweep))
            w.left[side, k, i], w.ahead[side, k, i] = I(order[2] - taken), ahead
            if side:
                b.bid_surprise[i] += missed
            else:
                b.ask_surprise[i] += missed


@stage(LEVEL_STATE, PARAMS)
def ours(s, w, p, x):
    """What the micro-step does to our orders."""
    orders(w, p, s.count, 0)
    orders(w, p, s.count, 1)


@stage(LEVEL_STATE, PARAMS)
def nearest(s, w, p, x):
    """Fills, our orders that are left, and the nearest of each side as the one that the book knows."""
    count_fills(w, s.count)
    stand(w, s.count, 0)
    stand(w, s.count, 1)
    for i in prange(s.count):
        o = w.standing
        w.book.ask_price[i], w.book.ask_left[i] = I(o.price[0, 0, i] >> I(1)), o.lots[0, 0, i]
        w.book.ask_ahead[i] = o.ahead[0, 0, i]
        w.book.bid_price[i], w.book.bid_left[i] = I(o.price[1, 0, i] >> I(1)), o.lots[1, 0, i]
        w.book.bid_ahead[i] = o.ahead[1, 0, i]


@over_lanes
def stand(w, count, side):
    """Our orders of a side that are left, the nearest first; the place of the first if there is none."""
    o, last = w.standing, w.ladder.levels - 1
    for i in prange(count):
        o.price[side, 0, i], o.ahead[side, 0, i] = I(I(2) * w.price[side, 0, i]), I(0)
    for k in range(last + 1):
        for i in prange(count):
            o.lots[side, k, i] = I(0)
    for k in range(last, -1, -1):
        # Those behind it make room.
        for j in range(last - k, 0, -1):
            for i in prange(count):
                left, price = w.left[side, k, i] > 0, o.price[side, j, i]
                o.price[side, j, i] = I(price + (I(o.price[side, j - 1, i] - price) if left else I(0)))
                o.lots[side, j, i] = either(left, o.lots[side, j - 1, i], o.lots[side, j, i])
                o.ahead[side, j, i] = either(left, o.ahead[side, j - 1, i], o.ahead[side, j, i])
                o.age[side, j, i] = either(left, o.age[side, j - 1, i], o.age[side, j, i])
        for i in prange(count):
            left, price = w.left[side, k, i] > 0, o.price[side, 0, i]
            o.price[side, 0, i] = I(price + (I(I(I(2) * w.price[side, k, i]) - price) if left else I(0)))
            o.lots[side, 0, i] = either(left, w.left[side, k, i], o.lots[side, 0, i])
            o.ahead[side, 0, i] = either(left, w.ahead[side, k, i], o.ahead[side, 0, i])
            o.age[side, 0, i] = either(left, w.age[side, k, i], o.age[side, 0, i])


@stage(LEVEL_STATE, PARAMS)
def payment(s, w, p, x):
    """Money of the fills, each at its own price, and how long the nearest orders have stood."""
    for i in prange(s.count):
        o = w.standing
        s.own_ask_age[i] = either(o.lots[0, 0, i] > 0, o.age[0, 0, i], s.own_ask_age[i])
        s.own_bid_age[i] = either(o.lots[1, 0, i] > 0, o.age[1, 0, i], s.own_bid_age[i])
    for i in prange(s.count):
        mid = D(I(s.mid[i] - s.move[i]))
        s.ask_edge[i] = 2.0 * w.paid[0, i] - D(w.book.ask_fill[i]) * mid
        s.bid_edge[i] = D(w.book.bid_fill[i]) * mid - 2.0 * w.paid[1, i]


@stage(LEVEL_STATE, PARAMS)
def reset(s, w, p, x):
    """No orders of ours, before the book's own reset."""
    for side in range(2):
        for k in range(LEVELS):
            for i in prange(s.count):
                goes_on, left, counted = s.done[i] == 0, w.left[side, k, i], w.counted[side, k, i]
                w.left[side, k, i] = left if goes_on else I(0)
                w.counted[side, k, i] = counted if goes_on else I(0)
