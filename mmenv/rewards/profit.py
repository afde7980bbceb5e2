"""Profit: the weighted terms of the profit-and-loss identity of `mmenv.step.ledger`.

    reward = w1 spread capture + w2 adverse selection + w3 carry - w4 fees

With weights of 1 it is the change of mark-to-market wealth. `noise` of the core is the part of it whose mean
is zero given all that came before the step, whatever is quoted: a control variate, with which training and
evaluation may shrink their variance without moving any mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.stage import stage
from mmenv.engine.state import FEE_DIGITS
from mmenv.rewards.base import VALUE, RewardTerm, register

D = np.float64
I = np.int32  # noqa: E741

WEIGHTS = np.dtype(
    [("spread", "f8"), ("adverse", "f8"), ("carry", "f8"), ("fees", "f8"), ("per_unit", "f8")], align=True
)


@stage(VALUE, WEIGHTS)
def profit(s, w, p, x):
    """The identity's terms of this step, weighted, and the part of them that is noise."""
    weight_spread, weight_adverse, weight_carry, weight_fees = p.spread, p.adverse, p.carry, p.fees
    per_unit = p.per_unit
    fee_unit = per_unit / FEE_DIGITS
    for i in prange(s.count):
        gain = weight_spread * s.spread_capture[i] + weight_adverse * s.adverse_selection[i]
        gain = gain + weight_carry * s.carry[i]
        w.value[i] = gain * per_unit - weight_fees * s.fee[i] * fee_unit
    for i in prange(s.count):
        filled = I(s.bid_fill[i] - s.ask_fill[i])
        before, free, flow = D(I(s.position[i] - filled)), D(s.noise_move[i]), D(s.order_flow_noise[i])
        s.noise[i] = per_unit * (weight_carry * before * (free + flow) + weight_adverse * D(filled) * free)


@register
@dataclass(frozen=True, kw_only=True)
class Profit(RewardTerm):
    """Weights of the profit-and-loss identity: spread capture, adverse selection, carry and fees."""

    name = "profit"
    stage = profit

    spread_capture: float = 1.0
    adverse_selection: float = 1.0
    carry: float = 1.0
    fees: float = 1.0

    def __post_init__(self) -> None:
        for name in ("spread_capture", "adverse_selection", "carry", "fees"):
            require_number(self, name, -1e3, 1e3)

    def compiled(self, price_scale: int, step_seconds: float) -> np.ndarray:
        weights = self.spread_capture, self.adverse_selection, self.carry, self.fees
        return np.array([(*weights, 1 / price_scale)], WEIGHTS)
