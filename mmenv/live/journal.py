"""The journal: everything a session was told and everything it did, in order, on disk before it acts.

A file of frames: length, CRC-32, sequence number, kind, payload. It only grows. What a killed process had
flushed is there; a frame that it was in the middle of fails its checksum and is cut off when the file is next
opened for writing. Damage anywhere else is refused, naming the place.

Inputs (rows, feed, updates, commands, ticks) decide everything else, so a session played again from them
writes the same bytes: `mmenv.live.again`.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mmenv.data.tape import ROW
from mmenv.venue.working import COMMAND
from mmenv.venue.working import FILL as FILL_ROW

MAGIC: Final = b"NeuralMM journal 2\n"

(HEADER, ROWS, FEED, UPDATE, OPERATOR, TICK, FILLS, STATE, DECISION, ORDERS, ACCOUNT, ERROR) = range(1, 13)
NAMES: Final = {
    HEADER: "header",
    ROWS: "rows",
    FEED: "feed",
    UPDATE: "update",
    OPERATOR: "operator",
    TICK: "tick",
    FILLS: "fills",
    STATE: "state",
    DECISION: "decision",
    ORDERS: "orders",
    ACCOUNT: "account",
    ERROR: "error",
}
INPUTS: Final = frozenset({ROWS, FEED, UPDATE, OPERATOR, TICK, ACCOUNT})
"""Kinds that a session is told; the others follow from them."""

ARRAYS: Final = {ROWS: ROW, FILLS: FILL_ROW, ORDERS: COMMAND}
"""Kinds whose payload is an array of this record; the payload of the rest is JSON, but for DECISION."""

_FRAME: Final = struct.Struct("<IIQB")
_CHECKED: Final = struct.Struct("<QB")
LARGEST: Final = 1 << 28
CHUNK: Final = 1 << 15
"""Bytes that are written without waiting for the flush, which then has less to do."""


class JournalError(ValueError):
    """A journal that cannot be read or written, in one sentence."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One record: `number` counts from 0."""

    number: int
    kind: int
    payload: bytes

    def json(self) -> dict[str, Any]:
        return json.loads(self.payload)

    def array(self) -> NDArray[np.void]:
        return np.frombuffer(self.payload, ARRAYS[self.kind])

    def __str__(self) -> str:
        if self.kind in ARRAYS:
            return f"{self.number} {NAMES[self.kind]}: {len(self.array())} x {ARRAYS[self.kind].names}"
        text = f"{len(self.payload)} bytes" if self.kind == DECISION else self.payload.decode()
        return f"{self.number} {NAMES[self.kind]}: {text}"


class Sink(Protocol):
    """Where a session writes its frames."""

    def write(self, kind: int, payload: bytes) -> None: ...

    def flush(self) -> None:
        """Make all written so far outlive the process."""


class Memory:
    """Frames in a list, as a check or a replay wants them."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, kind: int, payload: bytes) -> None:
        self.frames.append(Frame(len(self.frames), kind, payload))

    def flush(self) -> None:
        pass


class Journal:
    """Appends frames to a file that no other process may write.

    Args:
        path: a new file, or a journal to go on with; its incomplete last frame, if any, is cut off.
        sync: also outlive the machine (fdatasync at every flush), not only the process.

    Raises:
        JournalError: the file is in use by another process, damaged, or no journal.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        self.path, self.sync = path, sync
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.frames, self.cut = self._open()
        except BlockingIOError:
            os.close(self._file)
            raise JournalError(f"{path} is in use by another desk; stop that one first.") from None
        except BaseException:
            os.close(self._file)
            raise
        self._buffer = bytearray()

    def _open(self) -> tuple[int, int]:
        """Number of frames there, and bytes of an incomplete one cut off."""
        size = os.fstat(self._file).st_size
        if size <= len(MAGIC) and MAGIC.startswith(self.path.read_bytes()):
            os.ftruncate(self._file, 0)
            os.write(self._file, MAGIC)
            return 0, size % len(MAGIC)
        count, end = 0, len(MAGIC)
        for frame in read(self.path):
            count, end = count + 1, end + _FRAME.size + len(frame.payload)
        os.ftruncate(self._file, end)
        return count, size - end

    def write(self, kind: int, payload: bytes) -> None:
        self._buffer += _frame(self.frames, kind, payload)
        self.frames += 1
        if len(self._buffer) >= CHUNK:
            self._write_out()

    def _write_out(self) -> None:
        view = memoryview(self._buffer)
        while view:
            view = view[os.write(self._file, view) :]
        self._buffer = bytearray()

    def flush(self) -> None:
        self._write_out()
        if self.sync:
            os.fdatasync(self._file)

    def close(self) -> None:
        self.flush()
        os.fdatasync(self._file)
        os.close(self._file)


def read(path: Path) -> Iterator[Frame]:
    """The complete frames of a journal; an incomplete last one is left out.

    Raises JournalError where the file is no journal or damaged before its end.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise JournalError(f"{path}: there is no journal; `neuralmm paper` writes one.") from None
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise JournalError(f"{path} is not a journal of this version.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            number, at = 0, len(MAGIC)
            while (found := _frame_at(data, at, number)) is not None:
                yield found
                number, at = number + 1, at + _FRAME.size + len(found.payload)
            for later in _frame_starts(data, at):
                raise JournalError(
                    f"{path}: damaged at byte {at} (frame {number}), with whole frames again from byte "
                    f"{later}; restore the file from a copy."
                )


def _frame(number: int, kind: int, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(number, kind)))
    return _FRAME.pack(len(payload), checksum, number, kind) + payload


def _frame_at(data: mmap.mmap, at: int, number: int) -> Frame | None:
    if at + _FRAME.size > len(data):
        return None
    length, checksum, found, kind = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    if found != number or kind not in NAMES or length > LARGEST or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(number, kind))) != checksum:
        return None
    return Frame(number, kind, payload)


def _frame_starts(data: mmap.mmap, damaged: int) -> Iterator[int]:
    """Where whole frames lie behind a damaged one: then it is no tail that a killed process left."""
    for at in range(damaged + 1, len(data) - _FRAME.size):
        # Kinds are small and numbers have zero high bytes: few places need the checksum.
        if data[at + 16] in NAMES and data[at + 12 : at + 16] == b"\0\0\0\0":
            number = int.from_bytes(data[at + 8 : at + 16], "little")
            if _frame_at(data, at, number) is not None:
                yield at
