"""What aversion to risk costs and saves on `brownian`: `python -m benchmarks.risk_appetite [MODEL ...]`.

For each gamma the exact optimum of exponential utility and the closed forms tuned for it, and models trained
for theirs (`neuralmm train --market brownian --set reward.risk_aversion=0.1`), on the same paths: mean,
deviation, mean of the worst percent of episodes, and the certainty equivalent in percent of the exact one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from tqdm import tqdm

from mmenv.config import make_config
from mmenv.files import replacing
from mmenv.sheet import Sheet
from policies.base import Policy
from policies.network.trained import TrainedPolicy
from policies.tune import tune
from train.baselines import Best
from train.evaluate import load
from train.experiments.pairs import worst
from train.simulate import Outcome, simulate

CLOSED_FORMS = ("glft", "cartea-jaimungal", "avellaneda-stoikov")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The frontier of mean and worst percent on `brownian`, and where policies stand on it."""

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs or models of `neuralmm train`, each judged at the gamma that it was trained for."""
    gammas: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    episodes: int = 20_000
    output: Path | None = None
    """Picture of the frontier."""


def main(options: Options) -> None:
    """Print the table and draw the picture."""
    judged = [load(model) for model in options.models]
    trained: dict[float, list[Policy]] = {}
    for model, config in judged:
        trained.setdefault(config.reward.risk_aversion, []).append(TrainedPolicy(model.policy))
    rows, places = [], {}
    for gamma in tqdm(sorted({*options.gammas, *trained}), unit=" gammas", leave=False):
        config = make_config("brownian", reward={"risk_aversion": gamma})
        best = Best.of(config, options.episodes)
        assert best is not None
        policies = [tune(name, config).policy for name in CLOSED_FORMS] + trained.get(gamma, [])
        outcomes = [best.outcome, *(simulate(policy, config, options.episodes) for policy in policies)]
        for outcome in outcomes:
            tail = worst(outcome.returns)
            places.setdefault(outcome.name, []).append((tail, outcome.returns.mean()))
            rows.append(_row(gamma, outcome, tail, best))
    headings = "gamma", "policy", "mean", "deviation", "worst 1%", "certainty\nequivalent, %"
    legend = ["Worst 1%: mean of those episodes. Percent: of the exact optimum, paired, 95%."]
    Sheet.of_rows("brownian, exponential utility", headings, rows, legend=legend).print(Console())
    if options.output is not None:
        _draw(places, options.output)


def _row(gamma: float, outcome: Outcome, tail: float, best: Best) -> tuple[str, ...]:
    returns = outcome.returns
    moments = f"{returns.mean():.1f}", f"{returns.std():.1f}", f"{tail:.1f}"
    return f"{gamma:g}", outcome.name, *moments, best.percent(outcome).text(".1f")


def _draw(places: dict[str, list[tuple[float, float]]], output: Path) -> None:
    """Mean against the mean of the worst 5%, a line for each family of policies."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, found in places.items():
        tail, mean = np.array(found).T
        axes.plot(tail, mean, "o" if name == "trained" else ".-", label=name)
    axes.set(xlabel="mean of the worst percent of episodes", ylabel="mean of all")
    axes.set_title("brownian: from bold to averse")
    axes.legend(frameon=False)
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
