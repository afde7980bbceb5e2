"""From the record of a run to what is kept of it: states, fills, equity and counts.

Prices are in the currency of the tape (price units on simulated markets), sizes in the traded good, times in
nanoseconds since 1970 (of local time on tapes, since the start of a simulation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmenv.backtest.play import Played
from mmenv.config import EnvConfig
from mmenv.data.funding import FundingRates
from mmenv.engine.state import ACTIVE, FEE_DIGITS, STATES, fee_rate
from mmenv.measure.metrics import coin_prices
from mmenv.times import SECOND

FUNDING = "funding"
"""A further part of the profit, where funding or borrowing is counted: received less paid."""

YEAR_SECONDS = 365 * 86_400

PARTS = ("spread_capture", "adverse_selection", "carry", "fees")
"""Parts of the profit: the first three less the fees."""

SUMS = ("profit", *PARTS, "turnover")
"""Running totals of the equity table."""

HORIZONS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
"""Times after a fill at which it is marked, seconds; those that are whole decisions."""

VOLATILITY_SECONDS = 60.0
"""Length of the window before a fill in which volatility is measured; at least two decisions."""

STALE_SECONDS = 10.0
"""Time without any change of the book or any trade that makes a gap in the data."""

MOST_POSITIONS = 41
"""Most rows of the picture of a policy."""

SIGNAL_EDGES = np.linspace(-1.0, 1.0, 10)
"""Columns of the picture of a policy; what lies outside counts to the first and the last."""

Table = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the integers of the desk are worth."""

    price: float
    """Price of a half-tick."""
    lot: float
    """Size of a lot, in the traded good; for an inverse contract in the currency it is quoted in."""
    currency: str
    """Currency of profits; for an inverse contract its coin."""
    tick: float
    """Price of a tick; 0 where prices are continuous."""
    inverse: bool = False
    """Whether it is a contract margined in coin."""

    @property
    def money(self) -> float:
        """Money of a half-tick x lot of a linear contract."""
        return self.price * self.lot

    def worth(self, half_ticks: np.ndarray) -> np.ndarray:
        """Money that a lot is worth at these prices; for an inverse contract up to a constant, in coin."""
        if self.inverse:
            return self.lot * np.asarray(coin_prices(half_ticks * self.price))
        return half_ticks * self.money


def horizons(step_seconds: float) -> tuple[float, ...]:
    """Choose those of `HORIZONS` that are whole numbers of decisions."""
    return tuple(
        h for h in HORIZONS if h >= step_seconds and abs(h / step_seconds - round(h / step_seconds)) < 1e-6
    )


def share_of_fee(config: EnvConfig) -> float:
    """The maker fee as the desk counts it, a fraction of notional."""
    return fee_rate(config.maker_fee_bp) / FEE_DIGITS


def _more_for_taking(rows: np.ndarray, config: EnvConfig, scale: Scale) -> dict[int, np.ndarray]:
    """Money that fills of market orders pay beyond the maker fee in each decision, by side: 1 bought."""
    if config.quote.taking is None:
        return {}
    more = fee_rate(config.quote.taking.fee_bp) / FEE_DIGITS - share_of_fee(config)
    mid, paid = rows["mid"].astype(np.float64), {}
    for side, name in ((1, "bid"), (-1, "ask")):
        lots = rows[f"taken_{name}"]
        price = mid - side * rows[f"taken_{name}_edge"] / np.maximum(lots, 1)
        paid[side] = lots * np.abs(scale.worth(price)) * more
    return paid


def ends_of(path: np.ndarray) -> np.ndarray:
    """Index after the last row of each row's path, int64 (N,)."""
    last = np.flatnonzero(np.diff(path, append=-1)) + 1
    return np.repeat(last, np.diff(last, prepend=0))


def states_of(played: Played, scale: Scale) -> Table:
    """Make one row for each decision; a quote or a book that was not there is NaN."""
    rows = played.rows
    mid, half = rows["mid"].astype(np.float64), rows["spread"] / 2.0
    book = rows["spread"] > 0

    def quote(side: int, name: str) -> np.ndarray:
        price = (mid + side * rows[f"{name}_distance"]) * scale.price
        return np.where(rows[f"{name}_lots"] > 0, price, np.nan)

    return {
        "time_ns": rows["time_ns"],
        "path": played.path,
        "session": rows["session"],
        "mid": mid * scale.price,
        "best_bid": np.where(book, (mid - half) * scale.price, np.nan),
        "best_ask": np.where(book, (mid + half) * scale.price, np.nan),
        "best_bid_lots": rows["best_bid_lots"],
        "best_ask_lots": rows["best_ask_lots"],
        "position_lots": rows["position"],
        "bid": quote(-1, "bid"),
        "ask": quote(1, "ask"),
        "bid_lots": rows["bid_lots"],
        "ask_lots": rows["ask_lots"],
        "bid_filled_lots": rows["bid_fill"],
        "ask_filled_lots": rows["ask_fill"],
        "market_buy_lots": rows["buy_lots"],
        "market_sell_lots": rows["sell_lots"],
        "risk_state": rows["risk_state"].astype(np.int8),
        "unusable": rows["unusable"].astype(bool),
        "signal": rows["signal"],
    }


def fills_of(played: Played, config: EnvConfig, scale: Scale) -> Table:
    """Make one row for each decision and side in which we were filled; of both at once, the buy first.

    `time_ns` is when we knew, at the next decision; `price` the average over the fills of that decision,
    `mid` the mid at the decision, `mid_after` at the next one and `mid_after_Xs` X seconds after the fill
    (NaN past the end of the path); `volatility_bp` that of the minute before, per sqrt(second).
    """
    rows = played.rows
    step = config.market.step_seconds
    at = np.concatenate([np.flatnonzero(rows["bid_fill"]), np.flatnonzero(rows["ask_fill"])])
    side = np.repeat([1, -1], [np.count_nonzero(rows["bid_fill"]), np.count_nonzero(rows["ask_fill"])])
    order = np.lexsort((-side, at))
    at, side = at[order], side[order]
    bought = side > 0
    lots = np.where(bought, rows["bid_fill"][at], rows["ask_fill"][at])
    edge = np.where(bought, rows["bid_edge"][at], rows["ask_edge"][at])
    mid = rows["mid"].astype(np.float64)
    value = lots * mid[at] - side * edge  # half-ticks x lots, exact
    earlier = np.where(np.diff(at, prepend=-1) == 0, rows["bid_fill"][at], 0)
    table: Table = {
        "time_ns": rows["time_ns"][at] + config.market.step_ns,
        "path": played.path[at],
        "side": side.astype(np.int8),
        "lots": lots,
        "size": lots * scale.lot,
        "price": value / np.maximum(lots, 1) * scale.price,
        "fee": np.abs(lots * scale.worth(value / np.maximum(lots, 1))) * share_of_fee(config),
        "mid": mid[at] * scale.price,
        "mid_after": (mid[at] + rows["move"][at]) * scale.price,
        "position_lots": rows["position"][at] + earlier + side * lots,
        "best_bid": np.where(rows["spread"][at] > 0, mid[at] - rows["spread"][at] / 2, np.nan) * scale.price,
        "best_ask": np.where(rows["spread"][at] > 0, mid[at] + rows["spread"][at] / 2, np.nan) * scale.price,
        "volatility_bp": _volatility(rows, played.path, step)[at],
    }
    for taken, more in _more_for_taking(rows, config, scale).items():
        table["fee"] = table["fee"] + np.where(side == taken, more[at], 0.0)
    ends = ends_of(played.path)
    final = mid + rows["move"]
    for horizon in horizons(step):
        # The fill is known at decision at + 1; the mid at decision i + 1 is mid + move of i.
        later = at + round(horizon / step)
        known = later < ends[at]
        table[f"mid_after_{horizon:g}s"] = (
            np.where(known, final[np.where(known, later, at)], np.nan) * scale.price
        )
    return table


def _volatility(rows: np.ndarray, path: np.ndarray, step: float) -> np.ndarray:
    """Root mean square move before each decision, bp per sqrt(second); NaN for the first of a path."""
    window = max(round(VOLATILITY_SECONDS / step), 2)
    squares = np.concatenate([[0.0], np.cumsum(np.square(rows["move"], dtype=np.float64))])
    here = np.arange(len(rows))
    begins = np.maximum.accumulate(np.where(np.diff(path, prepend=-1) != 0, here, 0))
    low = np.maximum(here - window, begins)
    count = here - low
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (squares[here] - squares[low]) / count
        return np.where(count > 0, 1e4 * np.sqrt(mean / step) / rows["mid"], np.nan)


@dataclass(frozen=True)
class Holding:
    """What it costs, or earns, to hold a position."""

    funding: FundingRates | None = None
    """Payments of a perpetual contract: longs pay shorts a positive rate of the notional."""
    borrow: float = 0.0
    """What is paid in a year for what was sold short, part of its value."""


def equity_of(played: Played, config: EnvConfig, scale: Scale, holding: Holding | None = None) -> Table:
    """Make running totals of the profit and its parts, money, at the end of every second or decision.

    Money of an inverse contract is coin. `time_ns` is the end of the interval. `profit` = spread_capture +
    adverse_selection + carry - fees, and with `holding` + funding.
    """
    rows = played.rows
    step_ns = config.market.step_ns
    base_ns = max(SECOND, step_ns)
    net = (rows["bid_fill"] - rows["ask_fill"]).astype(np.float64)
    mid, move = rows["mid"].astype(np.float64), rows["move"].astype(np.float64)
    steps = _amounts(rows, scale)
    steps["fees"] = steps["turnover"] * share_of_fee(config)
    for more in _more_for_taking(rows, config, scale).values():
        steps["fees"] = steps["fees"] + more
    steps["profit"] = steps["spread_capture"] + steps["adverse_selection"] + steps["carry"] - steps["fees"]
    if holding is not None:
        steps[FUNDING] = _held(rows, step_ns, scale, holding)
        steps["profit"] = steps["profit"] + steps[FUNDING]
    # Whole seconds of the clock, so that longer intervals are made of whole ones of these.
    cell = (rows["time_ns"] + step_ns - 1) // base_ns
    last = np.flatnonzero(np.diff(cell, append=-1) | np.diff(played.path, append=-1))
    table: Table = {
        "time_ns": rows["time_ns"][last] + step_ns,
        "path": played.path[last],
        "mid": (mid + move)[last] * scale.price,
        "position_lots": (rows["position"] + net.astype(np.int64))[last],
    }
    for name, amounts in steps.items():
        table[name] = np.cumsum(amounts)[last]
    return table


def _held(rows: np.ndarray, step_ns: int, scale: Scale, holding: Holding) -> np.ndarray:
    """Money received less paid in each decision for the position that was held into it.

    What is paid between two decisions is so for the position of the first: when it was filled in between is
    not known.
    """
    worth = np.abs(scale.worth(rows["mid"].astype(np.float64)))
    short = np.maximum(-rows["position"].astype(np.float64), 0)
    amounts = -short * worth * (holding.borrow * step_ns / SECOND / YEAR_SECONDS)
    paid = holding.funding
    if paid is not None and len(rows):
        times = rows["time_ns"]
        here = (paid.times_ns >= times[0]) & (paid.times_ns < times[-1] + step_ns)
        at = np.searchsorted(times, paid.times_ns[here], side="right") - 1
        marked = np.abs(scale.worth(paid.marks[here] / scale.price))
        value = np.where(np.isfinite(marked), marked, worth[at])
        np.add.at(amounts, at, -rows["position"][at] * value * paid.rates[here])
    return amounts


def _amounts(rows: np.ndarray, scale: Scale) -> Table:
    """Count the money of each decision: the parts of the profit before fees, and what was traded.

    Fills of one side in one decision count at their average price.
    """
    bought, sold = rows["bid_fill"].astype(np.float64), rows["ask_fill"].astype(np.float64)
    mid, move = rows["mid"].astype(np.float64), rows["move"].astype(np.float64)
    if not scale.inverse:  # whole numbers until the last
        value = (bought + sold) * mid + rows["ask_edge"] - rows["bid_edge"]
        amounts = {
            "spread_capture": rows["ask_edge"] + rows["bid_edge"],
            "adverse_selection": (bought - sold) * move,
            "carry": rows["position"] * move,
            "turnover": value,
        }
        return {name: amount * scale.money for name, amount in amounts.items()}
    paid = scale.worth(mid - rows["bid_edge"] / np.maximum(bought, 1))
    got = scale.worth(mid + rows["ask_edge"] / np.maximum(sold, 1))
    before = scale.worth(mid)
    gain = scale.worth(mid + move) - before
    return {
        "spread_capture": bought * (before - paid) + sold * (got - before),
        "adverse_selection": (bought - sold) * gain,
        "carry": rows["position"] * gain,
        "turnover": bought * np.abs(paid) + sold * np.abs(got),
    }


def counts_of(played: Played, config: EnvConfig, orders: Table) -> dict[str, Any]:
    """Count what needs no table, as JSON types; counts of several units add up."""
    rows = played.rows
    limit = config.risk.position_limit
    bid, ask = rows["bid_lots"] > 0, rows["ask_lots"] > 0
    touch = (rows["spread"] + 1) // 2
    book = rows["spread"] > 0
    at_bid = book & bid & (rows["bid_distance"] <= touch)
    at_ask = book & ask & (rows["ask_distance"] <= touch)
    after = rows["position"] + rows["bid_fill"] - rows["ask_fill"]
    return {
        "decisions": len(rows),
        "quoted_bid": int(bid.sum()),
        "quoted_ask": int(ask.sum()),
        "quoted_both": int((bid & ask).sum()),
        "book": int(book.sum()),
        "touch_bid": int(at_bid.sum()),
        "touch_ask": int(at_ask.sum()),
        "touch_both": int((at_bid & at_ask).sum()),
        "unusable": int(rows["unusable"].sum()),
        **{name.lower(): int((rows["risk_state"] == k).sum()) for k, name in enumerate(STATES)},
        "absolute_position": int(np.abs(after.astype(np.int64)).sum()),
        "market_lots": int(rows["buy_lots"].sum(dtype=np.int64) + rows["sell_lots"].sum(dtype=np.int64)),
        "ordered_lots": int(orders["lots"].sum(dtype=np.int64)),
        "orders": len(orders["lots"]),
        "positions": np.bincount(np.clip(after, -limit, limit) + limit, minlength=2 * limit + 1).tolist(),
        "picture": _picture(rows, config),
    }


def position_edges(limit: int) -> np.ndarray:
    """Bounds of the rows of the picture of a policy, lots; each lot its own where there are few."""
    if 2 * limit + 1 <= MOST_POSITIONS:
        return np.arange(-limit, limit + 2) - 0.5
    return np.linspace(-limit - 0.5, limit + 0.5, MOST_POSITIONS + 1)


def _picture(rows: np.ndarray, config: EnvConfig) -> dict[str, Any]:
    """Count decisions by position and signal, those that quote both sides, and those that leave one.

    Half-spreads and skews, half-ticks, are summed where both sides are quoted: a side that is left has no
    distance.
    """
    edges = position_edges(config.risk.position_limit)
    some = rows[(rows["unusable"] == 0) & (rows["risk_state"] == ACTIVE)]
    row = np.clip(np.searchsorted(edges, some["position"], side="right") - 1, 0, len(edges) - 2)
    column = np.clip(
        np.searchsorted(SIGNAL_EDGES, some["signal"], side="right") - 1, 0, len(SIGNAL_EDGES) - 2
    )
    shape = (len(edges) - 1, len(SIGNAL_EDGES) - 1)
    cell = row * shape[1] + column

    def total(weights: np.ndarray | None) -> list[float]:
        return np.bincount(cell, weights, minlength=math.prod(shape)).astype(float).tolist()

    ask, bid = some["ask_lots"] > 0, some["bid_lots"] > 0
    both = ask & bid
    half = np.where(both, some["ask_distance"] + some["bid_distance"], 0) / 2
    skew = np.where(both, some["ask_distance"] - some["bid_distance"], 0) / 2
    return {
        "count": total(None),
        "both": total(both),
        "half_spread": total(half),
        "skew": total(skew),
        "no_ask": total(~ask),
        "no_bid": total(~bid),
    }


def gaps_of(played: Played, config: EnvConfig) -> list[tuple[int, int]]:
    """Find stretches of at least `STALE_SECONDS` without a trade or a new book: begin and end, ns."""
    rows = played.rows
    if not len(rows) or not (rows["spread"] > 0).any():
        return []
    same = (rows["move"] == 0) & (rows["buy_lots"] == 0) & (rows["sell_lots"] == 0)
    for name in ("spread", "best_bid_lots", "best_ask_lots"):
        same[:-1] &= rows[name][1:] == rows[name][:-1]
    edges = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0))
    step_ns = config.market.step_ns
    found = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if (last - first) * step_ns >= STALE_SECONDS * SECOND:
            found.append((int(rows["time_ns"][first]), int(rows["time_ns"][last - 1]) + step_ns))
    return found
