"""Mean against shortfall where its optimum is not known: `python -m benchmarks.tails [MODEL ...]`.

Tuned rules, the parameter of each the best of those tried for an appetite (on other paths), the optimum of
the mean where it is known, and trained models, on the same paths: mean, mean of the worst episodes, value
with its 95% interval, and that less the first row's. Without appetites the value is mean less `weight` times
shortfall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console

from mmenv.config import EnvConfig, make_config
from mmenv.files import replacing
from mmenv.sheet import Sheet
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from train.baselines import CACHE, TUNING_SEED, bound, with_observed
from train.evaluate import load
from train.frontier import Place, figure, members
from train.objective import certain, worth
from train.simulate import Outcome, interval, simulate

Objective = Callable[[Outcome], np.ndarray]
"""Of an outcome, numbers whose mean is what it is worth, (E,)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where policies stand between mean and shortfall on a market."""

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs of `neuralmm train`, each simulated under the configuration that it was made for."""
    market: str = "bursts"
    appetites: tuple[float, ...] = ()
    """Risk aversions, per price unit x lot, 0 for the mean: a table for each, its value the certainty
    equivalent, in place of mean less shortfall."""
    weight: float = 1.0
    level: float = 0.05
    families: tuple[str, ...] = ("glft", "cartea-jaimungal", "avellaneda-stoikov")
    """Rules that are tuned (`neuralmm list policies`)."""
    episodes: int = 8192
    tuning_episodes: int = 2048
    output: Path | None = None
    """Picture of the frontier."""


def main(options: Options) -> None:
    """Print a table for each appetite, and draw the picture."""
    torch.set_num_threads(1)
    config = make_config(options.market)
    lines = {
        family: [*members(family, config, options.tuning_episodes, TUNING_SEED)]
        for family in options.families
    }
    models = [played(path, options.episodes) for path in options.models]
    optimum = [best(config, options.episodes)] if bound(config) else []
    known: dict[str, Outcome] = {}
    for title, objective in objectives(options).items():
        chosen = [max(line, key=lambda one: objective(one.outcome).mean()) for line in lines.values()]
        for one in chosen:
            if one.name not in known:
                known[one.name] = one.again(options.episodes)
        outcomes = [*optimum, *(known[one.name] for one in chosen), *models]
        rows = [row(outcome, outcomes[0], objective, options.level) for outcome in outcomes]
        headings = "policy", "mean", "deviation", f"worst {options.level:.0%}", "value", "less the first"
        legend = [f"Value: {title}. {options.episodes:,} episodes, 95% intervals."]
        Sheet.of_rows(f"{options.market}: {title}", headings, rows, legend=legend).print(Console())
    if options.output is not None:
        drawn = {
            family: [Place.of(one.outcome, options.level) for one in line] for family, line in lines.items()
        }
        points = [Place.of(outcome, options.level) for outcome in (*optimum, *models)]
        with replacing(options.output) as temporary:
            picture = figure(points, drawn, options.level, f"{options.market}: from bold to averse")
            picture.savefig(temporary, dpi=120, format="png")


def objectives(options: Options) -> dict[str, Objective]:
    """What policies are tuned for and compared by, under its title."""
    if not options.appetites:
        title = f"mean less {options.weight:g} x shortfall"
        return {title: lambda outcome: worth(outcome.returns, options.weight, options.level)}
    return {
        f"certainty equivalent, gamma {gamma:g}" if gamma else "mean": partial(_equivalent, gamma)
        for gamma in options.appetites
    }


def _equivalent(gamma: float, outcome: Outcome) -> np.ndarray:
    return certain(outcome.returns, gamma) if gamma else outcome.controlled


def best(config: EnvConfig, episodes: int) -> Outcome:
    """The optimum of the mean."""
    kind, seen = bound(config), with_observed(config)
    return simulate(make_policy(kind, seen, cache=CACHE), seen, episodes)


def played(path: Path, episodes: int) -> Outcome:
    """What the model of a run does, under the name of the run; noise is taken off, whatever its appetite."""
    model, made = load(path)
    made = replace(made, reward=replace(made.reward, risk_aversion=0.0, shortfall_weight=0.0))
    found = simulate(TrainedPolicy(model.policy), made, episodes)
    return replace(found, name=path.name)


def row(outcome: Outcome, first: Outcome, objective: Objective, level: float) -> tuple[str, ...]:
    """Mean, deviation, worst and value of an outcome, and that less the first's, paired."""
    place, value = Place.of(outcome, level), objective(outcome)
    parts = place.mean.text(".1f"), f"{outcome.returns.std():.1f}", place.worst.text(".1f")
    less = interval(value - objective(first))
    return outcome.name, *parts, interval(value).text(".1f"), less.text(".1f")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
