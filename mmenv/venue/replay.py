"""Recorded tapes as a venue: what its engines share, which match our orders in the replayed market.

`mmenv.venue.hft` has hftbacktest as its engine, `mmenv.venue.matched` our own matcher; `mmenv.venue.engines`
opens either by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.events import LazyReplay
from mmenv.data.tape import Tape, TapeError
from mmenv.times import SECOND
from mmenv.venue.latency import round_trips
from mmenv.venue.outcome import OUTCOME, TAKEN
from mmenv.venue.settings import FIFO, MAX_LOTS, SPLITS, ReplayConfig
from mmenv.venue.working import slots

LANE: Final = [("set", "i8"), ("low_tick", "i8"), ("high_tick", "i8"), ("end_ns", "i8")]
"""First fields of a lane's record: whether an episode has begun, the ticks that can be quoted in it, and the
end of its span, local time."""


@dataclass(frozen=True)
class Span:
    """A stretch of a tape an episode may lie in: local times of first start, last start and end."""

    tape: int
    first_ns: int
    last_ns: int
    end_ns: int


class ReplayVenue(ABC):
    """`n` lanes, each a random stretch of recorded market with our post-only quotes in it.

    Lanes start unset: call `reset` for each before `advance`. Not to be copied, pickled or used from two
    threads at once; close it, or use it as a context manager, to free the engine's memory.

    Parameters
    ----------
    tapes
        What to draw from, any symbols and days; each draw is weighted by recorded time.
    n
        Number of lanes.
    config
        How they are replayed; see `ReplayConfig`.

    Raises
    ------
    TapeError
        No tapes, or none with room for an episode in the chosen split.
    """

    compiled: ClassVar[bool] = False
    """Whether compiled code can take the venue to the next decision."""
    lane_type: ClassVar[np.dtype] = np.dtype(LANE)
    """Record of a lane; it begins with the fields `LANE`."""

    def __init__(self, tapes: Sequence[Tape], n: int, config: ReplayConfig | None = None) -> None:
        self.config = config or ReplayConfig()
        if n < 1:
            raise ValueError(f"n = {n} is not possible: a venue has at least one lane.")
        self.tapes = tuple(tapes)
        self.replays = open_replays(tapes, self.config)
        self.spans = spans(self.tapes, self.replays, self.config)
        self.lane_tape = np.full(n, -1, np.int64)
        """Index into `tapes` of each lane's episode, -1 before its first."""
        self.lanes = np.zeros(n, self.lane_type)
        self.ahead: NDArray[np.int64] | None = None
        """Lots ahead of our asks and bids, int64 (n, 2), -1 where none is there; None: not known."""
        self.outcomes = np.zeros(n, OUTCOME)
        """What came of the last interval in each lane, or its start."""
        self.taken = np.zeros(n, TAKEN)
        """TAKEN [n]: what market orders filled in it."""
        self.takes = False
        """Whether market orders are sent."""
        self.levels = 1
        """Quotes of each side."""

    @property
    def n(self) -> int:
        """Number of lanes."""
        return len(self.lanes)

    @property
    def slots(self) -> int:
        """How many orders a side may have open at once, those being cancelled included."""
        trips = -(-2 * self.config.order_latency_ns // self.config.decision_interval_ns)
        return slots(trips, self.takes, self.levels)

    def take_market_orders(self) -> None:
        """Make room for market orders, before the first episode.

        Raises
        ------
        ConfigError
            The engine has none under these settings.
        """
        self.takes = True

    def take_levels(self, levels: int) -> None:
        """Make room for so many quotes of each side, before the first episode."""
        self.levels = levels

    def window(self, lane: int) -> tuple[int, int]:
        """Lowest and highest tick that can be quoted in the lane's episode."""
        return int(self.lanes["low_tick"][lane]), int(self.lanes["high_tick"][lane])

    def reset(self, lane: int, generator: np.random.Generator) -> np.void:
        """Start an episode at a random time of the split, with the right book and no orders.

        Returns
        -------
        np.void
            OUTCOME at the start: the book, and no trades or fills.
        """
        widths = np.array([span.last_ns - span.first_ns + 1 for span in self.spans], np.int64)
        drawn = int(generator.integers(int(widths.sum())))
        index = int(np.searchsorted(np.cumsum(widths), drawn, side="right"))
        span = self.spans[index]
        return self.start(lane, span, span.first_ns + drawn - int(widths[:index].sum()))

    def start(self, lane: int, span: Span, local_ns: int) -> np.void:
        """As `reset`, at the given time of a span."""
        if not 0 <= lane < self.n:
            raise IndexError(f"lane = {lane} is not possible: this venue has lanes 0 to {self.n - 1}.")
        if not span.first_ns <= local_ns <= span.end_ns:
            raise ValueError(
                f"start = {local_ns} is not possible: it must lie in its span, {span.first_ns} to "
                f"{span.end_ns}."
            )
        self._open(lane, span, local_ns)
        return self.outcomes[lane].copy()

    @abstractmethod
    def _open(self, lane: int, span: Span, local_ns: int) -> None:
        """Begin an episode: set the lane's record by `_set_lane`, and its outcome."""

    def advance(self, quotes: NDArray[np.int64], takers: NDArray[np.int64] | None = None) -> NDArray[np.void]:
        """One decision interval in every lane.

        A quote whose price and lots are those of a live order, or whose lots are what is left of it, keeps
        that order and its place in the queue. An order that no quote asks for is cancelled, and where lots >
        0, a new post-only one is sent; one that would trade on arrival expires.

        Parameters
        ----------
        quotes
            int64 [n, 4 x levels]: price in ticks and lots of each ask, the nearest first, then of each bid;
            lots 0 is no quote. Ticks within `window`, and bids below asks.
        takers
            int64 [n, 2], worst price in ticks, and lots, above 0 to buy, of market orders that follow the
            quotes; see `mmenv.venue.working` and, for `taken`, `take_market_orders`. 0 lots is none.

        Returns
        -------
        NDArray
            `outcomes`, OUTCOME [n], overwritten by the next call.

        Raises
        ------
        ValueError
            Quotes of the wrong kind, or out of range; nothing has then changed.
        RuntimeError
            Closed, a lane never reset, in use by another thread, or an engine error.
        """
        shape = len(self.lanes), 4 * self.levels
        if not isinstance(quotes, np.ndarray) or quotes.dtype != _INT64 or quotes.shape != shape:
            found = f"{getattr(quotes, 'dtype', type(quotes).__name__)} {np.shape(quotes)}"
            raise ValueError(f"quotes = {found} is not possible: it must be an int64 array of shape {shape}.")
        if takers is not None:
            self._check_takers(takers)
        self._advance(np.ascontiguousarray(quotes), takers)
        return self.outcomes

    def _check_takers(self, takers: NDArray[np.int64]) -> None:
        """Raise `ValueError` for market orders of the wrong kind or out of range."""
        if not self.takes or takers.dtype != _INT64 or takers.shape != (self.n, 2):
            raise ValueError(
                f"takers = {takers.dtype} {takers.shape} is not possible: they must be an int64 array of "
                f"shape ({self.n}, 2), for a venue of which take_market_orders was called."
            )
        lane = first_bad_taker(self.lanes, takers)
        if lane >= 0:
            low, high = self.window(lane)
            tick, lots = (int(value) for value in takers[lane])
            raise ValueError(
                f"lane {lane} sends a market order of {lots} lots at {tick}, which is not possible: lots "
                f"must be above {-MAX_LOTS} and below {MAX_LOTS}, ticks {low} to {high}."
            )

    def rest(self, decisions: int, away: int, lots: int) -> NDArray[np.void]:
        """Play a venue of one lane, quoting `lots` on both sides, until its span ends or so many decisions.

        The quotes stand `away` half-ticks from the mid, or at the touch where that is further out.

        Returns
        -------
        NDArray
            OUTCOME [k] of the decisions played.
        """
        rows = np.zeros(decisions, OUTCOME)
        quotes = np.zeros((1, 4), np.int64)
        for k in range(decisions):
            if self.outcomes["data_end"][0]:
                return rows[:k]
            set_resting(self.lanes[0], self.outcomes[0], away, lots, quotes[0])
            rows[k] = self.advance(quotes)[0]
        return rows

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory. Harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} holds live memory of its engine and cannot be copied: build another "
            "from its tapes and config."
        )

    def _set_lane(self, lane: int, span: Span) -> None:
        replay = self.replays[span.tape]
        record = self.lanes[lane]
        record["set"], record["end_ns"] = 1, span.end_ns
        record["low_tick"], record["high_tick"] = replay.low_tick, replay.high_tick
        self.lane_tape[lane] = span.tape
        self.outcomes[lane], self.taken[lane] = 0, 0
        outcome = self.outcomes[lane]
        # A side that is not known yet, or lies past the window, stands at its edge.
        outcome["best_bid_ticks"], outcome["best_ask_ticks"] = replay.low_tick, replay.high_tick

    def _round_trips(self, span: Span, local_ns: int) -> NDArray[np.void]:
        offset_ns = self.tapes[span.tape].info.clock_offset_ns
        return round_trips(self.config, self.replays[span.tape].opened, offset_ns, local_ns, span.end_ns)

    @abstractmethod
    def _advance(self, quotes: NDArray[np.int64], takers: NDArray[np.int64] | None) -> None:
        """Take every lane to the next decision, or refuse `quotes`, contiguous, of the right kind."""

    def _refuse(self, lane: int, quotes: NDArray[np.int64]) -> NoReturn:
        """Say why `first_bad_quote` found this lane."""
        if not self.lanes["set"][lane]:
            raise RuntimeError(f"lane {lane} has not been reset; call reset(lane, generator) first")
        low, high = self.window(lane)
        asks, bids = quotes[lane].reshape(2, -1, 2).tolist()
        told = (", ".join(f"{tick} x {lots}" for tick, lots in side) for side in (asks, bids))
        raise ValueError(
            f"lane {lane} quotes ask {next(told)}, bid {next(told)}, which is not possible: lots "
            f"must be 0 to {MAX_LOTS - 1}, ticks {low} to {high}, and bid < ask."
        )


_INT64: Final = np.dtype(np.int64)
"""Comparing a dtype with this one is several times as fast as with `np.int64`."""


@njit(cache=True, nogil=True)
def first_bad_quote(lanes, quotes):
    """Index of the first lane that is unset or whose quotes are out of range, or -1."""
    for lane in range(len(lanes)):
        state = lanes[lane]
        if state.set == 0:
            return lane
        ask, bid, half = state.high_tick + 1, state.low_tick - 1, quotes.shape[1] // 2
        for at in range(0, 2 * half, 2):
            tick, lots = quotes[lane, at], quotes[lane, at + 1]
            if lots < 0 or lots >= MAX_LOTS:
                return lane
            if lots > 0 and not state.low_tick <= tick <= state.high_tick:
                return lane
            if lots > 0 and at < half:
                ask = min(ask, tick)
            elif lots > 0:
                bid = max(bid, tick)
        if bid >= ask:
            return lane
    return -1


@njit(cache=True, nogil=True)
def first_bad_taker(lanes, takers):
    """Index of the first lane whose market order is out of range, or -1."""
    for lane in range(len(lanes)):
        tick, lots = takers[lane, 0], takers[lane, 1]
        if lots <= -MAX_LOTS or lots >= MAX_LOTS:
            return lane
        if lots != 0 and not lanes[lane].low_tick <= tick <= lanes[lane].high_tick:
            return lane
    return -1


@njit(cache=True, nogil=True)
def set_resting(lane, outcome, away, lots, quotes):
    """Set a lane's quotes (ask tick, lots, bid tick, lots) as `ReplayVenue.rest` places them."""
    bid, ask = outcome.best_bid_ticks, outcome.best_ask_ticks
    ask = max(ask, -((-outcome.best_bid_ticks - ask - away) // 2))
    bid = min(bid, (outcome.best_ask_ticks + bid - away) // 2)
    ask = min(max(ask, lane.low_tick + 1), lane.high_tick)
    quotes[0], quotes[1] = ask, lots
    quotes[2], quotes[3] = min(max(bid, lane.low_tick), ask - 1), lots


# --- Where episodes may lie ---------------------------------------------------------------------------------


def open_replays(tapes: Sequence[Tape], config: ReplayConfig) -> list[LazyReplay]:
    """The tapes as they are replayed, each opened when it is first needed. Raises `TapeError` where there are
    none, or one that has not what is to be replayed."""
    if not tapes:
        raise TapeError("no tapes given; open some with mmenv.data.tape.tapes(store)")
    orders = config.queue_model == FIFO
    return [LazyReplay(tape, config.feed_latency_ns, config.book_ticker, orders) for tape in tapes]


def spans(tapes: Sequence[Tape], replays: Sequence[LazyReplay], config: ReplayConfig) -> list[Span]:
    """Where episodes of the split may lie; shares are of each symbol's recorded time over all its days.

    Raises
    ------
    TapeError
        There is no room for an episode.
    """
    found = []
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
                found.append(Span(number, low, high - config.episode_ns, high))
            passed += max(last - first, 0)
    if not found:
        raise TapeError(
            f"no stretch of {config.episode_ns / SECOND:g} s in part {config.split!r} of {len(tapes)} tapes: "
            f"episode_ns = {config.episode_ns} is not possible. Give a shorter one (of an environment: a "
            "shorter horizon), other fractions, or import more data."
        )
    return found


def _share(total_ns: int, config: ReplayConfig) -> tuple[int, int]:
    """Begin and end of the split in the recorded time of a symbol."""
    if config.split == "all":
        return 0, total_ns
    place = SPLITS.index(config.split)
    begin = round(total_ns * sum(config.fractions[:place]))
    end = round(total_ns * sum(config.fractions[: place + 1]))
    return begin + (config.gap_ns if place else 0), end
