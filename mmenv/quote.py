"""Action to quote. The action box is [-1, 1]^2: a0 sets the half-spread, a1 the skew.

    h = h_min + (a0 + 1) / 2 (h_max - h_min),   s = a1 s_max,   ask = mid + h + s,   bid = mid - h + s

Each distance is clipped to [0, d_max] and rounded outward to the tick; quotes are post-only, and the bid is
always below the ask. An action that is not finite quotes nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numba.np.numpy_support import carray

from mmenv.config import QuoteConfig
from mmenv.kernel import stage

F = np.float32
I = np.int32  # noqa: E741  (as in the kernels' arithmetic)


@njit(inline="always")
def outward(distance, mid, side):  # type: ignore[no-untyped-def]
    """The distance, rounded up until mid + side x distance is a whole tick (an even price)."""
    floor = I(distance)
    ceiling = I(floor + (I(1) if F(floor) < distance else I(0)))
    return I(ceiling + ((mid + side * ceiling) & I(1)))


@stage()
def quote(core, own, params, out):  # type: ignore[no-untyped-def]
    """Distances of ask and bid from the action; 0 lots where the action is not finite."""
    s = carray(core, 1)[0]
    p = carray(params, 1)[0]
    s.clock += 1
    s.any_done = 0
    half_low, half_range, max_skew = p.half_low, p.half_range, p.max_skew
    max_distance, order_lots = p.max_distance, p.order_lots
    for i in prange(s.count):
        a0, a1 = s.action[0, i], s.action[1, i]
        finite = (abs(a0) < F(np.inf)) & (abs(a1) < F(np.inf))
        a0 = min(max(a0, F(-1)), F(1)) if finite else F(1)
        a1 = min(max(a1, F(-1)), F(1)) if finite else F(0)
        half = half_low + (a0 + F(1)) * F(0.5) * half_range
        skew = a1 * max_skew
        ask = min(max(half + skew, F(0)), max_distance)
        bid = min(max(half - skew, F(0)), max_distance)
        mid = s.mid[i]
        # Post-only: not closer than one tick from the other side's touch. No book, no touch.
        nearest = max(I(2) - (s.spread[i] >> 1), I(0)) if s.spread[i] > 0 else I(0)
        ask_distance = max(outward(ask, mid, I(1)), nearest)
        bid_distance = max(outward(bid, mid, I(-1)), nearest)
        s.ask_distance[i] = ask_distance + (I(2) if ask_distance + bid_distance == 0 else I(0))
        s.bid_distance[i] = bid_distance
        s.ask_lots[i] = order_lots if finite else I(0)
        s.bid_lots[i] = order_lots if finite else I(0)
        s.truncated[i] = 0


def to_distances(config: QuoteConfig, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of ask and bid that actions, (n, 2), ask for, price units, before rounding: (n,) each."""
    half = config.min_half_spread + (actions[:, 0] + 1) / 2 * (
        config.max_half_spread - config.min_half_spread
    )
    skew = actions[:, 1] * config.max_skew
    return np.clip(half + skew, 0, config.max_distance), np.clip(half - skew, 0, config.max_distance)


def to_action(config: QuoteConfig, ask_distance: np.ndarray, bid_distance: np.ndarray) -> np.ndarray:
    """The action, float32 (..., 2), that quotes these distances from the mid (price units).

    Exact where both lie in [0, max_distance], half-spread and skew in the action's range; else the nearest.
    """
    ask, bid = (np.clip(d, 0.0, config.max_distance) for d in (ask_distance, bid_distance))
    half = (ask + bid) / 2
    span = config.max_half_spread - config.min_half_spread
    a0 = 2 * (half - config.min_half_spread) / span - 1 if span > 0 else np.zeros_like(half)
    a1 = (ask - bid) / (2 * config.max_skew) if config.max_skew > 0 else np.zeros_like(half)
    return np.clip(np.stack([a0, a1], axis=-1), -1.0, 1.0).astype(np.float32)
