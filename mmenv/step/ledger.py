"""Fills to profit and loss, by an identity in integers that is both the reward and the report.

    spread capture      sum over fills of lots x distance from the mid at the decision
    adverse selection   signed lots filled in this step x move of the mid
    carry               position held before x move of the mid
    fees                rate x notional

spread capture + adverse selection + carry - fees = change of mark-to-market wealth, to the last bit. What the
reward makes of it is `mmenv.rewards`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import stage

F = np.float32
D = np.float64
I = np.int32  # noqa: E741


@stage()
def settle(s, w, p, x):
    """Book the fills and the move of this step; whether the episode is over."""
    horizon = p.horizon
    for i in prange(s.count):
        bought, sold, move = s.bid_fill[i], s.ask_fill[i], s.move[i]
        before = s.position[i]
        net = I(bought - sold)
        capture = s.ask_edge[i] + s.bid_edge[i]
        adverse = D(net) * D(move)
        carry = D(before) * D(move)
        notional = D(I(bought + sold)) * D(I(s.mid[i] - move)) + s.ask_edge[i] - s.bid_edge[i]
        fee = notional * s.fee_rate[i]
        s.spread_capture[i] = capture
        s.adverse_selection[i] = adverse
        s.carry[i] = carry
        s.fee[i] = fee
        s.pnl[i] += capture + adverse + carry
        s.fees[i] += fee
    # Short loops: the compiler gives up on vector instructions in one long one.
    any_done = I(0)
    for i in prange(s.count):
        age = I(s.age[i] + I(1))
        over = I(1) if age >= horizon else I(0)
        truncated = s.truncated[i]
        s.position[i] = I(s.position[i] + s.bid_fill[i] - s.ask_fill[i])
        s.age[i] = age
        s.terminated[i] = over
        s.truncated[i] = truncated & ~over
        s.done[i] = truncated | over
        any_done |= truncated | over
    s.any_done = any_done


@stage()
def track(s, w, p, x):
    """Average entry price and holding time of the position, for the observation."""
    for i in prange(s.count):
        bought, sold = s.bid_fill[i], s.ask_fill[i]
        net = I(bought - sold)
        after = s.position[i]
        before = I(after - net)
        # What the new lots stand above their price: bought below the mid, or sold above it (a short).
        bought_gap = F(s.bid_edge[i]) / F(max(bought, I(1)))
        sold_gap = F(s.ask_edge[i]) / F(max(sold, I(1)))
        new_gap = bought_gap if net > 0 else -sold_gap
        entry, move, held = s.entry[i], F(s.move[i]), I(s.held_steps[i] + I(1))
        mixed = (F(abs(before)) * entry + F(abs(net)) * new_gap) / F(max(abs(after), I(1)))
        grew = abs(after) > abs(before)
        same_side = (before != 0) & (after != 0) & (I(before ^ after) >= 0)
        gap = mixed if grew else entry
        gap = gap if same_side else new_gap
        s.entry[i] = gap + move if after != 0 else F(0)
        s.held_steps[i] = held if same_side else I(0)
