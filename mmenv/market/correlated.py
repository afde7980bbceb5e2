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
from typing import Any

import numpy as np
import scipy.linalg
from numba import prange
from numba.np.numpy_support import carray

from mmenv.config import Market, MarketStages, require, require_number
from mmenv.kernel import ASSETS, EMPTY, LANES, Call, aligned_zeros, lanes, over_lanes, stage
from mmenv.market import START_PRICE, register
from mmenv.market.by_lane import at, with_family
from mmenv.rng import philox
from mmenv.venue.simulated import match
from mmenv.vmath import log, normal, unit

F = np.float32
I = np.int32  # noqa: E741
U = np.uint32
Array = np.ndarray

STATE = np.dtype(
    [
        lanes("shock", "f4"),  # of the factor, half-ticks
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


OWN = with_family(STATE, PARAMS)


@over_lanes
def trade(s, w, p, assets):  # type: ignore[no-untyped-def]
    """Market orders as in `brownian`, the factor's shock, and the moves of all assets."""
    arrivals, reaches, factors, noises = p.arrival, p.reach, p.factor, p.noise
    speeds, units = p.speed, p.per_unit
    for i in prange(s.count):
        arrival, reach = at(arrivals, i), at(reaches, i)
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        buy, sell, word0, word1 = philox(age, episode, U(0), U(0), key0, key1)
        bought, sold = unit(buy), unit(sell)
        s.buy_lots[i] = I(1) if bought < arrival else I(0)
        s.sell_lots[i] = I(1) if sold < arrival else I(0)
        s.ask_reach[i] = I(-log(bought / arrival) * reach) if bought < arrival else I(-1)
        s.bid_reach[i] = I(-log(sold / arrival) * reach) if sold < arrival else I(-1)
        s.trades[i] = s.buy_lots[i] + s.sell_lots[i]
        s.buy_chance[i], s.sell_chance[i], s.mean_reach[i] = arrival, arrival, reach
        w.shock[i] = normal(word0, word1)
    for i in prange(s.count):
        factor, noise, speed, per_unit = at(factors, i), at(noises, i), at(speeds, i), at(units, i)
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        word0, word1, _, _ = philox(age, episode, U(1), U(0), key0, key1)
        expected = w.gaps[0, i] * speed
        reached = w.gaps[0, i] + factor * w.shock[i]
        move = I(np.floor(reached * speed + normal(word0, word1) * noise + F(0.5)))
        s.move[i] = move
        s.mid[i] += move
        s.free_move[i] = F(move) - expected
        left = reached - reached * speed
        # The latent is the next move's mean, and what it was before the shock that of the latent itself.
        latent, shown = left * speed * per_unit, speed * per_unit * (F(1) - speed)
        mean, deviation = shown * w.gaps[0, i], shown * factor
        w.gaps[0, i] = left
        s.latent[i] = latent
        s.latent_drift[i] = latent - mean
        s.latent_square_drift[i] = latent * latent - mean * mean - deviation * deviation
    for k in range(assets):
        observed_speeds, observed_noises = p.observed_speed[k], p.observed_noise[k]
        flows, flow_noises = p.flow[k], p.flow_noise[k]
        for i in prange(s.count):
            observed_speed, observed_noise = at(observed_speeds, i), at(observed_noises, i)
            flow, flow_noise = at(flows, i), at(flow_noises, i)
            age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
            word0, word1, word2, word3 = philox(age, episode, U(2 + k), U(0), key0, key1)
            shock = w.shock[i]
            reached = w.gaps[1 + k, i] + at(factors, i) * shock
            move = reached * observed_speed + normal(word0, word1) * observed_noise
            s.asset_moves[k, i] = I(np.floor(move + F(0.5)))
            s.asset_flows[k, i] = flow * shock + flow_noise * normal(word2, word3)
            w.gaps[1 + k, i] = reached - reached * observed_speed


@stage(STATE, PARAMS)
def step(core, own, params, out):  # type: ignore[no-untyped-def]
    p = carray(params, 1)[0]
    trade(carray(core, 1)[0], carray(own, 1)[0], p, p.assets)


@stage(OWN, PARAMS)
def step_by_lane(core, own, params, out):  # type: ignore[no-untyped-def]
    w = carray(own, 1)[0]
    trade(carray(core, 1)[0], w.own, w.family, carray(params, 1)[0].assets)


@stage(STATE, PARAMS)
def reset(core, own, params, out):  # type: ignore[no-untyped-def]
    """Start at the same price, with no gap anywhere."""
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    p = carray(params, 1)[0]
    start = p.start
    for i in prange(s.count):
        fresh = s.done[i] != 0
        s.mid[i] = start if fresh else s.mid[i]
        s.latent[i] = F(0) if fresh else s.latent[i]
    for k in range(1 + p.assets):
        for i in prange(s.count):
            w.gaps[k, i] = F(0) if s.done[i] != 0 else w.gaps[k, i]
    for k in range(p.assets):
        for i in prange(s.count):
            fresh = s.done[i] != 0
            s.asset_moves[k, i] = I(0) if fresh else s.asset_moves[k, i]
            s.asset_flows[k, i] = F(0) if fresh else s.asset_flows[k, i]


@register
@dataclass(frozen=True, kw_only=True)
class Correlated(Market):
    """A quoted asset that follows a common factor late, and observed assets that follow it sooner.

    Prices of all assets are in price units of the quoted one, scaled to its exposure to the factor. The three
    tuples have one entry for each observed asset, at most `mmenv.kernel.ASSETS`. Feature group `observed`
    shows them.
    """

    name = "correlated"
    varied = ("arrival_rate", "fill_decay", "factor_volatility", "volatility", "lag")

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

    def stages(self, blocks: int, by_lane: bool = False) -> MarketStages:
        params, own = self.compiled(), aligned_zeros(blocks, OWN if by_lane else STATE)
        return MarketStages(
            step=(
                Call(step_by_lane if by_lane else step, own, params),
                Call(match, np.zeros(1, EMPTY), params),
            ),
            reset=(Call(reset, own, params),),
            family=own["family"] if by_lane else None,
        )


# What knowing the others is worth.


@dataclass(frozen=True)
class Forecast:
    """The best forecast of the quoted mid from moves and flows up to now: a stationary Kalman filter.

    With the state x of all gaps, price units, the quoted asset's first, and y of a step the moves of all
    assets that are seen (price units) and the flows of the observed ones, in the order of the market,

        x(t) = A x(t-1) + gain (y(t) - C x(t-1)),      expected next move of the quoted mid = speed x(t)[0].
    """

    transition: Array
    """A, (states, states)."""
    observation: Array
    """C, (views, states)."""
    gain: Array
    """(states, views)."""
    speed: float
    explained: float
    """Variance of the quoted asset's gap that the filter knows, squared price units."""
    gap_variance: float
    """Variance of that gap."""
    market: Correlated

    def filter(self, moves: Array, flows: Array) -> Array:
        """Expected next move of the quoted mid after each step, float (T, n), price units, from a start with
        no gaps.

        `moves` (T, 1 + assets, n), price units, the quoted asset's first; `flows` (T, assets, n). Assets that
        this forecast does not see are ignored.
        """
        seen = (len(self.gain[0]) - 1) // 2
        views = np.concatenate([moves[:, : 1 + seen], flows[:, :seen]], axis=1)
        state = np.zeros((len(self.gain), views.shape[2]))
        expected = np.empty((len(views), views.shape[2]))
        for t, view in enumerate(views):
            state = self.transition @ state + self.gain @ (view - self.observation @ state)
            expected[t] = self.speed * state[0]
        return expected

    def r2(self, horizon: int = 1) -> float:
        """Share of the variance of the quoted mid's move over the next `horizon` steps that is foreseen."""
        arrived = 1 - (1 - self.speed) ** horizon
        return arrived**2 * self.explained / self.move_variance(horizon)

    def ceiling(self, horizon: int = 1) -> float:
        """What `r2` would be if the gap were seen."""
        arrived = 1 - (1 - self.speed) ** horizon
        return arrived**2 * self.gap_variance / self.move_variance(horizon)

    def move_variance(self, horizon: int = 1) -> float:
        """Variance of the quoted mid's move over `horizon` steps, squared price units."""
        m, v = self.market, self.speed
        lags = np.arange(horizon)
        # A geometric moving average of the shocks: autocovariances fall by (1 - v) a step.
        covariance = m.factor_volatility**2 * v / (2 - v) * (1 - v) ** lags
        total = horizon * covariance[0] + 2 * ((horizon - lags[1:]) * covariance[1:]).sum()
        return m.step_seconds * (total + horizon * m.volatility**2)


def forecast(market: Correlated, *, others: bool = True) -> Forecast:
    """The best linear, which here is the best, forecast from the past of the quoted asset and, with `others`,
    of the observed ones. `forecast(m).r2()` against `forecast(m, others=False).r2()` is what they add.

    Source: the Kalman filter with correlated noises, stationary (Anderson and Moore, 1979, chapter 5).
    """
    root, count = math.sqrt(market.step_seconds), market.assets if others else 0
    lags = (market.lag, *market.observed_lags[:count])
    speeds = 1 / (1 + np.array(lags))
    beta = market.factor_volatility * root
    flows = np.array(market.observed_flows[:count])
    noises = np.array([market.volatility, *market.observed_volatilities[:count]]) * root
    transition, entry = np.diag(1 - speeds), (1 - speeds) * beta
    observation = np.concatenate([np.diag(speeds), np.zeros((count, 1 + count))])
    feed = np.concatenate([speeds * beta, flows])
    noise = np.outer(feed, feed) + np.diag(np.concatenate([noises**2, 1 - flows**2]))
    state, cross = np.outer(entry, entry), np.outer(entry, feed)
    error = scipy.linalg.solve_discrete_are(transition.T, observation.T, state, noise, s=cross)
    innovation = observation @ error @ observation.T + noise
    gain = np.linalg.solve(innovation, (transition @ error @ observation.T + cross).T).T
    gap_variance = float(entry[0] ** 2 / max(1 - (1 - speeds[0]) ** 2, 1e-12))
    return Forecast(
        transition=transition,
        observation=observation,
        gain=gain,
        speed=float(speeds[0]),
        explained=gap_variance - float(error[0, 0]),
        gap_variance=gap_variance,
        market=market,
    )
