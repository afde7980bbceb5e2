"""Several orders of ours a side in the queues of market `book`: `mmenv.market.book_orders`, level by level.

Each level has its own place. The nearest is met first: what an order of the others takes of it, those behind
do not get. Nothing else differs from one order a side, and one level gives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.actions.ladder import LADDER, between
from mmenv.engine.maths import D, I
from mmenv.engine.stage import at, inlined, over_lanes, stage
from mmenv.engine.state import LANES, LEVELS
from mmenv.market.book_flow import drift, flow, value
from mmenv.market.book_orders import fill, place, reach, surprise
from mmenv.market.book_stages import answer, take
from mmenv.market.book_stages import reset as reset_one
from mmenv.market.book_state import PARAMS, STATE

EACH = (2, LEVELS, LANES)
"""By side, asks first, level and lane."""

LEVEL_STATE = np.dtype(
    [
        ("paid", "f8", (2, LANES)),  # lots x ticks of the fills since the decision
        # Not first, or numba would take the record for one of a kind of STATE and say so.
        *((name, STATE[name]) for name in STATE.names or ()),
        ("wanted", "i4", EACH),  # ticks
        ("lots", "i4", EACH),  # asked for
        # Our orders: ticks, lots placed with, left and ahead.
        ("price", "i4", EACH),
        ("placed", "i4", EACH),
        ("left", "i4", EACH),
        ("ahead", "i4", EACH),
        ("was", "i4", (4, *EACH)),  # the same before the decision arrives
        ("taken", "i4", EACH),  # in the last micro-step
        # What the nearer ones lost in it to the market order, to the opposite touch, and to the market order
        # had it been an uninformed or an informed one.
        ("nearer", "i4", (4, LANES)),
        ("ladder", LADDER),  # the action's own
    ],
    align=True,
)

reset_book = over_lanes(reset_one.function)


@over_lanes
def want(s, w):
    """Take over where the levels of the decision stand."""
    for k in range(w.ladder.levels):
        for i in prange(s.count):
            mid = s.mid[i]
            w.wanted[0, k, i] = I(I(mid + w.ladder.ask_distance[k, i]) >> I(1))
            w.wanted[1, k, i] = I(I(mid - w.ladder.bid_distance[k, i]) >> I(1))
    for side in range(2):
        for i in prange(s.count):
            w.paid[side, i] = 0.0


@inlined
def late_and_lots(w, side, i):
    """Fills before the decision takes effect, and the lots of a side that it asked for."""
    return (w.bid_fill[i], w.bid_lots[i]) if side else (w.ask_fill[i], w.ask_lots[i])


@over_lanes
def arrive_side(w, p, count, side):
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
                w.placed[side, k, i] = w.was[1, side, j, i] if same else w.placed[side, k, i]
                w.left[side, k, i] = w.was[2, side, j, i] if same else w.left[side, k, i]
                w.ahead[side, k, i] = w.was[3, side, j, i] if same else w.ahead[side, k, i]
        for i in prange(count):
            depth, wanted = I(at(p.depth, i)), w.wanted[side, k, i]
            touch, queue = (w.bid[i], w.bid_queue[i]) if side else (w.ask[i], w.ask_queue[i])
            opposite = w.ask[i] if side else w.bid[i]
            order = wanted, w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i]
            order = place(order, wanted, w.lots[side, k, i], touch, queue, opposite, depth, direction)
            w.price[side, k, i], w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i] = order


@over_lanes
def arrive(w, p, count):
    """The quotes of the decision take effect, at the book as it stands."""
    for i in prange(count):
        w.ask_late[i], w.bid_late[i] = w.ask_fill[i], w.bid_fill[i]
    arrive_side(w, p, count, 0)
    arrive_side(w, p, count, 1)


@over_lanes
def orders_of_side(w, p, count, side):
    """What the last micro-step does to our orders of a side."""
    direction = I(-1) if side else I(1)
    for part in range(4):
        for i in prange(count):
            w.nearer[part, i] = I(0)
    for k in range(w.ladder.levels):
        for i in prange(count):
            depth, rounding = I(at(p.depth, i)), w.rounding[i]
            order = w.price[side, k, i], w.placed[side, k, i], w.left[side, k, i], w.ahead[side, k, i]
            if side:
                old, volume, cancel = (w.old_bid[i], w.old_bid_queue[i]), w.sell[i], w.bid_cancel[i]
                new = w.bid[i], w.bid_queue[i], w.ask[i], max(I(w.ask_queue[i] - w.nearer[1, i]), I(0))
                plain, informed, sweep = w.plain_sell[i], w.informed_sell[i], w.sweep_down[i]
            else:
                old, volume, cancel = (w.old_ask[i], w.old_ask_queue[i]), w.buy[i], w.ask_cancel[i]
                new = w.ask[i], w.ask_queue[i], w.bid[i], max(I(w.bid_queue[i] - w.nearer[1, i]), I(0))
                plain, informed, sweep = w.plain_buy[i], w.informed_buy[i], w.sweep_up[i]
            volume = I(volume - w.nearer[0, i])
            size, sweep = I(w.order_size[i] - w.nearer[2, i]), I(sweep - w.nearer[3, i])
            taken, ahead = fill(order, volume, cancel, rounding, old, new, depth, direction)
            met, _ = reach(order, volume, old, depth, direction)
            missed = surprise(order, volume, (plain, size, informed, sweep), old, depth, direction)
            by_plain, _ = reach(order, size, old, depth, direction)
            by_informed, _ = reach(order, sweep, old, depth, direction)
            w.nearer[0, i] += met
            w.nearer[1, i] += I(taken - met)
            w.nearer[2, i] += by_plain
            w.nearer[3, i] += by_informed
            w.left[side, k, i], w.ahead[side, k, i] = I(order[2] - taken), ahead
            w.taken[side, k, i] = taken
            if side:
                w.bid_fill[i] += taken
                w.bid_surprise[i] += missed
            else:
                w.ask_fill[i] += taken
                w.ask_surprise[i] += missed
        for i in prange(count):
            w.paid[side, i] += D(w.taken[side, k, i]) * D(w.price[side, k, i])


@over_lanes
def nearest(w, count):
    """The nearest order of each side that is left, as the one that the desk sees."""
    for i in prange(count):
        w.ask_price[i], w.ask_left[i], w.ask_ahead[i] = w.price[0, 0, i], I(0), I(0)
        w.bid_price[i], w.bid_left[i], w.bid_ahead[i] = w.price[1, 0, i], I(0), I(0)
    for back in range(w.ladder.levels):
        k = w.ladder.levels - 1 - back
        for i in prange(count):
            left = w.left[0, k, i]
            w.ask_price[i] = w.price[0, k, i] if left > 0 else w.ask_price[i]
            w.ask_ahead[i] = w.ahead[0, k, i] if left > 0 else w.ask_ahead[i]
            w.ask_left[i] = left if left > 0 else w.ask_left[i]
            left = w.left[1, k, i]
            w.bid_price[i] = w.price[1, k, i] if left > 0 else w.bid_price[i]
            w.bid_ahead[i] = w.ahead[1, k, i] if left > 0 else w.bid_ahead[i]
            w.bid_left[i] = left if left > 0 else w.bid_left[i]


@over_lanes
def pay(s, w):
    """Money of the fills, each at its own price."""
    for i in prange(s.count):
        mid = D(I(s.mid[i] - s.move[i]))
        s.ask_edge[i] = 2.0 * w.paid[0, i] - D(w.ask_fill[i]) * mid
        s.bid_edge[i] = D(w.bid_fill[i]) * mid - 2.0 * w.paid[1, i]


@stage(LEVEL_STATE, PARAMS)
def step(s, w, p, x):
    """As `mmenv.market.book_stages.step`."""
    count, latency = s.count, at(p.latency, 0)  # of all lanes
    take(s, w)
    want(s, w)
    drift(w, p, count)
    for k in range(at(p.substeps, 0)):
        if k == latency:
            arrive(w, p, count)
        flow(w, p, count)
        orders_of_side(w, p, count, 0)
        orders_of_side(w, p, count, 1)
        value(w, count)
    nearest(w, count)
    answer(s, w, p)
    pay(s, w)


@stage(LEVEL_STATE, PARAMS)
def reset(s, w, p, x):
    """As `mmenv.market.book_stages.reset`, without orders of ours."""
    for side in range(2):
        for k in range(LEVELS):
            for i in prange(s.count):
                w.left[side, k, i] = w.left[side, k, i] if s.done[i] == 0 else I(0)
    reset_book(s, w, p, x)
