"""Surprise: what happened in the step less its mean given all before, for a learner's control variate.

Every entry has mean zero given the state (hidden part included) and the action, so a learner may subtract
any multiple of it that depends on state and action alone: its mean gradient stays, its variance shrinks.
Zero where the market cannot say. For training only; never for a trading policy.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.features import Feature, Group, register
from mmenv.kernel import EMPTY, LANES, stage
from mmenv.vmath import exp

F = np.float32
I = np.int32  # noqa: E741


@stage(EMPTY)
def observe(core, own, params, out):  # type: ignore[no-untyped-def]
    s = carray(core, 1)[0]
    x = carray(out, (6, LANES))
    for i in prange(s.count):
        known = s.mean_reach[i] > F(0) and s.age[i] > I(0)
        weight = F(1) if known else F(0)
        per_reach = F(-1) / max(s.mean_reach[i], F(1e-6))
        ask = s.buy_chance[i] * exp(max(F(s.ask_distance[i]) * per_reach, F(-80)))
        bid = s.sell_chance[i] * exp(max(F(s.bid_distance[i]) * per_reach, F(-80)))
        x[0, i] = weight * (F(s.ask_fill[i]) - ask * F(s.ask_lots[i]))
        x[1, i] = weight * (F(s.bid_fill[i]) - bid * F(s.bid_lots[i]))
    for i in prange(s.count):
        weight = F(1) if s.mean_reach[i] > F(0) and s.age[i] > I(0) else F(0)
        x[2, i] = weight * (F(min(s.buy_lots[i], I(1))) - s.buy_chance[i])
        x[3, i] = weight * (F(min(s.sell_lots[i], I(1))) - s.sell_chance[i])
        x[4, i] = weight * s.latent_drift[i]
        x[5, i] = weight * s.latent_square_drift[i]


register(
    Group(
        name="surprise",
        features=(
            Feature("ask_fill_surprise", -1e6, 1e6, "lots sold less their mean"),
            Feature("bid_fill_surprise", -1e6, 1e6, "lots bought less their mean"),
            Feature("buy_surprise", -1, 1, "whether a market buy came, less its chance"),
            Feature("sell_surprise", -1, 1, "whether a market sell came, less its chance"),
            Feature("latent_surprise", -10, 10, "hidden state less its mean"),
            Feature("latent_square_surprise", -100, 100, "square of the hidden state less its mean"),
        ),
        observe=observe,
    )
)
