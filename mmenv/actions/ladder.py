"""Several levels a side: where the nearest stands, how far apart they are, and how the lots lie on them.

    distance of level i = distance of the nearest + i x step,   i = 0 ... levels - 1, at most max_distance
    lots of levels 0 to i = order_lots x share of levels 0 to i, rounded
    share of level i ~ x^(a-1) (1-x)^(b-1)

The nearest stands where `spread-skew` would quote; each side has a step of its own, from 0 to `max_step`. The
lots follow the density of a beta distribution at the middle x of the level's part of (0, 1): equal at a = b =
1, near at a < b, far at a > b, in the middle where both are large. a and b go from 1/4 to 4 and are the same
for both sides.

Source of the scaled beta: Jerome, Sanchez-Betancourt, Savani and Herdegen (2022), "Model-based gym
environments for limit order book trading". It needs a market in which an order reaches so far beyond the
mid (`mmenv.market.fills`), or one outside. Where limits cut a side, its nearest levels keep their lots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange

from mmenv.actions.base import Entry, Further, register
from mmenv.actions.spread_skew import SpreadSkew, outward
from mmenv.checks import require, require_number
from mmenv.engine.maths import exp
from mmenv.engine.memory import aligned_zeros
from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import LANES, LEVELS

F = np.float32
D = np.float64
I = np.int32  # noqa: E741

STEEPEST = math.log(4.0)
"""Logarithm of the greatest shape."""

LADDER = np.dtype(
    [
        ("ask_distance", "i4", (LEVELS, LANES)),  # half-ticks from the mid
        ("bid_distance", "i4", (LEVELS, LANES)),
        ("before", "i4", (LEVELS + 1, LANES)),  # lots of a side on the levels before this one
        ("weight", "f4", (LEVELS, LANES)),  # the density at the levels up to this one
        ("near_power", "f4", LANES),  # a - 1
        ("far_power", "f4", LANES),  # b - 1
        ("near", "f4", LEVELS),  # log of x at each level
        ("far", "f4", LEVELS),  # log of 1 - x
        ("levels", "i4"),
        ("max_step", "f4"),  # half-ticks
        ("max_distance", "f4"),
        ("padding", "i4", 13),  # so that vectors of lanes do not lie across cache lines
    ],
    align=True,
)


@inlined
def shape(number):
    """The shape that a number in [-1, 1] stands for."""
    return exp(min(max(number, F(-1)), F(1)) * F(STEEPEST))


@inlined
def infinite(number):
    """1 where a number is not finite, else 0."""
    return I(0) if abs(number) < F(np.inf) else I(1)


# Loops over levels are around those over lanes: the compiler makes vectors of innermost loops alone.
@stage(LADDER)
def climb(s, w, p, x):
    """Distances and lots of the levels; nothing is quoted where a number is not finite."""
    order_lots, levels, max_step, max_distance = F(p.order_lots), w.levels, w.max_step, w.max_distance
    last = levels - 1
    for i in prange(s.count):
        bad = infinite(s.action[2, i]) + infinite(s.action[3, i])
        bad += infinite(s.action[4, i]) + infinite(s.action[5, i])
        s.ask_lots[i] = s.ask_lots[i] if bad == 0 else I(0)
        s.bid_lots[i] = s.bid_lots[i] if bad == 0 else I(0)
        w.ask_distance[0, i] = s.ask_distance[i]
        w.bid_distance[0, i] = s.bid_distance[i]
        w.near_power[i] = shape(s.action[4, i]) - F(1)
        w.far_power[i] = shape(s.action[5, i]) - F(1)
        w.weight[0, i] = F(0)
    for k in range(levels):
        near, far, behind = w.near[k], w.far[k], max(k - 1, 0)
        for i in prange(s.count):
            w.weight[k, i] = w.weight[behind, i] + exp(w.near_power[i] * near + w.far_power[i] * far)
    for k in range(levels):
        for i in prange(s.count):
            w.before[k + 1, i] = I(order_lots * (w.weight[k, i] / w.weight[last, i]) + F(0.5))
    for k in range(1, levels):
        for i in prange(s.count):
            a2, a3 = s.action[2, i], s.action[3, i]
            ask_step = (min(max(a2, F(-1)), F(1)) + F(1)) * F(0.5) * max_step
            bid_step = (min(max(a3, F(-1)), F(1)) + F(1)) * F(0.5) * max_step
            mid, ask, bid = s.mid[i], F(s.ask_distance[i]), F(s.bid_distance[i])
            w.ask_distance[k, i] = outward(min(ask + F(k) * ask_step, max(max_distance, ask)), mid, I(1))
            w.bid_distance[k, i] = outward(min(bid + F(k) * bid_step, max(max_distance, bid)), mid, I(-1))


@inlined
def between(before, after, left):
    """Lots of a level, from those `before` it to those `after` it, of which `left` may stand."""
    return max(I(min(after, left) - min(before, left)), I(0))


@stage(LADDER)
def match(s, w, p, x):
    """Fill all levels that the orders of others have reached, in place of the nearest alone."""
    for i in prange(s.count):
        s.ask_fill[i], s.bid_fill[i] = I(0), I(0)
        s.ask_edge[i], s.bid_edge[i] = D(0), D(0)
    for k in range(w.levels):
        for i in prange(s.count):
            before, after = w.before[k, i], w.before[k + 1, i]
            ask, bid = between(before, after, s.ask_lots[i]), between(before, after, s.bid_lots[i])
            ask = ask if s.ask_reach[i] >= w.ask_distance[k, i] else I(0)
            bid = bid if s.bid_reach[i] >= w.bid_distance[k, i] else I(0)
            s.ask_fill[i] += ask
            s.bid_fill[i] += bid
            s.ask_edge[i] += D(ask) * D(w.ask_distance[k, i])
            s.bid_edge[i] += D(bid) * D(w.bid_distance[k, i])


@inlined
def expected(lots, chance, distance, mean_reach):
    """The mean of the lots filled that stand at a distance."""
    per_reach = F(-1) / max(mean_reach, F(1e-6))
    return F(lots) * chance * exp(max(F(distance) * per_reach, F(-80)))


@stage(LADDER)
def compare(s, w, p, x):
    """Surprises: the lots filled less the mean of each level."""
    for i in prange(s.count):
        s.ask_fill_surprise[i], s.bid_fill_surprise[i] = F(0), F(0)
    for k in range(w.levels):
        for i in prange(s.count):
            before, after, far = w.before[k, i], w.before[k + 1, i], s.mean_reach[i]
            ask, bid = between(before, after, s.ask_lots[i]), between(before, after, s.bid_lots[i])
            s.ask_fill_surprise[i] += expected(ask, s.buy_chance[i], w.ask_distance[k, i], far)
            s.bid_fill_surprise[i] += expected(bid, s.sell_chance[i], w.bid_distance[k, i], far)
    for i in prange(s.count):
        s.ask_fill_surprise[i] = F(s.ask_fill[i]) - s.ask_fill_surprise[i]
        s.bid_fill_surprise[i] = F(s.bid_fill[i]) - s.bid_fill_surprise[i]
        s.surprise_given[i] = I(1)


@register
@dataclass(frozen=True, kw_only=True)
class Ladder(SpreadSkew):
    """Levels behind those of `SpreadSkew`, `risk.order_lots` in all on a side; see `mmenv.actions.ladder`."""

    name = "ladder"
    by_reach = True
    entries = (
        *SpreadSkew.entries,
        Entry("ask_step", "between two asks, pu", "0", "`quote.max_step`"),
        Entry("bid_step", "between two bids, pu", "0", "`quote.max_step`"),
        Entry("near_shape", "shape a of the lots by level", "1/4", "4"),
        Entry("far_shape", "shape b of the lots by level", "1/4", "4"),
    )

    levels: int = 2
    """Levels of each side."""
    max_step: float = 8.0
    """The greatest distance between two levels, price units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "levels", 1, LEVELS, integer=True)
        require_number(self, "max_step", 1e-6, 1e4)
        require(
            self.requote_ticks == 0, "Ladder", "requote_ticks", self.requote_ticks, "0: levels move together"
        )

    @property
    def side_orders(self) -> int:
        return self.levels

    def further(self, price_scale: int, on_ticks: bool, blocks: int) -> Further:
        own = aligned_zeros(blocks, LADDER)
        own["levels"] = self.levels
        own["max_step"], own["max_distance"] = self.max_step * price_scale, self.max_distance * price_scale
        middle = (np.arange(LEVELS) + 0.5) / self.levels
        inside = middle < 1
        own["near"] = np.where(inside, np.log(middle), 0.0)
        own["far"] = np.log1p(-middle, where=inside, out=np.zeros(LEVELS))
        return Further([(climb, own)], [(match, own)], [(compare, own)], own)

    def to_action(
        self,
        ask_distance: np.ndarray,
        bid_distance: np.ndarray,
        ask_step: np.ndarray | float = 0.0,
        bid_step: np.ndarray | float = 0.0,
        near_shape: np.ndarray | float = 1.0,
        far_shape: np.ndarray | float = 1.0,
        **more: Any,
    ) -> np.ndarray:
        """The action, float32 (..., 6), whose nearest level quotes these distances (see
        `SpreadSkew.to_action`), with steps in price units and shapes; one price and equal lots by default."""
        quotes = super().to_action(ask_distance, bid_distance, **more)
        steps = (np.asarray(step, float) / self.max_step * 2 - 1 for step in (ask_step, bid_step))
        shapes = (np.log(np.asarray(one, float)) / STEEPEST for one in (near_shape, far_shape))
        numbers = [np.broadcast_to(np.clip(part, -1, 1), quotes.shape[:-1]) for part in (*steps, *shapes)]
        return np.concatenate([quotes, np.stack(numbers, axis=-1).astype(np.float32)], axis=-1)

    def to_levels(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of the asks and of the bids that actions, (n, A), ask for, price units, before rounding:
        (n, levels) each."""
        steps = (np.clip(actions[:, column], -1, 1) / 2 + 0.5 for column in (2, 3))
        ask, bid = (
            np.minimum(
                nearest[:, None] + np.arange(self.levels) * self.max_step * step[:, None],
                np.maximum(self.max_distance, nearest[:, None]),
            )
            for nearest, step in zip(self.to_distances(actions), steps, strict=True)
        )
        return ask, bid
