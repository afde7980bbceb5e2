"""Clock: the time left, which a policy must know where the horizon is finite."""

from __future__ import annotations

from numba import prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows

FEATURES = (Feature("time_left", 0, 1, "decisions left / horizon"),)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    horizon = p.horizon
    for i in prange(s.count):
        x.time_left[i] = F(I(horizon - s.age[i])) / F(horizon)


register(
    Group(
        name="clock",
        features=FEATURES,
        observe=observe,
    )
)
