"""The optimum of mean less expected shortfall on `brownian`, over time, position and the reward so far.

What is maximised is E R - w S, R the reward of an episode and S the expected shortfall of its worst share a.
By Rockafellar and Uryasev (2000) that is the largest value over z of E U(R) with

    U(R) = R + w (z - (z - R)^+ / a) = y + (w / a) min(y, 0) + (1 + w) z,   y = R - z,

so z only says where y starts: one backward pass over time, position and y has the optimum for every z, and
the best of them is the optimum (Baeuerle and Ott 2011). Wealth does not drop out, as it does from exponential
utility: who is ahead of z has less to fear.

With G(q, y) the expected value one step later of ending a step at position q and wealth y, the move of the
mid and the penalty still to come, quoting (a, b) is worth

    (1-u)(1-v) G(q, y) + u (1-v) G(q-1, y+a) + (1-u) v G(q+1, y+b) + u v G(q, y+a+b)

where u and v are the chances that the ask and the bid are filled. Quotes are multiples of `TICK`, wealth is
on a grid between whose points values are interpolated: they are concave, so what is found is a little low.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import signal, stats

from mmenv.checks import require
from mmenv.config import EnvConfig
from mmenv.market.brownian import Brownian
from policies.solver.best_shortfall import step_back
from policies.solver.chain import brownian_chain, order_chance
from policies.solver.problem import Progress, make_problem, mean_of, solved_market
from policies.solver.recursion import Recursion

Array = np.ndarray

TICK = 0.1
"""What optimal quotes are multiples of, price units."""


class ShortfallRecursion:
    """Mean less weighted shortfall of quoting rules on `brownian`, by their objective in a configuration."""

    def __init__(self, config: EnvConfig, grid: float = 0.2) -> None:
        """`grid`: distance of the points of wealth, price units x lots.

        Raises `ConfigError` unless the market is `brownian`, the action that of an exact optimum, and the
        objective mean less shortfall.
        """
        self.weight, self.level = config.reward.shortfall_weight, config.reward.shortfall_level
        require(
            self.weight > 0, "RewardConfig", "shortfall_weight", self.weight,
            "above 0 for an optimum over wealth"
        )  # fmt: skip
        market = solved_market(config.market, (Brownian,))
        self.problem = make_problem(mean_of(config))
        self.deviation = market.volatility * math.sqrt(market.step_seconds)
        self.arrival = order_chance(market)
        neutral = Recursion(brownian_chain(market), self.problem).optimise()[2][0, self.problem.limit]
        # Beyond, wealth is so far from the threshold that a value is linear in it.
        reach = abs(neutral) + 8 * self.deviation * math.sqrt(self.problem.horizon)
        points = math.ceil(reach / grid)
        self.grid = grid
        self.wealth = grid * np.arange(-points, points + 1)
        """Reward so far less the threshold, (W,)."""

    def optimise(self, progress: Progress | None = None) -> tuple[Array, Array, Array]:
        """Best distances of ask and bid, float32 (horizon, positions, W), and the objective of the best rule
        for each threshold, (W,): that of -`wealth`."""
        shape = (self.problem.horizon, *self._ended(0.0).shape)
        ask, bid = np.empty((2, *shape), np.float32)
        return ask, bid, self._run(ask, bid, fixed=False, progress=progress)

    def evaluate(self, ask: Array, bid: Array) -> Array:
        """The same of distances by time and position, (horizon, positions), or wealth too; the most of it is
        what they are worth."""
        return self._run(*self._tables(ask, bid), fixed=True)

    def parts(self, ask: Array, bid: Array) -> tuple[float, float, float]:
        """What they are worth, and of that the mean of all episodes and of the worst."""
        tables = self._tables(ask, bid)
        values = self._run(*tables, fixed=True)
        best = int(values.argmax())
        mean = float(self._run(*tables, fixed=True, weight=0.0)[best])
        return float(values[best]), mean, (float(values[best]) - mean) / self.weight

    def _tables(self, ask: Array, bid: Array) -> tuple[Array, Array]:
        """Distances by time, position and wealth, float32."""
        shape = (self.problem.horizon, *self._ended(0.0).shape)
        wide = (side if side.ndim == 3 else side[:, :, None] for side in (ask, bid))
        ask, bid = (np.broadcast_to(side, shape).astype(np.float32) for side in wide)
        return ask, bid

    def _ended(self, weight: float) -> Array:
        """U less its constant at the end of an episode, (positions, W)."""
        left = self.wealth - self.problem.alpha * self.problem.positions[:, None].astype(float) ** 2
        return left + weight / self.level * np.minimum(left, 0.0)

    def _run(
        self,
        ask: Array,
        bid: Array,
        fixed: bool,
        weight: float | None = None,
        progress: Progress | None = None,
    ) -> Array:
        weight = self.weight if weight is None else weight
        problem, value = self.problem, self._ended(weight)
        for step in reversed(range(problem.horizon)):
            value = step_back(
                self._moved(value), ask[step], bid[step], fixed, self.grid, TICK,
                self.arrival, problem.fill_decay, problem.max_distance,
            )  # fmt: skip
            if progress is not None:
                progress()
        return value[problem.limit] - (1 + weight) * self.wealth

    def _moved(self, value: Array) -> Array:
        """G: expected value before the move of the mid and the penalty of a step, by position after it."""
        moved = np.empty_like(value)
        for row, position in enumerate(self.problem.positions):
            own = _shifted(value[row], -self.problem.phi * float(position) ** 2 / self.grid)
            spread = abs(float(position)) * self.deviation / self.grid
            moved[row] = _smoothed(own, spread)
        return moved


def _shifted(values: Array, by: float) -> Array:
    """Values at points `by` grid steps further on, linear beyond the ends."""
    extra = math.ceil(abs(by)) + 1
    long = _extended(values, extra)
    return np.interp(np.arange(len(values)) + extra + by, np.arange(len(long)), long)


def _smoothed(values: Array, deviation: float) -> Array:
    """Their expectation after a normal move of `deviation` grid steps, to points of the grid."""
    if deviation == 0:
        return values
    extra = math.ceil(6 * deviation) + 1
    k = np.arange(-extra, extra + 1)
    # Chances under which values linear between points have their mean: second differences of E(k + move)^+.
    ends = k[0] - 1 + np.arange(len(k) + 2)
    above = deviation * stats.norm.pdf(ends / deviation) + ends * stats.norm.cdf(ends / deviation)
    chances = np.diff(above, 2)
    return np.asarray(signal.oaconvolve(_extended(values, extra), chances / chances.sum(), mode="valid"))


def _extended(values: Array, extra: int) -> Array:
    """With so many points more at both ends, linearly."""
    steps = np.arange(1, extra + 1)
    low = values[0] - (values[1] - values[0]) * steps[::-1]
    high = values[-1] + (values[-1] - values[-2]) * steps
    return np.concatenate([low, values, high])
