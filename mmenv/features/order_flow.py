"""Order flow: what traded since the last decision, and how the mid moved."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import D, F, I
from mmenv.engine.stage import stage
from mmenv.engine.state import LANES, per_lane
from mmenv.features.base import Feature, Group, register, rows

VWAP_WINDOW = 20
SPREAD_WINDOW = 10
ROOT = F(np.sqrt(VWAP_WINDOW))

STATE = np.dtype(
    [
        ("lots", "i4", (VWAP_WINDOW, LANES)),
        ("values", "f8", (VWAP_WINDOW, LANES)),
        ("spreads", "i4", (SPREAD_WINDOW, LANES)),
        per_lane("lot_sum", "i4"),
        per_lane("value_sum", "f8"),  # of lots x price, half-ticks
        per_lane("spread_sum", "i4"),
    ],
    align=True,
)


@stage(STATE)
def update(s, w, p, x):
    """Roll the windows of traded volume, traded value and spread."""
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


FEATURES = (
    Feature("flow_imbalance", -1, 1, "(buy - sell) / (buy + sell) market volume since the last decision"),
    Feature("return", -10, 10, "move of the mid since the last decision, price units"),
    Feature("return_mean", -10, 10, "mean of the last 20 moves x sqrt(20), price units"),
    Feature("return_std", 0, 10, "standard deviation of the last 20 moves, price units"),
    Feature("vwap_deviation", -10, 10, "mid minus VWAP of the last 20 steps, over sqrt(20), price units"),
    Feature("spread", 0, 10, "best ask minus best bid, price units (0: no book)"),
    Feature("spread_mean", 0, 10, "mean spread of the last 10 steps, price units"),
    Feature("volume", 0, 10, "market volume since the last decision, typical lots of a step"),
)


@stage(STATE, out=rows(FEATURES))
def observe(s, w, p, x):
    unit = F(p.per_unit)
    per_lot = F(p.per_lot)
    per_root = unit / ROOT
    for i in prange(s.count):
        age = s.age[i]
        lots = I(s.buy_lots[i] + s.sell_lots[i])
        x.flow_imbalance[i] = F(I(s.buy_lots[i] - s.sell_lots[i])) / F(max(lots, I(1)))
        x["return"][i] = min(max(F(s.move[i]) * unit, F(-10)), F(10))
        mean, volatility = s.move_mean[i], s.volatility[i]
        x.return_mean[i] = min(max(mean * ROOT, F(-10)), F(10))
        x.return_std[i] = min(np.sqrt(max(volatility * volatility - mean * mean, F(0))), F(10))
        lot_sum = w.lot_sum[i]
        gap = F(D(s.mid[i]) * D(lot_sum) - w.value_sum[i])
        deviation = min(max(gap * per_root / F(max(lot_sum, I(1))), F(-10)), F(10))
        x.vwap_deviation[i] = deviation if (age > 0) & (lot_sum > 0) else F(0)
        spread = F(s.spread[i]) * unit
        x.spread[i] = min(spread, F(10))
        spread_mean = F(w.spread_sum[i]) * unit / F(max(min(age, I(SPREAD_WINDOW)), I(1)))
        x.spread_mean[i] = min(spread_mean if age > 0 else spread, F(10))
        x.volume[i] = min(F(lots) * per_lot, F(10))


register(
    Group(
        name="order_flow",
        features=FEATURES,
        update=update,
        observe=observe,
        warm_up=VWAP_WINDOW,
    )
)
