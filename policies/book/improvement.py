"""Better policies from known ones, by what else could have been done on recorded paths.

A programme that is solved on a model of the market is as good as the model. Here nothing is modelled: the
others do not see our orders, so on a recorded path one pass backwards gives what a policy earns from every
order that could stand there at every decision, to the last fill. Along orders as they come about, each other
choice is then compared with the policy's on the same path, once, the policy being followed again afterwards.
A state's choice is changed where the mean over paths gains by more than its standard errors (rollouts:
Bertsekas, Tsitsiklis and Wu 1997), and a changed policy is kept where it earns more on paths that nothing was
changed on.

One side at a time; a lot of position has a shadow price, as in `policies.book.programme`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from policies.book.orders import (
    CHOICES,
    FAR_BEHIND,
    HOLD,
    LEVELS,
    ONE_BEHIND,
    PLACES,
    TOUCH,
    asked,
    micro,
    place_of,
    put,
    terms_of,
    view,
)
from policies.book.paths import Paths, compiled, extent
from policies.book.play import play, value
from policies.book.programme import LATER, PRICES, SCALES, Programme, deviate, worth

TICKS = 16
"""Orders farther than this from the touch count as this far, in values, not when they are played."""
MODELLED = (2, 6, 10, 14, 18)
"""Levels whose choices are improved; others follow the nearest."""
NEAREST = np.abs(np.arange(2 * LEVELS + 1)[:, None] - np.array(MODELLED)).argmin(axis=1)
SURE = 1.5
"""Standard errors by which a choice must gain."""
CHOSEN = np.arange(CHOICES, dtype=np.uint8)
"""The choices that are compared, where nothing else is said."""


@compiled
def _follow(rows, index, side, table, terms, rate, length, rng, orders):
    """The orders of a side, (horizon, 3) of price, lots and lots ahead before each decision, under a policy
    that now and then, for about `length` decisions, does something else."""
    s = 0 if side == 1 else 1
    price, left, ahead, odd, mode = 0, 0, 0, 0, 0
    for t in range(len(orders)):
        row = rows[t * terms.substeps]
        touch, _, opposite, _, _, _ = view(row, side)
        where = place_of(side, price, left, ahead, touch)
        orders[t, 0], orders[t, 1], orders[t, 2] = price, left, ahead
        choice = table[index[t, s], where]
        if odd == 0 and rng.random() < rate:
            odd = 1 + int(-np.log(rng.random()) * length)
            mode = deviate(choice, where, side * (touch - opposite) > 1, rng)
        if odd > 0:
            odd -= 1
            choice = HOLD if mode == TOUCH and where < ONE_BEHIND else mode
        lots, want = asked(row, side, choice, price, left, terms)
        price, left, ahead = put(row, side, lots, want, left, price, ahead, terms.depth)
        for k in range(t * terms.substeps, (t + 1) * terms.substeps):
            if left > 0:
                taken, ahead = micro(rows[k], rows[k + 1], side, price, left, ahead, terms.depth)
                left -= taken


@compiled
def _worth_of(grid, before, none, row, side, choice, order, terms):
    """What an order (price, lots, lots ahead) is worth once a choice is made for it; `none`: of no order."""
    price, left, ahead = order
    lots, want = asked(row, side, choice, price, left, terms)
    price, left, ahead = put(row, side, lots, want, left, price, ahead, terms.depth)
    if left <= 0:
        return none
    behind = side * (price - view(row, side)[0])
    return grid[min(max(before + behind, 0), grid.shape[0] - 1), min(ahead, grid.shape[1] - 1)]


@compiled
def back(rows, k, end, side, shadow, none, terms, before, grid, spare):
    """Bring the values of all orders back through micro-step k."""
    row, after = rows[k], rows[k + 1]
    touch, queue, opposite, _, volume, cancel = view(row, side)
    new_touch, new_queue, new_opposite, _, _, _ = view(after, side)
    moved = new_touch != touch or new_opposite != opposite or new_queue < queue
    if not (moved or volume > 0 or cancel > 0):
        return
    # Behind the touch nothing happens while it stays and the market order does not get through it.
    still = new_touch == touch and new_opposite == opposite and volume <= queue
    last = before if still else grid.shape[0] - 1
    for d in range(last + 1):
        behind = d - before
        price = touch + side * behind
        to = min(max(d + side * (touch - new_touch), 0), grid.shape[0] - 1)
        gain = worth(side, price, end, terms) + shadow + none
        for a in range(queue + 1 if behind == 0 else (grid.shape[1] if behind > 0 else 1)):
            taken, ahead = micro(row, after, side, price, 1, a, terms.depth)
            spare[d, a] = gain if taken > 0 else grid[to, ahead]
    for d in range(last + 1):
        for a in range(queue + 1 if d == before else (grid.shape[1] if d > before else 1)):
            grid[d, a] = spare[d, a]


@compiled
def decide(row, side, choices, terms, before, none, fresh, grid):
    """Bring the values back through a decision by `choices`, (PLACES,); returns that of no order.

    `fresh` is work space, (PLACES,): what a new order of each place's choice is worth.
    """
    touch, queue = view(row, side)[:2]
    for where in range(PLACES):
        fresh[where] = _worth_of(grid, before, none, row, side, choices[where], (0, 0, 0), terms)
    for d in range(grid.shape[0]):
        behind = d - before
        price = touch + side * behind
        if behind > 0:
            where = ONE_BEHIND if behind == 1 else FAR_BEHIND
            lots, want = asked(row, side, choices[where], price, 1, terms)
            if lots == 0 or want != price:
                grid[d, :] = none if lots == 0 else fresh[where]
            continue
        for a in range(queue + 1 if behind == 0 else 1):
            where = place_of(side, price, 1, a, touch)
            lots, want = asked(row, side, choices[where], price, 1, terms)
            if lots == 0 or want != price:
                grid[d, a] = none if lots == 0 else fresh[where]
    return fresh[0]


@compiled
def _continue(rows, index, side, table, choices, shadow, terms, before, grid, spare, orders, gains):
    """What a policy earns on a path with one side, and into `gains`, (markets, PLACES, choices), by how much
    more each of the choices earns than the policy's for `orders`."""
    s, none = (0 if side == 1 else 1), 0.0
    grid[:] = 0
    fresh = np.zeros(PLACES)
    for t in range(len(orders) - 1, -1, -1):
        first, end = t * terms.substeps, rows[(t + 1) * terms.substeps]
        for k in range(first + terms.substeps - 1, first - 1, -1):
            back(rows, k, end, side, shadow, none, terms, before, grid, spare)
        row, market = rows[first], index[t, s]
        order = orders[t, 0], orders[t, 1], orders[t, 2]
        where = place_of(side, order[0], order[1], order[2], view(row, side)[0])
        usual = _worth_of(grid, before, none, row, side, table[market, where], order, terms)
        for k in range(len(choices)):
            other = _worth_of(grid, before, none, row, side, choices[k], order, terms)
            gains[market, where, k] += other - usual
        none = decide(row, side, table[market], terms, before, none, fresh, grid)
    return none


@compiled
def _compare(
    rows, index, table, choices, shadow, terms, rate, length, before, grid, spare, rng, total, square, earned
):
    """`_continue` on both sides of every path; sums and sums of squares over paths."""
    orders = np.zeros((index.shape[1] - 1, 3), np.int64)
    gains = np.zeros(total.shape)
    for i in range(rows.shape[0]):
        gains[:] = 0
        for side in (1, -1):
            _follow(rows[i], index[i], side, table, terms, rate, length, rng, orders)
            earned[i] += _continue(
                rows[i], index[i], side, table, choices, shadow, terms, before, grid, spare, orders, gains
            )
        total += gains
        square += gains**2


class Comparison(NamedTuple):
    """Every choice against a policy's."""

    total: np.ndarray
    """By how much more a choice earns, summed over decisions and paths, half-ticks: (markets, PLACES,
    choices)."""
    error: np.ndarray
    """Its standard error, of the paths."""
    earned: np.ndarray
    """By the policy on each path, both sides, without limits of the position, half-ticks."""


def board(paths: Paths) -> tuple[int, np.ndarray]:
    """Room for the values of every order that can stand on the paths: (before, zeros (ticks, lots ahead)).

    Row before + d is of orders d ticks behind the touch.
    """
    terms = terms_of(paths.config)
    spread, queue, moved = np.max([extent(rows, terms.substeps) for rows in paths.rows], axis=0).tolist()
    before = min(spread + moved, TICKS)
    behind = min(int(min(terms.reach, 1e6)) // 2 + 1 + moved, TICKS)
    return before, np.zeros((before + behind + 1, max(queue, terms.depth) + 2))


def compare(
    paths: Paths,
    index: np.ndarray,
    table: np.ndarray,
    price: float,
    rng: np.random.Generator,
    rate: float = 0.0,
    length: float = 1.0,
    choices: np.ndarray = CHOSEN,
) -> Comparison:
    """Compare each of the choices, made once, with that of a policy of one level.

    Parameters
    ----------
    index
        Of the market as each side sees it, int16 (paths, horizon + 1, 2).
    table
        uint8 (markets, PLACES).
    price
        What a lot of position costs, half-ticks.
    rate, length
        How often (per decision) and for how many decisions something else than the policy is done on the way,
        so that states are met where it does not go.
    choices
        uint8 (choices,).
    """
    terms = terms_of(paths.config)
    before, grid = board(paths)
    total = np.zeros((*table.shape, len(choices)))
    square, earned = np.zeros_like(total), np.zeros(len(paths.rows))
    work = before, grid, np.zeros_like(grid), rng
    _compare(
        paths.rows, index, table, choices, float(price), terms, rate, length, *work, total, square, earned
    )
    return Comparison(total, np.sqrt(square), earned)


def improved(
    paths: Paths,
    index: np.ndarray,
    table: np.ndarray,
    rng: np.random.Generator,
    rate: float,
    length: float,
    choices: np.ndarray = CHOSEN,
) -> np.ndarray:
    """A table, uint8 (markets, PLACES, levels), changed to those of `choices` that surely gain.

    A change at one of `MODELLED` is one at the levels near it.
    """
    after = table.copy()
    for k, level in enumerate(MODELLED):
        now = np.ascontiguousarray(table[:, :, level])
        found = compare(paths, index, now, PRICES[level], rng, rate, length, choices)
        sure = found.total - SURE * found.error
        change = sure.max(axis=2) > 0
        to = choices[sure.argmax(axis=2)]
        near = np.flatnonzero(k == NEAREST)
        after[:, :, near] = np.where(change[:, :, None], to[:, :, None], after[:, :, near])
    return after


def improve(
    paths: Paths,
    index: np.ndarray,
    known: Iterable[Programme],
    *,
    rounds: int,
    choices: np.ndarray = CHOSEN,
    seed: int = 0,
    note: Callable[[], Any] = lambda: None,
) -> Programme:
    """The best of the known policies, and of what becomes of it by `choices` in `rounds` of improvement.

    The first half of the paths says what to change, a half of them in turn; the other half says what is kept,
    so that what is returned earns no less there than any known one. Where queues are too long to value
    every order the best known one is returned.
    """
    half = len(paths.rows) // 2
    held = Paths(paths.config, paths.seeds[half:], paths.rows[half:])

    def earns(programme: Programme) -> float:
        return float(value(held, play(held, index[half:], programme.table, programme.scale)).mean())

    best = max(known, key=earns)
    most, table = earns(best), best.table
    if not paths.queues_are_short:
        return best
    rng, seconds = np.random.default_rng(seed), paths.market.step_seconds
    for turn in range(rounds):
        part = slice(turn % 2, half, 2)
        some = Paths(paths.config, paths.seeds[part], paths.rows[part])
        rate, length = LATER[turn % len(LATER)]
        table = improved(some, np.ascontiguousarray(index[part]), table, rng, rate, length / seconds, choices)
        for scale in SCALES:
            tried = Programme(table, scale, best.values)
            earned = earns(tried)
            if earned > most:
                best, most = tried, earned
        note()
    return best
