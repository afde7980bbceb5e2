"""Hard limits, between the quote and the venue. They hold whatever the policy outputs.

ACTIVE quotes both sides as far as the position limit allows. REDUCING, from a fraction of the loss limit,
quotes only the side that shrinks the position. HALTED, from the loss limit until reset, quotes nothing.
A live desk has further rules (`mmenv.live.guard`); what they ask for comes in as `risk_floor`.
A risk manager (`mmenv.sizing`) can take lots off the position limit; it cannot add any.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.kernel import ACTIVE, FEE_DIGITS, HALTED, REDUCING, stage

I = np.int32  # noqa: E741


@stage()
def risk(core, own, params, out):  # type: ignore[no-untyped-def]
    """Cut order sizes to what the limits allow."""
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    reducing_loss, loss_limit, position_limit = p.reducing_loss, p.loss_limit, p.position_limit
    for i in prange(s.count):
        loss = s.fees[i] * (1.0 / FEE_DIGITS) - s.pnl[i]
        state = I(REDUCING) if loss >= reducing_loss else I(ACTIVE)
        state = I(HALTED) if (loss >= loss_limit) | (s.risk_state[i] == HALTED) else state
        state = max(state, s.risk_floor[i])
        s.risk_state[i] = state
        q = s.position[i]
        # ACTIVE up to the limit, REDUCING up to flat.
        limit = max(I(position_limit - max(s.limit_cut[i], I(0))), I(0))
        room = limit if state == ACTIVE else I(0)
        ask = min(s.ask_lots[i], max(I(room + q), I(0)))
        bid = min(s.bid_lots[i], max(I(room - q), I(0)))
        s.ask_lots[i] = ask if state != HALTED else I(0)
        s.bid_lots[i] = bid if state != HALTED else I(0)
