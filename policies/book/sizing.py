"""How many lots, and how far apart the orders: a few numbers by which a programme for one lot asks for more.

A programme says, by its levels, up to what price of a lot each place is worth quoting (`policies.book.play`).
A further lot of a side is one at so many levels less: it is filled where the position is a lot larger. Two
orders of one lot keep a place behind the nearer one: makers of one order fail by giving theirs up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from policies.book.paths import Paths, lots_of_side
from policies.book.play import play, value
from policies.book.programme import Programme
from policies.book.several import ONE, Several

SCALES = 0.0, 0.25, 0.5, 1.0, 2.0, 4.0
"""Levels per lot of position that are tried."""
MARGINS = -1.0, 0.0, 1.0, 3.0, 6.0
SKEWS = 0.0, 0.5, 1.0, 2.0, 4.0
RENEWALS = np.inf, 0.6
APART = 1, 2
KEEPS = 0, 1
JOINS = 0.0, 2.0, 4.0, 8.0, 20.0
RETREATS = 0, 1
"""What is tried of a `Several`."""


class Sized(NamedTuple):
    """How a programme for one lot plays more."""

    several: Several
    scale: float
    """Levels per lot of position."""


def all_lots(paths: Paths) -> Iterator[Sized]:
    """As many lots as there can be wherever the programme has one, at one price."""
    lots, orders = lots_of_side(paths.config)
    for scale in SCALES:
        yield Sized(Several(lots, orders, 0.0, 0.0, np.inf, 0, 0, 0), scale)


def chosen(paths: Paths) -> Iterator[Sized]:
    """The members among which `search` chooses."""
    lots, orders = lots_of_side(paths.config)
    if orders > 1:
        for joins, apart, keep, retreat, scale in itertools.product(JOINS, APART, KEEPS, RETREATS, SCALES):
            yield Sized(Several(lots, orders, joins, 0.0, np.inf, apart, keep, retreat), scale)
    else:
        for scale in SCALES:
            yield Sized(ONE, scale)
        for margin, skew, renew, scale in itertools.product(MARGINS, SKEWS, RENEWALS, SCALES):
            yield Sized(Several(lots, orders, margin, skew, renew, 0, 0, 0), scale)


def search(
    paths: Paths, index: np.ndarray, programme: Programme, members: Callable[[Paths], Iterator[Sized]]
) -> Sized:
    """The member with which a programme earns most: all on a quarter of the paths, the best tenth on all.

    Parameters
    ----------
    index
        As for `policies.book.play.play`.
    members
        `all_lots` or `chosen`.
    """
    left = list(members(paths))
    for step in (4, 1):
        some = Paths(paths.config, paths.seeds[::step], paths.rows[::step])
        seen = np.ascontiguousarray(index[::step])
        earned = [_earned(some, seen, programme, each) for each in left]
        left = [left[k] for k in np.argsort(earned)[::-1][: max(len(left) // 10, 1)]]
    return left[0]


def _earned(paths: Paths, index: np.ndarray, programme: Programme, sized: Sized) -> float:
    result = play(paths, index, programme.table, sized.scale, several=sized.several)
    return float(value(paths, result).mean())


def in_words(sized: Sized) -> str:
    """How many lots there are and where, for a note."""
    several, scale = sized
    more = f"would quote {several.margin:g} levels lower"
    if several.orders > 1:
        text = f"{several.orders} orders {several.apart} ticks apart, at one price where it {more}"
        text += f"; one keeps its place {several.keep} ticks behind the nearest" if several.keep else ""
        text += "; a tick behind the touch where it would leave" if several.retreat else ""
    else:
        text = f"up to {several.lots} lots, one more where it {more}, and {several.skew:g} a lot"
        if several.renew < 1:
            text += f"; gives its place up for more behind {several.renew:g} of the queue"
    return f"{text}; levels per lot: {scale:g}"
