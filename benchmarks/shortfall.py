"""Mean less expected shortfall on `brownian`, exactly: `python -m benchmarks.shortfall [MODEL ...]`.

The optimum, which knows its wealth, beside the optimum of the mean, those of exponential utility, and the
closed forms with the risk aversion that is best for this objective; of all, the exact mean and mean of the
worst episodes (`policies.solver.shortfall`). Models trained for it are simulated, and what they are worth
beyond the best of exponential utility on the same paths is added to its exact value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from mmenv.config import EnvConfig, make_config
from mmenv.files import replacing
from mmenv.sheet import Sheet
from policies.base import tuned_policies
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from policies.optimal import solve
from policies.solver.problem import mean_of
from policies.solver.shortfall import ShortfallRecursion
from train.evaluate import load
from train.simulate import Interval, Outcome, interval, simulate

CLOSED_FORMS = ("glft", "cartea-jaimungal", "avellaneda-stoikov")

Place = tuple[str, float, float, float]
"""A policy: its name, what it is worth, mean of all episodes, mean of the worst."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What policies are worth by mean less shortfall, where the best that is possible is known."""

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs of `neuralmm train`, trained under the configuration below."""
    weight: float = 1.0
    level: float = 0.1
    horizon: int = 60
    limit: int = 3
    gammas: tuple[float, ...] = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)
    """Of exponential utility; 0 is the mean."""
    episodes: int = 20_000
    output: Path | None = None
    """Picture of the frontier."""


def main(options: Options) -> None:
    """Print the table and draw the picture."""
    config = make_config(
        "brownian",
        horizon=options.horizon,
        risk={"position_limit": options.limit},
        reward={"shortfall_weight": options.weight, "shortfall_level": options.level},
    )
    recursion = ShortfallRecursion(config)
    best = ("optimum", *recursion.parts(*recursion.optimise()[:2]))
    utility = [*of_utility(recursion, config, options.gammas)]
    forms = [closed_form(recursion, config, family) for family in CLOSED_FORMS]
    rows = [row(place, best[1]) for place in (best, *utility, *forms)]
    trained = []
    if options.models:
        known = Known.of(max(utility, key=lambda place: place[1]), config, options.episodes)
    for path in options.models:
        place, value = known.judge(path)
        trained.append(place)
        percent = Interval(*(100 * x / best[1] for x in value))
        rows.append((*row(place, best[1])[:-1], percent.text(".1f")))
    headings = "policy", "value", "mean", f"worst {options.level:.0%}", "% of optimum"
    title = (
        f"brownian, {options.horizon} steps, {options.limit} lots: mean less {options.weight:g} x shortfall"
    )
    Sheet.of_rows(title, headings, rows, legend=["Exact, but for trained policies: 95% intervals."]).print(
        Console()
    )
    if options.output is not None:
        draw({"exponential utility": utility, "trained": trained, "optimum": [best]}, forms, options.output)


def of_utility(
    recursion: ShortfallRecursion, config: EnvConfig, gammas: tuple[float, ...]
) -> Iterator[Place]:
    """The optima of exponential utility."""
    for gamma in gammas:
        reward = dataclasses.replace(mean_of(config).reward, risk_aversion=gamma)
        found = solve(dataclasses.replace(config, reward=reward), "optimum")
        name = f"utility, gamma {gamma:g}" if gamma else "optimum of the mean"
        yield name, *recursion.parts(found.ask[:, 0], found.bid[:, 0])


def closed_form(recursion: ShortfallRecursion, config: EnvConfig, family: str) -> Place:
    """A closed form, its parameter the best of a grid for this objective."""
    parameter, low, high, _ = tuned_policies()[family]
    found = []
    for value in np.geomspace(low, min(high, 1e3), 15):
        policy: Any = make_policy(family, mean_of(config), **{parameter: float(value)})
        ask, bid = (np.clip(side, 0, recursion.problem.max_distance) for side in policy.tabulate())
        worth = float(recursion.evaluate(ask, bid).max())
        found.append((worth if math.isfinite(worth) else -math.inf, float(value), ask, bid))
    _, value, ask, bid = max(found, key=lambda one: one[0])
    return f"{family}, {parameter} {value:.2g}", *recursion.parts(ask, bid)


@dataclass(frozen=True)
class Known:
    """A policy whose exact value is known, beside which others are simulated on the same paths: the luck that
    both have there is no part of what they are worth."""

    place: Place
    config: EnvConfig
    outcome: Outcome

    @classmethod
    def of(cls, place: Place, config: EnvConfig, episodes: int) -> Known:
        """An optimum of exponential utility, by its place."""
        gamma = float(place[0].partition("gamma ")[2] or 0)
        under = dataclasses.replace(
            config, reward=dataclasses.replace(mean_of(config).reward, risk_aversion=gamma)
        )
        return cls(place, config, simulate(make_policy("optimum", under), config, episodes))

    def judge(self, path: Path) -> tuple[Place, Interval]:
        """The place of a model, under the action and features that it was made for, and the 95% interval of
        its value, from paired differences."""
        model, made = load(path)
        config = dataclasses.replace(self.config, features=made.features, quote=made.quote)
        outcome = simulate(TrainedPolicy(model.policy), config, len(self.outcome.returns))
        less = outcome.controlled - self.outcome.controlled
        value = interval(self.place[1] + less)
        mean = self.place[2] + float((outcome.returns - self.outcome.returns).mean())
        return (path.name, value.mean, mean, (value.mean - mean) / config.reward.shortfall_weight), value


def row(place: Place, best: float) -> tuple[str, ...]:
    name, *numbers = place
    return name, *(f"{x:.2f}" for x in numbers), f"{100 * numbers[0] / best:.1f}"


def draw(lines: dict[str, list[Place]], forms: list[Place], output: Path) -> None:
    """Mean of all episodes against the mean of the worst."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, places in {**lines, **{place[0].split(",")[0]: [place] for place in forms}}.items():
        if places:
            _, _, mean, worst = zip(*places, strict=True)
            alone = len(places) == 1 or name == "trained"  # models are no family
            axes.plot(worst, mean, "o" if alone else ".-", label=name)
    axes.set(xlabel="mean of the worst episodes", ylabel="mean of all", title="brownian: mean and shortfall")
    axes.legend(frameon=False)
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
