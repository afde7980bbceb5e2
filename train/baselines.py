"""What a trained policy is judged against: the exact optima, and baselines tuned with the same care.

On a solvable market the analytic policies are tuned by their exact value; on recorded data by simulation on
the training split, with the market's parameters measured there too.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.config import ConfigError, EnvConfig, Market, make_config
from mmenv.features import observation_names
from mmenv.market.brownian import Brownian
from mmenv.market.bursts import Bursts
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.market.replay import Replay
from policies.analytic import TUNABLE, dynamics, tune
from policies.base import Policy, make_policy
from policies.chain import make_problem
from policies.optimal import solve
from train.simulate import simulate

CACHE = Path("logs/optima")
"""Solutions of the dynamic programmes are kept here."""

KINDS: dict[type[Market], list[str]] = {
    Brownian: ["optimum"],
    Bursts: ["optimum"],
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
"""The parameters that are tried where no exact value can be had, price units."""

PROBES = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Distances, price units, at which the rate of fills is measured."""


@dataclass(frozen=True)
class Scale:
    """Where a value lies between what needs no skill (0%) and what cannot be beaten (100%)."""

    label: str
    zero: float
    one: float

    def percent(self, value: Any) -> Any:
        """Of a value, or an array of them."""
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
    """Percent of the exact optimum, or of the gap between the best with and without memory, if known."""
    if not solvable(config):
        return None
    kinds = ("optimum",) if isinstance(config.market, Brownian) else ("memoryless", "belief-optimal")
    values = [solve(config, kind, cache=CACHE, progress=progress).value for kind in kinds]
    return Scale("% of optimum", 0.0, *values) if len(values) == 1 else Scale("% of memory gap", *values)


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

    The closed forms are fed the market's parameters, measured on the same episodes.
    """
    training = config
    if isinstance(config.market, Replay):
        training = dataclasses.replace(config, market=dataclasses.replace(config.market, split="train"))
    given = {} if family == "fixed-spread" else measured_dynamics(training)
    parameter, _ = TUNABLE[family]
    candidates = [make_policy(family, config, **{parameter: value}, **given) for value in GRID[parameter]]
    outcomes = [simulate(policy, training, TUNING_EPISODES, seed=TUNING_SEED) for policy in candidates]
    return candidates[int(np.argmax([outcome.value().mean for outcome in outcomes]))]


@functools.cache
def _measured_dynamics(key: str) -> dict[str, float]:
    config = make_config(**json.loads(key))
    column = observation_names(config).index("return")
    moves: list[np.ndarray] = []
    rates = []
    for distance in PROBES:
        policy = make_policy("fixed-spread", config, half_spread=distance)
        outcome = simulate(
            policy,
            config,
            TUNING_EPISODES,
            seed=TUNING_SEED,
            watch=lambda seen, actions, position: moves.append(seen[:, column].astype(np.float64)),
        )
        decisions = 2 * outcome.steps.sum()
        rates.append((outcome.terms["fills"].sum() + 0.5) / (decisions * config.market.step_seconds))
    slope, intercept = np.polyfit(PROBES, np.log(rates), 1)
    return {
        "arrival_rate": float(np.exp(intercept)),
        "fill_decay": max(float(-slope), 1e-2),
        "volatility": float(np.std(np.concatenate(moves)) / np.sqrt(config.market.step_seconds)),
    }


def measured_dynamics(config: EnvConfig) -> dict[str, float]:
    """A and k of the fill rate A exp(-k d) of a resting quote, and the volatility; price units, seconds.

    Where the market says them itself (`policies.analytic.dynamics`), nothing is measured.
    """
    try:
        dynamics(config)
    except ConfigError:
        # Wide limits: the rate of fills, not the position, is measured.
        risk = dataclasses.replace(config.risk, position_limit=1_000_000, daily_loss_limit=1e9)
        return _measured_dynamics(
            json.dumps(dataclasses.replace(config, risk=risk).to_dict(), sort_keys=True)
        )
    return {}
