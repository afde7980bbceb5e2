"""Latent: the hidden state of a simulated market, for a critic in training; never for a trading policy."""

from __future__ import annotations

from numba import prange

from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows

FEATURES = (Feature("latent", -10, 10, "hidden state of the simulated market (0: none)"),)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    for i in prange(s.count):
        x.latent[i] = s.latent[i]


register(
    Group(
        name="latent",
        features=FEATURES,
        observe=observe,
    )
)
