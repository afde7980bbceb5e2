"""Mean against shortfall where its optimum is not known: `python -m benchmarks.tails [MODEL ...]`.

Closed forms, their parameter the best of a grid by mean less `weight` times shortfall (on other paths), the
optimum of the mean where it is known, and trained models, on the same paths: mean, mean of the worst
episodes, value with its 95% interval, and that less the first row's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console

from mmenv.config import EnvConfig, make_config
from mmenv.sheet import Sheet
from policies.base import Policy, tuned_policies
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from policies.solver.problem import mean_of
from train.baselines import CACHE, TUNING_SEED, bound
from train.evaluate import load
from train.simulate import Outcome, simulate

CLOSED_FORMS = ("glft", "cartea-jaimungal", "avellaneda-stoikov")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where policies stand between mean and shortfall on a market."""

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs of `neuralmm train`."""
    market: str = "bursts"
    weight: float = 1.0
    level: float = 0.05
    episodes: int = 8192
    tried: int = 8
    """Parameters of each closed form."""


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    reward = {"shortfall_weight": options.weight, "shortfall_level": options.level}
    config = make_config(options.market, reward=reward)
    policies = [chosen(family, config, options) for family in CLOSED_FORMS]
    if kind := bound(mean_of(config)):
        policies.insert(0, make_policy(kind, mean_of(config), cache=CACHE))
    outcomes = [simulate(policy, config, options.episodes) for policy in policies]
    for path in options.models:
        model, made = load(path)
        seen = dataclasses.replace(config, features=made.features)
        found = simulate(TrainedPolicy(model.policy), seen, options.episodes)
        outcomes.append(dataclasses.replace(found, name=path.name))
    rows = [row(outcome, outcomes[0], options.weight) for outcome in outcomes]
    headings = "policy", "mean", "deviation", f"worst {options.level:.0%}", "value", "less the first"
    legend = [
        f"Value: mean less {options.weight:g} x shortfall. {options.episodes:,} episodes, 95% intervals."
    ]
    Sheet.of_rows(f"{options.market}: mean and shortfall", headings, rows, legend=legend).print(Console())


def chosen(family: str, config: EnvConfig, options: Options) -> Policy:
    """The closed form with the best of the parameters that are tried."""
    parameter, low, high, _ = tuned_policies()[family]
    tried = [
        make_policy(family, mean_of(config), **{parameter: float(value)})
        for value in np.geomspace(low, min(high, 1e3), options.tried)
    ]
    few = options.episodes // 4
    return max(tried, key=lambda one: simulate(one, config, few, seed=TUNING_SEED).value().mean)


def row(outcome: Outcome, first: Outcome, weight: float) -> tuple[str, ...]:
    """Mean, deviation, worst and value of an outcome."""
    value, mean = outcome.value(), outcome.returns.mean()
    parts = f"{mean:.1f}", f"{outcome.returns.std():.1f}", f"{(value.mean - mean) / weight:.1f}"
    return outcome.name, *parts, value.text(".1f"), outcome.minus(first).text(".1f")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
