"""Books and trades of JSON messages, read by compiled code straight from the text of a capture.

A `Layout` says where in a venue's messages things stand, whatever the order of their keys. A line that
says more, or less, or is damaged, is left to Python (`mmenv.data.formats.feed`), which names the fault.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from mmenv.data.decimals import parse_decimal, short_decimal
from mmenv.data.formats.json_text import (
    FACTOR,
    START,
    bare_end,
    hash_bytes,
    integer,
    same_bytes,
    text_end,
    utc_ns,
)
from mmenv.data.formats.layout import (
    BID,
    BIDS,
    BOOK,
    BOOK_HERE,
    BOTH_HERE,
    CHANGE,
    CHANGED,
    CHANGES,
    DEAL_HERE,
    DEAL_ID,
    DEAL_PRICE,
    DEAL_SIDE,
    DEAL_SIZE,
    DEAL_SYMBOL,
    DEAL_TIME,
    FLAGS,
    NUMBERED,
    OTHER_TIME,
    PREVIOUS,
    PRICE,
    SIDE,
    SIZE,
    SNAPSHOT,
    SYMBOL,
    TIME,
    TRADE,
    UPDATE,
    WORD,
    role_of,
)
from mmenv.times import MILLISECOND

PART: Final = np.dtype(
    [
        *(
            (name, "i8")
            for name in ("exch_ns", "local_ns", "update", "previous", "id", "line", "bids", "asks")
        ),
        *((name, "i8") for name in ("symbol_begin", "symbol_end")),
        ("trade", "i1"),
        ("snapshot", "i1"),
        ("side", "i1"),
        ("ours", "i1"),
    ]
)
"""A book or a trade, whose levels (a trade has one) follow those of the part before. `update` and `previous`
are -1 where unknown; the symbol is a place in the text."""

_DEPTH: Final = 12
_NEWLINE, _RETURN, _BLANK, _QUOTE, _BACKSLASH, _COMMA, _COLON, _POINT = b'\n\r "\\,:.'
_OPEN_LIST, _END_LIST, _OPEN, _END = b"[]{}"
_ZERO, _NINE, _MINUS, _PLUS, _E, _BIG_E, _SLASH, _DASH, _Z, _T = b"09-+eE/-ZT"

_FOUND: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            *("said", "emitted", "symbol", "symbol_end", "time", "other_time", "update", "previous"),
            *("deal_symbol", "deal_symbol_end", "deal_time", "deal_id", "deal_side"),
            *("deal_price", "deal_price_end", "deal_size", "deal_size_end"),
            *("price", "price_end", "size", "size_end", "side", "lists", "bids", "asks", "parts", "levels"),
        )
    ]
)


@njit(cache=True, nogil=True)
def scan(text, at, line, symbol, price_places, size_places, layout):
    """Books and trades up to the first line that is anything else.

    Parameters
    ----------
    text
        Bytes [any] of whole lines.
    at, line
        Where to begin, the beginning of a line, and its number.
    symbol
        Bytes of the symbol that is read; a slash stands for a dash.
    price_places, size_places
        Decimal places to read with.
    layout
        From `compiled`.

    Returns
    -------
    at, line
        Where it stopped.
    parts
        `PART` [m].
    levels
        int64 [n, 2], prices and sizes of all parts, bids before asks.
    """
    parts, levels = np.empty(len(text) // 40 + 2, PART), np.empty((len(text) // 6 + 2, 2), np.int64)
    bids, asks = np.empty((len(text) // 6 + 2, 2), np.int64), np.empty((len(text) // 6 + 2, 2), np.int64)
    state = np.zeros(1, _FOUND)
    found = state[0]
    while at < len(text):
        end = at
        while end < len(text) and text[end] != _NEWLINE:
            end += 1
        held = found.parts, found.levels
        if end > at:
            place, local_ns = at, np.int64(0)
            if _ZERO <= text[at] <= _NINE:
                place, local_ns = _stamp(text, at, end)
            found.said = found.emitted = 0
            found.symbol = -1
            _forget(found)
            if place >= 0:
                place = _walk(
                    text,
                    place,
                    end,
                    found,
                    parts,
                    levels,
                    bids,
                    asks,
                    symbol,
                    price_places,
                    size_places,
                    layout,
                )
            if place >= 0 and place < end and text[place] == _RETURN:
                place += 1
            if place != end or found.emitted == 0:
                found.parts, found.levels = held
                break
            for number in range(held[0], found.parts):
                part = parts[number]
                part.line = line
                part.local_ns = local_ns if local_ns > 0 else part.exch_ns
        at, line = end + 1, line + 1
    return min(at, len(text)), line, parts[: found.parts].copy(), levels[: found.levels].copy()


@njit(cache=True, nogil=True)
def _stamp(text, at, end):
    """Where a line's message begins, -1 where it does not, and its local time."""
    value, begin = np.int64(0), at
    while at < end and _ZERO <= text[at] <= _NINE and at - begin < 19:
        value = 10 * value + np.int64(text[at]) - _ZERO
        at += 1
    # Nineteen digits fit into 64 bits if the first is below nine.
    if value <= 0 or at >= end or text[at] != _BLANK or (at - begin == 19 and text[begin] == _NINE):
        return -1, value
    return at + 1, value


@njit(cache=True, nogil=True)
def _forget(found):
    """A book or trade, or a message, begins."""
    found.time = found.other_time = found.update = found.previous = -1
    found.lists = found.bids = found.asks = 0
    found.deal_symbol = found.deal_time = found.deal_id = found.deal_price = found.deal_size = -1
    found.deal_side = 2


@njit(cache=True, nogil=True)
def _blanks(text, at, end):
    while at < end and text[at] == _BLANK:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _walk(
    text, at, end, found, parts, levels, bids, asks, symbol, price_places, size_places, layout
):  # fmt: skip
    """Read a message; where it ends, -1 where it is none or says what is not asked for."""
    paths, lists = np.empty(_DEPTH, np.uint64), np.zeros(_DEPTH, np.bool_)
    numbers, roles = np.zeros(_DEPTH, np.int64), np.zeros(_DEPTH, np.int64)
    depth, path = 0, START
    if at >= end or text[at] != _OPEN:
        return -1
    while True:
        # Here a value begins.
        at = _blanks(text, at, end)
        if at >= end:
            return -1
        byte, opened = text[at], False
        role = role_of(path, layout)
        if byte in (_OPEN, _OPEN_LIST):
            if depth == _DEPTH:
                return -1
            paths[depth], lists[depth], numbers[depth], roles[depth] = path, byte == _OPEN_LIST, 0, role
            if byte == _OPEN and role == 0:
                roles[depth] = role_of((path ^ np.uint64(_OPEN)) * FACTOR, layout)
            if not _opened(found, roles[depth], layout):
                return -1
            depth += 1
            at = _blanks(text, at + 1, end)
            if at >= end:
                return -1
            opened = text[at] != (_END_LIST if byte == _OPEN_LIST else _END)
        else:
            quoted = byte == _QUOTE
            begin = at + 1 if quoted else at
            at = text_end(text, begin, end) if quoted else bare_end(text, begin, end)
            if at < 0:
                return -1
            if role and not _take(text, begin, at, quoted, path, role, found, layout):
                return -1
            at += quoted
        while not opened:
            # Here one has ended.
            if depth == 0:
                return at
            at = _blanks(text, at, end)
            if at >= end:
                return -1
            if text[at] == _COMMA:
                at += 1
                opened = True
            elif text[at] == (_END_LIST if lists[depth - 1] else _END):
                depth -= 1
                at += 1
                if roles[depth] and not _closed(
                    text,
                    found,
                    roles[depth],
                    parts,
                    levels,
                    bids,
                    asks,
                    symbol,
                    price_places,
                    size_places,
                    layout,
                ):
                    return -1
            else:
                return -1
        path = paths[depth - 1]
        at = _blanks(text, at, end)
        if at >= end:
            return -1
        if lists[depth - 1]:
            path = _item(path, numbers[depth - 1], text[at], roles[depth - 1] == NUMBERED)
            numbers[depth - 1] += 1
            continue
        if text[at] != _QUOTE:
            return -1
        begin = at + 1
        at = text_end(text, begin, end)
        if at < 0:
            return -1
        if path != START:
            path = (path ^ np.uint64(_POINT)) * FACTOR
        path = hash_bytes(path, text, begin, at)
        at = _blanks(text, at + 1, end)
        if at >= end or text[at] != _COLON:
            return -1
        at += 1


@njit(cache=True, nogil=True)
def _item(path, number, byte, numbered):
    """The path of an item of a list."""
    if byte != _OPEN and byte != _OPEN_LIST:
        path = (path ^ np.uint64(_POINT)) * FACTOR
        return (path ^ np.uint64(_ZERO + min(number, 9))) * FACTOR
    path = (path ^ np.uint64(_OPEN_LIST)) * FACTOR
    if numbered:
        path = (path ^ np.uint64(_ZERO + min(number, 9))) * FACTOR
    return (path ^ np.uint64(_END_LIST)) * FACTOR


@njit(cache=True, nogil=True)
def _time_ns(text, begin, end, quoted, layout):
    """A time, below 0 where it is none."""
    if layout.iso:
        return utc_ns(text, begin, end) if quoted else np.int64(-1)
    value = integer(text, begin, end)
    return value * MILLISECOND if 0 < value < 9_000_000_000_000 else np.int64(-1)


@njit(cache=True, nogil=True)
def _take(text, begin, end, quoted, path, role, found, layout):
    """Take note of a text or number; whether it can be what it should."""
    if role == WORD:
        point = begin
        while point < end and text[point] != _POINT:
            point += 1
        word = role_of(hash_bytes((path ^ np.uint64(61)) * FACTOR, text, begin, point), layout)
        found.said |= max(word - FLAGS, 0)
        return quoted and word >= FLAGS and found.emitted == 0
    if role in (SYMBOL, DEAL_SYMBOL):
        found.symbol_end = end
        if role == SYMBOL:
            found.symbol = begin
        else:
            found.deal_symbol = begin
        return quoted
    if role in (TIME, DEAL_TIME, OTHER_TIME):
        ns = _time_ns(text, begin, end, quoted, layout)
        if role == TIME:
            found.time = ns
        elif role == DEAL_TIME:
            found.deal_time = ns
        else:
            found.other_time = ns
        return ns > 0
    if role in (UPDATE, PREVIOUS):
        value = integer(text, begin, end)
        if role == UPDATE:
            found.update = value
        else:
            found.previous = value
        return value >= -1
    if role == DEAL_ID:
        if layout.text_ids:
            found.deal_id = np.int64(hash_bytes(START, text, begin, end) >> np.uint64(1))
        else:
            found.deal_id = integer(text, begin, end)
        return found.deal_id >= 0
    if role in (DEAL_SIDE, SIDE):
        side = (
            1
            if same_bytes(text, begin, end, layout.buy)
            else -1
            if same_bytes(text, begin, end, layout.sell)
            else 0
        )
        if role == DEAL_SIDE:
            found.deal_side = -side if layout.maker else side
        else:
            found.side = side
        return quoted and (side != 0 or role == DEAL_SIDE)
    if role == DEAL_PRICE:
        found.deal_price, found.deal_price_end = begin, end
    elif role == DEAL_SIZE:
        found.deal_size, found.deal_size_end = begin, end
    elif role == PRICE:
        found.price, found.price_end = begin, end
    elif role == SIZE:
        found.size, found.size_end = begin, end
    else:
        return False
    return True


@njit(cache=True, nogil=True)
def _opened(found, role, layout):
    """Take note of the beginning of a list or object; whether it may be here."""
    if BOOK_HERE <= role <= BOTH_HERE:
        _forget(found)
        if layout.own_symbols:
            found.symbol = -1
    elif BIDS <= role <= CHANGES:
        bit = 1 << (role - BIDS)
        if found.lists & bit:
            return False
        found.lists |= bit
    elif BID <= role <= CHANGED:
        found.price = found.size = -1
        found.side = 0
    else:
        return role == 0 or role == NUMBERED
    return True


@njit(cache=True, nogil=True)
def _closed(
    text, found, role, parts, levels, bids, asks, symbol, price_places, size_places, layout
):  # fmt: skip
    """What has ended is a level, a book or a trade: keep it; whether it is whole."""
    if BID <= role <= CHANGED:
        bid = role == BID or (role == CHANGED and found.side > 0)
        if found.price < 0 or found.size < 0 or (role == CHANGED and found.side == 0):
            return False
        row = bids[found.bids] if bid else asks[found.asks]
        row[0] = _decimal(text, found.price, found.price_end, price_places)
        row[1] = _decimal(text, found.size, found.size_end, size_places)
        found.bids += bid
        found.asks += not bid
        return True
    if role < BOOK_HERE or role > BOTH_HERE:
        return True
    if role == BOOK_HERE and found.emitted > 0 and found.lists == 0:
        return True
    if found.said & BOOK and role != DEAL_HERE:
        return _book(text, found, parts, levels, bids, asks, symbol, layout)
    if found.said & TRADE and role != BOOK_HERE:
        if layout.history and found.said & SNAPSHOT:
            return False
        return _deal(text, found, parts, levels, symbol, price_places, size_places)
    return (found.said & (BOOK | TRADE)) != 0


@njit(cache=True, nogil=True)
def _decimal(text, begin, end, places):
    value = short_decimal(text, begin, end, places)
    return value if value >= 0 else parse_decimal(text, begin, end, places)


@njit(cache=True, nogil=True)
def _book(text, found, parts, levels, bids, asks, symbol, layout):
    exch_ns = found.time if found.time >= 0 else found.other_time
    if exch_ns <= 0 or found.symbol < 0 or (found.lists != 3 and found.lists != 4):
        return False
    part = parts[found.parts]
    _name(text, part, found.symbol, found.symbol_end, symbol)
    part.exch_ns, part.trade, part.side, part.id = exch_ns, 0, 0, -1
    # A message that does not say which it is holds the book whole.
    part.snapshot = (found.said & SNAPSHOT) != 0 or (found.said & CHANGE) == 0
    part.update = found.update
    part.previous = found.update - 1 if layout.follows else found.previous
    if part.snapshot:
        part.previous = -1
    part.bids, part.asks = found.bids, found.asks
    count = found.levels
    for side, size in ((bids, found.bids), (asks, found.asks)):
        for level in range(size):
            levels[count, 0], levels[count, 1] = side[level, 0], side[level, 1]
            count += 1
    found.levels += found.bids + found.asks
    found.parts += 1
    found.emitted += 1
    found.lists = 0
    return True


@njit(cache=True, nogil=True)
def _deal(text, found, parts, levels, symbol, price_places, size_places):
    exch_ns = found.deal_time if found.deal_time >= 0 else found.time
    begin = found.deal_symbol if found.deal_symbol >= 0 else found.symbol
    if exch_ns <= 0 or begin < 0 or found.deal_id < 0 or found.deal_price < 0 or found.deal_size < 0:
        return False
    if found.deal_side == 2:
        return False
    part = parts[found.parts]
    _name(text, part, begin, found.symbol_end, symbol)
    part.exch_ns, part.trade, part.side, part.id = exch_ns, 1, found.deal_side, found.deal_id
    part.snapshot, part.update, part.previous = 0, -1, -1
    part.bids, part.asks = (1, 0) if found.deal_side >= 0 else (0, 1)
    levels[found.levels, 0] = _decimal(text, found.deal_price, found.deal_price_end, price_places)
    levels[found.levels, 1] = _decimal(text, found.deal_size, found.deal_size_end, size_places)
    found.levels += 1
    found.parts += 1
    found.emitted += 1
    return True


@njit(cache=True, nogil=True)
def _name(text, part, begin, end, symbol):
    """Note where the symbol of a part stands, and whether it is ours."""
    part.symbol_begin, part.symbol_end = begin, end
    part.ours = end - begin == len(symbol)
    for place in range(min(end - begin, len(symbol))):
        byte = text[begin + place]
        if (np.uint8(_DASH) if byte == _SLASH else byte) != symbol[place]:
            part.ours = 0
