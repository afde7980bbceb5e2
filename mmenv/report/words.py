"""Numbers, lengths of time and times as people write them."""

from __future__ import annotations

import math

import numpy as np

from mmenv.measure.intervals import Estimate, TooShort


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


def decimals(estimate: Estimate) -> int:
    """How many decimals show two digits of the interval's half-width; more would be false precision."""
    half = (estimate.high - estimate.low) / 2
    return 2 if not half > 0 or math.isinf(half) else max(1 - math.floor(math.log10(half)), 0)


def fixed(value: float, places: int) -> str:
    """Write a number with so many decimals, thousands separated; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", "\N{MINUS SIGN}")


def amount(estimate: Estimate, value: float) -> str:
    """Write a value to the digits that the interval of its estimate bears."""
    return number(value) if math.isnan(estimate.low) else fixed(value, decimals(estimate))


def show(estimate: Estimate, unit: str) -> str:
    """Write a figure with its interval, in the unit that `mmenv.backtest.result.FIGURES` names."""
    percent = unit.startswith("%")
    sign = "%" if percent else ""
    shown = Estimate(*(100 * value if percent else value for value in estimate))
    if isinstance(estimate, TooShort):
        text = show(Estimate(estimate.value), unit)
        return "too short" if math.isnan(estimate.value) else f"{text} (too short)"
    if math.isnan(shown.low):
        whole = unit == "" and float(shown.value).is_integer()
        text = f"{shown.value:,.0f}" if whole else number(shown.value)
        if percent and 0 < abs(shown.value) < 0.01:
            return "< 0.01%" if shown.value > 0 else "> \N{MINUS SIGN}0.01%"
        return text if math.isnan(shown.value) else text + sign
    places = decimals(shown)
    value, low, high = (fixed(x, places) + sign for x in shown)
    return f"{value} [{low}, {high}]"


def duration(seconds: float) -> str:
    """Write a length of time in the unit that suits it."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{number(seconds / unit)} {name}"
    return "1 second" if seconds == 1 else f"{number(seconds)} seconds"


def stamp(time_ns: int) -> str:
    """Write a time as people do."""
    return str(np.datetime64(time_ns, "ns").astype("datetime64[s]")).replace("T", " ")
