"""`brownian`: Poisson market orders around an independent Brownian mid. Solvable: the test of correctness.

Source: Avellaneda and Stoikov (2008), Cartea and Jaimungal (2015), in discrete time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.maths import F, I, U, normal
from mmenv.engine.rng import philox
from mmenv.engine.stage import Stage, at, over_lanes, stage
from mmenv.engine.state import EMPTY
from mmenv.market.base import START_PRICE, Market, register
from mmenv.market.fills import market_order, match

PARAMS = np.dtype(
    [
        ("arrival", "f4"),  # chance of a market order per step and side
        ("reach", "f4"),  # mean reach of one beyond the mid, half-ticks
        ("deviation", "f4"),  # of the move, half-ticks
        ("start", "i4"),
    ],
    align=True,
)


@over_lanes
def trade(s, arrivals, reaches, deviations):
    """Market orders, then the move of the mid."""
    for i in prange(s.count):
        arrival, reach = at(arrivals, i), at(reaches, i)
        buy, sell, word0, word1 = philox(U(s.age[i]), s.episode[i], U(0), U(0), s.key0[i], s.key1[i])
        s.buy_lots[i], s.ask_reach[i] = market_order(buy, arrival, reach)
        s.sell_lots[i], s.bid_reach[i] = market_order(sell, arrival, reach)
        s.trades[i] = s.buy_lots[i] + s.sell_lots[i]
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = arrival, arrival, reach
        change = normal(word0, word1) * at(deviations, i)
        move = I(np.floor(change + F(0.5)))
        s.move[i] = move
        s.mid[i] += move
        s.noise_move[i] = F(move)


@stage(EMPTY, PARAMS)
def step(s, w, p, x):
    trade(s, p.arrival, p.reach, p.deviation)


@stage(EMPTY, PARAMS)
def reset(s, w, p, x):
    """Start at the same price; there is no book."""
    for i in prange(s.count):
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


@register
@dataclass(frozen=True, kw_only=True)
class Brownian(Market):
    """Buy and sell market orders arrive with chance 1 - exp(-arrival_rate x step_seconds), independently.

    One reaches a quote at distance d from the mid with chance exp(-fill_decay x d); the mid then moves by
    volatility x sqrt(step_seconds) x N(0, 1).
    """

    name = "brownian"
    varied: ClassVar[tuple[str, ...]] = ("arrival_rate", "fill_decay", "volatility")
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    arrival_rate: float = 0.5
    """lambda: market orders per second and side."""
    fill_decay: float = 1.0
    """kappa: per price unit."""
    volatility: float = 1.0
    """sigma: price units per square root of a second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "arrival_rate", 0.0, 1e3)
        require_number(self, "fill_decay", 1e-2, 1e2)
        require_number(self, "volatility", 0.0, 1e2)

    @property
    def noise_variance(self) -> float:
        return self.volatility**2 * self.step_seconds

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 300,
            "quote": {"max_half_spread": 8.0, "max_skew": 8.0, "max_distance": 8.0},
            "reward": {"inventory_penalty": 0.01, "terminal_penalty": 0.1},
        }

    def compiled(self) -> np.ndarray:
        unit = self.price_scale
        params = np.zeros(1, PARAMS)
        params["arrival"] = -math.expm1(-self.arrival_rate * self.step_seconds)
        params["reach"] = unit / self.fill_decay
        params["deviation"] = unit * self.volatility * math.sqrt(self.step_seconds)
        params["start"] = START_PRICE * unit
        return params
