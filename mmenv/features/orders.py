"""Orders: our own working orders, without which no policy can know what its place in a queue is worth.

What is shown is known at the decision: the price and what is left from what the venue told us, the lots ahead
by the queue model of the market or the replay. Where an action has several orders a side, each has entries of
its own, counted from the nearest that is left.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import STANDING, TILE
from mmenv.features.base import Feature, Group, register, rows

F = np.float32
I = np.int32  # noqa: E741


def entries(side: str, number: int = 1) -> tuple[Feature, ...]:
    """The entries of an order of one side, "ask" or "bid": the nearest, or that of this number after it."""
    name, ours = (side, f"our {side}") if number == 1 else (f"{side}_{number}", f"our {side} {number}")
    return (
        Feature(f"{name}_order_distance", -10, 10, f"{ours} behind the touch, ticks (0: at it, or none)"),
        Feature(f"{name}_order_lots", 0, 1, f"lots left of {ours} over order size (0: none)"),
        Feature(f"{name}_order_ahead", 0, 10, f"lots ahead of {ours} over the queue at the touch"),
        Feature(f"{name}_order_age", 0, 10, f"decisions since {ours} was placed, hundreds"),
    )


FEATURES = (*entries("ask"), *entries("bid"))


EACH = len(FEATURES) // 2
"""Entries of an order."""


def further(k: int) -> tuple[Feature, ...]:
    """The entries of the k-th order of each side."""
    return (*entries("ask", k), *entries("bid", k))


@inlined
def shown(order, behind, queue, per_order):
    """The entries of an order (lots left, lots ahead, age) so many half-ticks behind the touch."""
    lots, ahead, age = order
    works = lots > 0
    distance, place = F(behind) * F(0.5), F(ahead) / F(max(queue, I(1)))
    return (
        min(max(distance, F(-10)), F(10)) if works else F(0),
        F(lots) * per_order,
        min(place, F(10)) if works else F(0),
        min(F(age) * F(0.01), F(10)) if works else F(0),
    )


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    per_order = F(1) / F(p.order_lots)
    for i in prange(s.count):
        behind = I(s.own_ask[i] - I(I(s.mid[i]) + (s.spread[i] >> I(1))))
        order = s.own_ask_lots[i], s.own_ask_ahead[i], s.own_ask_age[i]
        distance, lots, ahead, age = shown(order, behind, s.best_ask_lots[i], per_order)
        x.ask_order_distance[i], x.ask_order_lots[i] = distance, lots
        x.ask_order_ahead[i], x.ask_order_age[i] = ahead, age
    for i in prange(s.count):
        behind = I(I(I(s.mid[i]) - (s.spread[i] >> I(1))) - s.own_bid[i])
        order = s.own_bid_lots[i], s.own_bid_ahead[i], s.own_bid_age[i]
        distance, lots, ahead, age = shown(order, behind, s.best_bid_lots[i], per_order)
        x.bid_order_distance[i], x.bid_order_lots[i] = distance, lots
        x.bid_order_ahead[i], x.bid_order_age[i] = ahead, age


@stage(STANDING, out=TILE)
def observe_further(s, w, p, x):
    """The orders behind the nearest; at the start of an episode there are none."""
    per_order = F(1) / F(p.order_lots)
    for k in range(1, w.most):
        for side in range(2):
            row, direction = np.uint64(EACH * (2 * k - 2 + side)), I(-1) if side else I(1)
            for i in prange(s.count):
                touch = I(s.mid[i] + I(direction * I(s.spread[i] >> I(1))))
                queue = s.best_bid_lots[i] if side else s.best_ask_lots[i]
                left = w.lots[side, k, i] if s.age[i] > 0 else I(0)
                order = left, w.ahead[side, k, i], w.age[side, k, i]
                behind = I(direction * I(w.price[side, k, i] - touch))
                distance, lots, ahead, age = shown(order, behind, queue, per_order)
                x.rows[row, i], x.rows[row + np.uint64(1), i] = distance, lots
                x.rows[row + np.uint64(2), i], x.rows[row + np.uint64(3), i] = ahead, age


register(
    Group(
        name="orders",
        features=FEATURES,
        observe=observe,
        further=further,
        observe_further=observe_further,
    )
)
