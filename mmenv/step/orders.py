"""Our orders in a market outside: where they stand and, by the cautious queue model, what is before them.

A venue tells what it knows between two decisions (`mmenv.venue.outcome.OUTCOME`), the same on tapes, on paper
and live. An order joins behind what is at the touch; trades of the other side shorten the queue before it,
and it is never longer than the queue is. Cancels before us are not seen: nobody is told of those. Only where
a tape has single orders is the place known (`follow_places`).

An order keeps its place while it is asked for by the rule of `mmenv.venue.working`: at its price, with the
lots it was placed with or those that are left. With any others it is a new one at the end of the queue."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import LANES

I = np.int32  # noqa: E741

PLACED = np.dtype([("ask", "i4", LANES), ("bid", "i4", LANES)])
"""Lots that our order of each side was placed with."""


@inlined
def place(order, wanted, lots, filled, touches, queues, taken, side):
    """Our order after an interval: (price, lots placed, lots left, lots ahead, age).

    `order` is the same before it, `wanted` and `lots` what was asked for, `touches` and `queues` best price
    and its lots on our side before and after, `taken` what the other side traded.
    """
    price, placed, left, ahead, age = order
    old_touch, touch = touches
    old_queue, queue = queues
    keeps = (left > 0) & (price == wanted) & (lots > 0) & ((lots == placed) | (lots == left))
    stood = left if keeps else lots
    behind = I(side * I(wanted - old_touch)) >= 0
    ahead = ahead if keeps else (old_queue if behind else I(0))
    ahead = max(I(ahead - taken), I(0)) if I(side * I(wanted - old_touch)) <= 0 else ahead
    distance = I(side * I(wanted - touch))
    ahead = min(ahead, queue) if distance == 0 else ahead
    ahead = ahead if distance >= 0 else I(0)
    age = I(age + I(1)) if keeps else I(0)
    return wanted, placed if keeps else lots, max(I(stood - filled), I(0)), ahead, age


@inlined
def follow_order(s, w, i, at, side, filled, touches, queues, taken, told, exact):
    """Take the order of a side, `at` 0 the ask and 1 the bid, over the interval that the market has just
    answered: (price, lots left, lots ahead, age).

    `touches`, `queues` and `taken` are those of `place`. Where it is `exact`, `told` is what the market says
    of the lots ahead, below 0 where it does not know: then an order has all of the queue before it.
    """
    before = I(s.mid[i] - s.move[i])
    ahead = queues[0] if exact and told < 0 else told
    if at == 0:
        order = s.own_ask[i], w.ask[i], s.own_ask_lots[i], ahead, s.own_ask_age[i]
        wanted, lots = I(before + s.ask_distance[i]), s.ask_lots[i]
    else:
        order = s.own_bid[i], w.bid[i], s.own_bid_lots[i], ahead, s.own_bid_age[i]
        wanted, lots = I(before - s.bid_distance[i]), s.bid_lots[i]
    price, placed, left, ahead, age = place(order, wanted, lots, filled, touches, queues, taken, side)
    if at == 0:
        w.ask[i] = placed
    else:
        w.bid[i] = placed
    return price, left, told if exact and told >= 0 else ahead, age


@inlined
def follow_both(s, w, i, follow_side, exact):
    """Take the orders of both sides of a lane over the interval that the market has just answered.

    `follow_side` does so for a side: `follow_order`, or another with its arguments and result.
    """
    mid, before = s.mid[i], I(s.mid[i] - s.move[i])
    half, old_half = I(s.spread[i] >> I(1)), I(s.old_spread[i] >> I(1))
    s.old_spread[i] = s.spread[i]
    touches, queues = (I(before + old_half), I(mid + half)), (s.old_ask_lots[i], s.best_ask_lots[i])
    told = s.own_ask_ahead[i]
    order = follow_side(s, w, i, 0, I(1), s.ask_fill[i], touches, queues, s.buy_lots[i], told, exact)
    s.own_ask[i], s.own_ask_lots[i], s.own_ask_ahead[i], s.own_ask_age[i] = order
    touches, queues = (I(before - old_half), I(mid - half)), (s.old_bid_lots[i], s.best_bid_lots[i])
    told = s.own_bid_ahead[i]
    order = follow_side(s, w, i, 1, I(-1), s.bid_fill[i], touches, queues, s.sell_lots[i], told, exact)
    s.own_bid[i], s.own_bid_lots[i], s.own_bid_ahead[i], s.own_bid_age[i] = order
    s.old_ask_lots[i], s.old_bid_lots[i] = s.best_ask_lots[i], s.best_bid_lots[i]


@stage(PLACED)
def follow(s, w, p, x):
    """Our orders, their places as the cautious queue model has them."""
    for i in prange(s.count):
        follow_both(s, w, i, follow_order, False)


@stage(PLACED)
def follow_places(s, w, p, x):
    """Our orders, their places as the market has put them in `own_ask_ahead` and `own_bid_ahead`."""
    for i in prange(s.count):
        follow_both(s, w, i, follow_order, True)
