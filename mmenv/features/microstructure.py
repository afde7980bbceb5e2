"""Microstructure: the flow of orders on three time scales, and what it does to the book.

With `trade_size`, `trade_gap` and `book_imbalance` of `trade_book` and `spread` of `order_flow` these are the
fifteen inputs of the adverse-selection detector; docs/signals.md says why each is there.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import stage
from mmenv.engine.state import LANES, MOVE_WINDOW, per_lane
from mmenv.features.base import Feature, Group, register, rows

SCALES = (5, 20, 100)
"""Time constants of the signed-flow averages, decisions."""
VWAP_SCALE = 20
SLOW = 200
"""Time constant of the slow volatility, decisions."""
RUN_SCALE = 0.1

W0, W1, W2 = (F(-np.expm1(-1 / scale)) for scale in SCALES)
# An average of independent unit flows has the standard deviation sqrt(w / (2 - w)): undone, so inputs are of
# one scale.
N0, N1, N2 = (F(np.sqrt((2 - w) / w)) for w in (W0, W1, W2))
VWAP_KEEP = F(np.exp(-1 / VWAP_SCALE))
SLOW_KEEP = F(np.exp(-1 / SLOW))
PER_DAY = F(2 * np.pi / 86_400)

STATE = np.dtype(
    [
        ("flow", "f4", (len(SCALES), LANES)),  # lots
        per_lane("run", "f4"),  # steps with trades of one side alone, signed
        per_lane("imbalance", "f4"),
        per_lane("imbalance_change", "f4"),
        per_lane("slow_squares", "f4"),  # half-ticks^2
        per_lane("slow_weight", "f4"),
        per_lane("vwap_lots", "f4"),
        per_lane("vwap_value", "f4"),  # sum of lots x (price - mid now)
        per_lane("trade_vwap", "f4"),  # half-ticks
        per_lane("taken", "f4"),  # of the touch
        per_lane("bid_depth", "i4"),  # at the touch, before the step
        per_lane("ask_depth", "i4"),
    ],
    align=True,
)


@stage(STATE)
def update(s, w, p, x):
    """Averages with exponential weights; runs; what the step took of the book it found."""
    for i in prange(s.count):
        keep = F(0) if s.age[i] <= 1 else F(1)  # forgets all at the first step
        flow = F(I(s.buy_lots[i] - s.sell_lots[i]))
        fast, medium, slow = keep * w.flow[0, i], keep * w.flow[1, i], keep * w.flow[2, i]
        w.flow[0, i] = fast + W0 * (flow - fast)
        w.flow[1, i] = medium + W1 * (flow - medium)
        w.flow[2, i] = slow + W2 * (flow - slow)
        buys, sells = s.buy_lots[i] > 0, s.sell_lots[i] > 0
        side = (F(1) if buys else F(0)) - (F(1) if sells else F(0))
        run = keep * w.run[i]
        longer = (run if run * side > F(0) else F(0)) + side
        w.run[i] = longer if buys | sells else run
    for i in prange(s.count):
        keep = F(0) if s.age[i] <= 1 else F(1)
        bid, ask = s.best_bid_lots[i], s.best_ask_lots[i]
        imbalance = F(I(bid - ask)) / F(max(I(bid + ask), I(1)))
        w.imbalance_change[i] = keep * (imbalance - w.imbalance[i])
        w.imbalance[i] = imbalance
        # What a market order took, of the size that stood against it at the decision.
        bought = F(s.buy_lots[i]) / F(max(w.ask_depth[i], I(1)))
        sold = F(s.sell_lots[i]) / F(max(w.bid_depth[i], I(1)))
        known = keep if (w.ask_depth[i] > 0) & (w.bid_depth[i] > 0) else F(0)
        w.taken[i] = known * (bought - sold)
        w.bid_depth[i], w.ask_depth[i] = bid, ask
    for i in prange(s.count):
        keep = F(0) if s.age[i] <= 1 else F(1)
        move = F(s.move[i])
        w.slow_squares[i] = keep * SLOW_KEEP * w.slow_squares[i] + move * move
        w.slow_weight[i] = keep * SLOW_KEEP * w.slow_weight[i] + F(1)
        lots = F(I(s.buy_lots[i] + s.sell_lots[i]))
        value = F(s.trade_value[i]) - lots * move
        old_lots = keep * VWAP_KEEP * w.vwap_lots[i]
        all_lots = old_lots + lots
        all_value = keep * VWAP_KEEP * w.vwap_value[i] - old_lots * move + value
        w.vwap_lots[i], w.vwap_value[i] = all_lots, all_value
        gap = value / max(lots, F(1)) - all_value / max(all_lots, F(1e-6))
        w.trade_vwap[i] = gap if lots > F(0) else F(0)


FEATURES = (
    Feature("flow_fast", -10, 10, "signed market volume, average over 5 decisions, unit variance"),
    Feature("flow_medium", -10, 10, "signed market volume, average over 20 decisions, unit variance"),
    Feature("flow_slow", -10, 10, "signed market volume, average over 100 decisions, unit variance"),
    Feature("trade_run", -10, 10, "decisions in a row with trades of one side alone, signed, tens"),
    Feature("imbalance_change", -2, 2, "book imbalance less that of the decision before"),
    Feature("volatility_ratio", 0, 10, "volatility of the last 20 moves over that of about 200"),
    Feature("trade_vwap", -10, 10, "price of the last trades less VWAP, price units (0: none)"),
    Feature("depth_taken", -10, 10, "bought / ask size less sold / bid size at the touch"),
    Feature("microprice_gap", -10, 10, "microprice less mid, price units (0: no book)"),
    Feature("day_sine", -1, 1, "sine of the time of day, UTC (0 in simulated markets)"),
    Feature("day_cosine", -1, 1, "cosine of the time of day, UTC (1 in simulated markets)"),
)


@stage(STATE, out=rows(FEATURES))
def observe(s, w, p, x):
    unit, per_lot = F(p.per_unit), F(p.per_lot)
    for i in prange(s.count):
        some = F(1) if s.age[i] > 0 else F(0)
        x.flow_fast[i] = some * min(max(w.flow[0, i] * per_lot * N0, F(-10)), F(10))
        x.flow_medium[i] = some * min(max(w.flow[1, i] * per_lot * N1, F(-10)), F(10))
        x.flow_slow[i] = some * min(max(w.flow[2, i] * per_lot * N2, F(-10)), F(10))
        x.trade_run[i] = some * min(max(w.run[i] * F(RUN_SCALE), F(-10)), F(10))
        x.imbalance_change[i] = some * w.imbalance_change[i]
        count = F(max(min(s.age[i], I(MOVE_WINDOW)), I(1)))
        fast = F(s.move_squares[i]) / count
        slow = w.slow_squares[i] / max(w.slow_weight[i], F(1))
        ratio = np.sqrt(fast / max(slow, F(1e-6)))
        x.volatility_ratio[i] = min(ratio, F(10)) if (some > F(0)) & (slow > F(0)) else F(1)
    for i in prange(s.count):
        some = F(1) if s.age[i] > 0 else F(0)
        x.trade_vwap[i] = some * min(max(w.trade_vwap[i] * unit, F(-10)), F(10))
        x.depth_taken[i] = some * min(max(w.taken[i], F(-10)), F(10))
        bid, ask = s.best_bid_lots[i], s.best_ask_lots[i]
        imbalance = F(I(bid - ask)) / F(max(I(bid + ask), I(1)))
        x.microprice_gap[i] = min(max(F(0.5) * imbalance * F(s.spread[i]) * unit, F(-10)), F(10))
        x.day_sine[i] = np.sin(s.day_seconds[i] * PER_DAY)
        x.day_cosine[i] = np.cos(s.day_seconds[i] * PER_DAY)


register(
    Group(
        name="microstructure",
        features=FEATURES,
        update=update,
        observe=observe,
        warm_up=SLOW,
    )
)
