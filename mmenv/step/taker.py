"""Market orders beside the quotes: cut to the limits, filled at the touch, booked by the same identity.

A market order leaves with the quotes. In a simulated market it is filled at once: at the touch, no more than
what stands there, or, where there is no book, in full at the half-spread that its action names. Like our
quotes it moves nothing. In a market outside it is an order at the touch that is filled when it arrives, as
far as something stands there or nearer, and else is gone (`mmenv.venue`). What it filled is then among
`ask_fill` and `bid_fill`, so that the identity of `mmenv.step.ledger` holds as it stands: what a market order
crosses is spread capture below 0, and the taker fee is a fee.

It has what room the limits leave before the quotes have. The quote that it would trade with, the one of the
other side, is not made in that decision: so whatever is filled first, the position stays within its limit,
and nothing ever trades with itself.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.actions.base import Taking
from mmenv.actions.spread_skew import outward
from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import ACTIVE, HALTED, fee_rate

F = np.float32
D = np.float64
I = np.int32  # noqa: E741

TERMS = np.dtype(
    [
        ("fee_rate", "f8"),  # 1 / FEE_DIGITS of notional
        ("half_spread", "f4"),  # half-ticks, where there is no book
        ("spacing", "i4"),  # decisions from one market order to the next, at least
    ],
    align=True,
)


def terms(taking: Taking, spacing: int, price_scale: int) -> np.ndarray:
    """What the stages read: a record of TERMS. A price unit has `price_scale` half-ticks."""
    return np.array([(fee_rate(taking.fee_bp), taking.half_spread * price_scale, spacing)], TERMS)


@inlined
def cut(lots, room, position, state):
    """The market order that the limits allow, signed: within `room` on either side of flat."""
    bought = min(lots, max(I(room - position), I(0)))
    sold = max(lots, min(I(-room - position), I(0)))
    allowed = bought if lots > 0 else sold
    return allowed if state != HALTED else I(0)


@stage(TERMS)
def limit(s, w, p, x):
    """After `mmenv.step.risk`: cut market orders to limits and rate, and quotes to the room they leave."""
    spacing, position_limit = w.spacing, p.position_limit
    for i in prange(s.count):
        q, state = s.position[i], s.risk_state[i]
        most = max(I(position_limit - max(s.limit_reduction[i], I(0))), I(0))
        room = most if state == ACTIVE else I(0)
        waits = s.taker_wait[i]
        lots = cut(s.taker_lots[i], room, q, state) if waits <= 0 else I(0)
        s.taker_lots[i] = lots
        s.taker_wait[i] = I(spacing - 1) if lots != 0 else max(I(waits - 1), I(0))
        ask = min(s.ask_lots[i], max(I(room + q + lots), I(0)))
        bid = min(s.bid_lots[i], max(I(room - q - lots), I(0)))
        s.ask_lots[i] = ask if lots <= 0 else I(0)
        s.bid_lots[i] = bid if lots >= 0 else I(0)


@stage(TERMS)
def fill(s, w, p, x):
    """Fill market orders in a simulated market, before the others trade."""
    half_spread = w.half_spread
    for i in prange(s.count):
        lots, mid = s.taker_lots[i], s.mid[i]
        book = s.spread[i] > 0
        side = I(1) if lots > 0 else I(-1)
        distance = I(s.spread[i] >> I(1)) if book else outward(half_spread, mid, side)
        there = s.best_ask_lots[i] if lots > 0 else s.best_bid_lots[i]
        filled = I(side * min(abs(lots), there)) if book else lots
        edge = -D(abs(filled)) * D(distance)
        s.taken_ask[i], s.taken_bid[i] = max(I(-filled), I(0)), max(filled, I(0))
        s.taken_ask_edge[i] = edge if filled < 0 else D(0)
        s.taken_bid_edge[i] = edge if filled > 0 else D(0)


@stage()
def book(s, w, p, x):
    """Put what market orders were filled among the fills of the step, before it is settled."""
    for i in prange(s.count):
        s.ask_fill[i] += s.taken_ask[i]
        s.bid_fill[i] += s.taken_bid[i]
        s.ask_edge[i] += s.taken_ask_edge[i]
        s.bid_edge[i] += s.taken_bid_edge[i]


@stage(TERMS)
def charge(s, w, p, x):
    """After the step is settled at the maker fee: what the taker fee is more than that."""
    rate = w.fee_rate
    for i in prange(s.count):
        lots, mid = I(s.taken_ask[i] + s.taken_bid[i]), I(s.mid[i] - s.move[i])
        notional = D(lots) * D(mid) + s.taken_ask_edge[i] - s.taken_bid_edge[i]
        more = notional * (rate - s.fee_rate[i])
        s.fee[i] += more
        s.fees[i] += more
