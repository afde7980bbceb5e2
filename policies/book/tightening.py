"""The coefficients of the bound's penalty that make it tight: pathwise optimisation.

The bound is a mean over paths of a maximum over orders, each of which pays what is linear in the
coefficients; so it is convex in them, and what the best orders pay is its slope (Desai, Farias and Moallemi
2012). Stochastic descent on training paths finds its least. What any one policy earns less its penalties has
a mean that no coefficient changes: taken off, it takes the luck of the paths along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from policies.book.bound import NO_CHARGES, every_order, hindsight, last_in_line, stands, surprises
from policies.book.orders import CASES, asked, case_of, micro, place_of, put, terms_of, view
from policies.book.paths import Paths, compiled
from policies.book.penalty import PLACED, SEEN
from policies.book.programme import worth

BATCH = 6
"""Paths of a step."""
PASSES = 12
"""Steps times `BATCH` over paths."""
FIRST_STEP, LAST_STEP = 0.02, 0.003
"""Half-ticks by which a coefficient moves at first and in the end."""
MEMORY, SIZES = 0.8, 0.95
"""Of the slopes' mean, and of that of their squares (Adam; Kingma and Ba 2015)."""
SMALL = 1e-2
"""Added to a slope's size."""
AVERAGED = 1 / 3
"""Share of the steps, the last, whose coefficients are averaged."""

PAYS = np.dtype([("case", "i4"), ("other", "i4"), ("weight", "f4")], align=True)
"""Which penalties an order pays, as `policies.book.orders.case_of`."""


@compiled
def _note_down(pays, row, side, price, left, ahead, depth):
    pays.case, pays.other, pays.weight = case_of(row, side, price, left, ahead, depth)


@compiled
def _ahead_after(rows, t, side, price, left, ahead, terms):
    """(left, ahead) of an order after decision t."""
    for k in range(t * terms.substeps, (t + 1) * terms.substeps):
        if left > 0:
            taken, ahead = micro(rows[k], rows[k + 1], side, price, left, ahead, terms.depth)
            left -= taken
    return left, ahead


@compiled
def _best_orders(rows, side, kept, terms, before, pays):
    """What the orders pay that `hindsight` found the best, from what it kept."""
    price, left, ahead = 0, 0, 0
    for t in range(len(kept)):
        row, grid = rows[t * terms.substeps], kept[t]
        touch, _, opposite, _, _, _ = view(row, side)
        best, order = 0.0, (0, 0, 0)
        if left > 0 and stands(row, side, price, terms):
            d = min(max(before + side * (price - touch), 0), grid.shape[0] - 1)
            if grid[d, 0, ahead] > best:
                best, order = grid[d, 0, ahead], (price, 1, ahead)
        for d in range(max(-before, 1 - side * (touch - opposite)), grid.shape[0] - before):
            new = last_in_line(row, side, d, terms.depth)
            if stands(row, side, touch + side * d, terms) and grid[before + d, 0, new] > best:
                best, order = grid[before + d, 0, new], (touch + side * d, 1, new)
        price, left, ahead = order
        _note_down(pays[t], row, side, price, left, ahead, terms.depth)
        left, ahead = _ahead_after(rows, t, side, price, left, ahead, terms)


@compiled
def _played(rows, index, side, table, settle, terms, pays):
    """What a policy of one level earns with one side of a path, and what its orders pay."""
    s, earned = (0 if side == 1 else 1), 0.0
    price, left, ahead = 0, 0, 0
    for t in range(len(pays)):
        row, end = rows[t * terms.substeps], rows[(t + 1) * terms.substeps]
        where = place_of(side, price, left, ahead, view(row, side)[0])
        lots, want = asked(row, side, table[index[t, s], where], price, left, terms)
        price, left, ahead = put(row, side, lots, want, left, price, ahead, terms.depth)
        _note_down(pays[t], row, side, price, left, ahead, terms.depth)
        stood = left
        left, ahead = _ahead_after(rows, t, side, price, left, ahead, terms)
        if left < stood:
            earned += worth(side, price, end, terms) + side * settle[t + 1]
    return earned


@compiled
def _paid(parts, pays, total):
    """Add what orders pay, by coefficient, to `total`, (1 + SEEN x PLACED,)."""
    for t in range(len(pays)):
        now = pays[t]
        for j in range(2):
            share = 1 - np.float64(now.weight) if j == 0 else np.float64(now.weight)
            case = now.case if j == 0 else now.other
            if share > 0 and case > 0:
                for k in range(total.shape[0]):
                    total[k] += share * parts[t, case, k]


@compiled
def _charges(parts, coefficients, charges):
    for t in range(charges.shape[0]):
        for case in range(1, CASES):
            x = parts[t, case, 0]
            for k in range(coefficients.shape[0]):
                x += coefficients[k] * parts[t, case, 1 + k]
            charges[t, case] = x


@compiled
def _play_all(rows, index, table, settle, terms, parts, pays, earned, paid):
    for i in range(rows.shape[0]):
        for s in range(2):
            earned[i] += _played(rows[i], index[i], 1 - 2 * s, table, settle[i], terms, pays)
            _paid(parts[i, :, s], pays, paid[i])


@compiled
def _maxima(some, rows, parts, settle, terms, before, grid, spare, kept, charges, pays, coefficients, paid):
    """The sum of the maxima on `some` of the paths, and what the orders pay that reach them, into `paid`."""
    total = 0.0
    for i in some:
        for s in range(2):
            side = 1 - 2 * s
            _charges(parts[i, :, s], coefficients, charges)
            total += hindsight(rows[i], side, charges, settle[i], terms, 1, before, grid, spare, kept)
            _best_orders(rows[i], side, kept, terms, before, pays)
            _paid(parts[i, :, s], pays, paid)
    return total


class Maximum:
    """What one who knows the future earns on the paths and pays, for any coefficients of the penalty."""

    def __init__(self, paths: Paths) -> None:
        """Raises `ConfigError` as `policies.book.bound.bound`."""
        n, horizon, self._terms = len(paths.rows), paths.config.horizon, terms_of(paths.config)
        self._rows = paths.rows
        self._parts = np.zeros((n, horizon, 2, CASES, 1 + SEEN * PLACED), np.float32)
        self._settle = surprises(paths, np.zeros((SEEN, PLACED)), NO_CHARGES, self._parts)
        self._pays, self._charges = np.zeros(horizon, PAYS), np.zeros((horizon, CASES), np.float32)
        before, grid = every_order(paths)
        self._work = before, grid, np.zeros_like(grid), np.zeros((horizon, *grid.shape))

    def at(self, coefficients: np.ndarray, some: Iterable[int]) -> tuple[float, np.ndarray]:
        """The sum over `some` of the paths of the maximum, half-ticks, and what its orders pay for each of
        the coefficients, (SEEN x PLACED,): less the slope of the first."""
        paid, which = np.zeros(self._parts.shape[-1]), np.array(list(some))
        given = self._rows, self._parts, self._settle, self._terms
        total = _maxima(which, *given, *self._work, self._charges, self._pays, coefficients, paid)
        return total, paid[1:]

    def played(self, index: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a policy of one level earns on each path with no coefficients, (paths,), half-ticks, and pays
        for each, (paths, SEEN x PLACED); index and table as of `tighten`."""
        earned = np.zeros(len(self._rows))
        paid = np.zeros((len(earned), self._parts.shape[-1]))
        given = self._settle, self._terms, self._parts, self._pays
        _play_all(self._rows, index, table, *given, earned, paid)
        return earned - paid[:, 0], paid[:, 1:]


def tighten(
    paths: Paths,
    index: np.ndarray,
    table: np.ndarray,
    *,
    seed: int = 0,
    note: Callable[[float], Any] = lambda slack: None,
) -> np.ndarray:
    """Coefficients, (SEEN, PLACED), that make the bound tight on the paths.

    Parameters
    ----------
    index, table
        Of a policy of one level, whose luck is taken off: int16 (paths, horizon + 1, 2), and uint8 (markets,
        PLACES). The nearer to the best it is, the more of the luck is its own.
    note
        Hears, of each step, by how much the bound passes the policy, half-ticks.

    Raises
    ------
    ConfigError
        As `policies.book.bound.bound`.
    """
    maximum = Maximum(paths)
    earned, paid = maximum.played(index, table)
    rng, batch = np.random.default_rng(seed), min(BATCH, len(paths.rows))
    turn = len(paths.rows) // batch
    steps, x = PASSES * turn, np.zeros(SEEN * PLACED)
    last = round(AVERAGED * steps)
    mean, square, average = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for k in range(steps):
        if k % turn == 0:
            order = rng.permutation(len(paths.rows))
        some = order[k % turn * batch :][:batch]
        most, most_paid = maximum.at(x, some)
        own = paid[some].sum(axis=0)
        note((most - earned[some].sum() + float((own * x).sum())) / batch)
        slope = (own - most_paid) / batch
        mean = MEMORY * mean + (1 - MEMORY) * slope
        square = SIZES * square + (1 - SIZES) * slope**2
        size = np.sqrt(square / (1 - SIZES ** (k + 1))) + SMALL
        step = FIRST_STEP + (LAST_STEP - FIRST_STEP) * k / steps
        x = x - step * mean / (1 - MEMORY ** (k + 1)) / size
        if k >= steps - last:
            average += x / last
    return average.reshape(SEEN, PLACED)
