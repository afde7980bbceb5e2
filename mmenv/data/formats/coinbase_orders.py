"""Coinbase's channel `full` in compiled code: from lines to messages, from messages to orders of the book.

Read are lines of one of `KINDS` that say all that it should; others are left to
`mmenv.data.formats.coinbase_full`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from mmenv.data import rows as kinds
from mmenv.data.formats.json_flat import (
    FLAT,
    WORDS,
    decimal_of,
    number_of,
    place_of,
    quoted,
    read_object,
    word_of,
)
from mmenv.data.formats.json_text import START, hash_bytes, same_bytes, stamp_of, utc_ns
from mmenv.data.formats.json_work import bytes_at, inner
from mmenv.data.formats.layout import hashed
from mmenv.data.table import find, full, larger, put, remove

KINDS: Final = ("received", "open", "match", "change", "done", "activate")
RECEIVED, OPEN, MATCH, CHANGE, DONE, ACTIVATE = range(len(KINDS))
MESSAGE: Final = np.dtype(
    [
        *((name, "i8") for name in ("exch_ns", "local_ns", "sequence", "order", "price", "size", "trade")),
        *((name, "i4") for name in ("line", "symbol_begin", "symbol_end")),
        ("kind", "i1"),
        ("side", "i1"),
        ("ours", "?"),
    ]
)
"""A message: `local_ns` is 0 where it is not known, `order` the hash of the name of the order, of a MATCH the
maker's, numbers are in `RAW` units, and the symbol is a place in the text."""
STATE: Final = np.dtype([(name, "i8") for name in ("sequence", "number", "held", "received", "activated")])
"""Number of the last message and of the last change of a level; and how many messages the book held already,
and how many of two kinds changed no book."""
GAP: Final = np.dtype([(name, "i8") for name in ("line", "local_ns", "sequence", "before")])
"""A message that does not follow the one before it."""
SIDE, PRICE, SIZE = range(1, 4)
"""Columns of orders, by their hash."""

_NAMES: Final = (
    *("type", "product_id", "time", "sequence", "order_id", "maker_order_id", "side", "price"),
    *("remaining_size", "size", "new_size", "new_price", "trade_id", "bids", "asks"),
)
_TYPE, _PRODUCT, _TIME, _SEQUENCE, _ORDER, _MAKER, _SIDE, _PRICE = map(np.int64, range(8))
_REMAINING, _SIZE, _NEW_SIZE, _NEW_PRICE, _TRADE_ID, _BIDS, _ASKS = map(np.int64, range(8, 15))
_FIELDS: Final = len(_NAMES)
_BUYS, _SELLS = range(len(KINDS), len(KINDS) + 2)
KEYS: Final = hashed(
    {name: field for field, name in enumerate(_NAMES, 1)}
    | {f"={word}": WORDS + number for number, word in enumerate((*KINDS, "buy", "sell"))}
)
_ADD, _CANCEL, _DEPTH, _FILL, _MODIFY, _TRADE, _BUY, _SELL, _NOTHING = map(
    np.int64,
    (kinds.ADD, kinds.CANCEL, kinds.DEPTH, kinds.FILL, kinds.MODIFY, kinds.TRADE, kinds.BUY, kinds.SELL, 0),
)
_NEWLINE, _RETURN, _ZERO, _NINE = b"\n\r09"
_SHORTEST: Final = 64
"""No line that is a message is shorter."""
_MOST_ROWS: Final = 4
"""Of a message."""


@njit(cache=True, nogil=True)
def scan_orders(text, at, line, symbol, price_places, size_places, choose, keys):
    """Messages up to the first line that is anything else.

    Parameters
    ----------
    text
        Bytes [any] of whole lines.
    at, line
        Where to begin, the beginning of a line, and its number.
    symbol
        Bytes of the product that is read.
    price_places, size_places
        Decimal places to read with.
    choose
        Whether there may be messages of other products; without it, matches alone.
    keys
        `KEYS`.

    Returns
    -------
    at, line
        Where it stopped.
    messages
        `MESSAGE` [m].
    """
    messages = np.empty((len(text) - at) // _SHORTEST + 2, MESSAGE)
    slots, flats = np.empty((_FIELDS, 2), np.int64), np.zeros(1, FLAT)
    flat = flats[0]
    flat.text, flat.end, flat.keys = text.ctypes.data, len(text), keys.ctypes.data
    flat.fields, flat.slots = _FIELDS, slots.ctypes.data
    wanted = symbol.ctypes.data, len(symbol), price_places, size_places
    # Numba frees an array after its last use, and knows nothing of addresses, nor of a record's array.
    held = text, slots, flats, keys, symbol
    at, line, count = _order_lines(flat, messages, at, line, wanted, choose, held)
    return at, line, messages[:count].copy()


@inner
def _order_lines(flat, messages, at, line, wanted, choose, held):
    """Read lines; where it stopped, the number of that line, and how many messages there are."""
    end, count = flat.end, 0
    byte = bytes_at(flat.text, end)
    while at < end:
        if byte[at] != _NEWLINE:
            message, place, local_ns = messages[count], at, np.int64(0)
            if _ZERO <= byte[at] <= _NINE:
                place, local_ns = stamp_of(flat.text, at, end)
            if place >= 0:
                place = read_object(flat, place)
            if place >= 0 and place < end and byte[place] == _RETURN:
                place += 1
            if place < 0 or (place < end and byte[place] != _NEWLINE):
                break
            if not _understood(flat, message, wanted):
                break
            if not (message.ours or choose or message.kind == MATCH):
                break
            message.line, message.local_ns = line, local_ns
            count, at = count + 1, place
        at, line = at + 1, line + 1
    return min(at, end), line, count


@inner
def _understood(flat, message, wanted):
    """Note what a message says; whether it is as it should be."""
    symbol, symbol_size, price_places, size_places = wanted
    begin, end = place_of(flat, _TYPE)
    name, name_end = place_of(flat, _PRODUCT)
    if not quoted(flat, _TYPE) or not quoted(flat, _PRODUCT) or place_of(flat, _BIDS)[0] >= 0:
        return False
    kind = word_of(flat, begin, end)
    if kind < 0 or kind >= len(KINDS):
        return False
    message.kind, message.symbol_begin, message.symbol_end = kind, name, name_end
    message.ours = same_bytes(flat.text, name, name_end, symbol, symbol_size)
    if not message.ours:
        return True
    begin, end = place_of(flat, _TIME)
    message.exch_ns = utc_ns(flat.text, begin, end) if quoted(flat, _TIME) else -1
    message.sequence = number_of(flat, _SEQUENCE)
    if message.exch_ns < 0 or message.sequence < 0:
        return False
    if kind in (RECEIVED, ACTIVATE):
        return True
    order = _MAKER if kind == MATCH else _ORDER
    begin, end = place_of(flat, order)
    if not quoted(flat, order):
        return False
    message.order = np.int64(hash_bytes(START, flat.text, begin, end) >> np.uint64(1))
    if kind == DONE:
        return True
    price, size = _PRICE, _SIZE if kind == MATCH else _REMAINING if kind == OPEN else _NEW_SIZE
    if kind == CHANGE:
        begin, end = place_of(flat, _NEW_PRICE)
        if begin >= 0 and not quoted(flat, _NEW_PRICE):
            return False
        price = _NEW_PRICE if 0 <= begin < end else _PRICE
    else:
        begin, end = place_of(flat, _SIDE)
        word = word_of(flat, begin, end) if quoted(flat, _SIDE) else -1
        if word != _BUYS and word != _SELLS:
            return False
        message.side = _BUY if word == _BUYS else _SELL
    message.trade = number_of(flat, _TRADE_ID) if kind == MATCH else 0
    message.price, message.size = decimal_of(flat, price, price_places), decimal_of(flat, size, size_places)
    return message.price > 0 and message.size >= 0 and message.trade >= 0


@njit(cache=True, nogil=True)
def apply_orders(messages, file, after_ns, state, orders, levels):
    """Rows of messages.

    Parameters
    ----------
    messages
        `MESSAGE` [n] of the product that is read.
    file
        Number of the file.
    after_ns
        None of them counts as having come before.
    state
        `STATE` [1], updated.
    orders, levels
        Tables of SIDE, PRICE and SIZE by the hash of an order, and of what levels have by twice their price,
        one more for a bid; updated.

    Returns
    -------
    rows
        `RAW` [m].
    gaps
        `GAP` [k].
    orders, levels
        As above, after it.
    """
    out, gaps = np.empty(_MOST_ROWS * len(messages), kinds.RAW), np.empty(len(messages), GAP)
    count, missing, now = _NOTHING, 0, state[0]
    for number in range(len(messages)):
        message = messages[number]
        if 0 <= message.sequence <= now.sequence:
            now.held += 1
            continue
        if full(orders):
            orders = larger(orders)
        if full(levels):
            levels = larger(levels)
        local_ns = max(message.local_ns, after_ns)
        if now.sequence >= 0 and message.sequence != now.sequence + 1:
            gap = gaps[missing]
            gap.line, gap.local_ns, gap.sequence, gap.before = (
                message.line, local_ns, message.sequence, now.sequence
            )  # fmt: skip
            missing += 1
        now.sequence = message.sequence
        message.local_ns = local_ns if local_ns > 0 else message.exch_ns
        count = _happened(out, count, message, file, now, orders, levels)
    return out[:count].copy(), gaps[:missing].copy(), orders, levels


@inner
def _happened(out, count, message, file, now, orders, levels):
    """Do what a message says; how many rows there are then."""
    kind, price, size = message.kind, message.price, message.size
    if kind in (RECEIVED, ACTIVATE):
        now.received += kind == RECEIVED
        now.activated += kind == ACTIVATE
        return count
    place = find(orders, message.order)
    if kind == MATCH:
        count = _put(out, count, message, file, _TRADE, -message.side, price, size, message.trade)
        if place < 0:
            return count
        before = orders[place, SIZE]
        count = _put(out, count, message, file, _FILL, orders[place, SIDE], orders[place, PRICE],
                     min(size, before), message.order)  # fmt: skip
        return _resize(out, count, message, file, now, orders, levels, place, max(before - size, 0))
    if kind == OPEN:
        if place >= 0:
            count = _resize(out, count, message, file, now, orders, levels, place, _NOTHING)
        return _enter(out, count, message, file, now, orders, levels, np.int64(message.side))
    if place < 0:  # of an order that has not come to rest
        return count
    if kind == DONE:
        return _resize(out, count, message, file, now, orders, levels, place, _NOTHING)
    side = orders[place, SIDE]
    if price == orders[place, PRICE]:
        return _resize(out, count, message, file, now, orders, levels, place, size)
    count = _resize(out, count, message, file, now, orders, levels, place, _NOTHING)
    return _enter(out, count, message, file, now, orders, levels, side)


@inner
def _put(out, count, message, file, kind, side, price, size, id):
    """Add a row; how many there are then."""
    row = out[count]
    row.exch_ns, row.local_ns, row.line, row.file = message.exch_ns, message.local_ns, message.line, file
    row.kind, row.side, row.price, row.size, row.id = kind, side, price, size, id
    return count + 1


@inner
def _enter(out, count, message, file, now, orders, levels, side):
    """An order comes to rest; how many rows there are then."""
    if message.size == 0:
        return count
    place = put(orders, message.order)
    orders[place, SIDE], orders[place, PRICE], orders[place, SIZE] = side, message.price, message.size
    count = _put(out, count, message, file, _ADD, side, message.price, message.size, message.order)
    return _shift(out, count, message, file, now, levels, side, message.price, message.size)


@inner
def _resize(out, count, message, file, now, orders, levels, place, size):
    """An order gets another size, with its place where it is less; how many rows there are then."""
    side, price, before = orders[place, SIDE], orders[place, PRICE], orders[place, SIZE]
    if size:
        orders[place, SIZE] = size
        count = _put(out, count, message, file, _MODIFY, side, price, size, message.order)
    else:
        remove(orders, place)
        count = _put(out, count, message, file, _CANCEL, side, price, before, message.order)
    return _shift(out, count, message, file, now, levels, side, price, size - before)


@inner
def _shift(out, count, message, file, now, levels, side, price, size):
    """A level gets more or less, and a row says what it has; how many rows there are then."""
    key = 2 * price + (side == _BUY)
    place = find(levels, key)
    left = size + (levels[place, 1] if place >= 0 else 0)
    if left > 0:
        levels[put(levels, key), 1] = left
    elif place >= 0:
        remove(levels, place)
    now.number += 1
    return _put(out, count, message, file, _DEPTH, side, price, max(left, 0), now.number)
