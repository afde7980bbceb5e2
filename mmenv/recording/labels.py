"""Labels: what a recorded path says about its own future. For training only, never an observation.

All functions take the flat columns of a `mmenv.recording.windows.Recording`: row r is a decision, sequence i
has the rows first[i] ... first[i + 1] - 1, prices are half-ticks, horizons are decisions. The label of row r
is made of rows r + 1 ... r + horizon of the same sequence, and is NaN where that has not so many rows left.
"""

from __future__ import annotations

import numpy as np
from numba import njit

Array = np.ndarray


def require_horizon(horizon: int) -> None:
    if not isinstance(horizon, int) or horizon < 1:
        raise ValueError(f"horizon = {horizon!r} is not possible: it must be a number of decisions from 1.")


def rows_left(first: Array) -> Array:
    """Rows that follow each row in its sequence, int64 (R,)."""
    lengths = np.diff(first)
    return np.repeat(first[1:] - 1, lengths) - np.arange(first[-1])


def price_change(mid: Array, first: Array, horizon: int) -> Array:
    """Move of the mid over the next `horizon` decisions, half-ticks, float64 (R,)."""
    require_horizon(horizon)
    change = np.full(len(mid), np.nan)
    change[:-horizon] = mid[horizon:].astype(np.int64) - mid[:-horizon]
    change[rows_left(first) < horizon] = np.nan
    return change


def realised_volatility(mid: Array, first: Array, horizon: int) -> Array:
    """Root mean square of the next `horizon` moves of the mid, half-ticks per decision, float64 (R,).

    The square root of realised variance (Andersen, Bollerslev, Diebold and Labys 2003) per decision.
    """
    require_horizon(horizon)
    squares = np.diff(mid.astype(np.int64), prepend=mid[0]) ** 2
    squares[first[:-1]] = 0
    return np.sqrt(_next_sum(squares.astype(np.float64), first, horizon) / horizon)


def _next_sum(values: Array, first: Array, horizon: int) -> Array:
    """Sum of `values` in the next `horizon` rows, float64 (R,). Exact for integers below 2^53."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    result = np.full(len(values), np.nan)
    result[:-horizon] = total[horizon + 1 :] - total[1:-horizon]
    result[rows_left(first) < horizon] = np.nan
    return result


def adverse_move(mid: Array, fills: Array, first: Array, horizon: int, side: int) -> Array:
    """How far the mid goes against our fill, from the decision that quoted it, half-ticks, float64 (R,).

    Row r looks at the quote of that decision: `fills`, lots (R,), of row r + 1 are its fills. NaN where it
    was not filled. `side` is +1 for our ask, -1 for our bid.
    """
    move = side * price_change(mid, first, horizon)
    move[:-1][fills[1:] == 0] = np.nan
    return move


def markout_cost(mid: Array, fills: Array, edge: Array, first: Array, horizon: int, side: int) -> Array:
    """What a lot filled in the next step has lost after `horizon` decisions, half-ticks, float64 (R,).

    The adverse-selection cost of our quote: the adverse move less the distance at which it was filled.
    `edge`, (R,), is the sum over the fills of lots x distance from the mid at the decision. A fill is
    *adverse* where the cost is above zero.
    """
    cost = adverse_move(mid, fills, first, horizon, side)
    cost[:-1] -= edge[1:] / np.maximum(fills[1:], 1)
    return cost


def optimal_half_spread(
    mid: Array,
    ask_fills: Array,
    bid_fills: Array,
    first: Array,
    *,
    horizon: int,
    window: int,
    fill_decay: float,
    low: float,
    high: float,
) -> Array:
    """The half-spread that would have earned most in the next `window` decisions, float64 (R,).

    A lot quoted at distance d fills at the rate A exp(-k d) and then loses the mid's adverse move c: its
    expected profit per unit of time is A exp(-k d) (d - c), whose maximum is where

        d - c = 1 / k,    so    d* = 1 / k + c.

    This is the first-order condition of Avellaneda and Stoikov (2008), eq. (26), with no risk aversion
    (1/gamma log(1 + gamma/k) -> 1/k; the same term in Gueant, Lehalle and Fernandez-Tapia 2013), with the
    cost of being picked off added as in Cartea, Jaimungal and Penalva (2015), section 10.4. Here c is the
    mean mark-out of the fills of the window, `horizon` decisions after each quote. As d* is linear in c, the
    forecast that maximises expected profit is the conditional *mean* of this label: squared error is its
    proper loss.

    `fill_decay` is the fitted k, per price unit of `mid`. NaN where the window has no fill. The label needs
    rows up to r + window + horizon - 1. It is clipped to [low, high], the quotes that can be made.
    """
    require_horizon(window)
    total, count = np.zeros(len(mid)), np.zeros(len(mid))
    for fills, side in ((ask_fills, 1), (bid_fills, -1)):
        cost = adverse_move(mid, fills, first, horizon, side)
        # A fill belongs to the row in which it is seen; its quote was made one row before.
        seen = np.isfinite(cost[:-1])
        total[1:] += np.where(seen, cost[:-1], 0.0)
        count[1:] += seen
    fills_ahead = _next_sum(count, first, window)
    mean = _next_sum(total, first, window) / np.where(fills_ahead > 0, fills_ahead, np.nan)
    mean[rows_left(first) < window + horizon - 1] = np.nan
    return np.clip(mean + 1 / fill_decay, low, high)


def position_signal(
    mid: Array, first: Array, *, horizon: int, levels: int, cost: float, penalty: float, start: Array
) -> Array:
    """The inventory that who knows the next `horizon` moves would take now, in [-1, 1], float64 (R,).

    With moves m and inventories q in {-1, ..., 1} (2 levels + 1 of them), starting from `start`, (R,), it
    maximises the sum over the horizon of

        q m - penalty q^2 - cost |q - q before|

    by dynamic programming backwards over the known path; the label is its first inventory. `cost`
    (half-ticks, what it takes to trade) keeps it from chasing every move, `penalty` (half-ticks) from holding
    what gains little.
    """
    require_horizon(horizon)
    if levels < 1 or cost < 0 or penalty < 0:
        raise ValueError(
            f"levels = {levels}, cost = {cost}, penalty = {penalty} are not possible: they must be at least "
            "1, 0 and 0."
        )
    moves = np.diff(mid.astype(np.int64), prepend=mid[0]).astype(np.float64)
    return np.asarray(_best_inventory(moves, rows_left(first), start, horizon, levels, cost, penalty))


@njit(cache=True)
def _best_inventory(moves, left, start, horizon, levels, cost, penalty):
    rows, states = len(moves), 2 * levels + 1
    best = np.full(rows, np.nan)
    value = np.zeros(states)
    step_cost = cost / levels
    for r in range(rows):
        if left[r] < horizon:
            continue
        value[:] = 0.0
        for t in range(horizon, 0, -1):
            # value: of holding q from here on, without what it takes to come to q.
            for j in range(states):
                q = (j - levels) / levels
                value[j] += q * moves[r + t] - penalty * q * q
            if t > 1:
                # Best over the next inventory less cost x distance: two sweeps, as for any linear cost.
                for j in range(1, states):
                    value[j] = max(value[j], value[j - 1] - step_cost)
                for j in range(states - 2, -1, -1):
                    value[j] = max(value[j], value[j + 1] - step_cost)
        chosen, most = 0, -np.inf
        for j in range(states):
            q = (j - levels) / levels
            worth = value[j] - cost * abs(q - start[r])
            nearer = abs(q - start[r]) < abs((chosen - levels) / levels - start[r])
            if worth > most or (worth == most and nearer):
                chosen, most = j, worth
        best[r] = (chosen - levels) / levels
    return best
