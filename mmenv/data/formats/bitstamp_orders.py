"""Bitstamp's log in compiled code: from lines to events, from events to what stands in the book."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from mmenv.data import rows as kinds
from mmenv.data.decimals import DECIMALS
from mmenv.data.formats.json_flat import FLAT, LARGEST, WORDS, number_of, read_object, rounded_of, word_of
from mmenv.data.formats.json_work import bytes_at, inner, pairs_at
from mmenv.data.formats.layout import hashed
from mmenv.data.rows import UNKNOWN_NS
from mmenv.data.table import find, full, put, remove
from mmenv.times import MILLISECOND

EVENTS: Final = ("order_created", "order_changed", "order_deleted", "trade", "order_book")
CREATED, CHANGED, DELETED, DEAL, BOOK = range(len(EVENTS))
EVENT: Final = np.dtype(
    [
        *((name, "i8") for name in ("local_ns", "line", "price", "size", "id")),
        *((name, "i4") for name in ("bids", "bids_end", "asks", "asks_end")),
        ("event", "i1"),
        ("side", "i1"),
    ]
)
"""What a line says: numbers in `RAW` units, and which pairs of prices and sizes are the bids and asks of a
BOOK, of which none comes twice."""
STATE: Final = np.dtype(
    [(name, "i8") for name in ("begun", "number", "entered", "bids", "asks", "takers", "same", "other")]
)
"""Whether there has been a book; how many changes of levels, and levels and orders that were new; how many
levels there are a side, and orders that meet others; and of levels of later books, how many were as known
here, and how many were not."""
SIDE, PRICE, SIZE, SINCE = range(1, 5)
"""Columns of orders, by number: what they have left, and their place in the order of coming to rest."""
KEY, LEFT, KNOWN, NEW = range(4)
"""Columns of a side's levels, best last: price times side, size, what known orders have of it, and their
place in the order in which levels were first known."""

_BIDS, _ASKS, _PRICE, _AMOUNT, _ID, _TYPE = range(6)
KEYS: Final = hashed(
    {"bids": 1, "asks": 2, "price": 3, "amount": 4, "id": 5, "order_type": 6}
    | {f"={event}": WORDS + number for number, event in enumerate(EVENTS)}
)
_FIELDS: Final = 6
# Of one type, for which functions are compiled once.
_ADD, _CANCEL, _DEPTH, _FILL, _MODIFY, _TRADE, _BUY, _SELL, _NOTHING = map(
    np.int64,
    (kinds.ADD, kinds.CANCEL, kinds.DEPTH, kinds.FILL, kinds.MODIFY, kinds.TRADE, kinds.BUY, kinds.SELL, 0),
)
_NEWLINE, _RETURN, _BLANK, _ZERO, _NINE = b"\n\r 09"
_LONGEST: Final = 16
"""Digits of a time; a longer one is no number of nanoseconds."""


@njit(cache=True, nogil=True)
def scan_log(text, at, line, keys):
    """Events up to the first line that is anything else.

    Parameters
    ----------
    text
        Bytes [any] of whole lines.
    at, line
        Where to begin, the beginning of a line, and its number.
    keys
        `KEYS`.

    Returns
    -------
    at, line
        Where it stopped.
    events
        `EVENT` [m].
    pairs
        int64 [n, 2], prices and sizes of the levels of books.
    """
    # No line that is an event is shorter, and no level.
    events, pairs = (
        np.empty((len(text) - at) // 32 + 2, EVENT),
        np.empty(((len(text) - at) // 8 + 2, 2), np.int64),
    )
    slots, flats = np.empty((_FIELDS, 2), np.int64), np.zeros(1, FLAT)
    flat = flats[0]
    flat.text, flat.end, flat.keys = text.ctypes.data, len(text), keys.ctypes.data
    flat.lists, flat.fields = 2, _FIELDS
    flat.slots, flat.pairs = slots.ctypes.data, pairs.ctypes.data
    # Numba frees an array after its last use, and knows nothing of addresses, nor of a record's array.
    at, line, count = _log_lines(flat, events, at, line, (pairs, slots, keys, flats))
    return at, line, events[:count].copy(), pairs[: flats[0].count].copy()


@inner
def _log_lines(flat, events, at, line, held):
    """Read lines; where it stopped, the number of that line, and how many events there are."""
    end, count = flat.end, 0
    byte = bytes_at(flat.text, end)
    while at < end:
        if byte[at] != _NEWLINE:
            before, event = flat.count, events[count]
            place = _stamped(flat, at, event)
            if place >= 0:
                place = read_object(flat, place)
            if place >= 0 and place < end and byte[place] == _RETURN:
                place += 1
            if place < 0 or (place < end and byte[place] != _NEWLINE) or not _understood(flat, event):
                flat.count = before
                break
            event.line = line
            count, at = count + 1, place
        at, line = at + 1, line + 1
    return min(at, end), line, count


@inner
def _stamped(flat, at, event):
    """Note the time and kind of a line; where its message begins, -1 where it does not."""
    end = flat.end
    byte = bytes_at(flat.text, end)
    value, begin = np.int64(0), at
    while at < end and _ZERO <= byte[at] <= _NINE and at - begin <= _LONGEST:
        value = 10 * value + np.int64(byte[at]) - _ZERO
        at += 1
    if value <= 0 or value >= LARGEST // MILLISECOND or at >= end or byte[at] != _BLANK:
        return np.int64(-1)
    begin = at = at + 1
    while at < end and byte[at] > _BLANK:
        at += 1
    event.local_ns, event.event = value * MILLISECOND, word_of(flat, begin, at)
    return np.int64(at + 1 if event.event >= 0 and at < end and byte[at] == _BLANK else -1)


@inner
def _understood(flat, event):
    """Note what a message says; whether it is as it should be."""
    slots = pairs_at(flat.slots, _FIELDS)
    if event.event == BOOK:
        event.bids, event.bids_end = slots[_BIDS, 0], slots[_BIDS, 1]
        event.asks, event.asks_end = slots[_ASKS, 0], slots[_ASKS, 1]
        return (
            event.bids >= 0
            and event.asks >= 0
            and _in_order(flat, event.bids, event.bids_end, _BUY)
            and _in_order(flat, event.asks, event.asks_end, _SELL)
        )
    event.price, event.size = rounded_of(flat, _PRICE, DECIMALS), rounded_of(flat, _AMOUNT, DECIMALS)
    event.id, event.side = number_of(flat, _ID), 0
    if event.event != DEAL:
        kind = number_of(flat, _TYPE)
        event.side = _BUY if kind == 0 else _SELL
        if kind < 0 or kind > 1 or event.price == 0:
            return False
    return event.price >= 0 and event.size >= 0 and event.id >= 0


@inner
def _in_order(flat, begin, end, side):
    """Whether levels go from the best to worse ones, and have prices and sizes."""
    pairs, last = pairs_at(flat.pairs, end), np.int64(LARGEST)
    for at in range(begin, end):
        key = pairs[at, 0] * side
        if key >= last or pairs[at, 0] <= 0 or pairs[at, 1] <= 0:
            return False
        last = key
    return True


@njit(cache=True, nogil=True)
def apply_log(events, at, pairs, file, out, state, orders, last, bids, asks, takers):
    """Let events happen until there is one for which there is no room, or the first book.

    Parameters
    ----------
    events, pairs
        As of `scan_log`.
    at
        Which of them is next.
    file
        Number of the file.
    out
        `RAW` [any], for their rows.
    state
        `STATE` [1], updated like all that follow.
    orders
        Table by number, see above.
    last
        Table by price: side of the order that lost lots last.
    bids, asks
        int64 [any, 4], see above.
    takers
        int64 [any, 4], orders that meet others: they do not stand in the book yet. Number, side, price, size.

    Returns
    -------
    at
        Which of the events is next.
    count
        How many rows there are.
    """
    # A literal 0 would have what takes it compiled twice.
    count, now = _NOTHING, state[0]
    while at < len(events):
        event = events[at]
        if event.event == BOOK:
            if not now.begun or count + now.bids + now.asks >= len(out):
                break
            now.number += 1
            first, told = count, pairs[event.bids : event.bids_end]
            count = _compared(out, count, event, file, now, _BUY, told, bids, asks)
            told = pairs[event.asks : event.asks_end]
            count = _compared(out, count, event, file, now, _SELL, told, bids, asks)
            _by_age(out, first, count, now.number)
        elif count + 7 + 3 * now.takers > len(out) or _short(now, orders, last, bids, asks, takers):
            break
        elif event.event == DEAL:
            place = find(last, event.price)
            side = last[place, 1] if place >= 0 else _NOTHING
            count = _put(out, count, event, file, _TRADE, side, event.price, event.size, event.id)
        else:
            found = _order(out, count, event, file, now, orders, last, bids, asks, takers)
            count = found if now.begun else count
        at += 1
    return at, count


@inner
def _short(now, orders, last, bids, asks, takers):
    """Whether something needs more room before an order's event can happen."""
    more = now.takers + 2
    return (
        more > len(takers)
        or now.bids + more > len(bids)
        or now.asks + more > len(asks)
        or 2 * (orders[len(orders) - 1, 0] + more) >= len(orders) - 1
        or full(last)
    )


@inner
def _put(out, count, event, file, kind, side, price, size, id):
    """Add a row; how many there are then."""
    row = out[count]
    row.exch_ns, row.local_ns, row.line, row.file = UNKNOWN_NS, event.local_ns, event.line, file
    row.kind, row.side, row.price, row.size, row.id = kind, side, price, size, id
    return count + 1


@inner
def _order(out, count, event, file, now, orders, last, bids, asks, takers):
    """An order is created, changed or deleted; how many rows there are then."""
    number, side, price, size = event.id, np.int64(event.side), event.price, event.size
    known, before, met = False, np.int64(0), False
    for taker in range(now.takers):
        if takers[taker, 0] == number:
            known, met = True, takers[taker, SIDE] == side and takers[taker, PRICE] == price
            before = takers[taker, SIZE]
            _leave_out(takers, taker, now.takers)
            now.takers -= 1
            break
    place = find(orders, number)
    if place >= 0 and not known:
        met = orders[place, SIDE] == side and orders[place, PRICE] == price
        before = orders[place, SIZE]
    executed = before - size if met else 0
    lost = executed > 0 and (event.event == CHANGED or size == 0)
    if lost:
        last[put(last, price), 1] = -side
    # Deleted with what it had left; nothing if it was executed.
    left = 0 if event.event == DELETED else size
    if place >= 0:
        if lost:
            count = _put(out, count, event, file, _FILL, side, price, executed, number)
        count = _rest(out, count, event, file, now, orders, bids, asks, number, side, price, left)
    elif left and _crosses(now, bids, asks, side, price):
        # It takes what it meets first, and rests with what it has left then.
        taker = takers[now.takers]
        taker[0], taker[SIDE], taker[PRICE], taker[SIZE] = number, side, price, left
        now.takers += 1
    elif left:
        count = _rest(out, count, event, file, now, orders, bids, asks, number, side, price, left)
    elif not known and event.event == DELETED and size:
        count = _forget(out, count, event, file, now, bids, asks, side, price, size)
    held = _NOTHING
    while held < now.takers:
        number, side, price, left = takers[held]
        if _crosses(now, bids, asks, side, price):
            held += 1
            continue
        _leave_out(takers, held, now.takers)
        now.takers -= 1
        count = _rest(out, count, event, file, now, orders, bids, asks, number, side, price, left)
    return count


@inner
def _leave_out(table, at, count):
    """Let the rows after one of `count` rows stand one before."""
    for row in range(at, count - 1):
        for column in range(4):
            table[row, column] = table[row + 1, column]


@inner
def _crosses(now, bids, asks, side, price):
    """Whether an order would meet one of the other side."""
    levels, count = (asks, now.asks) if side == _BUY else (bids, now.bids)
    return count > 0 and price * side + levels[count - 1, KEY] >= 0


@inner
def _rest(out, count, event, file, now, orders, bids, asks, number, side, price, left):
    """Let an order stand with what it has left; how many rows there are then."""
    place = find(orders, number)
    old, old_side, old_price, old_size = place >= 0, side, price, np.int64(0)
    if old:
        old_side, old_price, old_size = orders[place, SIDE], orders[place, PRICE], orders[place, SIZE]
        _shift(now, bids, asks, old_side, old_price, -old_size, -old_size)
    if left:
        place = put(orders, number)
        orders[place, SIDE], orders[place, PRICE], orders[place, SIZE] = side, price, left
        orders[place, SINCE] = now.entered
        now.entered += 1
        _shift(now, bids, asks, side, price, left, left)
        kind = _MODIFY if old else _ADD
        count = _put(out, count, event, file, kind, side, price, left, number)
    elif old:
        remove(orders, place)
        count = _put(out, count, event, file, _CANCEL, old_side, old_price, old_size, number)
    now.number += 1
    # Asks first, and the lower price.
    swapped = old_side > side or (old_side == side and old_price > price)
    if not swapped and (old_side != side or old_price != price):
        count = _told(out, count, event, file, now, bids, asks, old_side, old_price)
    count = _told(out, count, event, file, now, bids, asks, side, price)
    if swapped:
        count = _told(out, count, event, file, now, bids, asks, old_side, old_price)
    return count


@inner
def _told(out, count, event, file, now, bids, asks, side, price):
    """A row of what a level has; how many there are then."""
    levels, size = (bids, now.bids) if side == _BUY else (asks, now.asks)
    at = _place(levels, size, price * side)
    left = levels[at, LEFT] if at < size and levels[at, KEY] == price * side else 0
    return _put(out, count, event, file, _DEPTH, side, price, left, now.number)


@inner
def _forget(out, count, event, file, now, bids, asks, side, price, size):
    """An order from before the first book is cancelled; how many rows there are then."""
    levels, known = (bids, now.bids) if side == _BUY else (asks, now.asks)
    at = _place(levels, known, price * side)
    if at == known or levels[at, KEY] != price * side or levels[at, LEFT] == levels[at, KNOWN]:
        return count
    gone = min(levels[at, LEFT] - levels[at, KNOWN], size)
    _shift(now, bids, asks, side, price, -gone, _NOTHING)
    now.number += 1
    return _told(out, count, event, file, now, bids, asks, side, price)


@inner
def _place(levels, count, key):
    """Where a level is, or would be."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        if levels[middle, KEY] < key:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _shift(now, bids, asks, side, price, size, known):
    """Add to what a level has, and to what known orders have of it."""
    levels, count = (bids, now.bids) if side == _BUY else (asks, now.asks)
    at = _place(levels, count, price * side)
    if at == count or levels[at, KEY] != price * side:
        if size <= 0:
            return
        for row in range(count, at, -1):
            for column in range(4):
                levels[row, column] = levels[row - 1, column]
        levels[at, KEY], levels[at, LEFT], levels[at, KNOWN] = price * side, size, known
        levels[at, NEW] = now.entered
        now.entered += 1
        count += 1
    else:
        levels[at, LEFT] += size
        levels[at, KNOWN] += known
        if levels[at, LEFT] <= 0:
            _leave_out(levels, at, count)
            count -= 1
    if side == _BUY:
        now.bids = count
    else:
        now.asks = count


@inner
def _compared(out, count, event, file, now, side, told, bids, asks):
    """A later book says what is left of orders from before the first one, as far as its levels go; how many
    rows there are then."""
    levels = bids if side == _BUY else asks
    size, worst = now.bids if side == _BUY else now.asks, -np.int64(LARGEST)
    for at in range(len(told)):
        worst = told[at, 0] * side if at == 0 else min(worst, told[at, 0] * side)
    found = _NOTHING
    for at in range(size - 1, -1, -1):
        key, left, known = levels[at, KEY], levels[at, LEFT], levels[at, KNOWN]
        if key < worst:
            break
        found = _found(told, key * side, found)
        wanted = min(left, max(known, told[found, 1] if found < len(told) else 0))
        if wanted != left:
            since = levels[at, NEW]
            _shift(now, bids, asks, side, key * side, wanted - left, _NOTHING)
            count = _put(out, count, event, file, _DEPTH, side, key * side, wanted, since)
    size = now.bids if side == _BUY else now.asks
    for at in range(len(told)):
        place = _place(levels, size, told[at, 0] * side)
        same = (
            place < size and levels[place, KEY] == told[at, 0] * side and levels[place, LEFT] == told[at, 1]
        )
        now.same += same
        now.other += not same
    return count


@inner
def _found(told, price, after):
    """Where a book has the level of a price, most likely soon after another one; where it ends, if it has
    none."""
    for step in range(len(told)):
        at = after + step
        at -= len(told) if at >= len(told) else 0
        if told[at, 0] == price:
            return at
    return len(told)


@inner
def _by_age(out, begin, end, number):
    """Order rows by their `id`, when their level was first known, and then give them all this one."""
    for at in range(begin, end):
        place = at
        while place > begin and out[place - 1].id > out[place].id:
            one, other = out[place - 1], out[place]
            one.id, other.id = other.id, one.id
            one.side, other.side = other.side, one.side
            one.price, other.price = other.price, one.price
            one.size, other.size = other.size, one.size
            place -= 1
    for at in range(begin, end):
        out[at].id = number
