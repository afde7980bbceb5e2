"""From the record of a run to what is kept of it: states, fills, orders, equity and counts.

Prices are in the currency of the tape (price units on simulated markets), sizes in the traded good, times in
nanoseconds since 1970 (of local time on tapes, since the start of a simulation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from mmenv.backtest.play import Played
from mmenv.config import EnvConfig
from mmenv.kernel import FEE_DIGITS
from mmenv.metrics import coin_prices

HORIZONS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
"""Times after a fill at which it is marked, seconds; those that are whole decisions."""

VOLATILITY_SECONDS = 60.0
"""Length of the window before a fill in which volatility is measured; at least two decisions."""

STALE_SECONDS = 10.0
"""From this long without any change of the book or any trade, the data have a gap."""

MOST_POSITIONS = 41
"""Rows of the picture of a policy."""

SIGNAL_EDGES = np.linspace(-1.0, 1.0, 10)
"""Columns of the picture of a policy; what lies outside counts to the first and the last."""

Table = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the integers of the desk are worth."""

    price: float
    """Of a half-tick."""
    lot: float
    """Of a lot, in the traded good; of an inverse contract, in the currency it is quoted in."""
    currency: str
    """Of profits: of an inverse contract its coin."""
    tick: float
    """0 where prices are continuous."""
    inverse: bool = False
    """Whether it is a contract margined in coin."""

    @property
    def money(self) -> float:
        """Of a half-tick x lot of a linear contract."""
        return self.price * self.lot

    def worth(self, half_ticks: np.ndarray) -> np.ndarray:
        """What a lot is worth at these prices, money; of an inverse contract up to a constant, in coin."""
        if self.inverse:
            return self.lot * np.asarray(coin_prices(half_ticks * self.price))
        return half_ticks * self.money


def horizons(step_seconds: float) -> tuple[float, ...]:
    """Those of `HORIZONS` that are whole numbers of decisions."""
    return tuple(
        h for h in HORIZONS if h >= step_seconds and abs(h / step_seconds - round(h / step_seconds)) < 1e-6
    )


def ends_of(path: np.ndarray) -> np.ndarray:
    """For each row, the index after the last row of its path, int64 (N,)."""
    last = np.flatnonzero(np.diff(path, append=-1)) + 1
    return np.repeat(last, np.diff(last, prepend=0))


def states_of(played: Played, scale: Scale) -> Table:
    """One row for each decision. Quotes are NaN where there was none; so is the book where there is none."""
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
    """One row for each decision and side in which we were filled; both in one decision: the buy first.

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
    fee_rate = round(config.maker_fee_bp * 1e-4 * FEE_DIGITS) / FEE_DIGITS
    earlier = np.where(np.diff(at, prepend=-1) == 0, rows["bid_fill"][at], 0)
    step_ns = round(step * 1e9)
    table: Table = {
        "time_ns": rows["time_ns"][at] + step_ns,
        "path": played.path[at],
        "side": side.astype(np.int8),
        "lots": lots,
        "size": lots * scale.lot,
        "price": value / np.maximum(lots, 1) * scale.price,
        "fee": np.abs(lots * scale.worth(value / np.maximum(lots, 1))) * fee_rate,
        "mid": mid[at] * scale.price,
        "mid_after": (mid[at] + rows["move"][at]) * scale.price,
        "position_lots": rows["position"][at] + earlier + side * lots,
        "best_bid": np.where(rows["spread"][at] > 0, mid[at] - rows["spread"][at] / 2, np.nan) * scale.price,
        "best_ask": np.where(rows["spread"][at] > 0, mid[at] + rows["spread"][at] / 2, np.nan) * scale.price,
        "volatility_bp": _volatility(rows, played.path, step)[at],
    }
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


ORDER = np.dtype(
    [("first", "i8"), ("last", "i8"), ("side", "i1"), ("price", "i4"), ("lots", "i4"), ("filled", "i4")]
)


def orders_of(played: Played, config: EnvConfig, scale: Scale) -> Table:
    """One row for each order: a quote that stood at one price from one decision to another.

    A quote that moves, changes its size, pauses or was filled in full is a new order at the next decision.
    A fill that comes in while the order's cancel is on its way counts to the order that replaced it.
    """
    rows = played.rows
    count, orders = _orders(rows, np.ascontiguousarray(played.path, np.int64), np.zeros(2 * len(rows), ORDER))
    orders = orders[:count]
    orders = orders[np.argsort(orders["first"], kind="stable")]
    step_ns = round(config.market.step_seconds * 1e9)
    return {
        "placed_ns": rows["time_ns"][orders["first"]],
        "ended_ns": rows["time_ns"][orders["last"]] + step_ns,
        "path": played.path[orders["first"]],
        "side": orders["side"],
        "price": orders["price"] * scale.price,
        "lots": orders["lots"],
        "filled_lots": orders["filled"],
    }


@njit(cache=True)
def _orders(rows, path, orders):  # type: ignore[no-untyped-def]
    count = 0
    for side in (1, -1):
        live = -1
        for k in range(len(rows)):
            row = rows[k]
            lots = row.bid_lots if side > 0 else row.ask_lots
            price = row.mid - row.bid_distance if side > 0 else row.mid + row.ask_distance
            filled = row.bid_fill if side > 0 else row.ask_fill
            if k > 0 and path[k] != path[k - 1]:
                live = -1
            if live >= 0:
                same = lots > 0 and orders[live].price == price
                left = orders[live].lots - orders[live].filled
                same = same and left > 0 and (lots == orders[live].lots or lots == left)
                live = live if same else -1
            if live < 0 and lots > 0:
                live = count
                count += 1
                orders[live].first, orders[live].side = k, side
                orders[live].price, orders[live].lots = price, lots
            if live >= 0:
                orders[live].last = k
                orders[live].filled += filled
    return count, orders


def equity_of(played: Played, config: EnvConfig, scale: Scale) -> Table:
    """Profit since the start and its parts (money, running totals), at the end of every second or decision.

    Money of an inverse contract is coin. `time_ns` is the end of the interval. `profit` = spread_capture +
    adverse_selection + carry - fees.
    """
    rows = played.rows
    step_ns = round(config.market.step_seconds * 1e9)
    base_ns = max(1_000_000_000, step_ns)
    net = (rows["bid_fill"] - rows["ask_fill"]).astype(np.float64)
    mid, move = rows["mid"].astype(np.float64), rows["move"].astype(np.float64)
    fee_rate = round(config.maker_fee_bp * 1e-4 * FEE_DIGITS) / FEE_DIGITS
    steps = _amounts(rows, scale)
    steps["fees"] = steps["turnover"] * fee_rate
    steps["profit"] = steps["spread_capture"] + steps["adverse_selection"] + steps["carry"] - steps["fees"]
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


def _amounts(rows: np.ndarray, scale: Scale) -> Table:
    """Money of each decision: the parts of the profit before fees, and what was traded.

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
    """What is only counted, as JSON; counts of several runs add up. See `COUNTS`."""
    rows = played.rows
    limit = config.risk.position_limit
    bid, ask = rows["bid_lots"] > 0, rows["ask_lots"] > 0
    touch = (rows["spread"] + 1) // 2
    book = rows["spread"] > 0
    at_bid, at_ask = (
        book & bid & (rows["bid_distance"] <= touch),
        book & ask & (rows["ask_distance"] <= touch),
    )
    after = rows["position"] + rows["bid_fill"] - rows["ask_fill"]
    counts: dict[str, Any] = {
        "decisions": len(rows),
        "quoted_bid": int(bid.sum()),
        "quoted_ask": int(ask.sum()),
        "quoted_both": int((bid & ask).sum()),
        "book": int(book.sum()),
        "touch_bid": int(at_bid.sum()),
        "touch_ask": int(at_ask.sum()),
        "touch_both": int((at_bid & at_ask).sum()),
        "unusable": int(rows["unusable"].sum()),
        "active": int((rows["risk_state"] == 0).sum()),
        "reducing": int((rows["risk_state"] == 1).sum()),
        "halted": int((rows["risk_state"] == 2).sum()),
        "absolute_position": int(np.abs(after.astype(np.int64)).sum()),
        "market_lots": int(rows["buy_lots"].sum(dtype=np.int64) + rows["sell_lots"].sum(dtype=np.int64)),
        "ordered_lots": int(orders["lots"].sum(dtype=np.int64)),
        "orders": len(orders["lots"]),
        "positions": np.bincount(np.clip(after, -limit, limit) + limit, minlength=2 * limit + 1).tolist(),
    }
    return counts | {"picture": _picture(rows, config)}


def position_edges(limit: int) -> np.ndarray:
    """Bounds of the rows of the picture of a policy, lots; each lot its own where there are few."""
    if 2 * limit + 1 <= MOST_POSITIONS:
        return np.arange(-limit, limit + 2) - 0.5
    return np.linspace(-limit - 0.5, limit + 0.5, MOST_POSITIONS + 1)


def _picture(rows: np.ndarray, config: EnvConfig) -> dict[str, Any]:
    """How often, and with which sums of half-spread and skew (half-ticks), by position and signal."""
    edges = position_edges(config.risk.position_limit)
    some = rows[(rows["unusable"] == 0) & (rows["risk_state"] == 0)]
    row = np.clip(np.searchsorted(edges, some["position"], side="right") - 1, 0, len(edges) - 2)
    column = np.clip(
        np.searchsorted(SIGNAL_EDGES, some["signal"], side="right") - 1, 0, len(SIGNAL_EDGES) - 2
    )
    shape = (len(edges) - 1, len(SIGNAL_EDGES) - 1)
    cell = row * shape[1] + column

    def total(weights: np.ndarray | None) -> list[float]:
        return np.bincount(cell, weights, minlength=math.prod(shape)).astype(float).tolist()

    half = (some["ask_distance"] + some["bid_distance"]) / 2
    skew = (some["ask_distance"] - some["bid_distance"]) / 2
    return {"count": total(None), "half_spread": total(half), "skew": total(skew)}


def gaps_of(played: Played, config: EnvConfig) -> list[tuple[int, int]]:
    """Stretches of at least `STALE_SECONDS` in which nothing was traded and the book did not change."""
    rows = played.rows
    if not len(rows) or not (rows["spread"] > 0).any():
        return []
    same = (rows["move"] == 0) & (rows["buy_lots"] == 0) & (rows["sell_lots"] == 0)
    for name in ("spread", "best_bid_lots", "best_ask_lots"):
        same[:-1] &= rows[name][1:] == rows[name][:-1]
    edges = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0))
    step_ns = round(config.market.step_seconds * 1e9)
    found = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if (last - first) * step_ns >= STALE_SECONDS * 1e9:
            found.append((int(rows["time_ns"][first]), int(rows["time_ns"][last - 1]) + step_ns))
    return found
