"""Risk inputs: how the market and the position stand against what is usual, for the neural risk manager.

With `volatility` of `trade_book` these are its ten inputs. Two of them, `news` and `macro`, are not to be had
from market data: they are 0 until somebody who knows sets them (`set_external`), and a network that was never
shown another value ignores them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import stage
from mmenv.engine.state import FEE_DIGITS, LANES, per_lane
from mmenv.features.base import Feature, Group, register, rows

if TYPE_CHECKING:
    pass


FAST, SLOW = 20, 200
"""Time constants of the averages, decisions."""
SPREAD_WINDOW = 100

FAST_KEEP, SLOW_KEEP = F(np.exp(-1 / FAST)), F(np.exp(-1 / SLOW))
PER_DAY = F(1 / 86_400)

STATE = np.dtype(
    [
        per_lane("fast_weight", "f4"),
        per_lane("slow_weight", "f4"),
        per_lane("fast_lots", "f4"),
        per_lane("slow_lots", "f4"),
        per_lane("slow_depth", "f4"),
        ("spreads", "i4", (SPREAD_WINDOW, LANES)),
        per_lane("rank", "f4"),
        # Products of our moves and the reference's: own squares, its squares, both; fast, then slow.
        ("products", "f4", (6, LANES)),
        per_lane("news", "f4"),
        per_lane("macro", "f4"),
    ],
    align=True,
)


@stage(STATE)
def update(s, w, p, x):
    """Averages with exponential weights, fast and slow; the rank of the spread among the last ones."""
    head = s.clock % SPREAD_WINDOW
    if head < 0:
        return
    for i in prange(s.count):
        fresh = s.age[i] <= 1
        fast, slow = F(0) if fresh else FAST_KEEP, F(0) if fresh else SLOW_KEEP
        lots = F(I(s.buy_lots[i] + s.sell_lots[i]))
        w.fast_weight[i] = fast * w.fast_weight[i] + F(1)
        w.slow_weight[i] = slow * w.slow_weight[i] + F(1)
        w.fast_lots[i] = fast * w.fast_lots[i] + lots
        w.slow_lots[i] = slow * w.slow_lots[i] + lots
        w.slow_depth[i] = slow * w.slow_depth[i] + F(s.best_bid_lots[i]) + F(s.best_ask_lots[i])
        ours, theirs = F(s.move[i]), F(s.asset_moves[0, i])
        w.products[0, i] = fast * w.products[0, i] + ours * ours
        w.products[1, i] = fast * w.products[1, i] + theirs * theirs
        w.products[2, i] = fast * w.products[2, i] + ours * theirs
        w.products[3, i] = slow * w.products[3, i] + ours * ours
        w.products[4, i] = slow * w.products[4, i] + theirs * theirs
        w.products[5, i] = slow * w.products[5, i] + ours * theirs
    for i in prange(s.count):
        w.spreads[head, i] = s.spread[i]
        w.rank[i] = F(0)
    for k in range(SPREAD_WINDOW):
        behind = I((head - k) % SPREAD_WINDOW)
        for i in prange(s.count):
            other = w.spreads[k, i]
            half = (F(0.5) if other <= s.spread[i] else F(0)) + (F(0.5) if other < s.spread[i] else F(0))
            w.rank[i] += half if behind < s.age[i] else F(0)


FEATURES = (
    Feature("volume_ratio", 0, 10, "market volume, average over 20 decisions over that of 200"),
    Feature("spread_rank", 0, 1, "share of the last 100 spreads below this one (equal: half)"),
    Feature("day_fraction", 0, 1, "time of day, UTC, in days (0 in simulated markets)"),
    Feature("own_impact", 0, 10, "volatility x sqrt(|position| / volume of a step), price units"),
    Feature("loss_used", 0, 1, "loss since reset / daily loss limit"),
    Feature("correlation_loss", -2, 2, "correlation with the first observed asset, slow less fast"),
    Feature("liquidity", 0, 10, "size at the touch over its average of 200 decisions (1: no book)"),
    Feature("news", -1, 1, "set from outside: expected effect of news on risk (0: none known)"),
    Feature("macro", -1, 1, "set from outside: macroeconomic risk, such as a release due (0: none)"),
)


@stage(STATE, out=rows(FEATURES))
def observe(s, w, p, x):
    per_lot, loss_limit = F(p.per_lot), p.loss_limit
    for i in prange(s.count):
        begun = s.age[i] > 0
        fast_lots = w.fast_lots[i] / max(w.fast_weight[i], F(1))
        slow_lots = w.slow_lots[i] / max(w.slow_weight[i], F(1))
        x.volume_ratio[i] = (
            min(fast_lots / max(slow_lots, F(1e-6)), F(10)) if begun & (slow_lots > F(0)) else F(1)
        )
        seen = F(max(min(s.age[i], I(SPREAD_WINDOW)), I(1)))
        x.spread_rank[i] = w.rank[i] / seen if begun else F(0.5)
        x.day_fraction[i] = s.day_seconds[i] * PER_DAY
        # Square-root law: unwinding q lots moves the price by about sigma sqrt(q / V), over the time in which
        # V lots trade.
        volume = max(slow_lots if begun else F(0), F(1) / max(per_lot, F(1e-6)))
        x.own_impact[i] = min(s.volatility[i] * np.sqrt(F(abs(s.position[i])) / volume), F(10))
        lost = s.fees[i] * (1.0 / FEE_DIGITS) - s.pnl[i]
        x.loss_used[i] = F(min(max(lost / loss_limit, 0.0), 1.0))
    for i in prange(s.count):
        begun = s.age[i] > 0
        fast = w.products[2, i] / np.sqrt(max(w.products[0, i] * w.products[1, i], F(1)))
        slow = w.products[5, i] / np.sqrt(max(w.products[3, i] * w.products[4, i], F(1)))
        x.correlation_loss[i] = min(max(slow - fast, F(-2)), F(2)) if begun else F(0)
        depth = F(s.best_bid_lots[i]) + F(s.best_ask_lots[i])
        usual = w.slow_depth[i] / max(w.slow_weight[i], F(1))
        x.liquidity[i] = min(depth / max(usual, F(1)), F(10)) if begun & (usual > F(0)) else F(1)
        x.news[i] = w.news[i]
        x.macro[i] = w.macro[i]


register(
    Group(
        name="risk",
        features=FEATURES,
        update=update,
        observe=observe,
        warm_up=SLOW,
    )
)
