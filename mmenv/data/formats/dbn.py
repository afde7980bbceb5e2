"""DBN files, versions 1 to 3: a header, and records of a length they begin with; read without Databento's
own package."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.lines import read_blocks
from mmenv.data.rows import CaptureError

MBO: Final = np.dtype(
    [
        ("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"),
        ("ts_event", "<u8"), ("order_id", "<u8"), ("price", "<i8"), ("size", "<u4"), ("flags", "u1"),
        ("channel_id", "u1"), ("action", "u1"), ("side", "u1"), ("ts_recv", "<u8"), ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
    ]
)  # fmt: skip
"""A record of type MBO; a send time may follow it."""
MBO_TYPE: Final = 160
MBO_BYTES: Final = MBO.itemsize
MBO_SCHEMA: Final = 0
ANY_SCHEMA: Final = 0xFFFF
WORD: Final = 4
"""Record lengths are in units of so many bytes."""


class Header:
    """What a DBN file begins with; `size` bytes long.

    Raises `CaptureError` for another version, or another schema than mbo.
    """

    def __init__(self, text: bytes, name: str) -> None:
        version = text[3]
        if not 1 <= version <= 3:
            raise CaptureError(f"{name}: DBN version {version}; versions 1 to 3 can be read")
        self.size = header_size(text)
        self.dataset = text[8:24].rstrip(b"\0").decode(errors="replace")
        if struct.unpack_from("<H", text, 24)[0] not in (MBO_SCHEMA, ANY_SCHEMA):
            raise CaptureError(f"{name}: its schema is not mbo; ask Databento for schema mbo")
        self._text, self._at = text, 108
        self._width = 22 if version == 1 else struct.unpack_from("<H", text, 53)[0]
        self._at += 4 + self._number()  # a schema definition, so far always empty
        for _ in range(3):  # symbols asked for, found in part, not found
            self._at += 4 + self._number() * self._width
        self.symbols = dict(self._mappings())
        """Symbol by instrument id."""

    def _number(self) -> int:
        return int(struct.unpack_from("<I", self._text, self._at)[0])

    def _name(self) -> str:
        if self._at > len(self._text):
            raise IndexError
        text = self._text[self._at : self._at + self._width]
        self._at += self._width
        return text.split(b"\0")[0].decode(errors="replace")

    def _mappings(self) -> Iterator[tuple[int, str]]:
        """Instrument ids and the symbols they stand for."""
        count = self._number()
        self._at += 4
        for _ in range(count):
            symbol, intervals = self._name(), self._number()
            self._at += 4
            for _ in range(intervals):
                self._at += 8  # the dates
                number = self._name()
                if number.isdecimal() and symbol:
                    yield int(number), symbol


def header_size(text: bytes) -> int:
    """Bytes of the header that begins so; 8 where that is not yet known."""
    return 8 + struct.unpack_from("<I", text, 4)[0] if len(text) >= 8 else 8


def read_header(path: Path) -> Header:
    """The header of a DBN file. Raises `CaptureError` if it is not whole or not ours to read."""
    text = b""
    try:
        for block, _ in read_blocks(path):
            text += block
            if len(text) >= header_size(text):
                return _header(text, path.name)
    except EOFError:
        pass
    raise CaptureError(f"{path.name}: the file ends within its header")


def _header(text: bytes, name: str) -> Header:
    try:
        return Header(text, name)
    except (struct.error, IndexError):
        raise CaptureError(f"{name}: its header is damaged; get the file again") from None


def read_records(path: Path, header: Header, skip: int = 0) -> Iterator[tuple[NDArray[np.void], int, int]]:
    """`MBO` records after `skip` bytes of records, the bytes they end at, and bytes of the file read.

    Raises `CaptureError` where these are no records, and EOFError where the file ends early; what came before
    has been given then.
    """
    held = b""
    for block, position in read_blocks(path, header.size + skip):
        text = np.frombuffer(held + block, np.uint8)
        places, end = record_places(text)
        if end < 0:
            raise CaptureError(f"{path.name}: a record of length 0; the file is damaged")
        held = text[end:].tobytes()
        skip += end
        if len(places) * MBO_BYTES == end:
            yield text[:end].view(MBO), skip, position  # nothing but records of this length
        else:
            yield text[places[:, None] + np.arange(MBO_BYTES)].reshape(-1).view(MBO), skip, position
    if held:
        raise EOFError("within a record")


@njit(cache=True, nogil=True)
def record_places(text: NDArray[np.uint8]) -> tuple[NDArray[np.int64], int]:
    """Where the whole MBO records begin, and where the last whole record of any kind ends (-1: damaged)."""
    places = np.empty(len(text) // MBO_BYTES + 1, np.int64)
    count, at = 0, 0
    while at < len(text):
        size = WORD * int(text[at])
        if size == 0:
            return places[:0], -1
        if at + size > len(text):
            break
        if text[at + 1] == MBO_TYPE and size >= MBO_BYTES:
            places[count] = at
            count += 1
        at += size
    return places[:count], at
