"""What came of the time between two decisions, in the market and of our orders: one record a lane.

An *event* is one row of market data (`mmenv.data.events.EVENT`, the word of hftbacktest); an outcome is what
all events of an interval, and the exchange's answers to our orders, amount to. It is all that a venue tells a
desk, in training, backtests, paper and live trading alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

ASK, BID = 0, 1
"""Sides of our quotes and orders, in the order in which quotes, slots and open orders have them."""

OUTCOME: Final = np.dtype(
    [
        ("time_ns", "<i8"),  # our clock
        # The book as we know it. A side without levels keeps its last price, before there was one the edge of
        # what can be quoted, and has no lots.
        ("best_bid_ticks", "<i8"),
        ("best_ask_ticks", "<i8"),
        ("best_bid_lots", "<i8"),
        ("best_ask_lots", "<i8"),
        # Trades of others that we saw in the interval, by aggressor; a notional is price in ticks x lots.
        ("buy_lots", "<i8"),
        ("sell_lots", "<i8"),
        ("buy_notional", "<i8"),
        ("sell_notional", "<i8"),
        ("trades", "<i8"),
        ("max_trade_lots", "<i8"),
        ("last_trade_lots", "<i8"),  # 0 without trades
        # Our fills that became known to us in the interval, all of them as maker.
        ("ask_fill_lots", "<i8"),
        ("ask_fill_notional", "<i8"),
        ("bid_fill_lots", "<i8"),
        ("bid_fill_notional", "<i8"),
        # What could still fill of all our orders, those being cancelled included.
        ("ask_open_lots", "<i8"),
        ("bid_open_lots", "<i8"),
        ("position_lots", "<i8"),  # the sum of our fills since the start, those of market orders too
        ("data_end", "<i8"),  # 1 once the lane stands still at the end of its span
    ]
)
"""Prices are in ticks, sizes in lots. The journal of a live session holds these bytes."""


TAKEN: Final = np.dtype(
    [
        ("sold_lots", "<i8"),
        ("sold_notional", "<i8"),
        ("bought_lots", "<i8"),
        ("bought_notional", "<i8"),
    ]
)
"""Fills of our market orders that became known to us in the interval, beside the outcome; units are its."""


@njit(cache=True, nogil=True)
def begin_interval(outcomes):
    """Forget trades and fills in each of OUTCOME [n]: a new interval starts."""
    for outcome in outcomes:
        outcome.buy_lots = outcome.sell_lots = 0
        outcome.buy_notional = outcome.sell_notional = 0
        outcome.trades = outcome.max_trade_lots = outcome.last_trade_lots = 0
        outcome.ask_fill_lots = outcome.ask_fill_notional = 0
        outcome.bid_fill_lots = outcome.bid_fill_notional = 0


@njit(cache=True, nogil=True)
def count_trade(outcome, is_buy, tick, lots):
    """Add a trade of others; `is_buy` where the aggressor bought."""
    if is_buy:
        outcome.buy_lots += lots
        outcome.buy_notional += lots * tick
    else:
        outcome.sell_lots += lots
        outcome.sell_notional += lots * tick
    outcome.trades += 1
    outcome.max_trade_lots = max(outcome.max_trade_lots, lots)
    outcome.last_trade_lots = lots


@njit(cache=True, nogil=True)
def book_fill(outcome, side, tick, lots):
    """Add a fill of our order on `side`, ASK or BID."""
    if side == ASK:
        outcome.ask_fill_lots += lots
        outcome.ask_fill_notional += lots * tick
    else:
        outcome.bid_fill_lots += lots
        outcome.bid_fill_notional += lots * tick


@njit(cache=True, nogil=True)
def book_taken(taken, side, tick, lots):
    """Add a fill of our market order: ASK sold."""
    if side == ASK:
        taken.sold_lots += lots
        taken.sold_notional += lots * tick
    else:
        taken.bought_lots += lots
        taken.bought_notional += lots * tick
