"""What orders are worth under a policy, by market and place: the values that the upper bound's penalty takes.

Means over recorded paths of what really followed, with no model of what follows what.
"""

from __future__ import annotations

import numpy as np

from policies.book.improvement import back, board, decide
from policies.book.orders import CHARGED, FAR_BEHIND, LEVELS, ONE_BEHIND, PLACES, terms_of, view
from policies.book.paths import Paths, compiled
from policies.book.programme import Programme

WINDOW = 30.0
"""Seconds over which what a market is worth to one without orders is counted; later it is worth the mean."""


@compiled
def _values(rows, index, side, table, terms, window, before, grid, spare, alone, total, count):
    """Add up a side of a path: what orders are worth more than none, and none more than after the window.

    Into `total`, and how often into `count`, both (markets, PLACES); `alone` is work space, (horizon + 1,).
    """
    s, fresh = (0 if side == 1 else 1), np.zeros(PLACES)
    grid[:], alone[:] = 0, 0
    for t in range(len(alone) - 2, -1, -1):
        first, end, market = t * terms.substeps, rows[(t + 1) * terms.substeps], index[t, s]
        none = alone[t + 1]
        for k in range(first + terms.substeps - 1, first - 1, -1):
            back(rows, k, end, side, 0.0, none, terms, before, grid, spare)
        none = alone[t] = decide(rows[first], side, table[market], terms, before, none, fresh, grid)
        queue = view(rows[first], side)[1]
        for k in range(CHARGED.shape[0]):
            if k == 0 or CHARGED[k] <= queue:
                total[market, 1 + k] += grid[before, int(CHARGED[k])] - none
                count[market, 1 + k] += 1
        for place in range(ONE_BEHIND, FAR_BEHIND + 1):
            d = min(before + 1 + place - ONE_BEHIND, grid.shape[0] - 1)
            total[market, place] += grid[d, terms.depth] - none
            count[market, place] += 1
        if t + window < len(alone):
            total[market, 0] += none - alone[t + window]
            count[market, 0] += 1


@compiled
def _all_values(rows, index, table, terms, window, before, grid, spare, total, count):
    alone = np.zeros(index.shape[1])
    for i in range(rows.shape[0]):
        for side in (1, -1):
            _values(rows[i], index[i], side, table, terms, window, before, grid, spare, alone, total, count)


def place_values(paths: Paths, index: np.ndarray, programme: Programme) -> tuple[np.ndarray, np.ndarray]:
    """What markets and places are worth at no position, and how often each was met, both (markets, PLACES).

    Half-ticks. An order counts by what it earns more than none, from then on; a market without an order by
    what is earned in the next `WINDOW` more than on average.
    """
    table = np.ascontiguousarray(programme.table[:, :, LEVELS])
    terms, step = terms_of(paths.config), paths.market.step_seconds
    window = min(max(round(WINDOW / step), 1), paths.config.horizon // 2)
    before, grid = board(paths)
    total, count = np.zeros((len(table), PLACES)), np.zeros((len(table), PLACES))
    _all_values(paths.rows, index, table, terms, window, before, grid, grid.copy(), total, count)
    values = total / np.maximum(count, 1)
    alone = values[:, :1] - total[:, 0].sum() / max(count[:, 0].sum(), 1)
    values[:, 0] = 0
    return np.where(count[:, :1] > 0, alone, 0) + values, count
