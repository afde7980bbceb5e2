"""The recursion of `brownian` for a maker of exponential utility: certainty equivalents in place of means.

What is maximised is -log E exp(-gamma R) / gamma, R the reward of the episode. Wealth drops out (Avellaneda
and Stoikov 2008, section 2): with V the certainty equivalent of what is still to come, and

    g(q) = V(q, next step) - phi dt q^2 - gamma sigma^2 dt q^2 / 2

that of ending a step at position q, quoting (a, b) at position q is worth g(q) - log L(a, b) / gamma, where
u and v are the chances that the ask and the bid are filled and

    L = (1-u)(1-v) + u (1-v) exp(-gamma (a + g(q-1) - g(q))) + (1-u) v exp(-gamma (b + g(q+1) - g(q)))
        + u v exp(-gamma (a + b)).

What a step rounds to the grid of prices, 1/4096 of a price unit, is left out, as in the other recursion.
"""

from __future__ import annotations

import math

import numpy as np

from mmenv.market.brownian import Brownian
from policies.solver.best_utility import step_back
from policies.solver.problem import Problem, Progress

Array = np.ndarray


class UtilityRecursion:
    """Certainty equivalent of quoting rules on `brownian`. Tables as those of `policies.solver.recursion`."""

    def __init__(self, market: Brownian, problem: Problem) -> None:
        self.problem = problem
        positions = problem.positions.astype(float)
        variance = market.volatility**2 * market.step_seconds
        self._now = -(problem.phi + problem.risk_aversion * variance / 2) * positions**2
        self._terminal = -problem.alpha * positions**2
        self._arrival = -math.expm1(-market.arrival_rate * market.step_seconds)

    def evaluate(self, ask: Array, bid: Array) -> Array:
        """Certainty equivalent, (1, positions), of quotes, (horizon, 1, positions) each."""
        return self._run(ask[:, 0], bid[:, 0], fixed=True)

    def optimise(self, progress: Progress | None = None) -> tuple[Array, Array, Array]:
        """The best quotes, (horizon, 1, positions) each, and their certainty equivalent, (1, positions)."""
        shape = (self.problem.horizon, len(self._terminal))
        ask, bid = np.empty(shape), np.empty(shape)
        value = self._run(ask, bid, fixed=False, progress=progress)
        return ask[:, None], bid[:, None], value

    def _run(self, ask: Array, bid: Array, fixed: bool, progress: Progress | None = None) -> Array:
        problem, value = self.problem, self._terminal
        for step in reversed(range(problem.horizon)):
            value = step_back(
                value + self._now, ask[step], bid[step], fixed,
                problem.risk_aversion, self._arrival, problem.fill_decay, problem.max_distance,
            )  # fmt: skip
            if progress is not None:
                progress()
        return value[None]
