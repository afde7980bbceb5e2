"""The best member of a family of policies on a solvable market, by exact value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from mmenv.checks import require
from mmenv.config import EnvConfig
from policies.base import Policy, max_distance, tuned_policies
from policies.make import make_policy
from policies.solver.recursion import evaluate_tabular


@dataclass(frozen=True)
class Tuned:
    """The best of a family of policies on a solvable market."""

    policy: Policy
    parameter: str
    best: float
    value: float
    """Its exact value from position 0."""


def tune(family: str, config: EnvConfig, progress: Callable[[], Any] | None = None) -> Tuned:
    """The best policy of a family (of `tuned_policies`) on a solvable market, by its exact value.

    A logarithmic grid over the range finds the hill and Brent's method its top. Raises `ConfigError` where
    the family has nothing to tune or the market has no exact values.
    """
    tunings = tuned_policies()
    require(family in tunings, "tune", "family", family, f"one of {', '.join(tunings)}")
    parameter, low, high, _ = tunings[family]

    def loss(log_parameter: float) -> float:
        policy: Any = make_policy(family, config, **{parameter: math.exp(log_parameter)})
        if progress:
            progress()
        return -float(evaluate_tabular(config, *policy.tabulate())[config.risk.position_limit])

    grid = np.linspace(math.log(low), math.log(high if high < math.inf else max_distance(config)), 25)
    losses = [loss(point) for point in grid]
    best = int(np.argmin(losses))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4})
    value, log_best = min((float(found.fun), float(found.x)), (losses[best], float(grid[best])))
    policy = make_policy(family, config, **{parameter: math.exp(log_best)})
    return Tuned(policy, parameter, math.exp(log_best), -value)
