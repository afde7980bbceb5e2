"""Queues: how much stands at the touch, without which a place in a queue says little."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import log
from mmenv.engine.stage import stage
from mmenv.engine.state import per_lane
from mmenv.features.base import Feature, Group, register, rows

F = np.float32

FEATURES = (
    Feature("ask_queue", 0, 10, "half the logarithm of 1 + lots at the best ask / typical lots of a step"),
    Feature("bid_queue", 0, 10, "half the logarithm of 1 + lots at the best bid / typical lots of a step"),
    Feature("ask_queue_change", -5, 5, "change of twice ask_queue since the decision before"),
    Feature("bid_queue_change", -5, 5, "change of twice bid_queue since the decision before"),
)

STATE = np.dtype([per_lane(name, "f4") for name in ("ask", "bid", "ask_change", "bid_change")])


@stage(STATE)
def update(s, w, p, x):
    """Logarithms of the queues, and their changes."""
    per_lot = F(p.per_lot)
    for i in prange(s.count):
        ask = log(F(1) + F(s.best_ask_lots[i]) * per_lot)
        bid = log(F(1) + F(s.best_bid_lots[i]) * per_lot)
        w.ask_change[i] = ask - w.ask[i] if s.age[i] > 1 else F(0)
        w.bid_change[i] = bid - w.bid[i] if s.age[i] > 1 else F(0)
        w.ask[i], w.bid[i] = ask, bid


@stage(STATE, out=rows(FEATURES))
def observe(s, w, p, x):
    for i in prange(s.count):
        begun = s.age[i] > 0
        x.ask_queue[i] = min(w.ask[i] * F(0.5), F(10)) if begun else F(0)
        x.bid_queue[i] = min(w.bid[i] * F(0.5), F(10)) if begun else F(0)
        x.ask_queue_change[i] = min(max(w.ask_change[i], F(-5)), F(5)) if begun else F(0)
        x.bid_queue_change[i] = min(max(w.bid_change[i], F(-5)), F(5)) if begun else F(0)


register(Group(name="queues", features=FEATURES, update=update, observe=observe))
