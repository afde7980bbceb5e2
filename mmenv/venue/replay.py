"""Recorded tapes as a venue: hftbacktest replays the market and matches our orders.

hftbacktest (MIT, https://github.com/nkaz001/hftbacktest) keeps two clocks, the exchange's and ours, moves
orders and market data between them with latency, and estimates our place in the queue. `ReplayVenue` runs
one of its backtests per lane and steps all lanes in one compiled call. Prices go in as ticks and sizes as
lots, both whole numbers, so that nothing is rounded towards the market on the way.

Its sharp edges stay behind this module: it reads freed memory when used after closing, takes any array for
its own layout, stops for good after a fill of exactly the remaining size, and counts only the last slice of
an order filled in parts.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from llvmlite import binding as llvm
from numba import njit, types
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from mmenv.data.tape import BUY_FLAG, EVENT, Replay, Tape, TapeError
from mmenv.venue.latency import FROM_FILE, MODELS, ROUND_TRIP, round_trips

try:
    import hftbacktest
    from hftbacktest import _hftbacktest
    from hftbacktest.intrinsic import address_as_void_pointer
    from hftbacktest.types import order_dtype
except ImportError as error:
    raise ImportError(
        "recorded tapes need hftbacktest, which is not installed; install the extra `replay`: "
        "pip install 'neuralmm[replay]'"
    ) from error

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
MAX_LOTS: Final = 1 << 31
"""Largest order; below it sizes are exact in the engine's arithmetic."""

SHAVE: Final = 2.0**-20
"""Cut off each order sent to hftbacktest. Its partial-fill exchange never removes an order whose remaining
size equals a fill exactly and reports an error at every later trade there; whole lots minus this never
equal one. An order it shows as FILLED counts as all its lots, so nothing of this is left in our figures."""

EVENT_FIELDS: Final = (
    "time_ns",
    "best_bid_ticks",
    "best_ask_ticks",
    "best_bid_lots",
    "best_ask_lots",
    "buy_lots",
    "sell_lots",
    "buy_notional",
    "sell_notional",
    "trades",
    "max_trade_lots",
    "last_trade_lots",
    "ask_fill_lots",
    "ask_fill_notional",
    "bid_fill_lots",
    "bid_fill_notional",
    "ask_open_lots",
    "bid_open_lots",
    "position_lots",
    "data_end",
)
"""Columns of what `ReplayVenue.advance` returns, all integers.

`time_ns` is local time. The best prices are the local book's; a side without levels keeps its last price and
has zero lots. `buy_*` and `sell_*` are trades by aggressor seen in the interval, notional = price in ticks x
lots; `last_trade_lots` is 0 without trades. `*_fill_*` are our fills, all maker, known to us in the interval.
`*_open_lots` is what could still fill of all our orders, cancels in flight included. `position_lots` is the
sum of fills since reset. `data_end` is 1 once the lane has reached the end of its span; it then stands still.
"""

QUEUE_MODELS: Final = {
    "risk-adverse": ("risk_adverse_queue_model", False),
    "log-prob": ("log_prob_queue_model", False),
    "log-prob-2": ("log_prob_queue_model2", False),
    "power-prob": ("power_prob_queue_model", True),
    "power-prob-2": ("power_prob_queue_model2", True),
    "power-prob-3": ("power_prob_queue_model3", True),
}
"""hftbacktest's queue models by name: the builder's method, and whether it takes an exponent."""

SPLITS: Final = ("train", "validation", "test", "all")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """How recorded tapes are replayed. Times in nanoseconds. Raises ValueError naming the field."""

    decision_interval_ns: int = 100 * MILLISECOND
    """Time between two decisions."""
    order_latency_ns: int = 10 * MILLISECOND
    """From us to the exchange, and as long again for its answer; the median where `order_latency` varies."""
    order_latency: str = "constant"
    """How it varies: one of `mmenv.venue.latency.MODELS`."""
    latency_spread: float = 0.5
    """Standard deviation of the logarithm of a "lognormal" latency."""
    latency_file: str = ""
    """Round trips for "empirical" and "recorded"; see `mmenv.venue.latency.read`."""
    latency_seed: int = 0
    """Of drawn latencies, together with the time at which an episode starts."""
    feed_latency_ns: int = 2 * MILLISECOND
    """Delay of the fastest market data message; the others keep their recorded delay on top of it."""
    book_ticker: bool = True
    """Keep the touch as recent as the recorded book tickers; otherwise as the conflated depth messages."""
    queue_model: str = "risk-adverse"
    """One of `QUEUE_MODELS`. "risk-adverse": only trades move us up the queue. The others let cancels
    ahead of us do so too, by a probability; "log-prob" ones depend on the unit of size, here lots."""
    queue_exponent: float = 3.0
    """Exponent of the "power-prob" models."""
    partial_fills: bool = True
    """Fill what the trade leaves for us; otherwise the whole order as soon as any of it would fill."""
    maker_fee_bp: float | None = None
    """Basis points of notional, negative for a rebate; None takes the tape's."""
    taker_fee_bp: float | None = None
    """Basis points of notional; None takes the tape's."""
    split: str = "all"
    """Part of the recorded time to draw from: "train", "validation", "test" or "all"."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of train, validation and test, in this order in time."""
    gap_ns: int = 10 * SECOND
    """Recorded time left unused between two parts."""
    episode_ns: int = 30 * SECOND
    """A random start leaves at least this much of its span."""
    position_limit_lots: int | None = None
    """If set, no combination of fills in flight can take the position past it: a replacement that could
    waits until the old order's cancel is confirmed."""

    def __post_init__(self) -> None:
        _require(
            0 < self.decision_interval_ns <= 3_600 * SECOND, "decision_interval_ns", self, "1 ns to an hour"
        )
        for name in ("order_latency_ns", "feed_latency_ns", "gap_ns"):
            _require(0 <= getattr(self, name) <= 3_600 * SECOND, name, self, "0 to an hour")
        _require(self.order_latency in MODELS, "order_latency", self, "one of " + ", ".join(MODELS))
        _require(0 <= self.latency_spread <= 3, "latency_spread", self, "0 to 3")
        _require(self.latency_seed >= 0, "latency_seed", self, "0 or more")
        needs = self.order_latency in FROM_FILE
        _require(
            bool(self.latency_file) == needs, "latency_file", self,
            "given with order_latency " + " or ".join(FROM_FILE) + ", and only then"
        )  # fmt: skip
        _require(self.episode_ns > 0, "episode_ns", self, "positive")
        _require(self.queue_model in QUEUE_MODELS, "queue_model", self, "one of " + ", ".join(QUEUE_MODELS))
        _require(0 < self.queue_exponent <= 100, "queue_exponent", self, "in (0, 100]")
        _require(self.split in SPLITS, "split", self, "one of " + ", ".join(SPLITS))
        good = len(self.fractions) == 3 and min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) < 1e-9
        _require(good, "fractions", self, "three shares that sum to 1")
        limit = self.position_limit_lots
        _require(
            limit is None or 0 < limit < MAX_LOTS, "position_limit_lots", self, f"None or 1 to {MAX_LOTS - 1}"
        )
        for name in ("maker_fee_bp", "taker_fee_bp"):
            fee = getattr(self, name)
            _require(fee is None or -100 < fee < 100, name, self, "None or within 100 basis points")


def _require(condition: bool, name: str, config: ReplayConfig, allowed: str) -> None:
    if not condition:
        raise ValueError(
            f"ReplayConfig.{name} = {getattr(config, name)!r} is not possible: it must be {allowed}."
        )


@dataclass(frozen=True)
class Span:
    """A stretch of a tape an episode may lie in: local times of first start, last start and end."""

    tape: int
    first_ns: int
    last_ns: int
    end_ns: int


class ReplayVenue:
    """`n` lanes, each a random stretch of recorded market with our post-only quotes in it.

    Args:
        tapes: what to draw from, any symbols and days; each draw is weighted by recorded time.
        n: number of lanes.
        config: see `ReplayConfig`.

    Lanes start unset: call `reset` for each before `advance`. Not to be copied, pickled or used from two
    threads at once; close it, or use it as a context manager, to free the engine's memory.

    Raises:
        TapeError: no tapes, or none with room for an episode in the chosen split.
    """

    def __init__(self, tapes: Sequence[Tape], n: int, config: ReplayConfig | None = None) -> None:
        self.config = config or ReplayConfig()
        if n < 1:
            raise ValueError(f"n is {n}; a venue has at least one lane")
        if not tapes:
            raise TapeError("no tapes given; open some with mmenv.data.tape.tapes(store)")
        self.tapes = tuple(tapes)
        self._replays = [
            tape.replay(self.config.feed_latency_ns, self.config.book_ticker) for tape in self.tapes
        ]
        self.spans = _spans(self.tapes, self._replays, self.config)
        self.lane_tape = np.full(n, -1, np.int64)
        """Index into `tapes` of each lane's episode, -1 before its first."""
        round_trip = 2 * self.config.order_latency_ns
        slots = 3 + 2 * -(-round_trip // self.config.decision_interval_ns)
        self._lanes = np.zeros(n, _LANE)
        self._orders = np.zeros((n, 2, slots), _ORDER)
        self._held: list[Any] = [None] * n
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _free_all, self._lanes, self._held)
        self._events = np.zeros((n, len(EVENT_FIELDS)), np.int64)
        self._shape = n, 4

    @property
    def n(self) -> int:
        """Number of lanes."""
        return len(self._lanes)

    def fees_bp(self, lane: int) -> tuple[float, float]:
        """Maker and taker fee of the lane's tape in basis points of notional, overrides applied."""
        info = self.tapes[self.lane_tape[lane]].info
        maker, taker = self.config.maker_fee_bp, self.config.taker_fee_bp
        return (
            info.maker_fee_bp if maker is None else maker,
            info.taker_fee_bp if taker is None else taker,
        )

    def window(self, lane: int) -> tuple[int, int]:
        """Lowest and highest tick that can be quoted in the lane's episode."""
        return int(self._lanes["low_tick"][lane]), int(self._lanes["high_tick"][lane])

    def reset(self, lane: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Start an episode at a random time of the split, with the right book and no orders.

        Returns:
            EVENT_FIELDS [f] at the start: the book, and no trades or fills.
        """
        widths = np.array([span.last_ns - span.first_ns + 1 for span in self.spans], np.int64)
        drawn = int(generator.integers(int(widths.sum())))
        index = int(np.searchsorted(np.cumsum(widths), drawn, side="right"))
        span = self.spans[index]
        return self.start(lane, span, span.first_ns + drawn - int(widths[:index].sum()))

    def start(self, lane: int, span: Span, local_ns: int) -> NDArray[np.int64]:
        """As `reset`, at the given time of a span."""
        if not 0 <= lane < self.n:
            raise IndexError(f"lane is {lane}; this venue has lanes 0 to {self.n - 1}")
        if not span.first_ns <= local_ns <= span.end_ns:
            raise ValueError(f"start {local_ns} is outside its span, {span.first_ns} to {span.end_ns}")
        with self._in_use():
            replay = self._replays[span.tape]
            index = replay.start(local_ns)
            self._free(lane)
            events = replay.events[replay.rows[index] :]
            levels = replay.levels[replay.bounds[index] : replay.bounds[index + 1]]
            trips = self._round_trips(span, local_ns)
            pointer = _open_backtest(events, levels, replay.low_tick, replay.high_tick, self.config, trips)
            # The engine reads these arrays in place: they live as long as the backtest.
            self._held[lane] = (events, levels, trips)
            state = self._lanes[lane]
            state["pointer"], state["end_ns"] = pointer, span.end_ns
            state["low_tick"], state["high_tick"] = replay.low_tick, replay.high_tick
            state["limit"] = self.config.position_limit_lots or 0
            self.lane_tape[lane] = span.tape
            self._events[lane] = 0
            self._check(_begin(self._lanes, self._orders, lane, local_ns, self._events), lane)
            return self._events[lane].copy()

    def advance(self, quotes: NDArray[np.int64]) -> NDArray[np.int64]:
        """One decision interval in every lane.

        A side whose price and lots are those of its live order, or whose lots are what is left of it, keeps
        that order and its place in the queue. Otherwise the order is cancelled and, where lots > 0, a new
        post-only one is sent with it; one that would trade on arrival expires.

        Args:
            quotes: int64 [n, 4], ask price in ticks, ask lots, bid price in ticks, bid lots; lots 0 is no
                quote on that side. Both ticks within `window`, and bid < ask.

        Returns:
            int64 [n, len(EVENT_FIELDS)], overwritten by the next call.

        Raises:
            ValueError: quotes of the wrong kind, or out of range; nothing has then changed.
            RuntimeError: closed, a lane never reset, in use by another thread, or an engine error.
        """
        if not isinstance(quotes, np.ndarray) or quotes.dtype != _INT64 or quotes.shape != self._shape:
            found = f"{getattr(quotes, 'dtype', type(quotes).__name__)} {np.shape(quotes)}"
            raise ValueError(f"quotes are {found}; give an int64 array of shape ({self.n}, 4)")
        self._enter()  # not `_in_use`, which would take longer than all the rest here
        try:
            quotes = np.ascontiguousarray(quotes)
            lane, code = _advance(
                self._lanes, self._orders, quotes, self.config.decision_interval_ns, self._events
            )
            if code == _BAD_QUOTE:
                self._refuse(lane, quotes[lane])
            self._check(code, lane)
        finally:
            self._lock.release()
        return self._events

    def close(self) -> None:
        """Free the engine's memory. Harmless when repeated."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a ReplayVenue holds live memory of its engine; build another from its tapes and config"
        )

    def _round_trips(self, span: Span, local_ns: int) -> NDArray[np.void]:
        offset_ns = self.tapes[span.tape].info.clock_offset_ns
        return round_trips(self.config, self._replays[span.tape], offset_ns, local_ns, span.end_ns)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Inside the engine; refuses as `_enter`."""
        self._enter()
        try:
            yield
        finally:
            self._lock.release()

    def _enter(self) -> None:
        """Take the lock, for the caller to release; refuses when closed or already inside."""
        if not self._lock.acquire(False):
            raise RuntimeError("the venue is in use by another thread; give each thread its own")
        if not self._finalizer.alive:
            self._lock.release()
            raise RuntimeError("the venue is closed; build another")

    def _free(self, lane: int) -> None:
        _free_lane(self._lanes, self._held, lane)
        self._orders[lane] = 0

    def _refuse(self, lane: int, row: NDArray[np.int64]) -> None:
        if not self._lanes["pointer"][lane]:
            raise RuntimeError(f"lane {lane} has not been reset; call reset(lane, generator) first")
        low, high = self.window(lane)
        ask, ask_lots, bid, bid_lots = (int(value) for value in row)
        raise ValueError(
            f"lane {lane} quotes ask {ask} x {ask_lots}, bid {bid} x {bid_lots}; "
            f"lots must be 0 to {MAX_LOTS - 1}, ticks {low} to {high}, and bid < ask"
        )

    def _check(self, code: int, lane: int) -> None:
        if code:
            raise RuntimeError(f"lane {lane}: hftbacktest reported error {code}; reset the lane")


_INT64: Final = np.dtype(np.int64)
"""Comparing a dtype with this one is several times as fast as with `np.int64`."""


def _free_lane(lanes: NDArray[np.void], held: list[Any], lane: int) -> None:
    pointer = int(lanes["pointer"][lane])
    lanes[lane] = 0
    if pointer:
        _close_backtest(pointer)
    held[lane] = None


def _free_all(lanes: NDArray[np.void], held: list[Any]) -> None:
    for lane in range(len(lanes)):
        _free_lane(lanes, held, lane)


def _spans(tapes: Sequence[Tape], replays: Sequence[Replay], config: ReplayConfig) -> list[Span]:
    """Where episodes of the split may lie; shares are of each symbol's recorded time over all its days."""
    spans = []
    symbols: dict[tuple[str, str], list[int]] = {}
    for number, tape in enumerate(tapes):
        symbols.setdefault((tape.info.venue, tape.info.symbol), []).append(number)
    for numbers in symbols.values():
        numbers.sort(key=lambda number: replays[number].first_ns)
        known = [(replays[number].first_known_ns, replays[number].last_ns) for number in numbers]
        total = sum(max(last - first, 0) for first, last in known)
        begin, end = _share(total, config)
        passed = 0
        for number, (first, last) in zip(numbers, known, strict=True):
            low = max(first, first + begin - passed)
            high = min(last, first + end - passed)
            if high - low >= config.episode_ns:
                spans.append(Span(number, low, high - config.episode_ns, high))
            passed += max(last - first, 0)
    if not spans:
        raise TapeError(
            f"no stretch of {config.episode_ns / SECOND:g} s in part {config.split!r} of {len(tapes)} tapes;"
            " shorten episode_ns, change fractions or import more data"
        )
    return spans


def _share(total_ns: int, config: ReplayConfig) -> tuple[int, int]:
    if config.split == "all":
        return 0, total_ns
    place = SPLITS.index(config.split)
    begin = round(total_ns * sum(config.fractions[:place]))
    end = round(total_ns * sum(config.fractions[: place + 1]))
    return begin + (config.gap_ns if place else 0), end


def _open_backtest(
    events: NDArray[np.void],
    levels: NDArray[np.void],
    low_tick: int,
    high_tick: int,
    config: ReplayConfig,
    trips: NDArray[np.void] | None = None,
) -> int:
    """A new hftbacktest backtest of one asset; its address. It reads the arrays in place.

    `trips` are rows of `mmenv.venue.latency.ordered`; without any, latency is constant.

    Raises:
        TapeError: an array hftbacktest would misread, or an empty price window.
    """
    trips = np.zeros(0, ROUND_TRIP) if trips is None else trips
    given = (("events", events, EVENT), ("levels", levels, EVENT), ("trips", trips, ROUND_TRIP))
    for name, array, kind in given:
        if array.dtype != kind or array.ndim != 1 or not array.flags.c_contiguous or not array.flags.aligned:
            where = "mmenv.data.tape.EVENT" if kind is EVENT else "mmenv.venue.latency.ROUND_TRIP"
            raise TapeError(f"{name} must be a contiguous, aligned array of {where}; import again")
    forward = (np.diff(trips["req_ts"]) > 0).all() and (np.diff(trips["exch_ts"]) > 0).all()
    lasting = (trips["req_ts"] <= trips["exch_ts"]) & (trips["exch_ts"] <= trips["resp_ts"])
    if not (forward and lasting.all()):
        raise TapeError("round trips must go forward in time; make them with mmenv.venue.latency.ordered")
    if not len(events):
        raise TapeError("no events to replay; start earlier or import more data")
    if not 0 < low_tick < high_tick:
        raise TapeError(f"price window {low_tick} to {high_tick} is empty; import again")
    method, takes_exponent = QUEUE_MODELS[config.queue_model]
    asset = hftbacktest.BacktestAsset().add_data(events)
    if len(levels):
        asset = asset.initial_snapshot(levels)
    asset = asset.linear_asset(1.0)
    if len(trips):
        asset = asset.intp_order_latency(trips)
    else:
        asset = asset.constant_order_latency(config.order_latency_ns, config.order_latency_ns)
    asset = getattr(asset, method)(*((config.queue_exponent,) if takes_exponent else ()))
    asset = asset.partial_fill_exchange() if config.partial_fills else asset.no_partial_fill_exchange()
    asset = asset.tick_size(1.0).lot_size(1.0).roi_lb(float(low_tick)).roi_ub(float(high_tick))
    return int(_hftbacktest.build_roivec_backtest([asset.last_trades_capacity(1024).parallel_load(False)]))


# The compiled side. The engine's functions are linked by name, so that the step can be cached on disk.
llvm.load_library_permanently(_hftbacktest.__file__)

_I8, _I4, _F8 = types.int64, types.int32, types.float64


def _external(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


# bool and u8 arguments are declared 32 bits wide: the callee expects them extended by the caller.
_elapse = _external("roivecbt_elapse", _I8, _I8, _I8)
_close = _external("roivecbt_close", _I8, _I8)
_now = _external("roivecbt_current_timestamp", _I8, _I8)
_depth = _external("roivecbt_depth", _I8, _I8, _I8)
_last_trades = _external("roivecbt_last_trades", _I8, _I8, _I8, _I8)
_clear_last_trades = _external("roivecbt_clear_last_trades", types.void, _I8, _I8)
_clear_inactive = _external("roivecbt_clear_inactive_orders", types.void, _I8, _I8)
_get_orders = _external("roivecbt_orders", _I8, _I8, _I8)
_get_order = _external("orders_get", _I8, _I8, _I8)
_cancel = _external("roivecbt_cancel", _I8, _I8, _I8, _I8, _I4)
_submit_buy = _external("roivecbt_submit_buy_order", _I8, _I8, _I8, _I8, _F8, _F8, _I4, _I4, _I4)
_submit_sell = _external("roivecbt_submit_sell_order", _I8, _I8, _I8, _I8, _F8, _F8, _I4, _I4, _I4)
_best_bid_tick = _external("roivecdepth_best_bid_tick", _I8, _I8)
_best_ask_tick = _external("roivecdepth_best_ask_tick", _I8, _I8)
_bid_qty = _external("roivecdepth_bid_qty_at_tick", _F8, _I8, _I8)
_ask_qty = _external("roivecdepth_ask_qty_at_tick", _F8, _I8, _I8)

_NONE, _NEW, _FILLED, _PARTIAL = 0, 1, 3, 5
_POST_ONLY, _LIMIT = 1, 0
_END_OF_DATA = 1
_BAD_QUOTE = -1
_ASK, _BID = 0, 1

(
    _TIME,
    _BEST_BID,
    _BEST_ASK,
    _BEST_BID_LOTS,
    _BEST_ASK_LOTS,
    _BUY_LOTS,
    _SELL_LOTS,
    _BUY_NOTIONAL,
    _SELL_NOTIONAL,
    _TRADES,
    _MAX_TRADE,
    _LAST_TRADE,
    _ASK_FILL,
    _ASK_FILL_NOTIONAL,
    _BID_FILL,
    _BID_FILL_NOTIONAL,
    _ASK_OPEN,
    _BID_OPEN,
    _POSITION,
    _DATA_END,
) = range(len(EVENT_FIELDS))

_LANE = np.dtype(
    [
        ("pointer", "i8"),
        ("end_ns", "i8"),
        ("low_tick", "i8"),
        ("high_tick", "i8"),
        ("limit", "i8"),
        ("position", "i8"),
        ("next_id", "i8"),
        ("ended", "i8"),
    ]
)
_ORDER = np.dtype(
    [("id", "i8"), ("price", "i8"), ("lots", "i8"), ("filled", "i8"), ("unwanted", "i8"), ("cancelled", "i8")]
)


@njit(cache=True)
def _close_backtest(pointer):  # type: ignore[no-untyped-def]
    return _close(pointer)


@njit(cache=True, nogil=True)
def _first_bad_quote(lanes, quotes):  # type: ignore[no-untyped-def]
    """Index of the first lane that is unset or whose quotes are out of range, or -1."""
    for lane in range(len(lanes)):
        state = lanes[lane]
        if state.pointer == 0:
            return lane
        for side in range(2):
            tick, lots = quotes[lane, 2 * side], quotes[lane, 2 * side + 1]
            if lots < 0 or lots >= MAX_LOTS:
                return lane
            if lots > 0 and not state.low_tick <= tick <= state.high_tick:
                return lane
        if quotes[lane, 1] > 0 and quotes[lane, 3] > 0 and quotes[lane, 2] >= quotes[lane, 0]:
            return lane
    return -1


@njit(cache=True, nogil=True)
def _begin(lanes, orders, lane, local_ns, events):  # type: ignore[no-untyped-def]
    """Run a new backtest up to its start; 0 or the engine's error."""
    pointer = lanes[lane].pointer
    lanes[lane].next_id = 1
    # The engine's clock is not set before the first call.
    code = _elapse(pointer, 0)
    if code == 0 and local_ns > _now(pointer):
        code = _elapse(pointer, local_ns - _now(pointer))
    if code == _END_OF_DATA:
        lanes[lane].ended = 1
    elif code != 0:
        return code
    _clear_last_trades(pointer, 0)
    _observe(lanes, orders, lane, events)
    return 0


@njit(cache=True, nogil=True)
def _advance(lanes, orders, quotes, interval_ns, events):  # type: ignore[no-untyped-def]
    """Quote, elapse and observe in each lane, unless a quote is bad.

    Returns the first lane with a bad quote and _BAD_QUOTE, or with an engine error and that, or 0 and 0.
    """
    lane = _first_bad_quote(lanes, quotes)
    if lane >= 0:
        return lane, _BAD_QUOTE
    bad, error = 0, 0
    for lane in range(len(lanes)):
        row = events[lane]
        row[_BUY_LOTS:_ASK_OPEN] = 0
        if lanes[lane].ended:
            continue
        pointer = lanes[lane].pointer
        for side in range(2):
            _quote(
                lanes[lane], orders[lane, side], side, quotes[lane, 2 * side], quotes[lane, 2 * side + 1], row
            )
        # Never past the end of the span: what lies behind belongs to another part of the split.
        code = _elapse(pointer, min(interval_ns, lanes[lane].end_ns - _now(pointer)))
        if code == _END_OF_DATA or _now(pointer) >= lanes[lane].end_ns:
            lanes[lane].ended = 1
        elif code != 0:
            lanes[lane].ended = 1
            if error == 0:
                bad, error = lane, code
        _observe(lanes, orders, lane, events)
    return bad, error


@njit(cache=True, nogil=True)
def _quote(state, orders, side, tick, lots, row):  # type: ignore[no-untyped-def]
    """Keep, cancel or send the order of one side."""
    kept = False
    free = -1
    open_lots = 0
    for slot in range(len(orders)):
        order = orders[slot]
        if order.id == 0:
            free = slot
            continue
        left = order.lots - order.filled
        open_lots += left
        same = lots > 0 and order.price == tick and (lots == order.lots or lots == left)
        if not order.unwanted and same:
            kept = True
        elif not order.unwanted:
            order.unwanted = 1
        if order.unwanted and not order.cancelled:
            # Refused while the order itself is still on its way; then tried again at the next decision.
            order.cancelled = _cancel(state.pointer, 0, order.id, 0) == 0
    if kept or lots == 0 or free < 0:
        return
    held = state.position if side == _BID else -state.position
    if state.limit > 0 and held + open_lots + lots > state.limit:
        return
    code = _submit(state.pointer, state.next_id, side, tick, lots)
    if code == 0:
        orders[free].id = state.next_id
        orders[free].price, orders[free].lots = tick, lots
        orders[free].filled = orders[free].unwanted = orders[free].cancelled = 0
    state.next_id += 1


@njit(cache=True, nogil=True)
def _submit(pointer, number, side, tick, lots):  # type: ignore[no-untyped-def]
    """Send a post-only order; 0 or the engine's error."""
    price, size = float(tick), lots - SHAVE
    if side == _ASK:
        return _submit_sell(pointer, 0, number, price, size, _POST_ONLY, _LIMIT, 0)
    return _submit_buy(pointer, 0, number, price, size, _POST_ONLY, _LIMIT, 0)


@njit(cache=True, nogil=True)
def _observe(lanes, orders, lane, events):  # type: ignore[no-untyped-def]
    """Write the lane's row: time, book, trades since the last call, our fills and open orders."""
    state, row = lanes[lane], events[lane]
    row[_TIME] = _now(state.pointer)
    depth = _depth(state.pointer, 0)
    bid, ask = _best_bid_tick(depth), _best_ask_tick(depth)
    has_bid, has_ask = bid >= state.low_tick, ask <= state.high_tick
    row[_BEST_BID_LOTS] = round(_bid_qty(depth, bid)) if has_bid else 0
    row[_BEST_ASK_LOTS] = round(_ask_qty(depth, ask)) if has_ask else 0
    if has_bid:
        row[_BEST_BID] = bid
    if has_ask:
        row[_BEST_ASK] = ask
    _count_trades(state.pointer, row)
    book = _get_orders(state.pointer, 0)
    for side in range(2):
        _collect(state, orders[lane, side], side, book, row)
    _clear_inactive(state.pointer, 0)
    row[_POSITION] = state.position
    row[_DATA_END] = state.ended


@njit(cache=True, nogil=True)
def _count_trades(pointer, row):  # type: ignore[no-untyped-def]
    length = np.zeros(1, np.int64)
    trades = carray(address_as_void_pointer(_last_trades(pointer, 0, length.ctypes.data)), length[0], EVENT)
    for trade in trades:
        lots, tick = round(trade.qty), round(trade.px)
        if trade.ev & BUY_FLAG:
            row[_BUY_LOTS] += lots
            row[_BUY_NOTIONAL] += lots * tick
        else:
            row[_SELL_LOTS] += lots
            row[_SELL_NOTIONAL] += lots * tick
        row[_TRADES] += 1
        row[_MAX_TRADE] = max(row[_MAX_TRADE], lots)
        row[_LAST_TRADE] = lots
    _clear_last_trades(pointer, 0)


@njit(cache=True, nogil=True)
def _collect(state, orders, side, book, row):  # type: ignore[no-untyped-def]
    """Book what has filled since the last look and forget orders that are no more."""
    open_lots = 0
    for slot in range(len(orders)):
        order = orders[slot]
        if order.id == 0:
            continue
        address = _get_order(book, order.id)
        if address == 0:
            order.id = 0
            continue
        seen = carray(address_as_void_pointer(address), 1, order_dtype)[0]
        filled = order.lots if seen.status == _FILLED else round(seen.qty - seen.leaves_qty)
        new = filled - order.filled
        order.filled = filled
        if side == _ASK:
            state.position -= new
            row[_ASK_FILL] += new
            row[_ASK_FILL_NOTIONAL] += new * order.price
        else:
            state.position += new
            row[_BID_FILL] += new
            row[_BID_FILL_NOTIONAL] += new * order.price
        if seen.status == _NEW or seen.status == _PARTIAL or (seen.status == _NONE and seen.req == _NEW):
            open_lots += order.lots - filled
        else:
            order.id = 0
    row[_ASK_OPEN if side == _ASK else _BID_OPEN] = open_lots
