"""What no signal can beat on `hidden-regime`: exact chances from the Bayesian filter.

The filter (`policies.solver.views.Belief`) holds the chances of the regimes given everything seen. Given a
regime, the moves of the next h steps have a known distribution; a chance under the belief is the mean of
those given each regime. It knows the market's parameters, which a network has to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from mmenv.engine.products import product, solve_linear
from mmenv.market.correlated import Correlated
from mmenv.market.hidden_regime import HiddenRegime
from policies.solver.outcomes import outcomes
from policies.solver.problem import solved_market
from policies.solver.views import Belief

Array = np.ndarray
Event = Callable[[Array], Array]
"""Whether a move of the mid, half-ticks, (k,), counts: bool (k,)."""


class Filter:
    """Beliefs along recorded sequences, and chances of what comes next."""

    def __init__(self, market: HiddenRegime) -> None:
        self._seen = outcomes(market)
        self._view = Belief(market, 2)
        scale = market.price_scale
        impact = round(scale * market.impact)
        side = np.sign(self._seen.buy) - np.sign(self._seen.sell)
        self._moves = (self._seen.jump * scale + side * impact).astype(np.int64)
        self._scale = scale
        self._unit = math.gcd(*(abs(int(move)) for move in self._moves)) or 1

    def beliefs(self, mid: Array, buy: Array, sell: Array, first: Array) -> Array:
        """Chances of the regimes -1, 0, +1 at each row, float64 (R, 3), sequences from `first`, (S + 1,)."""
        result = np.empty((len(mid), 3))
        lengths = np.diff(first)
        belief = np.repeat(self._view.start, len(lengths), axis=0)
        for t in range(int(lengths.max())):
            alive = np.flatnonzero(lengths > t)
            rows = first[:-1][alive] + t
            if t > 0:
                move = (mid[rows].astype(np.int64) - mid[rows - 1]) / self._scale
                outcome = self._seen.index(buy[rows], sell[rows], move)
                belief[alive] = self._view.follow(belief[alive], outcome)
            result[rows] = belief[alive]
        return result

    def direction(self, beliefs: Array, horizon: int) -> Array:
        """Chance that the mid is higher in `horizon` steps, given that it is not the same, float64 (R,)."""
        up = product(beliefs, self._chances(horizon, lambda move: move > 0))
        down = product(beliefs, self._chances(horizon, lambda move: move < 0))
        return up / (up + down)

    def adverse(self, beliefs: Array, horizon: int, distance: int, side: int) -> Array:
        """Chance that a fill in the next step is adverse after `horizon` steps, given it, float64 (R,).

        Our ask (`side` +1) or bid (-1), `distance` half-ticks from the mid; adverse is a mid beyond our
        price. How far an order reaches is independent of the regime, so a fill says what the order says.
        """
        filled = self._seen.buy > 0 if side > 0 else self._seen.sell > 0
        chance = product(beliefs, product(self._seen.chance, filled))
        joint = product(beliefs, self._chances(horizon, lambda move: side * move > distance, filled))
        return joint / chance

    def _chances(self, horizon: int, event: Event, first: Array | None = None) -> Array:
        """Chance in each regime, (3,), that the move over `horizon` steps is in `event`.

        With `first`, bool (outcomes,), jointly with the first step's outcome being one of these.
        """
        chance, transition = self._seen.chance, self._seen.transition
        units = self._moves // self._unit
        reach = int(np.abs(units).max())
        # later[z, k]: chance, from regime z on, of a move of (k - centre) units.
        later = np.ones((3, 1))
        for left in range(horizon):
            step = chance if first is None or left < horizon - 1 else chance * first
            after = product(transition, later)
            wider = np.zeros((3, after.shape[1] + 2 * reach))
            for k, unit in enumerate(units):
                at = reach + int(unit)
                wider[:, at : at + after.shape[1]] += step[:, k, None] * after
            later = wider
        centre = later.shape[1] // 2
        return product(later, event((np.arange(later.shape[1]) - centre) * self._unit))


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
            surprise = view - product(self.observation, state)
            state = product(self.transition, state) + product(self.gain, surprise)
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
    market = solved_market(market, (Correlated,))
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
    seen = product(error, observation.T)
    innovation = product(observation, seen) + noise
    gain = solve_linear(innovation, (product(transition, seen) + cross).T).T
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
