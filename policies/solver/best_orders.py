"""The orders that maximise the value on `brownian`, in compiled code: market order, sizes, several levels.

A side quotes levels i of l_i lots at distances d_1 <= d_2 <= ...; a market order of others that reaches d_i
fills levels 1 to i. With u_i = exp(-kappa d_i), v_j likewise for the bid, p the chance of a market order of
others on a side, and g(q) the value of ending the step at position q, quoting at position q is worth

    g(q) + sum_i u_i p (l_i d_i + A_i) + sum_j v_j p (m_j b_j + B_j) + sum_ij u_i v_j p^2 D_ij            (*)

where A_i = g(q - l_1 .. - l_i) - g(q - l_1 .. - l_(i-1)), B_j is the mirror image, and D_ij is the second
difference of g at position less sold plus bought. A market order of ours of n lots comes first: it costs
its half-spread a lot and moves q by n.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from policies.solver.best_pair import reply


@njit(cache=True)
def _replies(first, second, kappa, top, out):
    """Distances in [0, top], none nearer than the one before, that maximise the sum over levels of
    exp(-kappa d_i) (first_i d_i + second_i).

    Each summand rises to its best distance and falls after it, and sums of several have the same form: where
    two neighbours would be out of order, both are at the best of their sum (pool adjacent violators).
    """
    levels, blocks = len(first), 0
    starts = np.empty(levels + 1, np.int64)
    sums = np.empty((levels, 2))
    at = np.empty(levels)
    for i in range(levels):
        starts[blocks], sums[blocks, 0], sums[blocks, 1] = i, first[i], second[i]
        at[blocks] = reply(first[i], second[i], kappa, top)
        blocks += 1
        while blocks > 1 and at[blocks - 2] > at[blocks - 1]:
            sums[blocks - 2] += sums[blocks - 1]
            blocks -= 1
            at[blocks - 1] = reply(sums[blocks - 1, 0], sums[blocks - 1, 1], kappa, top)
    starts[blocks] = levels
    for block in range(blocks):
        out[starts[block] : starts[block + 1]] = at[block]


@njit(cache=True)
def _cut(lots, room, out):
    """The lots of each level that `room` allows, the first levels first."""
    for i in range(len(lots)):
        out[i] = min(lots[i], room)
        room -= out[i]


@njit(cache=True)
def _coefficients(g, at, sold, bought, p, a, b, d):
    """p A_i, p B_j and p^2 D_ij of (*) at index `at` of the positions."""
    levels = len(sold)
    down = 0
    for i in range(levels):
        a[i] = p * (g[at - down - sold[i]] - g[at - down])
        up = 0
        for j in range(levels):
            if i == 0:
                b[j] = p * (g[at + up + bought[j]] - g[at + up])
            after, before = at - down - sold[i], at - down
            far, near = up + bought[j], up
            d[i, j] = p * p * (g[after + far] - g[before + far] - g[after + near] + g[before + near])
            up += bought[j]
        down += sold[i]


@njit(cache=True)
def _worth(ask, bid, sold, bought, p, a, b, d, kappa):
    """What quotes add to g in (*)."""
    worth = 0.0
    for i in range(len(ask)):
        u = math.exp(-kappa * ask[i])
        worth += u * (p * sold[i] * ask[i] + a[i])
        worth += math.exp(-kappa * bid[i]) * (p * bought[i] * bid[i] + b[i])
        for j in range(len(bid)):
            worth += u * math.exp(-kappa * bid[j]) * d[i, j]
    return worth


@njit(cache=True)
def _settle(ask, bid, sold, bought, p, a, b, d, kappa, top):
    """Alternate the best replies of the two sides, in place, until they stay; none lowers the worth."""
    levels = len(ask)
    second, new = np.empty(levels), np.empty(levels)
    for _ in range(1000):
        change = 0.0
        for i in range(levels):
            second[i] = a[i]
            for j in range(levels):
                second[i] += math.exp(-kappa * bid[j]) * d[i, j]
        _replies(p * sold, second, kappa, top, new)
        for i in range(levels):
            change += abs(new[i] - ask[i])
            ask[i] = new[i]
        for j in range(levels):
            second[j] = b[j]
            for i in range(levels):
                second[j] += math.exp(-kappa * ask[i]) * d[i, j]
        _replies(p * bought, second, kappa, top, new)
        for j in range(levels):
            change += abs(new[j] - bid[j])
            bid[j] = new[j]
        if change < 1e-12:
            break
    return _worth(ask, bid, sold, bought, p, a, b, d, kappa)


@njit(cache=True)
def orders_back(g, tables, sizes, taker_lots, taker_cost, fixed, p, kappa, top):
    """Values one step earlier, (positions,), from g, (positions,); unless `fixed`, the best orders go into
    `tables`.

    Parameters
    ----------
    tables
        Of this step: distances of ask and bid, (positions, levels); which row of `sizes` each side quotes,
        int (positions,); lots of the market order, int (positions,).
    sizes
        Lots of each level that a side may choose, int (choices, levels).
    """
    ask, bid, ask_size, bid_size, taker = tables
    positions, (choices, levels) = len(g), sizes.shape
    value = np.empty(positions)
    sold, bought = np.empty(levels, np.int64), np.empty(levels, np.int64)
    a, b, d = np.empty(levels), np.empty(levels), np.empty((levels, levels))
    asks, bids = np.empty(levels), np.empty(levels)
    for q in range(positions):
        best = -math.inf
        lowest, highest = (taker[q], taker[q]) if fixed else (-taker_lots, taker_lots)
        for lots in range(lowest, highest + 1):
            at = q + lots
            if not 0 <= at < positions:
                continue
            for x in range(choices):
                for y in range(choices):
                    if fixed and (x != ask_size[q] or y != bid_size[q]):
                        continue
                    # The quote that a market order would trade with is not made, whatever its size.
                    if not fixed and ((lots > 0 and x > 0) or (lots < 0 and y > 0)):
                        continue
                    _cut(sizes[x], at if lots <= 0 else 0, sold)
                    _cut(sizes[y], positions - 1 - at if lots >= 0 else 0, bought)
                    _coefficients(g, at, sold, bought, p, a, b, d)
                    base = g[at] - abs(lots) * taker_cost
                    if fixed:
                        value[q] = base + _worth(ask[q], bid[q], sold, bought, p, a, b, d, kappa)
                        continue
                    for start in (top, 0.5 * top, 0.0):
                        asks[:], bids[:] = top, start
                        found = base + _settle(asks, bids, sold, bought, p, a, b, d, kappa, top)
                        if found > best:
                            best, taker[q], ask_size[q], bid_size[q] = found, lots, x, y
                            ask[q], bid[q] = asks, bids
                        if lots != 0:
                            break  # one side alone: its reply is the best
        if not fixed:
            value[q] = best
    return value
