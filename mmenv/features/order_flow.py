"""Order flow: what traded since the last decision, and how the mid moved."""

from __future__ import annotations

import numpy as np
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import LANES, MOVE_WINDOW, lanes, stage

F = np.float32
I = np.int32  # noqa: E741

VWAP_WINDOW = 20
SPREAD_WINDOW = 10
ROOT = F(np.sqrt(VWAP_WINDOW))

STATE = np.dtype(
    [
        ("lots", "i4", (VWAP_WINDOW, LANES)),
        ("values", "i8", (VWAP_WINDOW, LANES)),
        ("spreads", "i4", (SPREAD_WINDOW, LANES)),
        lanes("lot_sum", "i8"),
        lanes("value_sum", "i8"),  # sum of lots x (price - mid now)
        lanes("spread_sum", "i8"),
    ],
    align=True,
)


@stage(STATE)
def update(core, own, params, out):  # type: ignore[no-untyped-def]
    """Roll the windows of traded volume, traded value and spread."""
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    head = s.clock % VWAP_WINDOW
    spread_head = s.clock % SPREAD_WINDOW
    if head < 0 or spread_head < 0:
        return
    for i in range(s.count):
        first = s.age[i] <= 1
        full = s.age[i] > VWAP_WINDOW
        lots = I(s.buy_lots[i] + s.sell_lots[i])
        # Values stand relative to a fixed origin, the mid at reset plus all moves: shift to the mid now.
        old_lots = w.lots[head, i] if full else I(0)
        old_value = w.values[head, i] if full else np.int64(0)
        anchor = np.int64(s.mid[i]) - np.int64(s.move[i])
        value = np.int64(lots) * anchor + s.trade_value[i]
        w.lots[head, i] = lots
        w.values[head, i] = value
        w.lot_sum[i] = (np.int64(0) if first else w.lot_sum[i]) + np.int64(lots) - np.int64(old_lots)
        w.value_sum[i] = (np.int64(0) if first else w.value_sum[i]) + value - old_value
        old_spread = w.spreads[spread_head, i] if s.age[i] > SPREAD_WINDOW else I(0)
        w.spreads[spread_head, i] = s.spread[i]
        spread_sum = np.int64(0) if first else w.spread_sum[i]
        w.spread_sum[i] = spread_sum + np.int64(s.spread[i]) - np.int64(old_spread)


@stage(STATE)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    p = carray(params, 1)[0]
    x = carray(out, (8, LANES))
    unit = F(p.per_unit)
    per_lot = F(p.per_lot)
    for i in range(s.count):
        age = s.age[i]
        lots = I(s.buy_lots[i] + s.sell_lots[i])
        x[0, i] = F(I(s.buy_lots[i] - s.sell_lots[i])) / F(max(lots, I(1)))
        x[1, i] = min(max(F(s.move[i]) * unit, F(-10)), F(10))
        count = F(max(min(age, I(MOVE_WINDOW)), I(1)))
        mean = F(s.move_sum[i]) * unit / count
        square = F(s.move_squares[i]) * unit * unit / count
        x[2, i] = min(max(mean * ROOT, F(-10)), F(10))
        x[3, i] = min(np.sqrt(max(square - mean * mean, F(0))), F(10))
        traded = (age > 0) & (w.lot_sum[i] > 0)
        gap = np.int64(s.mid[i]) * w.lot_sum[i] - w.value_sum[i]
        deviation = F(gap) * unit / F(max(w.lot_sum[i], 1)) / ROOT
        x[4, i] = min(max(deviation, F(-10)), F(10)) if traded else F(0)
        spread = F(s.spread[i]) * unit
        x[5, i] = min(spread, F(10))
        spread_count = F(max(min(age, I(SPREAD_WINDOW)), I(1)))
        x[6, i] = min(F(w.spread_sum[i]) * unit / spread_count, F(10)) if age > 0 else min(spread, F(10))
        x[7, i] = min(F(lots) * per_lot, F(10))


register(
    Group(
        name="order_flow",
        features=(
            Feature(
                "flow_imbalance", -1, 1, "(buy - sell) / (buy + sell) market volume since the last decision"
            ),
            Feature("return", -10, 10, "move of the mid since the last decision, price units"),
            Feature("return_mean", -10, 10, "mean of the last 20 moves x sqrt(20), price units"),
            Feature("return_std", 0, 10, "standard deviation of the last 20 moves, price units"),
            Feature(
                "vwap_deviation", -10, 10, "mid minus VWAP of the last 20 steps, over sqrt(20), price units"
            ),
            Feature("spread", 0, 10, "best ask minus best bid, price units (0: no book)"),
            Feature("spread_mean", 0, 10, "mean spread of the last 10 steps, price units"),
            Feature("volume", 0, 10, "market volume since the last decision, typical lots of a step"),
        ),
        update=update,
        observe=observe,
        warm_up=VWAP_WINDOW,
    )
)
