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
from numba.np.numpy_support import carray

from mmenv.kernel import FEE_DIGITS, LANES, stage

F = np.float32
I = np.int32  # noqa: E741


@stage()
def settle(core, own, params, out):  # type: ignore[no-untyped-def]
    """Book the fills and the move of this step; the reward; whether the episode is over."""
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    any_done = I(0)
    for i in range(LANES):
        bought, sold, move = s.bid_fill[i], s.ask_fill[i], s.move[i]
        before = s.position[i]
        net = I(bought - sold)
        after = I(before + net)
        capture = s.ask_edge[i] + s.bid_edge[i]
        adverse = np.int64(net) * np.int64(move)
        carry = np.int64(before) * np.int64(move)
        old_mid = np.int64(s.mid[i]) - np.int64(move)
        notional = np.int64(I(bought + sold)) * old_mid + s.ask_edge[i] - s.bid_edge[i]
        fee = notional * p.fee_rate
        s.spread_capture[i] = capture
        s.adverse_selection[i] = adverse
        s.carry[i] = carry
        s.fee[i] = fee
        s.pnl[i] += capture + adverse + carry
        s.fees[i] += fee
        s.position[i] = after
        age = I(s.age[i] + I(1))
        over = age >= p.horizon
        square = np.float64(after) * np.float64(after)
        penalty = p.phi * square + (p.alpha * square if over else 0.0)
        s.penalty[i] = penalty
        gain = (
            p.weight_spread * np.float64(capture)
            + p.weight_adverse * np.float64(adverse)
            + p.weight_carry * np.float64(carry)
        )
        s.reward[i] = (
            gain * p.per_unit - p.weight_fees * (np.float64(fee) * (p.per_unit / FEE_DIGITS)) - penalty
        )
        free = np.float64(s.free_move[i])
        s.noise[i] = p.per_unit * (
            p.weight_carry * np.float64(before) * (free + np.float64(s.flow_move[i]))
            + p.weight_adverse * np.float64(net) * free
        )
        s.age[i] = age
        s.terminated[i] = I(1) if over else I(0)
        s.truncated[i] = s.truncated[i] if not over else I(0)
        done = I(1) if over else s.truncated[i]
        s.done[i] = done
        any_done |= done
    s.any_done = any_done


@stage()
def track(core, own, params, out):  # type: ignore[no-untyped-def]
    """Average entry price and holding time of the position, for the observation."""
    s = carray(core, 1)[0]
    for i in range(LANES):
        bought, sold = s.bid_fill[i], s.ask_fill[i]
        net = I(bought - sold)
        after = s.position[i]
        before = I(after - net)
        # What the new lots stand above their price: bought below the mid, or sold above it (a short).
        bought_gap = F(s.bid_edge[i]) / F(max(bought, I(1)))
        sold_gap = F(s.ask_edge[i]) / F(max(sold, I(1)))
        new_gap = bought_gap if net > 0 else -sold_gap
        adds = np.int64(before) * np.int64(net) > 0
        mixed = (F(abs(before)) * s.entry[i] + F(abs(net)) * new_gap) / F(max(abs(after), I(1)))
        flipped = np.int64(before) * np.int64(after) <= 0
        gap = mixed if adds else s.entry[i]
        gap = new_gap if flipped else gap
        s.entry[i] = gap + F(s.move[i]) if after != 0 else F(0)
        s.held[i] = I(0) if flipped else I(s.held[i] + I(1))
