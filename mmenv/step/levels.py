"""Several orders of ours a side in a market outside: `mmenv.step.orders`, level by level.

Each level that is asked for is the order that stands at its price, if it keeps that, else a new one behind
the queue there. What was filled on a side was filled of its nearest orders: a trade does not reach past them.
Those that are left are in `standing`, and the nearest of each side in the core.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import LANES, LEVELS, STANDING
from mmenv.step.orders import follow_both, place

I = np.int32  # noqa: E741

PRICE, PLACED, LEFT, AHEAD, AGE = range(5)

ORDERS = np.dtype(
    [
        # By side, asks first, and by level: price (half-ticks) and lots asked for, lots 0 where none is, by
        # `mmenv.market.outside.take_levels`.
        ("asked", "i4", (2, 2, LEVELS, LANES)),
        # Our orders: price, lots placed with, left and before them in the queue, decisions since.
        ("orders", "i4", (5, 2, LEVELS, LANES)),
        ("earlier", "i4", (5, 2, LEVELS, LANES)),  # before the interval
        ("standing", STANDING),
        ("most", "i4"),  # orders of a side
        ("padding", "i4", 15),  # so that vectors of lanes do not lie across cache lines
    ]
)


@inlined
def follow_side(s, w, i, at, side, filled, touches, queues, taken, told, exact):
    """As `mmenv.step.orders.follow_order`, for all orders of a side; gives the nearest one left, of which
    `told` is where it is `exact`."""
    standing, count = w.standing, 0
    for part in range(5):
        for k in range(w.most):
            w.earlier[part, at, k, i] = w.orders[part, at, k, i]
    for k in range(w.most):
        standing.price[at, k, i], standing.lots[at, k, i] = I(0), I(0)
        standing.ahead[at, k, i], standing.age[at, k, i] = I(0), I(0)
        wanted, lots = w.asked[0, at, k, i], w.asked[1, at, k, i]
        order = I(0), I(0), I(0), I(0), I(0)
        for j in range(w.most):
            # The first decision of an episode knows none.
            if w.earlier[LEFT, at, j, i] > 0 and w.earlier[PRICE, at, j, i] == wanted and s.age[i] > 0:
                order = (
                    w.earlier[PRICE, at, j, i], w.earlier[PLACED, at, j, i], w.earlier[LEFT, at, j, i],
                    w.earlier[AHEAD, at, j, i], w.earlier[AGE, at, j, i],
                )  # fmt: skip
        before = order[2]
        if exact and k == 0:
            order = order[0], order[1], order[2], queues[0] if told < 0 else told, order[4]
        order = place(order, wanted, lots, filled, touches, queues, taken, side)
        filled -= min((before if order[4] > 0 else lots), filled)
        if order[2] > 0:
            standing.price[at, count, i], standing.lots[at, count, i] = order[0], order[2]
            standing.ahead[at, count, i] = told if exact and told >= 0 and count == 0 else order[3]
            standing.age[at, count, i] = order[4]
            count += 1
        for part in range(5):
            w.orders[part, at, k, i] = order[part]
    return (
        standing.price[at, 0, i], standing.lots[at, 0, i], standing.ahead[at, 0, i], standing.age[at, 0, i]
    )  # fmt: skip


@stage(ORDERS)
def follow_levels(s, w, p, x):
    """As `mmenv.step.orders.follow`."""
    for i in prange(s.count):
        follow_both(s, w, i, follow_side, False)


@stage(ORDERS)
def follow_level_places(s, w, p, x):
    """As `mmenv.step.orders.follow_places`."""
    for i in prange(s.count):
        follow_both(s, w, i, follow_side, True)
