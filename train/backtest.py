"""`neuralmm backtest POLICY... DATA`: what a policy earned, why, and whether to believe it.

The figures are made by `mmenv.backtest`; here policies (`train.sources`) and data are found by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from mmenv.actions.spread_skew import SpreadSkew
from mmenv.backtest import Entrant, Result, Settings, backtest
from mmenv.backtest.result import TITLES
from mmenv.backtest.unit import write_json
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.market.base import MARKETS, Market
from mmenv.market.replay import Replay
from mmenv.measure.naming import named_market
from mmenv.report import write_report
from mmenv.report.words import show
from mmenv.run.provenance import PLACES, without_places
from mmenv.sheet import Sheet
from mmenv.venue.settings import FIFO
from policies.base import tuned_policies
from train.options.backtest import Backtest
from train.sources import make_source, model_config, short_names


def main(options: Backtest) -> None:
    """Run the command."""
    result = run(options)
    console = Console()
    for part in result.by_currency():
        sheet(part).print(console)
        console.print(f"tear sheet: {tear_sheet(result, part)}", soft_wrap=True)


def run(options: Backtest) -> Result:
    """Play, and write the summary and the tear sheet."""
    chosen, tries = entrants(options)
    names = [field.name for field in dataclasses.fields(Settings) if hasattr(options, field.name)]
    shared = {name: getattr(options, name) for name in names}
    command = shlex.join(["neuralmm", "backtest", *without_places(sys.argv[1:])])
    settings = Settings(**shared | {"tries": tries, "command": command})
    folder = options.out or default_folder(options, chosen)
    result = backtest(chosen, folder, settings)
    write_json(folder / "summary.json", result.summary())
    for part in result.by_currency():
        write_report(part, tear_sheet(result, part))
    return result


def tear_sheet(result: Result, part: Result) -> Path:
    """Where the sheet of a part in one currency is, under that of the result."""
    several = len(result.currencies) > 1
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", part.currency)
    return result.folder / (f"report-{name}.html" if several else "report.html")


def entrants(options: Backtest) -> tuple[list[Entrant], int]:
    """Find the policies with their configurations, and how many configurations were tried for them."""
    *texts, data = options.arguments or [""]
    if not texts:
        raise ConfigError("give at least one policy, and then the data: neuralmm backtest glft store")
    configs = {text: model_config(text) for text in texts}
    models = [config for config in configs.values() if config is not None]
    market = base_market(options, data, models)
    shared: dict[str, Any] = {}
    if models:
        shared = {name: getattr(models[0], name) for name in ("quote", "risk", "horizon", "reward")}
    if options.fees is not None:
        shared["maker_fee_bp"] = options.fees
    if options.session is not None:
        shared["horizon"] = options.session
    if options.loss_limit is not None:
        risk = shared.get("risk", make_config(market).risk)
        shared["risk"] = dataclasses.replace(risk, daily_loss_limit=options.loss_limit)
    found, tries = [], options.tries
    labels = short_names(texts)
    for text in texts:
        model = configs[text]
        seen = () if model is None else ("features", "signals", "manager", "quote")
        own = shared | {name: getattr(model, name) for name in seen}
        if model is None and not isinstance(own.get("quote"), SpreadSkew):
            own.pop("quote", None)  # closed forms ask for distances: the market's own box
        config = make_config(market, **own)
        source, tried = make_source(text, labels[text], config, options.calibration)
        found.append(Entrant(source, config))
        tries += tried
    return found, tries


def base_market(options: Backtest, data: str, models: list[EnvConfig]) -> Market:
    """Find the market of DATA; where models were trained on it, as they were."""
    step = {} if options.step is None else {"step_seconds": options.step}
    if data in MARKETS or not Path(data).is_dir():
        given = named_market(data, "a store of recorded tapes (a folder that `neuralmm import` wrote)")
        trained = [model.market for model in models if model.market.name == given]
        if len({repr(market) for market in trained}) > 1:
            raise ConfigError(
                f"the models were trained on different {data!r} markets: backtest one at a time."
            )
        found = trained[0] if trained else make_config(given).market
        return dataclasses.replace(found, **step)
    paces = sorted({model.market.step_seconds for model in models})
    if len(paces) > 1 and options.step is None:
        told = " and ".join(f"{pace:g}" for pace in paces)
        raise ConfigError(f"the models decide every {told} s: give --step, or backtest one at a time.")
    if paces and options.step is None:
        step = {"step_seconds": paces[0]}
    chosen: dict[str, Any] = {
        "store": data,
        "venue": options.venue,
        "symbol": options.symbol,
        "order_latency_ms": options.latency,
        "order_latency": options.latency_model,
        "latency_file": str(options.latency_file or ""),
        "fractions": options.fractions,
        "queue_model": options.queue,
        "day": options.day,
        "own_fees": options.fees is None,
        # hftbacktest fills whole orders only there.
        **({"engine": "matcher"} if options.queue == FIFO else {}),
        **step,
    }
    trained_here = [m.market for m in models if isinstance(m.market, Replay)]
    market = dataclasses.replace(trained_here[0], **chosen) if trained_here else Replay(**chosen)
    learned = any(Path(m.store).resolve() == Path(data).resolve() for m in trained_here) or tunes(options)
    return dataclasses.replace(market, split=options.split or ("test" if learned else "all"))


def tunes(options: Backtest) -> bool:
    """Whether any of the policies takes its parameters from the data."""
    return any(text in tuned_policies() for text in options.arguments[:-1])


def default_folder(options: Backtest, chosen: list[Entrant]) -> Path:
    """Choose one folder under logs/ for each choice, so that the same command finds what it has done."""
    apart = (*PLACES, "patience")
    plain = {k: str(v) for k, v in dataclasses.asdict(options).items() if k not in apart}
    told = json.dumps([plain, [entrant.source.key for entrant in chosen]])
    path = Path(options.arguments[-1])
    data = path.name if path.is_dir() else chosen[0].config.market.name
    return Path("logs") / f"backtest-{data}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


SHOWN = (
    *("profit", "spread_capture", "adverse_selection", "carry", "fees", "funding", "sharpe_annual"),
    *("max_drawdown", "fills", "profit_bp", "win_rate", "mean_inventory"),
)


def sheet(result: Result) -> Sheet:
    """Tabulate the main figures of every policy, a column for each."""
    rates = "".join(f"; {rate}" for rate in result.rates)
    shown = [figure for figure in SHOWN if figure in result.figures[result.first.name]]
    columns = {"": [TITLES[figure][0] for figure in shown]}
    for name, figures in result.figures.items():
        columns[name] = [show(figures[figure], TITLES[figure][1]) for figure in shown]
    legend = [f"Money in {result.currency}{rates}; 95% intervals by blocks of time."]
    return Sheet(str(result.folder), columns, legend)
