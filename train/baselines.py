"""What a trained policy is judged against: the exact optima, and baselines tuned with the same care.

On a solvable market the analytic policies are tuned by their exact value; on recorded data by simulation on
the training split, with the market's parameters measured there too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.config import ConfigError, EnvConfig, Market
from mmenv.market.brownian import Brownian
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.market.replay import Replay, measure
from policies.analytic import TUNABLE, tune
from policies.base import Policy, make_policy
from policies.chain import make_problem
from policies.optimal import solve
from train.simulate import simulate

CACHE = Path("logs/optima")
"""Solutions of the dynamic programmes are kept here."""

KINDS: dict[type[Market], list[str]] = {
    Brownian: ["optimum"],
    HiddenRegime: ["belief-optimal", "exponential-average", "memoryless"],
}
"""The solutions that are compared with, by market; the first is what no policy can beat."""

TUNING_EPISODES = 64
TUNING_SEED = 2_000_000_000
GRID = {
    "half_spread": (0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0),
    "gamma": (0.01, 0.03, 0.1, 0.3, 1.0),
    "phi": (0.001, 0.01, 0.1),
}


@dataclass(frozen=True)
class Scale:
    """Where a value lies between what needs no skill (0%) and what cannot be beaten (100%)."""

    label: str
    zero: float
    one: float

    def percent(self, value: float) -> float:
        return 100 * (value - self.zero) / (self.one - self.zero)


def solvable(config: EnvConfig) -> bool:
    """Whether the optimum is known: fees, larger orders or other reward weights have none."""
    try:
        make_problem(config)
    except ConfigError:
        return False
    return type(config.market) in KINDS


def bound(config: EnvConfig) -> str | None:
    """The name of the policy that no other can beat, where it is known."""
    return KINDS[type(config.market)][0] if solvable(config) else None


def scale(config: EnvConfig, progress: bool = False) -> Scale | None:
    """Percent of the exact optimum, or of the gap between the best with and without memory."""
    if isinstance(config.market, Brownian):
        return Scale("% of optimum", 0.0, solve(config, "optimum", cache=CACHE, progress=progress).value)
    if isinstance(config.market, HiddenRegime):
        values = [
            solve(config, k, cache=CACHE, progress=progress).value for k in ("memoryless", "belief-optimal")
        ]
        return Scale("% of memory gap", *values)
    return None


def make_baselines(config: EnvConfig, note: Callable[[str], Any] = lambda name: None) -> list[Policy]:
    """Baselines for `config`, the bound first, no-trade last; `note(name)` hears of each before."""
    policies: list[Policy] = []
    exact = solvable(config)
    for kind in KINDS[type(config.market)] if exact else []:
        note(kind)
        policies.append(make_policy(kind, config, cache=CACHE))
    for family in TUNABLE:
        note(family)
        policies.append(tune(family, config).policy if exact else tune_by_simulation(family, config))
    return [*policies, make_policy("no-trade", config)]


def tune_by_simulation(family: str, config: EnvConfig) -> Policy:
    """The best of a grid of `family` by simulation; on recorded data, on the training split alone.

    The closed forms are fed the market's parameters, measured on that split too.
    """
    given: dict[str, float] = {}
    training = config
    if isinstance(config.market, Replay):
        training = dataclasses.replace(config, market=dataclasses.replace(config.market, split="train"))
        if family != "fixed-spread":
            found = measure(config.market)
            given = {
                "arrival_rate": found.arrival_rate,
                "fill_decay": found.fill_decay,
                # The price unit is the deviation of one decision's move.
                "volatility": config.market.step_seconds**-0.5,
            }
    parameter, _ = TUNABLE[family]
    candidates = [make_policy(family, config, **{parameter: value}, **given) for value in GRID[parameter]]
    outcomes = [simulate(policy, training, TUNING_EPISODES, seed=TUNING_SEED) for policy in candidates]
    return candidates[int(np.argmax([outcome.value().mean for outcome in outcomes]))]
