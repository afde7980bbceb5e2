"""Tape: the last step's prints, and nothing that remembers: for studies of memory, without `order_flow`."""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import EMPTY, LANES, stage

F = np.float32


@stage(EMPTY)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    x = carray(out, (3, LANES))
    unit = F(p.per_unit)
    per_lot = F(p.per_lot)
    for i in prange(s.count):
        x[0, i] = min(F(s.buy_lots[i]) * per_lot, F(10))
        x[1, i] = min(F(s.sell_lots[i]) * per_lot, F(10))
        x[2, i] = min(max(F(s.move[i]) * unit, F(-10)), F(10))


register(
    Group(
        name="tape",
        features=(
            Feature("buy_volume", 0, 10, "market buys since the last decision, typical lots of a step"),
            Feature("sell_volume", 0, 10, "market sells since the last decision, typical lots of a step"),
            Feature("move", -10, 10, "move of the mid since the last decision, price units"),
        ),
        observe=observe,
    )
)
