"""Latent: the hidden state of a simulated market, for a critic in training; never for a trading policy."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows
from mmenv.market.base import Market
from mmenv.market.varied import Distribution

F = np.float32

STATES = (
    Feature("latent", -10, 10, "hidden state of the simulated market (0: none)"),
    Feature("activity", 0, 10, "how much faster than usual the simulated market is"),
)


@stage(out=rows(STATES))
def observe(s, w, p, x):
    for i in prange(s.count):
        x.latent[i] = min(max(s.latent[i], F(-10)), F(10))
    if p.hidden > 1:
        for i in prange(s.count):
            x.activity[i] = min(s.activity[i], F(10))


def features(market: Market, randomise: tuple[Distribution, ...]) -> tuple[Feature, ...]:
    """An entry for each hidden state that the market has."""
    return tuple(feature for feature in STATES if feature.name in market.hidden)


register(Group(name="latent", features=features, observe=observe))
