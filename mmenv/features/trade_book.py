"""Trades and book: sizes, gaps between trades, imbalance at the touch, volatility."""

from __future__ import annotations

import numpy as np
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import LANES, MOVE_WINDOW, lanes, stage

F = np.float32
I = np.int32  # noqa: E741

SIZE_WINDOW = 100
GAP_SCALE = F(0.1)

STATE = np.dtype(
    [
        # Lots above bit 32, number of trades below: one ring and one sum in place of two.
        ("flow", "i8", (SIZE_WINDOW, LANES)),
        lanes("flow_sum", "i8"),
        lanes("gap", "i4"),
    ],
    align=True,
)


@stage(STATE)
def update(core, own, params, out):  # type: ignore[no-untyped-def]
    """Roll the window of traded lots and number of trades; steps since the last trade."""
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    head = s.clock % SIZE_WINDOW
    if head < 0:
        return
    for i in range(s.count):
        first = s.age[i] <= 1
        lots = I(s.buy_lots[i] + s.sell_lots[i])
        flow = (np.int64(lots) << 32) + np.int64(s.trades[i])
        old = w.flow[head, i] if s.age[i] > SIZE_WINDOW else np.int64(0)
        w.flow[head, i] = flow
        w.flow_sum[i] = (np.int64(0) if first else w.flow_sum[i]) + flow - old
        gap = I(0) if first else w.gap[i]
        w.gap[i] = I(0) if s.trades[i] > 0 else I(gap + I(1))


@stage(STATE)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    p = carray(params, 1)[0]
    x = carray(out, (4, LANES))
    unit = F(p.per_unit)
    for i in range(s.count):
        started = s.age[i] > 0
        lots = F(I(s.buy_lots[i] + s.sell_lots[i]))
        size = lots / F(max(s.trades[i], I(1)))
        average = F(I(w.flow_sum[i] >> 32)) / F(max(I(w.flow_sum[i] & 0xFFFFFFFF), I(1)))
        traded = started & (s.trades[i] > 0)
        x[0, i] = min(size / max(average, F(1e-6)), F(10)) if traded else F(0)
        x[1, i] = min(F(w.gap[i]) * GAP_SCALE, F(10)) if started else F(0)
        bid, ask = s.best_bid_lots[i], s.best_ask_lots[i]
        x[2, i] = F(I(bid - ask)) / F(max(I(bid + ask), I(1)))
        count = F(max(min(s.age[i], I(MOVE_WINDOW)), I(1)))
        x[3, i] = min(np.sqrt(F(s.move_squares[i]) * unit * unit / count), F(10))


register(
    Group(
        name="trade_book",
        features=(
            Feature(
                "trade_size",
                0,
                10,
                "mean size of the trades of this step over that of the last 100 (0: none)",
            ),
            Feature("trade_gap", 0, 10, "decisions since the last trade, tens"),
            Feature("book_imbalance", -1, 1, "(bid - ask) / (bid + ask) size at the touch (0: no book)"),
            Feature("volatility", 0, 10, "root mean square of the last 20 moves, price units per step"),
        ),
        update=update,
        observe=observe,
        warm_up=SIZE_WINDOW,
    )
)
