"""Numbers, texts and times of JSON, for compiled code: places in bytes, and what stands there.

`text` is the address of the bytes, `end` the place where they end.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mmenv.data.formats.json_work import bytes_at, inner
from mmenv.times import DAY, HOUR, SECOND

START: Final = np.uint64(14_695_981_039_346_656_037)
FACTOR: Final = np.uint64(1_099_511_628_211)
"""Of the hash FNV-1a."""
_BLANK, _QUOTE, _BACKSLASH, _COLON, _POINT = b' "\\:.'
_ZERO, _NINE, _MINUS, _PLUS, _E, _BIG_E, _SLASH, _DASH, _Z, _T = b"09-+eE/-ZT"
_LITERALS: Final = np.frombuffer(b"true/false/null/", np.uint8)
NO_INTEGER: Final = -(1 << 62)
_TWO, _FOUR = np.int64(2), np.int64(4)
"""Numbers of one type, for which a function is compiled once."""


@inner
def hash_bytes(found, text, begin, end):
    """FNV-1a of more bytes after those of a hash."""
    byte = bytes_at(text, end)
    for place in range(begin, end):
        found = (found ^ np.uint64(byte[place])) * FACTOR
    return found


@inner
def text_end(text, at, end):
    """Where a text ends, -1 where it has none, or holds what is not plain."""
    byte = bytes_at(text, end)
    while at < end and byte[at] != _QUOTE:
        if byte[at] < _BLANK or byte[at] >= 128 or byte[at] == _BACKSLASH:
            return -1
        at += 1
    return at if at < end else -1


@inner
def stamp_of(text, at, end):
    """Where a line's message begins, -1 where it does not, and its local time."""
    byte = bytes_at(text, end)
    value, begin = np.int64(0), at
    while at < end and _ZERO <= byte[at] <= _NINE and at - begin < 19:
        value = 10 * value + np.int64(byte[at]) - _ZERO
        at += 1
    # Nineteen digits fit into 64 bits if the first is below nine.
    if value <= 0 or at >= end or byte[at] != _BLANK or (at - begin == 19 and byte[begin] == _NINE):
        return np.int64(-1), value
    return np.int64(at + 1), value


@inner
def _digits(text, at, end):
    byte = bytes_at(text, end)
    while at < end and _ZERO <= byte[at] <= _NINE:
        at += 1
    return at


@inner
def bare_end(text, at, end):
    """Where a number, true, false or null ends; -1 where it is none of these."""
    byte = bytes_at(text, end)
    literal = 0 if at < end and byte[at] > _NINE else len(_LITERALS)
    while literal < len(_LITERALS):
        place = at
        while place < end and _LITERALS[literal] != _SLASH and byte[place] == _LITERALS[literal]:
            place, literal = place + 1, literal + 1
        if _LITERALS[literal] == _SLASH:
            return place
        while _LITERALS[literal] != _SLASH:
            literal += 1
        literal += 1
    begin = at + (at < end and byte[at] == _MINUS)
    at = _digits(text, begin, end)
    if at == begin or (byte[begin] == _ZERO and at > begin + 1):
        return -1
    if at < end and byte[at] == _POINT:
        begin = at + 1
        at = _digits(text, begin, end)
        if at == begin:
            return -1
    if at < end and (byte[at] == _E or byte[at] == _BIG_E):
        begin = at + 1
        if begin < end and (byte[begin] == _MINUS or byte[begin] == _PLUS):
            begin += 1
        at = _digits(text, begin, end)
        if at == begin:
            return -1
    return at


@inner
def integer(text, begin, end):
    """A whole number, the least one there is where it is none."""
    byte = bytes_at(text, end)
    none = np.int64(NO_INTEGER)
    negative = begin < end and byte[begin] == _MINUS
    at, value = begin + negative, np.int64(0)
    if at >= end or end - at > 18:
        return none
    while at < end:
        if not _ZERO <= byte[at] <= _NINE:
            return none
        value = 10 * value + np.int64(byte[at]) - _ZERO
        at += 1
    return -value if negative else value


@inner
def same_bytes(text, begin, end, wanted, size):
    """Whether a part of the text is the `size` bytes at the address `wanted`."""
    if end - begin != size:
        return False
    byte, other = bytes_at(text, end), bytes_at(wanted, size)
    same = True
    for place in range(size):
        same = same and byte[begin + place] == other[place]
    return same


@inner
def utc_ns(text, begin, end):
    """Nanoseconds of a time such as 2024-08-09T01:02:03.5Z, below 0 where it is none."""
    byte = bytes_at(text, end)
    if end - begin < 20 or byte[end - 1] != _Z or byte[begin + 4] != _DASH or byte[begin + 7] != _DASH:
        return -1
    if byte[begin + 10] != _T or byte[begin + 13] != _COLON or byte[begin + 16] != _COLON:
        return -1
    year, month, day = _pair(text, begin, _FOUR), _pair(text, begin + 5, _TWO), _pair(text, begin + 8, _TWO)
    hour, minute, second = (
        _pair(text, begin + 11, _TWO),
        _pair(text, begin + 14, _TWO),
        _pair(text, begin + 17, _TWO),
    )
    if year < 1970 or year > 2200 or month < 1 or month > 12 or day < 1:
        return -1
    # The last day of February in leap years is left to Python.
    if day > (28 if month == 2 else 30 if month in (4, 6, 9, 11) else 31):
        return -1
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1
    fraction, unit = np.int64(0), SECOND
    if byte[begin + 19] == _POINT:
        if end - begin - 21 > 9 or end - begin == 21:
            return -1
        for at in range(begin + 20, end - 1):
            if not _ZERO <= byte[at] <= _NINE:
                return -1
            unit //= 10
            fraction += unit * (np.int64(byte[at]) - _ZERO)
    elif end - begin != 20:
        return -1
    # Days since 1970: the year begins in March, so that a leap day is its last one.
    moved = year - (month <= 2)
    days = 365 * moved + moved // 4 - moved // 100 + moved // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719_468
    return days * DAY + hour * HOUR + (60 * minute + second) * SECOND + fraction


@inner
def _pair(text, begin, digits):
    byte = bytes_at(text, begin + digits)
    value = np.int64(0)
    for at in range(begin, begin + digits):
        if not _ZERO <= byte[at] <= _NINE:
            return np.int64(-1)
        value = 10 * value + np.int64(byte[at]) - _ZERO
    return value
