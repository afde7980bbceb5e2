"""Latent: the hidden state of a simulated market, for a critic in training; never for a trading policy."""

from __future__ import annotations

from numba import prange
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import EMPTY, LANES, stage


@stage(EMPTY)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    x = carray(out, (1, LANES))
    for i in prange(s.count):
        x[0, i] = s.latent[i]


register(
    Group(
        name="latent",
        features=(Feature("latent", -10, 10, "hidden state of the simulated market (0: none)"),),
        observe=observe,
    )
)
