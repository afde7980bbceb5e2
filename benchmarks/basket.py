"""What it is worth to know of the other assets: `python -m benchmarks.basket [MODEL ...] [--output FILE]`.

For each correlation with the factor the exact values of a `basket` of two: the optimum, each asset alone and
the closed forms, tuned. Models of `neuralmm train --market basket` are judged beside them on the same paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from tqdm import tqdm

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.files import replacing
from mmenv.sheet import Sheet
from policies.basket.ladder import CLOSED_FORMS, exact_value, tuned
from policies.basket.policy import AssetsAlone, BasketOptimum
from policies.network.trained import TrainedPolicy
from train.baselines import Best, make_baselines
from train.evaluate import load
from train.simulate import simulate


@dataclass(frozen=True, kw_only=True)
class Options:
    """Values of a basket by how closely its assets move together."""

    models: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Runs or models of `neuralmm train --market basket`."""
    loadings: tuple[float, ...] = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99)
    """Correlations of either asset with the factor."""
    episodes: int = 20_000
    """On which models are judged."""
    output: Path | None = None
    """Picture of the values, and of the optimal quotes."""


def main(options: Options) -> None:
    """Print the tables and draw the picture."""
    names = ["assets-alone", *(form.name for form in CLOSED_FORMS)]
    rows, shares = [], []
    for loading in tqdm(options.loadings, unit=" baskets", leave=False):
        config = make_config({"name": "basket", "loadings": loading})
        best = BasketOptimum(config).solution.value
        others = [AssetsAlone(config), *(tuned(form, config) for form in CLOSED_FORMS)]
        shares.append([100 * exact_value(policy) / best for policy in others])
        rows.append((f"{loading**2:.2f}", f"{best:.2f}", *(f"{share:.1f}" for share in shares[-1])))
    headings = ("correlation", "optimum", *(f"{name},\n% of it" for name in names))
    Sheet.of_rows("basket: exact values from no position", headings, rows).print(Console())
    if options.output is not None:
        draw(options, names, np.array(shares))
    if options.models:
        judge(options)


def judge(options: Options) -> None:
    """Print what the models earn beside the baselines, on the same paths."""
    judged = [load(model) for model in options.models]
    config = judged[0][1]
    for model, (_, other) in zip(options.models, judged, strict=True):
        if other != config:
            raise ConfigError(f"{model} was trained under another configuration than {options.models[0]}.")
    best = Best.of(config, options.episodes)
    assert best is not None
    policies = [
        TrainedPolicy(model.policy, path.name)
        for path, (model, _) in zip(options.models, judged, strict=True)
    ]
    rows = []
    for policy in [*policies, *make_baselines(config)[1:-1]]:
        outcome = simulate(policy, config, options.episodes)
        rows.append((policy.name, outcome.value().text(".2f"), best.percent(outcome).text(".2f")))
    Sheet.of_rows("basket: simulated", ("policy", "value", "% of the exact [paired, 95%]"), rows).print(
        Console()
    )


def draw(options: Options, names: list[str], shares: np.ndarray) -> None:
    """Values by correlation; and how the best quotes of the second asset depend on both positions."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    correlations = np.square(options.loadings)
    left.axhline(100, color="black", linewidth=1, label="optimum")
    for k, name in enumerate(names):
        left.plot(correlations, shares[:, k], "o-", label=name)
    left.set(xlabel="correlation of the two assets", ylabel="% of the exact optimum")
    left.set_title("What it is worth to know of the other")
    left.legend(frameon=False)
    config = make_config("basket")
    optimum, limit = BasketOptimum(config), config.risk.position_limit
    held = np.arange(-limit, limit + 1)
    for first, colour in ((-limit, "tab:blue"), (0, "tab:grey"), (limit, "tab:red")):
        positions = np.stack([np.full_like(held, first), held], axis=1)
        ask, bid = middle(config, optimum, positions)
        right.plot(held[1:], ask[1:], "o-", color=colour, label=f"{first:+d} of asset 1")
        right.plot(held[:-1], -bid[:-1], "o--", color=colour)
    right.axhline(0, color="black", linewidth=0.5)
    right.set(xlabel="position in asset 2, lots", ylabel="ask (solid) and bid less mid, price units")
    right.set_title("Best quotes of asset 2 (not liquid)")
    right.legend(frameon=False)
    assert options.output is not None
    with replacing(options.output) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def middle(config: EnvConfig, policy: BasketOptimum, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quotes of the second asset in the middle of the episode."""
    ask, bid = policy.rule(config.horizon // 2, positions)
    return ask[:, 1], bid[:, 1]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
