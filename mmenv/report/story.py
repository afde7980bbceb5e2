"""What the figures of a backtest mean, in sentences."""

from __future__ import annotations

import math

from mmenv.backtest.result import Result, Run
from mmenv.measure.intervals import FEWEST_BLOCKS, Estimate
from mmenv.report.words import amount, decimals, duration, fixed, number


def story(result: Result) -> list[str]:
    """Tell what each policy did and why, and how they differ; a paragraph each."""
    told = [_run_story(result, run) for run in result.runs.values()]
    return told + [_difference_story(result, name) for name in list(result.runs)[1:]]


def _run_story(result: Result, run: Run) -> str:
    """Tell what a policy earned, how sure that is, where it came from, and what a fill was worth."""
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
    per_turnover = figures["profit_bp"]
    said = (
        f"{run.name} {verb} {amount(profit, abs(profit.value))} {money} in {length} of {kind} market with "
        f"{number(figures['fills'].value)} fills: {amount(per_turnover, per_turnover.value)} bp of what it "
        "traded. "
    )
    said += _how_sure(profit) + _why(figures)
    horizon = min(result.horizons, key=lambda h: abs(h - 1.0), default=None)
    if horizon is not None:
        mark = result.markout_curve(run)[result.horizons.index(horizon)]
        if not math.isnan(mark.value):
            knew = (
                "adverse selection took the whole spread" if mark.value < 0 else "part of the spread was kept"
            )
            after = duration(horizon).capitalize()
            worth = amount(mark, mark.value)
            said += f" {after} after a fill its mark-out was {worth} bp: {knew}."
    return said


def _how_sure(profit: Estimate) -> str:
    """Tell whether the interval of the profit excludes zero."""
    if math.isnan(profit.low):
        return f"The data are too short for an interval: fewer than {FEWEST_BLOCKS} blocks. "
    interval = f"The 95% interval, {interval_text(profit)}"
    if crosses_zero(profit):
        return f"{interval}, contains zero: not statistically significant. "
    return f"{interval}, lies {'above' if profit.value > 0 else 'below'} zero: statistically significant. "


def _why(figures: dict[str, Estimate]) -> str:
    """Tell where the profit came from."""

    def did(name: str, gave: str, took: str) -> str:
        value = figures[name].value
        return f"{gave if value >= 0 else took} {amount(figures[name], abs(value))}"

    paid = figures["fees"].value
    text = (
        f"Spread capture {did('spread_capture', 'earned', 'cost')}; adverse selection "
        f"{did('adverse_selection', 'added', 'took')}, carry {did('carry', 'added', 'took')} "
        + (f"and {did('fees', 'fees took', 'rebates added')}." if paid else "and there were no fees.")
    )
    if "funding" in figures:
        text += f" Funding {did('funding', 'added', 'took')}."
    capture, adverse, fees = (figures[n].value for n in ("spread_capture", "adverse_selection", "fees"))
    if capture > 0 and fees > capture:
        text += " Fees alone are more than the spread it captured."
    elif capture > 0 and -adverse > capture:
        text += (
            " Adverse selection alone is more than the spread it captured: it was filled when it was wrong."
        )
    return text


def _difference_story(result: Result, name: str) -> str:
    """Tell how much more or less than the first a policy earned or lost."""
    found = result.difference(name)["profit"]
    first = result.first.name
    both_lost = all(result.figures[run]["profit"].value < 0 for run in (name, first))
    verb = "lost" if both_lost else "earned"
    more = "more" if (found.value >= 0) != both_lost else "less"
    verdict = (
        "not statistically significant" if crosses_zero(found) else "statistically significant, on these data"
    )
    interval = (
        "no interval: the data are too short"
        if math.isnan(found.low)
        else (f"95% interval of the difference {interval_text(found)}")
    )
    return (
        f"{name} {verb} {amount(found, abs(found.value))} {result.currency} {more} than {first} on the same "
        f"data at the same times ({interval}): {verdict}."
    )


def interval_text(estimate: Estimate) -> str:
    """Write the interval."""
    places = decimals(estimate)
    return f"[{fixed(estimate.low, places)}, {fixed(estimate.high, places)}]"


def crosses_zero(estimate: Estimate) -> bool:
    """Whether the data cannot tell the figure from 0: the interval holds it, or there is none."""
    return math.isnan(estimate.low) or estimate.low <= 0 <= estimate.high
