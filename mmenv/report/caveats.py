"""What the data of a backtest cannot support: reasons not to believe its figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from mmenv.backtest.result import Result, Run
from mmenv.backtest.run import DAY_SECONDS
from mmenv.measure.metrics import ENOUGH
from mmenv.report.words import duration, number, stamp
from mmenv.times import SECOND

PARTICIPATION = 0.1
"""Share of the market's volume above which a replay, which does not react, is no longer believable."""


class Caveat(NamedTuple):
    """A reason not to believe a figure."""

    title: str
    text: str


def caveats(result: Result) -> Iterator[Caveat]:
    """Find what the data cannot support, most serious first."""
    yield from _about_data(result)
    yield from _about_tries(result)
    if result.recorded:
        yield from _about_replay(result)
    for run in result.runs.values():
        yield from _about_run(result, run)
        yield from _about_trading(result, run)


def _about_data(result: Result) -> Iterator[Caveat]:
    """Say where the market is not real, too short, or has gaps."""
    count = len(result.samples[result.first.name].times_ns)
    seconds = count * result.interval
    if not result.recorded:
        yield Caveat(
            "A simulated market proves no profit",
            "Its orders arrive and its prices move by the rules it was given. What earns here shows "
            "that a policy does what it should, not that it would earn anywhere else.",
        )
    elif seconds < 20 * DAY_SECONDS:
        yield Caveat(
            "Too little data to prove a profit",
            f"{duration(seconds).capitalize()} of recorded market are one sample of one regime. They "
            "show whether the desk works and why it earned or lost; they support no claim of profit. "
            "Weeks are a beginning.",
        )
    if count < ENOUGH:
        yield Caveat(
            "Few intervals",
            f"Sampled figures (Sharpe, value at risk, all intervals) rest on {count} intervals of "
            f"{duration(result.interval)}; below {ENOUGH} they are rough.",
        )
    gaps = [gap for unit in result.first.units for gap in unit["gaps"]]
    if gaps:
        total = sum(last - first for first, last in gaps) / SECOND
        yield Caveat(
            "Gaps in the data",
            f"In {len(gaps)} stretches, {duration(total)} in all, no trade was recorded and the book "
            f"stood still; the first begins {stamp(gaps[0][0])}. Quotes stood there without a market, "
            "and what moved meanwhile comes as one jump.",
        )
    early = [unit["labels"]["day"] for unit in result.first.units if unit["ended_early"]]
    if early:
        yield Caveat(
            "Data ended early",
            f"The tape of {', '.join(early)} ended before the range that was asked for.",
        )


def _about_tries(result: Result) -> Iterator[Caveat]:
    """Say where the best of many tries is good by chance."""
    chances = [figures["deflated_sharpe"].value for figures in result.figures.values()]
    best = max((c for c in chances if not math.isnan(c)), default=math.nan)
    if result.tries > 1:
        deflated = (
            "these data are too short to deflate a Sharpe ratio for it"
            if math.isnan(best)
            else "deflated for it, the probability that a true Sharpe ratio is above zero is at most "
            f"{number(100 * best)}%"
        )
        yield Caveat(
            "Many trials",
            f"{result.tries} configurations were looked at. The best of so many looks good by chance alone: "
            f"{deflated}. Tries made elsewhere count too: give them with --tries.",
        )


def _about_replay(result: Result) -> Iterator[Caveat]:
    """Say where queue and latency of a replay are kinder than the exchange."""
    market = result.plan["policies"][0]["config"]["market"]
    if market["own_fees"] and not any(unit["maker_fee_bp"] for unit in result.first.units):
        yield Caveat(
            "No fees were counted",
            "The tape was imported without a maker fee, so fills cost nothing here. Give yours in basis "
            "points: --fees, which may be 0 or, for a rebate, negative.",
        )
    if market["queue_model"] not in ("risk-adverse", "fifo"):
        yield Caveat(
            "Fills may be better than the queue allows",
            f"Under the queue model {market['queue_model']!r} cancels ahead of us are guessed to move "
            "us up. Only \N{LEFT SINGLE QUOTATION MARK}risk-adverse\N{RIGHT SINGLE QUOTATION MARK} "
            "never fills an order that trades alone would not have reached.",
        )
    if market["order_latency_ms"] < 1:
        yield Caveat(
            "Latency that nobody has",
            f"Orders take {market['order_latency_ms']:g} ms to the exchange here; quotes escape what "
            "they could not escape in truth.",
        )
    for run in result.runs.values():
        cells = [unit for unit in result.scenarios if unit["labels"]["policy"] == run.name]
        base = result.figures[run.name]["profit"].value
        strict = [u for u in cells if u["labels"]["queue"] == "risk-adverse"]
        by_latency: dict[float, float] = {}
        for unit in strict:
            latency = unit["labels"]["latency_ms"]
            by_latency[latency] = by_latency.get(latency, 0.0) + unit["totals"]["profit"]
        worst = min(by_latency.values(), default=base)
        if base > 0 and worst < 0:
            yield Caveat(
                f"{run.name}: the profit does not survive a slower line",
                f"It becomes {number(worst)} {result.currency} at one of the latencies tried, see the "
                "sensitivity.",
            )


def _about_run(result: Result, run: Run) -> Iterator[Caveat]:
    """Say where a policy was not filled, did not quote, or was too slow."""
    counts, step = run.counts, run.units[0]["step_seconds"]
    silent = sorted({u["labels"]["day"] for u in run.units if not u["fills"]})
    if silent:
        yield Caveat(
            f"{run.name}: days without a fill",
            f"On {len(silent)} of {len({u['labels']['day'] for u in run.units})} days nothing was "
            f"filled ({', '.join(silent[:5])}{', ...' if len(silent) > 5 else ''}). Their profit of 0 "
            "is no result.",
        )
    share = counts["unusable"] / counts["decisions"]
    if share:
        yield Caveat(
            f"{run.name}: decisions without a quote",
            f"{number(100 * share)}% of its actions were not finite (NaN or infinite); the desk quoted "
            "nothing there, as it would live.",
        )
    slowest = max(u["clock"]["slowest"] for u in run.units)
    calls = sum(u["clock"]["calls"] for u in run.units)
    mean = sum(u["clock"]["seconds"] for u in run.units) / max(calls, 1)
    if result.recorded and mean > step:
        yield Caveat(
            f"{run.name}: slower than its own decisions",
            f"It thinks {number(1e3 * mean)} ms a decision (slowest {number(1e3 * slowest)} ms), and "
            f"one comes every {number(1e3 * step)} ms; live it would miss them. The replay waited for "
            "it.",
        )


def _about_trading(result: Result, run: Run) -> Iterator[Caveat]:
    """Say where a policy was too large, stopped by its limits, or traded little."""
    counts, figures = run.counts, result.figures[run.name]
    if result.recorded and figures["participation"].value > PARTICIPATION:
        yield Caveat(
            f"{run.name}: larger than the market bears",
            f"Its fills are {number(100 * figures['participation'].value)}% of all that was traded. A "
            "replay does not react to our orders; at this size the true market would have moved.",
        )
    halted = counts["reducing"] + counts["halted"]
    if halted:
        yield Caveat(
            f"{run.name}: stopped by its loss limit",
            f"{number(100 * halted / counts['decisions'])}% of decisions were spent reducing or halted; "
            "what it earned from there on shows the limit, not the policy.",
        )
    trips = figures["trips"].value
    if figures["fills"].value and trips < 30:
        yield Caveat(
            f"{run.name}: few round trips",
            f"Win rate and distribution rest on {trips:.0f} round trips.",
        )
