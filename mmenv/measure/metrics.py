"""What a market maker did, in figures: each a function with its formula, its unit and its source.

Money is in the currency of the tape, or in price units x lots of a simulated market; `profit` is after fees.
Sampled figures (Sharpe and its kin) take `profits`, the profit of each of n consecutive intervals of equal
length. Statistics marked *vectorised* work along the last axis, so that a bootstrap evaluates all its
resamples in one call. A figure that the data cannot give is NaN, never 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import stats

from mmenv.engine.products import correlation_of
from mmenv.measure.intervals import Array
from mmenv.times import SECOND

YEAR_SECONDS = 365 * 86_400
"""These markets never close."""

LADDER = (1, 10, 60, 300, 900, 3_600, 14_400, 86_400)
"""Lengths of the sampling interval that are chosen from, seconds."""

ENOUGH = 100
"""Intervals that a sampled figure should have."""


def sampling_seconds(span_seconds: float, step_seconds: float) -> float:
    """The longest interval of `LADDER`, at least a decision, of which `span_seconds` holds `ENOUGH`."""
    long_enough = [s for s in LADDER if s >= step_seconds]
    fitting = [s for s in long_enough if span_seconds / s >= ENOUGH]
    return float(max(fitting, default=min(long_enough, default=step_seconds)))


# Returns and risk.


def annual_factor(interval_seconds: float) -> float:
    """sqrt(intervals in a year of 365 days), by which a ratio per interval becomes an annual one.

    Source: Sharpe (1994), "The Sharpe ratio"; right only where intervals are independent (Lo 2002).
    """
    return math.sqrt(YEAR_SECONDS / interval_seconds)


def sharpe(profits: Array) -> Any:
    """mean / standard deviation (n - 1) of the profits of an interval; no unit, *vectorised*.

    Source: Sharpe (1994). Capital cancels; there is no riskless rate within a day. NaN without variation.
    """
    deviation = np.std(profits, axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(deviation > 0, np.mean(profits, axis=-1) / deviation, np.nan)[()]


def sortino(profits: Array) -> Any:
    """mean / sqrt(mean(min(profit, 0)^2)) of the profits of an interval; no unit, *vectorised*.

    Source: Sortino and van der Meer (1991), "Downside risk", target 0. NaN where no interval lost.
    """
    downside = np.sqrt(np.mean(np.minimum(profits, 0.0) ** 2, axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(downside > 0, np.mean(profits, axis=-1) / downside, np.nan)[()]


def best_of(tries: int, deviation: float) -> float:
    """Sharpe ratio to expect of the best of `tries` configurations without any skill, per interval.

    deviation x ((1 - g) Z(1 - 1/N) + g Z(1 - 1/(N e))), with Z the normal quantile, g Euler's constant and
    `deviation` the standard deviation of the ratios tried. Source: Bailey and Lopez de Prado (2014), "The
    deflated Sharpe ratio", eq. 1.
    """
    if tries <= 1:
        return 0.0
    inside = stats.norm.ppf([1 - 1 / tries, 1 - 1 / (tries * math.e)])
    return deviation * float((1 - np.euler_gamma) * inside[0] + np.euler_gamma * inside[1])


def deflated_sharpe(profits: Array, tries: int) -> float:
    """Probability that the true Sharpe ratio is above 0, after `tries` configurations were looked at.

    Phi((S - S0) sqrt(n - 1) / sqrt(1 - g3 S + (g4 - 1) / 4 S^2)): S per interval, g3 and g4 skewness and
    kurtosis, S0 `best_of` for the deviation that pure chance gives the ratios tried, 1 / sqrt(n - 1). Source:
    Bailey and Lopez de Prado (2014), eq. 2. With one try it is the probabilistic Sharpe ratio.
    """
    n, ratio = len(profits), float(sharpe(profits)) if len(profits) > 2 else math.nan
    if math.isnan(ratio):
        return math.nan
    skew, kurtosis = float(stats.skew(profits)), float(stats.kurtosis(profits, fisher=False))
    spread = 1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2
    hurdle = best_of(tries, 1 / math.sqrt(n - 1))
    return float(stats.norm.cdf((ratio - hurdle) * math.sqrt((n - 1) / max(spread, 1e-12))))


def drawdowns(equity: Array) -> Array:
    """equity - its highest value so far (0 before the first), money, at most 0; *vectorised*."""
    return equity - np.maximum(np.maximum.accumulate(equity, axis=-1), 0.0)


def max_drawdown(equity: Array) -> float:
    """The deepest of `drawdowns`, money, as a positive number. `equity` starts after the first interval."""
    return float(-drawdowns(equity).min(initial=0.0))


def max_drawdown_fraction(equity: Array, capital: float) -> float:
    """The deepest fall of capital + equity below its highest value so far, as a fraction of that value."""
    value = capital + np.concatenate([[0.0], equity])
    return float(1 - (value / np.maximum.accumulate(value)).min())


def value_at_risk(profits: Array, level: float = 0.95) -> Any:
    """Loss of an interval that a share 1 - level of them exceeds: -quantile(1 - level), money; *vectorised*.

    Historical simulation; source: Jorion (2006), "Value at risk".
    """
    return -np.quantile(profits, 1 - level, axis=-1)


def expected_shortfall(profits: Array, level: float = 0.95) -> Any:
    """Mean loss of the worst floor((1 - level) n) intervals, at least one, money; *vectorised*.

    Source: Acerbi and Tasche (2002), "On the coherence of expected shortfall".
    """
    count = max(int((1 - level) * profits.shape[-1] + 1e-9), 1)
    return -np.partition(profits, count - 1, axis=-1)[..., :count].mean(axis=-1)


# Trading.


def attribution(fills: Any, profit: float) -> dict[str, float]:
    """The profit as spread capture + adverse selection + carry - fees, money. See `mmenv.step.ledger`.

    `fills` has arrays side, size, price, mid (at the decision), mid_after (at the next one), fee:
    spread capture = sum size side (mid - price), adverse selection = sum size side (mid_after - mid); carry,
    what positions held from before gained, is the rest of `profit`.
    """
    capture = float(np.sum(fills["size"] * fills["side"] * (fills["mid"] - fills["price"])))
    adverse = float(np.sum(fills["size"] * fills["side"] * (fills["mid_after"] - fills["mid"])))
    fees = float(np.sum(fills["fee"]))
    return {
        "spread_capture": capture,
        "adverse_selection": adverse,
        "carry": profit + fees - capture - adverse,
        "fees": fees,
    }


def turnover(fills: Any) -> float:
    """Money traded, both sides: sum size x |price|."""
    return float(np.sum(fills["size"] * np.abs(fills["price"])))


def coin_prices(prices: Any) -> Any:
    """Prices of an inverse contract as what a unit of it is worth in coin, up to a constant: -1 / price.

    n contracts of V dollars bought at e and sold at x earn n V (1/e - 1/x) coin: with these prices that is
    the formula of a linear contract, so every function here holds for fills with them (`size` in dollars).
    """
    return -1.0 / prices


def basis_points(amount: Any, traded: Any) -> Any:
    """10,000 x amount / money traded, basis points: profit or spread captured per turnover; *vectorised*."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(traded) != 0, 1e4 * np.asarray(amount) / traded, np.nan)[()]


def ratio(part: float, whole: float) -> float:
    """part / whole, NaN where there is no whole: fill ratio (lots filled / lots ordered), shares of time."""
    return part / whole if whole else math.nan


class Trips(NamedTuple):
    """Round trips, from flat to flat or through zero, in the order of their ends."""

    profits: Array
    """Money after fees."""
    seconds: Array
    """From the first fill to the last."""
    paths: NDArray[np.int64]
    """Which path (day and symbol, or episode) each was made on."""


def round_trips(fills: Any) -> Trips:
    """Round trips in `fills` (path, time_ns, side, lots, size, price, fee; in time within a path).

    A trip ends where the position returns to zero or changes sign; the fill that crosses zero is split in
    proportion. What is still open at the end of a path is no trip.
    """
    columns = (np.asarray(fills[name]) for name in ("path", "time_ns", "side", "lots"))
    path, time_ns, side, lots = (np.ascontiguousarray(column, np.int64) for column in columns)
    money = np.asarray(fills["size"] * fills["price"], np.float64)
    profits, first, last, paths = _round_trips(
        path, time_ns, side, lots, money, np.asarray(fills["fee"], np.float64)
    )
    return Trips(profits, (last - first) / SECOND, paths)


@njit(cache=True)
def _round_trips(path, time_ns, side, lots, money, fee):
    """Profit, first and last time, and path of each trip."""
    n = len(path)
    profits, first = np.empty(n, np.float64), np.empty(n, np.int64)
    last, paths = np.empty(n, np.int64), np.empty(n, np.int64)
    count, position, cash, began = 0, 0, 0.0, 0
    for k in range(n):
        if k == 0 or path[k] != path[k - 1]:
            position, cash = 0, 0.0
        if position == 0:
            began = time_ns[k]
        after = position + side[k] * lots[k]
        flow = -side[k] * money[k] - fee[k]
        closes = position != 0 and position * after <= 0
        if closes:
            part = abs(position) / lots[k]
            profits[count], first[count] = cash + part * flow, began
            last[count], paths[count] = time_ns[k], path[k]
            count += 1
            cash, began = (1 - part) * flow, time_ns[k]
        else:
            cash += flow
        position = after
    return profits[:count], first[:count], last[:count], paths[:count]


def win_rate(profits: Array) -> Any:
    """Share of round trips with a profit above 0, after fees; *vectorised*."""
    profits = np.asarray(profits, np.float64)
    return np.mean(profits > 0, axis=-1) if profits.shape[-1] else math.nan


def profit_to_inventory(profit: float, mean_absolute_position: float) -> float:
    """Profit / mean absolute position (PnLMAP), money per lot: profit for the risk held.

    Source: Gasperov and Kostanjcar (2021), "Market making with signals through deep reinforcement learning".
    """
    return ratio(profit, mean_absolute_position)


def half_life(position: Array, interval_seconds: float) -> float:
    """Time in which a position is expected to halve: -ln 2 / ln rho x interval, seconds.

    rho is the correlation of the position with itself one interval before, as for an Ornstein-Uhlenbeck
    process. NaN where the position does not vary or does not come back (rho outside (0, 1)).
    """
    x, y = np.asarray(position[:-1], float), np.asarray(position[1:], float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    rho = correlation_of(x, y)
    return -math.log(2) / math.log(rho) * interval_seconds if 0 < rho < 1 else math.nan


def markouts(fills: Any, mid_later: Array) -> Array:
    """side x (mid some time after the fill - price) / |price| for each fill, basis points.

    What a fill was worth once the market had moved: at once half the spread, later less what the other side
    knew. NaN where the data end before. Source: Cartea, Jaimungal and Penalva (2015), section 2.3.
    """
    paid = fills["price"]
    return np.asarray(1e4 * fills["side"] * (mid_later - paid) / np.abs(paid), np.float64)
