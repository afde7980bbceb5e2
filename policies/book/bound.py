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
3. of each side's order, X - E[X | F_t], where X is what it earns in the decision plus H of the place and
   market it comes to, a guess of what it is worth there: `policies.book.penalty`.

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
from policies.book.orders import CASES, charge, meet, terms_of, view
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
from policies.book.penalty import PLACED, SEEN, add_parts, add_values, outcomes
from policies.book.programme import gap, worth

REDRAWS = 128
"""K, one block of lanes."""
SETTLED = 15
"""The last mispricing is redrawn at each of the last seconds, so many (or decisions, if these are longer); a
fill takes the mean at the next one."""


@compiled
def _surprises(own, other, rows, coefficients, terms, horizon, redraws, inner, charges, parts, settle, apart):
    """X less the mean of its redraws, for every decision, side and case of a block's paths: into `charges`,
    or into `parts` by coefficient where there is room; and the mean of the last mispricing from decisions on
    that are `apart`."""
    seen, gains, placed = np.zeros(SEEN), np.zeros(CASES), np.zeros((CASES, PLACED))
    h, total = np.zeros(PLACED), np.zeros(CASES)
    apiece = np.zeros((CASES, 1 + SEEN * PLACED))
    for t in range(horizon):
        for i in range(rows.shape[0]):
            redraw(own, i, other, redraws, t, terms.substeps, terms.start, inner)
            part = rows[i, t * terms.substeps : (t + 1) * terms.substeps + 1]
            for s in range(2):
                total[:], apiece[:] = 0, 0
                for j in range(redraws + 1):
                    weight = 1.0 if j == redraws else -1 / redraws
                    if j == redraws:
                        outcomes(part, 1 - 2 * s, terms, seen, gains, placed)
                    else:
                        outcomes(inner[:, j], 1 - 2 * s, terms, seen, gains, placed)
                    if len(parts):
                        add_parts(seen, gains, placed, weight, apiece)
                    else:
                        add_values(seen, gains, placed, coefficients, weight, h, total)
                if len(parts):
                    parts[i, t, s] = apiece
                else:
                    charges[i, t, s] = total
            if (horizon - t) % apart == 0 and horizon - t <= SETTLED * apart:
                for later in range(t + 1, horizon):
                    decision(other, redraws, later, terms.substeps, terms.start, inner)
                for j in range(redraws):
                    end = inner[terms.substeps, j]
                    settle[i, t] += (end.price - np.float32(end.ask + end.bid)) / redraws
        advance(own, rows.shape[0], t, terms.substeps)


@compiled
def _passed(row, after, side, price, ahead, first, orders, gain, depth, values):
    """What a lot is worth before a micro-step behind `first` of our lots; `values` (lots of ours
    ahead, lots ahead) are those after it at its price, `gain` is what it earns where it is filled.

    With several orders a side, any of the lots of ours may be nearer ones that the market order takes first.
    """
    best = -np.inf
    volume = view(row, side)[4]
    for met in range(1 + (min(first, volume) if orders > 1 else 0)):
        rest = first - met
        _, taken, after_ahead = meet(row, after, side, price, rest + 1, ahead, depth, met, 0)
        best = max(best, gain if taken > rest else values[rest - taken, after_ahead])
    return best


@compiled
def hindsight(rows, side, charges, settle, terms, orders, before, grid, spare, kept):
    """The most that one lot of a side can earn on a path by orders chosen in hindsight, less its penalties.

    grid[before + d, m, a] is the value of a lot d ticks behind the touch (d < 0: before it) behind a lots of
    the others and m of ours, as the recursion goes back through the micro-steps; a row at the end is never
    used by an order in the box. At each decision m is what suits it best. `orders` is how many a side can
    have: with more than one, lots of ours that were ahead may be gone at any time. `kept`, (horizon,
    *grid.shape) or empty, takes what it is after each decision.
    """
    none, most = 0.0, grid.shape[1]
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
                values = grid[min(max(before + d_next, 0), grid.shape[0] - 1)]
                for k in range(most):
                    for a in range(queue + 1 if d == 0 else (grid.shape[2] if d > 0 else 1)):
                        x = _passed(row, after, side, price, a, k, orders, gain, terms.depth, values)
                        if orders > 1 and k > 0:
                            x = max(x, spare[before + d, k - 1, a])
                        spare[before + d, k, a] = x
            for d in range(-before, last + 1):
                for k in range(most):
                    for a in range(queue + 1 if d == 0 else (grid.shape[2] if d > 0 else 1)):
                        grid[before + d, k, a] = spare[before + d, k, a]
        if m % terms.substeps == 0:
            for d in range(-before, farthest + 1):
                price = touch + side * d
                for k in range(most):
                    for a in range(queue + 1 if d == 0 else (grid.shape[2] if d > 0 else 1)):
                        # What no order is worth is taken off, too, so that `kept` says which are worth more.
                        pays = charge(charges[t], row, side, price, 1, a + k, terms.depth)
                        grid[before + d, k, a] -= none + pays
            if len(kept):
                kept[t] = grid
            best = 0.0
            for d in range(-before, farthest + 1):
                if stands(row, side, touch + side * d, terms) and d > -side * (touch - opposite):
                    new = last_in_line(row, side, d, terms.depth)
                    for k in range(most):
                        best = max(best, grid[before + d, k, new])
            for d in range(-before, farthest + 1):
                standing = stands(row, side, touch + side * d, terms)
                here = grid[before + d]
                for k in range(1, most):
                    for a in range(grid.shape[2]):
                        here[0, a] = max(here[0, a], here[k, a])
                for a in range(grid.shape[2]):
                    here[0, a] = none + (max(here[0, a], best) if standing else best)
                for k in range(1, most):
                    for a in range(grid.shape[2]):
                        here[k, a] = here[0, a]
            none += best
    return none


@compiled
def stands(row, side, price, terms):
    """Whether an order at the price can be asked for: what is within the box is rounded outward to a tick."""
    return side * (2 * price - row.ask - row.bid) < terms.reach + 2


@compiled
def last_in_line(row, side, behind, depth):
    """Lots ahead of a new order so many ticks behind the touch."""
    return view(row, side)[1] if behind == 0 else (int(depth) if behind > 0 else 0)


@dataclass(frozen=True)
class Bound:
    """The bound on each path."""

    value: np.ndarray
    """float64 (paths,), price units x lots: its mean is above the mean money of every policy."""
    charges: tuple[np.ndarray, np.ndarray]
    """The penalties float32 (paths, horizon, 2, CASES), and what a lot sold by a decision gains at the end
    besides the efficient price: the mean of the last mispricing, float64 (paths, horizon + 1); half-ticks.
    `policies.book.play.play` takes them."""


def bound(
    paths: Paths,
    coefficients: np.ndarray,
    *,
    lots: int = 1,
    orders: int = 1,
    redraws: int = REDRAWS,
    note: Callable[[int], Any] = lambda paths: None,
) -> Bound:
    """The upper bound.

    Parameters
    ----------
    coefficients
        (SEEN, PLACED), of `policies.book.penalty`; with zeros the third penalty is of the fills alone.
    lots, orders
        The most of a side. Each lot then earns at most what one does that may have any of the others ahead.
    note
        Hears of each block of paths that is done.

    Raises
    ------
    ConfigError
        Where the market's efficient price is no martingale, or its queues are too long.
    """
    charges = np.zeros((len(paths.rows), paths.config.horizon, 2, CASES), np.float32)
    settle = surprises(paths, coefficients, charges, NO_PARTS, redraws=redraws, note=note)
    terms, value = terms_of(paths.config), np.zeros(len(paths.rows))
    before, grid = every_order(paths, lots)
    kept = np.zeros((0, *grid.shape))
    for i, rows in enumerate(paths.rows):
        for s, side in enumerate((1, -1)):
            part = charges[i, :, s]
            work = before, grid, np.zeros_like(grid), kept
            value[i] += lots * hindsight(rows, side, part, settle[i], terms, orders, *work)
    return Bound(value / paths.market.price_scale, (charges, settle))


NO_PARTS, NO_CHARGES = np.zeros((0, 0, 0, 0, 0), np.float32), np.zeros((0, 0, 0, 0), np.float32)


def surprises(
    paths: Paths,
    coefficients: np.ndarray,
    charges: np.ndarray,
    parts: np.ndarray,
    *,
    redraws: int = REDRAWS,
    note: Callable[[int], Any] = lambda paths: None,
) -> np.ndarray:
    """The third penalty, into `charges`, (paths, horizon, 2, CASES), or by coefficient into `parts`, (paths,
    horizon, 2, CASES, 1 + SEEN x PLACED); the other one is `NO_PARTS` or `NO_CHARGES`.

    Returns what a lot sold by a decision gains at the end, as `Bound.charges` has it. Raises as `bound`.
    """
    market, terms, horizon = require_book(paths.config), terms_of(paths.config), paths.config.horizon
    require(market.exact_impact, "Book", "exact_impact", False, "true for an upper bound")
    require(1 <= redraws <= LANES, "bound", "redraws", redraws, f"1 to {LANES}")
    settle = np.zeros((len(paths.rows), horizon + 1))
    inner, other = np.zeros((terms.substeps + 1, LANES), ROW), workspace(market)
    apart = max(round(1 / market.step_seconds), 1)
    for block, own in enumerate(start(market, paths.seeds)):
        part = slice(block * LANES, (block + 1) * LANES)
        rows, into = paths.rows[part], (charges[part], parts[part], settle[part])
        _surprises(own, other, rows, coefficients, terms, horizon, redraws, inner, *into, apart)
        note(len(rows))
    settle[:, horizon] = gap(paths)[:, horizon]
    left = np.arange(horizon, -1, -1)
    return settle[:, horizon - np.minimum(left // apart, SETTLED) * apart]


def every_order(paths: Paths, lots: int = 1) -> tuple[int, np.ndarray]:
    """Room for the values of every order that can be asked for on the paths, for `hindsight`: (before, zeros
    (ticks, lots of ours ahead, lots ahead))."""
    terms = terms_of(paths.config)
    spread, queue, moved = np.max([extent(rows, terms.substeps) for rows in paths.rows], axis=0).tolist()
    require(queue < MOST_AHEAD, "Book", "queue", queue, f"below {MOST_AHEAD} lots for an upper bound")
    behind = int(min(terms.reach + 2, 1e6)) // 2 + 1 + moved
    before = spread + moved
    return before, np.zeros((before + behind + 1, lots, max(queue, terms.depth) + 2))
