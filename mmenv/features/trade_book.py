"""Trades and book: sizes, gaps between trades, imbalance at the touch, volatility."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import stage
from mmenv.engine.state import LANES, per_lane
from mmenv.features.base import Feature, Group, register, rows

SIZE_WINDOW = 100
GAP_SCALE = F(0.1)

STATE = np.dtype(
    [
        ("lots", "i4", (SIZE_WINDOW, LANES)),
        ("trades", "i4", (SIZE_WINDOW, LANES)),
        per_lane("lot_sum", "i4"),
        per_lane("trade_sum", "i4"),
        per_lane("gap", "i4"),
    ],
    align=True,
)


@stage(STATE)
def update(s, w, p, x):
    """Roll the window of traded lots and number of trades; steps since the last trade."""
    head = s.clock % SIZE_WINDOW
    if head < 0:
        return
    for i in prange(s.count):
        age, lots, trades = s.age[i], I(s.buy_lots[i] + s.sell_lots[i]), s.trades[i]
        first, full = age <= 1, age > SIZE_WINDOW
        old_lots, old_trades = w.lots[head, i], w.trades[head, i]
        lot_sum, trade_sum, gap = w.lot_sum[i], w.trade_sum[i], w.gap[i]
        w.lots[head, i], w.trades[head, i] = lots, trades
        w.lot_sum[i] = I((I(0) if first else lot_sum) + lots - (old_lots if full else I(0)))
        w.trade_sum[i] = I((I(0) if first else trade_sum) + trades - (old_trades if full else I(0)))
        w.gap[i] = I(0) if trades > 0 else I((I(0) if first else gap) + I(1))


FEATURES = (
    Feature(
        "trade_size",
        0,
        10,
        "mean size of the trades of this step over that of the last 100 (0: none)",
    ),
    Feature("trade_gap", 0, 10, "decisions since the last trade, tens"),
    Feature("book_imbalance", -1, 1, "(bid - ask) / (bid + ask) size at the touch (0: no book)"),
    Feature("volatility", 0, 10, "root mean square of the last 20 moves, price units per step"),
)


@stage(STATE, out=rows(FEATURES))
def observe(s, w, p, x):
    for i in prange(s.count):
        started, trades = s.age[i] > 0, s.trades[i]
        lots = F(I(s.buy_lots[i] + s.sell_lots[i]))
        # Mean sizes here and in the window, both lots / trades, as one quotient.
        size = min(lots * F(w.trade_sum[i]) / (F(max(trades, I(1))) * F(max(w.lot_sum[i], I(1)))), F(10))
        gap = min(F(w.gap[i]) * GAP_SCALE, F(10))
        x.trade_size[i] = size if started & (trades > 0) else F(0)
        x.trade_gap[i] = gap if started else F(0)
        bid, ask = s.best_bid_lots[i], s.best_ask_lots[i]
        x.book_imbalance[i] = F(I(bid - ask)) / F(max(I(bid + ask), I(1)))
        x.volatility[i] = min(s.volatility[i], F(10))


register(
    Group(
        name="trade_book",
        features=FEATURES,
        update=update,
        observe=observe,
        warm_up=SIZE_WINDOW,
    )
)
