"""An order of ours on a recorded path: what can be asked for, where it stands, and what fills it.

What a policy asks for is a table of choices, `policies.book.play`. Money is in half-ticks x lots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmenv.config import EnvConfig
from policies.book.paths import compiled, fill, front, place, reach, require_book

LEAVE, HOLD, TOUCH, INSIDE = range(4)
BEHIND = 3
AT = 16
"""What a side can do: leave, stay where it is (at the touch if it has no order), go to the touch, one tick
before it where there is room; BEHIND + d: d = 1, 2, ... ticks behind it; and AT + d: d half-ticks from the
mid, rounded outward, but not to a price that would trade."""
CHOICES = 5
"""Those that every programme chooses from: the first."""

EDGES = np.array([0, 3, 8, 15, 25, 40, 60, 90])
"""Most lots ahead in places 1 to 8 at the touch; 9 has more. Place 0 is no order."""
ONE_BEHIND, FAR_BEHIND = len(EDGES) + 2, len(EDGES) + 3
PLACES = len(EDGES) + 4

LEVELS = 10
"""Levels on each side of 0."""


class Terms(NamedTuple):
    """What the simulator of our orders is told of a configuration."""

    substeps: int
    depth: int
    """Lots at each tick behind the touch."""
    queue: float
    """Lots at the touch that are usual."""
    start: int
    """First bid, ticks."""
    fee: float
    """Part of the notional; negative is a rebate."""
    limit: int
    """Largest position, lots."""
    reach: float
    """Farthest quote from the mid, half-ticks."""
    phi: float
    """Inventory penalty per decision, price units."""
    alpha: float
    """Terminal penalty, price units."""
    unit: int
    """Half-ticks in a price unit."""
    reducing: float
    """Loss from which only the side that shrinks the position is quoted, half-ticks x lots."""
    halted: float
    """Loss from which nothing is quoted any more."""
    taken: int
    """Most lots of a market order; 0 where none can be sent."""
    taker_fee: float
    """Part of the notional."""
    spacing: int
    """Decisions from one market order to the next, at least."""


def terms_of(config: EnvConfig) -> Terms:
    """The `Terms` of a configuration."""
    market, taking = require_book(config), config.quote.taking
    return Terms(
        substeps=market.substeps,
        depth=int(market.depth),
        queue=market.queue,
        start=market.start_price,
        fee=1e-4 * config.maker_fee_bp,
        limit=config.risk.position_limit,
        reach=getattr(config.quote, "max_distance", np.inf) * market.price_scale * (1 + 1e-6),
        phi=config.reward.inventory_penalty * market.step_seconds,
        alpha=config.reward.terminal_penalty,
        unit=market.price_scale,
        reducing=config.risk.reducing_at * config.risk.daily_loss_limit * market.price_scale,
        halted=config.risk.daily_loss_limit * market.price_scale,
        taken=taking.lots if taking else 0,
        taker_fee=1e-4 * taking.fee_bp if taking else 0.0,
        spacing=config.risk.taker_spacing,
    )


@compiled
def view(row, side):
    """Of a row, from one side (1: ask): touch, queue, opposite touch and queue, order against us, cancels."""
    if side == 1:
        return row.ask, row.ask_queue, row.bid, row.bid_queue, row.buy, row.ask_cancel
    return row.bid, row.bid_queue, row.ask, row.ask_queue, row.sell, row.bid_cancel


@compiled
def place_of(side, price, left, ahead, touch):
    """The index of an order's place."""
    if left <= 0:
        return 0
    behind = side * (price - touch)
    if behind > 0:
        return ONE_BEHIND if behind == 1 else FAR_BEHIND
    return 1 + np.searchsorted(EDGES, ahead)


@compiled
def wanted(side, choice, price, left, touch, opposite):
    """The price of a choice other than LEAVE."""
    if choice == HOLD and left > 0:
        return price
    if choice >= AT:
        spread = side * (touch - opposite)
        return touch + side * max(-((spread - (choice - AT)) // 2), 1 - spread)
    if choice == INSIDE and side * (touch - side - opposite) > 0:
        return touch - side
    return touch + side * max(choice - BEHIND, 0)


@compiled
def meet(row, after, side, price, left, ahead, depth, met, crossed):
    """What a micro-step does to our order: (lots that the market order took, all lots filled, ahead).

    `met` and `crossed` are lots that the market order and the opposite touch took of nearer orders of ours.
    """
    touch, queue, opposite, _, volume, cancel = view(row, side)
    new_touch, new_queue, new_opposite, new_opposite_queue, _, _ = view(after, side)
    moved = new_touch != touch or new_opposite != opposite or new_queue < queue
    if left <= 0 or not (moved or volume > 0 or cancel > 0):
        return np.int64(0), np.int64(0), np.int64(ahead)
    volume, there = np.int32(volume - met), np.int32(max(new_opposite_queue - crossed, 0))
    new = (new_touch, new_queue, new_opposite, there)
    order = (np.int32(price), np.int32(1), np.int32(left), np.int32(ahead))
    old = touch, queue
    before = front(order, old, np.int32(depth), np.int32(side))
    taken, ahead = fill(order, before, volume, cancel, row.rounding, old, new, np.int32(side))
    return np.int64(reach(order, before, volume)), np.int64(taken), np.int64(ahead)


@compiled
def micro(row, after, side, price, left, ahead, depth):
    """What a micro-step does to our order, the nearest one: (fill, ahead)."""
    _, taken, ahead = meet(row, after, side, price, left, ahead, depth, 0, 0)
    return taken, ahead


@compiled
def asked(row, side, choice, price, left, terms):
    """(lots, price) that a choice asks for at a decision; 0 lots where the side is left."""
    touch, _, opposite, _, _, _ = view(row, side)
    want = wanted(side, choice, price, left, touch, opposite)
    if side * (2 * want - row.ask - row.bid) < 0:  # no quote is beyond the mid
        want = side * -((-side * (row.ask + row.bid)) // 2)
    # What is asked for is held against the box, before it is rounded.
    far = (choice - AT if choice >= AT else side * (2 * want - row.ask - row.bid)) > terms.reach
    return np.int64(0 if choice == LEAVE or far else 1), np.int64(want)


@compiled
def put(row, side, lots, want, left, price, ahead, depth):
    """Our order once it is asked for: (price, left, ahead). It keeps its place where it stands there
    already."""
    touch, queue, opposite, _, _, _ = view(row, side)
    order = (np.int64(price), np.int64(1), np.int64(left), np.int64(ahead))
    price, _, left, ahead = place(order, want, lots, touch, queue, opposite, np.int64(depth), np.int64(side))
    return np.int64(price), np.int64(left), np.int64(ahead)


@compiled
def level_of(position, side, scale, levels, less):
    """The index of the level at which a side sees the position, so many levels less than it is."""
    level = np.rint(scale * side * position - less)
    return int(min(max(level, -levels), levels)) + levels


CHARGED = np.array([0.0, 2, 5, 11, 19, 31, 48, 72, 110])
"""Lots ahead for which the bound has a penalty at the touch."""
NONE, LAST, FIRST, BEFORE, NEXT_IN_LINE = range(5)
"""Orders that have a penalty: none, or one farther behind; a tick behind the touch, last of the lots there or
first; a tick before the touch; those at the touch, by `CHARGED`."""
CASES = NEXT_IN_LINE + len(CHARGED)


@compiled
def case_of(row, side, price, left, ahead, depth):
    """(case, other, weight): an order that stands so after a decision pays 1 - weight of the penalty of one
    case and weight of the other's."""
    touch, queue, _, _, _, _ = view(row, side)
    behind = side * (price - touch)
    if left <= 0 or behind > 1:
        return NONE, NONE, 0.0
    if behind == 1:
        return FIRST, LAST, min(ahead / depth, 1.0)
    if behind < 0:
        return BEFORE, BEFORE, 0.0
    k, weight = between(min(ahead, queue), CHARGED)
    return NEXT_IN_LINE + k, NEXT_IN_LINE + k + 1, weight


@compiled
def charge(charges, row, side, price, left, ahead, depth):
    """The penalty of the bound for an order that stands so after a decision; `charges` is (CASES,)."""
    case, other, weight = case_of(row, side, price, left, ahead, depth)
    return (1 - weight) * charges[case] + weight * charges[other]


@compiled
def between(x, grid):
    """(k, weight): x lies at grid[k] (1 - weight) + grid[k + 1] weight, clipped to the grid."""
    k = min(max(np.searchsorted(grid, x) - 1, 0), len(grid) - 2)
    return k, min(max((x - grid[k]) / (grid[k + 1] - grid[k]), 0.0), 1.0)
