"""Inventory: the position, what it has earned, how long it has stood and what it risks."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import F
from mmenv.engine.stage import stage
from mmenv.engine.state import MOVE_WINDOW
from mmenv.features.base import Feature, Group, register, rows

FEATURES = (
    Feature("inventory", -1, 1, "position / position limit"),
    Feature("unrealised", -10, 10, "unrealised profit / position limit, price units"),
    Feature("holding_time", 0, 1, "decisions since the position was flat or changed sign / horizon"),
    Feature("entry_gap", -10, 10, "mid minus average entry price, price units (0 when flat)"),
    Feature("risk_exposure", 0, 10, "|position| x volatility over the horizon / daily loss limit"),
)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    unit = F(p.per_unit)
    per_limit = F(1) / F(p.position_limit)
    per_horizon = F(1) / F(p.horizon)
    per_loss_limit = np.sqrt(F(p.horizon)) / (F(p.loss_limit) * unit)
    for i in prange(s.count):
        held = F(s.position[i]) * per_limit
        gap = s.entry[i] * unit
        x.inventory[i] = held
        x.unrealised[i] = min(max(held * gap, F(-10)), F(10))
        x.holding_time[i] = F(s.held_steps[i]) * per_horizon
        x.entry_gap[i] = min(max(gap, F(-10)), F(10))
        x.risk_exposure[i] = min(F(abs(s.position[i])) * s.volatility[i] * per_loss_limit, F(10))


register(
    Group(
        name="inventory",
        features=FEATURES,
        observe=observe,
        warm_up=MOVE_WINDOW,
    )
)
