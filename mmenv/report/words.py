"""What the figures mean, in words, and what the data cannot support."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mmenv.backtest.result import Result, Run
from mmenv.metrics import ENOUGH, Estimate

DAY_SECONDS = 86_400
PARTICIPATION = 0.1
"""Above this share of the market's volume a replay, which does not react, is no longer believable."""


class Warning(NamedTuple):
    """A reason not to believe a figure."""

    title: str
    text: str


# Numbers.


def number(value: float, digits: int = 3) -> str:
    """A number with at least `digits` significant digits, thousands separated; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    if value == 0 or math.isinf(value) or abs(value) < 1e-4:
        text = f"{value + 0.0:.2g}"
    else:
        text = f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"
        text = text if float(text.replace(",", "")) != value else f"{value:,.10g}"
    return text.replace("-", "\N{MINUS SIGN}")


def show(estimate: Estimate, unit: str) -> str:
    """A figure with its interval, in the unit that `FIGURES` names."""
    percent = unit.startswith("%")
    whole = unit == "" and float(estimate.value).is_integer() and math.isnan(estimate.low)

    def one(value: float) -> str:
        if whole:
            return f"{value:,.0f}"
        return number(100 * value) + "%" if percent and not math.isnan(value) else number(value)

    if math.isnan(estimate.low):
        return one(estimate.value)
    return f"{one(estimate.value)} [{one(estimate.low)}, {one(estimate.high)}]"


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{number(seconds / unit)} {name}"
    return "1 second" if seconds == 1 else f"{number(seconds)} seconds"


def crosses_zero(estimate: Estimate) -> bool:
    """Whether the data cannot tell the figure from 0: the interval holds it, or there is none."""
    return math.isnan(estimate.low) or estimate.low <= 0 <= estimate.high


# Sentences.


def story(result: Result) -> list[str]:
    """What each policy did and why, and how they differ; a paragraph each."""
    told = [_run_story(result, run) for run in result.runs.values()]
    return told + [_difference_story(result, name) for name in list(result.runs)[1:]]


def _run_story(result: Result, run: Run) -> str:
    figures = result.figures[run.name]
    profit, money = figures["profit"], result.currency
    length = duration(run.counts["decisions"] * run.units[0]["step_seconds"])
    kind = "recorded" if result.recorded else "simulated"
    if not figures["fills"].value:
        return (
            f"{run.name} was never filled in {length} of {kind} market: it made "
            f"{number(run.counts['decisions'])} decisions and nothing came of them. Its profit is 0 because "
            "it did not trade, not because it broke even."
        )
    verb = "earned" if profit.value >= 0 else "lost"
    said = (
        f"{run.name} {verb} {number(abs(profit.value))} {money} in {length} of {kind} market with "
        f"{number(figures['fills'].value)} fills: {number(figures['profit_bp'].value)} bp of what it "
        "traded. "
    )
    if math.isnan(profit.low):
        said += "There is too little data for an interval. "
    elif crosses_zero(profit):
        said += (
            f"The 95% interval, [{number(profit.low)}, {number(profit.high)}], holds zero: the data cannot "
            "tell this from luck. "
        )
    else:
        said += (
            f"The 95% interval, [{number(profit.low)}, {number(profit.high)}], lies "
            f"{'above' if profit.value > 0 else 'below'} zero. "
        )
    said += _why(figures)
    horizon = min(result.horizons, key=lambda h: abs(h - 1.0), default=None)
    if horizon is not None:
        mark = result.markout_curve(run)[result.horizons.index(horizon)]
        if not math.isnan(mark.value):
            knew = "the others knew more" if mark.value < 0 else "part of the spread was kept"
            after = duration(horizon).capitalize()
            said += f" {after} after a fill the mid was {number(mark.value)} bp from its price: {knew}."
    return said


def _why(figures: dict[str, Estimate]) -> str:
    """Where the profit came from."""

    def did(name: str, gave: str, took: str) -> str:
        value = figures[name].value
        return f"{gave if value >= 0 else took} {number(abs(value))}"

    text = (
        f"The spread {did('spread_capture', 'brought', 'cost')}; adverse selection "
        f"{did('adverse_selection', 'gave', 'took')}, the positions it carried "
        f"{did('carry', 'gave', 'took')} "
        + (f"and fees {did('fees', 'took', 'gave')}." if figures["fees"].value else "and there were no fees.")
    )
    capture, adverse, fees = (figures[n].value for n in ("spread_capture", "adverse_selection", "fees"))
    if capture > 0 and fees > capture:
        text += " Fees alone are more than the spread it captured."
    elif capture > 0 and -adverse > capture:
        text += (
            " Adverse selection alone is more than the spread it captured: it was filled when it was wrong."
        )
    return text


def _difference_story(result: Result, name: str) -> str:
    found = result.difference(name)["profit"]
    more = "more" if found.value >= 0 else "less"
    verdict = (
        "too little to tell them apart"
        if crosses_zero(found)
        else "a difference that the same intervals of the same data bear out"
    )
    return (
        f"{name} earned {number(abs(found.value))} {result.currency} {more} than {result.first.name} on the "
        f"same data at the same times, 95% interval [{number(found.low)}, {number(found.high)}]: {verdict}."
    )


# Warnings.


def warnings(result: Result) -> list[Warning]:
    """What the data cannot support, most serious first."""
    found = _about_data(result) + _about_tries(result) + _about_fills(result)
    for run in result.runs.values():
        found += _about_run(result, run)
    return found


def _about_data(result: Result) -> list[Warning]:
    found = []
    seconds = len(result.samples[result.first.name].times_ns) * result.interval
    if not result.recorded:
        found.append(
            Warning(
                "A simulated market proves no profit",
                "Its orders arrive and its prices move by the rules it was given. What earns here shows "
                "that a policy does what it should, not that it would earn anywhere else.",
            )
        )
    elif seconds < 20 * DAY_SECONDS:
        found.append(
            Warning(
                "Too little data to prove a profit",
                f"{duration(seconds).capitalize()} of recorded market are one sample of one regime. They "
                "show whether the desk works and why it earned or lost; they support no claim of profit. "
                "Weeks are a beginning.",
            )
        )
    count = len(result.samples[result.first.name].times_ns)
    if count < ENOUGH:
        found.append(
            Warning(
                "Few intervals",
                f"Sampled figures (Sharpe, value at risk, all intervals) rest on {count} intervals of "
                f"{duration(result.interval)}; below {ENOUGH} they are rough.",
            )
        )
    gaps = [gap for unit in result.first.units for gap in unit["gaps"]]
    if gaps:
        total = sum(last - first for first, last in gaps) / 1e9
        found.append(
            Warning(
                "Gaps in the data",
                f"In {len(gaps)} stretches, {duration(total)} in all, no trade was recorded and the book "
                f"stood still; the first begins {stamp(gaps[0][0])}. Quotes stood there without a market, "
                "and what moved meanwhile comes as one jump.",
            )
        )
    early = [unit["labels"]["day"] for unit in result.first.units if unit["ended_early"]]
    if early:
        found.append(
            Warning(
                "Data ended early",
                f"The tape of {', '.join(early)} ended before the range that was asked for.",
            )
        )
    return found


def _about_tries(result: Result) -> list[Warning]:
    if result.tries < 2:
        return []
    chances = [figures["deflated_sharpe"].value for figures in result.figures.values()]
    best = max((c for c in chances if not math.isnan(c)), default=math.nan)
    if math.isnan(best):
        return []
    return [
        Warning(
            "Many tries",
            f"{result.tries} configurations were looked at. The best of so many looks good by chance alone: "
            "deflated for it, the probability that a true Sharpe ratio is above zero is at most "
            f"{number(100 * best)}%. Tries made elsewhere count too: give them with --tries.",
        )
    ]


def _about_fills(result: Result) -> list[Warning]:
    if not result.recorded:
        return []
    found = []
    market = result.plan["policies"][0]["config"]["market"]
    if market["queue_model"] != "risk-adverse":
        found.append(
            Warning(
                "Fills may be better than the queue allows",
                f"Under the queue model {market['queue_model']!r} cancels ahead of us are guessed to move "
                "us up. Only \N{LEFT SINGLE QUOTATION MARK}risk-adverse\N{RIGHT SINGLE QUOTATION MARK} "
                "never fills an order that trades alone would not have reached.",
            )
        )
    if market["order_latency_ms"] < 1:
        found.append(
            Warning(
                "Latency that nobody has",
                f"Orders take {market['order_latency_ms']:g} ms to the exchange here; quotes escape what "
                "they could not escape in truth.",
            )
        )
    for run in result.runs.values():
        cells = [unit for unit in result.scenarios if unit["labels"]["policy"] == run.name]
        base = result.figures[run.name]["profit"].value
        strict = [u for u in cells if u["labels"]["queue"] == "risk-adverse"]
        worst = min((_total(strict, u["labels"]["latency_ms"]) for u in strict), default=base)
        if base > 0 and worst < 0:
            found.append(
                Warning(
                    f"{run.name}: the profit does not survive a slower line",
                    f"It becomes {number(worst)} {result.currency} at one of the latencies tried, see the "
                    "sensitivity.",
                )
            )
    return found


def _total(units: list[dict], latency: float) -> float:
    return sum(u["totals"]["profit"] for u in units if u["labels"]["latency_ms"] == latency)


def _about_run(result: Result, run: Run) -> list[Warning]:
    found = []
    counts, figures = run.counts, result.figures[run.name]
    step = run.units[0]["step_seconds"]
    silent = sorted({u["labels"]["day"] for u in run.units if not u["fills"]})
    if silent:
        found.append(
            Warning(
                f"{run.name}: days without a fill",
                f"On {len(silent)} of {len({u['labels']['day'] for u in run.units})} days nothing was "
                f"filled ({', '.join(silent[:5])}{', ...' if len(silent) > 5 else ''}). Their profit of 0 "
                "is no result.",
            )
        )
    share = counts["unusable"] / counts["decisions"]
    if share:
        found.append(
            Warning(
                f"{run.name}: decisions without a quote",
                f"{number(100 * share)}% of its actions were not finite (NaN or infinite); the desk quoted "
                "nothing there, as it would live.",
            )
        )
    slowest = max(u["clock"]["slowest"] for u in run.units)
    calls = sum(u["clock"]["calls"] for u in run.units)
    mean = sum(u["clock"]["seconds"] for u in run.units) / max(calls, 1)
    if result.recorded and mean > step:
        found.append(
            Warning(
                f"{run.name}: slower than its own decisions",
                f"It thinks {number(1e3 * mean)} ms a decision (slowest {number(1e3 * slowest)} ms), and "
                f"one comes every {number(1e3 * step)} ms; live it would miss them. The replay waited for "
                "it.",
            )
        )
    if figures["participation"].value > PARTICIPATION:
        found.append(
            Warning(
                f"{run.name}: larger than the market bears",
                f"Its fills are {number(100 * figures['participation'].value)}% of all that was traded. A "
                "replay does not react to our orders; at this size the true market would have moved.",
            )
        )
    halted = counts["reducing"] + counts["halted"]
    if halted:
        found.append(
            Warning(
                f"{run.name}: stopped by its loss limit",
                f"{number(100 * halted / counts['decisions'])}% of decisions were spent reducing or halted; "
                "what it earned from there on shows the limit, not the policy.",
            )
        )
    trips = figures["trips"].value
    if figures["fills"].value and trips < 30:
        found.append(
            Warning(
                f"{run.name}: few round trips",
                f"Win rate and distribution rest on {trips:.0f} round trips.",
            )
        )
    return found


def stamp(time_ns: int) -> str:
    """A time as people write it."""
    return str(np.datetime64(time_ns, "ns").astype("datetime64[s]")).replace("T", " ")
