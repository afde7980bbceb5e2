"""`neuralmm members MODEL --members volatility=0.5 volatility=3`: policies on members of a family.

A policy trained on a family (`EnvConfig.randomise`) should do well on members it never saw, inside its ranges
and beyond. Members are named by their parameters; what is not named has the market's own value. Every model
faces the same paths in each member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.desk.family import base_values, member
from mmenv.market.varied import Distribution
from mmenv.progress import progress_bar
from policies.base import Policy
from policies.network.trained import TrainedPolicy
from policies.sb3 import is_ours, load_model, model_file
from train.baselines import Scale, scale
from train.evaluate import load, wide_console
from train.options.experiments import Members
from train.simulate import EVALUATION_SEED, Outcome, simulate

Member = Mapping[str, float]


def parse(text: str) -> dict[str, float]:
    """The parameters of a member written as name=value,name=value."""
    found = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"member {text!r} is not possible: write name=value,name=value.") from None
    return found


def able(config: EnvConfig, members: Sequence[Member]) -> EnvConfig:
    """`config`, with every parameter of the members in its family, so that an episode can be told to have it.

    Raises `ConfigError` where the policy observes the family, whose entries then cannot change.
    """
    known = {d.name for d in config.randomise}
    missing = list(dict.fromkeys(name for values in members for name in values if name not in known))
    if missing and "parameters" in config.features:
        raise ConfigError(
            f"members name {', '.join(missing)}, which the model's family does not have; it observes "
            f"{', '.join(known)}, so name only those."
        )
    own = base_values(config.market, config.maker_fee_bp)
    added = []
    for name in missing:
        if name not in (*config.market.varied, "maker_fee_bp"):
            allowed = ", ".join((*config.market.varied, "maker_fee_bp"))
            raise ConfigError(f"members name {name!r}, which {config.market.name!r} cannot vary: {allowed}.")
        added.append(Distribution(name, "choice", (own[name],)))
    return dataclasses.replace(config, randomise=(*config.randomise, *added))


@dataclass(frozen=True)
class Row:
    """Every policy on one member."""

    name: str
    outcomes: tuple[Outcome, ...]
    scale: Scale | None
    """What is known exactly of the member."""


def play(
    policy: Policy,
    config: EnvConfig,
    members: Sequence[Member],
    episodes: int,
    *,
    seed: int = EVALUATION_SEED,
    progress: Callable[[int], Any] | None = None,
) -> list[Outcome]:
    """A policy made under `config` on each member."""
    family = able(config, members)
    return [
        simulate(policy, family, episodes, seed=seed, parameters=values, progress=progress)
        for values in members
    ]


def compare(
    policies: Sequence[tuple[Policy, EnvConfig]],
    members: Sequence[Member],
    episodes: int,
    progress: Callable[[int], Any] | None = None,
) -> list[Row]:
    """Each policy, as it was made, on each member; then on the first one's family, if it has one."""
    rows = []
    played = [play(policy, config, members, episodes, progress=progress) for policy, config in policies]
    for values, outcomes in zip(members, zip(*played, strict=True), strict=True):
        name = ", ".join(f"{key} = {value:g}" for key, value in values.items())
        rows.append(Row(name, outcomes, scale(member(able(policies[0][1], members), values))))
    first = policies[0][1]
    if first.randomise:
        drawn = dataclasses.replace(first, curriculum_episodes=0)
        outcomes = tuple(
            simulate(policy, _with_family(config, drawn), episodes, progress=progress)
            for policy, config in policies
        )
        rows.append(Row("drawn from the family", outcomes, None))
    return rows


def _with_family(config: EnvConfig, family: EnvConfig) -> EnvConfig:
    return dataclasses.replace(config, randomise=family.randomise, curriculum_episodes=0)


def table(title: str, rows: Sequence[Row]) -> Table:
    """A row for each member; for all but the first policy also the paired difference to it."""
    result = Table(
        title=title, caption="price units x lots per episode; intervals 95%, bootstrap over episodes"
    )
    result.add_column("member")
    names = [outcome.name for outcome in rows[0].outcomes]
    exact = next((row.scale.label for row in rows if row.scale), None)
    for k, name in enumerate(names):
        result.add_column(name, justify="right")
        if exact:
            result.add_column(exact, justify="right")
        if k:
            result.add_column(f"minus {names[0]}", justify="right")
    for row in rows:
        cells = [row.name]
        for k, outcome in enumerate(row.outcomes):
            value = outcome.value()
            cells.append(value.text(".2f"))
            if exact:
                cells.append(f"{row.scale.percent(value.mean):.1f}" if row.scale else "")
            if k:
                cells.append(outcome.minus(row.outcomes[0]).text(".2f"))
        result.add_row(*cells)
    return result


def _read(path: Path, market: str | None) -> tuple[Policy, EnvConfig]:
    """A saved model and what it was trained under, or the `market` where it does not say so."""
    name = path.stem if path.is_file() else path.name
    file = model_file(path)
    if file is None or not file.exists() or is_ours(file):
        model, config = load(path)
        return TrainedPolicy(model.policy, name), config
    stock = load_model(file)
    if stock.env_config is None and market is None:
        raise ConfigError(f"--market = None is not possible: {path} does not say on which it was trained.")
    config = stock.env_config or make_config(str(market))
    return stock.policy(config, name), config


def main(options: Members) -> None:
    """Run `neuralmm members`."""
    if not options.models:
        raise ConfigError("name at least one model: the folder of a run of `neuralmm train`.")
    torch.set_num_threads(1)
    members = [parse(text) for text in options.members]
    policies: list[tuple[Policy, EnvConfig]] = []
    for path in options.models:
        policies.append(_read(path, options.market))
    runs = len(policies) * (len(members) + bool(policies[0][1].randomise))
    with progress_bar(total=options.episodes * runs, unit=" episodes", leave=False) as bar:
        rows = compare(policies, members, options.episodes, bar.update)
    title = f"members of {policies[0][1].market.name}: {options.episodes} episodes each"
    wide_console().print(table(title, rows))
