"""Numbers, lengths of time and times as people write them."""

from __future__ import annotations

import math

import numpy as np

from mmenv.measure.intervals import Estimate


def number(value: float, digits: int = 3) -> str:
    """Write a number with at least `digits` significant digits, thousands separated; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    if value == 0 or math.isinf(value) or abs(value) < 1e-4:
        text = f"{value + 0.0:.2g}"
    else:
        text = f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"
        text = text if float(text.replace(",", "")) != value else f"{value:,.10g}"
    return text.replace("-", "\N{MINUS SIGN}")


def show(estimate: Estimate, unit: str) -> str:
    """Write a figure with its interval, in the unit that `mmenv.backtest.result.FIGURES` names."""
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
    """Write a length of time in the unit that suits it."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{number(seconds / unit)} {name}"
    return "1 second" if seconds == 1 else f"{number(seconds)} seconds"


def stamp(time_ns: int) -> str:
    """Write a time as people do."""
    return str(np.datetime64(time_ns, "ns").astype("datetime64[s]")).replace("T", " ")
