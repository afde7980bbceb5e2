"""A small matching engine of our own for post-only orders in a recorded or live book.

It serves twice: as an independent check of hftbacktest (`mmenv.venue.crosscheck`), and as the venue of
paper trading. The rules, as of an order that cannot move the market:

- An order is accepted behind all that rests at its price; at or through the opposite best price it expires.
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
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.capture import BUY, CLEAR, TRADE

MODELS: Final = ("risk-adverse", "log-prob", "log-prob-2", "power-prob", "power-prob-2", "power-prob-3")

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
    ]
)
"""An order. `time_ns` is the exchange time of its last change of state, `ahead` the lots queued before it,
`traded` the lots traded at its price since the level last changed."""

_NO_BID: Final = np.iinfo(np.int64).min
_NO_ASK: Final = np.iinfo(np.int64).max
_RISK_ADVERSE: Final = 0


class Matcher:
    """The book within a window of ticks and up to `capacity` orders, numbered by the caller from 0.

    Args:
        low_tick, high_tick: the window; levels and orders outside it are ignored and refused.
        capacity: number of orders.
        queue_model: one of MODELS.
        queue_exponent: n of the "power-prob" models.
        partial_fills: fill what a trade leaves for us; otherwise the whole order as soon as any would fill.

    Raises ValueError for an unknown model or an empty window.
    """

    def __init__(
        self,
        low_tick: int,
        high_tick: int,
        capacity: int,
        queue_model: str = "risk-adverse",
        queue_exponent: float = 3.0,
        partial_fills: bool = True,
    ) -> None:
        if queue_model not in MODELS:
            raise ValueError(f"queue_model is {queue_model!r}; it must be one of {', '.join(MODELS)}")
        if not low_tick < high_tick:
            raise ValueError(f"the window {low_tick} to {high_tick} holds no prices; high must exceed low")
        self.low_tick, self.high_tick = low_tick, high_tick
        self.sizes = np.zeros((2, high_tick - low_tick + 1))
        self.best = np.array([_NO_BID, _NO_ASK], np.int64)
        self.orders = np.zeros(capacity, ORDER)
        # The orders at the exchange come first; their count is the last element.
        self.open = np.zeros(capacity + 1, np.int64)
        self.model, self.exponent = MODELS.index(queue_model), queue_exponent
        self.partial_fills = partial_fills

    def depth(self, side: int, tick: int, lots: int, time_ns: int) -> None:
        """A level of `side` (BUY: bid) now holds `lots`."""
        _depth(
            self.sizes, self.best, self.orders, self.open, self.model, self.exponent,
            self.low_tick, side, tick, lots, time_ns,
        )  # fmt: skip

    def trade(self, side: int, tick: int, lots: int, time_ns: int) -> None:
        """A trade of `lots` at `tick`; `side` is the aggressor's."""
        _trade(self.best, self.orders, self.open, self.partial_fills, side, tick, lots, time_ns)

    def play(self, rows: NDArray[np.void], start: int = 0) -> int:
        """Apply rows from `start` until one fills an order, in whole or in part.

        Args:
            rows: `mmenv.data.tape.ROW` [n] without book tickers (`mmenv.data.tape.fused`), in exchange order.
            start: first row to apply.

        Returns:
            Index after the row that filled, or n.
        """
        return int(
            _play(
                rows, start, self.sizes, self.best, self.orders, self.open, self.model, self.exponent,
                self.partial_fills, self.low_tick,
            )
        )  # fmt: skip

    def clear(self) -> None:
        """Forget the book, as before a new snapshot; orders stay."""
        self.sizes[:] = 0
        self.best[:] = _NO_BID, _NO_ASK

    def submit(self, order: int, side: int, tick: int, lots: int, time_ns: int) -> int:
        """A post-only order arrives; its status, ACTIVE or EXPIRED. Raises ValueError outside the window."""
        if not self.low_tick <= tick <= self.high_tick or lots < 1:
            raise ValueError(f"order at {tick} of {lots} lots; ticks are {self.low_tick} to {self.high_tick}")
        self.orders[order] = (side, tick, lots, lots, WAITING, 0, 0.0, 0.0)
        _submit(self.sizes, self.best, self.orders, self.open, self.low_tick, order, time_ns)
        return int(self.orders["status"][order])

    def cancel(self, order: int, time_ns: int) -> bool:
        """A cancel arrives; whether there was anything left to cancel."""
        return bool(_cancel(self.orders, self.open, order, time_ns))


@njit(cache=True, nogil=True)
def _play(  # type: ignore[no-untyped-def]
    rows, start, sizes, best, orders, live, model, exponent, partial_fills, low_tick
):
    before = _left(orders, live)
    for place in range(start, len(rows)):
        row = rows[place]
        if row.kind == TRADE:
            _trade(best, orders, live, partial_fills, row.side, row.price, row.size, row.exch_ns)
        elif row.kind == CLEAR:
            sizes[:] = 0
            best[0], best[1] = _NO_BID, _NO_ASK
        else:
            _depth(
                sizes, best, orders, live, model, exponent, low_tick, row.side, row.price, row.size,
                row.exch_ns,
            )  # fmt: skip
        if before != _left(orders, live):
            return place + 1
    return len(rows)


@njit(cache=True, nogil=True)
def _left(orders, live):  # type: ignore[no-untyped-def]
    """Lots left of all open orders: rows only ever take from it."""
    lots = 0
    for place in range(live[-1]):
        lots += orders[live[place]].left
    return lots


@njit(cache=True, nogil=True)
def _submit(sizes, best, orders, live, low_tick, index, time_ns):  # type: ignore[no-untyped-def]
    order = orders[index]
    order.time_ns = time_ns
    crosses = order.tick >= best[1] if order.side == BUY else order.tick <= best[0]
    if crosses:
        order.status = EXPIRED
        return
    order.status = ACTIVE
    order.ahead = sizes[0 if order.side == BUY else 1, order.tick - low_tick]
    order.traded = 0.0
    live[live[-1]] = index
    live[-1] += 1


@njit(cache=True, nogil=True)
def _cancel(orders, live, index, time_ns):  # type: ignore[no-untyped-def]
    for place in range(live[-1]):
        if live[place] == index:
            orders[index].status = CANCELLED
            orders[index].time_ns = time_ns
            live[-1] -= 1
            live[place] = live[live[-1]]
            return True
    return False


@njit(cache=True, nogil=True)
def _fill(orders, live, place, lots, time_ns):  # type: ignore[no-untyped-def]
    """Fill an open order; whether it is done, and its place taken by another."""
    order = orders[live[place]]
    order.left -= lots
    order.time_ns = time_ns
    if order.left > 0:
        order.status = PARTIALLY_FILLED
        return False
    order.status = FILLED
    live[-1] -= 1
    live[place] = live[live[-1]]
    return True


@njit(cache=True, nogil=True)
def _trade(best, orders, live, partial_fills, side, tick, lots, time_ns):  # type: ignore[no-untyped-def]
    place = 0
    while place < live[-1]:
        order = orders[live[place]]
        # Positive: the trade went beyond our price.
        beyond = (tick - order.tick) * side
        done = False
        if order.side == -side and beyond > 0:
            done = _fill(orders, live, place, order.left, time_ns)
        elif order.side == -side and beyond == 0:
            order.ahead -= lots
            order.traded += lots
            reached = _round_half_up(-order.ahead)
            if reached > 0:
                order.ahead = 0.0
                done = _fill(
                    orders, live, place, min(reached, order.left) if partial_fills else order.left, time_ns
                )
        place += not done


@njit(cache=True, nogil=True)
def _round_half_up(x):  # type: ignore[no-untyped-def]
    whole = math.floor(x)
    return np.int64(whole + 1 if x - whole >= 0.5 else whole)


@njit(cache=True, nogil=True)
def _depth(  # type: ignore[no-untyped-def]
    sizes, best, orders, live, model, exponent, low_tick, side, tick, lots, time_ns
):
    at = tick - low_tick
    if not 0 <= at < sizes.shape[1]:
        return
    own = 0 if side == BUY else 1
    before = sizes[own, at]
    sizes[own, at] = lots
    for place in range(live[-1]):
        order = orders[live[place]]
        if order.side == side and order.tick == tick:
            _requeue(order, before, lots, model, exponent)
    if lots == 0:
        if tick == best[own]:
            best[own] = _next_level(sizes[own], tick, low_tick, -side)
        return
    if (tick - best[own]) * side <= 0 and best[own] != _NO_BID and best[own] != _NO_ASK:
        return
    best[own] = tick
    other = 1 - own
    if best[0] >= best[1]:
        best[other] = _next_level(sizes[other], tick, low_tick, side)
    place = 0
    while place < live[-1]:
        order = orders[live[place]]
        done = False
        if order.side == -side and (tick - order.tick) * side >= 0:
            done = _fill(orders, live, place, order.left, time_ns)
        place += not done


@njit(cache=True, nogil=True)
def _next_level(sizes, tick, low_tick, step):  # type: ignore[no-untyped-def]
    """The nearest level with any size beyond `tick` in the direction of `step`."""
    at = tick - low_tick + step
    while 0 <= at < len(sizes):
        if sizes[at] > 0:
            return at + low_tick
        at += step
    return _NO_BID if step < 0 else _NO_ASK


@njit(cache=True, nogil=True)
def _requeue(order, before, lots, model, exponent):  # type: ignore[no-untyped-def]
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
def _probability(ahead, behind, model, exponent):  # type: ignore[no-untyped-def]
    """That a cancel at our price was behind us."""
    if model == 1:
        return math.log(1.0 + behind) / (math.log(1.0 + behind) + math.log(1.0 + ahead))
    if model == 2:
        return math.log(1.0 + behind) / math.log(1.0 + behind + ahead)
    if model == 3:
        return behind**exponent / (behind**exponent + ahead**exponent)
    if model == 4:
        return behind**exponent / (behind + ahead) ** exponent
    return 1.0 - (ahead / (ahead + behind)) ** exponent
