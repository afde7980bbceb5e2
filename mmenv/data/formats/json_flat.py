"""Objects of texts and numbers, one a line: what venues say of single orders, for compiled code.

Their values are found by key, whatever the order of the keys. What is not read here, with a list that is not
of pairs, a key that comes twice or anything but plain texts, is left to Python.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mmenv.data.decimals import short_decimal
from mmenv.data.formats.json_levels import after_blank, decimal_at
from mmenv.data.formats.json_text import FACTOR, START, bare_end, hash_bytes, text_end
from mmenv.data.formats.json_work import bytes_at, inner, pairs_at
from mmenv.data.formats.layout import role_of

FLAT: Final = np.dtype(
    [(name, "i8") for name in ("text", "end", "keys", "lists", "fields", "slots", "pairs", "count")]
)
"""Where arrays lie: the bytes of the text and how many they are; a table of
`mmenv.data.formats.layout.hashed` that gives for each key the number of its field, from 1; how many of the
fields are lists, the first ones, and how many there are; for each of them a row of int64 [fields, 2], where
its value begins and ends, or which of the `pairs` it is; pairs of prices and sizes, int64 [.., 2], and how
many of them have been read."""
WORDS: Final = 64
"""Numbers of fields are less. Of keys that begin with "=" these are words, which `word_of` looks for."""
LARGEST: Final = 1 << 62
"""Prices, sizes and numbers are less."""
_BLANK, _QUOTE, _COMMA, _COLON, _BACKSLASH, _POINT, _ZERO, _NINE = b' ",:\\.09'
_OPEN_LIST, _END_LIST, _OPEN, _END = b"[]{}"
_EQUALS: Final = np.uint64(ord("="))
_PLACES: Final = 8
_LONGEST, _WHOLE = 20, 5
"""Digits of a number with its point, and before it."""
_DIGITS: Final = 15
"""So many digits of a number are kept by a float, as which Python would read it."""


@inner
def read_object(flat, at):
    """Find the values of an object; the place after it, -1 where Python has to read it."""
    text, end = flat.text, flat.end
    byte, slots = bytes_at(text, end), pairs_at(flat.slots, flat.fields)
    for field in range(flat.fields):
        slots[field, 0] = -1
    if at >= end or byte[at] != _OPEN:
        return np.int64(-1)
    while True:
        at = after_blank(text, at + 1, end)
        if at >= end or byte[at] != _QUOTE:
            return np.int64(-1)
        key, at = START, at + 1
        while at < end and byte[at] != _QUOTE:
            if byte[at] < _BLANK or byte[at] >= 128 or byte[at] == _BACKSLASH:
                return np.int64(-1)
            key = (key ^ np.uint64(byte[at])) * FACTOR
            at += 1
        at = after_blank(text, at + 1, end)
        if at >= end or byte[at] != _COLON:
            return np.int64(-1)
        at = after_blank(text, at + 1, end)
        if at >= end:
            return np.int64(-1)
        field = role_of(key, flat.keys) - 1
        if field >= flat.fields or (field >= 0 and slots[field, 0] >= 0):
            return np.int64(-1)
        quoted, begin = byte[at] == _QUOTE, at
        if (byte[at] == _OPEN_LIST) != (0 <= field < flat.lists):
            return np.int64(-1)
        if quoted:
            begin = at + 1
            at = last = text_end(text, begin, end)
        elif byte[at] == _OPEN_LIST:
            begin = flat.count
            at = _pairs(flat, at)
            last = flat.count
        else:
            at = last = bare_end(text, begin, end)
        if at < 0:
            return np.int64(-1)
        if field >= 0:
            slots[field, 0], slots[field, 1] = begin, last
        at = after_blank(text, at + quoted, end)
        if at >= end:
            return np.int64(-1)
        if byte[at] == _END:
            return np.int64(at + 1)
        if byte[at] != _COMMA:
            return np.int64(-1)


@inner
def _pairs(flat, at):
    """Read a list of pairs of decimals in quotes; the place after it, -1 where it is none."""
    text, end = flat.text, flat.end
    byte = bytes_at(text, end)
    at = after_blank(text, at + 1, end)
    more = at < end and byte[at] != _END_LIST
    while more:
        if byte[at] != _OPEN_LIST:
            return np.int64(-1)
        for column in range(2):
            at = after_blank(text, at + 1, end)
            if at >= end or byte[at] != _QUOTE:
                return np.int64(-1)
            value, at = decimal_at(text, at, end, _PLACES)
            if at < 0 or at >= end or byte[at] != (_END_LIST if column else _COMMA):
                return np.int64(-1)
            if value >= LARGEST:
                return np.int64(-1)
            pairs_at(flat.pairs, flat.count + 1)[flat.count, column] = value
        flat.count += 1
        at = after_blank(text, at + 1, end)
        more = at < end and byte[at] == _COMMA
        if more:
            at = after_blank(text, at + 1, end)
            more = at < end
            if not more:
                return np.int64(-1)
    return np.int64(at + 1 if at < end and byte[at] == _END_LIST else -1)


@inner
def word_of(flat, begin, end):
    """Which of the words of the keys, from 0, stands in the text; negative where it is none of them."""
    return role_of(hash_bytes((START ^ _EQUALS) * FACTOR, flat.text, begin, end), flat.keys) - WORDS


@inner
def number_of(flat, field):
    """A whole number that is not negative and below `LARGEST`, in quotes or not; -1 where there is none."""
    begin, end = place_of(flat, field)
    byte, value = bytes_at(flat.text, end), np.int64(0)
    if begin < 0 or begin == end or end - begin > 18:
        return np.int64(-1)
    for at in range(begin, end):
        if not _ZERO <= byte[at] <= _NINE:
            return np.int64(-1)
        value = 10 * value + np.int64(byte[at]) - _ZERO
    return value


@inner
def decimal_of(flat, field, places):
    """A decimal below `LARGEST` in units of 10^-places; negative where there is none that is surely read as
    Python would read it."""
    begin, end = place_of(flat, field)
    if begin < 0 or (end - begin > _DIGITS and not quoted(flat, field)):
        return np.int64(-1)
    value = short_decimal(bytes_at(flat.text, end), begin, end, places)
    return value if value < LARGEST else np.int64(-1)


@inner
def rounded_of(flat, field, places):
    """As `decimal_of`; of a number with too many decimals, which a float may have, the nearest there is."""
    value = decimal_of(flat, field, places)
    begin, end = place_of(flat, field)
    if value >= 0 or begin < 0 or end - begin > _LONGEST or quoted(flat, field):
        return value
    byte, unit, point = bytes_at(flat.text, end), np.int64(0), begin
    while point < end and _ZERO <= byte[point] <= _NINE:
        unit = 10 * unit + np.int64(byte[point]) - _ZERO
        point += 1
    cut = point + 1 + places
    if point == end or byte[point] != _POINT or point - begin > _WHOLE or end < cut + 3:
        return np.int64(-1)
    rest, whole = np.int64(0), np.int64(1)
    for at in range(point + 1, end):
        digit = np.int64(byte[at]) - _ZERO
        if not 0 <= digit <= 9:
            return np.int64(-1)
        if at < cut:
            unit = 10 * unit + digit
        else:
            rest, whole = 10 * rest + digit, 10 * whole
    # What a float says of five digits before the point is off by less than a hundredth of 10^-8.
    if abs(2 * rest - whole) < whole // 25:
        return np.int64(-1)
    return unit + (2 * rest > whole)


@inner
def quoted(flat, field):
    """Whether there is a text; its beginning is 0 or more where there is anything."""
    begin, end = place_of(flat, field)
    return begin > 0 and bytes_at(flat.text, end)[begin - 1] == _QUOTE


@inner
def place_of(flat, field):
    """Where a value begins and ends, -1 where there is none."""
    slots = pairs_at(flat.slots, flat.fields)
    return slots[field, 0], slots[field, 1]
