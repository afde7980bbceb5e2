"""Hard limits, between the quote and the venue. They hold whatever the policy outputs.

ACTIVE quotes both sides as far as the position limit allows. REDUCING, from a fraction of the loss limit,
quotes only the side that shrinks the position. HALTED, from the loss limit until reset, quotes nothing.
A live desk has further rules (`mmenv.live.guard`); what they ask for comes in as `risk_floor`.
A risk manager (`mmenv.step.sizing`) can take lots off the position limit; it cannot add any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import prange

from mmenv.engine.stage import stage
from mmenv.engine.state import ACTIVE, FEE_DIGITS, HALTED, REDUCING

if TYPE_CHECKING:
    import numpy as np

from mmenv.checks import require_number

I = np.int32  # noqa: E741


@stage()
def risk(s, w, p, x):
    """Cut order sizes to what the limits allow."""
    reducing_loss, loss_limit, position_limit = p.reducing_loss, p.loss_limit, p.position_limit
    for i in prange(s.count):
        loss = s.fees[i] * (1.0 / FEE_DIGITS) - s.pnl[i]
        state = I(REDUCING) if loss >= reducing_loss else I(ACTIVE)
        state = I(HALTED) if (loss >= loss_limit) | (s.risk_state[i] == HALTED) else state
        state = max(state, s.risk_floor[i])
        s.risk_state[i] = state
        q = s.position[i]
        # ACTIVE up to the limit, REDUCING up to flat.
        limit = max(I(position_limit - max(s.limit_reduction[i], I(0))), I(0))
        room = limit if state == ACTIVE else I(0)
        ask = min(s.ask_lots[i], max(I(room + q), I(0)))
        bid = min(s.bid_lots[i], max(I(room - q), I(0)))
        s.ask_lots[i] = ask if state != HALTED else I(0)
        s.bid_lots[i] = bid if state != HALTED else I(0)


@dataclass(frozen=True, kw_only=True)
class RiskConfig:
    """Hard limits. They hold whatever the policy outputs; see `mmenv.step.risk`."""

    position_limit: int = 10
    """Largest absolute position, lots. A side that could exceed it is not quoted."""
    order_lots: int = 1
    """Size of each quote, lots."""
    daily_loss_limit: float = 500.0
    """HALTED (no quotes until reset) once this much wealth is lost since reset, price units x lots."""
    reducing_at: float = 0.8
    """REDUCING (only the side that shrinks the position is quoted) from this fraction of the loss limit."""
    taker_spacing: int = 1
    """Decisions from one market order to the next, at least, of an action that sends any."""

    def __post_init__(self) -> None:
        require_number(self, "position_limit", 1, 1_000_000, integer=True)
        require_number(self, "order_lots", 1, self.position_limit, integer=True)
        require_number(self, "daily_loss_limit", 1e-6, 1e12)
        require_number(self, "reducing_at", 0.0, 1.0)
        require_number(self, "taker_spacing", 1, 1_000_000, integer=True)
