"""The pair of distances that maximises the value (*) of `policies.solver.chain`, in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def reply(first: float, second: float, kappa: float, top: float) -> float:
    """The distance d in [0, top] that maximises exp(-kappa d) (first d + second), first >= 0."""
    if first <= 0.0:
        return top
    return min(max(1.0 / kappa - second / first, 0.0), top)


@njit(cache=True)
def _settle(ask, bid, a1, a, b1, b, d, kappa, top):
    """Alternate best replies from (ask, bid) until they stay; no step of it lowers the value (*)."""
    for _ in range(1000):
        new_ask = reply(a1, a + math.exp(-kappa * bid) * d, kappa, top)
        new_bid = reply(b1, b + math.exp(-kappa * new_ask) * d, kappa, top)
        change = abs(new_ask - ask) + abs(new_bid - bid)
        ask, bid = new_ask, new_bid
        if change < 1e-12:
            break
    u, v = math.exp(-kappa * ask), math.exp(-kappa * bid)
    return ask, bid, u * (a1 * ask + a) + v * (b1 * bid + b) + u * v * d


@njit(cache=True)
def best_pair(a1, a, b1, b, d, kappa, top):
    """The distances in [0, top]^2 that maximise (*), and what they add to its base.

    For a fixed bid, (*) rises in the ask up to the best reply ask = 1/kappa - (A + v D)/A1 and falls after
    it, so a maximum is a fixed point of the two best replies, clipped. Their slopes are at most kappa |D|/A1
    and kappa |D|/B1: where kappa^2 D^2 < A1 B1 the replies in turn are a contraction, the fixed point is the
    only one, and so it is the maximum. Elsewhere (steep terminal penalties) several may exist: the search
    then starts from a grid of bids and takes the best.
    """
    starts = 1 if kappa * kappa * d * d < a1 * b1 or d == 0.0 else 65
    best_ask, best_bid, best = _settle(top, top, a1, a, b1, b, d, kappa, top)
    for start in range(1, starts):
        ask, bid, value = _settle(top, top * (start - 1) / (starts - 2), a1, a, b1, b, d, kappa, top)
        if value > best:
            best_ask, best_bid, best = ask, bid, value
    return best_ask, best_bid, best


@njit(cache=True)
def best_pairs(coefficients, kappa, top):
    """`best_pair` for coefficients (5, labels, positions); asks and bids, (labels, positions)."""
    _, labels, positions = coefficients.shape
    asks = np.empty((labels, positions))
    bids = np.empty((labels, positions))
    for i in range(labels):
        for j in range(positions):
            a1, a, b1, b, d = coefficients[:, i, j]
            asks[i, j], bids[i, j], _ = best_pair(a1, a, b1, b, d, kappa, top)
    return asks, bids
