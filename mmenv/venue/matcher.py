"""A small matching engine of our own for post-only orders in a recorded or live book.

It serves twice: as an independent check of hftbacktest (`benchmarks.crosscheck`), and as the venue of
paper trading. The rules, as of an order that cannot move the market:

- An order is accepted behind all that rests at its price; at or through the opposite best price it expires.
- A market order is one with a worst price, filled on arrival by what stands there, level by level; the rest
  of it expires. All of it pays the last level's price: hftbacktest tells no other. Without partial fills it
  is filled whole at the best price.
- Market data comes before orders at the same nanosecond; the levels of one message apply one by one.
- A trade at our price first uses up the queue ahead, and what is left of it fills us; a trade beyond our
  price, or a book whose opposite best reaches it, fills all that is left of us, at our price.
- When the level at our price changes, the queue ahead never grows. Under "risk-adverse" it only shrinks to
  the level; the other models let part of a cancelled size have been ahead of us: with chg the decrease not
  explained by trades, ahead -= (1 - prob) chg, more if the rest does not fit behind us, where prob is
  f(behind) / (f(behind) + f(ahead)), f(x) = log(1 + x) or x^n, "-2": f(behind) / f(behind + ahead), "-3":
  1 - f(ahead / (ahead + behind)).
  (https://rigtorp.se/2013/06/08/estimating-order-queue-position.html)
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import BUY, CLEAR, TRADE
from mmenv.venue.settings import FIFO, QUEUE_MODELS

WAITING: Final = 0
"""Sent, not yet at the exchange; the other states are numbered as hftbacktest does."""
ACTIVE: Final = 1
EXPIRED: Final = 2
FILLED: Final = 3
CANCELLED: Final = 4
PARTIALLY_FILLED: Final = 5

ORDER: Final = np.dtype(
    [
        ("side", "i8"),
        ("tick", "i8"),
        ("lots", "i8"),
        ("left", "i8"),
        ("status", "i8"),
        ("time_ns", "i8"),
        ("ahead", "f8"),
        ("traded", "f8"),
        ("place", "i8"),
    ]
)
"""An order. `time_ns` is the exchange time of its last change of state, `ahead` the lots queued before it,
`traded` the lots traded at its price since the level last changed, `place` the arrivals before it, where
single orders are known."""

NO_BID: Final = np.iinfo(np.int64).min
NO_ASK: Final = np.iinfo(np.int64).max

_RISK_ADVERSE, _LOG, _LOG_2, _POWER, _POWER_2, _POWER_3 = range(len(QUEUE_MODELS))
BY_ORDER: Final = len(QUEUE_MODELS)
"""Number of the queue model `FIFO`."""


class Levels(NamedTuple):
    """The levels within a window of ticks, as compiled code takes them.

    Compiled functions that are called often from Python take the plain `tuple` of this, or of an `OrderBook`,
    and name it themselves: numba looks at a named tuple for longer than many of them run.
    """

    sizes: NDArray[np.float64]
    """Lots at each tick of the window, (2, ticks): bids, then asks."""
    best: NDArray[np.int64]
    """Best bid and best ask, (2,), ticks; NO_BID and NO_ASK where there is none."""
    low_tick: int
    """Tick of the first level of `sizes`."""


class OrderBook(NamedTuple):
    """Levels and our orders among them, as compiled code takes them."""

    sizes: NDArray[np.float64]
    best: NDArray[np.int64]
    low_tick: int
    orders: NDArray[np.void]
    """ORDER (capacity,), numbered by whoever sends them."""
    resting: NDArray[np.int64]
    """Numbers of the orders at the exchange, (capacity + 1,); the last entry says how many there are."""
    arrivals: NDArray[np.int64]
    """How many orders have come to the exchange, (1,), where single orders are known."""
    queue_model: int
    """Index into `mmenv.venue.settings.QUEUE_MODELS`, or BY_ORDER."""
    queue_exponent: float
    """n of the "power-prob" models."""
    partial_fills: bool
    """Fill what a trade leaves for us; otherwise the whole order as soon as any of it would fill."""


def empty_levels(low_tick: int, high_tick: int) -> Levels:
    """The levels from `low_tick` to `high_tick`, all empty.

    Raises
    ------
    ValueError
        The window is empty.
    """
    if not low_tick < high_tick:
        raise ValueError(
            f"the window {low_tick} to {high_tick} holds no prices: high_tick must exceed low_tick."
        )
    sizes, best = np.zeros((2, high_tick - low_tick + 1)), np.array([NO_BID, NO_ASK], np.int64)
    return Levels(sizes, best, low_tick)


def shift(sizes: NDArray[Any], by: int) -> None:
    """Move levels (2, n) by so many places towards the first, in place; empty ones come in."""
    width = sizes.shape[1]
    kept = max(width - abs(by), 0)
    first, last = (by, by + kept) if by > 0 else (0, kept)
    held = sizes[:, first:last].copy()
    sizes[:] = 0
    if kept:
        sizes[:, max(-by, 0) : max(-by, 0) + kept] = held


def renew_best(levels: Levels | OrderBook) -> None:
    """Find the best prices in the levels."""
    bids, asks = (np.flatnonzero(side) for side in levels.sizes)
    levels.best[0] = levels.low_tick + bids[-1] if len(bids) else NO_BID
    levels.best[1] = levels.low_tick + asks[0] if len(asks) else NO_ASK


def empty_book(
    low_tick: int,
    high_tick: int,
    capacity: int,
    queue_model: str = "risk-adverse",
    queue_exponent: float = 3.0,
    partial_fills: bool = True,
) -> OrderBook:
    """As `empty_levels`, with room for `capacity` orders; see `OrderBook`.

    Raises
    ------
    ValueError
        The queue model is unknown, or the window is empty.
    """
    models = (*QUEUE_MODELS, FIFO)
    if queue_model not in models:
        raise ValueError(
            f"queue_model = {queue_model!r} is not possible: it must be one of {', '.join(models)}."
        )
    return OrderBook(
        *empty_levels(low_tick, high_tick),
        orders=np.zeros(capacity, ORDER),
        resting=np.zeros(capacity + 1, np.int64),
        arrivals=np.zeros(1, np.int64),
        queue_model=models.index(queue_model),
        queue_exponent=float(queue_exponent),
        partial_fills=partial_fills,
    )


def place_order(book: OrderBook, order: int, side: int, tick: int, lots: int, time_ns: int) -> int:
    """Let a new post-only order arrive under the number `order`; its status, ACTIVE or EXPIRED.

    Raises
    ------
    ValueError
        The tick lies outside the window, or there are no lots.
    """
    high_tick = book.low_tick + book.sizes.shape[1] - 1
    if not book.low_tick <= tick <= high_tick or lots < 1:
        raise ValueError(
            f"an order of {lots} lots at {tick} is not possible: it must have at least 1 lot, and ticks are "
            f"{book.low_tick} to {high_tick}."
        )
    book.orders[order] = (side, tick, lots, lots, WAITING, 0, 0.0, 0.0, 0)
    submit(book, order, time_ns)
    return int(book.orders["status"][order])


@njit(cache=True, nogil=True)
def play(book, rows, start):
    """Apply rows from `start` until one fills an order, in whole or in part.

    Parameters
    ----------
    book
        An `OrderBook`.
    rows
        `mmenv.data.rows.ROW` [n] without book tickers (`mmenv.data.book.fused`), in exchange order.
    start
        The first row to apply.

    Returns
    -------
    int
        Index after the row that filled, or n.
    """
    before = _left(book)
    for at in range(start, len(rows)):
        row = rows[at]
        apply(book, row.kind, row.side, row.price, row.size, row.exch_ns)
        if before != _left(book):
            return at + 1
    return len(rows)


@njit(cache=True, nogil=True)
def _left(book):
    """Lots left of all open orders: rows only ever take from it."""
    lots = 0
    for place in range(book.resting[-1]):
        lots += book.orders[book.resting[place]].left
    return lots


@njit(cache=True, nogil=True)
def apply(book, kind, side, tick, lots, time_ns):
    """A row of market data: a trade, the end of all levels, or a level."""
    if kind == TRADE:
        trade(book, side, tick, lots, time_ns)
    elif kind == CLEAR:
        clear(book)
    else:
        set_level(book, side, tick, lots, time_ns)


@njit(cache=True, nogil=True)
def clear(levels):
    """Forget all levels, of `Levels` or of an `OrderBook`, whose orders stay."""
    levels.sizes[:] = 0
    levels.best[0], levels.best[1] = NO_BID, NO_ASK


@njit(cache=True, nogil=True)
def submit(book, index, time_ns):
    """The post-only order `index`, whose side, tick and lots are set, arrives."""
    order = book.orders[index]
    order.time_ns = time_ns
    crosses = order.tick >= book.best[1] if order.side == BUY else order.tick <= book.best[0]
    if crosses:
        order.status = EXPIRED
        return
    order.status = ACTIVE
    order.ahead = book.sizes[0 if order.side == BUY else 1, order.tick - book.low_tick]
    order.traded = 0.0
    order.place = book.arrivals[0]
    book.resting[book.resting[-1]] = index
    book.resting[-1] += 1


@njit(cache=True, nogil=True)
def take(book, index, time_ns):
    """The market order `index`, whose side, tick (the worst it may pay) and lots are set, arrives.

    It is filled by what stands there at once, and what is left of it expires. Its tick is then that of the
    last level it took, which is paid for all of it.
    """
    order = book.orders[index]
    order.time_ns = time_ns
    own = 1 if order.side == BUY else 0
    at, last = book.best[own], order.tick
    order.status = EXPIRED
    if at in (NO_BID, NO_ASK):
        return
    while order.left > 0 and (last - at) * order.side >= 0:
        there = np.int64(book.sizes[own, at - book.low_tick]) if book.partial_fills else order.left
        order.left -= min(there, order.left)
        order.tick = at
        at = _next_level(book, own, at, order.side)
        if at in (NO_BID, NO_ASK):
            break
    if order.left == 0:
        order.status = FILLED


@njit(cache=True, nogil=True)
def cancel(book, index, time_ns):
    """A cancel of order `index` arrives; whether there was anything left to cancel."""
    for place in range(book.resting[-1]):
        if book.resting[place] == index:
            order = book.orders[index]
            order.status, order.time_ns = CANCELLED, time_ns
            _remove(book, place)
            return True
    return False


@njit(cache=True, nogil=True)
def _remove(book, place):
    """Take an order out of those at the exchange; the last one takes its place."""
    book.resting[-1] -= 1
    book.resting[place] = book.resting[book.resting[-1]]


@njit(cache=True, nogil=True)
def fill(book, place, lots, time_ns):
    """Fill an open order; whether it is done, and its place taken by another."""
    order = book.orders[book.resting[place]]
    order.left -= lots
    order.time_ns = time_ns
    if order.left > 0:
        order.status = PARTIALLY_FILLED
        return False
    order.status = FILLED
    _remove(book, place)
    return True


@njit(cache=True, nogil=True)
def trade(book, side, tick, lots, time_ns):
    """A trade of `lots` at `tick`; `side` is the aggressor's."""
    place = 0
    while place < book.resting[-1]:
        order = book.orders[book.resting[place]]
        # Positive: the trade went beyond our price.
        beyond = (tick - order.tick) * side
        done = False
        if order.side == -side and beyond > 0:
            done = fill(book, place, order.left, time_ns)
        elif order.side == -side and beyond == 0:
            order.ahead -= lots
            order.traded += lots
            reached = _round_half_up(-order.ahead)
            if reached > 0:
                order.ahead = 0.0
                filled = min(reached, order.left) if book.partial_fills else order.left
                done = fill(book, place, filled, time_ns)
        place += not done


@njit(cache=True, nogil=True)
def _round_half_up(x):
    whole = math.floor(x)
    return np.int64(whole + 1 if x - whole >= 0.5 else whole)


@njit(cache=True, nogil=True)
def set_level(book, side, tick, lots, time_ns):
    """A level of `side` (BUY: bid) now holds `lots`; one outside the window is ignored."""
    before, is_best = put(book, side, tick, lots)
    if before < 0:
        return
    for place in range(book.resting[-1]):
        order = book.orders[book.resting[place]]
        if order.side == side and order.tick == tick:
            _requeue(order, before, lots, book.queue_model, book.queue_exponent)
    if is_best:
        cross(book, side, tick, time_ns)


@njit(cache=True, nogil=True)
def cross(book, side, tick, time_ns):
    """A level has become the best of its side: it fills what it meets of ours."""
    place = 0
    while place < book.resting[-1]:
        order = book.orders[book.resting[place]]
        done = False
        if order.side == -side and (tick - order.tick) * side >= 0:
            done = fill(book, place, order.left, time_ns)
        place += not done


@njit(cache=True, nogil=True)
def put(levels, side, tick, lots):
    """Set a level of `Levels`, or of an `OrderBook` whose orders are left alone.

    Returns what it held, -1 outside the window, and whether it became the best of its side.
    """
    at = tick - levels.low_tick
    if not 0 <= at < levels.sizes.shape[1]:
        return -1.0, False
    best, own = levels.best, 0 if side == BUY else 1
    before = levels.sizes[own, at]
    levels.sizes[own, at] = lots
    if lots == 0:
        if tick == best[own]:
            best[own] = _next_level(levels, own, tick, -side)
        return before, False
    if (tick - best[own]) * side <= 0 and best[own] != NO_BID and best[own] != NO_ASK:
        return before, False
    best[own] = tick
    if best[0] >= best[1]:
        best[1 - own] = _next_level(levels, 1 - own, tick, side)
    return before, True


@njit(cache=True, nogil=True)
def _next_level(levels, own, tick, step):
    """The nearest level with any size beyond `tick` in the direction of `step`."""
    sizes = levels.sizes[own]
    at = tick - levels.low_tick + step
    while 0 <= at < len(sizes):
        if sizes[at] > 0:
            return at + levels.low_tick
        at += step
    return NO_BID if step < 0 else NO_ASK


@njit(cache=True, nogil=True)
def _requeue(order, before, lots, model, exponent):
    """The level at the order's price went from `before` to `lots`."""
    change = before - lots - order.traded
    order.traded = 0.0
    if model == _RISK_ADVERSE or change < 0:
        order.ahead = min(order.ahead, lots)
        return
    ahead = order.ahead
    behind = before - ahead
    prob = _probability(ahead, behind, model, exponent)
    if math.isinf(prob):
        prob = 1.0
    excess = behind - prob * change
    estimate = ahead - (1.0 - prob) * change + (excess if excess < 0 else 0.0)
    order.ahead = lots if math.isnan(estimate) or estimate > lots else estimate


@njit(cache=True, nogil=True, error_model="numpy")
def _probability(ahead, behind, model, exponent):
    """That a cancel at our price was behind us."""
    if model == _LOG:
        return math.log(1.0 + behind) / (math.log(1.0 + behind) + math.log(1.0 + ahead))
    if model == _LOG_2:
        return math.log(1.0 + behind) / math.log(1.0 + behind + ahead)
    if model == _POWER:
        return behind**exponent / (behind**exponent + ahead**exponent)
    if model == _POWER_2:
        return behind**exponent / (behind + ahead) ** exponent
    return 1.0 - (ahead / (ahead + behind)) ** exponent
