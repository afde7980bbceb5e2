"""`neuralmm evaluate MODEL`: a policy against the optimum and the baselines, on the same paths."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from mmenv.checks import ConfigError, differences
from mmenv.config import EnvConfig, check_orders, check_reach, check_single, make_config
from mmenv.data.currency import currency_of
from mmenv.data.tape import TapeInfo, tapes
from mmenv.files import replacing
from mmenv.market.base import Market
from mmenv.market.book import Book
from mmenv.market.replay import Replay, tapes_of
from mmenv.market.replay_basket import ReplayBasket
from mmenv.measure.naming import named_market
from mmenv.progress import progress_bar
from mmenv.sheet import Sheet, write_csv, write_markdown
from policies.base import POLICIES, Policy, tuned_policies
from policies.bundle import SUFFIX
from policies.bundle import load as load_bundle
from policies.make import make_policy, split_parameters
from policies.network.trained import TrainedPolicy
from policies.sb3 import BEST, ENV_CONFIG, SavedModel, is_ours, load_model, model_file, there
from train.baselines import Scale, best_parameters, closed_form_config, make_baselines, scale, that_fits
from train.frontier import picture
from train.ladder import ladder_of, ladder_sheets, summary
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.options.evaluate import Evaluate
from train.simulate import TERMS, Interval, Outcome, simulate

FRONTIER = "frontier.png"
"""The picture beside the tables, where a policy has an appetite for risk."""


def load(path: Path, config: EnvConfig | None = None) -> tuple[FastRecurrentPPO, EnvConfig]:
    """A saved model and the configuration it was made under.

    Raises `ConfigError` where `config` is given and differs, naming the fields; `FileNotFoundError` where
    there is no model.
    """
    file = there(path / BEST if path.is_dir() else path)
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


def on_tape(
    config: EnvConfig,
    store: Path,
    symbol: str,
    venue: str = "*",
    day: str = "*",
    maker_fee_bp: float | None = None,
    step_seconds: float | None = None,
) -> EnvConfig:
    """A model's configuration, its actions and observations kept, over the test split of recorded tapes.

    The fee is each tape's own where none is given, and the time between decisions that of the market that the
    model is from. Latency and queue are those of the tapes that it was trained on, else `Replay`'s.
    """
    if not isinstance(config.market, ReplayBasket):
        check_single(config, "recorded tapes")
    trained = config.market
    chosen: dict[str, Any] = {"store": str(store), "venue": venue, "symbol": symbol, "day": day}
    chosen |= {"split": "test", "own_fees": maker_fee_bp is None}
    chosen["step_seconds"] = trained.step_seconds if step_seconds is None else step_seconds
    market = dataclasses.replace(trained, **chosen) if isinstance(trained, Replay) else Replay(**chosen)
    fee = {} if maker_fee_bp is None else {"maker_fee_bp": maker_fee_bp}
    tape = make_config(market, features=config.features, **fee)
    return dataclasses.replace(tape, quote=config.quote, risk=config.risk, horizon=config.horizon)


def on_tapes(config: EnvConfig, options: Evaluate) -> dict[str, EnvConfig]:
    """A configuration for each symbol of a venue in the store, by what its table is called.

    Symbols are not mixed: each has its own fee, units and currency. Raises `ConfigError` for a symbol that
    the policy cannot be played on, naming the option that leaves it out.
    """
    assert options.store is not None
    check_orders(Replay(store=str(options.store)), config.quote)
    if isinstance(config.market, ReplayBasket):
        return _on_all(config, config.market, options)
    found = {}
    chosen = tapes(options.store, options.venue, options.symbol, options.day)
    for venue, symbol in dict.fromkeys((tape.info.venue, tape.info.symbol) for tape in chosen):
        try:
            tape = on_tape(config, options.store, symbol, venue, options.day, options.fees, options.step)
            check_reach(tape.market, tape.quote)  # the box is that of the market the policy is from
            tape = that_fits(tape)
            feed = tape.market.attach(1, tape.horizon, tape.risk.position_limit)  # or it has no stretch
            assert feed is not None
            feed.close()
        except ValueError as error:
            raise ConfigError(
                f"{symbol} of {venue} in {options.store}: {str(error).rstrip('.')}. Leave it out with "
                "--venue, --symbol or --day, or decide at shorter intervals with --step."
            ) from None
        info = next(tape.info for tape in chosen if (tape.info.venue, tape.info.symbol) == (venue, symbol))
        pace = f"{tape.horizon} decisions, one every {tape.market.step_seconds:g} s"
        found[f"{symbol} of {venue}, test split, {pace}, {unit_of(info, tape)}"] = tape
    return found


def _on_all(config: EnvConfig, market: ReplayBasket, options: Evaluate) -> dict[str, EnvConfig]:
    """The one configuration of a policy of several symbols: all that it quotes, at once."""
    assert options.store is not None
    tape = that_fits(
        on_tape(config, options.store, "*", options.venue, options.day, options.fees, options.step)
    )
    pace = f"{tape.horizon} decisions, one every {tape.market.step_seconds:g} s"
    first = tapes_of(market.alone()[0])[0].info
    return {f"{' and '.join(market.symbols)}, test split, {pace}, {unit_of(first, tape)}": tape}


def unit_of(info: TapeInfo, config: EnvConfig) -> str:
    """What a price unit x lot is worth on a tape, and the fee."""
    fee = info.maker_fee_bp if getattr(config.market, "own_fees", False) else config.maker_fee_bp
    currency = currency_of(info.symbol, info.contract, info.venue)
    if info.contract == "inverse":  # what it is worth depends on the price
        return f"profits in {currency}, fee {fee:g} bp"
    money = config.market.price_scale * float(info.tick_size) / 2 * float(info.lot_size)
    return f"a price unit x lot is {money * float(info.contract_size):.4g} {currency}, fee {fee:g} bp"


def compare(policies: list[Policy], config: EnvConfig, episodes: int) -> list[Outcome]:
    """Each policy over the same episodes, with a progress bar; the first acts by `config`, its rivals by
    `closed_form_config`."""
    rivals = closed_form_config(config)
    with progress_bar(total=episodes * len(policies), unit=" episodes", leave=False) as bar:
        outcomes: list[Outcome] = []
        for policy in policies:
            bar.set_description(f"evaluating {policy.name}")
            under = rivals if outcomes else config
            outcomes.append(simulate(policy, under, episodes, progress=bar.update))
    return outcomes


def value_sheet(title: str, outcomes: list[Outcome], measure: Scale | None) -> Sheet:
    """A row for each policy: its value, and the paired difference to the first row."""
    first = outcomes[0]
    values = [outcome.value() for outcome in outcomes]
    less = [outcome.minus(first) for outcome in outcomes[1:]]
    form = f".{decimals([*values, *less])}f"
    columns = {
        "policy": [outcome.name for outcome in outcomes],
        "value\n[95% interval]": [value.text(form) for value in values],
    }
    if measure:
        heading = measure.label.replace("% of ", "% of\n")
        exact = [measure.exact(outcome.name) for outcome in outcomes]
        columns["exact\nvalue"] = ["" if math.isnan(value) else f"{value:{form}}" for value in exact]
        columns[heading] = [f"{share:.1f}" for share in measure.percents(outcomes)]
    if less:
        columns[f"minus {first.name}\n[paired, 95%]"] = ["", *(one.text(form) for one in less)]
    quoted = {outcome.name: float(outcome.quoted.mean()) for outcome in outcomes}
    if any(share < 1 for name, share in quoted.items() if name != "no-trade"):  # or no side was ever left
        columns["sides\nquoted"] = [f"{100 * share:.0f}%" for share in quoted.values()]
    return Sheet(title, columns, legend(outcomes, measure))


def legend(outcomes: list[Outcome], measure: Scale | None) -> tuple[str, str]:
    """What the rows are, which of them is the bound, and what the percentages are of."""
    rest = " The rest are baselines, tuned alike." if len(outcomes) > 1 else ""
    if measure is None:
        return (
            f"Judged: {outcomes[0].name}.{rest} No row is a bound.",
            "Value: mean reward of an episode, its zero-mean noise taken off, or what the title says.",
        )
    scale = f"Percent of optimum: {measure.bottom} is 0%, {measure.top} is 100%."
    if measure.gap:
        scale = f"Memory gap: {measure.bottom} (no memory) is 0%, {measure.top} is 100%."
    return f"Judged: {outcomes[0].name}. Bound: {measure.top}.{rest}", scale


def parts_sheet(outcomes: list[Outcome]) -> Sheet:
    """A row for each policy: where its value comes from."""
    form = f".{decimals([outcome.value() for outcome in outcomes])}f"
    columns = {"policy": [outcome.name for outcome in outcomes]}
    for term in TERMS[:-1]:
        means = [outcome.terms[term].mean() for outcome in outcomes]
        columns[term.replace("inventory", "inv.").replace("_", "\n")] = [
            f"{mean + 0.0:{form}}" for mean in means
        ]
    columns["fills"] = [f"{outcome.terms['fills'].mean():.1f}" for outcome in outcomes]
    columns["mean\n|pos|"] = [f"{outcome.inventory.mean():.2f}" for outcome in outcomes]
    return Sheet("Where it comes from: capture + selection + carry - fees - penalty", columns)


def decimals(intervals: list[Interval]) -> int:
    """How many decimals show two digits of the usual half-width: what more there were would be chance."""
    halves = [(one.high - one.low) / 2 for one in intervals if one.high > one.low]
    return int(np.clip(1 - np.floor(np.log10(np.median(halves))), 0, 6)) if halves else 2


def csv_rows(kind: str, outcomes: list[Outcome], measure: Scale | None) -> list[dict[str, Any]]:
    """What the tables show and more, unrounded: a row for each policy on the market `kind`."""
    rows = []
    percents = measure.percents(outcomes) if measure else []
    for k, outcome in enumerate(outcomes):
        value, less = outcome.value(), outcome.minus(outcomes[0])
        row: dict[str, Any] = {"market": kind, "policy": outcome.name, "episodes": len(outcome.returns)}
        row |= {"value": value.mean, "value_low": value.low, "value_high": value.high}
        if measure:
            row |= {"exact_value": measure.exact(outcome.name), measure.label: percents[k]}
        row |= {"minus_first": less.mean, "minus_first_low": less.low, "minus_first_high": less.high}
        row |= {term: float(outcome.terms[term].mean()) for term in TERMS}
        row |= {"mean_absolute_inventory": float(outcome.inventory.mean())}
        rows.append(row | {"quoted_share_of_sides": float(outcome.quoted.mean())})
    return rows


def judged_policy(options: Evaluate) -> tuple[EnvConfig, Callable[[EnvConfig], Policy]]:
    """The configuration that `options.model` is judged under, and what makes its policy for another one."""
    path, text = options.model, str(options.model)
    file = model_file(path)
    if file is not None and file.exists() and not is_ours(file):
        return _judged_model(load_model(file), options.market)
    if file is None and path.suffix != SUFFIX and (path.exists() or "/" not in text):
        if options.market is None:
            POLICIES.find(split_parameters(text)[0])  # what is not known is said first
            raise ConfigError(f"--market = None is not possible: name the market that {text!r} plays on.")
        return make_config(named_market(options.market)), lambda config: named_policy(
            text, config, options.calibration
        )
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


def named_policy(text: str, config: EnvConfig, calibration: Path | None) -> Policy:
    """The policy of a name; without parameters, one that has some to tune is tuned."""
    if text in tuned_policies():
        return make_policy(text, config, **best_parameters(text, config, calibration))
    return make_policy(text, config)


def _judged_model(model: SavedModel, market: str | None) -> tuple[EnvConfig, Callable[[EnvConfig], Policy]]:
    """The same of a model that Stable-Baselines3 saved."""
    if model.env_config is None and market is None:
        raise ConfigError(
            f"--market = None is not possible: {model.path} does not say which it was trained on; name it."
        )
    if model.env_config is not None and market is not None:
        raise ConfigError(
            f"--market = {market!r} is not possible: {model.path} brings its own; leave it out."
        )
    return model.env_config or make_config(named_market(str(market))), model.policy


@dataclass
class Report:
    """What an evaluation found: to print, and to keep as Markdown and as rows of a CSV."""

    console: Console
    wide: bool
    folder: Path | None
    """Where it is kept."""
    judged: Outcome | None = None
    """The judged policy on its own market."""
    percent: float | None = None
    """Its value on the scale of the optimum, where that is known."""
    parts: list[Sheet | str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    frontier: Figure | None = None
    """Mean against bad episodes, where the policy was trained for an appetite for risk."""

    def add(self, *parts: Sheet | str) -> None:
        """Print a part, and keep it."""
        for part in parts:
            if isinstance(part, Sheet):
                part.print(self.console, self.wide)
            else:
                self.console.print(part, highlight=False)
        self.parts += parts

    def keep(self) -> None:
        """Write both files anew."""
        if self.folder is not None:
            write_markdown(self.folder / "evaluation.md", *self.parts)
            write_csv(self.folder / "evaluation.csv", self.rows)
            if self.frontier is not None:
                with replacing(self.folder / FRONTIER) as temporary:
                    self.frontier.savefig(temporary, dpi=120, format="png")


def report(options: Evaluate, console: Console) -> Report:
    """Print the tables that `options` asks for, and keep them."""
    config, make = judged_policy(options)
    recorded = {} if options.store is None else on_tapes(config, options)  # before any work, or it is refused
    found = Report(console, options.wide, options.out or run_folder(options.model))
    title = title_of(config.market)
    found.judged, found.percent = _judge(options, config, make(config), options.episodes, title, found)
    if options.baselines and isinstance(config.market, Book):
        _add_ladder(config, found.judged, found)
    found.keep()
    for title, tape in recorded.items():
        _judge(options, tape, make(tape), options.tape_episodes, title, found)
        found.keep()
    if recorded:
        found.add("Intervals on tapes: by blocks of tape time. Minutes of data prove no profit.")
        found.keep()
    if found.folder is not None:
        more = "" if found.frontier is None else f", {FRONTIER}"
        console.print(f"Kept in {found.folder}: evaluation.md, evaluation.csv{more}", soft_wrap=True)
    return found


def title_of(market: Market) -> str:
    """A market's name, and whether it is simulated or which part of its tapes is played."""
    if isinstance(market, (Replay, ReplayBasket)):
        return f"{market.name}, recorded, {market.split} split"
    return f"{market.name}, simulated"


def run_folder(model: Path) -> Path | None:
    """The folder of the run that `model` is or lies in, where it may be written to."""
    folder = model if model.is_dir() else model.parent
    return folder if (folder / "config.json").exists() and os.access(folder, os.W_OK) else None


def _add_ladder(config: EnvConfig, judged: Outcome, found: Report) -> None:
    """What is known of the value of this `book`, and where the judged policy stands."""
    try:
        rows = ladder_of(config, judged)
    except ConfigError as error:
        found.add(f"No ladder of values: {error}")
        return
    found.add(*ladder_sheets("What is known of this market", rows), summary(rows, judged.name))


def _judge(
    options: Evaluate, config: EnvConfig, judged: Policy, episodes: int, title: str, found: Report
) -> tuple[Outcome, float | None]:
    """Add the tables of one market; the judged policy's outcome, and its percentage where there is one."""
    policies = [judged]
    if options.baselines:
        with progress_bar(desc="preparing baselines", bar_format="{desc}", leave=False) as bar:
            policies += make_baselines(
                closed_form_config(config),
                lambda name: bar.set_description_str(f"preparing {name}"),
                options.calibration if isinstance(config.market, Replay) else None,
                lambda sentence: Console(stderr=True).print(sentence, highlight=False),
            )
    outcomes, measure = compare(policies, config, episodes), scale(config)
    if options.baselines and found.frontier is None:
        found.frontier = picture(config, outcomes)
    if judged.name in [outcome.name for outcome in outcomes[1:]]:
        outcomes[0] = dataclasses.replace(outcomes[0], name=f"{judged.name}, judged")
    title = f"{title}: {episodes:,} episodes, price units x lots an episode"
    if config.reward.risk_aversion and not isinstance(config.market, Replay):
        title += f", certainty equivalent at gamma = {config.reward.risk_aversion:g}"
    if config.reward.shortfall_weight and not isinstance(config.market, Replay):
        weight, level = config.reward.shortfall_weight, config.reward.shortfall_level
        title += f", mean less {weight:g} x shortfall of the worst {level:.3g}"
    found.add(value_sheet(title, outcomes, measure), parts_sheet(outcomes))
    if found.frontier is not None and found.folder is not None and not found.rows:
        found.parts.append(f"![Mean of all episodes against the mean of the worst]({FRONTIER})")
    found.rows += csv_rows(config.market.name, outcomes, measure)
    percent = None if measure is None else measure.percents(outcomes)[0]
    return outcomes[0], percent


def main(options: Evaluate) -> None:
    """Run `neuralmm evaluate`."""
    # One thread: at this size a second one costs more than it brings.
    torch.set_num_threads(1)
    report(options, Console())
