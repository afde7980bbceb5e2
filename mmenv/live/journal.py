"""The journal: everything a session was told and everything it did, in order, on disk before it acts.

Files of frames: length, CRC-32, sequence number, kind, payload. They only grow. What a killed process had
flushed is there; a frame that it was in the middle of fails its checksum and is cut off when the file is next
opened for writing. Damage anywhere else is refused, naming the place.

The newest frames are in NAME.journal; when it is large or a day is over it becomes NAME.journal.0001, and so
on. The files are one journal, whose frames are numbered through; whoever reads it names the newest.

Inputs (rows, feed, updates, commands, ticks) decide everything else, so a session played again from them
writes the same bytes: `mmenv.live.rerun`.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mmenv.data.rows import ROW
from mmenv.live.snapshot import MARK
from mmenv.times import DAY
from mmenv.venue.working import COMMAND
from mmenv.venue.working import FILL as FILL_ROW

MAGIC: Final = b"NeuralMM journal 2\n"

(
    HEADER, ROWS, FEED, UPDATE, OPERATOR, TICK, FILLS, STATE, DECISION, ORDERS, ACCOUNT, ERROR, SNAPSHOT,
    INSTRUMENT, TAKERS,
) = range(1, 16)  # fmt: skip
NAMES: Final = {
    HEADER: "header", ROWS: "rows", FEED: "feed", UPDATE: "update", OPERATOR: "operator",
    TICK: "tick", FILLS: "fills", STATE: "state", DECISION: "decision", ORDERS: "orders",
    ACCOUNT: "account", ERROR: "error", SNAPSHOT: "snapshot",
    INSTRUMENT: "instrument", TAKERS: "takers",
}  # fmt: skip
INPUTS: Final = frozenset({ROWS, FEED, UPDATE, OPERATOR, TICK, ACCOUNT, SNAPSHOT, INSTRUMENT})
"""Kinds that a session is told; the others follow from them. What a snapshot holds follows, too."""

ARRAYS: Final = {ROWS: ROW, FILLS: FILL_ROW, ORDERS: COMMAND, TAKERS: COMMAND}
"""Kinds whose payload is an array of this record; the payload of the rest is JSON, but for DECISION
and SNAPSHOT."""

_FRAME: Final = struct.Struct("<IIQB")
_CHECKED: Final = struct.Struct("<QB")
LARGEST: Final = 1 << 28
CHUNK: Final = 1 << 12
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
        """The payload of a kind that is JSON."""
        return json.loads(self.payload)

    def array(self) -> NDArray[np.void]:
        """The payload of one of ARRAYS."""
        return np.frombuffer(self.payload, ARRAYS[self.kind])

    def __str__(self) -> str:
        if self.kind in ARRAYS:
            return f"{self.number} {NAMES[self.kind]}: {len(self.array())} x {ARRAYS[self.kind].names}"
        text = f"{len(self.payload)} bytes" if self.kind in (DECISION, SNAPSHOT) else self.payload.decode()
        return f"{self.number} {NAMES[self.kind]}: {text}"


class Sink(Protocol):
    """Where a session writes its frames."""

    def write(self, kind: int, payload: bytes) -> None:
        """Append a frame."""

    def flush(self) -> None:
        """Make all written so far outlive the process."""


class Memory:
    """A sink that keeps its frames in a list."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, kind: int, payload: bytes) -> None:
        self.frames.append(Frame(len(self.frames), kind, payload))

    def flush(self) -> None:
        pass


class Journal:
    """Appends frames to a file that no other process may write.

    Parameters
    ----------
    path
        A new file, or a journal to go on with; its incomplete last frame, if any, is cut off.
    sync
        Also outlive the machine (fdatasync at every flush), not only the process.

    Raises
    ------
    JournalError
        The file is in use by another process, damaged, or no journal.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        self.path, self.sync = path, sync
        self._day = -1
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_locked(path)
        try:
            self.frames, self._size = self._open()
        except BaseException:
            os.close(self._file)
            raise
        self.flushed = self.frames
        """Frames that outlive the process."""
        self._buffer = bytearray()

    def _open(self) -> tuple[int, int]:
        """Number of frames there, and bytes of the newest file once an incomplete frame is cut off."""
        start = newest_snapshot(self.path)
        count, end = start.number, start.at
        if earlier := start.files[:-1]:
            count += sum(1 for _ in _frames(earlier, count, start.at, whole=True))
            end = len(MAGIC)
        size = os.fstat(self._file).st_size
        if size <= len(MAGIC) and MAGIC.startswith(self.path.read_bytes()):
            os.ftruncate(self._file, 0)
            os.write(self._file, MAGIC)
            return count, len(MAGIC)
        for frame in _frames([self.path], count, end):
            count, end = count + 1, end + _FRAME.size + len(frame.payload)
        os.ftruncate(self._file, end)
        return count, end

    def rotate(self, now_ns: int, size: int) -> None:
        """Go on in a new file if this one has `size` bytes or began on an earlier day (UTC) than now.

        Killed at any moment, it is the old file or the new one that goes on.
        """
        day = now_ns // DAY
        due = self._size >= size or self._day not in (-1, day)
        self._day = day
        if not due or self._size <= len(MAGIC):
            return
        self.flush()
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        # Locked before anybody can see it, so that no other desk takes it.
        file = _open_locked(fresh)
        os.write(file, MAGIC)
        part = _part(self.path, len(parts(self.path)))
        # What a rotation left that was killed here.
        part.unlink(missing_ok=True)
        os.link(self.path, part)
        os.replace(fresh, self.path)
        os.close(self._file)
        self._file, self._size = file, len(MAGIC)

    def write(self, kind: int, payload: bytes) -> None:
        self._buffer += _frame(self.frames, kind, payload)
        self.frames += 1
        if len(self._buffer) >= CHUNK:
            self._write_out()

    def _write_out(self) -> None:
        self._size += len(self._buffer)
        view = memoryview(self._buffer)
        while view:
            view = view[os.write(self._file, view) :]
        self._buffer = bytearray()

    def flush(self) -> None:
        self._write_out()
        if self.sync:
            os.fdatasync(self._file)
        self.flushed = self.frames

    def close(self) -> None:
        self.flush()
        os.fdatasync(self._file)
        os.close(self._file)

    @property
    def pending(self) -> int:
        """Bytes that the operating system does not have yet."""
        return len(self._buffer)

    def tear(self, kept: int) -> None:
        """Close as the death of the process does: of the pending bytes, only the first `kept` are there."""
        os.write(self._file, self._buffer[:kept])
        os.close(self._file)


def require_free(path: Path) -> None:
    """Raise `JournalError` if a desk is at work with the journal."""
    os.close(_open_locked(path))


def parts(path: Path) -> list[Path]:
    """The files of a journal, oldest first; the last one is `path`. Raises `JournalError` if one is gone."""
    count = sum(1 for _ in path.parent.glob(f"{path.name}.[0-9]*"))
    earlier = [_part(path, number) for number in range(1, count + 1)]
    for part in earlier:
        if not part.exists():
            raise JournalError(f"{part} is missing; restore it from a copy.")
    if earlier and path.exists() and path.samefile(earlier[-1]):
        # Killed between the two steps of a rotation.
        earlier.pop()
    return [*earlier, path]


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number:04d}")


def _open_locked(path: Path) -> int:
    """The file, made if need be, which no other process may write. Raises `JournalError`."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise JournalError(f"{path} is in use by another desk; stop that one first.") from None
    return file


@dataclass(frozen=True)
class Start:
    """Where to begin to read: at byte `at` of the first of `files`, which is frame `number`."""

    files: list[Path]
    at: int
    number: int


def newest_snapshot(path: Path) -> Start:
    """Where the newest snapshot of a journal is, or its first frame if there is none.

    Only what comes from there on is looked at, however long the journal is.
    """
    files = parts(path)
    for index in reversed(range(len(files))):
        if files[index].exists() and (found := _last_snapshot(files[index])) is not None:
            return Start(files[index:], *found)
    return Start(files, len(MAGIC), 0)


def _last_snapshot(path: Path) -> tuple[int, int] | None:
    """Byte and number of the last whole snapshot in a file."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= len(MAGIC):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = len(data)
            while (place := data.rfind(MARK, 0, place)) >= 0:
                if (at := place - _FRAME.size) >= len(MAGIC):
                    number = _FRAME.unpack_from(data, at)[2]
                    frame = _frame_at(data, at, number)
                    if frame is not None and frame.kind == SNAPSHOT:
                        return at, number
    return None


def read(path: Path, start: Start | None = None) -> Iterator[Frame]:
    """The complete frames of a journal, all its files or from `start` on; an incomplete last one is left out.

    Raises `JournalError` where a file is no journal or damaged before its end.
    """
    if not path.exists():
        raise JournalError(f"{path}: there is no journal; `neuralmm paper` writes one.")
    if path.is_dir():
        inside = ", ".join(sorted(each.name for each in path.glob("*.journal"))) or "none"
        raise JournalError(f"{path} is a folder: name a journal in it; there is {inside}.")
    start = start or Start(parts(path), len(MAGIC), 0)
    *earlier, newest = start.files
    number = start.number
    for frame in _frames(earlier, number, start.at, whole=True):
        number = frame.number + 1
        yield frame
    yield from _frames([newest], number, len(MAGIC) if earlier else start.at)


def _frames(files: Sequence[Path], number: int, start: int, whole: bool = False) -> Iterator[Frame]:
    """Frames of consecutive files, the first from byte `start` on, which is frame `number`; if they must be
    `whole`, to the last byte."""
    for path in files:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise JournalError(f"{path} is not a journal of this version.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                at, start = start, len(MAGIC)
                while (found := _frame_at(data, at, number)) is not None:
                    yield found
                    number, at = number + 1, at + _FRAME.size + len(found.payload)
                where = f"{path}: damaged at byte {at} (frame {number})"
                for later in _frame_starts(data, at):
                    raise JournalError(
                        f"{where}, with whole frames again from byte {later}; restore the file from a copy."
                    )
                if whole and at < len(data):
                    raise JournalError(f"{where}, and the journal goes on; restore the file from a copy.")


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
    """Where whole frames lie from a damaged one on: then it is no tail that a killed process left."""
    for at in range(damaged, len(data) - _FRAME.size + 1):
        # Kinds are small and numbers have zero high bytes: few places need the checksum.
        if data[at + 16] in NAMES and data[at + 12 : at + 16] == b"\0\0\0\0":
            number = int.from_bytes(data[at + 8 : at + 16], "little")
            if _frame_at(data, at, number) is not None:
                yield at
