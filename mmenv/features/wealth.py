"""Wealth: what the episode has gained so far, for policies whose aim is more than a mean.

Who maximises a mean, or exponential utility, need not know it; who fears a shortfall quotes otherwise once he
is ahead (`policies.solver.shortfall`).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import D, F
from mmenv.engine.stage import stage
from mmenv.engine.state import FEE_DIGITS
from mmenv.features.base import Feature, Group, register, rows

FEATURES = (
    Feature(
        "wealth", -100, 100, "gain since the episode began, after fees / sqrt(horizon), price units x lots"
    ),
)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    scale = D(p.per_unit) / np.sqrt(D(p.horizon))
    for i in prange(s.count):
        gained = s.pnl[i] - s.fees[i] * (D(1) / D(FEE_DIGITS))
        x.wealth[i] = F(min(max(gained * scale, D(-100)), D(100)))


register(
    Group(
        name="wealth",
        features=FEATURES,
        observe=observe,
    )
)
