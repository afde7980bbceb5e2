"""Surprise: what happened in the step less its mean given all before, for a learner's control variate.

Every entry has mean zero given the state (hidden part included) and the action, so a learner may subtract
any multiple of it that depends on state and action alone: its mean gradient stays, its variance shrinks.
Zero where the market cannot say. For training only; never for a trading policy.
"""

from __future__ import annotations

from numba import prange

from mmenv.engine.maths import F, I, exp
from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows

FEATURES = (
    Feature("ask_fill_surprise", -1e6, 1e6, "lots sold less their mean"),
    Feature("bid_fill_surprise", -1e6, 1e6, "lots bought less their mean"),
    Feature("buy_surprise", -1, 1, "whether a market buy came, less its chance"),
    Feature("sell_surprise", -1, 1, "whether a market sell came, less its chance"),
    Feature("latent_surprise", -10, 10, "hidden state less its mean"),
    Feature("latent_square_surprise", -100, 100, "square of the hidden state less its mean"),
)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    for i in prange(s.count):
        known = s.mean_reach[i] > F(0) and s.age[i] > I(0)
        weight = F(1) if known else F(0)
        per_reach = F(-1) / max(s.mean_reach[i], F(1e-6))
        ask = s.buy_chance[i] * exp(max(F(s.ask_distance[i]) * per_reach, F(-80)))
        bid = s.sell_chance[i] * exp(max(F(s.bid_distance[i]) * per_reach, F(-80)))
        # Lots of our market orders are no surprise.
        sold, bought = s.ask_fill[i] - s.taken_ask[i], s.bid_fill[i] - s.taken_bid[i]
        ask_surprise = weight * (F(I(sold)) - ask * F(s.ask_lots[i]))
        bid_surprise = weight * (F(I(bought)) - bid * F(s.bid_lots[i]))
        given = (s.mean_reach[i] == F(0) or s.surprise_given[i] != I(0)) and s.age[i] > I(0)
        x.ask_fill_surprise[i] = s.ask_fill_surprise[i] if given else ask_surprise
        x.bid_fill_surprise[i] = s.bid_fill_surprise[i] if given else bid_surprise
    for i in prange(s.count):
        weight = F(1) if s.mean_reach[i] > F(0) and s.age[i] > I(0) else F(0)
        x.buy_surprise[i] = weight * (F(min(s.buy_lots[i], I(1))) - s.buy_chance[i])
        x.sell_surprise[i] = weight * (F(min(s.sell_lots[i], I(1))) - s.sell_chance[i])
        x.latent_surprise[i] = weight * s.latent_drift[i]
        x.latent_square_surprise[i] = weight * s.latent_square_drift[i]


register(
    Group(
        name="surprise",
        features=FEATURES,
        observe=observe,
    )
)
