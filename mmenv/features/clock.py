"""Clock: the time left, which a policy must know where the horizon is finite."""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import EMPTY, LANES, stage

F = np.float32
I = np.int32  # noqa: E741


@stage(EMPTY)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    x = carray(out, (1, LANES))
    horizon = p.horizon
    for i in prange(s.count):
        x[0, i] = F(I(horizon - s.age[i])) / F(horizon)


register(
    Group(
        name="clock",
        features=(Feature("time_left", 0, 1, "decisions left / horizon"),),
        observe=observe,
    )
)
