"""Order flow: what traded since the last decision, and how the mid moved."""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import LANES, lanes, stage

F = np.float32
D = np.float64
I = np.int32  # noqa: E741

VWAP_WINDOW = 20
SPREAD_WINDOW = 10
ROOT = F(np.sqrt(VWAP_WINDOW))

STATE = np.dtype(
    [
        ("lots", "i4", (VWAP_WINDOW, LANES)),
        ("values", "f8", (VWAP_WINDOW, LANES)),
        ("spreads", "i4", (SPREAD_WINDOW, LANES)),
        lanes("lot_sum", "i4"),
        lanes("value_sum", "f8"),  # of lots x price, half-ticks
        lanes("spread_sum", "i4"),
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
    for i in prange(s.count):
        age, lots, spread = s.age[i], I(s.buy_lots[i] + s.sell_lots[i]), s.spread[i]
        first, full, spread_full = age <= 1, age > VWAP_WINDOW, age > SPREAD_WINDOW
        value = D(lots) * D(I(s.mid[i] - s.move[i])) + s.trade_value[i]
        old_lots, old_value, old_spread = w.lots[head, i], w.values[head, i], w.spreads[spread_head, i]
        lot_sum, value_sum, spread_sum = w.lot_sum[i], w.value_sum[i], w.spread_sum[i]
        w.lots[head, i], w.values[head, i], w.spreads[spread_head, i] = lots, value, spread
        w.lot_sum[i] = I((I(0) if first else lot_sum) + lots - (old_lots if full else I(0)))
        w.value_sum[i] = (D(0) if first else value_sum) + value - (old_value if full else D(0))
        w.spread_sum[i] = I((I(0) if first else spread_sum) + spread - (old_spread if spread_full else I(0)))


@stage(STATE)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    p = carray(params, 1)[0]
    x = carray(out, (8, LANES))
    unit = F(p.per_unit)
    per_lot = F(p.per_lot)
    per_root = unit / ROOT
    for i in prange(s.count):
        age = s.age[i]
        lots = I(s.buy_lots[i] + s.sell_lots[i])
        x[0, i] = F(I(s.buy_lots[i] - s.sell_lots[i])) / F(max(lots, I(1)))
        x[1, i] = min(max(F(s.move[i]) * unit, F(-10)), F(10))
        mean, volatility = s.move_mean[i], s.volatility[i]
        x[2, i] = min(max(mean * ROOT, F(-10)), F(10))
        x[3, i] = min(np.sqrt(max(volatility * volatility - mean * mean, F(0))), F(10))
        lot_sum = w.lot_sum[i]
        gap = F(D(s.mid[i]) * D(lot_sum) - w.value_sum[i])
        deviation = min(max(gap * per_root / F(max(lot_sum, I(1))), F(-10)), F(10))
        x[4, i] = deviation if (age > 0) & (lot_sum > 0) else F(0)
        spread = F(s.spread[i]) * unit
        x[5, i] = min(spread, F(10))
        spread_mean = F(w.spread_sum[i]) * unit / F(max(min(age, I(SPREAD_WINDOW)), I(1)))
        x[6, i] = min(spread_mean if age > 0 else spread, F(10))
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
