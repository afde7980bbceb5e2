"""`neuralmm facts SOURCE...`: stylised facts of markets and tapes side by side, as a table and as plots."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from mmenv.checks import ConfigError
from mmenv.data.tape import Tape, tapes
from mmenv.files import replacing
from mmenv.measure import large_tick, touch
from mmenv.measure.beside import BEHIND, Asked, Quoted, compare
from mmenv.measure.facts import (
    FACTS,
    REGIMES,
    Fact,
    Finding,
    area,
    correlation,
    findings,
    lagged,
    markout,
    order_flow,
    ranks,
    regime_of,
    share,
)
from mmenv.measure.intervals import Array, Estimate, TooShort
from mmenv.measure.naming import is_recorded, named_market
from mmenv.measure.options import MARKET_HELP, Facts
from mmenv.measure.record import Record, record_market, record_tape
from mmenv.sheet import Sheet
from mmenv.venue.settings import ReplayConfig


def main(options: Facts) -> None:
    """Run the command."""
    if not options.sources:
        raise ConfigError(f"name at least one source: a store, a tape.parquet, or {MARKET_HELP}.")
    if options.repeats > 1:
        if options.output is not None or any(map(is_recorded, options.sources)):
            raise ConfigError("--repeats counts simulated markets: give no tape with it, and no --output.")
        repeated(options).print(Console(), options.wide)
        return
    found = list(records(options))
    console = Console()
    sheet(found, [findings(record) for record in found]).print(console, options.wide)
    if any(regime_of(record) == REGIMES[0] for record in found):
        moments_sheet(found).print(console, options.wide)
    for record in found:
        if record.has_book:
            touch_sheet(record).print(console, options.wide)
    for beside in besides(found, options):
        beside.print(console, options.wide)
    if options.output is not None:
        plot(found, options.output)
        print(f"Plots: {options.output}")


def records(options: Facts, away: int = 0) -> Iterator[Record]:
    """Record each market and tape that the options name, quoted `away` half-ticks from the mid."""
    for source in options.sources:
        if is_recorded(source):
            path = Path(source)
            days = [Tape(path)] if path.is_file() else tapes(path, options.venue, options.symbol)
            config = ReplayConfig(fractions=options.fractions, queue_model=options.queue)
            for same in by_symbol(days):
                yield record_tape(same, options.step_seconds, away, options.split, config)
        else:
            market = named_market(source, "the path of a store or tape")
            yield record_market(market, options.environments, options.seconds, options.seed, away)


def by_symbol(days: Sequence[Tape]) -> list[list[Tape]]:
    """The tapes of each venue and symbol."""
    found: dict[tuple[str, str], list[Tape]] = {}
    for tape in days:
        found.setdefault((tape.info.venue, tape.info.symbol), []).append(tape)
    return list(found.values())


def sheet(all_records: Sequence[Record], all_findings: Sequence[Sequence[Finding]]) -> Sheet:
    """Lay out facts by row and records by column."""
    regimes = list(dict.fromkeys(map(regime_of, all_records)))
    facts = [finding.fact for finding in all_findings[0]]
    columns = {
        "fact": [fact.name for fact in facts],
        "accepted": [accepted(fact, regimes) for fact in facts],
    }
    names = distinct([f"{record.name}\n{regime_of(record) or 'no book'}" for record in all_records])
    columns |= {name: list(map(cell, found)) for name, found in zip(names, all_findings, strict=True)}
    title = "Stylised facts: value, verdict, [95% interval]"
    return Sheet(title, columns, VERDICTS, keys=2, colours=COLOURS)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where one stands twice."""
    counts = [names[: k + 1].count(name) for k, name in enumerate(names)]
    return [f"{name} ({n})" if n > 1 else name for name, n in zip(names, counts, strict=True)]


VERDICTS = (
    "pass: the whole interval lies in the accepted range; fail: none of it does; else",
    "unclear. An interval is for the market, not for these minutes alone.",
)
"""What the words in a table of facts mean."""


def moments_sheet(all_records: Sequence[Record]) -> Sheet:
    """What a large-tick book is fitted to, a column for each record with a book."""
    shown = [record for record in all_records if record.has_book]
    columns = {"moment": list(large_tick.TOLERANCES)}
    for name, record in zip(distinct([record.name for record in shown]), shown, strict=True):
        found = large_tick.moments(record)
        columns[name] = [short(Estimate(found[key]), ".4g") for key in large_tick.TOLERANCES]
    legend = (
        "Moves of the mid in ticks, root mean square; share of intervals in which it",
        "moves; share of time with a spread of one tick; lots as each market counts them.",
    )
    return Sheet("What `neuralmm calibrate` fits a large-tick book to", columns, legend)


def touch_sheet(record: Record) -> Sheet:
    """What becomes of a lot that joins the queue at the touch and stays, and of the book around it."""
    rows = [
        [f"fills: {row.name}", short(row.rate, ".1f"), *(short(e, ".2f") for e in row.after.values())]
        for row in touch.fills(record)
    ]
    rows += [
        [f"after a {row.name}", short(row.rate, ".0f"), *(short(e, ".2f") for e in row.after.values())]
        for row in touch.events(record)
    ]
    horizons = [f"{horizon:g} s" for horizon in touch.horizons(record)]
    for name, estimate in touch.queues(record).items():
        rows.append([f"queue {name}, over the mean", short(estimate, ".2f"), *("" for _ in horizons)])
    legend = (
        "Mark-out from the fill price, or move of the mid towards the event, so many",
        "seconds later, half-ticks. [95% interval] by blocks of time, where enough.",
    )
    title = f"{record.name}: one lot at the touch, both sides, {record.minutes:,.0f} min"
    return Sheet.of_rows(title, ["", "a minute", *horizons], rows, legend=legend)


def besides(found: Sequence[Record], options: Facts) -> list[Sheet]:
    """For each large-tick tape a table of what is asked of the large-tick markets simulated beside it."""
    large = [regime_of(record) == REGIMES[0] for record in found]
    pairs = [(record.recorded, record) for record, is_large in zip(found, large, strict=True) if is_large]
    if len({recorded for recorded, _ in pairs}) < 2:
        return []
    behind = itertools.compress(records(options, BEHIND), large)
    quoted = [Quoted(record, other) for (_, record), other in zip(pairs, behind, strict=True)]
    simulated = [each for each in quoted if not each.at.recorded]
    return [beside_sheet(each, simulated, options.lot) for each in quoted if each.at.recorded]


def beside_sheet(tape: Quoted, simulated: Sequence[Quoted], lot: float) -> Sheet:
    """What is asked of simulated markets beside a tape, a column for each of them."""
    asked = [compare(tape, market, lot) for market in simulated]
    columns = {
        "asked": [each.name for each in asked[0]],
        "tape": [f"{each.tape:.3f}" for each in asked[0]],
        "to lie in": [
            "too short" if math.isnan(each.low) else f"[{each.low:.3f}, {each.high:.3f}]" for each in asked[0]
        ],
    }
    for name, each in zip(distinct([market.at.name for market in simulated]), asked, strict=True):
        columns[name] = [f"{one.value:.3f} {one.verdict}" for one in each] + [tally(each)]
    for key in ("asked", "tape", "to lie in"):
        columns[key].append("all of them" if key == "asked" else "")
    legend = (
        "Fills and mark-outs are to lie in the tape's 95% interval by blocks of its time;",
        f"a lot of the simulated market is {lot:g} of the tape's (--lot).",
    )
    return Sheet(f"Beside {tape.at.name}", columns, legend, keys=3, colours={"yes": "green", "no": "red"})


def tally(asked: Sequence[Asked]) -> str:
    """How many are there, of those that the tape can tell."""
    verdicts = [each.verdict for each in asked if each.verdict != "-"]
    return f"{verdicts.count('yes')} of {len(verdicts)}"


def short(estimate: Estimate, form: str) -> str:
    """An estimate with its interval on a line of its own; nothing where it is not known."""
    if math.isnan(estimate.value):
        return "-"
    value, low, high = (format(x, form) for x in estimate)
    if isinstance(estimate, TooShort):
        return f"{value}\ntoo short"
    return value if math.isnan(estimate.low) else f"{value}\n[{low}, {high}]"


COLOURS = {"pass": "green", "fail": "red", "unclear": "yellow"}


def cell(finding: Finding) -> str:
    """A finding: value and verdict, the interval below."""
    value, *span = short(finding.estimate, ".3f").split("\n")
    return "\n".join([f"{value} {finding.verdict}" if finding.verdict != "-" else "-", *span])


def accepted(fact: Fact, regimes: Sequence[str]) -> str:
    """Put the accepted ranges in these regimes into words, a line each where they differ."""
    found: dict[str, list[str]] = {}
    for regime in regimes:
        low, high = fact.accepted(regime)
        if math.isinf(high):
            text = f"at least {low:g}"
        else:
            text = f"at most {high:g}" if math.isinf(low) else f"{low:g} to {high:g}"
        found.setdefault(text, []).append(regime or "no book")
    if len(found) == 1:
        return next(iter(found))
    return "\n".join(f"{' and '.join(names)}: {text}" for text, names in found.items())


def repeated(options: Facts) -> Sheet:
    """Count the verdicts when each source is simulated `repeats` times, each with new seeds."""
    cells: dict[str, list[str]] = {}
    regimes: list[str] = []
    for source in options.sources:
        found = []
        for k in range(options.repeats):
            seed = options.seed + k * options.environments
            [record] = records(dataclasses.replace(options, sources=(source,), seed=seed))
            found.append(findings(record))
        regimes.append(regime_of(record))
        cells[source] = [count(same) for same in zip(*found, strict=True)]
        whole = sum(all(one.verdict in ("pass", "-") for one in each) for each in found)
        inside = sum(all(one.in_range for one in each) for each in found)
        cells[source].append(f"{whole} pass\n{inside} in range")
    columns = {
        "fact": [*(fact.name for fact in FACTS), "all of them at once"],
        "accepted": [*(accepted(fact, [*dict.fromkeys(regimes)]) for fact in FACTS), ""],
    }
    title = f"Stylised facts, {options.repeats} repeats: verdicts; values in range, mean (least to most)"
    return Sheet(title, columns | cells, VERDICTS, keys=2, colours=COLOURS)


def count(found: Sequence[Finding]) -> str:
    """How often each verdict was given; how many values lie in the accepted range, their mean and range."""
    values = np.array([finding.estimate.value for finding in found])
    if np.isnan(values).all():
        return "-"
    verdicts = [finding.verdict for finding in found]
    told = ", ".join(f"{verdicts.count(name)} {name}" for name in COLOURS if name in verdicts)
    inside = sum(finding.in_range for finding in found)
    span = f"({np.nanmin(values):.3f} to {np.nanmax(values):.3f})"
    return f"{told}\n{inside} in range, {np.nanmean(values):.3f}\n{span}"


# The page of plots.

LAGS = np.unique(np.geomspace(1, 120, 25).round().astype(int))


def plot(all_records: Sequence[Record], path: Path) -> None:
    """Draw a page of plots to `path`; the format is that of its suffix (png, pdf, svg)."""
    figure = Figure(figsize=(15, 16), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 3)
    colours = colours_of(all_records)
    for number, (record, colour) in enumerate(zip(all_records, colours, strict=True)):
        label = f"{record.name}, {record.minutes:,.0f} min"
        style: dict[str, Any] = {"color": colour, "label": label, "linewidth": 1.2}
        draw_returns(axes.flat[:4], record, style)
        if record.has_book:
            draw_book(axes.flat[4:9], record, style)
            draw_touch(axes.flat[9:], record, style, shift=number - (len(all_records) - 1) / 2)
    finish(axes)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or None, dpi=110)


TAPES = ("k", "0.45", "0.65")
"""Colours of tapes: the same everywhere, and none that a simulation has."""


def colours_of(all_records: Sequence[Record]) -> list[str]:
    """Black and grey for tapes, colours for simulations."""
    tape, simulated = itertools.cycle(TAPES), itertools.count()
    return [next(tape) if record.recorded else f"C{next(simulated) % 10}" for record in all_records]


def draw_touch(axes: Sequence[Axes], record: Record, style: dict[str, Any], shift: float) -> None:
    """Draw what becomes of a lot at the touch, and the responses; `shift` sets records apart."""
    rates, worth, responses = axes
    rows, events = touch.fills(record), touch.events(record)
    plain = {"color": style["color"], "label": style["label"], "capsize": 2, "linewidth": 1.2}
    place = np.arange(float(len(rows))) + 0.15 * shift
    bars(rates, place, [row.rate for row in rows], fmt="o", **plain)
    spread = 1 + 0.05 * shift
    every = rows[0].after
    bars(worth, spread * np.array([*every]), [*every.values()], fmt="o-", **plain)
    for row, marker in zip(events, ("o-", "s--", "^:"), strict=True):
        kind = {**plain, "label": f"{row.name}, {record.name}"}
        bars(responses, spread * np.array([*row.after]), [*row.after.values()], fmt=marker, **kind)


WORDS = ("every\norder", "joined a\nshort queue", "joined a\nlong one", "waited\nless", "waited\nlonger")
"""The rows of `touch.fills` on a narrow axis."""


def bars(axis: Axes, place: NDArray[Any], estimates: Sequence[Estimate], **style: Any) -> None:
    """Points with their intervals."""
    value, low, high = np.array(estimates).T
    axis.errorbar(place, value, np.nan_to_num([value - low, high - value]).clip(0), **style)


def draw_returns(axes: Sequence[Axes], record: Record, style: dict[str, Any]) -> None:
    """Draw what every market has: returns, volatility, tails and signs."""
    returns, volatility, tails, sign = axes
    b = record.blocks
    returns.plot(LAGS * record.seconds, correlations(np.diff(b["mid"], axis=1)), **style)
    volatility.plot(LAGS, correlations(np.abs(record.returns(1.0))), **style)
    moves = record.returns(10.0)
    size = np.sort(np.abs(moves).ravel() / max(moves.std(), 1e-9))[::-1]
    tails.plot(size, np.arange(1, len(size) + 1) / len(size), **style)
    decaying = correlations(np.sign(b["buy_lots"] - b["sell_lots"]))
    # Below zero, as on short tapes, there is no logarithm: a gap instead of a plunge.
    sign.plot(LAGS, np.where(decaying > 0, decaying, np.nan), marker=".", **style)


def correlations(x: NDArray[Any]) -> Array:
    """Correlation of x (blocks, times) with itself at each of `LAGS`, NaN where the blocks are too short."""
    return np.array([correlation(lagged(x, lag)) for lag in LAGS])


def draw_book(axes: Sequence[Axes], record: Record, style: dict[str, Any]) -> None:
    """Draw what only a market with a book has: flow, imbalance, spread, queue and mark-out."""
    flow, touch, spread, queue, maker = axes
    b, moves = record.blocks, record.returns(10.0)
    imbalances = record.sums(order_flow(record), 10.0).ravel()
    order = np.array_split(np.argsort(imbalances), min(20, len(imbalances)))
    flow.plot(
        [imbalances[k].mean() / max(imbalances.std(), 1e-9) for k in order],
        [moves.ravel()[k].mean() / max(moves.std(), 1e-9) for k in order],
        marker=".",
        **style,
    )
    horizons = np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
    horizons = horizons[horizons >= record.seconds]
    touch.plot(horizons, [area(ranks(record, h)) for h in horizons], marker=".", **style)
    ticks = b["spread"].ravel() // 2
    width, count = np.unique(np.minimum(ticks, 10), return_counts=True)
    spread.plot(width, count / count.sum(), marker=".", **style)
    both = np.concatenate([b["best_bid_lots"].ravel(), b["best_ask_lots"].ravel()])
    queue.hist(
        both / both.mean(), bins=np.linspace(0, 5, 60).tolist(), density=True, histtype="step", **style
    )
    times = np.array([0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    maker.plot(times, [share(markout(record, t)) for t in times], marker=".", **style)


def finish(axes: NDArray[Any]) -> None:
    """Add guides, titles and scales."""
    returns, _, tails, sign, *_, maker, rates, worth, responses = axes.flat
    z = np.linspace(0.1, 5, 50)
    tails.plot(z, [math.erfc(v / math.sqrt(2)) for v in z], "k:", linewidth=1, label="Gaussian")
    (guide,) = sign.plot(LAGS, 0.15 * LAGS**-0.5, "k:", linewidth=1, label="lag^-0.5")
    correlated = "correlation"
    titles = (
        ("Returns of one decision", "lag, s", correlated, "log", "linear"),
        ("Absolute 1 s returns", "lag, s", correlated, "log", "linear"),
        ("Absolute 10 s returns", "standard deviations", "share above", "log", "log"),
        ("Sign of net market volume", "lag, decisions", correlated, "log", "log"),
        (
            "10 s return by order-flow imbalance",
            "standard deviations",
            "standard deviations",
            "linear",
            "linear",
        ),
        ("Imbalance of the queues and the next move", "horizon, s", "AUC", "log", "linear"),
        ("Spread", "ticks (10: or more)", "share of time", "linear", "log"),
        ("Queue at the touch", "multiple of its mean", "density", "linear", "linear"),
        ("Mark-out at the touch", "after the decision, s", "price units", "symlog", "linear"),
        ("Fills of a lot at the touch, 95%", "", "a minute, both sides", "linear", "linear"),
        ("Mark-out from the fill price, 95%", "after the fill, s", "half-ticks", "log", "linear"),
        ("Response of the mid to an event, 95%", "after the event, s", "half-ticks", "log", "linear"),
    )
    for axis, (title, x, y, xscale, yscale) in zip(axes.flat, titles, strict=True):
        axis.set(title=title, xlabel=x, ylabel=y, xscale=xscale, yscale=yscale)
        axis.grid(alpha=0.3)
    for axis in (worth, responses):
        axis.axhline(0, color="k", linewidth=0.5)
    rates.set_xticks(range(len(WORDS)), WORDS, fontsize=8)
    rates.set_ylim(bottom=0)
    if responses.get_legend_handles_labels()[1]:
        responses.legend(fontsize=7)
    returns.axhline(0, color="k", linewidth=0.5)
    maker.axhline(0, color="k", linewidth=0.5)
    tails.set_ylim(1e-5, 1)
    tails.legend(fontsize=8)
    sign.legend(handles=[guide], fontsize=8)
