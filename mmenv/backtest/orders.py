"""From the record of a run to its orders: one row for each, and each of a side beside the decisions."""

from __future__ import annotations

import numpy as np
from numba import njit

from mmenv.backtest.play import Played
from mmenv.backtest.tables import Scale, Table
from mmenv.config import EnvConfig
from mmenv.desk.levels import ASK, BID, DISTANCE, LOTS, PLACE

ORDER = np.dtype(
    [("first", "i8"), ("last", "i8"), ("side", "i1"), ("price", "i4"), ("lots", "i4"), ("filled", "i4")]
)
"""An order: its first and last decision, side, price in half-ticks, lots quoted and filled."""


def orders_of(played: Played, config: EnvConfig, scale: Scale) -> Table:
    """Make one row for each order: a quote that stood at one price from one decision to another.

    A quote that moves, changes its size, pauses or was filled in full is a new order at the next decision; of
    several a side, one that is asked for again at its price is the same, whichever of them asks. What was
    filled of a side was so of its nearest orders. A fill that comes in while the order's cancel is on its way
    counts to the order that replaced it, or the nearest; fills of market orders count to none.
    """
    rows, asked = played.rows, _asked(played)
    room = np.zeros(2 * len(rows) * asked.shape[2], ORDER)
    count, orders = _orders(rows, np.ascontiguousarray(played.path, np.int64), asked, room)
    orders = orders[:count]
    orders = orders[np.argsort(orders["first"], kind="stable")]
    step_ns = config.market.step_ns
    return {
        "placed_ns": rows["time_ns"][orders["first"]],
        "ended_ns": rows["time_ns"][orders["last"]] + step_ns,
        "path": played.path[orders["first"]],
        "side": orders["side"],
        "price": orders["price"] * scale.price,
        "lots": orders["lots"],
        "filled_lots": orders["filled"],
    }


def _asked(played: Played) -> np.ndarray:
    """Distance from the mid, half-ticks, and lots of all that was quoted, int32 (N, 2, orders, 2), asks
    first."""
    if played.orders is not None:
        return np.ascontiguousarray(played.orders[..., : LOTS + 1])
    quotes = [[played.rows[f"{side}_{of}"] for of in ("distance", "lots")] for side in ("ask", "bid")]
    return np.ascontiguousarray(np.moveaxis(np.array(quotes, np.int32), -1, 0)[:, :, None])


@njit(cache=True)
def _orders(rows, path, asked, orders):
    """Write the orders of each side into `orders` as they were placed; how many there are, and `orders`."""
    count, most = 0, asked.shape[2]
    live, wanted = np.zeros(most, np.int64), np.zeros(most, np.int64)
    for side in (1, -1):
        live[:] = -1
        at = BID if side > 0 else ASK
        for k in range(len(rows)):
            row = rows[k]
            filled = row.bid_fill - row.taken_bid if side > 0 else row.ask_fill - row.taken_ask
            if k > 0 and path[k] != path[k - 1]:
                live[:] = -1
            wanted[:] = -1
            for level in range(most):
                price, lots = row.mid - side * asked[k, at, level, DISTANCE], asked[k, at, level, LOTS]
                if lots == 0:
                    continue
                for number in live:
                    if number < 0 or orders[number].price != price:
                        continue
                    left = orders[number].lots - orders[number].filled
                    if left > 0 and (lots == orders[number].lots or lots == left):
                        wanted[level] = number
                if wanted[level] < 0:
                    wanted[level] = count
                    orders[count].first, orders[count].side = k, side
                    orders[count].price, orders[count].lots = price, lots
                    count += 1
            live[:] = wanted
            nearest = -1
            for number in live:
                if number >= 0:
                    nearest = number if nearest < 0 else nearest
                    part = min(filled, orders[number].lots - orders[number].filled)
                    orders[number].last = k
                    orders[number].filled += part
                    filled -= part
            if nearest >= 0:
                orders[nearest].filled += filled
    return count, orders


def columns_of(played: Played, scale: Scale) -> Table:
    """Columns of the states for each order of a side, where there are several: `bid_1`, the nearest one's
    price, `bid_1_lots`, and `bid_1_ahead`, lots ahead of what is left of it at the next decision.

    NaN: no such order, or a place that is not known.
    """
    table: Table = {}
    if played.orders is None:
        return table
    mid = played.rows["mid"].astype(np.float64)
    for name, at, side in (("bid", BID, -1), ("ask", ASK, 1)):
        for k in range(played.orders.shape[2]):
            order = played.orders[:, at, k]
            lots, place = order[:, LOTS], order[:, PLACE]
            price = (mid + side * order[:, DISTANCE]) * scale.price
            table[f"{name}_{k + 1}"] = np.where(lots > 0, price, np.nan)
            table[f"{name}_{k + 1}_lots"] = lots.copy()
            table[f"{name}_{k + 1}_ahead"] = np.where(place >= 0, place, np.nan)
    return table
