"""`neuralmm evaluate MODEL`: a policy against the optimum and the baselines, on the same paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmenv.actions.base import make_action
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.checks import ConfigError, differences
from mmenv.config import EnvConfig, make_config
from mmenv.files import replacing
from mmenv.market.book import Book
from mmenv.market.replay import Replay
from policies.base import POLICIES, Policy
from policies.bundle import SUFFIX
from policies.bundle import load as load_bundle
from policies.make import known_policies, make_policy
from policies.network.trained import TrainedPolicy
from train.baselines import Scale, make_baselines, scale
from train.ladder import ladder_of, ladder_table, summary
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.simulate import TERMS, Outcome, simulate

ENV_CONFIG = "env_config"
"""Attribute of a saved model: the configuration of its environment, as `EnvConfig.to_dict` gives it."""


@dataclass(frozen=True)
class Evaluate:
    """Print the table of a policy, the optimum and the baselines, all on the same market paths."""

    model: tyro.conf.Positional[Path]
    """A saved model (.zip), the folder of a run (its best model), a bundle (.mmz), or, with --market, the
    name of a policy such as glft:gamma=0.1, or module:name."""
    market: str | None = None
    """Market of a policy by name; a model and a bundle bring theirs."""
    episodes: int = 4096
    """Simulated episodes."""
    store: Path | None = None
    """Store of recorded tapes (`neuralmm import`): the same policies on its test split."""
    symbol: str = "*"
    """Which symbols of the store."""
    tape_episodes: int = 64
    """Recorded episodes."""
    calibration: Path | None = None
    """What `neuralmm calibrate` wrote of this symbol: analytic policies on tapes are fed from it."""
    baselines: bool = True
    """Compare with optimum and baselines."""


def wide_console() -> Console:
    """A console that does not fold the table where its output is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=180)


def save_table(path: Path, *content: Any) -> None:
    """Print to a file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w") as file:
        Console(file=file, width=160).print(*content)


def load(path: Path, config: EnvConfig | None = None) -> tuple[FastRecurrentPPO, EnvConfig]:
    """A saved model and the configuration it was made under.

    Raises `ConfigError` where `config` is given and differs, naming the fields; `FileNotFoundError` where
    there is no model.
    """
    file = path / "best_model.zip" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"{file}: there is no model; `neuralmm train` makes one.")
    try:
        model = FastRecurrentPPO.load(file, device="cpu")
    except Exception as error:
        raise ConfigError(f"{file} is not a readable model ({error}); train it again.") from error
    stored = getattr(model, ENV_CONFIG, None)
    if not isinstance(stored, dict):
        raise ConfigError(
            f"{file} does not say under which environment it was trained; train it with `neuralmm train`."
        )
    made = make_config(**stored)
    if config is not None and config.schema_id != made.schema_id:
        differ = "; ".join(differences(made.to_dict(), config.to_dict()))
        raise ConfigError(
            f"{file} was trained under another configuration ({differ}). Use the one it was trained under."
        )
    return model, made


def on_tape(config: EnvConfig, store: Path, symbol: str) -> EnvConfig:
    """A model's configuration, its actions and observations kept, over the test split of recorded tapes."""
    tape = make_config(Replay(store=str(store), symbol=symbol, split="test"), features=config.features)
    return dataclasses.replace(tape, quote=config.quote, risk=config.risk, horizon=config.horizon)


def closed_form_config(config: EnvConfig) -> EnvConfig:
    """The configuration that baselines quote under: `config` with the default action, whose box any pair of
    distances fits. What the others do on a path is the same under any action."""
    if isinstance(config.quote, SpreadSkew):
        return config
    return dataclasses.replace(config, quote=make_action(None, config.market.defaults().get("quote", {})))


def compare(policies: list[Policy], config: EnvConfig, episodes: int) -> list[Outcome]:
    """Each policy over the same episodes, with a progress bar; the first acts by `config`, its rivals by
    `closed_form_config`."""
    rivals = closed_form_config(config)
    with tqdm(total=episodes * len(policies), unit=" episodes", leave=False) as bar:
        outcomes: list[Outcome] = []
        for policy in policies:
            bar.set_description(f"evaluating {policy.name}")
            under = rivals if outcomes else config
            outcomes.append(simulate(policy, under, episodes, progress=bar.update))
    return outcomes


def table(title: str, outcomes: list[Outcome], measure: Scale | None) -> Table:
    """A row for each policy; the last column is the paired difference to the first row."""
    result = Table(
        title=title, caption="price units x lots per episode; intervals 95%, bootstrap over episodes"
    )
    columns = [
        "policy",
        "value",
        *([measure.label] if measure else []),
        "spread capture",
        "adverse selection",
    ]
    columns += [
        "carry",
        "fees",
        "inventory penalty",
        "fills",
        "mean |inventory|",
        f"minus {outcomes[0].name}",
    ]
    for name in columns:
        result.add_column(name, justify="left" if name == "policy" else "right")
    for outcome in outcomes:
        value = outcome.value()
        cells = [outcome.name, value.text(".2f")]
        if measure:
            cells.append(f"{measure.percent(value.mean):.1f}")
        means = {term: float(outcome.terms[term].mean()) for term in TERMS}
        cells += [f"{means[term]:.2f}" for term in TERMS[:-1]] + [f"{means['fills']:.1f}"]
        cells.append(f"{outcome.inventory.mean():.2f}")
        cells.append("" if outcome is outcomes[0] else outcome.minus(outcomes[0]).text(".2f"))
        result.add_row(*cells)
    return result


def judged_policy(options: Evaluate) -> tuple[EnvConfig, Callable[[EnvConfig], Policy]]:
    """The configuration that `options.model` is judged under, and what makes its policy for another one."""
    path, text = options.model, str(options.model)
    if not path.exists() and (":" in text or text in POLICIES):
        if options.market is None:
            raise ConfigError(f"--market = None is not possible: name the market that {text!r} plays on.")
        return make_config(options.market), lambda config: make_policy(text, config)
    if options.market is not None:
        raise ConfigError(
            f"--market = {options.market!r} is not possible: {path} brings its own; leave it out."
        )
    if path.suffix == SUFFIX:
        bundle = load_bundle(path)
        return bundle.config, lambda config: bundle.policy()
    model, config = load(path)
    trained = TrainedPolicy(model.policy)
    return config, lambda config: trained


def report(options: Evaluate, console: Console) -> None:
    """Print the tables that `options` asks for."""
    config, make = judged_policy(options)
    title, outcomes, measure = _rows(
        options, config, make(config), options.episodes, f"{config.market.name}, simulated"
    )
    console.print(table(title, outcomes, measure))
    if options.baselines and isinstance(config.market, Book):
        _print_ladder(config, outcomes[0], console)
    if options.store is not None:
        tape = on_tape(config, options.store, options.symbol)
        title = (
            f"recorded tapes {options.store} {options.symbol}, test split (minutes of data prove no profit)"
        )
        console.print(table(*_rows(options, tape, make(tape), options.tape_episodes, title)))


def _print_ladder(config: EnvConfig, judged: Outcome, console: Console) -> None:
    """What is known of the value of this `book`, and where the judged policy stands."""
    try:
        rows = ladder_of(closed_form_config(config), judged)
    except ConfigError as error:
        console.print(f"No ladder of values: {error}", highlight=False)
        return
    console.print(ladder_table("what is known of this market", rows))
    console.print(summary(rows, judged.name), highlight=False)


def _rows(
    options: Evaluate, config: EnvConfig, judged: Policy, episodes: int, title: str
) -> tuple[str, list[Outcome], Scale | None]:
    policies = [judged]
    left_out: list[str] = []
    if options.baselines:
        with tqdm(desc="preparing baselines", bar_format="{desc}", leave=False) as bar:
            given = options.calibration if isinstance(config.market, Replay) else None
            policies += make_baselines(
                closed_form_config(config),
                lambda name: bar.set_description_str(f"preparing {name}"),
                given,
                left_out.append,
            )
    for sentence in left_out:
        Console(stderr=True).print(sentence, highlight=False)
    return f"{title}: {episodes} episodes", compare(policies, config, episodes), scale(config)


def main() -> None:
    """Command line: see `Evaluate`."""
    # One thread: at this size a second one costs more than it brings.
    torch.set_num_threads(1)
    report(tyro.cli(Evaluate, description=f"{Evaluate.__doc__}\n\n{known_policies()}"), wide_console())
