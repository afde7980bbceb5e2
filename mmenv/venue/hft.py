"""Recorded tapes with hftbacktest as the engine: it replays the market and matches our orders.

hftbacktest (MIT, https://github.com/nkaz001/hftbacktest) keeps two clocks, the exchange's and ours, moves
orders and market data between them with latency, and estimates our place in the queue. `HftVenue` runs
one of its backtests per lane and steps all lanes in one compiled call. Prices go in as ticks and sizes as
lots, both whole numbers, so that nothing is rounded towards the market on the way.

Its sharp edges stay behind this module and `mmenv.venue.hft_calls`: it reads freed memory when used after
closing, takes any array for its own layout, stops for good after a fill of exactly the remaining size, and
counts only the last slice of an order filled in parts.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.checks import ConfigError
from mmenv.data.events import BUY_FLAG
from mmenv.data.tape import Tape
from mmenv.venue import hft_calls as hft
from mmenv.venue.hft_calls import close_backtest, open_backtest
from mmenv.venue.outcome import ASK, BID, OUTCOME, begin_interval, book_fill, book_taken, count_trade
from mmenv.venue.replay import LANE, ReplayVenue, Span, first_bad_quote, set_resting
from mmenv.venue.settings import FIFO, ReplayConfig
from mmenv.venue.working import level_of, next_free, room_to_take

BAD_QUOTE: Final = -1
"""What `advance_lanes` reports where a quote is out of range; the engine's own errors are positive."""

HFT_LANE: Final = np.dtype(
    [
        *LANE,
        ("pointer", "i8"),  # address of the lane's backtest
        ("limit", "i8"),  # of the position, 0: none
        ("position", "i8"),
        ("next_id", "i8"),
        ("ended", "i8"),
    ]
)
HFT_ORDER: Final = np.dtype(
    [
        ("id", "i8"),
        ("tick", "i8"),
        ("lots", "i8"),
        ("filled", "i8"),
        ("unwanted", "i8"),
        ("cancelled", "i8"),
        ("market", "i8"),  # a market order, which is neither kept nor cancelled
    ]
)
NO_LIMIT: Final = 1 << 62
NO_TAKERS: Final = np.zeros((0, 2), np.int64)


class HftVenue(ReplayVenue):
    """The lanes of `ReplayVenue`, each one a backtest of hftbacktest's."""

    compiled: ClassVar[bool] = True
    lane_type: ClassVar[np.dtype] = HFT_LANE

    def __init__(self, tapes: Sequence[Tape], n: int, config: ReplayConfig | None = None) -> None:
        if config is not None and config.queue_model == FIFO and config.partial_fills:
            raise ConfigError(
                "ReplayConfig.partial_fills = True is not possible with engine hftbacktest: under the queue "
                "model fifo it fills whole orders only; choose engine matcher, or partial_fills False."
            )
        super().__init__(tapes, n, config)
        self.orders = np.zeros((n, 2, self.slots), HFT_ORDER)
        """Our orders, HFT_ORDER (n, 2, slots): asks, then bids."""
        self._interval_ns = self.config.decision_interval_ns
        self._held: list[Any] = [None] * n
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _free_all, self.lanes, self._held)

    def take_market_orders(self) -> None:
        """See `ReplayVenue.take_market_orders`."""
        if self.config.queue_model == FIFO:
            raise ConfigError(
                "market orders are not possible with engine hftbacktest under the queue model fifo, where it "
                "lets one rest that finds nothing: choose engine matcher, or another queue_model."
            )
        super().take_market_orders()
        self.orders = np.zeros((self.n, 2, self.slots), HFT_ORDER)

    def take_levels(self, levels: int) -> None:
        """See `ReplayVenue.take_levels`."""
        super().take_levels(levels)
        self.orders = np.zeros((self.n, 2, self.slots), HFT_ORDER)

    def _open(self, lane: int, span: Span, local_ns: int) -> None:
        with self.in_use():
            replay = self.replays[span.tape]
            index = replay.start(local_ns)
            _free_lane(self.lanes, self._held, lane)
            events = replay.events[replay.rows[index] :]
            levels = replay.levels[replay.bounds[index] : replay.bounds[index + 1]]
            trips = self._round_trips(span, local_ns)
            pointer = open_backtest(events, levels, replay.low_tick, replay.high_tick, self.config, trips)
            # The engine reads these arrays in place: they live as long as the backtest.
            self._held[lane] = (events, levels, trips)
            self._set_lane(lane, span)
            self.orders[lane] = 0
            state = self.lanes[lane]
            state["pointer"], state["limit"] = pointer, self.config.position_limit_lots or 0
            self.check(_begin(self.lanes, self.orders, lane, local_ns, self.outcomes, self.taken), lane)

    def _advance(self, quotes: NDArray[np.int64], takers: NDArray[np.int64] | None) -> None:
        self._enter()  # not `in_use`, which would take longer than all the rest here
        try:
            lane, code = advance_lanes(
                self.lanes, self.orders, quotes, NO_TAKERS if takers is None else takers, self._interval_ns,
                self.outcomes, self.taken,
            )  # fmt: skip
            if code == BAD_QUOTE:
                self._refuse(lane, quotes)
            self.check(code, lane)
        finally:
            self._lock.release()

    def rest(self, decisions: int, away: int, lots: int) -> NDArray[np.void]:
        """See `ReplayVenue.rest`; in one compiled call."""
        rows = np.zeros(decisions, OUTCOME)
        with self.in_use():
            count, code = _rest(
                self.lanes, self.orders, away, lots, self._interval_ns, self.outcomes, self.taken, rows
            )
            self.check(code, 0)
        return rows[:count]

    def close(self) -> None:
        """Free the engine's memory. Harmless when repeated."""
        with self._lock:
            self._finalizer()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the engine, as must whoever calls `advance_lanes`.

        Raises
        ------
        RuntimeError
            The venue is closed, or another thread holds it.
        """
        self._enter()
        try:
            yield
        finally:
            self._lock.release()

    def check(self, code: int, lane: int) -> None:
        """Raise RuntimeError for an error of the engine; 0 is none."""
        if code:
            raise RuntimeError(f"lane {lane}: hftbacktest reported error {code}; reset the lane")

    def _enter(self) -> None:
        """Take the lock, for the caller to release; refuses as `in_use`."""
        if not self._lock.acquire(False):
            raise RuntimeError("the venue is in use by another thread; give each thread its own")
        if not self._finalizer.alive:
            self._lock.release()
            raise RuntimeError("the venue is closed; build another")


def _free_lane(lanes: NDArray[np.void], held: list[Any], lane: int) -> None:
    pointer = int(lanes["pointer"][lane])
    lanes[lane] = 0
    if pointer:
        close_backtest(pointer)
    held[lane] = None


def _free_all(lanes: NDArray[np.void], held: list[Any]) -> None:
    for lane in range(len(lanes)):
        _free_lane(lanes, held, lane)


@njit(cache=True, nogil=True)
def _begin(lanes, orders, lane, local_ns, outcomes, taken):
    """Run a new backtest up to its start; 0 or the engine's error."""
    state = lanes[lane]
    pointer = state.pointer
    state.next_id = 1
    # The engine's clock is not set before the first call.
    code = hft.elapse(pointer, 0)
    if code == 0 and local_ns > hft.now(pointer):
        code = hft.elapse(pointer, local_ns - hft.now(pointer))
    if code == hft.END_OF_DATA:
        state.ended = 1
    elif code != 0:
        return code
    hft.clear_last_trades(pointer, 0)
    _observe(state, orders[lane], outcomes[lane], taken[lane])
    return 0


@njit(cache=True, nogil=True)
def advance_lanes(lanes, orders, quotes, takers, interval_ns, outcomes, taken):
    """Quote, elapse and observe in each lane, unless a quote is bad.

    `takers`, [n, 2] or none, are market orders, and `taken`, TAKEN [n], what they filled. Returns the first
    lane with a bad quote and BAD_QUOTE, or with an engine error and that, or 0 and 0.
    """
    lane = first_bad_quote(lanes, quotes)
    if lane >= 0:
        return lane, BAD_QUOTE
    bad, error = 0, 0
    begin_interval(outcomes)
    for lane in range(len(lanes)):
        state, took = lanes[lane], taken[lane]
        took.sold_lots = took.sold_notional = took.bought_lots = took.bought_notional = 0
        if state.ended:
            continue
        half = quotes.shape[1] // 2
        for side in (ASK, BID):
            _quote(state, orders[lane, side], side, quotes[lane, half * side : half * (side + 1)])
        if len(takers) and takers[lane, 1] != 0:
            _take(state, orders[lane], takers[lane, 0], takers[lane, 1])
        # Never past the end of the span: what lies behind belongs to another part of the split.
        code = hft.elapse(state.pointer, min(interval_ns, state.end_ns - hft.now(state.pointer)))
        if code == hft.END_OF_DATA or hft.now(state.pointer) >= state.end_ns:
            state.ended = 1
        elif code != 0:
            state.ended = 1
            if error == 0:
                bad, error = lane, code
        _observe(state, orders[lane], outcomes[lane], took)
    return bad, error


@njit(cache=True, nogil=True)
def _rest(lanes, orders, away, lots, interval_ns, outcomes, taken, rows):
    """Fill the rows of `HftVenue.rest`: how many, and the engine's error or 0."""
    quotes = np.zeros((1, 4), np.int64)
    for k in range(len(rows)):
        if outcomes[0].data_end:
            return k, 0
        set_resting(lanes[0], outcomes[0], away, lots, quotes[0])
        _, code = advance_lanes(lanes, orders, quotes, NO_TAKERS, interval_ns, outcomes, taken)
        if code != 0:
            return k, code
        rows[k] = outcomes[0]
    return len(rows), 0


@njit(cache=True, nogil=True)
def _quote(state, orders, side, asked):
    """Keep, cancel or send the orders of one side, whose quotes are `asked`: tick and lots of each."""
    kept, open_lots = 0, 0
    for slot in range(len(orders)):
        order = orders[slot]
        if order.id == 0:
            continue
        open_lots += order.lots - order.filled
        level = level_of(order, asked, kept)
        if level >= 0:
            kept |= 1 << level
        else:
            order.unwanted = 1
        if order.unwanted and not order.cancelled:
            # Refused while the order itself is still on its way; then tried again at the next decision.
            order.cancelled = hft.cancel(state.pointer, 0, order.id, 0) == 0
    held, free = state.position if side == BID else -state.position, len(orders)
    for level in range(len(asked) // 2):
        tick, lots = asked[2 * level], asked[2 * level + 1]
        full = state.limit > 0 and held + open_lots + lots > state.limit
        if kept >> level & 1 or lots == 0 or full:
            continue
        free = next_free(orders, free)
        if free < 0:
            return
        if hft.submit(state.pointer, state.next_id, side, tick, lots) == 0:
            order = orders[free]
            order.id = state.next_id
            order.tick, order.lots = tick, lots
            order.filled = order.unwanted = order.cancelled = order.market = 0
            open_lots += lots
        state.next_id += 1


@njit(cache=True, nogil=True)
def _take(state, orders, tick, asked):
    """Send a market order, as far as the limit leaves room."""
    limit = state.limit if state.limit > 0 else NO_LIMIT
    side, free, lots = room_to_take(orders, state.position, limit, tick, asked)
    if lots == 0:
        return
    if hft.take(state.pointer, state.next_id, side, tick, lots) == 0:
        order = orders[side, free]
        order.id = state.next_id
        order.tick, order.lots, order.filled = tick, lots, 0
        order.unwanted = order.cancelled = order.market = 1
    state.next_id += 1


@njit(cache=True, nogil=True)
def _observe(state, orders, outcome, taken):
    """Note time, book, trades since the last call, our fills and open orders."""
    outcome.time_ns = hft.now(state.pointer)
    depth = hft.depth(state.pointer, 0)
    bid, ask = hft.best_bid_tick(depth), hft.best_ask_tick(depth)
    has_bid, has_ask = bid >= state.low_tick, ask <= state.high_tick
    outcome.best_bid_lots = round(hft.bid_qty(depth, bid)) if has_bid else 0
    outcome.best_ask_lots = round(hft.ask_qty(depth, ask)) if has_ask else 0
    if has_bid:
        outcome.best_bid_ticks = bid
    if has_ask:
        outcome.best_ask_ticks = ask
    _count_trades(state.pointer, outcome)
    book = hft.get_orders(state.pointer, 0)
    outcome.ask_open_lots = _collect(state, orders[ASK], ASK, book, outcome, taken)
    outcome.bid_open_lots = _collect(state, orders[BID], BID, book, outcome, taken)
    hft.clear_inactive(state.pointer, 0)
    outcome.position_lots = state.position
    outcome.data_end = state.ended


@njit(cache=True, nogil=True)
def _count_trades(pointer, outcome):
    for trade in hft.trades_seen(pointer):
        count_trade(outcome, (trade.ev & BUY_FLAG) != 0, round(trade.px), round(trade.qty))
    hft.clear_last_trades(pointer, 0)


@njit(cache=True, nogil=True)
def _collect(state, orders, side, book, outcome, taken):
    """Book what has filled since the last look and forget orders that are no more; the lots still open."""
    open_lots = 0
    for slot in range(len(orders)):
        order = orders[slot]
        if order.id == 0:
            continue
        found, records = hft.order_seen(book, order.id)
        if not found:
            order.id = 0
            continue
        seen = records[0]
        filled = order.lots if seen.status == hft.FILLED else round(seen.qty - seen.leaves_qty)
        new = filled - order.filled
        order.filled = filled
        state.position += new if side == BID else -new
        if order.market:
            book_taken(taken, side, seen.exec_price_tick, new)
        else:
            book_fill(outcome, side, order.tick, new)
        waits = seen.status == hft.NONE and seen.req == hft.NEW
        if seen.status == hft.NEW or seen.status == hft.PARTIAL or waits:
            open_lots += order.lots - filled
        else:
            order.id = 0
    return open_lots
