"""Fills to profit and loss, by an identity in integers that is both the reward and the report.

    spread capture      sum over fills of lots x distance from the mid at the decision
    adverse selection   signed lots filled in this step x move of the mid
    carry               position held before x move of the mid
    fees                rate x notional

spread capture + adverse selection + carry - fees = change of mark-to-market wealth, to the last bit. The
reward is the weighted identity minus phi q^2 per second and, at the end of the episode, alpha q^2.

`noise` is the part of the reward whose mean is zero given all that came before the step, whatever is quoted:
a control variate, with which training and evaluation may shrink their variance without moving any mean.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.kernel import FEE_DIGITS, stage

F = np.float32
D = np.float64
I = np.int32  # noqa: E741


@stage()
def settle(core, own, params, out):  # type: ignore[no-untyped-def]
    """Book the fills and the move of this step; the reward; whether the episode is over."""
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    horizon, phi, alpha = p.horizon, p.phi, p.alpha
    weight_spread, weight_adverse, weight_carry = p.weight_spread, p.weight_adverse, p.weight_carry
    per_unit, weight_fees = p.per_unit, p.weight_fees
    fee_unit = per_unit / FEE_DIGITS
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
        gain = weight_spread * capture + weight_adverse * adverse + weight_carry * carry
        s.reward[i] = gain * per_unit - weight_fees * fee * fee_unit
    # Short loops: the compiler gives up on vector instructions in one long one.
    for i in prange(s.count):
        old, filled = D(s.position[i]), D(I(s.bid_fill[i] - s.ask_fill[i]))
        free, flow = D(s.free_move[i]), D(s.flow_move[i])
        s.noise[i] = per_unit * (weight_carry * old * (free + flow) + weight_adverse * filled * free)
    any_done = I(0)
    for i in prange(s.count):
        after = I(s.position[i] + s.bid_fill[i] - s.ask_fill[i])
        age = I(s.age[i] + I(1))
        over = I(1) if age >= horizon else I(0)
        truncated = s.truncated[i]
        square = D(after) * D(after)
        penalty = phi * square + alpha * square * D(over)
        s.penalty[i] = penalty
        s.reward[i] -= penalty
        s.position[i] = after
        s.age[i] = age
        s.terminated[i] = over
        s.truncated[i] = truncated & ~over
        s.done[i] = truncated | over
        any_done |= truncated | over
    s.any_done = any_done


@stage()
def track(core, own, params, out):  # type: ignore[no-untyped-def]
    """Average entry price and holding time of the position, for the observation."""
    s = carray(core, 1)[0]
    for i in prange(s.count):
        bought, sold = s.bid_fill[i], s.ask_fill[i]
        net = I(bought - sold)
        after = s.position[i]
        before = I(after - net)
        # What the new lots stand above their price: bought below the mid, or sold above it (a short).
        bought_gap = F(s.bid_edge[i]) / F(max(bought, I(1)))
        sold_gap = F(s.ask_edge[i]) / F(max(sold, I(1)))
        new_gap = bought_gap if net > 0 else -sold_gap
        entry, move, held = s.entry[i], F(s.move[i]), I(s.held[i] + I(1))
        mixed = (F(abs(before)) * entry + F(abs(net)) * new_gap) / F(max(abs(after), I(1)))
        grew = abs(after) > abs(before)
        same_side = (before != 0) & (after != 0) & (I(before ^ after) >= 0)
        gap = mixed if grew else entry
        gap = gap if same_side else new_gap
        s.entry[i] = gap + move if after != 0 else F(0)
        s.held[i] = held if same_side else I(0)
