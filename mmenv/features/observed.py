"""Observed: what the other assets of the market do, for markets that have some (see `correlated`)."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.checks import ConfigError
from mmenv.engine.maths import F
from mmenv.engine.stage import stage
from mmenv.engine.state import ASSETS, LANES, TILE
from mmenv.features.base import Feature, Group, register
from mmenv.market.base import Market
from mmenv.market.varied import Distribution

WINDOW = 10.0
KEEP = F(np.exp(-1 / WINDOW))
ROOT = F(np.sqrt(WINDOW))
ENTRIES = 3

STATE = np.dtype([("relative", "f4", (ASSETS, LANES))], align=True)


@stage(STATE)
def update(s, w, p, x):
    """Fading sum of what each asset moved more than the quoted one, price units."""
    unit = F(p.per_unit)
    for k in range(p.assets):
        for i in prange(s.count):
            before = w.relative[k, i] if s.age[i] > 1 else F(0)
            w.relative[k, i] = before * KEEP + F(s.asset_moves[k, i] - s.move[i]) * unit


@stage(STATE, out=TILE)
def observe(s, w, p, x):
    unit = F(p.per_unit)
    for k in range(p.assets):
        row = np.uint64(ENTRIES * k)
        for i in prange(s.count):
            relative = w.relative[k, i] if s.age[i] > 0 else F(0)
            x.rows[row, i] = min(max(F(s.asset_moves[k, i]) * unit, F(-10)), F(10))
            x.rows[row + np.uint64(1), i] = min(max(s.asset_flows[k, i], F(-10)), F(10))
            x.rows[row + np.uint64(2), i] = min(max(relative / ROOT, F(-10)), F(10))


def features(market: Market, randomise: tuple[Distribution, ...]) -> tuple[Feature, ...]:
    """Three entries for each observed asset of the market."""
    if market.assets == 0:
        raise ConfigError(
            f"features names 'observed', but market {market.name!r} shows no other asset: leave the "
            "group out, or take market 'correlated'."
        )
    return tuple(
        feature
        for k in range(1, market.assets + 1)
        for feature in (
            Feature(f"asset_{k}_return", -10, 10, f"move of asset {k} since the last decision, price units"),
            Feature(f"asset_{k}_flow", -10, 10, f"market buys minus sells of asset {k}, standard deviations"),
            Feature(
                f"asset_{k}_relative",
                -10,
                10,
                "its moves less ours, fading in 10 steps, over sqrt(10), price units",
            ),
        )
    )


register(Group(name="observed", features=features, observe=observe, update=update, warm_up=3 * int(WINDOW)))
