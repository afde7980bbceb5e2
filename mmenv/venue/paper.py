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

from mmenv.data.capture import BUY, CLEAR, TRADE
from mmenv.data.tape import BUY_FLAG, EXCH_FLAG, FUSE_START, LOCAL_FLAG, ROW, fused
from mmenv.venue import matcher
from mmenv.venue.latency import Latency
from mmenv.venue.matcher import Matcher
from mmenv.venue.replay import EVENT_FIELDS, ReplayConfig, ReplayVenue, Span
from mmenv.venue.working import FILL, Working

(
    TIME, BEST_BID, BEST_ASK, BEST_BID_LOTS, BEST_ASK_LOTS, BUY_LOTS, SELL_LOTS, BUY_NOTIONAL, SELL_NOTIONAL,
    TRADES, MAX_TRADE, LAST_TRADE, ASK_FILL, ASK_FILL_NOTIONAL, BID_FILL, BID_FILL_NOTIONAL, ASK_OPEN,
    BID_OPEN, POSITION, DATA_END,
) = range(len(EVENT_FIELDS))  # fmt: skip

ROOM: Final = 1 << 12
STEP_NS: Final = 2_000_000
"""Between decisions too the paper exchange is played, whenever our clock passes a multiple of this, so that
a decision finds little left to do."""
_FIRST, _COUNT, _PLAYED, _LATE = range(4)


class View:
    """What we know of the market: the book as of the newest message, and trades since the last decision.

    Args:
        low_tick, high_tick: the window of prices; levels outside are ignored.
    """

    def __init__(self, low_tick: int, high_tick: int) -> None:
        self.low_tick, self.high_tick = low_tick, high_tick
        self.book = Matcher(low_tick, high_tick, 1)
        self.sizes = np.zeros((2, high_tick - low_tick + 1), np.int64)
        self.fuse = FUSE_START.copy()
        self.event = np.zeros(len(EVENT_FIELDS), np.int64)
        """Row of EVENT_FIELDS in the making."""
        self._book = _book(self.book)

    def take(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Apply ROW rows [n] in arrival order; the rows [m] without tickers, see `mmenv.data.tape.fused`."""
        return _see_rows(rows, self.sizes, self.fuse, self.event, *self._book)

    def observe(self, time_ns: int) -> None:
        """Complete `event` with the book at a decision."""
        self.event[TIME] = time_ns
        _see_book(self.book.sizes, self.book.best, self.low_tick, self.high_tick, self.event)

    def begin(self) -> None:
        """Forget trades and fills: a new interval starts."""
        self.event[BUY_LOTS:ASK_OPEN] = 0

    @property
    def known(self) -> bool:
        """Whether there is a bid and an ask."""
        return bool(self.book.best[0] >= self.low_tick and self.book.best[1] <= self.high_tick)


class PaperVenue:
    """The exchange of one paper symbol.

    Args:
        view: our own picture of the market, which this shares.
        working: our orders.
        latency: from us to the exchange and back; nanoseconds if it is constant, as it must be for the live
            path (`take` and `collect`).
        queue_model, queue_exponent, partial_fills: see `mmenv.venue.matcher.Matcher`.
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
        self.engine = Matcher(
            view.low_tick, view.high_tick, working.slots.size, queue_model, queue_exponent, partial_fills
        )
        # Rows that the exchange has not played yet, in its order of time: [_FIRST, _COUNT).
        self._pending = np.zeros(ROOM, ROW)
        self._state = np.zeros(4, np.int64)
        self._fills = np.zeros(working.slots.size, FILL)
        engine = self.engine
        self._rules = engine.model, engine.exponent, engine.partial_fills
        self._book = _book(engine)

    @property
    def late(self) -> int:
        """Rows that came later than the latency, and so too late to be put in the exchange's order."""
        return int(self._state[_LATE])

    def take(self, plain: NDArray[np.void]) -> None:
        """Rows that `View.take` gave."""
        self._make_room(len(plain))
        _take_rows(
            plain, self.latency_ns, self._pending, self._state, self.working.slots, *self._rules, *self._book
        )

    def _make_room(self, rows: int) -> None:
        """For so many more."""
        first, count = self._state[_FIRST], self._state[_COUNT]
        if count + rows <= len(self._pending):
            return
        left = self._pending[first:count].copy()
        if len(left) + rows > len(self._pending):
            self._pending = np.zeros(2 * (len(left) + rows), ROW)
        self._pending[: len(left)] = left
        self._state[_FIRST], self._state[_COUNT] = 0, len(left)

    def quote(self, quotes: NDArray[np.int64], time_ns: int) -> NDArray[np.void]:
        """Send what makes the quotes (ask tick, lots, bid tick, lots) stand; the COMMAND [k] sent."""
        commands = self.working.requote(quotes, time_ns)
        if len(commands):
            _send(commands, self.working.slots, self.latency.arrival(time_ns))
        return commands

    def collect(self, time_ns: int) -> NDArray[np.void]:
        """Play the exchange as far as we can know of it at `time_ns`; FILL [k], also booked in the event."""
        _play_pending(
            self._pending,
            self._state,
            time_ns - self.latency_ns,
            self.working.slots,
            *self._rules,
            *self._book,
        )
        return self._known()

    def drop(self) -> None:
        """All orders are gone, as after a lost connection."""
        self.working.slots[:] = 0
        self.engine.open[-1] = 0

    def play_events(self, events: NDArray[np.void], at: int, time_ns: int) -> tuple[int, NDArray[np.void]]:
        """As `collect`, from the exchange side of a tape's EVENT [m] from row `at` on; the next row, and the
        fills."""
        until = self.latency.known(time_ns)
        at = _play_events(events, at, until, self.working.slots, *self._rules, *self._book)
        return at, self._known()

    def _known(self) -> NDArray[np.void]:
        working = self.working
        count, working.position = _collect(
            working.slots, self.engine.orders, working.position, self._fills, self.view.event
        )
        return self._fills[:count].copy()


class MatcherVenue(ReplayVenue):
    """Recorded tapes with our own matcher as the exchange; otherwise as `mmenv.venue.replay.ReplayVenue`."""

    def __init__(self, tapes: Any, n: int, config: ReplayConfig | None = None) -> None:
        super().__init__(tapes, n, config)
        self._cursors = np.zeros((n, 2), np.int64)
        self._papers: list[PaperVenue | None] = [None] * n

    def start(self, lane: int, span: Span, local_ns: int) -> NDArray[np.int64]:
        """As `ReplayVenue.start`."""
        if not 0 <= lane < self.n:
            raise IndexError(f"lane is {lane}; this venue has lanes 0 to {self.n - 1}")
        if not span.first_ns <= local_ns <= span.end_ns:
            raise ValueError(f"start {local_ns} is outside its span, {span.first_ns} to {span.end_ns}")
        replay, config = self._replays[span.tape], self.config
        index = replay.start(local_ns)
        view = View(replay.low_tick, replay.high_tick)
        limit = config.position_limit_lots or np.iinfo(np.int64).max // 2
        working = Working(self._orders.shape[2], limit)
        paper = PaperVenue(
            view, working, Latency(config.order_latency_ns, self._round_trips(span, local_ns)),
            config.queue_model, config.queue_exponent, config.partial_fills,
        )  # fmt: skip
        levels = replay.levels[replay.bounds[index] : replay.bounds[index + 1]]
        for book in (view.book, paper.engine):
            for level in levels:
                side = BUY if level["ev"] & np.uint64(BUY_FLAG) else -BUY
                book.depth(side, int(level["px"]), int(level["qty"]), 0)
        self._papers[lane], self._cursors[lane] = paper, replay.rows[index]
        self._lanes[lane] = 0
        self._lanes["low_tick"][lane], self._lanes["high_tick"][lane] = replay.low_tick, replay.high_tick
        self._lanes["end_ns"][lane] = span.end_ns
        self.lane_tape[lane] = span.tape
        self._elapse(lane, local_ns)
        view.begin()
        self._events[lane] = view.event
        return self._events[lane].copy()

    def advance(self, quotes: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `ReplayVenue.advance`."""
        for lane in range(self.n):
            paper = self._papers[lane]
            if paper is None:
                raise RuntimeError(f"lane {lane} has not been reset; call reset(lane, generator) first")
            view = paper.view
            view.begin()
            if not view.event[DATA_END]:
                now = int(view.event[TIME])
                paper.quote(quotes[lane], now)
                self._elapse(lane, now + self.config.decision_interval_ns)
            self._events[lane] = view.event
        return self._events

    def _elapse(self, lane: int, until_ns: int) -> None:
        """Take a lane to `until_ns`, but never past the end of its span."""
        paper = self._papers[lane]
        assert paper is not None
        view, events = paper.view, self._replays[self.lane_tape[lane]].events
        end_ns = int(self._lanes["end_ns"][lane])
        time_ns = min(until_ns, end_ns)
        local, exchange = self._cursors[lane]
        local = _see_events(events, local, time_ns, view.event, *_book(view.book))
        exchange, _ = paper.play_events(events, exchange, time_ns)
        self._cursors[lane] = local, exchange
        view.observe(time_ns)
        view.event[DATA_END] = time_ns >= end_ns or local >= len(events)


def _book(engine: Matcher) -> Any:
    return engine.sizes, engine.best, engine.orders, engine.open, engine.low_tick


@njit(cache=True, nogil=True)
def _see_rows(rows, levels, fuse, event, sizes, best, orders, live, low_tick):  # type: ignore[no-untyped-def]
    plain = fused(rows, low_tick, levels, fuse)
    for row in plain:
        if row.kind == TRADE:
            _count_trade(row.side, row.price, row.size, event)
        else:
            _see_level(row.kind, row.side, row.price, row.size, sizes, best, orders, live, low_tick)
    return plain


@njit(cache=True, nogil=True)
def _see_events(events, at, until_ns, event, sizes, best, orders, live, low_tick):  # type: ignore[no-untyped-def]
    """Apply what a tape shows us up to a local time; the next row."""
    while at < len(events):
        e = events[at]
        if e.ev & LOCAL_FLAG:
            if e.local_ts > until_ns:
                break
            side = BUY if e.ev & BUY_FLAG else -BUY
            if e.ev & 0xFF == TRADE:
                _count_trade(side, int(e.px), int(e.qty), event)
            else:
                _see_level(e.ev & 0xFF, side, int(e.px), int(e.qty), sizes, best, orders, live, low_tick)
        at += 1
    return at


@njit(cache=True, nogil=True)
def _see_level(kind, side, tick, lots, sizes, best, orders, live, low_tick):  # type: ignore[no-untyped-def]
    if kind == CLEAR:
        sizes[:] = 0
        best[0], best[1] = matcher._NO_BID, matcher._NO_ASK
        return
    matcher._depth(sizes, best, orders, live, 0, 0.0, low_tick, side, tick, lots, 0)


@njit(cache=True, nogil=True)
def _count_trade(side, tick, lots, event):  # type: ignore[no-untyped-def]
    if side == BUY:
        event[BUY_LOTS] += lots
        event[BUY_NOTIONAL] += lots * tick
    else:
        event[SELL_LOTS] += lots
        event[SELL_NOTIONAL] += lots * tick
    event[TRADES] += 1
    event[MAX_TRADE] = max(event[MAX_TRADE], lots)
    event[LAST_TRADE] = lots


@njit(cache=True, nogil=True)
def _see_book(sizes, best, low_tick, high_tick, event):  # type: ignore[no-untyped-def]
    """The touch; a side without levels keeps its last price and has no lots."""
    has_bid, has_ask = best[0] >= low_tick, best[1] <= high_tick
    event[BEST_BID_LOTS] = int(sizes[0, best[0] - low_tick]) if has_bid else 0
    event[BEST_ASK_LOTS] = int(sizes[1, best[1] - low_tick]) if has_ask else 0
    if has_bid:
        event[BEST_BID] = best[0]
    if has_ask:
        event[BEST_ASK] = best[1]


@njit(cache=True, nogil=True)
def _send(commands, slots, arrival_ns):  # type: ignore[no-untyped-def]
    """Put orders and cancels on their way."""
    for command in commands:
        side = 0 if command.side < 0 else 1
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            if slot.id == command.id and command.lots > 0:
                slot.arrives_ns = arrival_ns
            elif slot.id == command.id:
                slot.cancel_ns = arrival_ns


@njit(cache=True, nogil=True)
def _deliver(slots, before_ns, sizes, best, orders, live, low_tick):  # type: ignore[no-untyped-def]
    """Orders and cancels that reach the exchange before this time; when the next one does."""
    due = np.iinfo(np.int64).max
    for side in range(2):
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            index = side * slots.shape[1] + place
            if slot.id == 0:
                continue
            if 0 < slot.arrives_ns < before_ns:
                order = orders[index]
                order.side, order.tick = -1 if side == 0 else 1, slot.tick
                order.lots = order.left = slot.lots
                matcher._submit(sizes, best, orders, live, low_tick, index, slot.arrives_ns)
                slot.arrives_ns = 0
            if 0 < slot.cancel_ns < before_ns:
                matcher._cancel(orders, live, index, slot.cancel_ns)
                slot.cancel_ns = 0
            if slot.arrives_ns > 0:
                due = min(due, slot.arrives_ns)
            if slot.cancel_ns > 0:
                due = min(due, slot.cancel_ns)
    return due


@njit(cache=True, nogil=True)
def _take_rows(  # type: ignore[no-untyped-def]
    rows, latency_ns, pending, state, slots, model, exponent, partial, sizes, best, orders, live, low_tick
):
    """Keep rows until the exchange is played up to their time, in its order; `pending` has room for them.

    Rows of the same time stay in the order in which they came.
    """
    for row in rows:
        until = row.local_ns // STEP_NS * STEP_NS - latency_ns
        if until > state[_PLAYED]:
            _play_pending(
                pending, state, until, slots, model, exponent, partial, sizes, best, orders, live, low_tick
            )
        if row.exch_ns <= state[_PLAYED]:
            row.exch_ns = state[_PLAYED] + 1
            state[_LATE] += 1
        at = state[_COUNT]
        while at > state[_FIRST] and pending[at - 1].exch_ns > row.exch_ns:
            pending[at] = pending[at - 1]
            at -= 1
        pending[at] = row
        state[_COUNT] += 1


@njit(cache=True, nogil=True)
def _play_pending(  # type: ignore[no-untyped-def]
    pending, state, until_ns, slots, model, exponent, partial, sizes, best, orders, live, low_tick
):
    """Take the exchange to a time, if it is not there yet: market data before orders of one nanosecond."""
    if until_ns <= state[_PLAYED]:
        return
    due = _deliver(slots, 0, sizes, best, orders, live, low_tick)
    at = state[_FIRST]
    while at < state[_COUNT] and pending[at].exch_ns <= until_ns:
        row = pending[at]
        if row.exch_ns > due:
            due = _deliver(slots, row.exch_ns, sizes, best, orders, live, low_tick)
        _play(
            row.kind, row.side, row.price, row.size, row.exch_ns,
            sizes, best, orders, live, low_tick, model, exponent, partial,
        )  # fmt: skip
        at += 1
    _deliver(slots, until_ns + 1, sizes, best, orders, live, low_tick)
    state[_FIRST], state[_PLAYED] = at, until_ns


@njit(cache=True, nogil=True)
def _play_events(  # type: ignore[no-untyped-def]
    events, at, until_ns, slots, model, exponent, partial, sizes, best, orders, live, low_tick
):
    due = _deliver(slots, 0, sizes, best, orders, live, low_tick)
    while at < len(events):
        e = events[at]
        if e.ev & EXCH_FLAG:
            if e.exch_ts > until_ns:
                break
            if e.exch_ts > due:
                due = _deliver(slots, e.exch_ts, sizes, best, orders, live, low_tick)
            _play(
                e.ev & 0xFF, BUY if e.ev & BUY_FLAG else -BUY, int(e.px), int(e.qty), e.exch_ts,
                sizes, best, orders, live, low_tick, model, exponent, partial,
            )  # fmt: skip
        at += 1
    _deliver(slots, until_ns + 1, sizes, best, orders, live, low_tick)
    return at


@njit(cache=True, nogil=True)
def _play(  # type: ignore[no-untyped-def]
    kind, side, tick, lots, time_ns, sizes, best, orders, live, low_tick, model, exponent, partial
):
    if kind == TRADE:
        matcher._trade(best, orders, live, partial, side, tick, lots, time_ns)
    elif kind == CLEAR:
        sizes[:] = 0
        best[0], best[1] = matcher._NO_BID, matcher._NO_ASK
    else:
        matcher._depth(sizes, best, orders, live, model, exponent, low_tick, side, tick, lots, time_ns)


@njit(cache=True, nogil=True)
def _collect(slots, orders, position, fills, event):  # type: ignore[no-untyped-def]
    """Book what has filled and forget orders that are no more; how many fills, and the position."""
    count = 0
    for side in range(2):
        open_lots = 0
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            if slot.id == 0:
                continue
            if slot.arrives_ns > 0:
                open_lots += slot.lots
                continue
            order = orders[side * slots.shape[1] + place]
            slot.acknowledged = 1
            new = order.lots - order.left - slot.filled
            if new > 0:
                fills[count].time_ns, fills[count].id = order.time_ns, slot.id
                fills[count].side, fills[count].tick = order.side, slot.tick
                fills[count].lots = new
                count += 1
                position += new * order.side
                book_fill(event, side, slot.tick, new)
            slot.filled += new
            if order.status == matcher.ACTIVE or order.status == matcher.PARTIALLY_FILLED:
                open_lots += order.left
            else:
                slot.id = 0
        event[ASK_OPEN if side == 0 else BID_OPEN] = open_lots
    event[POSITION] = position
    return count, position


@njit(cache=True, nogil=True)
def book_fill(event, side, tick, lots):  # type: ignore[no-untyped-def]
    """Add a fill of our ask (side 0) or bid (1) to the event."""
    event[ASK_FILL if side == 0 else BID_FILL] += lots
    event[ASK_FILL_NOTIONAL if side == 0 else BID_FILL_NOTIONAL] += lots * tick
