"""Orders: our own working orders, without which no policy can know what its place in a queue is worth.

What is shown is known at the decision: the price and what is left from what the venue told us, the lots ahead
by the queue model of the market or the replay.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows

F = np.float32
I = np.int32  # noqa: E741


def side(name: str) -> tuple[Feature, ...]:
    """The entries of one side, "ask" or "bid"."""
    return (
        Feature(f"{name}_order_distance", -10, 10, f"our {name} behind the touch, ticks (0: at it, or none)"),
        Feature(f"{name}_order_lots", 0, 1, f"lots left of our {name} over order size (0: none)"),
        Feature(f"{name}_order_ahead", 0, 10, f"lots ahead of our {name} over the queue at the touch"),
        Feature(f"{name}_order_age", 0, 10, f"decisions since our {name} was placed, hundreds"),
    )


FEATURES = (*side("ask"), *side("bid"))


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    per_order = F(1) / F(p.order_lots)
    for i in prange(s.count):
        touch = I(I(s.mid[i]) + (s.spread[i] >> I(1)))
        works = s.own_ask_lots[i] > 0
        distance = F(I(s.own_ask[i] - touch)) * F(0.5)
        ahead = F(s.own_ask_ahead[i]) / F(max(s.best_ask_lots[i], I(1)))
        x.ask_order_distance[i] = min(max(distance, F(-10)), F(10)) if works else F(0)
        x.ask_order_lots[i] = F(s.own_ask_lots[i]) * per_order
        x.ask_order_ahead[i] = min(ahead, F(10)) if works else F(0)
        x.ask_order_age[i] = min(F(s.own_ask_age[i]) * F(0.01), F(10)) if works else F(0)
    for i in prange(s.count):
        touch = I(I(s.mid[i]) - (s.spread[i] >> I(1)))
        works = s.own_bid_lots[i] > 0
        distance = F(I(touch - s.own_bid[i])) * F(0.5)
        ahead = F(s.own_bid_ahead[i]) / F(max(s.best_bid_lots[i], I(1)))
        x.bid_order_distance[i] = min(max(distance, F(-10)), F(10)) if works else F(0)
        x.bid_order_lots[i] = F(s.own_bid_lots[i]) * per_order
        x.bid_order_ahead[i] = min(ahead, F(10)) if works else F(0)
        x.bid_order_age[i] = min(F(s.own_bid_age[i]) * F(0.01), F(10)) if works else F(0)


register(Group(name="orders", features=FEATURES, observe=observe))
