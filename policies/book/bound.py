"""An upper bound on the money of every policy: what knowing the future is worth, less a penalty that is fair.

Information relaxation (Brown, Smith and Sun 2010). Let F_t be all that there is to know at decision t, hidden
state included, and let a policy pay, in each decision, a penalty whose mean given F_t is
zero. Its value stays. One who knows the future and pays the same penalties earns at least as much on every
path; the mean of that is the bound, whatever the penalty. The better the penalty takes back what foresight
gains, the tighter it is:

1. position x innovation of the efficient price: fills count at the efficient price of the decision's end, and
   the future of the price is worth nothing;
2. what a fill changes the last position by x the last mispricing less its mean given what is known at the end
   of the fill's decision, for the last position is valued at the mid;
3. of each side's order, X - E[X | F_t], where X is what it earns in the decision plus the told programme's
   value of the place and market it comes to.

Both means are estimated by redrawing the future K times from the state. Given the state the estimates are
independent of what comes and right on average, so that the penalties have mean zero for every K, and the
bound holds for every K; noise only loosens it.

The sides are told apart: neither the position limit nor the penalties on the position are in the bound.
docs/bounds.md has the proof. The market's `exact_impact` is needed: without it the efficient price is no
martingale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmenv.checks import require
from mmenv.engine.state import LANES
from policies.book.orders import CHARGED, ONE_BEHIND, PLACES, Terms, between, charge, micro, terms_of, view
from policies.book.paths import (
    MOST_AHEAD,
    ROW,
    Paths,
    advance,
    compiled,
    decision,
    extent,
    redraw,
    require_book,
    start,
    workspace,
)
from policies.book.programme import GAP_NODES, NODES_FOR, OTHER_NODES, OWN_NODES, gap, node, nodes_near, worth

REDRAWS = 128
"""K, one block of lanes."""
CASES = len(CHARGED) + 2
"""Orders that have a penalty: none, a fresh one a tick behind the touch, those at the touch behind `CHARGED`
lots."""
SETTLED = 15
"""The last mispricing is redrawn at each of the last seconds, so many (or decisions, if these are longer); a
fill takes the mean at the next one."""


def fill_values(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The told programme's values, (nodes, PLACES), with nodes and places never met taken from their
    neighbours."""
    grid = np.where(seen, values, np.nan).reshape(len(GAP_NODES), len(OWN_NODES), len(OTHER_NODES), 2, PLACES)
    for _ in range(sum(grid.shape)):
        for axis in (4, 0, 1, 2, 3):
            for shift in (1, -1):
                moved = np.roll(grid, shift, axis)
                edge = [slice(None)] * 5
                edge[axis] = slice(0, 1) if shift == 1 else slice(-1, None)
                moved[tuple(edge)] = np.nan
                grid = np.where(np.isnan(grid), moved, grid)
    return np.ascontiguousarray(np.nan_to_num(grid).reshape(-1, PLACES).astype(np.float64))


@compiled
def _values_at(values, row, side, scale, held):
    """The values of all places at a market's state, interpolated between nodes, into `held`."""
    (a, b, c), (wa, wb, wc), against = nodes_near(row, side, scale)
    held[:] = 0
    for i in range(2):
        for j in range(2):
            for k in range(2):
                weight = (wa if i else 1 - wa) * (wb if j else 1 - wb) * (wc if k else 1 - wc)
                at = node(a + i, b + j, c + k, against)
                for place in range(PLACES):
                    held[place] += weight * values[at, place]


@compiled
def _outcome(rows, side, price, ahead, held, terms):
    """X of an order through a decision's rows: worth of its fill, and value of where it comes to."""
    end = rows[terms.substeps]
    for k in range(terms.substeps):
        taken, ahead = micro(rows[k], rows[k + 1], side, price, 1, ahead, terms.depth)
        if taken > 0:
            return worth(side, price, end, terms) + held[0]
    behind = side * (price - view(end, side)[0])
    if behind > 0:
        return held[ONE_BEHIND + (behind > 1)]
    k, weight = between(ahead, CHARGED)
    return (1 - weight) * held[1 + k] + weight * held[2 + k]


@compiled
def _outcomes(rows, side, values, scale, held, terms, into):
    """X of every case, added to `into`."""
    _values_at(values, rows[terms.substeps], side, scale, held)
    touch, queue, _, _, _, _ = view(rows[0], side)
    into[0] += held[0]
    into[1] += _outcome(rows, side, touch + side, terms.depth, held, terms)
    x = 0.0
    for k in range(CHARGED.shape[0]):
        if k == 0 or CHARGED[k - 1] < queue:
            x = _outcome(rows, side, touch, min(int(CHARGED[k]), queue), held, terms)
        into[2 + k] += x


@compiled
def _surprises(own, other, rows, values, scale, terms, horizon, redraws, inner, charges, settle, apart):
    """X less the mean of its redraws, for every decision, side and case of a block's paths; and the mean of
    the last mispricing from decisions on that are `apart`."""
    held, mean, now = np.zeros(PLACES), np.zeros((2, CASES)), np.zeros(CASES)
    for t in range(horizon):
        for i in range(rows.shape[0]):
            redraw(own, i, other, redraws, t, terms.substeps, terms.start, inner)
            mean[:] = 0
            for j in range(redraws):
                for s in range(2):
                    _outcomes(inner[:, j], 1 - 2 * s, values, scale, held, terms, mean[s])
            if (horizon - t) % apart == 0 and horizon - t <= SETTLED * apart:
                for later in range(t + 1, horizon):
                    decision(other, redraws, later, terms.substeps, terms.start, inner)
                for j in range(redraws):
                    end = inner[terms.substeps, j]
                    settle[i, t] += (end.price - np.float32(end.ask + end.bid)) / redraws
            part = rows[i, t * terms.substeps : (t + 1) * terms.substeps + 1]
            for s in range(2):
                now[:] = 0
                _outcomes(part, 1 - 2 * s, values, scale, held, terms, now)
                for k in range(CASES):
                    charges[i, t, s, k] = now[k] - mean[s, k] / redraws
        advance(own, rows.shape[0], t, terms.substeps)


@compiled
def _hindsight(rows, side, charges, settle, terms, reach, before, grid, next_grid):
    """The most that one side can earn on a path by orders chosen in hindsight, less their penalties.

    grid[before + d, a] is the value of an order d ticks behind the touch (d < 0: before it) behind a lots, as
    the recursion goes back through the micro-steps; a row at the end is never used by an order in reach.
    """
    none = 0.0
    grid[:] = 0
    farthest = grid.shape[0] - 1 - before
    for m in range(rows.shape[0] - 2, -1, -1):
        t = m // terms.substeps
        row, after, end = rows[m], rows[m + 1], rows[(t + 1) * terms.substeps]
        touch, queue, opposite, _, volume, cancel = view(row, side)
        new_touch, new_queue, new_opposite, _, _, _ = view(after, side)
        moved = new_touch != touch or new_opposite != opposite or new_queue < queue
        if moved or volume > 0 or cancel > 0:
            # Behind the touch nothing happens while it stays and the market order does not get through it.
            still = new_touch == touch and new_opposite == opposite and volume <= queue
            last = 0 if still else farthest
            for d in range(-before, last + 1):
                price = touch + side * d
                d_next = d + side * (touch - new_touch)
                gain = worth(side, price, end, terms) + side * settle[t + 1] + none
                for a in range(queue + 1 if d == 0 else (grid.shape[1] if d > 0 else 1)):
                    taken, ahead = micro(row, after, side, price, 1, a, terms.depth)
                    if taken > 0:
                        next_grid[before + d, a] = gain
                    else:
                        at = min(max(before + d_next, 0), grid.shape[0] - 1)
                        next_grid[before + d, a] = grid[at, ahead]
            for d in range(-before, last + 1):
                for a in range(queue + 1 if d == 0 else (grid.shape[1] if d > 0 else 1)):
                    grid[before + d, a] = next_grid[before + d, a]
        if m % terms.substeps == 0:
            best = none = none - charges[t, 0]
            for d in range(-before, farthest + 1):
                price = touch + side * d
                for a in range(queue + 1 if d == 0 else (grid.shape[1] if d > 0 else 1)):
                    grid[before + d, a] -= charge(charges[t], row, side, price, 1, a)
                standing = side * (2 * price - row.ask - row.bid) <= reach and side * (price - opposite) > 0
                fresh = queue if d == 0 else (terms.depth if d > 0 else 0)
                if standing:
                    best = max(best, grid[before + d, fresh])
            for d in range(-before, farthest + 1):
                standing = side * (2 * (touch + side * d) - row.ask - row.bid) <= reach
                for a in range(grid.shape[1]):
                    grid[before + d, a] = max(grid[before + d, a], best) if standing else best
            none = best
    return none


@dataclass(frozen=True)
class Bound:
    """The bound on each path."""

    value: np.ndarray
    """float64 (paths,), price units x lots: its mean is above the mean money of every policy."""
    charges: tuple[np.ndarray, np.ndarray]
    """The penalties float32 (paths, horizon, 2, CASES), and what a lot sold by a decision gains at the end
    besides the efficient price: the mean of the last mispricing, float64 (paths, horizon + 1); half-ticks.
    `policies.book.orders.play` takes them."""


def bound(
    paths: Paths,
    values: np.ndarray,
    *,
    redraws: int = REDRAWS,
    note: Callable[[int], Any] = lambda paths: None,
) -> Bound:
    """The upper bound.

    Parameters
    ----------
    values
        The told programme's, from `fill_values`; with zeros the third penalty is of the fills alone.
    note
        Hears of each block of paths that is done.

    Raises
    ------
    ConfigError
        Where the market's efficient price is no martingale, or its queues are too long.
    """
    market, terms = require_book(paths.config), terms_of(paths.config)
    require(market.exact_impact, "Book", "exact_impact", False, "true for an upper bound")
    require(1 <= redraws <= LANES, "bound", "redraws", redraws, f"1 to {LANES}")
    n, horizon = len(paths.rows), paths.config.horizon
    charges = np.zeros((n, horizon, 2, CASES), np.float32)
    settle = np.zeros((n, horizon + 1))
    inner, other = np.zeros((terms.substeps + 1, LANES), ROW), workspace(market)
    apart = max(round(1 / market.step_seconds), 1)
    scale = market.queue / NODES_FOR
    for block, own in enumerate(start(market, paths.seeds)):
        part = slice(block * LANES, (block + 1) * LANES)
        rows = paths.rows[part]
        into = charges[part], settle[part], apart
        _surprises(own, other, rows, values, scale, terms, horizon, redraws, inner, *into)
        note(len(rows))
    settle[:, horizon] = gap(paths)[:, horizon]
    left = np.arange(horizon, -1, -1)
    settle[:] = settle[:, horizon - np.minimum(left // apart, SETTLED) * apart]
    value = np.array(
        [_hindsight_path(*each, terms) for each in zip(paths.rows, charges, settle, strict=True)]
    )
    return Bound(value / market.price_scale, (charges, settle))


def _hindsight_path(rows: np.ndarray, charges: np.ndarray, settle: np.ndarray, terms: Terms) -> float:
    """Both sides of one path, on a grid that holds every order there can be on it."""
    spread, queue, moved = extent(rows, terms.substeps)
    require(queue < MOST_AHEAD, "Book", "queue", queue, f"below {MOST_AHEAD} lots for an upper bound")
    behind = int(min(terms.reach, 1e6)) // 2 + 1 + moved
    before = spread + moved
    grid = np.zeros((before + behind + 1, max(queue, terms.depth) + 2))
    next_grid = grid.copy()
    return sum(
        _hindsight(rows, side, charges[:, s], settle, terms, terms.reach, before, grid, next_grid)
        for s, side in enumerate((1, -1))
    )
