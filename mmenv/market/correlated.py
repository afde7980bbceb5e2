"""`correlated`: a quoted asset and observed ones, which a common factor reaches at different speeds.

Each asset i, the quoted one being 0, follows the factor with a geometric delay. With f(t) a standard normal
shock a step, beta the factor's volatility and v = 1 / (1 + lag) the asset's speed, its *gap*, the part of the
factor that has not reached it yet, and its move are

    gap(t) = (1 - v) (gap(t-1) + beta f(t))
    move(t) = v (gap(t-1) + beta f(t)) + noise x N(0, 1)

so that a shock arrives after `lag` steps in the mean, and an asset with a shorter lag leads one with a longer
one (price discovery as in Hasbrouck 1995; lead and lag as in Lo and MacKinlay 1990). The signed market volume
of an observed asset is a second view of the shock, flow(t) = rho f(t) + sqrt(1 - rho^2) N(0, 1).

Market orders on the quoted asset are those of `brownian`, independent of the factor: a fill says nothing, the
other assets do. All is linear and Gaussian, so the best forecast is Kalman's, and what it is worth is known:
`forecast`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require, require_number
from mmenv.engine.maths import F, I, U, normal
from mmenv.engine.rng import philox
from mmenv.engine.stage import Stage, at, stage
from mmenv.engine.state import ASSETS, LANES, per_lane
from mmenv.market.base import START_PRICE, Market, register
from mmenv.market.fills import market_order, match

Array = np.ndarray

STATE = np.dtype(
    [
        per_lane("shock", "f4"),  # of the factor, half-ticks
        ("gaps", "f4", (1 + ASSETS, LANES)),  # of the quoted asset and the observed ones, half-ticks
    ],
    align=True,
)

PARAMS = np.dtype(
    [
        ("arrival", "f4"),
        ("reach", "f4"),  # mean reach of a market order beyond the mid, half-ticks
        ("factor", "f4"),  # half-ticks
        ("noise", "f4"),
        ("speed", "f4"),
        ("per_unit", "f4"),  # price units in a half-tick
        ("observed_noise", "f4", (ASSETS,)),
        ("observed_speed", "f4", (ASSETS,)),
        ("flow", "f4", (ASSETS,)),
        ("flow_noise", "f4", (ASSETS,)),
        ("assets", "i4"),
        ("start", "i4"),
    ],
    align=True,
)


@stage(STATE, PARAMS)
def step(s, w, p, x):
    """Market orders as in `brownian`, the factor's shock, and the moves of all assets."""
    for i in prange(s.count):
        arrival, reach = at(p.arrival, i), at(p.reach, i)
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        buy, sell, word0, word1 = philox(age, episode, U(0), U(0), key0, key1)
        s.buy_lots[i], s.ask_reach[i] = market_order(buy, arrival, reach)
        s.sell_lots[i], s.bid_reach[i] = market_order(sell, arrival, reach)
        s.trades[i] = s.buy_lots[i] + s.sell_lots[i]
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = arrival, arrival, reach
        w.shock[i] = normal(word0, word1)
    for i in prange(s.count):
        factor, noise, speed, per_unit = at(p.factor, i), at(p.noise, i), at(p.speed, i), at(p.per_unit, i)
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        word0, word1, _, _ = philox(age, episode, U(1), U(0), key0, key1)
        expected = w.gaps[0, i] * speed
        reached = w.gaps[0, i] + factor * w.shock[i]
        move = I(np.floor(reached * speed + normal(word0, word1) * noise + F(0.5)))
        s.move[i] = move
        s.mid[i] += move
        s.noise_move[i] = F(move) - expected
        left = reached - reached * speed
        # The latent is the next move's mean, and what it was before the shock that of the latent itself.
        latent, shown = left * speed * per_unit, speed * per_unit * (F(1) - speed)
        mean, deviation = shown * w.gaps[0, i], shown * factor
        w.gaps[0, i] = left
        s.latent[i] = latent
        s.latent_drift[i] = latent - mean
        s.latent_square_drift[i] = latent * latent - mean * mean - deviation * deviation
    for k in range(at(p.assets, 0)):
        for i in prange(s.count):
            observed_speed, observed_noise = at(p.observed_speed[k], i), at(p.observed_noise[k], i)
            flow, flow_noise = at(p.flow[k], i), at(p.flow_noise[k], i)
            age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
            word0, word1, word2, word3 = philox(age, episode, U(2 + k), U(0), key0, key1)
            shock = w.shock[i]
            reached = w.gaps[1 + k, i] + at(p.factor, i) * shock
            move = reached * observed_speed + normal(word0, word1) * observed_noise
            s.asset_moves[k, i] = I(np.floor(move + F(0.5)))
            s.asset_flows[k, i] = flow * shock + flow_noise * normal(word2, word3)
            w.gaps[1 + k, i] = reached - reached * observed_speed


@stage(STATE, PARAMS)
def reset(s, w, p, x):
    """Start at the same price, with no gap anywhere."""
    for i in prange(s.count):
        fresh = s.done[i] != 0
        s.mid[i] = at(p.start, i) if fresh else s.mid[i]
        s.latent[i] = F(0) if fresh else s.latent[i]
    for k in range(1 + at(p.assets, 0)):
        for i in prange(s.count):
            w.gaps[k, i] = F(0) if s.done[i] != 0 else w.gaps[k, i]
    for k in range(at(p.assets, 0)):
        for i in prange(s.count):
            fresh = s.done[i] != 0
            s.asset_moves[k, i] = I(0) if fresh else s.asset_moves[k, i]
            s.asset_flows[k, i] = F(0) if fresh else s.asset_flows[k, i]


@register
@dataclass(frozen=True, kw_only=True)
class Correlated(Market):
    """A quoted asset that follows a common factor late, and observed assets that follow it sooner.

    Prices of all assets are in price units of the quoted one, scaled to its exposure to the factor. The three
    tuples have one entry for each observed asset, `mmenv.engine.state.ASSETS` at most. Feature group
    `observed` shows them.
    """

    name = "correlated"
    varied = ("arrival_rate", "fill_decay", "factor_volatility", "volatility", "lag")
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    arrival_rate: float = 0.5
    """lambda: market orders on the quoted asset per second and side."""
    fill_decay: float = 1.0
    """kappa: a market order reaches a quote at distance d with chance exp(-kappa d)."""
    factor_volatility: float = 0.8
    """beta: price units per square root of a second."""
    volatility: float = 0.6
    """What moves the quoted asset alone, price units per square root of a second."""
    lag: float = 4.0
    """Mean number of steps in which the factor reaches the quoted asset."""
    observed_lags: tuple[float, ...] = (0.0, 2.0)
    """The same of each observed asset."""
    observed_volatilities: tuple[float, ...] = (0.6, 0.6)
    """What moves each observed asset alone, price units per square root of a second."""
    observed_flows: tuple[float, ...] = (0.5, 0.5)
    """rho: correlation of each observed asset's signed market volume with the factor's shock of the step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "arrival_rate", 0.0, 1e3)
        require_number(self, "fill_decay", 1e-2, 1e2)
        require_number(self, "factor_volatility", 0.0, 1e2)
        require_number(self, "volatility", 1e-3, 1e2)
        require_number(self, "lag", 0.0, 1e4)
        for name, low, high in (
            ("observed_lags", 0.0, 1e4),
            ("observed_volatilities", 1e-3, 1e2),
            ("observed_flows", -0.999, 0.999),
        ):
            value = getattr(self, name)
            value = tuple(value) if isinstance(value, list) else value
            object.__setattr__(self, name, value)
            good = isinstance(value, tuple) and 1 <= len(value) <= ASSETS
            good = good and all(isinstance(x, int | float) and low <= x <= high for x in value)
            allowed = f"1 to {ASSETS} numbers from {low:g} to {high:g}"
            require(good, "Correlated", name, value, allowed)
            count = len(self.observed_lags)
            require(len(value) == count, "Correlated", name, value, f"{count} numbers, as observed_lags has")

    @property
    def assets(self) -> int:
        return len(self.observed_lags)

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 300,
            "quote": {"max_half_spread": 8.0, "max_skew": 8.0, "max_distance": 8.0},
            "reward": {"inventory_penalty": 0.01, "terminal_penalty": 0.1},
            "features": ("order_flow", "trade_book", "inventory", "clock", "observed"),
        }

    def compiled(self) -> np.ndarray:
        scale, root = self.price_scale, math.sqrt(self.step_seconds)
        params = np.zeros(1, PARAMS)
        params["arrival"] = -math.expm1(-self.arrival_rate * self.step_seconds)
        params["reach"] = scale / self.fill_decay
        params["factor"] = scale * self.factor_volatility * root
        params["noise"] = scale * self.volatility * root
        params["speed"] = 1 / (1 + self.lag)
        params["per_unit"] = 1 / scale
        observed = np.s_[0, : self.assets]
        params["observed_noise"][observed] = scale * root * np.array(self.observed_volatilities)
        params["observed_speed"][observed] = 1 / (1 + np.array(self.observed_lags))
        params["flow"][observed] = self.observed_flows
        params["flow_noise"][observed] = np.sqrt(1 - np.square(self.observed_flows))
        params["assets"] = self.assets
        params["start"] = START_PRICE * scale
        return params
