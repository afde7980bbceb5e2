"""What compiled code has found in a JSON message so far, and the books and trades that it makes of that."""

from __future__ import annotations

from typing import Final

import numpy as np

from mmenv.data.decimals import parse_decimal, short_decimal
from mmenv.data.formats.json_text import FACTOR, START, hash_bytes, integer, same_bytes, utc_ns
from mmenv.data.formats.json_work import bytes_at, inner, pairs_at
from mmenv.data.formats.layout import (
    ALONE,
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

FOUND: Final = np.dtype(
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
"""Words said, where texts begin and end, values, and how many levels and parts there are."""

_POINT, _SLASH, _DASH = b"./-"


@inner
def forget(found):
    """A book or trade, or a message, begins."""
    found.time = found.other_time = found.update = found.previous = -1
    found.lists = found.bids = found.asks = 0
    found.deal_symbol = found.deal_time = found.deal_id = found.deal_price = found.deal_size = -1
    found.deal_side = 2


@inner
def _time_ns(text, begin, end, quoted, iso):
    """A time, below 0 where it is none."""
    if iso:
        return utc_ns(text, begin, end) if quoted else np.int64(-1)
    value = integer(text, begin, end)
    return value * MILLISECOND if 0 < value < 9_000_000_000_000 else np.int64(-1)


@inner
def taken(work, found, begin, end, quoted, path, role):
    """Take note of a text or number; whether it can be what it should."""
    text = work.text
    if role == WORD:
        byte, point = bytes_at(text, end), begin
        while point < end and byte[point] != _POINT:
            point += 1
        word = role_of(hash_bytes((path ^ np.uint64(61)) * FACTOR, text, begin, point), work.table)
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
        ns = _time_ns(text, begin, end, quoted, work.iso)
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
        if work.text_ids:
            found.deal_id = np.int64(hash_bytes(START, text, begin, end) >> np.uint64(1))
        else:
            found.deal_id = integer(text, begin, end)
        return found.deal_id >= 0
    if role in (DEAL_SIDE, SIDE):
        side = (
            1
            if same_bytes(text, begin, end, work.buy, work.buy_size)
            else -1
            if same_bytes(text, begin, end, work.sell, work.sell_size)
            else 0
        )
        if role == DEAL_SIDE:
            found.deal_side = -side if work.maker else side
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


@inner
def opened(work, found, role):
    """Take note of the beginning of a list or object; whether it may be here."""
    if BOOK_HERE <= role <= BOTH_HERE:
        forget(found)
        if work.own_symbols:
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


@inner
def closed(work, found, role, part, message):
    """What has ended is a level, a book or a trade, which becomes the next `PART`: keep it; whether it is
    whole. `message`: it is the message itself."""
    if BID <= role <= CHANGED:
        bid = role == BID or (role == CHANGED and found.side > 0)
        if found.price < 0 or found.size < 0 or (role == CHANGED and found.side == 0):
            return False
        price = _decimal(work.text, found.price, found.price_end, work.price_places)
        size = _decimal(work.text, found.size, found.size_end, work.size_places)
        keep_level(work, found, bid, price, size)
        return True
    if role < BOOK_HERE or role > BOTH_HERE:
        return True
    if role == BOOK_HERE and found.emitted > 0 and found.lists == 0:
        return True
    if message and found.said & ALONE:
        found.said |= BOOK
    if found.said & BOOK and role != DEAL_HERE:
        return _book(work, found, part)
    if found.said & TRADE and role != BOOK_HERE:
        if work.history and found.said & SNAPSHOT:
            return False
        return _deal(work, found, part)
    return (found.said & (BOOK | TRADE)) != 0


@inner
def keep_level(work, found, bid, price, size):
    """A level of the book being read."""
    at = found.bids if bid else found.asks
    side = pairs_at(work.bids if bid else work.asks, at + 1)
    side[at, 0], side[at, 1] = price, size
    found.bids += bid
    found.asks += not bid


@inner
def _decimal(text, begin, end, places):
    byte = bytes_at(text, end)
    value = short_decimal(byte, begin, end, places)
    return value if value >= 0 else parse_decimal(byte, begin, end, places)


@inner
def _book(work, found, part):
    exch_ns = found.time if found.time >= 0 else found.other_time
    if exch_ns <= 0 or found.symbol < 0 or (found.lists != 3 and found.lists != 4):
        return False
    if work.follows and found.update < 0:
        return False
    if work.says_which and not found.said & (SNAPSHOT | CHANGE):
        return False
    _name(work, part, found.symbol, found.symbol_end)
    part.exch_ns, part.trade, part.side, part.id = exch_ns, 0, 0, -1
    # A message that does not say which it is holds the book whole.
    part.snapshot = (found.said & SNAPSHOT) != 0 or (found.said & CHANGE) == 0
    part.update = found.update
    part.previous = found.update - 1 if work.follows else found.previous
    if part.snapshot:
        part.previous = -1
    part.bids, part.asks = found.bids, found.asks
    count = found.levels
    levels = pairs_at(work.levels, count + found.bids + found.asks)
    for address, size in ((work.bids, found.bids), (work.asks, found.asks)):
        side = pairs_at(address, size)
        for level in range(size):
            levels[count, 0], levels[count, 1] = side[level, 0], side[level, 1]
            count += 1
    found.levels = count
    found.parts += 1
    found.emitted += 1
    found.lists = 0
    return True


@inner
def _deal(work, found, part):
    exch_ns = found.deal_time if found.deal_time >= 0 else found.time
    begin = found.deal_symbol if found.deal_symbol >= 0 else found.symbol
    if exch_ns <= 0 or begin < 0 or found.deal_id < 0 or found.deal_price < 0 or found.deal_size < 0:
        return False
    if found.deal_side == 2:
        return False
    level = pairs_at(work.levels, found.levels + 1)[found.levels]
    _name(work, part, begin, found.symbol_end)
    part.exch_ns, part.trade, part.side, part.id = exch_ns, 1, found.deal_side, found.deal_id
    part.snapshot, part.update, part.previous = 0, -1, -1
    part.bids, part.asks = (1, 0) if found.deal_side >= 0 else (0, 1)
    level[0] = _decimal(work.text, found.deal_price, found.deal_price_end, work.price_places)
    level[1] = _decimal(work.text, found.deal_size, found.deal_size_end, work.size_places)
    found.levels += 1
    found.parts += 1
    found.emitted += 1
    return True


@inner
def _name(work, part, begin, end):
    """Note where the symbol of a part stands, and whether it is ours."""
    byte, symbol = bytes_at(work.text, end), bytes_at(work.symbol, work.symbol_size)
    part.symbol_begin, part.symbol_end = begin, end
    part.ours = end - begin == len(symbol)
    for place in range(min(end - begin, len(symbol))):
        here = byte[begin + place]
        if (np.uint8(_DASH) if here == _SLASH else here) != symbol[place]:
            part.ours = 0
