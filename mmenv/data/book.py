"""The book of a tape as dense arrays, and book tickers fused into it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import BBO, BUY, CLEAR, DEPTH, ROW, SELL, SNAPSHOT, TRADE

BOOK_WINDOW: Final = 0.01
"""Replay keeps the levels within this fraction of the day's range of best prices, and no others."""


class Book:
    """Level sizes of both sides within a window of ticks, as dense arrays; levels outside are ignored."""

    def __init__(self, low_tick: int, high_tick: int) -> None:
        self.low_tick = low_tick
        self.sizes = np.zeros((2, high_tick - low_tick + 1), np.int64)

    def levels(self) -> NDArray[np.void]:
        """`ROW` rows of kind SNAPSHOT, bids then asks, times zero."""
        parts = []
        for side, sizes in zip((BUY, SELL), self.sizes, strict=True):
            found = np.flatnonzero(sizes)
            rows = np.zeros(len(found), ROW)
            rows["kind"], rows["side"] = SNAPSHOT, side
            rows["price"], rows["size"] = found + self.low_tick, sizes[found]
            parts.append(rows)
        return np.concatenate(parts)


def window(low_tick: int, high_tick: int, fraction: float) -> tuple[int, int]:
    """The range of ticks `fraction` wider than [low_tick, high_tick], at least 100 ticks on each side."""
    low = low_tick - max(round(low_tick * fraction), 100)
    high = high_tick + max(round(high_tick * fraction), 100)
    return max(low, 1), high


FUSING: Final = np.dtype(
    [
        ("ticker_id", "i8"),  # of the last ticker
        ("ticker_bid", "i8"),  # its ticks
        ("ticker_ask", "i8"),
        ("book_id", "i8"),  # of the newest book row
        ("exch_ns", "i8"),
        ("top_bid", "i8"),  # index of the level above which there is no bid
        ("top_ask", "i8"),  # and below which there is no ask
        ("bid_tick", "i8"),  # of the ticker being read
        ("bid_size", "i8"),
    ]
)
NO_ASK: Final = np.iinfo(np.int64).max
FUSE_START: Final = np.array([(-1, -1, -1, -1, -1, -1, NO_ASK, 0, 0)], FUSING)
"""State of `fused` before the first row."""


class _Levels(NamedTuple):
    """The book that tickers are fused into."""

    low_tick: int
    sizes: Any
    """int64 [2, width]."""
    state: Any
    """`FUSING` [1]."""


@njit(cache=True, nogil=True)
def longer(rows, count, size):
    """The first `count` rows at the beginning of an array of another size."""
    found = np.empty(size, rows.dtype)
    # Not as a slice: what numba compiles for the shapes of slices takes seconds.
    for row in range(count):
        found[row] = rows[row]
    return found


@njit(cache=True, nogil=True)
def fused(
    rows: NDArray[np.void], low_tick: int, sizes: NDArray[np.int64], state: NDArray[np.void]
) -> NDArray[np.void]:
    """Book tickers turned into depth rows, so that the touch is as recent as anything received.

    A ticker numbered after the last diff sets the best levels and removes what is better than them. A diff
    numbered before the last ticker says nothing new from the touch on; those rows are dropped. Numbers are
    the exchange's, shared by both streams; exchange times are kept in their order.

    Parameters
    ----------
    rows
        `ROW` [n] in arrival order, tickers as pairs of bid and ask.
    low_tick
        Tick of the first level of `sizes`.
    sizes
        [2, width], the book so far, bids first; updated.
    state
        `FUSING` [1], at first a copy of `FUSE_START`; updated.

    Returns
    -------
    `ROW` [m] without tickers
    """
    levels, now = _Levels(low_tick, sizes, state), state[0]
    out = np.empty(2 * len(rows) + 16, ROW)
    count = 0
    for place in range(len(rows)):
        row = rows[place]
        room = 1
        if row.kind == BBO and row.side == SELL:
            # One for each level that may be better than it, and one for itself, on each side.
            better_bids = max(now.top_bid + low_tick - now.bid_tick, 0)
            room = better_bids + max(row.price - low_tick - now.top_ask, 0) + 2
        if count + room > len(out):
            out = longer(out, count, 2 * len(out) + room)
        if row.kind == BBO:
            if row.side == BUY:
                now.bid_tick, now.bid_size = row.price, row.size
            elif row.id > now.book_id:
                count = _take_ticker(row, levels, out, count)
            continue
        if row.kind == TRADE:
            out[count] = row
            count += 1
            continue
        if row.kind == CLEAR:
            sizes[:] = 0
            now.ticker_id, now.top_bid, now.top_ask = -1, -1, NO_ASK
        elif row.id < now.ticker_id and (
            row.price >= now.ticker_bid if row.side == BUY else row.price <= now.ticker_ask
        ):
            continue
        out[count] = row
        _stamp(out[count], now)
        count += 1
        at = row.price - low_tick
        if row.kind != CLEAR and 0 <= at < sizes.shape[1]:
            _set_level(levels, 0 if row.side == BUY else 1, at, row.size)
    return out[:count].copy()


@njit(cache=True, nogil=True)
def _take_ticker(ask, levels, out, count):
    """Bring the touch up to date with a ticker, whose bid is in the state; how many rows there are then."""
    now, sizes = levels.state[0], levels.sizes
    bid_at, ask_at = now.bid_tick - levels.low_tick, ask.price - levels.low_tick
    now.ticker_id, now.ticker_bid, now.ticker_ask = ask.id, now.bid_tick, ask.price
    # Removals first: in between, the book is never crossed.
    for at in range(max(bid_at + 1, 0), now.top_bid + 1):
        if sizes[0, at] > 0:
            count = _write_level(ask, levels, 0, at, 0, out, count)
    for at in range(now.top_ask, min(ask_at, sizes.shape[1])):
        if sizes[1, at] > 0:
            count = _write_level(ask, levels, 1, at, 0, out, count)
    now.top_bid, now.top_ask = min(now.top_bid, bid_at), max(now.top_ask, ask_at)
    for side, at, size in ((0, bid_at, now.bid_size), (1, ask_at, ask.size)):
        if 0 <= at < sizes.shape[1] and sizes[side, at] != size:
            count = _write_level(ask, levels, side, at, size, out, count)
    return count


@njit(cache=True, nogil=True)
def _write_level(row, levels, side, at, size, out, count):
    """Set a level, and write a row like `row` that does; how many rows there are then."""
    _set_level(levels, side, at, size)
    out[count] = row
    out[count].kind, out[count].side = DEPTH, BUY if side == 0 else SELL
    out[count].price, out[count].size = at + levels.low_tick, size
    _stamp(out[count], levels.state[0])
    return count + 1


@njit(cache=True, nogil=True)
def _set_level(levels, side, at, size):
    levels.sizes[side, at] = size
    now = levels.state[0]
    if side == 0:
        now.top_bid = max(now.top_bid, at)
    else:
        now.top_ask = min(now.top_ask, at)


@njit(cache=True, nogil=True)
def _stamp(row, now):
    """Keep the exchange times of book rows in the order of their numbers."""
    if row.id >= now.book_id:
        now.book_id = row.id
        now.exch_ns = max(now.exch_ns, row.exch_ns)
        row.exch_ns = now.exch_ns
