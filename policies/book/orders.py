"""Our orders over recorded paths: a policy is a table of what to do, and a thousand episodes take a second.

table[market, place, level] is the choice for one side of the book: `market` is an index of what the policy
sees of the others, from that side; `place` says where the side's order stands; `level` is what a further lot
costs there because of the position, a shadow price. Money is in half-ticks x lots; orders are of one lot.
Where the action has market orders, a `Rule` sends them by a forecast of the efficient price.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmenv.config import EnvConfig
from policies.book.paths import Paths, compiled, fill, front, place, require_book

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


class Rule(NamedTuple):
    """When a market order is sent: where the forecast of the efficient price less mid, less what the position
    weighs, passes what it costs. Half-ticks."""

    margin: float
    """By how much it has to."""
    skew: float
    """What a lot of position weighs."""


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
def micro(row, after, side, price, left, ahead, depth):
    """What a micro-step does to our order: (fill, ahead)."""
    touch, queue, opposite, _, volume, cancel = view(row, side)
    new_touch, new_queue, new_opposite, new_opposite_queue, _, _ = view(after, side)
    moved = new_touch != touch or new_opposite != opposite or new_queue < queue
    if left <= 0 or not (moved or volume > 0 or cancel > 0):
        return np.int64(0), np.int64(ahead)
    new = (new_touch, new_queue, new_opposite, new_opposite_queue)
    order = (np.int32(price), np.int32(1), np.int32(left), np.int32(ahead))
    old = touch, queue
    before = front(order, old, np.int32(depth), np.int32(side))
    taken, ahead = fill(order, before, volume, cancel, row.rounding, old, new, np.int32(side))
    return np.int64(taken), np.int64(ahead)


@compiled
def asked(row, side, choice, price, left, terms):
    """(lots, price) that a choice asks for at a decision; 0 lots where the side is left."""
    touch, _, opposite, _, _, _ = view(row, side)
    want = wanted(side, choice, price, left, touch, opposite)
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
def level_of(position, side, scale, levels):
    """The index of the level at which a side sees the position."""
    return min(max(int(np.rint(scale * side * position)), -levels), levels) + levels


@compiled
def cost_of_taking(row, side, terms):
    """What a lot bought (side 1) or sold by a market order pays beyond the mid, half-ticks: the half-spread
    and the fee."""
    price = row.ask if side == 1 else row.bid
    return row.ask - row.bid + terms.taker_fee * 2.0 * (price + terms.start)


@compiled
def market_order(row, forecast, position, room, rule, terms):
    """Lots of the market order, above 0 to buy, that a rule sends within limits and what stands at the
    touch."""
    worth = forecast - rule.skew * position
    side = 1 if worth > 0 else -1
    over = abs(worth) - rule.margin - cost_of_taking(row, side, terms)
    if not over > 0:
        return np.int64(0)
    most = min(terms.taken, row.ask_queue if side == 1 else row.bid_queue)
    if rule.skew > 0:  # each lot makes the next one worth less
        most = min(most, 1 + int(over / rule.skew))
    return np.int64(side * min(most, max(room - side * position, 0)))


@compiled
def _play(rows, index, table, scale, terms, charges, settle, forecasts, rule, out):
    levels = (table.shape[2] - 1) // 2
    price, left, ahead = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    lots, want = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for i in range(rows.shape[0]):
        position, halted, wait, left[:] = np.int64(0), False, 0, 0
        for t in range(index.shape[1] - 1):
            row, end = rows[i, t * terms.substeps], rows[i, (t + 1) * terms.substeps]
            # The risk limits, as `mmenv.step.risk` has them.
            loss = -out[i].money - position * (row.ask + row.bid)
            halted = halted or loss >= terms.halted
            room = terms.limit if loss < terms.reducing else 0
            bought = np.int64(0)
            if len(forecasts) and wait <= 0 and not halted:
                bought = market_order(row, forecasts[i, t], position, room, rule, terms)
            wait = terms.spacing - 1 if bought != 0 else wait - 1
            for s in range(2):
                side = 1 - 2 * s
                where = place_of(side, price[s], left[s], ahead[s], view(row, side)[0])
                choice = table[index[i, t, s], where, level_of(position, side, scale, levels)]
                # Nothing stands that a market order would trade with.
                choice = (
                    LEAVE if halted or side * (position + bought) <= -room or side * bought > 0 else choice
                )
                lots[s], want[s] = asked(row, side, choice, price[s], left[s], terms)
            if lots[0] > 0 and lots[1] > 0 and want[0] <= want[1]:
                want[0] = want[1] + 1
            if bought != 0:
                touch = row.ask if bought > 0 else row.bid
                cash = -2.0 * (bought * touch + abs(bought) * terms.taker_fee * (touch + terms.start))
                position += bought
                out[i].taken += abs(bought)
                out[i].money += cash
                if len(charges):
                    out[i].bounded += cash - bought * (settle[i, t + 1] - row.price)
            for s in range(2):
                price[s], left[s], ahead[s] = put(
                    row, 1 - 2 * s, lots[s], want[s], left[s], price[s], ahead[s], terms.depth
                )
            for s in range(2 if len(charges) else 0):
                out[i].bounded -= charge(
                    charges[i, t, s], row, 1 - 2 * s, price[s], left[s], ahead[s], terms.depth
                )
            for k in range(t * terms.substeps, (t + 1) * terms.substeps):
                out[i].martingale += position * rows[i, k].innovation
                for s in range(2):
                    side = 1 - 2 * s
                    taken, ahead[s] = micro(
                        rows[i, k], rows[i, k + 1], side, price[s], left[s], ahead[s], terms.depth
                    )
                    if taken > 0:
                        cash = side * 2.0 * price[s] - terms.fee * 2.0 * (price[s] + terms.start)
                        left[s] -= taken
                        position -= side * taken
                        out[i].fills += taken
                        out[i].money += cash
                        if len(charges):
                            out[i].bounded += cash + side * (settle[i, t + 1] - end.price)
            out[i].penalty += terms.phi * position * position
            out[i].inventory += abs(position) / (index.shape[1] - 1)
        last = rows[i, -1]
        out[i].money += position * (last.ask + last.bid)
        out[i].penalty += terms.alpha * position * position


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


RESULT = np.dtype(
    [
        ("money", "f8"),  # change of wealth, half-ticks x lots
        ("penalty", "f8"),  # on the position, price units
        (
            "martingale",
            "f8",
        ),  # part of the money with mean zero: position x innovation of the efficient price
        ("fills", "f8"),
        ("taken", "f8"),  # lots of market orders
        ("inventory", "f8"),  # mean absolute position
        ("bounded", "f8"),  # money less the penalties of the bound, where they are given
    ]
)
NOTHING = np.zeros((0, 0, 0, 0), np.float32), np.zeros((0, 0))
NEVER = np.zeros((0, 0), np.float32), Rule(0.0, 0.0)
"""No market orders."""


def play(
    paths: Paths,
    index: np.ndarray,
    table: np.ndarray,
    scale: float = 0.0,
    charges: tuple[np.ndarray, np.ndarray] = NOTHING,
    taking: tuple[np.ndarray, Rule] = NEVER,
) -> np.recarray:
    """What a policy does on each path.

    Parameters
    ----------
    index
        Of the market as each side sees it, int16 (paths, horizon + 1, 2), ask first.
    table
        uint8 (markets, PLACES, 2 levels + 1).
    scale
        Levels per lot.
    charges
        The penalties and settlement of `policies.book.bound`, for the field `bounded`.
    taking
        Forecasts of the efficient price less mid, half-ticks, float32 (paths, horizon + 1), and the rule by
        which market orders are sent; `NEVER` where the action has none.

    Returns
    -------
    np.recarray
        RESULT (paths,).
    """
    out = np.zeros(len(paths.rows), RESULT)
    _play(paths.rows, index, table, float(scale), terms_of(paths.config), *charges, *taking, out)
    return out.view(np.recarray)


def value(paths: Paths, result: np.recarray) -> np.ndarray:
    """The reward of each path without its part of mean zero, price units x lots."""
    return money(paths, result) - result.penalty


def money(paths: Paths, result: np.recarray) -> np.ndarray:
    """The same before the penalties on the position."""
    return (result.money - result.martingale) / paths.market.price_scale
