"""Fills in the solvable markets: a market order that reaches our distance from the mid fills us in full."""

from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.numpy_support import carray

from mmenv.kernel import stage

I = np.int32  # noqa: E741


@stage()
def match(core, own, params, out):  # type: ignore[no-untyped-def]
    """Fill our quotes from `ask_reach` and `bid_reach`."""
    s = carray(core, 1)[0]
    for i in prange(s.count):
        ask_lots, ask_distance = s.ask_lots[i], s.ask_distance[i]
        bid_lots, bid_distance = s.bid_lots[i], s.bid_distance[i]
        ask = ask_lots if s.ask_reach[i] >= ask_distance else I(0)
        bid = bid_lots if s.bid_reach[i] >= bid_distance else I(0)
        s.ask_fill[i] = ask
        s.bid_fill[i] = bid
        s.ask_edge[i] = np.float64(ask) * np.float64(ask_distance)
        s.bid_edge[i] = np.float64(bid) * np.float64(bid_distance)
