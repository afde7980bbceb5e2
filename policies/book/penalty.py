"""What the bound's penalty takes for the worth of our orders: H, linear in functions of market and place.

    H(market, place) = sum over k, j of coefficients[k, j] seen_k(market) placed_j(place)

is what an order that stands there is worth more than none. Any coefficients give a bound that holds;
`policies.book.tightening` finds some that make it tight.
"""

from __future__ import annotations

import numpy as np

from policies.book.orders import (
    BEFORE,
    CASES,
    CHARGED,
    LAST,
    NEXT_IN_LINE,
    between,
    micro,
    view,
)
from policies.book.paths import compiled
from policies.book.programme import worth

GAPS = np.array([-2.5, -1.2, -0.4, 0.4, 1.2, 2.5])
"""Efficient price against the middle of a spread of one tick behind the own touch, half-ticks; above 0 it is
against the order."""
SEEN = len(GAPS) + 14
"""Functions of the market."""
PLACED = 8
"""Functions of an order's place."""
NEAR, DEEP = 4.0, 25.0
"""Lots ahead at which an order is half as much at the front of its queue."""
THIN = 0.15
"""Part of `Book.queue` that is a thin queue."""


@compiled
def see(row, side, scale, seen):
    """The functions of a market, into `seen`, (SEEN,); `scale` is `Book.queue`.

    The trades that fill an order come nearly all from a metaorder on the other side, so most of them are of a
    market that has one.
    """
    touch, queue, opposite, other, _, _ = view(row, side)
    gap = side * (row.price - 2 * touch) + 1
    own, across = np.log(queue / scale), np.log(other / scale)
    wide = 1.0 if side * (touch - opposite) > 1 else 0.0
    k = GAPS.shape[0]
    seen[:] = 0
    if side * row.meta > 0:
        a, weight = between(gap, GAPS)
        seen[a], seen[a + 1] = 1 - weight, weight
        seen[k], seen[k + 1], seen[k + 2] = own, across, own * min(max(gap, -2.0), 2.0)
        seen[k + 3], seen[k + 4] = np.exp(-queue / (THIN * scale)), np.exp(-other / (THIN * scale))
        seen[k + 5] = np.log1p(max(row.meta_left, np.float32(0))) / 3
        seen[k + 6], seen[k + 7], seen[k + 8] = row.rate - 1, min(row.excitation, np.float32(3)), wide
    else:
        seen[k + 9], seen[k + 10], seen[k + 11] = 1, min(max(gap, -2.5), 2.5), own
        seen[k + 12], seen[k + 13] = wide, np.log1p(max(row.meta_left, np.float32(0))) / 3


@compiled
def stand(row, side, price, ahead, depth, placed):
    """The functions of an order's place, into `placed`, (PLACED,)."""
    touch, queue, _, _, _, _ = view(row, side)
    behind = side * (price - touch)
    placed[:] = 0
    if behind > 1:
        placed[6] = 1
    elif behind == 1:
        placed[4], placed[5] = 1, max(1 - ahead / depth, 0.0)
    else:
        placed[0], placed[1], placed[2] = 1, NEAR / (NEAR + ahead), DEEP / (DEEP + ahead)
        placed[3] = min(ahead / queue, 1.0)
        placed[7] = 1.0 if behind < 0 else 0.0


@compiled
def _is_quiet(rows, side, substeps):
    """Whether nothing happens in a decision that could move an order on a side of the book."""
    for k in range(substeps):
        row, after = rows[k], rows[k + 1]
        queue, volume, cancel = view(row, side)[1], view(row, side)[4], view(row, side)[5]
        if after.ask != row.ask or after.bid != row.bid or volume > 0 or cancel > 0:
            return False
        if view(after, side)[1] < queue:
            return False
    return True


@compiled
def outcomes(rows, side, terms, seen, gains, placed):
    """Of an order in each case: what it earns in a decision, and where it comes to.

    Into `seen`, (SEEN,), the functions of the market at the end; into `gains`, (CASES,), half-ticks at its
    efficient price; into `placed`, (CASES, PLACED), the functions of the place, zero of what is filled.
    """
    end = rows[terms.substeps]
    see(end, side, terms.queue, seen)
    touch, queue, opposite, _, _, _ = view(rows[0], side)
    quiet = _is_quiet(rows, side, terms.substeps)
    gains[:], placed[:] = 0, 0
    for case in range(1, CASES):
        k = case - NEXT_IN_LINE
        if k > 0 and CHARGED[k - 1] >= queue:
            gains[case], placed[case] = gains[case - 1], placed[case - 1]
            continue
        price, ahead = touch, min(int(CHARGED[max(k, 0)]), queue)
        if case == BEFORE:
            price, ahead = touch - side, 0
            if side * (price - opposite) <= 0:
                continue
        elif k < 0:
            price, ahead = touch + side, int(terms.depth) if case == LAST else 0
        left = 1
        for m in range(0 if quiet else terms.substeps):
            taken, ahead = micro(rows[m], rows[m + 1], side, price, 1, ahead, terms.depth)
            if taken > 0:
                gains[case] = worth(side, price, end, terms)
                left = 0
                break
        if left > 0:
            stand(end, side, price, ahead, terms.depth, placed[case])


@compiled
def add_values(seen, gains, placed, coefficients, weight, h, total):
    """Add `weight` times what each case's order earns and is worth then to `total`, (CASES,); `h` is work
    space, (PLACED,)."""
    h[:] = 0
    for k in range(SEEN):
        if seen[k] != 0:
            for j in range(PLACED):
                h[j] += seen[k] * coefficients[k, j]
    for case in range(1, CASES):
        x = gains[case]
        for j in range(PLACED):
            x += h[j] * placed[case, j]
        total[case] += weight * x


@compiled
def add_parts(seen, gains, placed, weight, total):
    """The same by coefficient: what is earned, then what each multiplies, (CASES, 1 + SEEN x PLACED)."""
    for case in range(1, CASES):
        total[case, 0] += weight * gains[case]
        for j in range(PLACED):
            if placed[case, j] != 0:
                for k in range(SEEN):
                    total[case, 1 + k * PLACED + j] += weight * seen[k] * placed[case, j]
