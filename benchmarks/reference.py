"""Reference results on recorded tapes: simple market makers and a trained one, by fee, latency and queue.

    python -m benchmarks.reference STORE MODEL --out docs/recorded.md

Analytic policies are calibrated and tuned on the training part of each symbol alone, under the fee,
latency and queue model they then play under. All play the test part, which lies later. MODEL is what
`neuralmm train` or `export` made. Interrupted, the same command continues.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from mmenv.backtest import Result, Settings, backtest
from mmenv.backtest.result import plain
from mmenv.backtest.run import write_json
from mmenv.data.tape import tapes
from mmenv.files import replacing
from mmenv.provenance import digest, file_hash
from train.backtest import Backtest, entrants

SIMPLE = ("fixed-spread", "avellaneda-stoikov", "glft")
PARTS = ("spread_capture", "adverse_selection", "carry", "fees")
FRACTIONS = (0.6, 0.0, 0.4)
"""Of each symbol's time for training, validation and test: nothing is validated here."""
MARKS = (1.0, 5.0)
"""Seconds after a fill at which it is marked."""


@dataclass(frozen=True)
class Options:
    """Play the reference policies over the tapes of a store and write the tables."""

    store: tyro.conf.Positional[Path]
    """Folder that `neuralmm import` wrote."""
    model: tyro.conf.Positional[Path]
    """The trained policy: folder of a run, .zip or bundle."""
    out: Path = Path("docs/recorded.md")
    """The page that is written."""
    symbol: str = "*"
    """Which symbols of the store: a name or pattern."""
    trained_by: str = ""
    """The command that made MODEL, shown on the page."""
    fees: tuple[float, ...] = (-0.5, 0.0, 2.0)
    """Maker fees, basis points; negative is a rebate. The one in the middle is shown in full."""
    latencies: tuple[float, ...] = (1.0, 10.0, 50.0)
    """Order latencies, milliseconds; likewise."""
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


def play(cell: Cell, options: Options) -> dict[str, Any]:
    """Figures of every policy in the cell, as JSON; from the last time where nothing has changed."""
    read = [tape.path for tape in tapes(options.store, cell.venue, cell.symbol)]
    model = options.model / "best_model.zip" if options.model.is_dir() else options.model
    key = digest([repr(cell), FRACTIONS, [file_hash(path) for path in (model, *read)]])
    kept = options.work / f"{key}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    chosen, tries = entrants(
        Backtest(
            arguments=(str(options.model), *SIMPLE, str(options.store)),
            venue=cell.venue,
            symbol=cell.symbol,
            fees=cell.fee,
            latency=cell.latency,
            queue=cell.queue,
            split="test",
            fractions=FRACTIONS,
        )
    )
    settings = Settings(sensitivity=False, jobs=1, tries=tries)
    result = backtest(chosen, options.work / key, settings, progress=False)
    found = figures(result)
    write_json(kept, found)
    return found


def figures(result: Result) -> dict[str, Any]:
    """What is shown of a backtest: figures by policy, money parts in basis points of its turnover."""
    shown = {}
    for name, run in result.runs.items():
        own = result.figures[name]
        turnover = own["turnover"].value
        shown["trained" if name == next(iter(result.runs)) else name] = {
            "fills": own["fills"].value,
            "profit": plain(own["profit"]),
            "profit_bp": plain(own["profit_bp"]),
            "inventory": own["mean_inventory"].value,
            "parts": {part: 1e4 * own[part].value / turnover if turnover else None for part in PARTS},
            "marks": {
                f"{seconds:g}": plain(estimate)
                for seconds, estimate in zip(result.horizons, result.markout_curve(run), strict=True)
                if seconds in MARKS
            },
        }
    return {"policies": shown, "currency": result.currency, "seconds": result.first.seconds}


# The page.


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def estimate(found: dict[str, float | None], digits: int = 2) -> str:
    """value [low, high], or what of it is known."""
    value, low, high = (number(found[name], digits) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if low else value or "-"


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def head(names: Sequence[str], left: int = 1) -> str:
    return row(names) + "|" + "---|" * left + "---:|" * (len(names) - left) + "\n"


def full(found: dict[str, Any]) -> str:
    """The table with all parts of one cell."""
    money = f"profit, {found['currency']}"
    parts = ["spread", "adverse", "carry", "fees"]
    marks = [f"mark-out {seconds:g} s" for seconds in MARKS]
    text = head(["policy", "fills", money, "profit, bp", *parts, *marks, "mean position"])
    for name, own in found["policies"].items():
        digits = 8 if found["currency"] == "BTC" else 3
        text += row(
            [name, f"{own['fills']:.0f}", estimate(own["profit"], digits), estimate(own["profit_bp"])]
            + [number(own["parts"][part]) for part in PARTS]
            + [estimate(own["marks"][f"{seconds:g}"]) for seconds in MARKS]
            + [number(own["inventory"], 1)]
        )  # fmt: skip
    return text


def grid(cells: dict[Cell, dict[str, Any]]) -> str:
    """Profit in basis points of turnover of every policy in every cell of a symbol."""
    names = list(next(iter(cells.values()))["policies"])
    text = head(["fee, bp", "latency, ms", "queue", *names], left=3)
    for cell, found in cells.items():
        text += row(
            [f"{cell.fee:g}", f"{cell.latency:g}", cell.queue]
            + [f"{estimate(own['profit_bp'])} ({own['fills']:.0f})" for own in found["policies"].values()]
        )
    return text


def page(results: dict[tuple[str, str], dict[Cell, dict[str, Any]]], options: Options) -> str:
    """The whole page."""
    command = shlex.join(["python", "-m", "benchmarks.reference", *sys.argv[1:]])
    text = PAGE.format(command=command, trained=options.trained_by or "`neuralmm train`")
    fee, latency = (values[len(values) // 2] for values in (options.fees, options.latencies))
    for (venue, symbol), cells in results.items():
        seconds = max(found["seconds"] for found in cells.values())
        text += f"\n## {venue} {symbol}: {seconds:.0f} s of test\n\n"
        text += f"Fee {fee:g} bp, latency {latency:g} ms, queue {options.queues[0]}:\n\n"
        text += full(cells[Cell(venue, symbol, fee, latency, options.queues[0])])
        text += "\nProfit, bp of turnover, and in brackets the number of fills:\n\n" + grid(cells)
    return text


PAGE = """# Reference results on recorded tapes

Written by `{command}`; do not edit.

Market makers on captures of Binance of 8 and 9 August 2024, the ones the tests use. **Minutes of data
prove no profit and no loss.** One burst of activity moves every row here; the intervals are moving-block
bootstraps within the same minutes and know nothing of other hours. What the tables can show is order: what
a fee, a latency or an assumption about the queue costs, and where a result comes from.

- Every symbol's recorded time is cut into a training part (the first 60%) and a test part (the rest),
  with ten seconds left out between them. `fixed-spread`, `avellaneda-stoikov` and `glft` are calibrated
  (fill rate, decay, volatility) and tuned on the training part, under the fee, latency and queue model of
  the row. All policies play the test part, in sessions as the trained policy was trained, and quote one
  lot on each side every 100 ms.
- `trained` is one recurrent policy for all rows: {trained}. It knows no other fee than zero: its rows at
  other fees show what the fee does to it, not what a policy trained for that fee would do.
- bp are of turnover. Profit = spread + adverse + carry - fees: what was captured between fill and mid, the
  mid's move in the decision of the fill, its move on what was held, and fees paid. The mark-out is the mid
  some time after the fill against its price. Intervals are 95%.
"""


def main() -> None:
    options = tyro.cli(Options)
    symbols = list(
        dict.fromkeys((t.info.venue, t.info.symbol) for t in tapes(options.store, symbol=options.symbol))
    )
    grids = list(itertools.product(options.fees, options.latencies, options.queues))
    results: dict[tuple[str, str], dict[Cell, dict[str, Any]]] = {}
    with tqdm(total=len(symbols) * len(grids), unit=" cells") as bar:
        for venue, symbol in symbols:
            for given in grids:
                cell = Cell(venue, symbol, *given)
                bar.set_description(f"{symbol} {given}")
                results.setdefault((venue, symbol), {})[cell] = play(cell, options)
                bar.update()
    with replacing(options.out) as temporary:
        temporary.write_text(page(results, options))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
