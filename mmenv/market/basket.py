"""`basket`: several assets that one policy quotes at once, their mids driven by a common factor.

Orders on each asset are those of `brownian`, independent of all else. The mid of asset i moves in a step by

    volatility_i sqrt(step_seconds) (loading_i f + sqrt(1 - loading_i^2) e_i),     f, e_i ~ N(0, 1)

so that assets i and j are correlated by loading_i loading_j, and a position in one is a hedge of the other.
The penalty is that of the whole: inventory_penalty q' Sigma q per second, Sigma the covariance of the mids'
moves in a second and q the positions.

Sources: Gueant (2017), "Optimal market making", section 5; Bergault, Evangelista, Gueant and Vieira (2021),
"Closed-form approximations in multi-asset market making".

An environment of n assets is n lanes of the compiled step (`mmenv.desk.basket`). Each draws its own orders
and noise by its own key, and the factor by that of the environment, which it computes from its own.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require, require_number
from mmenv.engine.maths import F, I, U, normal
from mmenv.engine.memory import aligned_zeros
from mmenv.engine.rng import environment_key, philox
from mmenv.engine.stage import Call, Stage, at, stage
from mmenv.engine.state import EMPTY, LANES, by_lane
from mmenv.market.base import START_PRICE, Market, MarketStages, register
from mmenv.market.fills import market_order, match
from mmenv.market.together import Together

Array = np.ndarray

MOST = 8
"""Most assets of a basket."""

PARAMS = np.dtype(
    [
        ("arrival", "f4"),  # chance of a market order per step and side
        ("reach", "f4"),  # mean reach of one beyond the mid, half-ticks
        ("common", "f4"),  # of the move, half-ticks: what the factor moves
        ("own", "f4"),  # and what moves this asset alone
        ("start", "i4"),
        ("asset", "i4"),  # its number in the environment
    ],
    align=True,
)


@stage(EMPTY, PARAMS)
def step(s, w, p, x):
    """Market orders, then the moves of the mids: the factor is the same in all lanes of an environment."""
    for i in prange(s.count):
        arrival, reach = at(p.arrival, i), at(p.reach, i)
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        buy, sell, word0, word1 = philox(age, episode, U(0), U(0), key0, key1)
        s.buy_lots[i], s.ask_reach[i] = market_order(buy, arrival, reach)
        s.sell_lots[i], s.bid_reach[i] = market_order(sell, arrival, reach)
        s.trades[i] = s.buy_lots[i] + s.sell_lots[i]
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = arrival, arrival, reach
        s.noise_move[i] = normal(word0, word1) * at(p.own, i)
    for i in prange(s.count):
        age, episode, key0 = U(s.age[i]), s.episode[i], s.key0[i]
        shared = environment_key(s.key1[i], at(p.asset, i))
        word0, word1, _, _ = philox(age, episode, U(1), U(0), key0, shared)
        change = normal(word0, word1) * at(p.common, i) + s.noise_move[i]
        move = I(np.floor(change + F(0.5)))
        s.move[i] = move
        s.mid[i] += move
        s.noise_move[i] = F(move)


@stage(EMPTY, PARAMS)
def reset(s, w, p, x):
    """All start at the same price; there is no book."""
    for i in prange(s.count):
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


NUMBERS = {
    "arrival_rates": (0.0, 1e3),
    "fill_decays": (1e-2, 1e2),
    "volatilities": (1e-3, 1e2),
    "loadings": (-1.0, 1.0),
}
"""Parameters that each asset has, with their ranges."""


@register
@dataclass(frozen=True, kw_only=True)
class Basket(Market):
    """Assets with independent market orders and correlated mids, quoted together: `brownian` several times.

    The first of the two that are the default is liquid, the second is not, and moves more: it is best held
    against a position in the first. Of each parameter there is one number for each asset; fewer repeat.
    """

    name = "basket"
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    count: int = 2
    """How many assets there are."""
    arrival_rates: float | tuple[float, ...] = (1.0, 0.2)
    """lambda: market orders per second and side."""
    fill_decays: float | tuple[float, ...] = (1.5, 1.0)
    """kappa: a market order reaches a quote at distance d with chance exp(-kappa d)."""
    volatilities: float | tuple[float, ...] = (1.0, 1.5)
    """sigma: price units per square root of a second."""
    loadings: float | tuple[float, ...] = 0.95
    """Correlation of the mid's move with the factor; that of two assets is the product of theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "count", 2, MOST, integer=True)
        for name, (low, high) in NUMBERS.items():
            given = getattr(self, name)
            value = tuple(given) if isinstance(given, list | tuple) else (given,)
            good = 1 <= len(value) <= self.count and all(
                isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= high for x in value
            )
            allowed = f"1 to {self.count} numbers from {low:g} to {high:g}, one for each asset or fewer"
            require(good, "Basket", name, given, allowed)
            object.__setattr__(self, name, tuple(value[k % len(value)] for k in range(self.count)))

    def each(self, name: str) -> Array:
        """A parameter of every asset, float64 (count,)."""
        return np.array(getattr(self, name), float)

    @property
    def quoted(self) -> int:
        return self.count

    @property
    def exposures(self) -> Array:
        """beta: what one standard deviation of the factor moves each mid, (count,), price units per square
        root of a second."""
        return self.each("volatilities") * self.each("loadings")

    @property
    def own_variances(self) -> Array:
        """Variance of the moves in a second that are an asset's own, (count,), price units^2."""
        return self.each("volatilities") ** 2 * (1 - self.each("loadings") ** 2)

    @property
    def covariance(self) -> Array:
        """Sigma: covariance of the moves of the mids in a second, (count, count), price units^2."""
        return np.outer(self.exposures, self.exposures) + np.diag(self.own_variances)

    @property
    def factor_weights(self) -> Array:
        """What to weigh the moves of a second with for the best estimate of the factor's, (count,), per price
        unit: beta' Sigma^-1, by Sherman and Morrison. Moves that tell the factor exactly stand alone."""
        own = self.own_variances
        exact = own == 0
        if exact.any():
            told = np.where(exact, self.exposures, 0.0)
            return told / np.sum(told**2)
        precision = self.exposures / own
        return precision / (1 + np.sum(self.exposures * precision))

    @property
    def together(self) -> Together:
        return Together(self.covariance, self.exposures, self.factor_weights, np.ones(self.count))

    @property
    def lanes(self) -> BasketLanes:
        return BasketLanes(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 300,
            "quote": {"max_half_spread": 4.0, "max_skew": 4.0, "max_distance": 4.0},
            "risk": {"position_limit": 3},
            "reward": {"inventory_penalty": 0.2, "terminal_penalty": 1.0},
            "features": ("tape", "inventory", "clock"),
        }

    def compiled(self) -> Array:
        """A record for each asset."""
        unit, root = self.price_scale, math.sqrt(self.step_seconds)
        loadings, deviations = self.each("loadings"), unit * root * self.each("volatilities")
        params = np.zeros(self.count, PARAMS)
        params["arrival"] = -np.expm1(-self.each("arrival_rates") * self.step_seconds)
        params["reach"] = unit / self.each("fill_decays")
        params["common"] = deviations * loadings
        params["own"] = deviations * np.sqrt(1 - loadings**2)
        params["start"] = START_PRICE * unit
        params["asset"] = np.arange(self.count)
        return params


@dataclass(frozen=True, kw_only=True)
class BasketLanes(Basket):
    """The lanes of `Basket`: lane i is asset i modulo `count` of environment i // `count`."""

    @property
    def quoted(self) -> int:
        return 1

    def stages(self, blocks: int, lanes_differ: bool = False, levels: bool = False) -> MarketStages:
        compiled = self.compiled()
        lanes = compiled[np.arange(blocks * LANES) % self.count].reshape(blocks, LANES)
        params = aligned_zeros(blocks, by_lane(PARAMS))
        for name in PARAMS.names or ():
            params[name] = lanes[name]
        nothing = np.zeros(1, EMPTY)
        step, reset = (
            [Call(stage.by_lane, nothing, params) for stage in some]
            for some in (self.sequence, self.on_reset)
        )
        return MarketStages(step, reset, None, None)
