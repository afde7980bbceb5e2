"""Paper trading: our own matcher as the exchange, fed by a live stream or by a tape.

Two clocks, as in hftbacktest. Ours is the time a message reached us; the exchange's is the time it carries.
An order sent at t reaches the exchange at t + latency, and what happens to it there at u is known to us at
u + latency. So at decision time T the exchange has been played up to T - latency, in the order of exchange
times: messages that arrive out of order, but within the latency, are put right before they matter. A later
one counts as happening just after what has been played by then. With those times on the tape, hftbacktest
gives the same fills byte for byte; it is tested.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.events import BUY_FLAG, EXCH_FLAG
from mmenv.data.rows import BUY, ROW, SELL
from mmenv.engine.memory import fill
from mmenv.times import MILLISECOND
from mmenv.venue.by_order import apply_order
from mmenv.venue.latency import Latency
from mmenv.venue.matcher import (
    ACTIVE,
    BY_ORDER,
    PARTIALLY_FILLED,
    OrderBook,
    apply,
    cancel,
    empty_book,
    renew_best,
    shift,
    submit,
    take,
)
from mmenv.venue.outcome import ASK, BID, TAKEN, book_fill, book_taken
from mmenv.venue.view import View
from mmenv.venue.working import FILL, Working

ROOM: Final = 1 << 12
STEP_NS: Final = 2 * MILLISECOND
"""Between decisions too the paper exchange is played, whenever our clock passes a multiple of this, so that
a decision finds little left to do."""

PROGRESS: Final = np.dtype([("first", "i8"), ("end", "i8"), ("played_ns", "i8"), ("late", "i8")])
"""How far the exchange has been played: rows `first` to `end` of those that wait for it are still to come,
`played_ns` is the exchange's time, and `late` rows came too late to be put in its order."""


class PaperVenue:
    """The exchange of one paper symbol.

    Parameters
    ----------
    view
        Our own picture of the market, which this shares.
    working
        Our orders.
    latency
        From us to the exchange and back; nanoseconds if it is constant, as it must be for the live path
        (`take` and `collect`).
    queue_model, queue_exponent, partial_fills
        See `mmenv.venue.matcher.empty_book`.
    """

    def __init__(
        self,
        view: View,
        working: Working,
        latency: Latency | int,
        queue_model: str = "risk-adverse",
        queue_exponent: float = 3.0,
        partial_fills: bool = True,
    ) -> None:
        self.view, self.working = view, working
        self.latency = Latency(latency) if isinstance(latency, int) else latency
        self.latency_ns = self.latency.constant_ns
        orders = working.slots.size
        self.book = empty_book(
            view.low_tick, view.high_tick, orders, queue_model, queue_exponent, partial_fills
        )
        """The exchange's book, with an order for each slot of `working`, in the order of the slots."""
        self._book = tuple(self.book)
        self._pending = np.zeros(ROOM, ROW)
        self._progress = np.zeros(1, PROGRESS)
        # Views, which are looked up with every message.
        self._first, self._end = self._progress["first"], self._progress["end"]
        self._fills = np.zeros(orders, FILL)
        self.taken = np.zeros(1, TAKEN)
        """TAKEN (1,): what our market orders filled of the fills that were collected last."""

    @property
    def late(self) -> int:
        """Rows that came later than the latency, and so too late to be put in the exchange's order."""
        return int(self._progress["late"][0])

    def take(self, plain: NDArray[np.void]) -> None:
        """Rows that `View.take` gave."""
        self._make_room(len(plain))
        _take_rows(self._book, self.working.slots, self._pending, self._progress, plain, self.latency_ns)

    def _make_room(self, rows: int) -> None:
        """Make sure that so many more can wait."""
        if self._end[0] + rows <= len(self._pending):
            return
        left = self._pending[self._first[0] : self._end[0]].copy()
        if len(left) + rows > len(self._pending):
            self._pending = np.zeros(2 * (len(left) + rows), ROW)
        self._pending[: len(left)] = left
        self._first[0], self._end[0] = 0, len(left)

    def quote(self, quotes: NDArray[np.int64], time_ns: int) -> NDArray[np.void]:
        """Send what makes the quotes stand (see `Working.requote`); the COMMAND [k] sent."""
        return self._send(self.working.requote(quotes, time_ns), time_ns)

    def market_order(self, tick: int, lots: int, time_ns: int) -> NDArray[np.void]:
        """Send a market order of so many lots, above 0 to buy, that pays `tick` at worst, after the quotes of
        its decision; the COMMAND [k] sent."""
        return self._send(self.working.take(tick, lots, time_ns), time_ns)

    def _send(self, commands: NDArray[np.void], time_ns: int) -> NDArray[np.void]:
        if len(commands):
            _send(commands, self.working.slots, self.latency.arrival(time_ns))
        return commands

    def collect(self, time_ns: int) -> NDArray[np.void]:
        """Play the exchange as far as we can know of it at `time_ns`; the FILL [k], booked in the outcome."""
        working = self.working
        count, working.position = _collect_pending(
            self._book, working.slots, self._pending, self._progress, time_ns - self.latency_ns,
            working.position, self._fills, self.view.outcomes, self.taken,
        )  # fmt: skip
        return self._fills[:count].copy()

    def move(self, low_tick: int) -> None:
        """As `View.move`, in the exchange's own book; our orders stay where they are."""
        shift(self.book.sizes, low_tick - self.book.low_tick)
        self.book = self.book._replace(low_tick=low_tick)
        renew_best(self.book)
        self._book = tuple(self.book)

    def kept(self) -> dict[str, Any]:
        """All that it knows beside the view and our orders, in arrays and numbers; see `restore`."""
        book = self.book
        return {
            "low_tick": book.low_tick,
            "book": [book.sizes, book.best, book.orders, book.resting, book.arrivals],
            "pending": self._pending[self._first[0] : self._end[0]],
            "played": [int(self._progress[name][0]) for name in ("played_ns", "late")],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `kept` gave, of a venue with the same settings."""
        self.book = book = self.book._replace(low_tick=state["low_tick"])
        self._book = tuple(book)
        own = (book.sizes, book.best, book.orders, book.resting, book.arrivals)
        for array, saved in zip(own, state["book"], strict=True):
            fill(array, saved)
        waiting = np.ascontiguousarray(state["pending"]).view(ROW).reshape(-1)
        self._first[0] = self._end[0] = 0
        self._make_room(len(waiting))
        self._pending[: len(waiting)], self._end[0] = waiting, len(waiting)
        self._progress["played_ns"], self._progress["late"] = state["played"]

    def ahead(self) -> tuple[int, int]:
        """Lots ahead of the nearest ask and bid that we want, as of the newest answer; -1 where there is
        none."""
        found = _ahead(self.book.orders, self.working.slots)
        return int(found[0]), int(found[1])

    def drop(self) -> None:
        """All orders are gone, as after a lost connection."""
        self.working.slots[:] = 0
        self.book.resting[-1] = 0

    def play_events(self, events: NDArray[np.void], at: int, time_ns: int) -> tuple[int, NDArray[np.void]]:
        """As `collect`, from the exchange side of a tape's EVENT [m] from row `at` on; the next row, and the
        fills."""
        working = self.working
        at, count, working.position = _collect_events(
            self._book, working.slots, events, at, self.latency.known(time_ns),
            working.position, self._fills, self.view.outcomes, self.taken,
        )  # fmt: skip
        return at, self._fills[:count].copy()


@njit(cache=True, nogil=True)
def _ahead(orders, slots):
    """See `PaperVenue.ahead`."""
    found = np.full(2, -1, np.int64)
    for side in (ASK, BID):
        direction, nearest = 1 if side == ASK else -1, np.iinfo(np.int64).max
        for place in range(slots.shape[1]):
            slot, order = slots[side, place], orders[side * slots.shape[1] + place]
            stands = order.status == ACTIVE or order.status == PARTIALLY_FILLED
            stands = stands and direction * slot.tick < nearest
            if slot.id != 0 and slot.unwanted == 0 and slot.arrives_ns == 0 and stands:
                nearest, found[side] = direction * slot.tick, np.int64(order.ahead)
    return found


@njit(cache=True, nogil=True)
def _send(commands, slots, arrival_ns):
    """Put orders and cancels on their way."""
    for command in commands:
        side = ASK if command.side == SELL else BID
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            if slot.id == command.id and command.lots > 0:
                slot.arrives_ns = arrival_ns
            elif slot.id == command.id:
                slot.cancel_ns = arrival_ns


@njit(cache=True, nogil=True)
def _deliver(book, slots, before_ns):
    """Orders and cancels that reach the exchange before this time; when the next one does."""
    due = np.iinfo(np.int64).max
    for side in (ASK, BID):
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            index = side * slots.shape[1] + place
            if slot.id == 0:
                continue
            if 0 < slot.arrives_ns < before_ns:
                order = book.orders[index]
                order.side, order.tick = SELL if side == ASK else BUY, slot.tick
                order.lots = order.left = slot.lots
                if slot.market:
                    take(book, index, slot.arrives_ns)
                else:
                    submit(book, index, slot.arrives_ns)
                slot.arrives_ns = 0
            if 0 < slot.cancel_ns < before_ns:
                cancel(book, index, slot.cancel_ns)
                slot.cancel_ns = 0
            if slot.arrives_ns > 0:
                due = min(due, slot.arrives_ns)
            if slot.cancel_ns > 0:
                due = min(due, slot.cancel_ns)
    return due


@njit(cache=True, nogil=True)
def _take_rows(state, slots, pending, progress, rows, latency_ns):
    """Keep rows until the exchange is played up to their time, in its order; `pending` has room for them.

    Rows of the same time stay in the order in which they came.
    """
    book, progress = OrderBook(*state), progress[0]
    for row in rows:
        until_ns = row.local_ns // STEP_NS * STEP_NS - latency_ns
        if until_ns > progress.played_ns:
            _play_pending(book, slots, pending, progress, until_ns)
        if row.exch_ns <= progress.played_ns:
            row.exch_ns = progress.played_ns + 1
            progress.late += 1
        at = progress.end
        while at > progress.first and pending[at - 1].exch_ns > row.exch_ns:
            pending[at] = pending[at - 1]
            at -= 1
        pending[at] = row
        progress.end += 1


@njit(cache=True, nogil=True)
def _collect_pending(state, slots, pending, progress, until_ns, position, fills, outcomes, taken):
    book = OrderBook(*state)
    _play_pending(book, slots, pending, progress[0], until_ns)
    return _collect(book, slots, position, fills, outcomes[0], taken[0])


@njit(cache=True, nogil=True)
def _collect_events(state, slots, events, at, until_ns, position, fills, outcomes, taken):
    book = OrderBook(*state)
    at = _play_events(book, slots, events, at, until_ns)
    count, position = _collect(book, slots, position, fills, outcomes[0], taken[0])
    return at, count, position


@njit(cache=True, nogil=True)
def _play_pending(book, slots, pending, progress, until_ns):
    """Take the exchange to a time, if it is not there yet: market data before orders of one nanosecond."""
    if until_ns <= progress.played_ns:
        return
    due = _deliver(book, slots, 0)
    at = progress.first
    while at < progress.end and pending[at].exch_ns <= until_ns:
        row = pending[at]
        if row.exch_ns > due:
            due = _deliver(book, slots, row.exch_ns)
        apply(book, row.kind, row.side, row.price, row.size, row.exch_ns)
        at += 1
    _deliver(book, slots, until_ns + 1)
    progress.first, progress.played_ns = at, until_ns


@njit(cache=True, nogil=True)
def _play_events(book, slots, events, at, until_ns):
    due = _deliver(book, slots, 0)
    while at < len(events):
        e = events[at]
        if e.ev & EXCH_FLAG:
            if e.exch_ts > until_ns:
                break
            if e.exch_ts > due:
                due = _deliver(book, slots, e.exch_ts)
            if book.queue_model == BY_ORDER:
                apply_order(book, e, False)
            else:
                side = BUY if e.ev & BUY_FLAG else SELL
                apply(book, e.ev & 0xFF, side, int(e.px), int(e.qty), e.exch_ts)
        at += 1
    _deliver(book, slots, until_ns + 1)
    return at


@njit(cache=True, nogil=True)
def _collect(book, slots, position, fills, outcome, taken):
    """Book what has filled and forget orders that are no more; how many fills, and the position."""
    count = 0
    taken.sold_lots = taken.sold_notional = taken.bought_lots = taken.bought_notional = 0
    for side in (ASK, BID):
        open_lots = 0
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            if slot.id == 0:
                continue
            if slot.arrives_ns > 0:
                open_lots += slot.lots
                continue
            order = book.orders[side * slots.shape[1] + place]
            slot.acknowledged = 1
            new = order.lots - order.left - slot.filled
            if new > 0:
                fill = fills[count]
                fill.time_ns, fill.id, fill.lots = order.time_ns, slot.id, new
                fill.side, fill.tick = order.side, order.tick
                count += 1
                position += new * order.side
                if slot.market:
                    book_taken(taken, side, order.tick, new)
                else:
                    book_fill(outcome, side, order.tick, new)
            slot.filled += new
            if order.status == ACTIVE or order.status == PARTIALLY_FILLED:
                open_lots += order.left
            else:
                slot.id = 0
        if side == ASK:
            outcome.ask_open_lots = open_lots
        else:
            outcome.bid_open_lots = open_lots
    outcome.position_lots = position
    return count, position
