"""Reference results on recorded tapes: simple market makers and a trained one, by fee, latency and queue.

    python -m benchmarks.reference STORE MODEL --out docs/recorded.md

Analytic policies are calibrated and tuned on the training part of each symbol alone, under the fee,
latency and queue model they then play under. All play the test part, which lies later. MODEL is what
`neuralmm train` or `export` made. Interrupted, the same command continues.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from mmenv.backtest import Entrant, Result, Settings, backtest
from mmenv.backtest.result import plain
from mmenv.backtest.unit import write_json
from mmenv.config import EnvConfig, make_config
from mmenv.data.tape import tapes
from mmenv.files import replacing
from mmenv.measure.intervals import Estimate, TooShort
from mmenv.report.words import show
from mmenv.run.provenance import digest, file_hash
from policies.base import tuned_policies
from policies.make import make_policy
from train.backtest import entrants
from train.baselines import candidates, try_out
from train.options.backtest import Backtest
from train.simulate import Outcome
from train.sources import Named

SIMPLE = ("fixed-spread", "avellaneda-stoikov", "glft")
PARTS = ("spread_capture", "adverse_selection", "carry", "fees")
FRACTIONS = (0.6, 0.0, 0.4)
"""Of each symbol's time for training, validation and test: nothing is validated here."""
MARKS = (1.0, 5.0)
"""Seconds after a fill at which it is marked."""
SETTINGS = sum(len(tuned_policies()[name].tried) for name in SIMPLE)
"""Settings of the simple policies that are tried in each cell."""


@dataclass(frozen=True)
class Options:
    """Play the reference policies over the tapes of a store and write the tables."""

    store: tyro.conf.Positional[Path]
    """Folder that `neuralmm import` wrote."""
    model: tyro.conf.Positional[Path]
    """The trained policy: folder of a run, .zip or bundle."""
    out: Path = Path("docs/recorded.md")
    """The page that is written."""
    venue: str = "*"
    symbol: str = "*"
    """Which symbols of the store: names or patterns."""
    trained_by: str = ""
    """The command that made MODEL, shown on the page."""
    fees: tuple[float, ...] = (-0.5, 0.0, 1.0, 2.0)
    """Maker fees, basis points; negative is a rebate. The one nearest to 0 is shown in full."""
    latencies: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Order latencies, milliseconds; the one in the middle is shown in full."""
    queues: tuple[str, ...] = ("risk-adverse", "power-prob")
    """Queue models; the first is shown in full."""
    work: Path = Path("logs/reference")
    """Where finished parts are kept."""


@dataclass(frozen=True)
class Cell:
    """One symbol under one fee, latency and queue model."""

    venue: str
    symbol: str
    fee: float
    latency: float
    queue: str


def play(cell: Cell, name: str, options: Options) -> dict[str, Any]:
    """Figures of a policy, "trained" or one of `SIMPLE`; those of last time where nothing has changed."""
    asked = Backtest(
        arguments=(str(options.model), str(options.store)),
        venue=cell.venue,
        symbol=cell.symbol,
        fees=cell.fee,
        latency=cell.latency,
        queue=cell.queue,
        split="test",
        fractions=FRACTIONS,
    )
    [model], tries = entrants(asked)
    # What the policy plays under, where it lies apart; and the trained policy itself.
    told = {
        name: value for name, value in model.config.to_dict().items() if name not in ("features", "market")
    }
    read = [tape.path for tape in tapes(options.store, cell.venue, cell.symbol)]
    own = model.source.key if name == "trained" else ""
    key = digest([repr(cell), name, own, told, FRACTIONS, [file_hash(path) for path in read]])
    kept = options.work / f"{key}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    chosen = model
    if name != "trained":
        config = make_config(model.config.market, **told)
        parameters = tuned(name, config, max(options.fees))
        chosen = Entrant(Named(name, name, tuple(parameters.items())), config)
        tries += len(tuned_policies()[name].tried) - 1
    settings = Settings(sensitivity=False, jobs=1, tries=tries)
    found = figures(backtest([chosen], options.work / key, settings, progress=False))
    write_json(kept, found)
    return found


def tuned(name: str, config: EnvConfig, highest_bp: float) -> dict[str, float]:
    """The parameters that `train.baselines.best_by_simulation` chooses.

    A fee does not move the quotes of these policies unless the loss limit cuts in: what they did at the
    highest fee is then what they do at any, and only the fee has to be counted anew.
    """
    dear = replace(config, maker_fee_bp=highest_bp)
    bearable = config.risk.reducing_at * config.risk.daily_loss_limit
    tried = candidates(name, config)
    values = []
    for given in tried:
        found = outcome(name, tuple(given.items()), dear)
        if highest_bp and found.lowest.min() > -bearable:
            saved = config.reward.fees * (1 - config.maker_fee_bp / highest_bp)
            values.append((found.controlled + saved * found.terms["fees"]).mean())
        else:
            values.append(outcome(name, tuple(given.items()), config).controlled.mean())
    return tried[int(np.argmax(values))]


@functools.cache
def outcome(name: str, parameters: tuple[tuple[str, float], ...], config: EnvConfig) -> Outcome:
    """What a policy does on the training part."""
    return try_out(make_policy(name, config, **dict(parameters)), config)


def figures(result: Result) -> dict[str, Any]:
    """What is shown of a backtest of one policy, money parts in basis points of its turnover."""
    [own] = result.figures.values()
    turnover = own["turnover"].value
    return {
        "fills": own["fills"].value,
        "profit": plain(own["profit"]),
        "profit_bp": plain(own["profit_bp"]),
        "inventory": own["mean_inventory"].value,
        "parts": {part: 1e4 * own[part].value / turnover if turnover else None for part in PARTS},
        "marks": {
            f"{seconds:g}": plain(estimate)
            for seconds, estimate in zip(result.horizons, result.markout_curve(result.first), strict=True)
            if seconds in MARKS
        },
        "currency": result.currency,
        "seconds": result.first.seconds,
    }


Found = dict[Cell, dict[str, dict[str, Any]]]
"""Figures by cell and policy."""
Results = dict[tuple[str, str], Found]
"""By venue and symbol."""


# The page.


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def estimate(found: dict[str, float | None]) -> str:
    """value [low, high], to the digits that the interval bears, or what of it is known."""
    known = Estimate(*(math.nan if value is None else value for value in found.values()))
    if math.isnan(known.value):
        return "-"
    return show(TooShort(*known) if math.isnan(known.low) else known, "")


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def head(names: Sequence[str], left: int = 1) -> str:
    return row(names) + "|" + "---|" * left + "---:|" * (len(names) - left) + "\n"


def full(policies: dict[str, dict[str, Any]]) -> str:
    """The table with all parts of one cell."""
    currency = next(iter(policies.values()))["currency"]
    parts = ["spread", "adverse", "carry", "fees"]
    marks = [f"mark-out {seconds:g} s" for seconds in MARKS]
    names = ["policy", "fills", f"profit, {currency}", "profit, bp", *parts, *marks, "mean position"]
    text = head(names)
    for name, own in policies.items():
        text += row(
            [name, f"{own['fills']:.0f}", estimate(own["profit"]), estimate(own["profit_bp"])]
            + [number(own["parts"][part]) for part in PARTS]
            + [estimate(own["marks"][f"{seconds:g}"]) for seconds in MARKS]
            + [number(own["inventory"], 1)]
        )  # fmt: skip
    return text


def grid(cells: Found) -> str:
    """Profit in basis points of turnover of every policy in every cell of a symbol."""
    text = head(["fee, bp", "latency, ms", "queue", *next(iter(cells.values()))], left=3)
    for cell, found in cells.items():
        text += row(
            [f"{cell.fee:g}", f"{cell.latency:g}", cell.queue]
            + [f"{estimate(own['profit_bp'])} ({own['fills']:.0f})" for own in found.values()]
        )
    return text


def summary(results: Results) -> str:
    """Of each symbol and policy: profit over all cells, and how often its interval excludes doing nothing."""
    text = head(["symbol", "policy", "lowest", "median", "highest", "above 0", "below 0", "no fill"], left=2)
    for (venue, symbol), cells in results.items():
        for name in next(iter(cells.values())):
            found = [policies[name]["profit_bp"] for policies in cells.values()]
            values = [each["value"] for each in found if each["value"] is not None]
            low, middle, high = np.quantile(values, [0, 0.5, 1]) if values else 3 * [math.nan]
            above = sum(each["low"] is not None and each["low"] > 0 for each in found)
            below = sum(each["high"] is not None and each["high"] < 0 for each in found)
            counts = [f"{above} of {len(found)}", f"{below} of {len(found)}", f"{len(found) - len(values)}"]
            text += row([f"{venue} {symbol}", name, *map(number, (low, middle, high)), *counts])
    return text


def effects(results: Results) -> str:
    """What one assumption does, the others equal: the mean change of profit over all pairs of cells."""
    text = head(["changed", "from", "to", *next(iter(next(iter(results.values())).values()))], left=3)
    cells = {cell: policies for each in results.values() for cell, policies in each.items()}
    for field in ("fee", "latency", "queue"):
        values = list(dict.fromkeys(getattr(cell, field) for cell in cells))
        for value in values[1:]:
            changes = []
            for name in next(iter(cells.values())):
                pairs = [
                    (cells[replace(cell, **{field: values[0]})][name], policies[name])
                    for cell, policies in cells.items()
                    if getattr(cell, field) == value
                ]
                both = [
                    after["profit_bp"]["value"] - before["profit_bp"]["value"]
                    for before, after in pairs
                    if None not in (before["profit_bp"]["value"], after["profit_bp"]["value"])
                ]
                fills = [sum(each["fills"] for each in side) for side in zip(*pairs, strict=True)]
                changes.append(f"{number(float(np.mean(both)))} ({fills[0]:.0f} to {fills[1]:.0f})")
            text += row([field, str(values[0]), str(value), *changes])
    return text


def page(results: Results, options: Options) -> str:
    """The whole page."""
    command = shlex.join(["python", "-m", "benchmarks.reference", *sys.argv[1:]])
    fee, latency = min(options.fees, key=abs), options.latencies[len(options.latencies) // 2]
    text = PAGE.format(
        command=command,
        trained=options.trained_by or "`neuralmm train`",
        settings=SETTINGS,
        cells=sum(map(len, results.values())),
        summary=summary(results),
        effects=effects(results),
    )
    for (venue, symbol), cells in results.items():
        shown = cells[Cell(venue, symbol, fee, latency, options.queues[0])]
        seconds = max(own["seconds"] for own in shown.values())
        text += f"\n## {venue} {symbol}: {seconds:.0f} s of test\n\n"
        text += f"Fee {fee:g} bp, latency {latency:g} ms, queue {options.queues[0]}:\n\n"
        text += full(shown)
        text += f"\n<details><summary>All {len(cells)} cells: profit, bp of turnover, and in brackets the "
        text += f"number of fills</summary>\n\n{grid(cells)}\n</details>\n"
    return text


PAGE = """# Reference results on recorded tapes

Written by `{command}`; do not edit.

Market makers on captures of Binance of 8 and 9 August 2024, the ones the tests use. **Minutes of data
prove no profit and no loss.** One burst of activity moves every row here; the intervals are block
bootstraps within the same minutes and know nothing of other hours. What the tables can show is order: what
a fee, a latency or an assumption about the queue costs, and where a result comes from.

- Every symbol's recorded time is cut into a training part (the first 60%) and a test part (the rest),
  with ten seconds left out between them. `fixed-spread`, `avellaneda-stoikov` and `glft` are calibrated
  (fill rate, decay, volatility) and tuned on the training part, under the fee, latency and queue model of
  the row. All policies play the test part, in sessions as the trained policy was trained, and quote one
  lot on each side every 100 ms. To do nothing earns 0 in every row.
- `trained` is one recurrent policy for all rows: {trained}. It knows no other fee than zero: its rows at
  other fees show what the fee does to it, not what a policy trained for that fee would do.
- Tried: in each of the {cells} cells (symbol, fee, latency and queue model) {settings} settings of the simple
  policies, chosen on the training part alone. The best row of the tables below is therefore the best of many,
  and no evidence of anything.
- bp are of turnover. Profit = spread + adverse + carry - fees: what was captured between fill and mid, the
  mid's move in the decision of the fill, its move on what was held, and fees paid. The mark-out is the mid
  some time after the fill against its price. Intervals are 95%.

## The grid

Profit in bp of turnover over the cells of a symbol, and in how many of them the whole interval lies above or
below 0, which is what doing nothing earns:

{summary}
One assumption changed, the others equal: mean change of the profit in bp of turnover over all such pairs of
cells in which both have fills, and in brackets the fills of all of them before and after. Simple policies are
tuned anew for each cell, so that a fee also changes where they quote:

{effects}"""


def main() -> None:
    options = tyro.cli(Options)
    policies = (*SIMPLE, "trained")
    symbols = list(
        dict.fromkeys(
            (t.info.venue, t.info.symbol) for t in tapes(options.store, options.venue, options.symbol)
        )
    )
    grids = itertools.product(options.latencies, options.queues, options.fees)
    cells = [
        Cell(*symbol, fee, latency, queue)
        for (latency, queue, fee), symbol in itertools.product(grids, symbols)
    ]
    results: Results = {symbol: {} for symbol in symbols}
    with tqdm(total=len(cells) * len(policies), unit=" runs") as bar:
        for cell, name in itertools.product(cells, policies):
            bar.set_description(f"{name} {cell.symbol} {cell.fee:g} {cell.latency:g} {cell.queue}")
            found = results[cell.venue, cell.symbol].setdefault(cell, {})
            found[name] = play(cell, name, options)
            bar.update()
    with replacing(options.out) as temporary:
        temporary.write_text(page(results, options))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
