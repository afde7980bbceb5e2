"""Several lots and several orders a side: what is asked for, where it stands, and what fills it.

The rules are those of `mmenv.market.book_levels`: lots of ours are met in the order of price and time; a
market order meets the nearest order first, and those behind do not get what it took there. Orders of a side
are rows of `orders`, the nearest first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.book.orders import BEHIND, LEAVE, Terms, asked, charge, level_of, meet, place_of, view
from policies.book.paths import compiled, place

PRICE, PLACED, LEFT, AHEAD = range(4)
"""Columns of `orders`, int64 (orders of a side, 4): ticks, lots placed with, lots left, lots ahead."""


class Several(NamedTuple):
    """How a policy asks for more lots than one, from a table that is made for one lot."""

    lots: int
    """The most of a side. With several orders a side, of one lot each, as many as there are orders."""
    orders: int
    """Of a side, at most."""
    margin: float
    """A further lot is asked for where the table would not leave the side at so many levels less. With
    several orders: then they all stand at one price."""
    skew: float
    """Levels that each further lot weighs beside; of one order a side."""
    renew: float
    """An order with so great a part of the queue ahead of it gives its place up for more lots."""
    apart: int
    """Ticks from an order to the next one behind it, where neither is kept."""
    keep: int
    """An order that stands so many ticks at most behind the nearest one keeps its place: the former nearest,
    when that goes nearer to the mid, or the next one. Then no lot is added to an order that stands."""
    retreat: int
    """Ticks behind the touch to which a side goes that the table would leave; 0: it is left."""


ONE = Several(1, 1, 0.0, 0.0, np.inf, 0, 0, 0)
"""One lot."""
ROUNDING = 0.1
"""By how much less than whole ticks the step from an order to the next is, half-ticks: it is rounded
outward."""


@compiled
def nearest(orders):
    """The index of the nearest order that is left; 0 where none is."""
    for k in range(orders.shape[0]):
        if orders[k, LEFT] > 0:
            return k
    return 0


@compiled
def ask(row, side, choices, position, scale, orders, several, terms, lots, want):
    """What a side asks for by the choices of a market, (PLACES, levels), into `lots` and `want`, (orders of a
    side,): all lots before any limit, the price of the nearest order. Gives the ticks between two orders.
    """
    levels = (choices.shape[1] - 1) // 2
    touch, queue, _, _, _, _ = view(row, side)
    k = nearest(orders)
    price, left, ahead = orders[k, PRICE], orders[k, LEFT], orders[k, AHEAD]
    where = place_of(side, price, left, ahead, touch)
    choice = choices[where, level_of(position, side, scale, levels, 0.0)]
    if choice == LEAVE and several.retreat > 0:
        choice = BEHIND + several.retreat
    quoted, want[0] = asked(row, side, choice, price, left, terms)
    if orders.shape[0] > 1:
        lots[0] = several.lots if quoted > 0 else 0
        joins = choices[where, level_of(position, side, scale, levels, several.margin)] != LEAVE
        return _apart(side, want[0], orders, joins, several)
    number = np.int64(1)
    while number < several.lots:
        shift = several.margin + several.skew * number
        if choices[where, level_of(position, side, scale, levels, shift)] == LEAVE:
            break
        number += 1
    if left > 0 and want[0] == price and number > left:
        last = price == touch and ahead >= several.renew * queue
        number = number if last else left
    lots[0] = number if quoted > 0 else 0
    return np.int64(0)


@compiled
def _apart(side, want, orders, joins, several):
    """Ticks from the nearest order, at `want`, to the next; `joins`: whether new ones stand at one price."""
    if several.keep > 0:
        for k in range(orders.shape[0]):
            behind = side * (orders[k, PRICE] - want)
            if orders[k, LEFT] > 0 and 0 < behind <= several.keep:
                return behind
        for k in range(orders.shape[0]):
            if orders[k, LEFT] > 0 and orders[k, PRICE] == want:
                return np.int64(0 if orders[k, LEFT] > 1 else several.apart)
    return np.int64(0 if joins else several.apart)


@compiled
def do_not_meet(lots, want):
    """Of what both sides ask for, (2, orders of a side), put an ask that meets the bid a tick farther."""
    if lots[0, 0] > 0 and lots[1, 0] > 0 and want[0, 0] <= want[1, 0]:
        want[0, 0] = want[1, 0] + 1


@compiled
def spread_out(row, side, apart, terms, lots, want):
    """The orders behind the nearest one, so many ticks apart within the box, one lot each; those at one price
    are one order."""
    count = want.shape[0]
    if count == 1:
        return
    near, total = side * (2 * want[0] - row.ask - row.bid), lots[0]
    room = max(terms.reach - near - 1e-4, 0.0)
    for k in range(count):
        step = min(k * (2 * apart - ROUNDING), room) if apart > 0 else 0.0
        want[k] = want[0] + side * np.int64(np.ceil(step / 2))
        lots[k] = 1 if k < total else 0
    for k in range(1, count):
        if want[k] == want[k - 1]:
            lots[k] += lots[k - 1]
            lots[k - 1] = 0


@compiled
def arrive(row, side, lots, want, orders, was, depth):
    """The orders of a side once they are asked for; `was` is work space of their shape."""
    touch, queue, opposite, _, _, _ = view(row, side)
    was[:] = orders
    for k in range(orders.shape[0]):
        placed, left, ahead = np.int64(0), np.int64(0), np.int64(0)
        for j in range(orders.shape[0]):
            if was[j, PRICE] == want[k] and was[j, LEFT] > 0:
                placed, left, ahead = was[j, PLACED], was[j, LEFT], was[j, AHEAD]
        order = np.int64(want[k]), placed, left, ahead
        order = place(order, want[k], lots[k], touch, queue, opposite, np.int64(depth), np.int64(side))
        orders[k, PRICE], orders[k, PLACED], orders[k, LEFT], orders[k, AHEAD] = order


@compiled
def trade(row, after, side, orders, depth, filled):
    """What a micro-step does to the orders of a side: lots into `filled`, (orders of a side,)."""
    met, crossed = np.int64(0), np.int64(0)
    for k in range(orders.shape[0]):
        price, left, ahead = orders[k, PRICE], orders[k, LEFT], orders[k, AHEAD]
        now, taken, orders[k, AHEAD] = meet(row, after, side, price, left, ahead, depth, met, crossed)
        met += now
        crossed += taken - now
        orders[k, LEFT] -= taken
        filled[k] = taken


@compiled
def charge_all(charges, row, side, orders, depth):
    """The penalties of the bound for all lots of a side; those of ours that are met before a lot count as
    lots ahead of it."""
    total, before = 0.0, 0
    for k in range(orders.shape[0]):
        for _ in range(orders[k, LEFT]):
            total += charge(charges, row, side, orders[k, PRICE], 1, orders[k, AHEAD] + before, depth)
            before += 1
    return total


def ask_all(
    rows: np.ndarray,
    index: np.ndarray,
    table: np.ndarray,
    scale: float,
    positions: np.ndarray,
    orders: np.ndarray,
    several: Several,
    terms: Terms,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What both sides ask for in n books: lots before limits, ticks between two orders, and prices of the
    nearest orders, int64 (n, 2).

    Parameters
    ----------
    rows
        ROW (n,): touches and queues.
    index
        Of the market as each side sees it, (n, 2).
    table, scale
        As for `policies.book.play.play`.
    positions
        Lots, (n,).
    orders
        Ours, int64 (n, 2, orders of a side, 4).
    """
    lots, want = np.zeros(orders.shape[:3], np.int64), np.zeros(orders.shape[:3], np.int64)
    apart = np.zeros(orders.shape[:2], np.int64)
    given = rows, index, table, float(scale), positions.astype(np.int64), orders, several, terms
    _ask_all(*given, lots, want, apart)
    return lots[..., 0], apart, want[..., 0]


@compiled
def _ask_all(rows, index, table, scale, positions, orders, several, terms, lots, want, apart):
    for i in range(len(rows)):
        for s in range(2):
            apart[i, s] = ask(
                rows[i], 1 - 2 * s, table[index[i, s]], positions[i], scale, orders[i, s], several, terms,
                lots[i, s], want[i, s],
            )  # fmt: skip
        do_not_meet(lots[i], want[i])
