"""From simulation to the tape: `neuralmm study tape STORE`.

1. Calibrate `book` to the training part of a symbol's recorded time.
2. Compare the stylised facts of the calibrated market with those of that part: what differs is named first
   in the report, for a policy trained there has learned another market.
3. There, in a family around the calibration, teach a forecast of the efficient price, train the recurrent
   policy that observes it, and search the rules.
4. Play the rest of the tape, which nothing was chosen on: policy, rules, GLFT and no-trade, paired on blocks
   of tape time, under every latency and queue model.

Every part is kept in the study's folder: the same command goes on where it ended.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from mmenv.backtest import Entrant, Result, backtest
from mmenv.backtest import Settings as Played
from mmenv.backtest.unit import write_json
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.data.tape import Tape
from mmenv.files import alone
from mmenv.measure.calibrate import calibrate_tapes, write
from mmenv.measure.calibrate_page import one_symbol
from mmenv.measure.facts import Finding, findings
from mmenv.measure.record import record_market, record_tape
from mmenv.report import write_report
from mmenv.run.provenance import PLACES
from mmenv.sheet import Sheet, write_csv, write_markdown
from policies.book.ladder import BEST_RULE, find
from policies.book.rules import FAMILIES
from policies.make import read_parameters
from train.backtest import entrants
from train.baselines import closed_form_config
from train.experiments.tape_page import HEADINGS, Cell, Gate, rows, write_page
from train.options.backtest import Backtest
from train.options.experiments import TapeStudy
from train.run import measured_steps, train
from train.settings import Settings, env_config, judge_config, market_defaults, read_settings, write_settings
from train.signals import signals
from train.signals.settings import Train
from train.sources import Named

FRACTIONS = (0.6, 0.0, 0.4)
"""Of the recorded time for training, validation and test: nothing is validated."""
VARIED = (
    *("volatility", "order_rate", "informed_rate", "pull_rate", "race", "queue_rate", "refill", "response"),
)
"""Parameters of `book` that the training markets vary: how it moves, who trades, how its queues live."""
PACE = {"gamma": 0.998, "gae_lambda": 0.97, "noise_memory": 0.98}
"""What of a value, of what followed and of the noise lasts a tenth of a second (docs/training.md)."""
FORECAST: Final = "fair-value"
"""The signal that the policy observes."""
EPOCHS = 6
"""Passes over the episodes that teach it."""
PATHS, SECONDS = 16, 600.0
"""Paths of the calibrated market, and their length, on which its facts are measured."""
PATH = "trained"
"""The trained policy's folder, and its name in every table."""


def calibrated(study: TapeStudy, days: list[Tape], folder: Path) -> str:
    """The calibrated market, FILE.json:book; raises `ConfigError` where the tape gives none."""
    path = folder / "calibration.json"
    if not path.exists():
        found = calibrate_tapes(days, study.step, study.evaluations)
        if "book" not in found.presets:
            raise ConfigError(
                f"{study.store}: no market `book` could be calibrated, for {found.left_out['book']}."
            )
        write(found, path)
    return f"{path}:book"


def gate(study: TapeStudy, days: list[Tape], market: str) -> list[Gate]:
    """The facts that can be measured on both."""
    recorded = findings(record_tape(days, study.step, split="train"))
    simulated = findings(record_market(market, PATHS, SECONDS, seed=0))
    return [
        Gate(ours.fact.name, ours.estimate, theirs.estimate)
        for ours, theirs in zip(recorded, simulated, strict=True)
        if known(ours) and known(theirs)
    ]


def known(finding: Finding) -> bool:
    """Whether the record held enough for the fact and its interval."""
    return not math.isnan(finding.estimate.low)


def trained(
    study: TapeStudy, market: str, fee: float, observed: tuple[str, ...], folder: Path
) -> tuple[Path, EnvConfig]:
    """Train the policy, or go on; its folder, and the configuration that it is judged under."""
    run = folder / PATH
    if not (run / "config.json").exists():
        settings = settings_of(study, market, fee, observed, folder)
        if settings.steps is None:
            settings = dataclasses.replace(settings, steps=measured_steps(settings, env_config(settings)))
        write_settings(run, settings, env_config(settings))
    settings, config = read_settings(run)
    if not (run / "last_model.zip").exists():
        with alone(run):
            train(settings, config, run)
    return run, judge_config(settings)


def forecast(study: TapeStudy, market: str, console: Console, folder: Path) -> tuple[str, ...]:
    """The setting by which the policy observes the forecast of the efficient price, taught once; none where
    the study wants none."""
    if not study.lessons:
        return ()
    path = folder / FORECAST / signals.SUFFIX
    options = Train(
        name=FORECAST,
        data=market,
        set=(f"horizon={round(study.session / study.step)}", f"randomise={family(study, market)}"),
        sequences=study.lessons,
        epochs=EPOCHS,
        dropout=0.0,
        seed=study.seed,
        logs=folder,
        recordings=folder / "recordings",
        run=FORECAST,
    )
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        signals.train(options, path.parent, console)
    return (f"signals={json.dumps([f'policies.signals:{path}'])}",)


def family(study: TapeStudy, market: str) -> str:
    """The family around the calibration, as JSON."""
    nominal = env_config(market_defaults(market)).market
    width = 1 + study.family
    ranges = {
        name: {"log-uniform": [value / width, value * width]}
        for name in VARIED
        if study.family and (value := getattr(nominal, name)) > 0
    }
    return json.dumps(ranges)


def settings_of(
    study: TapeStudy, market: str, fee: float, observed: tuple[str, ...], folder: Path
) -> Settings:
    """The run's settings: the defaults of `book`, in a family around the calibration."""
    base = market_defaults(market)
    own = (*base.set, *observed, f"horizon={round(study.session / study.step)}", f"maker_fee_bp={fee}")
    return dataclasses.replace(
        base,
        set=(*own, f"randomise={family(study, market)}"),
        judged=("randomise={}",),
        **{name: value ** (study.step / 0.1) for name, value in PACE.items()},
        minutes=study.minutes,
        steps=study.steps,
        seed=study.seed,
        threads=study.threads,
        final_episodes=0,
        logs=folder,
        name=PATH,
    )


def rule_of(config: EnvConfig, console: Console) -> tuple[str, int]:
    """The best imbalance rule of the calibrated market, as "name:parameters", and how many were tried; none,
    with the reason on the console, where the market's queues are too long for the search."""
    try:
        leave, gap, skew = find(closed_form_config(config)).rules[BEST_RULE]
    except ConfigError as error:
        console.print(f"{BEST_RULE} is left out: {error}", highlight=False)
        return "", 0
    tried = len(list(FAMILIES[BEST_RULE].members()))
    return f"{BEST_RULE}:leave={leave:g},rejoin={leave - gap:g},skew={skew:g}", tried


def play(
    study: TapeStudy, run: Path, rule: str, tries: int, fee: float, cell: tuple[float, str], folder: Path
) -> Result:
    """Every policy on the test part under one latency and queue model; kept in `folder`."""
    latency, queue = cell
    asked = Backtest(
        arguments=(str(run), "glft", "no-trade", str(study.store)),
        venue=study.venue,
        symbol=study.symbol,
        fees=fee,
        latency=latency,
        queue=queue,
        split="test",
        fractions=FRACTIONS,
    )
    (policy, glft, nothing), more = entrants(asked)
    # Rules act from the touch as the policy does, but read the observations of the default.
    theirs = make_config(policy.config.market, **{name: getattr(policy.config, name) for name in SHARED})
    name, _, parameters = rule.partition(":")
    rules = [Entrant(Named("touch", "touch", ()), theirs)]
    if rule:
        rules.append(Entrant(Named(name, name, read_parameters(parameters)), theirs))
    settings = Played(sensitivity=False, jobs=1, tries=tries + more)
    return backtest([policy, *rules, glft, nothing], folder, settings)


SHARED = ("quote", "risk", "horizon", "reward", "maker_fee_bp")
"""What the rules play under as the trained policy does."""


def sheet(cells: list[Cell]) -> Sheet:
    """Profit of each policy, and of the trained one less its, under every latency and queue model."""
    found = [row for cell in cells for row in rows(cell)]
    title = f"The test part of the tape, {cells[0].result.currency} [95% interval]"
    legend = ["Intervals by blocks of tape time; those of the last column are of paired differences."]
    return Sheet.of_rows(title, HEADINGS, found, legend=legend, keys=2)


def run(study: TapeStudy, console: Console) -> Path:
    """Do what is not done yet; the folder of the study."""
    days = one_symbol(study.store, study.venue, study.symbol)
    info = days[0].info
    folder = study.logs / f"{info.venue}-{info.symbol}"
    claim(study, folder)
    fee = float(info.maker_fee_bp) if study.maker_fee_bp is None else study.maker_fee_bp
    console.print(f"{folder}: calibrating to the training part")
    market = calibrated(study, days, folder)
    facts = gate(study, days, market)
    differ = [each.name for each in facts if not each.agrees]
    console.print(f"{len(facts) - len(differ)} of {len(facts)} facts agree with the tape's", highlight=False)
    for name in differ:
        console.print(f"  differs: {name}", highlight=False)
    console.print("teaching the forecast and the policy in the calibrated market")
    observed = forecast(study, market, console, folder)
    run_folder, config = trained(study, market, fee, observed, folder)
    console.print("searching the best rule of the calibrated market")
    rule, tries = rule_of(config, console)
    cells = []
    for latency, queue in itertools.product(study.latencies_ms, study.queues):
        console.print(f"playing the test part: {latency:g} ms, {queue}")
        where = folder / "test" / f"{latency:g}-{queue}"
        result = play(study, run_folder, rule, tries, fee, (latency, queue), where)
        cells.append(Cell(latency, queue, result))
    write_report(cells[0].result, folder / "tear-sheet.html")
    found = sheet(cells)
    found.print(console, study.wide)
    write_markdown(folder / "test.md", found)
    write_csv(
        folder / "test.csv", [dict(zip(HEADINGS, row, strict=True)) for cell in cells for row in rows(cell)]
    )
    write_page(folder, facts, rule, cells)
    console.print(
        f"In {folder}: report.html, tear-sheet.html, test.md, test.csv", soft_wrap=True, highlight=False
    )
    return folder


def claim(study: TapeStudy, folder: Path) -> None:
    """Keep the options in the folder; raises `ConfigError` where it holds a study of other ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.json"
    told = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(study).items()
        if name not in PLACES
    }
    kept = json.loads(path.read_text()) if path.exists() else json.loads(json.dumps(told))
    different = [name for name, value in json.loads(json.dumps(told)).items() if kept.get(name) != value]
    if different:
        raise ConfigError(
            f"{folder} holds a study with other {', '.join(different)}: remove it, or give another --logs."
        )
    write_json(path, told)


def main(study: TapeStudy) -> None:
    """Run `neuralmm study tape`."""
    torch.set_num_threads(1)
    run(study, Console())
