"""Tape: the last step's prints, and nothing that remembers: for studies of memory, without `order_flow`."""

from __future__ import annotations

from numba import prange

from mmenv.engine.maths import F
from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows

FEATURES = (
    Feature("buy_volume", 0, 10, "market buys since the last decision, typical lots of a step"),
    Feature("sell_volume", 0, 10, "market sells since the last decision, typical lots of a step"),
    Feature("move", -10, 10, "move of the mid since the last decision, price units"),
)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    unit = F(p.per_unit)
    per_lot = F(p.per_lot)
    for i in prange(s.count):
        x.buy_volume[i] = min(F(s.buy_lots[i]) * per_lot, F(10))
        x.sell_volume[i] = min(F(s.sell_lots[i]) * per_lot, F(10))
        x.move[i] = min(max(F(s.move[i]) * unit, F(-10)), F(10))


register(
    Group(
        name="tape",
        features=FEATURES,
        observe=observe,
    )
)
