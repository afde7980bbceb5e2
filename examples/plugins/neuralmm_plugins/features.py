"""A feature group: which way the mid went last, for as long as that is news."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import stage
from mmenv.engine.state import per_lane
from mmenv.features.base import Feature, Group, register, rows

WINDOW = 10

STATE = np.dtype([per_lane("sign", "i4"), per_lane("steps", "i4")], align=True)

FEATURES = (Feature("last_sign", -1, 1, f"sign of the last move of the mid, 0 after {WINDOW} steps of none"),)


@stage(STATE)
def update(s, w, p, x):
    """Take the sign of a move, or count one more step without."""
    for i in prange(s.count):
        sign = I(np.sign(s.move[i]))
        steps = I(0) if sign != 0 else I(w.steps[i] + I(1))
        kept = w.sign[i] if (s.age[i] > 1) & (steps < I(WINDOW)) else I(0)
        w.sign[i], w.steps[i] = sign if sign != 0 else kept, steps


@stage(STATE, out=rows(FEATURES))
def observe(s, w, p, x):
    for i in prange(s.count):
        x.last_sign[i] = F(w.sign[i]) if s.age[i] > 0 else F(0)


LAST_SIGN = register(
    Group(name="last_sign", features=FEATURES, update=update, observe=observe, warm_up=WINDOW)
)
