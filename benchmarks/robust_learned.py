"""Fixed, random and adversarial training, learned: `python -m benchmarks.robust_learned [--steps 1000000]`.

PPO beside what `benchmarks.robust --drift 0.1 --members 12` computes exactly: for the nominal market, for
members drawn by the percentage of their optimum, and against an adversary who chooses rate and decay of the
orders and how far the mid moves against a position (Spooner and Savani 2020; `train.papers.members`). What is
learned is a function of time and position, so its percentages are exact too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console

from benchmarks.robust import Member, family_of, optima, read
from benchmarks.robust import Options as Exact
from mmenv.config import EnvConfig, make_config
from mmenv.sheet import Sheet
from policies.solver.blind_family import Quotes
from train.papers.adversary import Adversarial
from train.papers.learned import learn
from train.papers.members import OBSERVED, Chooser, quotes_of
from train.settings import Settings

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Options:
    """What PPO makes of held-out members of `brownian`, trained in three ways."""

    steps: int = 1_000_000
    seeds: tuple[int, ...] = (0, 1)
    drift: float = 0.1
    """The most that the adversary moves the mid against a position, price units a second."""
    members: int = 12
    """Rates and decays in the family; each without drift, with half of it and with all."""


def settings(steps: int, seed: int) -> Settings:
    """Of all three: those of `brownian`, for a feed-forward policy."""
    return Settings(
        market="brownian", steps=steps, seed=seed, gae_lambda=0.8, learning_rate=3e-3, log_std_init=-1.5,
        std_falls=True, cell="none", lstm_size=32, net_arch=(32, 32), prediction_coef=0.0,
    )  # fmt: skip


def market(drift: float) -> EnvConfig:
    """The family, which all members lie inside of."""
    ranges = {"arrival_rate": (0.25, 1.0), "fill_decay": (0.6, 1.7), "drift": (0.0, drift)}
    near = {"max_half_spread": 4.0, "max_skew": 4.0}  # reaches as far, and begins nearer to what is best
    return make_config(Adversarial(drift=0.0), randomise=ranges, features=OBSERVED, quote=near)


def trained(options: Options, family: list[Member], own: Array) -> Iterator[tuple[str, Quotes]]:
    """What each way of training has learned to quote, by name and seed; `own`: exact optima of the family."""
    config, one = market(options.drift), ([Member({}, 0.0)], np.ones(1), False)
    ways = {"fixed": one, "random": (family, own, False), "adversary": (family, own, True)}
    for way, (members, scale, hostile) in ways.items():
        told = [{**each.values, "drift": each.drift} for each in members]
        for seed in options.seeds:
            chooser = Chooser(config, told, family_of(members), scale, hostile)
            name = f"{way}, seed {seed}"
            yield name, quotes_of(learn(config, settings(options.steps, seed), name, chooser), config)


def main(options: Options) -> None:
    """Print the table."""
    family, held_out = read(Exact(drift=options.drift, members=options.members))
    own, out = optima(family), optima(held_out)
    calm = np.array([each.drift == 0 for each in held_out])
    columns = {"member": [each.name.replace(", ", ",\n") for each in held_out]}
    columns["member"] += ["worst without drift", "worst with drift", "mean", "family: worst", "family: mean"]
    columns["member"] += ["half-spread when flat, price units"]
    for name, quotes in trained(options, family, own):
        percents = 100 * family_of(held_out).values(quotes) / out
        inside = 100 * family_of(family).values(quotes) / own
        last = percents[calm].min(), percents[~calm].min(), percents.mean(), inside.min(), inside.mean()
        flat = (quotes.ask + quotes.bid)[:, quotes.ask.shape[1] // 2].mean() / 2
        columns[name.replace(", ", ",\n")] = [*(f"{x:.1f}" for x in (*percents, *last)), f"{flat:.2f}"]
    legend = [f"Percent of the exact optimum of each member, exactly. {options.steps:,} steps of PPO each."]
    Sheet("brownian: trained without being told the member", columns, legend).print(Console())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
