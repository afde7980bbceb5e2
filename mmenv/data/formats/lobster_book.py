"""From LOBSTER's books to the changes between them, compiled; levels out of view are remembered."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from mmenv.data import rows as kinds
from mmenv.data.book import longer
from mmenv.data.decimals import ONE
from mmenv.data.rows import BUY, CLEAR, DEPTH, RAW, SELL, SNAPSHOT, TRADE

MESSAGE: Final = np.dtype(
    [(name, "i8") for name in ("line", "time", "type", "order", "size", "price", "direction")]
)
"""A line of a message file; time in nanoseconds after midnight."""
LEVEL: Final = np.dtype([(name, "i8") for name in ("ask_price", "ask_size", "bid_price", "bid_size")])
NEW, CANCEL, DELETE, EXECUTE, HIDDEN, CROSS, HALT = range(1, 8)
"""Types of messages."""
DOLLAR: Final = 10_000
"""A dollar in their prices."""
UNIT: Final = ONE // DOLLAR
"""`RAW` units in a unit of their prices."""
NO_LEVEL: Final = 9_999_999_999
"""Their price of a level that is not there, with a minus on the bid side."""
MOST_SHARES: Final = np.iinfo(np.int64).max // ONE
FAR_LEVELS: Final = 4_096
"""Levels out of view that are remembered on each side."""


class Far(NamedTuple):
    """Levels out of view, by side."""

    count: Any
    """int64 [2]."""
    keys: Any
    """int64 [2, FAR_LEVELS], as `_level` gives them."""


def no_far() -> Far:
    """No level out of view."""
    return Far(np.zeros(2, np.int64), np.zeros((2, FAR_LEVELS), np.int64))


@njit(cache=True, nogil=True)
def possible(books):
    """Which books [n] of `LEVEL` [n, levels] can be: prices above 0, each farther from the mid than the one
    before, sizes that are not negative, and nothing behind a level that is not there."""
    out = np.ones(len(books), np.bool_)
    for place in range(len(books)):
        for side in range(2):
            last = -NO_LEVEL
            for at in range(books.shape[1]):
                key, size = _level(books[place], side, at)
                none = key == NO_LEVEL
                out[place] &= none or (last < key < NO_LEVEL and (key if side == 0 else -key) > 0)
                out[place] &= 0 <= size <= MOST_SHARES
                last = key
    return out


@njit(cache=True, nogil=True)
def changes(heads, messages, books, before, far):
    """Trades, what happens to orders, and how the book changed with each message.

    Parameters
    ----------
    heads
        `RAW` [n], what each message says.
    messages
        `MESSAGE` [n].
    books
        `LEVEL` [n, levels], the book after each message.
    before
        `LEVEL` [levels], the book before the first message, or [0].
    far
        Levels out of view; updated.

    Returns
    -------
    rows
        `RAW` [m].
    gaps
        Messages [g] that do not fit the change of the book.
    last
        `LEVEL` [levels], the last book.
    """
    levels = books.shape[1]
    most = 4 * levels + 2 * FAR_LEVELS + 4  # rows of a message
    out = np.empty(2 * len(heads) + 2 * most, RAW)
    count = 0
    gaps = []
    for place in range(len(heads)):
        head, book = heads[place], books[place]
        if count + most > len(out):
            out = longer(out, count, 2 * len(out))
        if head.kind == TRADE:
            out[count] = head
            count += 1
        first = len(before) == 0
        if first:
            far.count[:] = 0
            before = _no_book(levels)
            out[count] = head
            out[count].kind, out[count].side, out[count].price, out[count].size = CLEAR, BUY, 0, 0
            count += 1
        elif messages[place].type <= HIDDEN and not _fits(messages[place], before, book):
            gaps.append(place)
        count = _order(head, messages[place], out, count)
        begin = count
        for side in range(2):
            count = _side_changes(head, side, before, book, far, out, count)
        for at in range(begin, count):
            out[at].kind = SNAPSHOT if first else DEPTH
        before = book
    return out[:count].copy(), np.array(gaps, np.int64), before.copy()


@njit(cache=True, nogil=True)
def _order(head, message, out, count):
    """Write what the message says of an order; returns how many rows there are."""
    if message.type not in (NEW, CANCEL, DELETE, EXECUTE):
        return count
    for kind in (kinds.FILL, kinds.ADD if message.type == NEW else kinds.CANCEL):
        if kind != kinds.FILL or message.type == EXECUTE:
            out[count] = head
            out[count].kind, out[count].id = kind, message.order
            out[count].side = BUY if message.direction == BUY else SELL
            out[count].price, out[count].size = message.price * UNIT, message.size * ONE
            count += 1
    return count


@njit(cache=True, nogil=True)
def _no_book(levels):
    book = np.zeros(levels, LEVEL)
    for at in range(levels):
        book[at].ask_price, book[at].bid_price = NO_LEVEL, -NO_LEVEL
    return book


@njit(cache=True, nogil=True)
def _level(book, side, at):
    """Distance key, which grows away from the mid, and size of a level; asks are side 0."""
    level = book[at]
    return (level.ask_price, level.ask_size) if side == 0 else (-level.bid_price, level.bid_size)


@njit(cache=True, nogil=True)
def _unchanged(before, after, side):
    """How many levels of one side, from the best one, are the same in both books."""
    for at in range(len(after)):
        if _level(before, side, at) != _level(after, side, at):
            return at
    return len(after)


@njit(cache=True, nogil=True)
def _worst(book, side):
    """Key up to which the side is in view: everything, if it has fewer levels than the file shows."""
    return _level(book, side, len(book) - 1)[0]


@njit(cache=True, nogil=True)
def _size_at(book, side, key):
    """Size at a key, -1 if that is out of view."""
    for at in range(len(book)):
        found, size = _level(book, side, at)
        if found == key:
            return size
        if found > key:
            return 0
    return -1


@njit(cache=True, nogil=True)
def _fits(message, before, after):
    """Whether the level a message names changes by its size, and no other, as far as both books show."""
    named = 0 if message.direction == SELL else 1
    change = 0 if message.type == HIDDEN else message.size if message.type == NEW else -message.size
    levels = len(after)
    for side in range(2):
        named_key = message.price if side == 0 else -message.price
        seen = min(_worst(before, side), _worst(after, side), NO_LEVEL - 1)
        wanted = change if side == named and named_key <= seen else 0
        old = new = _unchanged(before, after, side)
        while old < levels or new < levels:
            old_key, old_size = _level(before, side, old) if old < levels else (NO_LEVEL, 0)
            new_key, new_size = _level(after, side, new) if new < levels else (NO_LEVEL, 0)
            key = min(old_key, new_key)
            if key > seen:
                break
            difference = (new_size if new_key == key else 0) - (old_size if old_key == key else 0)
            if difference != (wanted if key == named_key else 0):
                return False
            if key == named_key:
                wanted = 0
            old += old_key == key
            new += new_key == key
        if wanted != 0:
            return False
    return True


@njit(cache=True, nogil=True)
def _side_changes(head, side, before, after, far, out, count):
    """Write a row for each level of one side that changed; returns how many rows there are."""
    levels, worst, hidden = len(after), _worst(after, side), far.keys[side]
    same = _unchanged(before, after, side)
    if same == levels:
        return count
    # What was out of view and should be seen now is gone, or is a level of `after`.
    at = 0
    while at < far.count[side]:
        if hidden[at] <= worst:
            if _size_at(after, side, hidden[at]) <= 0:
                count = _write(head, side, hidden[at], 0, out, count)
            far.count[side] -= 1
            hidden[at] = hidden[far.count[side]]
        else:
            at += 1
    old = new = same
    while old < levels or new < levels:
        old_key, old_size = _level(before, side, old) if old < levels else (NO_LEVEL, 0)
        new_key, new_size = _level(after, side, new) if new < levels else (NO_LEVEL, 0)
        if old_key == NO_LEVEL and new_key == NO_LEVEL:
            break
        if old_key < new_key:
            if old_key <= worst or far.count[side] == len(hidden):
                count = _write(head, side, old_key, 0, out, count)
            else:
                hidden[far.count[side]] = old_key
                far.count[side] += 1
            old += 1
        elif new_key < old_key:
            count = _write(head, side, new_key, new_size, out, count)
            new += 1
        else:
            if old_size != new_size:
                count = _write(head, side, new_key, new_size, out, count)
            old += 1
            new += 1
    return count


@njit(cache=True, nogil=True)
def _write(head, side, key, size, out, count):
    out[count] = head
    out[count].side = SELL if side == 0 else BUY
    out[count].price = (key if side == 0 else -key) * UNIT
    out[count].size = size * ONE
    return count + 1
