"""Market orders and fills in the solvable markets: an order that reaches our distance fills us in full."""

from __future__ import annotations

from numba import prange

from mmenv.engine.maths import D, I, log, unit
from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import EMPTY


@inlined
def market_order(word, chance, mean_reach):
    """Whether an order comes (1 or 0), and how far beyond the mid it reaches, half-ticks (-1 without one).

    Given an arrival, the uniform that made it is uniform again on (0, chance): its logarithm is the reach,
    and P(reach >= d) = exp(-d / mean_reach).
    """
    drawn = unit(word)
    comes = drawn < chance
    return I(1) if comes else I(0), I(-log(drawn / chance) * mean_reach) if comes else I(-1)


@stage(params=EMPTY)
def match(s, w, p, x):
    """Fill our quotes from `ask_reach` and `bid_reach`."""
    for i in prange(s.count):
        ask_lots, ask_distance = s.ask_lots[i], s.ask_distance[i]
        bid_lots, bid_distance = s.bid_lots[i], s.bid_distance[i]
        ask = ask_lots if s.ask_reach[i] >= ask_distance else I(0)
        bid = bid_lots if s.bid_reach[i] >= bid_distance else I(0)
        s.ask_fill[i] = ask
        s.bid_fill[i] = bid
        s.ask_edge[i] = D(ask) * D(ask_distance)
        s.bid_edge[i] = D(bid) * D(bid_distance)
