"""Binance messages that are in order, read by compiled code straight from the text of a capture.

Whatever is not as compact as exchanges write it, out of order or damaged is left to
`mmenv.data.formats.binance_decoder.Decoder`, which says what is wrong with it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from mmenv.data.decimals import parse_decimal
from mmenv.data.rows import BBO, DEPTH, TRADE, UNKNOWN_NS
from mmenv.times import MILLISECOND

MESSAGE: Final = np.dtype(
    [(name, "i8") for name in ("kind", "bids", "asks", "exch_ns", "local_ns", "id", "line")]
)
"""What the rows of a message share, and how many of them are on the bid and on the ask side."""

_FOUND: Final = np.dtype(
    [
        ("kind", "i8"),
        ("ours", "i8"),  # whether it is of our symbol
        ("bids", "i8"),
        ("asks", "i8"),
        ("arrays", "i8"),  # how many lists of levels there are
        ("sent_ms", "i8"),  # "E"
        ("matched_ms", "i8"),  # "T"
        ("first", "i8"),  # "U", of the updates in a diff
        ("last", "i8"),  # "u"
        ("previous", "i8"),  # "pu"
        ("price_places", "i8"),  # with which prices and sizes are read
        ("size_places", "i8"),
        ("trade", "i8"),  # "t"
        ("maker", "i8"),  # "m": 1 where the buyer was the maker
        ("price", "i8"),  # "p" of a trade, "b" of a ticker
        ("size", "i8"),  # "q" and "B"
        ("ask_price", "i8"),  # "a"
        ("ask_size", "i8"),  # "A"
    ]
)
"""What a message says; `_ABSENT` where it says nothing, `_UNPRICED` for prices and sizes."""

STATE: Final = np.dtype(
    [
        *((name, "i8") for name in ("line", "local_ns", "update", "aggregate")),
        ("exch_ns", "i8", (BBO + 1,)),
        ("found", _FOUND),
    ]
)
"""What messages must follow: number of the next line, the last local time, update, trade that was told of by
an aggregated one, and exchange time by kind of message; of `found` the places are set, the rest is for
`scan` alone."""

_ABSENT: Final = -1
_UNPRICED: Final = np.iinfo(np.int64).max
_LAST_MS: Final = np.iinfo(np.int64).max // MILLISECOND

_NEWLINE, _RETURN, _BLANK, _BACKSLASH, _QUOTE, _COMMA, _COLON = b'\n\r \\",:'
_ZERO, _NINE, _T = b"09t"
_BRACKET, _END_BRACKET, _BRACE, _END_BRACE = b"[]{}"
_STREAM: Final = np.frombuffer(b'{"stream":"', np.uint8)
_DATA: Final = np.frombuffer(b'","data":', np.uint8)
_PARTIAL: Final = np.frombuffer(b"@depth", np.uint8)
_MARKET: Final = np.frombuffer(b"MARKET", np.uint8)
_TRUE: Final = np.frombuffer(b"true", np.uint8)
_FALSE: Final = np.frombuffer(b"false", np.uint8)
_DEPTH_NAME: Final = np.frombuffer(b"depthUpdate", np.uint8)
_TRADE_NAME: Final = np.frombuffer(b"trade", np.uint8)
_TICKER_NAME: Final = np.frombuffer(b"bookTicker", np.uint8)

_OTHER, _PREVIOUS = range(2)
_KEY_E, _KEY_S, _KEY_X, _KEY_P, _KEY_Q, _KEY_B, _KEY_A, _KEY_M, _KEY_U, _KEY_T = b"esXpqbamut"
_CAPITAL_B, _CAPITAL_A, _CAPITAL_E, _CAPITAL_T, _CAPITAL_U = b"BAETU"


@njit(cache=True, nogil=True)
def scan(text, at, symbol, state):
    """Diffs, trades and tickers that are in order, up to the first line that is anything else.

    Parameters
    ----------
    text
        Bytes [any] of whole lines.
    at
        Where to begin.
    symbol
        Bytes of the symbol that is read.
    state
        `STATE` record; updated.

    Returns
    -------
    at
        Where it stopped: the beginning of a line.
    messages, values
        `MESSAGE` [m], and prices and sizes [2 n] by turns of their rows.
    """
    messages = np.empty(len(text) // 64 + 1, MESSAGE)
    values = np.empty(len(text) // 4 + 8, np.int64)
    found = state.found
    count, filled = 0, 0
    while at < len(text) and count < len(messages):
        place, local_ns = _number(text, at)
        if local_ns < state.local_ns or place >= len(text) or text[place] != _BLANK:
            break
        end = _wrapped(text, place + 1, symbol, found, values, filled)
        if 0 <= end < len(text) and text[end] == _RETURN:
            end += 1
        if end < 0 or end >= len(text) or text[end] != _NEWLINE:
            break
        number, exch_ns = _follow(found, state)
        if number < 0:
            break
        message = messages[count]
        message.kind, message.bids, message.asks = found.kind, found.bids, found.asks
        message.exch_ns, message.local_ns = exch_ns, local_ns
        message.id, message.line = number, state.line
        state.local_ns = local_ns
        state.line += 1
        count += 1
        filled += 2 * (found.bids + found.asks)
        at = end + 1
    return at, messages[:count].copy(), values[:filled].copy()


@njit(cache=True, nogil=True)
def _follow(found, state):
    """Number and exchange time of a message that continues the ones before it, and -1 for any other one."""
    stamp = found.matched_ms if found.matched_ms > 0 else found.sent_ms
    exch_ns = stamp * MILLISECOND if stamp > 0 else np.int64(UNKNOWN_NS)
    nothing = np.int64(-1), exch_ns
    if stamp > 0 and (stamp > _LAST_MS or exch_ns < state.exch_ns[found.kind]):
        return nothing
    number = found.last
    if found.kind == TRADE:
        number = found.trade
        if number <= state.aggregate:
            return nothing
    elif found.kind == DEPTH:
        previous = found.previous if found.previous != _ABSENT else found.first - 1
        if previous != state.update or number <= state.update or found.first == _ABSENT:
            return nothing
        state.update = number
    if stamp > 0:
        state.exch_ns[found.kind] = exch_ns
    return number, exch_ns


@njit(cache=True, nogil=True)
def _wrapped(text, at, symbol, found, values, filled):
    """As `_object`, of a message that may be inside {"stream": ..., "data": ...}."""
    if not _begins(text, at, _STREAM):
        return _object(text, at, symbol, found, values, filled)
    end = _quote_end(text, at + len(_STREAM))
    if end < 0 or not _begins(text, end, _DATA) or _is_partial(text, at + len(_STREAM), end):
        return -1
    end = _object(text, end + len(_DATA), symbol, found, values, filled)
    return end + 1 if 0 <= end < len(text) and text[end] == _END_BRACE else -1


@njit(cache=True, nogil=True)
def _is_partial(text, begin, end):
    """Whether a stream's name is that of a few levels sent whole: "btcusdt@depth20@100ms"."""
    for at in range(begin, end - len(_PARTIAL)):
        if text[at] == _PARTIAL[0] and _begins(text, at, _PARTIAL):
            return _ZERO <= text[at + len(_PARTIAL)] <= _NINE
    return False


@njit(cache=True, nogil=True)
def _object(text, at, symbol, found, values, filled):
    """Read one message, as compact as exchanges write it; where it ends, or -1 if it is not one of ours.

    What it says goes to `found`, prices and sizes to `values` from `filled` on. Only what needs no array is
    a function of its own: references to arrays are counted at every call, which takes longer than a value.
    """
    _forget(found)
    opened = False
    while at < len(text) and text[at] != _END_BRACE:
        if text[at] != (_COMMA if opened else _BRACE) or at + 1 >= len(text) or text[at + 1] != _QUOTE:
            return -1
        opened = True
        begin = at + 2
        end = _quote_end(text, begin)
        if end < 0 or end + 2 >= len(text) or text[end + 1] != _COLON:
            return -1
        key = text[begin] if end == begin + 1 else _OTHER
        if end == begin + 2 and text[begin] == _KEY_P and text[begin + 1] == _KEY_U:
            key = _PREVIOUS
        at = end + 2
        if text[at] == _QUOTE:
            begin, end = at + 1, _quote_end(text, at + 1)
            if end < 0:
                return -1
            at = end + 1
            if key == _KEY_E:
                found.kind = _kind(text, begin, end)
            elif key == _KEY_S:
                found.ours = _same(text, begin, end, symbol)
            elif key == _KEY_X:
                if not _same(text, begin, end, _MARKET):
                    return -1
            elif key != _OTHER:
                sized = key in (_KEY_Q, _CAPITAL_B, _CAPITAL_A)
                places = found.size_places if sized else found.price_places
                if not _take_decimal(found, key, parse_decimal(text, begin, end, places)):
                    return -1
        elif text[at] == _BRACKET:
            if key != _KEY_A and (key != _KEY_B or found.asks > 0):
                return -1
            place = filled + (2 * found.bids if key == _KEY_A else 0)
            at, levels = _levels(text, at, found.price_places, found.size_places, values, place)
            if at < 0:
                return -1
            _take_levels(found, key, levels)
        elif _begins(text, at, _TRUE) or _begins(text, at, _FALSE):
            if key == _KEY_M:
                found.maker = 1 if text[at] == _T else 0
            elif key != _OTHER:
                return -1
            at += len(_TRUE) if text[at] == _T else len(_FALSE)
        else:
            at, number = _number(text, at)
            if number < 0 or key in (_KEY_E, _KEY_X):
                return -1
            _take_number(found, key, number)
    if at >= len(text) or not _complete(found):
        return -1
    if found.kind != DEPTH:
        values[filled], values[filled + 1] = found.price, found.size
    if found.kind == BBO:
        values[filled + 2], values[filled + 3] = found.ask_price, found.ask_size
    return at + 1


@njit(cache=True, nogil=True)
def _forget(found):
    found.kind = found.sent_ms = found.matched_ms = found.first = found.last = _ABSENT
    found.previous = found.trade = found.maker = _ABSENT
    found.price = found.size = found.ask_price = found.ask_size = _UNPRICED
    found.ours = found.bids = found.asks = found.arrays = 0


@njit(cache=True, nogil=True)
def _take_decimal(found, key, value):
    """Take in a price or size; False if the key stands for neither."""
    if key in (_KEY_P, _KEY_B):
        found.price = value
    elif key in (_KEY_Q, _CAPITAL_B):
        found.size = value
    elif key == _KEY_A:
        found.ask_price = value
    elif key == _CAPITAL_A:
        found.ask_size = value
    else:
        return False
    return True


@njit(cache=True, nogil=True)
def _take_levels(found, key, levels):
    found.arrays += 1
    if key == _KEY_A:
        found.asks = levels
    else:
        found.bids = levels


@njit(cache=True, nogil=True)
def _take_number(found, key, number):
    if key == _CAPITAL_E:
        found.sent_ms = number
    elif key == _CAPITAL_T:
        found.matched_ms = number
    elif key == _CAPITAL_U:
        found.first = number
    elif key == _KEY_U:
        found.last = number
    elif key == _PREVIOUS:
        found.previous = number
    elif key == _KEY_T:
        found.trade = number


@njit(cache=True, nogil=True)
def _complete(found):
    """Whether a message of ours says all that its rows need, and no more; how many these are is set."""
    if found.kind == _ABSENT and found.size != _UNPRICED and found.ask_size != _UNPRICED:
        found.kind = BBO  # spot book tickers carry no event name
    levels = found.bids + found.asks
    if not found.ours or found.kind <= 0:
        return False
    if found.kind == DEPTH:
        return found.last >= 0 and levels > 0 and found.arrays == 2
    good = levels == 0 and found.price != _UNPRICED and found.size != _UNPRICED
    if found.kind == TRADE:
        # The buyer was the maker, so the aggressor sold.
        found.bids, found.asks = 1 - found.maker, found.maker
        return good and found.trade >= 0 and found.maker != _ABSENT
    found.bids = found.asks = 1
    return good and found.last >= 0 and found.ask_price != _UNPRICED and found.ask_size != _UNPRICED


@njit(cache=True, nogil=True)
def _levels(text, at, price_places, size_places, values, filled):
    """Where [["price","size"],...] ends and how many levels it has; -1 if it is anything else."""
    levels = 0
    at += 1
    while at + 1 < len(text) and text[at] != _END_BRACKET:
        if levels:
            if text[at] != _COMMA:
                return -1, 0
            at += 1
        if text[at] != _BRACKET or text[at + 1] != _QUOTE:
            return -1, 0
        end = _quote_end(text, at + 2)
        if end < 0 or end + 2 >= len(text) or text[end + 1] != _COMMA or text[end + 2] != _QUOTE:
            return -1, 0
        last = _quote_end(text, end + 3)
        if last < 0 or last + 1 >= len(text) or text[last + 1] != _END_BRACKET:
            return -1, 0
        values[filled + 2 * levels] = parse_decimal(text, at + 2, end, price_places)
        values[filled + 2 * levels + 1] = parse_decimal(text, end + 3, last, size_places)
        levels += 1
        at = last + 2
    return at + 1, levels


@njit(cache=True, nogil=True)
def _number(text, at):
    """Where a whole number ends, and it; -1 if there is none."""
    begin, value = at, np.int64(0)
    while at < len(text) and _ZERO <= text[at] <= _NINE:
        value = 10 * value + (text[at] - _ZERO)
        at += 1
    digits = at - begin
    good = 0 < digits <= 18 or (digits == 19 and value > 0)
    return at, value if good and (text[begin] != _ZERO or digits == 1) else np.int64(-1)


@njit(cache=True, nogil=True)
def _quote_end(text, at):
    """The quote that ends a text; -1 if there is none on the line, or an escape before it."""
    while at < len(text) and text[at] != _QUOTE:
        if text[at] == _BACKSLASH or text[at] == _NEWLINE:
            return -1
        at += 1
    return at if at < len(text) else -1


@njit(cache=True, nogil=True)
def _begins(text, begin, wanted):
    if begin + len(wanted) > len(text):
        return False
    same = True
    for place in range(len(wanted)):
        same = same and text[begin + place] == wanted[place]
    return same


@njit(cache=True, nogil=True)
def _same(text, begin, end, wanted):
    return end - begin == len(wanted) and _begins(text, begin, wanted)


@njit(cache=True, nogil=True)
def _kind(text, begin, end):
    if _same(text, begin, end, _DEPTH_NAME):
        return DEPTH
    if _same(text, begin, end, _TRADE_NAME):
        return TRADE
    return BBO if _same(text, begin, end, _TICKER_NAME) else 0
