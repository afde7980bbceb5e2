"""What we know of a market, whether its rows come from a feed or from a tape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.book import FUSE_START, NO_ASK, fused
from mmenv.data.events import BUY_FLAG, LOCAL_FLAG
from mmenv.data.rows import BUY, CLEAR, TRADE
from mmenv.engine.memory import fill
from mmenv.venue.by_order import see_order
from mmenv.venue.matcher import Levels, clear, empty_levels, put, renew_best, shift
from mmenv.venue.outcome import OUTCOME, begin_interval, count_trade


class View:
    """The book as of the newest message, and what was traded since the last decision.

    Parameters
    ----------
    low_tick, high_tick
        The window of prices; levels outside are ignored.
    outcomes
        Where the outcome of each interval is made, OUTCOME (1,) of zeros; by default memory of its own.
    """

    def __init__(self, low_tick: int, high_tick: int, outcomes: NDArray[np.void] | None = None) -> None:
        self.low_tick, self.high_tick = low_tick, high_tick
        self.book = empty_levels(low_tick, high_tick)
        self.outcomes = np.zeros(1, OUTCOME) if outcomes is None else outcomes
        self.outcome: np.void = self.outcomes[0]
        """The one record of `outcomes`."""
        self._fused = np.zeros((2, high_tick - low_tick + 1), np.int64)
        self._fuse = FUSE_START.copy()
        self._levels = tuple(self.book)

    def take(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Apply ROW rows [n] in arrival order; the rows [m] without tickers, see `mmenv.data.book.fused`."""
        return _see_rows(self._levels, rows, self._fused, self._fuse, self.outcomes)

    def take_events(self, events: NDArray[np.void], at: int, until_ns: int, orders: bool = False) -> int:
        """Apply what a tape's EVENT [m], of levels or of single orders, show us from row `at` up to a local
        time; the next row."""
        return int(_see_events(self._levels, events, at, until_ns, self.outcomes, orders))

    def move(self, low_tick: int) -> None:
        """Let the window begin at another tick, as wide as it is; what leaves it is forgotten, and what comes
        in is empty until something is heard of it."""
        by = low_tick - self.low_tick
        self.low_tick, self.high_tick = low_tick, self.high_tick + by
        shift(self.book.sizes, by)
        shift(self._fused, by)
        if self._fuse["top_bid"][0] >= 0:
            self._fuse["top_bid"] = max(int(self._fuse["top_bid"][0]) - by, -1)
        if self._fuse["top_ask"][0] < NO_ASK:
            self._fuse["top_ask"] -= by
        self.book = self.book._replace(low_tick=low_tick)
        renew_best(self.book)
        self._levels = tuple(self.book)

    def kept(self) -> dict[str, Any]:
        """All that it knows, in arrays and numbers; see `restore`."""
        levels = {"low_tick": self.low_tick, "sizes": self.book.sizes, "best": self.book.best}
        return levels | {"outcomes": self.outcomes, "fused": self._fused, "fuse": self._fuse}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `kept` gave, of a view as wide."""
        self.high_tick += state["low_tick"] - self.low_tick
        self.low_tick = state["low_tick"]
        self.book = self.book._replace(low_tick=self.low_tick)
        self._levels = tuple(self.book)
        own = (self.book.sizes, self.book.best, self.outcomes, self._fused, self._fuse)
        for array, name in zip(own, ("sizes", "best", "outcomes", "fused", "fuse"), strict=True):
            fill(array, state[name])

    def observe(self, time_ns: int) -> None:
        """Complete the outcome with the book at a decision."""
        _see_book(self._levels, time_ns, self.outcomes)

    def begin(self) -> None:
        """Forget trades and fills: a new interval starts."""
        begin_interval(self.outcomes)

    @property
    def known(self) -> bool:
        """Whether there is a bid and an ask."""
        return bool(self.book.best[0] >= self.low_tick and self.book.best[1] <= self.high_tick)


@njit(cache=True, nogil=True)
def _see_rows(state, rows, sizes, fuse, outcomes):
    levels = Levels(*state)
    plain = fused(rows, levels.low_tick, sizes, fuse)
    for row in plain:
        _see(levels, outcomes[0], row.kind, row.side, row.price, row.size)
    return plain


@njit(cache=True, nogil=True)
def _see_events(state, events, at, until_ns, outcomes, orders):
    levels = Levels(*state)
    while at < len(events):
        e = events[at]
        if e.ev & LOCAL_FLAG:
            if e.local_ts > until_ns:
                break
            if orders:
                see_order(levels, e, outcomes[0])
                at += 1
                continue
            side = BUY if e.ev & BUY_FLAG else -BUY
            _see(levels, outcomes[0], e.ev & 0xFF, side, int(e.px), int(e.qty))
        at += 1
    return at


@njit(cache=True, nogil=True)
def _see(levels, outcome, kind, side, tick, lots):
    if kind == TRADE:
        count_trade(outcome, side == BUY, tick, lots)
    elif kind == CLEAR:
        clear(levels)
    else:
        put(levels, side, tick, lots)


@njit(cache=True, nogil=True)
def _see_book(state, time_ns, outcomes):
    """Note the touch; a side without levels keeps its last price and has no lots."""
    book, outcome = Levels(*state), outcomes[0]
    bid, ask = book.best[0], book.best[1]
    has_bid, has_ask = bid >= book.low_tick, ask < book.low_tick + book.sizes.shape[1]
    outcome.time_ns = time_ns
    outcome.best_bid_lots = int(book.sizes[0, bid - book.low_tick]) if has_bid else 0
    outcome.best_ask_lots = int(book.sizes[1, ask - book.low_tick]) if has_ask else 0
    if has_bid:
        outcome.best_bid_ticks = bid
    if has_ask:
        outcome.best_ask_ticks = ask
