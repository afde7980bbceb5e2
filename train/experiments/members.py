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
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.desk.family import base_values, member
from mmenv.market.varied import Distribution
from mmenv.progress import progress_bar
from mmenv.sheet import Sheet, write_csv, write_markdown
from policies.base import POLICIES, Policy
from policies.make import split_parameters
from policies.sb3 import model_file, there
from train.baselines import Best, closed_form_config
from train.evaluate import decimals
from train.options.experiments import Members
from train.simulate import EVALUATION_SEED, Outcome, simulate
from train.sources import is_model, make_source, model_config, short_names

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
    best: Best | None
    """What is known exactly of the member, on the same paths."""


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


def best_of(config: EnvConfig, values: Member, episodes: int, seed: int = EVALUATION_SEED) -> Best | None:
    """What cannot be beaten on a member of `config`'s family."""
    return Best.of(member(able(config, [values]), values), episodes, seed)


def compare(
    policies: Sequence[tuple[Policy, EnvConfig]],
    members: Sequence[Member],
    episodes: int,
    progress: Callable[[int], Any] | None = None,
) -> list[Row]:
    """Each policy, as it was made, on each member; then on the first one's family, if it has one."""
    rows = []
    played = [play(policy, config, members, episodes, progress=progress) for policy, config in policies]
    first = policies[0][1]
    for values, outcomes in zip(members, zip(*played, strict=True), strict=True):
        name = ", ".join(f"{key} = {value:g}" for key, value in values.items())
        rows.append(Row(name, outcomes, best_of(first, values, episodes)))
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


def sheet(title: str, rows: Sequence[Row], names: Sequence[str]) -> Sheet:
    """A row for each member; for all but the first policy also the paired difference to it."""
    form = f".{decimals([outcome.value() for row in rows for outcome in row.outcomes])}f"
    columns = {"member": [row.name.replace(", ", ",\n") for row in rows]}
    known = next((row.best.scale for row in rows if row.best), None)
    legend = ["Value: mean reward of an episode, price units x lots; all on the same paths."]
    if known:
        exact = [f"{row.best.scale.one:{form}}" if row.best else "" for row in rows]
        columns[f"{known.top},\nexact value"] = exact
        legend.append(f"{known.label}: {known.bottom} is 0%, {known.top} is 100%, of each member.")
    for k, name in enumerate(names):
        outcomes = [row.outcomes[k] for row in rows]
        columns[f"{name},\nvalue"] = [outcome.value().text(form) for outcome in outcomes]
        if known:
            columns[f"{name},\n{known.label}"] = [
                row.best.percent(outcome).text(".1f") if row.best else ""
                for row, outcome in zip(rows, outcomes, strict=True)
            ]
        if k:
            less = [outcome.minus(row.outcomes[0]) for row, outcome in zip(rows, outcomes, strict=True)]
            columns[f"{name}\nminus {names[0]}"] = [one.text(f".{decimals(less)}f") for one in less]
    return Sheet(title, columns, legend)


def csv_rows(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """What the table shows, unrounded: a row for each policy on each member."""
    found = []
    for row in rows:
        for name, outcome in zip(names, row.outcomes, strict=True):
            figures = {"value": outcome.value(), "minus_first": outcome.minus(row.outcomes[0])}
            if row.best:
                figures[row.best.scale.label] = row.best.percent(outcome)
            told: dict[str, Any] = {"member": row.name, "policy": name, "episodes": len(outcome.returns)}
            for figure, (mean, low, high) in figures.items():
                told |= {figure: mean, f"{figure}_low": low, f"{figure}_high": high}
            found.append(told)
    return found


def read(names: Mapping[str, str], market: str | None) -> list[tuple[Policy, EnvConfig]]:
    """Policies, by what they are called, and what each was made under. Where one does not say so, it plays as
    the first that does, or on `market`."""
    configs = {text: model_config(text) for text in names}
    shared = next(filter(None, configs.values()), None)
    if shared is None and market is not None:
        shared = make_config(market)
    found = []
    for text, name in names.items():
        config = configs[text] or shared
        if config is None:
            if is_model(text):
                there(model_file(text) or Path(text))
            else:
                POLICIES.find(split_parameters(text)[0])  # what is not known is said first
            raise ConfigError(f"--market = None is not possible: {text} does not say on which it plays.")
        config = config if is_model(text) else closed_form_config(config)
        played: Any = make_source(text, name, config)[0].make(config)
        found.append((getattr(played, "policy", played), config))
    return found


def main(options: Members) -> None:
    """Run `neuralmm members`."""
    if not options.models:
        raise ConfigError("name at least one model: the folder of a run of `neuralmm train`.")
    torch.set_num_threads(1)
    members = [parse(text) for text in options.members]
    names = short_names(list(options.models))
    policies = read(names, options.market)
    runs = len(policies) * (len(members) + bool(policies[0][1].randomise))
    with progress_bar(total=options.episodes * runs, unit=" episodes", leave=False) as bar:
        rows = compare(policies, members, options.episodes, bar.update)
    title = f"Members of {policies[0][1].market.name}: {options.episodes:,} episodes each [95% interval]"
    table = sheet(title, rows, list(names.values()))
    table.print(Console(), options.wide)
    if options.out is not None:
        write_markdown(options.out / "members.md", table)
        write_csv(options.out / "members.csv", csv_rows(rows, list(names.values())))
        print(f"Kept in {options.out}: members.md, members.csv")
