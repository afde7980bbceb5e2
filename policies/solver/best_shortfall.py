"""The best pair of distances for mean less shortfall (`policies.solver.shortfall`), in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def _at(row, place):
    """`row` at a place between its points, linear beyond the ends."""
    k = min(max(math.floor(place), 0), len(row) - 2)
    return row[k] + (place - k) * (row[k + 1] - row[k])


@njit(cache=True)
def _worth(ask, bid, u, v, here, sold, bought, both):
    """Of quoting the distances number `ask` and `bid`."""
    stay = (1 - u[ask]) * (1 - v[bid]) * here + u[ask] * v[bid] * both[ask + bid]
    return stay + u[ask] * (1 - v[bid]) * sold[ask] + (1 - u[ask]) * v[bid] * bought[bid]


@njit(cache=True)
def _best_pair(u, v, here, sold, bought, both):
    """The best value, and the numbers of its distances: best replies alternate until neither side changes."""
    ask = bid = len(u) - 1
    value, before = _worth(ask, bid, u, v, here, sold, bought, both), -math.inf
    while value > before:
        before = value
        for new in range(len(u)):
            tried = _worth(new, bid, u, v, here, sold, bought, both)
            if tried > value:
                ask, value = new, tried
        for new in range(len(v)):
            tried = _worth(ask, new, u, v, here, sold, bought, both)
            if tried > value:
                bid, value = new, tried
    return value, ask, bid


@njit(cache=True)
def _of_quotes(g, j, i, ask, bid, grid, arrival, kappa):
    """Value of given distances at position j and wealth i."""
    u = arrival * math.exp(-kappa * ask) if j > 0 else 0.0
    v = arrival * math.exp(-kappa * bid) if j < len(g) - 1 else 0.0
    value = (1 - u) * (1 - v) * g[j, i] + u * v * _at(g[j], i + (ask + bid) / grid)
    if j > 0:
        value += u * (1 - v) * _at(g[j - 1], i + ask / grid)
    if j < len(g) - 1:
        value += (1 - u) * v * _at(g[j + 1], i + bid / grid)
    return value


@njit(cache=True)
def step_back(g, ask, bid, fixed, grid, tick, arrival, kappa, top):
    """Values one step earlier, (positions, W); unless `fixed`, the best quotes go into ask and bid."""
    value, last = np.empty_like(g), len(g) - 1
    count = math.floor(top / tick + 1e-9) + 1
    far = np.arange(2 * count - 1) * tick
    chance, none = arrival * np.exp(-kappa * far[:count]), np.zeros(count)
    sold, bought, both = np.zeros(count), np.zeros(count), np.empty(2 * count - 1)
    for j in range(last + 1):
        for i in range(g.shape[1]):
            if fixed:
                value[j, i] = _of_quotes(g, j, i, ask[j, i], bid[j, i], grid, arrival, kappa)
                continue
            for k in range(2 * count - 1):
                both[k] = _at(g[j], i + far[k] / grid)
            for k in range(count):
                sold[k] = _at(g[max(j - 1, 0)], i + far[k] / grid)
                bought[k] = _at(g[min(j + 1, last)], i + far[k] / grid)
            u, v = chance if j > 0 else none, chance if j < last else none
            value[j, i], k, m = _best_pair(u, v, g[j, i], sold, bought, both)
            ask[j, i], bid[j, i] = far[k], far[m]
    return value
