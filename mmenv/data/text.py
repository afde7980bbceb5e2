"""Lines of comma-separated values as numpy columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from mmenv.data.decimals import DECIMALS, INVALID, parse_decimal, short_decimal
from mmenv.data.problems import Report
from mmenv.times import SECOND

_NEWLINE, _RETURN, _COMMA, _QUOTE = b'\n\r,"'
_HASH_START: Final = np.uint64(14_695_981_039_346_656_037)
_HASH_FACTOR: Final = np.uint64(1_099_511_628_211)


class Fields(NamedTuple):
    """Where values lie in a text: each is text[start:end]."""

    text: NDArray[np.uint8]
    starts: NDArray[np.int32]
    """[lines] of one column, or [lines, columns]."""
    ends: NDArray[np.int32]


class TextTable:
    """A `mmenv.data.columns.Table` of whole lines of comma-separated values.

    `file` and `first_line` are the numbers of the file and of the first line in it.
    """

    def __init__(self, text: NDArray[np.uint8], names: Sequence[str], file: int, first_line: int) -> None:
        self.file = file
        self._at = {name: place for place, name in enumerate(names)}
        starts, ends, found = split(text, len(names), np.count_nonzero(text == _NEWLINE))
        good = found == len(names)
        self.ragged = first_line + np.flatnonzero(~good & (found != 0))
        """Lines that have too few or too many values; they are left out."""
        self.lines = first_line + np.flatnonzero(good)
        self._fields = Fields(text, starts, ends) if good.all() else Fields(text, starts[good], ends[good])

    def __len__(self) -> int:
        return len(self.lines)

    def _field(self, name: str) -> Fields:
        text, starts, ends = self._fields
        place = self._at[name]
        return Fields(text, starts[:, place], ends[:, place])

    def has(self, name: str) -> bool:
        return name in self._at

    def integers(self, name: str) -> NDArray[np.int64]:
        return parse_fields(self._field(name), 0)

    def decimals(self, name: str, places: int = DECIMALS) -> NDArray[np.int64]:
        return parse_fields(self._field(name), places)

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lines and all columns [n, 1 + columns], each column in units of 10^-places; else as `integers`."""
        return parse_rows(self._fields, self.lines, places)

    def times(self, name: str) -> NDArray[np.int64]:
        if not len(self) or "-" not in self.value(name, 0)[1:]:
            return self.integers(name)
        offsets, texts = join_fields(self._field(name))
        return iso_times(pa.StringArray.from_buffers(len(self), pa.py_buffer(offsets), pa.py_buffer(texts)))

    def equals(self, name: str, text: str) -> NDArray[np.bool_]:
        return match_fields(self._field(name), np.frombuffer(text.encode(), np.uint8))

    def letters(self, name: str) -> NDArray[np.uint8]:
        return letter_fields(self._field(name))

    def value(self, name: str, row: int) -> str:
        text, starts, ends = self._field(name)
        return text[starts[row] : ends[row]].tobytes().decode(errors="replace")

    def hashes(self, name: str) -> NDArray[np.int64]:
        return hash_fields(self._field(name))


def text_table(
    text: bytes, names: Sequence[str], file: int, line: int, name: str, report: Report
) -> TextTable:
    """Columns of whole lines; what is no row of `names` is reported and left out.

    A last line without an end counts if it has all its values; a line that repeats the names does not.
    """
    whole = text.rfind(b"\n") + 1
    last = text[whole:]
    if last.count(b",") + 1 == len(names) and last.strip()[-1:] not in (b"", b","):
        text += b"\n"
    elif last.strip():
        at = line + text.count(b"\n")
        report.add(name, at, 0, "half-line", "the file ends within this line, which is skipped")
        text = text[:whole]
    table = TextTable(np.frombuffer(text, np.uint8), names, file, line)
    for at in table.ragged:
        report.add(name, at, 0, "bad-line", f"not {len(names)} values; skipped")
    return table


def hash_text(text: str) -> int:
    """A positive number for a text, as `TextTable.hashes` gives."""
    data = np.frombuffer(text.encode(), np.uint8)
    return int(hash_fields(Fields(data, np.zeros(1, np.int32), np.full(1, len(data), np.int32)))[0])


def iso_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time. Raises ValueError."""
    fraction = text[20:-1] if text[19:20] == "." else ""
    if text[-1:] == "Z" and len(fraction) <= 9 and (fraction.isdigit() or len(text) == 20):
        return _second_ns(text[:19]) + int(fraction.ljust(9, "0"))
    found = int(iso_times(pa.array([text], pa.string()))[0])
    if found == INVALID:
        raise ValueError("time")
    return found


@lru_cache(1 << 12)
def _second_ns(text: str) -> int:
    """The same of a whole second, in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def iso_times(texts: Any) -> NDArray[np.int64]:
    """Nanoseconds since 1970 of an Arrow array of ISO 8601 times; INVALID for anything else.

    They are UTC where they name no offset.
    """
    for zone in ("UTC", None):
        try:
            return texts.cast(pa.timestamp("ns", zone)).cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            pass
    if len(texts) == 1:
        return np.array([INVALID])
    half = len(texts) // 2
    return np.concatenate([iso_times(texts[:half]), iso_times(texts[half:])])


@njit(cache=True, nogil=True)
def split(
    text: NDArray[np.uint8], columns: int, count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Where the values of `count` lines begin and end, [count, columns], and how many each line has.

    Quotes around a value and a carriage return after it are not part of it. An empty line has no values.
    """
    starts, ends = np.zeros((count, columns), np.int32), np.zeros((count, columns), np.int32)
    found = np.zeros(count, np.int64)
    line, column, begin = 0, 0, 0
    for place, byte in enumerate(text):
        if byte != _COMMA and byte != _NEWLINE:
            continue
        end = place
        if end > begin and text[end - 1] == _RETURN:
            end -= 1
        empty = column == 0 and end == begin
        if end - begin >= 2 and text[begin] == _QUOTE and text[end - 1] == _QUOTE:
            begin, end = begin + 1, end - 1
        if column < columns:
            starts[line, column], ends[line, column] = begin, end
        column += 1
        begin = place + 1
        if byte == _NEWLINE:
            found[line] = 0 if empty else column
            line += 1
            column = 0
    return starts, ends, found


@njit(cache=True, nogil=True)
def parse_fields(fields, places):
    """Decimals of the fields in units of 10^-places."""
    text, starts, ends = fields
    out = np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        value = short_decimal(text, starts[row], ends[row], places)
        out[row] = value if value >= 0 else parse_decimal(text, starts[row], ends[row], places)
    return out


@njit(cache=True, nogil=True)
def parse_rows(fields, lines, places):
    """Lines, and the decimals of all fields in units of 10^-places of their column: [n, 1 + columns]."""
    text, starts, ends = fields
    out = np.empty((len(starts), 1 + len(places)), np.int64)
    for row in range(len(starts)):
        out[row, 0] = lines[row]
        for column in range(len(places)):
            begin, end = starts[row, column], ends[row, column]
            value = short_decimal(text, begin, end, places[column])
            out[row, 1 + column] = value if value >= 0 else parse_decimal(text, begin, end, places[column])
    return out


@njit(cache=True, nogil=True)
def match_fields(fields, wanted):
    """Whether each field is `wanted`."""
    text, starts, ends = fields
    out = np.empty(len(starts), np.bool_)
    for row in range(len(starts)):
        begin = starts[row]
        same = ends[row] - begin == len(wanted)
        place = 0
        while same and place < len(wanted):
            same = text[begin + place] == wanted[place]
            place += 1
        out[row] = same
    return out


@njit(cache=True, nogil=True)
def letter_fields(fields):
    """Each field that is one byte, 0 for others."""
    text, starts, ends = fields
    out = np.zeros(len(starts), np.uint8)
    for row in range(len(starts)):
        if ends[row] - starts[row] == 1:
            out[row] = text[starts[row]]
    return out


@njit(cache=True, nogil=True)
def join_fields(fields):
    """Where each field begins and the last one ends, int32 [n + 1], in the text of all of them together."""
    text, starts, ends = fields
    offsets = np.zeros(len(starts) + 1, np.int32)
    for row in range(len(starts)):
        offsets[row + 1] = offsets[row] + ends[row] - starts[row]
    out = np.empty(offsets[-1], np.uint8)
    for row in range(len(starts)):
        for place in range(ends[row] - starts[row]):
            out[offsets[row] + place] = text[starts[row] + place]
    return offsets, out


@njit(cache=True, nogil=True)
def hash_fields(fields):
    """FNV-1a of each field, without its sign."""
    text, starts, ends = fields
    out = np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        found = _HASH_START
        for place in range(starts[row], ends[row]):
            found = (found ^ np.uint64(text[place])) * _HASH_FACTOR
        out[row] = np.int64(found >> np.uint64(1))
    return out
