"""Lists of levels in JSON, each byte of which is read once: they are most of what venues send.

Read are decimals of digits with or without a point. A list with anything else in it is left to
`mmenv.data.formats.json_scan`, which reads any JSON; what both read is the same.
"""

from __future__ import annotations

import numpy as np

from mmenv.data.decimals import POWERS
from mmenv.data.formats.json_found import keep_level
from mmenv.data.formats.json_text import bare_end, same_bytes, text_end
from mmenv.data.formats.json_work import bytes_at, inner
from mmenv.data.formats.layout import ASKS, CHANGES

_BLANK, _QUOTE, _COMMA, _COLON, _POINT, _ZERO, _ONE, _NINE = b' ",:.019'
_OPEN_LIST, _END_LIST, _OPEN, _END = b"[]{}"
# Functions that are given numbers of one type are compiled once, and not for each of them.
_COMMAS, _COLONS, _QUOTES, _LISTS, _LIST_ENDS, _OBJECTS = map(np.uint8, b',:"[]{')


@inner
def level_list(work, found, at, role):
    """Read the levels of a list, which begin at a place of the text.

    `role` is BIDS, ASKS or CHANGES of `mmenv.data.formats.layout`. The place after the list, or -1, with
    nothing noted, where it has to be read otherwise.
    """
    text, end = work.text, work.end
    byte, held = bytes_at(text, end), (found.bids, found.asks)
    at = after_blank(text, at, end)
    while at < end and byte[at] != _END_LIST:
        side = -1 if role == ASKS else 1
        if work.keyed:
            price, size, at = _object(work, at, end)
        else:
            at = _after(text, at, end, _LISTS)
            if role == CHANGES:
                side, at = _side(work, at, end)
            price, at = decimal_at(text, at, end, work.price_places)
            at = _after(text, at, end, _COMMAS)
            size, at = decimal_at(text, at, end, work.size_places)
            at = _rest(text, at, end)
        if at < 0:
            break
        keep_level(work, found, side > 0, price, size)
        if at < end and byte[at] == _COMMA:
            at = after_blank(text, at + 1, end)
            # Another level has to come.
            if at < end and byte[at] == _END_LIST:
                break
        elif at >= end or byte[at] != _END_LIST:
            break
    else:
        if at < end:
            return at + 1
    found.bids, found.asks = held
    return -1


@inner
def after_blank(text, at, end):
    """The place after blanks."""
    byte = bytes_at(text, end)
    while at < end and byte[at] == _BLANK:
        at += 1
    return at


@inner
def _after(text, at, end, wanted):
    """The place after a byte and blanks, -1 where there is another one."""
    if at < 0 or at >= end or bytes_at(text, end)[at] != wanted:
        return np.int64(-1)
    return after_blank(text, at + 1, end)


@inner
def decimal_at(text, at, end, places):
    """A decimal, in quotes or not, in units of 10^-places, and the place after it, -1 where it is none that
    surely fits."""
    nothing = np.int64(-1)
    if at < 0 or at >= end:
        return nothing, nothing
    byte = bytes_at(text, end)
    quoted = byte[at] == _QUOTE
    at += quoted
    begin, value = at, np.int64(0)
    while at < end and np.uint8(byte[at] - np.uint8(_ZERO)) < 10:
        value = 10 * value + np.int64(byte[at]) - _ZERO
        at += 1
    whole, fraction = at - begin, 0
    if at < end and byte[at] == _POINT:
        at += 1
        point = at
        while at < end and np.uint8(byte[at] - np.uint8(_ZERO)) < 10:
            value = 10 * value + np.int64(byte[at]) - _ZERO
            at += 1
        fraction = at - point
        if fraction == 0:
            return nothing, nothing
    # Nineteen digits fit into 64 bits without a sign: what does not fit with one is negative then.
    if whole == 0 or fraction > places or whole + places > 19 or (whole > 1 and byte[begin] == _ZERO):
        return nothing, nothing
    value *= POWERS[places - fraction]
    if value < 0 or value >= 9 * 10**18:
        return nothing, nothing
    return value, np.int64(_after(text, at, end, _QUOTES) if quoted else after_blank(text, at, end))


@inner
def _side(work, at, end):
    """1 for the text of a buyer, -1 for that of a seller, and the place after it and its comma, or -1."""
    nothing = np.int64(-1)
    if at < 0 or at >= end or bytes_at(work.text, end)[at] != _QUOTE:
        return 0, nothing
    begin = at + 1
    at = text_end(work.text, begin, end)
    if at < 0:
        return 0, nothing
    side = (
        1
        if same_bytes(work.text, begin, at, work.buy, work.buy_size)
        else -1
        if same_bytes(work.text, begin, at, work.sell, work.sell_size)
        else 0
    )
    at = after_blank(work.text, at + 1, end)
    return side, np.int64(_after(work.text, at, end, _COMMAS) if side else -1)


@inner
def _rest(text, at, end):
    """The place after the further texts and numbers of a list and its end, -1 where there is else."""
    byte = bytes_at(text, end)
    while 0 <= at < end and byte[at] == _COMMA:
        at = _scalar(text, after_blank(text, at + 1, end), end)
    return _after(text, at, end, _LIST_ENDS)


@inner
def _scalar(text, at, end):
    """The place after a text, number, true, false or null and blanks, -1 where there is none."""
    if at >= end:
        return np.int64(-1)
    if bytes_at(text, end)[at] == _QUOTE:
        at = text_end(text, at + 1, end)
        return np.int64(after_blank(text, at + 1, end) if at >= 0 else -1)
    at = bare_end(text, at, end)
    return np.int64(after_blank(text, at, end) if at >= 0 else -1)


@inner
def _object(work, at, end):
    """Price and size of an object, and the place after it, -1 where it has to be read otherwise."""
    text, nothing = work.text, np.int64(-1)
    byte = bytes_at(text, end)
    at = _after(text, at, end, _OBJECTS)
    price, size, place = _usual(work, at, end)
    if place >= 0:
        if byte[place] == _END:
            return price, size, np.int64(after_blank(text, place + 1, end))
        at = after_blank(text, place + 1, end)
    while 0 <= at < end and byte[at] == _QUOTE:
        begin = at + 1
        at = text_end(text, begin, end)
        if at < 0:
            break
        key_end = at
        at = _after(text, after_blank(text, at + 1, end), end, _COLONS)
        if at < 0:
            break
        if price < 0 and same_bytes(text, begin, key_end, work.price_key, work.price_key_size):
            price, at = decimal_at(text, at, end, work.price_places)
        elif size < 0 and same_bytes(text, begin, key_end, work.size_key, work.size_key_size):
            size, at = decimal_at(text, at, end, work.size_places)
        else:
            place = at
            while place < end and _ONE <= byte[place] <= _NINE:
                place += 1
            # Most often a digit or two.
            if not (at < place < end and (byte[place] == _COMMA or byte[place] == _END)):
                place = _scalar(text, at, end)
            at = np.int64(place)
            # Of a key that comes twice the last one counts.
            if same_bytes(text, begin, key_end, work.price_key, work.price_key_size):
                break
            if same_bytes(text, begin, key_end, work.size_key, work.size_key_size):
                break
        if 0 <= at < end and byte[at] == _END and price >= 0 and size >= 0:
            return price, size, np.int64(after_blank(text, at + 1, end))
        at = _after(text, at, end, _COMMAS)
    return nothing, nothing, nothing


@inner
def _usual(work, at, end):
    """Price and size that an object begins with, without a blank, and the place of the comma or end that
    follows; that is -1 and so are they where it begins otherwise."""
    text, nothing = work.text, np.int64(-1)
    byte = bytes_at(text, end)
    price, place = decimal_at(text, _value(text, at, end, work.price_key, work.price_key_size), end,
                              work.price_places)  # fmt: skip
    if 0 <= place < end and byte[place] == _COMMA:
        begin = _value(text, place + 1, end, work.size_key, work.size_key_size)
        size, place = decimal_at(text, begin, end, work.size_places)
        if 0 <= place < end and (byte[place] == _COMMA or byte[place] == _END):
            return price, size, place
    return nothing, nothing, nothing


@inner
def _value(text, at, end, key, size):
    """The place after a key in quotes and its colon, -1 where it does not stand here."""
    value = at + size + 3
    if at < 0 or value >= end:
        return np.int64(-1)
    byte = bytes_at(text, end)
    if byte[at] != _QUOTE or byte[value - 2] != _QUOTE or byte[value - 1] != _COLON:
        return np.int64(-1)
    return np.int64(value if same_bytes(text, at + 1, value - 2, key, size) else -1)
