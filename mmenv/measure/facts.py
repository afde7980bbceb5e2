"""Stylised facts of markets: what is checked. `mmenv.measure.facts_page` is the command and the page.

Each fact is a statistic with an interval for the market, an accepted range and a verdict. All is measured at
the desk's decisions, on the book and the trades that a policy sees; one lot rests at the touch on both sides
for the mark-out. Sources of the facts: Cont (2001), "Empirical properties of asset returns"; Lillo and Farmer
(2004) on signs; Cont, Kukanov and Stoikov (2014) on order-flow imbalance; Gould and Bonart (2016) on queue
imbalance. The ranges are those of liquid markets in that literature, of tapes of Binance, August 2024, and,
by tick regime, of NASDAQ, June 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.engine.products import line
from mmenv.measure.intervals import Array, Estimate, jackknife
from mmenv.measure.record import TICK, Record


@dataclass(frozen=True)
class Fact:
    """A statistic: rows of a record, one for each block, and what they say together.

    `combine` gets the rows, possibly some of them repeated and some left out, and is NaN where they are too
    few.
    """

    name: str
    low: float
    """The accepted range in a small-tick perpetual, and where there is no book."""
    high: float
    rows: Callable[[Record], Array]
    combine: Callable[[Array], float]
    needs_book: bool = False
    of_stocks: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)
    """The range in a large-tick and in a small-tick stock, where it is another."""

    def accepted(self, regime: str) -> tuple[float, float]:
        """The accepted range in a regime, one of `REGIMES`."""
        other = dict(zip(REGIMES, (*self.of_stocks, None), strict=True)).get(regime)
        return other or (self.low, self.high)

    def value(self, record: Record) -> float:
        """Measure the fact in a record; NaN where it does not hold enough."""
        return math.nan if self.needs_book and not record.has_book else self.combine(self.rows(record))

    def estimate(self, record: Record) -> Estimate:
        """`value` with the interval of `mmenv.measure.intervals.jackknife`; without one of a single block."""
        value = self.value(record)
        if math.isnan(value) or len(record.path) == 1:
            return Estimate(value)
        rows = self.rows(record)

        def statistic(weights: Array) -> Array:
            return np.array([self.combine(rows[weights > 0])])

        return jackknife(record.path, statistic, logarithms=False)[0]


@dataclass(frozen=True)
class Finding:
    """A fact of one record: its value with the 95% interval, and whether it lies in the accepted range."""

    fact: Fact
    estimate: Estimate
    regime: str = ""

    @property
    def accepted(self) -> tuple[float, float]:
        """The accepted range."""
        return self.fact.accepted(self.regime)

    @property
    def in_range(self) -> bool:
        """Whether the value, whatever its interval, lies in the accepted range or is not measurable."""
        low, high = self.accepted
        return math.isnan(self.estimate.value) or low <= self.estimate.value <= high

    @property
    def verdict(self) -> str:
        """One of "pass" (the whole interval lies in the accepted range), "fail" (the whole interval lies
        outside), "unclear" (neither, or there is no interval) and "-" (not measurable)."""
        value, low, high = self.estimate
        if math.isnan(value):
            return "-"
        least, most = self.accepted
        if least <= low and high <= most:
            return "pass"
        return "fail" if low > most or high < least else "unclear"


def findings(record: Record) -> list[Finding]:
    """Find every fact of the record."""
    return [Finding(fact, fact.estimate(record), regime_of(record)) for fact in FACTS]


REGIMES = ("large-tick stock", "small-tick stock", "small-tick perpetual")
"""How large a tick is, which decides what is to be expected of a market."""


def regime_of(record: Record) -> str:
    """The tick regime of a record with a book, "" without.

    *Small-tick stock*: the spread is one tick for less than half of the time. Of those where it mostly is, a
    *large-tick stock* moves by less than a tick in a second, a *small-tick perpetual* by more (its market
    orders and makers jump over many ticks at once).
    """
    spread = record.blocks["spread"]
    if not record.has_book:
        return ""
    if (spread[spread > 0] == TICK).mean() < 0.5:
        return "small-tick stock"
    steps = max(round(1 / record.seconds), 1)
    seconds = steps * record.seconds
    moved = np.diff(record.blocks["mid"][:, ::steps], axis=1)
    return "large-tick stock" if np.sqrt((moved**2).mean() / seconds) < TICK else "small-tick perpetual"


# Correlations.


def moments(x: NDArray[Any], y: NDArray[Any]) -> Array:
    """Per block: count, sums of x, y, xx, yy and xy, for `correlation`."""
    x, y = x.astype(float), y.astype(float)
    n = np.full(len(x), float(x.shape[1]))
    return np.stack([n, x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], axis=1)


def lagged(x: NDArray[Any], lag: int) -> Array:
    """Per block: moments of x and its own value `lag` later; zeros where the blocks are too short."""
    return moments(x[:, :-lag], x[:, lag:]) if x.shape[1] > lag else np.zeros((len(x), 6))


def correlation(rows: Array) -> float:
    """Correlation from rows of `moments`."""
    n, x, y, xx, yy, xy = rows.sum(axis=0)
    if n < 10:
        return math.nan
    square = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / math.sqrt(square)) if square > 0 else math.nan


def squared_correlation(rows: Array) -> float:
    """Squared correlation from rows of `moments`."""
    return correlation(rows) ** 2


# Returns: volatility that lasts, and tails.


def lasting(record: Record) -> Array:
    """Per block: moments of absolute 1 s returns with those 5 s and 60 s later."""
    absolute = np.abs(record.returns(1.0))
    return np.concatenate([lagged(absolute, 5), lagged(absolute, 60)], axis=1)


def persistence(rows: Array) -> float:
    """Correlation at the far lag of `lasting` over that at the near one."""
    near, far = correlation(rows[:, :6]), correlation(rows[:, 6:])
    return far / near if near > 0 else math.nan


TAIL = 0.05
"""Share of the absolute returns that `hill` takes for the tail."""


def hill(rows: Array) -> float:
    """Hill's tail index of the largest absolute values."""
    values = np.sort(np.abs(rows).ravel())[::-1]
    count = int(TAIL * len(values))
    if count < 20 or values[count] <= 0:
        return math.nan
    return float(1 / np.log(values[:count] / values[count]).mean())


# Order flow.

SIGN_LAGS = np.unique(np.geomspace(1, 100, 13).round().astype(int))


def signs(record: Record) -> Array:
    """Per block: moments of the sign of each decision's net market volume with later ones, at `SIGN_LAGS`."""
    sign = np.sign(record.blocks["buy_lots"] - record.blocks["sell_lots"])
    return np.stack([lagged(sign, lag) for lag in SIGN_LAGS], axis=1).reshape(len(sign), -1)


def decay(rows: Array) -> float:
    """Exponent of a power law through the correlations of the signs, least squares of logarithms."""
    each = rows.reshape(len(rows), len(SIGN_LAGS), 6)
    values = np.array([correlation(each[:, k]) for k in range(len(SIGN_LAGS))])
    good = values > 0.002
    if good.sum() < 5:
        return math.nan
    return -line(np.log(SIGN_LAGS[good]), np.log(values[good]))[1]


def order_flow(record: Record) -> Array:
    """Order-flow imbalance between decisions from the best quotes (Cont, Kukanov and Stoikov 2014), lots.

    Its shape is (blocks, decisions), and it is zero at the first decision.
    """
    b = record.blocks
    bid, ask = b["mid"] - b["spread"] // 2, b["mid"] + b["spread"] // 2
    bids, asks = b["best_bid_lots"], b["best_ask_lots"]
    demand = np.where(np.diff(bid) >= 0, bids[:, 1:], 0) - np.where(np.diff(bid) <= 0, bids[:, :-1], 0)
    supply = np.where(np.diff(ask) <= 0, asks[:, 1:], 0) - np.where(np.diff(ask) >= 0, asks[:, :-1], 0)
    return np.pad((demand - supply).astype(float), ((0, 0), (1, 0)))


# The book: does its imbalance say where the mid goes?

BINS = 200
"""Bins of the imbalance in `ranks`."""


def ranks(record: Record, seconds: float) -> Array:
    """Per block: how often the mid rose, and fell, over the horizon, by bin of the imbalance before it.

    The imbalance is (bid - ask) / (bid + ask) lots at the touch. The counts are zero where decisions are
    further apart than the horizon.
    """
    lag, mid = record.lag(seconds), record.blocks["mid"]
    bid, ask = record.blocks["best_bid_lots"], record.blocks["best_ask_lots"]
    imbalance = (bid - ask) / np.maximum(bid + ask, 1)
    bins = ((imbalance + 1) / 2 * (BINS - 1)).round().astype(int)
    move = mid[:, lag:] - mid[:, :-lag]
    rows = np.zeros((len(mid), 2 * BINS))
    if seconds < 0.99 * record.seconds:
        return rows
    for row, b, m in zip(rows, bins, move, strict=True):
        before = b[: len(m)]
        row[:BINS] = np.bincount(before[m > 0], minlength=BINS)
        row[BINS:] = np.bincount(before[m < 0], minlength=BINS)
    return rows


def area(rows: Array) -> float:
    """Area under the curve: the chance that the imbalance before a rise is above that before a fall."""
    total = rows.sum(axis=0)
    up, down = total[:BINS], total[BINS:]
    pairs = up.sum() * down.sum()
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / pairs) if pairs > 100 else math.nan


# Sums of one quantity over sums of another.


def share(rows: Array) -> float:
    """Sum of the first column over that of the second."""
    part, whole = rows.sum(axis=0)
    return float(part / whole) if whole >= 20 else math.nan


def narrow(record: Record) -> Array:
    """Per block: decisions with a spread of one tick; decisions with a book."""
    spread = record.blocks["spread"]
    return np.stack([(spread == 2).sum(1), (spread > 0).sum(1)], axis=1).astype(float)


def fill_rate(record: Record) -> Array:
    """Per block: fills of both sides; seconds of both sides."""
    fills = record.blocks["ask_fill"] + record.blocks["bid_fill"]
    return np.stack([fills.sum(1), np.full(len(fills), 2 * fills.shape[1] * record.seconds)], axis=1)


def markout(record: Record, seconds: float) -> Array:
    """Per block: what our fills had earned so long after the decision they followed; the fills.

    Earnings are in standard deviations of the mid's move between two decisions; after 0 s they are the
    distance quoted.
    """
    b, lag = record.blocks, record.lag(seconds) if seconds > 0 else 0
    mid = b["mid"][:, lag:]
    fills = slice(1, mid.shape[1] + 1)
    mid = mid[:, : b["mid"].shape[1] - 1]
    sold, bought = b["ask_fill"][:, fills], b["bid_fill"][:, fills]
    earned = b["ask_value"][:, fills] - sold * mid + bought * mid - b["bid_value"][:, fills]
    return np.stack([earned.sum(1) / record.scale, (sold + bought).sum(1)], axis=1)


FACTS = (
    Fact("returns: correlation of a 10 s return with the next", -0.1, 0.1,
         lambda r: lagged(r.returns(10.0), 1), correlation),
    Fact("returns: correlation of a 1 s return with the one 2 s later", -0.05, 0.05,
         lambda r: lagged(r.returns(1.0), 2), correlation),
    Fact("volatility: correlation of absolute 1 s returns 10 s apart", 0.02, 0.6,
         lambda r: lagged(np.abs(r.returns(1.0)), 10), correlation),
    Fact("volatility: that correlation 60 s apart over 5 s apart", 0.25, 1.0, lasting, persistence),
    Fact("tails: Hill index of 10 s returns", 3.0, 5.0, lambda r: r.returns(10.0), hill,
         of_stocks=((2.0, 6.0), None)),
    Fact("flow: exponent of the decay of the correlation of signs", 0.3, 0.8, signs, decay,
         of_stocks=((0.2, 0.9), (0.2, 1.0))),
    Fact("flow: R2 of order-flow imbalance and the 10 s return", 0.3, 0.65,
         lambda r: moments(r.sums(order_flow(r), 10.0), r.returns(10.0)), squared_correlation,
         needs_book=True, of_stocks=((0.3, 0.75), (0.1, 0.65))),
    Fact("flow: R2 of order-flow imbalance and the next 10 s return", 0.0, 0.02,
         lambda r: moments(r.sums(order_flow(r), 10.0)[:, :-1], r.returns(10.0)[:, 1:]), squared_correlation,
         needs_book=True, of_stocks=((0.0, 0.03), (0.0, 0.03))),
    Fact("book: AUC of the imbalance for the move in 0.1 s", 0.75, 0.97, lambda r: ranks(r, 0.1), area,
         needs_book=True, of_stocks=((0.7, 0.97), (0.52, 0.8))),
    Fact("book: AUC of the imbalance for the move in 1 s", 0.7, 0.9, lambda r: ranks(r, 1.0), area,
         needs_book=True, of_stocks=((0.65, 0.9), (0.52, 0.75))),
    Fact("book: AUC of the imbalance for the move in 5 s", 0.5, 0.7, lambda r: ranks(r, 5.0), area,
         needs_book=True, of_stocks=((0.6, 0.85), (0.5, 0.7))),
    Fact("book: share of time with a spread of one tick", 0.8, 1.0, narrow, share, needs_book=True,
         of_stocks=((0.9, 1.0), (0.0, 0.5))),
    Fact("maker: fills of one lot at the touch, per second and side", 0.1, 2.0, fill_rate, share,
         needs_book=True, of_stocks=((0.02, 0.5), (0.005, 0.3))),
    Fact("maker: mark-out at the touch, at once (std of a move)", 0.0, math.inf,
         lambda r: markout(r, 0.0), share, needs_book=True),
    Fact("maker: mark-out at the touch after 1 s (std of a move)", -math.inf, 0.05,
         lambda r: markout(r, 1.0), share, needs_book=True, of_stocks=((-1.2, 0.0), (-2.0, 1.5))),
    Fact("maker: mark-out at the touch after 5 s (std of a move)", -math.inf, 0.05,
         lambda r: markout(r, 5.0), share, needs_book=True, of_stocks=((-1.3, 0.0), (-2.5, 1.0))),
)  # fmt: skip
"""Everything that is checked, with the accepted range."""
