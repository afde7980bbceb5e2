"""Quotes that are best for several markets at once (`policies.solver.blind_family`), in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def coefficients(value, drift, cost, arrival):
    """A1, A, B, D and base of (*) in `policies.solver.chain`, (members, 5, positions): A1 is B1 here.

    `value` is that of the next step, (members, positions); `drift` the move of the mid in a step, against
    the position at the decision, and `arrival` the chance of an order, of each member; `cost` that of a step
    by position.
    """
    members, width = value.shape
    found = np.zeros((members, 5, width))
    for m in range(members):
        g = value[m] - cost
        for q in range(width):
            held = q - width // 2
            against = drift[m] * ((held > 0) - (held < 0))
            down = g[q - 1] - g[q] + against if q > 0 else 0.0
            up = g[q + 1] - g[q] - against if q < width - 1 else 0.0
            found[m, 0, q], found[m, 1, q], found[m, 2, q] = arrival[m], down, up
            found[m, 3, q], found[m, 4, q] = -(down + up), g[q] - against * held
    return found


@njit(cache=True)
def worth(c, q, width, ask, bid, kappa):
    """Value at position `q` of quoting these distances where the coefficients are `c`, (5, positions)."""
    u = c[0, q] * math.exp(-kappa * ask) if q > 0 else 0.0
    v = c[0, q] * math.exp(-kappa * bid) if q < width - 1 else 0.0
    return c[4, q] + u * (ask + c[1, q]) + v * (bid + c[2, q]) + u * v * c[3, q]


@njit(cache=True)
def step_back(value, ask, bid, drift, cost, arrival, kappas):
    """Values of each member one step earlier under quotes by position, (members, positions)."""
    c = coefficients(value, drift, cost, arrival)
    before = np.empty_like(value)
    for m in range(len(value)):
        for q in range(value.shape[1]):
            before[m, q] = worth(c[m], q, value.shape[1], ask[q], bid[q], kappas[m])
    return before


@njit(cache=True)
def _reply(now, allowed, scale, gain, reach, far):
    """Number of the distance d at which the sum over members of scale x exp(-kappa d) (d + gain) is largest:
    `now`, unless another earns more."""
    best, most = now, -math.inf
    if not allowed:
        return best
    for turn in range(len(far) + 1):
        k = now if turn == 0 else turn - 1
        total = 0.0
        for m in range(len(scale)):
            total += scale[m] * reach[m, k] * (far[k] + gain[m])
        if turn == 0 or total > most + 1e-13 * abs(most):
            best, most = k, total
    return best


@njit(cache=True)
def improve(value, ask, bid, weights, drift, cost, arrival, kappas, tick, top):
    """Put into `ask` and `bid`, (positions,), multiples of `tick` that earn no less on members weighted by
    `weights`, (members, positions): each side's best reply to the other, until neither changes."""
    c = coefficients(value, drift, cost, arrival)
    width = value.shape[1]
    far = np.arange(math.floor(top / tick + 1e-9) + 1) * tick
    reach = np.exp(-np.outer(kappas, far))
    for q in range(width):
        k, b = round(ask[q] / tick), round(bid[q] / tick)
        may_sell, may_buy = q > 0, q < width - 1
        scale = weights[:, q] * c[:, 0, q]
        while True:
            bought = c[:, 0, q] * reach[:, b] * may_buy
            new_k = _reply(k, may_sell, scale, c[:, 1, q] + bought * c[:, 3, q], reach, far)
            sold = c[:, 0, q] * reach[:, new_k] * may_sell
            new_b = _reply(b, may_buy, scale, c[:, 2, q] + sold * c[:, 3, q], reach, far)
            if new_k == k and new_b == b:
                break
            k, b = new_k, new_b
        ask[q], bid[q] = far[k], far[b]


@njit(cache=True)
def step_forward(now, ask, bid, arrival, kappas):
    """Chance of each position after a step, (members, positions), from that before it."""
    after = np.zeros_like(now)
    members, width = now.shape
    for m in range(members):
        for q in range(width):
            u = arrival[m] * math.exp(-kappas[m] * ask[q]) if q > 0 else 0.0
            v = arrival[m] * math.exp(-kappas[m] * bid[q]) if q < width - 1 else 0.0
            p = now[m, q]
            down, up = p * u * (1 - v), p * v * (1 - u)
            after[m, q] += p - down - up
            if q > 0:
                after[m, q - 1] += down
            if q < width - 1:
                after[m, q + 1] += up
    return after
