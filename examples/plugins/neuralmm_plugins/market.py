"""A market: Poisson market orders around a mid that is drawn back to its start.

Source: Uhlenbeck and Ornstein (1930), in discrete time; orders as in `mmenv.market.brownian`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.maths import F, I, U, normal
from mmenv.engine.rng import philox
from mmenv.engine.stage import Stage, at, stage
from mmenv.engine.state import EMPTY
from mmenv.market.base import START_PRICE, Market, register
from mmenv.market.fills import market_order, match

PARAMS = np.dtype(
    [
        ("arrival", "f4"),  # chance of a market order per step and side
        ("reach", "f4"),  # mean reach of one beyond the mid, half-ticks
        ("deviation", "f4"),  # of the random part of the move, half-ticks
        ("pull", "f4"),  # share of the way back to the start that the mid goes in a step
        ("start", "i4"),
    ],
    align=True,
)


@stage(EMPTY, PARAMS)
def step(s, w, p, x):
    """Market orders, then the move of the mid."""
    for i in prange(s.count):
        arrival, reach = at(p.arrival, i), at(p.reach, i)
        buy, sell, word0, word1 = philox(U(s.age[i]), s.episode[i], U(0), U(0), s.key0[i], s.key1[i])
        s.buy_lots[i], s.ask_reach[i] = market_order(buy, arrival, reach)
        s.sell_lots[i], s.bid_reach[i] = market_order(sell, arrival, reach)
        s.trades[i] = s.buy_lots[i] + s.sell_lots[i]
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = arrival, arrival, reach
        noise = normal(word0, word1) * at(p.deviation, i)
        back = at(p.pull, i) * F(I(at(p.start, i) - s.mid[i]))
        move = I(np.floor(back + noise + F(0.5)))
        s.move[i] = move
        s.mid[i] += move
        s.noise_move[i] = noise


@stage(EMPTY, PARAMS)
def reset(s, w, p, x):
    """Start at the same price; there is no book."""
    for i in prange(s.count):
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


@register
@dataclass(frozen=True, kw_only=True)
class MeanReverting(Market):
    """In a step the mid goes the share 1 - exp(-reversion x step_seconds) of its way back to the start."""

    name = "mean-reverting"
    varied: ClassVar[tuple[str, ...]] = ("reversion", "volatility")
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    reversion: float = 0.05
    """Speed of the way back, per second."""
    volatility: float = 1.0
    """Price units per square root of a second."""
    arrival_rate: float = 0.5
    """Market orders per second and side."""
    fill_decay: float = 1.0
    """An order reaches a quote at distance d with chance exp(-fill_decay x d), d in price units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "reversion", 0.0, 1e2)
        require_number(self, "volatility", 0.0, 1e2)
        require_number(self, "arrival_rate", 0.0, 1e3)
        require_number(self, "fill_decay", 1e-2, 1e2)

    def compiled(self) -> np.ndarray:
        unit = self.price_scale
        params = np.zeros(1, PARAMS)
        params["arrival"] = -math.expm1(-self.arrival_rate * self.step_seconds)
        params["reach"] = unit / self.fill_decay
        params["deviation"] = unit * self.volatility * math.sqrt(self.step_seconds)
        params["pull"] = -math.expm1(-self.reversion * self.step_seconds)
        params["start"] = START_PRICE * unit
        return params
