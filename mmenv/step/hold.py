"""Holding: an order stays where it is while the price asked for is that near, for moving costs its place."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import inlined, stage

I = np.int32  # noqa: E741

NEAR = np.dtype([("half_ticks", "i4")])


@inlined
def held(distance, lots, own_price, own_lots, mid, side, near):
    """The distance of our resting order where the one asked for is near it, else the one asked for."""
    resting = I(side * I(own_price - mid))
    holds = (lots > 0) & (own_lots > 0) & (resting >= 0) & (abs(I(distance - resting)) <= near)
    return resting if holds else distance


@stage(NEAR)
def hold(s, w, p, x):
    """Keep orders in their queues where `requote_ticks` says so."""
    near = w.half_ticks
    for i in prange(s.count):
        mid = s.mid[i]
        ask = held(s.ask_distance[i], s.ask_lots[i], s.own_ask[i], s.own_ask_lots[i], mid, I(1), near)
        bid = held(s.bid_distance[i], s.bid_lots[i], s.own_bid[i], s.own_bid_lots[i], mid, I(-1), near)
        apart = I(ask + bid) > 0
        s.ask_distance[i] = ask if apart else s.ask_distance[i]
        s.bid_distance[i] = bid if apart else s.bid_distance[i]
