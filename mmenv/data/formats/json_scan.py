"""Books and trades of JSON messages, read by compiled code straight from the text of a capture.

A `Layout` says where in a venue's messages things stand, whatever the order of their keys. A line that
says more, or less, or is damaged, is left to Python (`mmenv.data.formats.feed`), which names the fault.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from mmenv.data.formats.json_found import FOUND, closed, forget, opened, taken
from mmenv.data.formats.json_levels import after_blank, level_list
from mmenv.data.formats.json_text import FACTOR, START, bare_end, hash_bytes, stamp_of, text_end
from mmenv.data.formats.json_work import PART, WORK, begin_work, bytes_at, inner
from mmenv.data.formats.layout import BIDS, CHANGES, NUMBERED, role_of

_DEPTH: Final = 12
_NEWLINE, _RETURN, _BLANK, _QUOTE, _COMMA, _COLON, _POINT = b'\n\r ",:.'
_OPEN_LIST, _END_LIST, _OPEN, _END = b"[]{}"
_ZERO, _NINE = b"09"

_LEVEL: Final = np.dtype([("path", "u8"), ("number", "i8"), ("role", "i8"), ("list", "?")])
"""A list or object that has begun."""


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
    room = len(text) // 6 + 2
    parts, levels = np.empty(len(text) // 40 + 2, PART), np.empty((room, 2), np.int64)
    bids, asks = np.empty((room, 2), np.int64), np.empty((room, 2), np.int64)
    works, state = np.zeros(1, WORK), np.zeros(1, FOUND)
    work, found = works[0], state[0]
    begin_work(work, text, symbol, price_places, size_places, layout)
    work.levels, work.bids, work.asks = levels.ctypes.data, bids.ctypes.data, asks.ctypes.data
    # Numba frees an array after its last use, and knows nothing of addresses, nor of a record's array.
    at, line = _lines(work, found, parts, at, line, (levels, bids, asks, works, state))
    return at, line, parts[: state[0].parts].copy(), levels[: state[0].levels].copy()


@inner
def _lines(work, found, parts, at, line, held):
    """Read lines; where it stopped, and the number of that line."""
    end, stack = work.end, np.empty(_DEPTH, _LEVEL)
    byte = bytes_at(work.text, end)
    while at < end:
        before = found.parts, found.levels
        if byte[at] != _NEWLINE:
            place, local_ns = at, np.int64(0)
            if _ZERO <= byte[at] <= _NINE:
                place, local_ns = stamp_of(work.text, at, end)
            found.said = found.emitted = 0
            found.symbol = -1
            forget(found)
            # No message goes over the end of its line: none of its texts and numbers has a line end in it.
            if place >= 0:
                place = _walk(work, found, parts, stack, place)
            if place >= 0 and place < end and byte[place] == _RETURN:
                place += 1
            if place < 0 or (place < end and byte[place] != _NEWLINE) or found.emitted == 0:
                found.parts, found.levels = before
                break
            for number in range(before[0], found.parts):
                part = parts[number]
                part.line = line
                part.local_ns = local_ns if local_ns > 0 else part.exch_ns
            at = place
        at, line = at + 1, line + 1
    return min(at, end), line


@inner
def _walk(work, found, parts, stack, at):
    """Read a message; where it ends, -1 where it is none or says what is not asked for."""
    text, end, table = work.text, work.end, work.table
    byte, depth, path = bytes_at(text, end), 0, START
    if at >= end or byte[at] != _OPEN:
        return -1
    while True:
        # Here a value begins.
        at = after_blank(text, at, end)
        if at >= end:
            return -1
        here, begun = byte[at], False
        role = role_of(path, table)
        if here in (_OPEN, _OPEN_LIST):
            if depth == _DEPTH:
                return -1
            level = stack[depth]
            level.path, level.list, level.number = path, here == _OPEN_LIST, 0
            if here == _OPEN and role == 0:
                role = role_of((path ^ np.uint64(_OPEN)) * FACTOR, table)
            level.role = role
            if not opened(work, found, role):
                return -1
            place = np.int64(-1)
            if here == _OPEN_LIST and BIDS <= role <= CHANGES:
                place = level_list(work, found, at + 1, role)
            if place >= 0:
                at = place
            else:
                depth += 1
                at = after_blank(text, at + 1, end)
                if at >= end:
                    return -1
                begun = byte[at] != (_END_LIST if here == _OPEN_LIST else _END)
        else:
            quoted = here == _QUOTE
            begin = at + 1 if quoted else at
            at = text_end(text, begin, end) if quoted else bare_end(text, begin, end)
            if at < 0:
                return -1
            if role and not taken(work, found, begin, at, quoted, path, role):
                return -1
            at += quoted
        while not begun:
            # Here one has ended.
            if depth == 0:
                return at
            at = after_blank(text, at, end)
            if at >= end:
                return -1
            if byte[at] == _COMMA:
                at += 1
                begun = True
            elif byte[at] == (_END_LIST if stack[depth - 1].list else _END):
                depth -= 1
                at += 1
                role = stack[depth].role
                if role and not closed(work, found, role, parts[found.parts], depth == 0):
                    return -1
            else:
                return -1
        level = stack[depth - 1]
        path = level.path
        at = after_blank(text, at, end)
        if at >= end:
            return -1
        if level.list:
            inside = byte[at] == _OPEN or byte[at] == _OPEN_LIST
            if not inside and _holds(path, table):
                return -1
            path = _item(path, level.number, inside, level.role == NUMBERED)
            level.number += 1
            continue
        if byte[at] != _QUOTE:
            return -1
        begin = at + 1
        at = text_end(text, begin, end)
        if at < 0:
            return -1
        if path != START:
            path = (path ^ np.uint64(_POINT)) * FACTOR
        path = hash_bytes(path, text, begin, at)
        at = after_blank(text, at + 1, end)
        if at >= end or byte[at] != _COLON:
            return -1
        at += 1


@inner
def _holds(path, table):
    """Whether a list is one of levels, books or trades, where a number or text has no place."""
    path = _item(path, np.int64(0), np.bool_(True), np.bool_(False))
    return role_of(path, table) != 0 or role_of((path ^ np.uint64(_OPEN)) * FACTOR, table) != 0


@inner
def _item(path, number, inside, numbered):
    """The path of an item of a list; `inside`: it is a list or object itself."""
    if not inside:
        path = (path ^ np.uint64(_POINT)) * FACTOR
        return (path ^ np.uint64(_ZERO + min(number, 9))) * FACTOR
    path = (path ^ np.uint64(_OPEN_LIST)) * FACTOR
    if numbered:
        path = (path ^ np.uint64(_ZERO + min(number, 9))) * FACTOR
    return (path ^ np.uint64(_END_LIST)) * FACTOR
