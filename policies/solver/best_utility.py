"""The pair of distances with the best certainty equivalent (`policies.solver.utility`), in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def _log_add(x, y):
    """log(exp(x) + exp(y)), either of which may be -inf."""
    most = max(x, y)
    return most if most == -math.inf else most + math.log(math.exp(x - most) + math.exp(y - most))


@njit(cache=True)
def _fill(distance, allowed, arrival, kappa):
    """Logarithms of the chances that a side is filled, and that it is not."""
    u = arrival * math.exp(-kappa * distance) if allowed else 0.0
    return (math.log(u) if u > 0.0 else -math.inf), (math.log1p(-u) if u < 1.0 else -math.inf)


@njit(cache=True)
def _log_loss(a, b, down, up, gamma, arrival, kappa):
    """log L of `policies.solver.utility`; `down` and `up` are -gamma (g(q -+ 1) - g(q)), inf: not allowed.

    In logarithms, because far from 0 the utility of a position may be beyond what a number holds: above some
    q no quote sheds it as fast as its expected disutility grows.
    """
    u, not_u = _fill(a, down < math.inf, arrival, kappa)
    v, not_v = _fill(b, up < math.inf, arrival, kappa)
    one = _log_add(not_u + not_v, u + v - gamma * (a + b))
    sold = u + not_v - gamma * a + down if u > -math.inf else -math.inf
    bought = not_u + v - gamma * b + up if v > -math.inf else -math.inf
    return _log_add(one, _log_add(sold, bought))


@njit(cache=True)
def _reply(other, own_move, other_move, gamma, arrival, kappa, top):
    """The distance of a side that makes L least, given the distance of the other side.

    L falls in the distance up to exp(gamma a) = (1 + gamma / kappa) X / Y, where X and Y are what follows
    with this side filled and with it not filled, and rises after it.
    """
    if own_move == math.inf:
        return top
    v, not_v = _fill(other, other_move < math.inf, arrival, kappa)
    x = _log_add(not_v + own_move, v - gamma * other)
    y = _log_add(not_v, v - gamma * other + other_move) if v > -math.inf else not_v
    return min(max((math.log1p(gamma / kappa) + x - y) / gamma, 0.0), top)


@njit(cache=True)
def step_back(g, ask, bid, fixed, gamma, arrival, kappa, top):
    """Certainty equivalents one step earlier, (positions,); unless `fixed`, the best quotes go into ask, bid.

    Best replies alternate from three starts, for they need not be a contraction; no reply makes L larger.
    """
    value = np.empty_like(g)
    last = len(g) - 1
    for j in range(last + 1):
        down = -gamma * (g[j - 1] - g[j]) if j > 0 else math.inf
        up = -gamma * (g[j + 1] - g[j]) if j < last else math.inf
        if fixed:
            least = _log_loss(ask[j], bid[j], down, up, gamma, arrival, kappa)
        else:
            least = math.inf
            for start in (top, 0.0, 0.5 * top):
                a, b = top, start
                for _ in range(1000):
                    new_a = _reply(b, down, up, gamma, arrival, kappa, top)
                    new_b = _reply(new_a, up, down, gamma, arrival, kappa, top)
                    change = abs(new_a - a) + abs(new_b - b)
                    a, b = new_a, new_b
                    if change < 1e-12:
                        break
                loss = _log_loss(a, b, down, up, gamma, arrival, kappa)
                if loss < least:
                    least, ask[j], bid[j] = loss, a, b
        value[j] = g[j] - least / gamma
    return value
