"""Files of columns: whole lines of plain, gzipped or zstd-compressed text, and Parquet, as numpy columns.

Everything here keeps its place: a pickled copy continues with the next row.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from mmenv.data.capture import (
    DECIMALS,
    INVALID,
    CaptureError,
    Report,
    parse_decimal,
    short_decimal,
)

BLOCK_BYTES: Final = 1 << 16
TABLE_BYTES: Final = 1 << 20
"""Text turned into columns at a time."""
BATCH_ROWS: Final = 1 << 16
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


# Bytes and lines.


def read_blocks(path: Path, skip: int = 0) -> Iterator[tuple[bytes, int]]:
    """Uncompressed bytes of a plain, gzip or zstd file after the first `skip`, and bytes read so far.

    Raises:
        CaptureError: no such file.
        EOFError: a compressed file ends early or is damaged; what came before it has been given.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic == ZSTD_MAGIC:
                blocks = _zstd_blocks(raw)
            elif magic[:2] == b"\x1f\x8b":
                blocks = _gzip_blocks(raw)
            else:
                raw.seek(skip)
                skip = 0
                blocks = iter(lambda: raw.read(BLOCK_BYTES), b"")
            for block in blocks:
                if len(block) > skip:
                    yield block[skip:] if skip else block, raw.tell()
                skip = max(skip - len(block), 0)
    except FileNotFoundError:
        raise CaptureError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CaptureError(f"{path} is a folder; name the files in it") from None
    except (zlib.error, OSError) as error:
        raise EOFError(str(error)) from None


def first_lines(path: Path, count: int) -> list[str]:
    """The first `count` lines, or as many as there are. Raises `CaptureError` if the file cannot be read."""
    text = b""
    try:
        for block, _ in read_blocks(path):
            text += block
            if text.count(b"\n") >= count:
                break
    except EOFError as error:
        if not text:
            raise CaptureError(f"{path}: cannot be read ({error})") from None
    return text.decode(errors="replace").split("\n")[:count]


def _gzip_blocks(raw: Any) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    while block := raw.read(BLOCK_BYTES):
        while block:
            if member.eof:
                # A file may be several gzip members one after another.
                member = zlib.decompressobj(wbits=31)
            yield member.decompress(block)
            block = member.unused_data
    if not member.eof:
        raise EOFError("the gzip stream has no end")


def _zstd_blocks(raw: Any) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.PythonFile(raw), "zstd") as stream:
        yield from iter(lambda: stream.read(BLOCK_BYTES), b"")


@dataclass
class Block:
    """Whole lines of one file; `line` is the number of the first one, from 1."""

    file: int
    line: int
    text: bytes


class Lines:
    """Whole lines of files one after another, a block at a time.

    Args:
        paths: in time order.
        file: number of the first file in its reader's `names`.
    """

    def __init__(self, paths: Sequence[Path], file: int = 0) -> None:
        self.paths, self.first_file = tuple(paths), file
        self.at = 0
        self.offset = 0  # uncompressed bytes of the file given out
        self.line = 1
        self.done = 0
        self.error = ""
        self._open: Iterator[tuple[bytes, int]] | None = None
        self._held = b""  # the beginning of the next line
        self._sizes = [path.stat().st_size if path.exists() else 0 for path in self.paths]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None, "_held": b""}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes)

    def pull(self, least: int = 1) -> Block | None:
        """The next block, of at least `least` bytes where the file has them; None after the last file.

        `error` says why the file of this block, its last one, ended early, or is empty.
        """
        self.error = ""
        while self.at < len(self.paths):
            if self._open is None:
                self._open = read_blocks(self.paths[self.at], self.offset)
            parts, ended = self._gather(least)
            text = b"".join(parts)
            # Half a line is given only where a whole file ends in it.
            cut = len(text) if ended and not self.error else text.rfind(b"\n") + 1
            block = Block(self.first_file + self.at, self.line, text[:cut])
            self._held = b"" if ended else text[cut:]
            self.offset += cut
            self.line += block.text.count(b"\n")
            if ended:
                self.at, self.offset, self.line, self._open = self.at + 1, 0, 1, None
                self.done = sum(self._sizes[: self.at])
            if block.text or self.error:
                return block
        return None

    def _gather(self, least: int) -> tuple[list[bytes], bool]:
        """Bytes with at least one line end, and whether the file has ended."""
        assert self._open is not None
        parts, size, whole = [self._held], len(self._held), False
        self._held = b""
        try:
            while size < least or not whole:
                found = next(self._open, None)
                if found is None:
                    return parts, True
                part, position = found
                self.done = sum(self._sizes[: self.at]) + position
                parts.append(part)
                size += len(part)
                whole = whole or b"\n" in part
        except EOFError as error:
            self.error = f"the file ends early ({error}); what came before is kept"
            return parts, True
        return parts, False


# Columns.


class Table(Protocol):
    """Some rows of a file. Column names are the file's; each method returns an array [n]."""

    file: int
    lines: NDArray[np.int64]
    """Line (of text) or row (of Parquet) of each row, from 1."""

    def has(self, name: str) -> bool:
        """Whether there is such a column."""

    def integers(self, name: str) -> NDArray[np.int64]:
        """INVALID where the column is no integer."""

    def decimals(self, name: str) -> NDArray[np.int64]:
        """In units of 10^-DECIMALS; INVALID where the column is no decimal."""

    def times(self, name: str) -> NDArray[np.int64]:
        """Nanoseconds since 1970 (UTC) of integers or ISO 8601 text; INVALID where it is neither."""

    def equals(self, name: str, text: str) -> NDArray[np.bool_]:
        """Where the column is `text`."""

    def letters(self, name: str) -> NDArray[np.uint8]:
        """The column where it is one byte, 0 elsewhere."""

    def value(self, name: str, row: int) -> str:
        """The column in one row, as text."""

    def hashes(self, name: str) -> NDArray[np.int64]:
        """A positive number for each text."""


class TextTable:
    """A `Table` of lines of comma-separated values."""

    def __init__(self, text: NDArray[np.uint8], names: Sequence[str], file: int, first_line: int) -> None:
        self.file = file
        count = np.count_nonzero(text == 10)
        self._text = text
        self._at = {name: place for place, name in enumerate(names)}
        starts, ends, found = split(text, len(names), count)
        self.ragged = first_line + np.flatnonzero((found != len(names)) & (found != 0))
        """Lines that have too few or too many values; they are left out."""
        good = found == len(names)
        self.lines = first_line + np.flatnonzero(good)
        self._spans = (starts, ends) if good.all() else (starts[good], ends[good])

    def __len__(self) -> int:
        return len(self.lines)

    def _field(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
        place = self._at[name]
        starts, ends = self._spans
        return self._text, starts[:, place], ends[:, place]

    def has(self, name: str) -> bool:
        return name in self._at

    def integers(self, name: str) -> NDArray[np.int64]:
        return parse_fields(*self._field(name), 0)

    def decimals(self, name: str, places: int = DECIMALS) -> NDArray[np.int64]:
        return parse_fields(*self._field(name), places)

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lines and all columns [n, 1 + columns], each column in units of 10^-places; else as `integers`."""
        starts, ends = self._spans
        return parse_rows(self._text, self.lines, starts, ends, places)

    def times(self, name: str) -> NDArray[np.int64]:
        if not len(self) or b"-" not in self.value(name, 0).encode()[1:]:
            return self.integers(name)
        offsets, texts = join_fields(*self._field(name))
        return iso_times(pa.StringArray.from_buffers(len(self), pa.py_buffer(offsets), pa.py_buffer(texts)))

    def equals(self, name: str, text: str) -> NDArray[np.bool_]:
        return match_fields(*self._field(name), np.frombuffer(text.encode(), np.uint8))

    def letters(self, name: str) -> NDArray[np.uint8]:
        return letter_fields(*self._field(name))

    def value(self, name: str, row: int) -> str:
        text, starts, ends = self._field(name)
        return text[starts[row] : ends[row]].tobytes().decode(errors="replace")

    def hashes(self, name: str) -> NDArray[np.int64]:
        return hash_fields(*self._field(name))


def scaled(values: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """values x factor, INVALID where that does not fit or the value is."""
    limit = np.iinfo(np.int64).max // factor
    good = (values >= -limit) & (values <= limit)
    return np.where(good, np.where(good, values, 0) * factor, INVALID)


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
        if byte != 44 and byte != 10:
            continue
        end = place
        if end > begin and text[end - 1] == 13:
            end -= 1
        empty = column == 0 and end == begin
        if end - begin >= 2 and text[begin] == 34 and text[end - 1] == 34:
            begin, end = begin + 1, end - 1
        if column < columns:
            starts[line, column], ends[line, column] = begin, end
        column += 1
        begin = place + 1
        if byte == 10:
            found[line] = 0 if empty else column
            line += 1
            column = 0
    return starts, ends, found


@njit(cache=True, nogil=True)
def parse_fields(text, starts, ends, places):  # type: ignore[no-untyped-def]
    """Decimals of the fields in units of 10^-places."""
    out = np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        value = short_decimal(text, starts[row], ends[row], places)
        out[row] = value if value >= 0 else parse_decimal(text, starts[row], ends[row], places)
    return out


@njit(cache=True, nogil=True)
def parse_rows(text, lines, starts, ends, places):  # type: ignore[no-untyped-def]
    """Lines, and the decimals of all fields in units of 10^-places of their column: [n, 1 + columns]."""
    out = np.empty((len(starts), 1 + len(places)), np.int64)
    for row in range(len(starts)):
        out[row, 0] = lines[row]
        for column in range(len(places)):
            begin, end = starts[row, column], ends[row, column]
            value = short_decimal(text, begin, end, places[column])
            out[row, 1 + column] = value if value >= 0 else parse_decimal(text, begin, end, places[column])
    return out


@njit(cache=True, nogil=True)
def match_fields(text, starts, ends, wanted):  # type: ignore[no-untyped-def]
    """Whether each field is `wanted`."""
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
def letter_fields(text, starts, ends):  # type: ignore[no-untyped-def]
    """Each field that is one byte, 0 for others."""
    out = np.zeros(len(starts), np.uint8)
    for row in range(len(starts)):
        if ends[row] - starts[row] == 1:
            out[row] = text[starts[row]]
    return out


@njit(cache=True, nogil=True)
def join_fields(text, starts, ends):  # type: ignore[no-untyped-def]
    """Where each field begins and the last one ends, int32 [n + 1], in the text of all of them together."""
    offsets = np.zeros(len(starts) + 1, np.int32)
    for row in range(len(starts)):
        offsets[row + 1] = offsets[row] + ends[row] - starts[row]
    out = np.empty(offsets[-1], np.uint8)
    for row in range(len(starts)):
        for place in range(ends[row] - starts[row]):
            out[offsets[row] + place] = text[starts[row] + place]
    return offsets, out


@njit(cache=True, nogil=True)
def hash_fields(text, starts, ends):  # type: ignore[no-untyped-def]
    """FNV-1a of each field, without its sign."""
    out = np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        found = np.uint64(14695981039346656037)
        for place in range(starts[row], ends[row]):
            found = (found ^ np.uint64(text[place])) * np.uint64(1099511628211)
        out[row] = np.int64(found >> np.uint64(1))
    return out


class ParquetTable:
    """A `Table` of a Parquet batch whose first row is row `first_line`."""

    def __init__(self, batch: Any, file: int, first_line: int) -> None:
        self.file, self._batch = file, batch
        self.lines = np.arange(first_line, first_line + len(batch), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self._batch.schema.names)

    def has(self, name: str) -> bool:
        return name in self._batch.schema.names

    def _column(self, name: str) -> Any:
        column = self._batch.column(name)
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def _text(self, name: str) -> list[str]:
        return ["" if value is None else str(value) for value in self._column(name).to_pylist()]

    def integers(self, name: str) -> NDArray[np.int64]:
        column = self._column(name)
        if not pa.types.is_integer(column.type):
            return _parse_texts(self._text(name), 0)
        return column.cast(pa.int64(), safe=False).fill_null(INVALID).to_numpy(zero_copy_only=False)

    def decimals(self, name: str) -> NDArray[np.int64]:
        column = self._column(name)
        if not pa.types.is_floating(column.type):
            return _parse_texts(self._text(name), DECIMALS)
        values = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False) * 10**DECIMALS
        # Above 2^53 a float no longer tells two neighbouring decimals apart.
        good = np.abs(values) < 2.0**53
        return np.where(good, np.rint(np.where(good, values, 0.0)), INVALID).astype(np.int64)

    def times(self, name: str) -> NDArray[np.int64]:
        column = self._column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
            return column.fill_null(INVALID).to_numpy(zero_copy_only=False)
        if pa.types.is_integer(column.type):
            return self.integers(name)
        return iso_times(pa.array(self._text(name), pa.string()))

    def equals(self, name: str, text: str) -> NDArray[np.bool_]:
        same = pc.equal(self._column(name).cast(pa.string()), text).fill_null(text == "")
        return same.to_numpy(zero_copy_only=False)

    def letters(self, name: str) -> NDArray[np.uint8]:
        found = self._column(name).cast(pa.string()).fill_null("").dictionary_encode()
        texts = [text.encode() for text in found.dictionary.to_pylist()]
        known = [text[0] if len(text) == 1 else 0 for text in texts]
        return np.array(known, np.uint8)[found.indices.to_numpy()]

    def value(self, name: str, row: int) -> str:
        return str(self._column(name)[row].as_py())

    def hashes(self, name: str) -> NDArray[np.int64]:
        return _text_table(self._text(name)).hashes("x")


def _text_table(texts: Sequence[str]) -> TextTable:
    lines = "".join(f'"{text}"\n' for text in texts).encode()
    return TextTable(np.frombuffer(lines, np.uint8), ["x"], 0, 1)


def _parse_texts(texts: Sequence[str], places: int) -> NDArray[np.int64]:
    return _text_table(texts).decimals("x", places)


# Files of columns one after another.


class Series:
    """Tables of consecutive files, text or Parquet, whose first line (of text) names the columns.

    Args:
        paths: in time order.
        file: number of the first file in its reader's `names`.
        required: columns every file must have.
    """

    def __init__(self, paths: Sequence[Path], file: int, required: Sequence[str]) -> None:
        self.required = tuple(required)
        self._names: list[str] = []
        self.new_file = False
        """Whether the table just pulled begins a file."""
        self._source: Lines | _ParquetFiles = (
            _ParquetFiles(paths, file) if is_parquet(paths[0]) else Lines(paths, file)
        )

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._source.size

    @property
    def done(self) -> int:
        """Bytes read."""
        return self._source.done

    def pull(self, report: Report) -> TextTable | ParquetTable | None:
        """The next table, None after the last. Reports what is no row.

        Raises:
            CaptureError: a file lacks a required column.
        """
        self.new_file = False
        if isinstance(self._source, Lines):
            return self._pull_text(self._source, report)
        found = self._source.pull()
        if found is not None:
            self.new_file = found.lines[0] == 1
            self._require(self._source.paths[found.file - self._source.first_file], found.names)
        return found

    def _pull_text(self, source: Lines, report: Report) -> TextTable | None:
        while (block := source.pull(TABLE_BYTES)) is not None:
            path = source.paths[block.file - source.first_file]
            text, line = block.text, block.line
            if source.error:
                last = line + text.count(b"\n")
                report.add(path.name, last, 0, "truncated", source.error)
            if line == 1:
                header, _, text = text.partition(b"\n")
                line = 2
                self._names = [name.strip().strip('"') for name in header.decode(errors="replace").split(",")]
                self._require(path, self._names)
                self.new_file = True
            table = text_table(text, self._names, block.file, line, path.name, report)
            if len(table):
                return table
        return None

    def _require(self, path: Path, names: Sequence[str]) -> None:
        missing = [name for name in self.required if name not in names]
        if missing:
            raise CaptureError(
                f"{path.name}: no column {missing[0]!r}; expected {', '.join(self.required)}, "
                f"found {', '.join(names)[:200]}"
            )


def text_table(
    text: bytes, names: Sequence[str], file: int, line: int, name: str, report: Report
) -> TextTable:
    """Columns of whole lines; what is no row of `names`, half a last line too, is reported and left out."""
    whole = text.rfind(b"\n") + 1
    if text[whole:].strip():
        at = line + text.count(b"\n")
        report.add(name, at, 0, "half-line", "the file ends within this line, which is skipped")
    table = TextTable(np.frombuffer(text, np.uint8)[:whole], names, file, line)
    for at in table.ragged:
        report.add(name, at, 0, "bad-line", f"not {len(names)} values; skipped")
    return table


def is_parquet(path: Path) -> bool:
    """Whether the file says so in its first bytes. Raises `CaptureError` if there is none."""
    return next(read_blocks(path), (b"", 0))[0][:4] == b"PAR1"


class _ParquetFiles:
    """Batches of Parquet files one after another; pickled, it keeps its place."""

    def __init__(self, paths: Sequence[Path], file: int) -> None:
        self.paths, self.first_file = tuple(paths), file
        self.at, self.row, self.done = 0, 0, 0
        self._sizes = [path.stat().st_size for path in self.paths]
        self._open: Iterator[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    @property
    def size(self) -> int:
        return sum(self._sizes)

    def pull(self) -> ParquetTable | None:
        while self.at < len(self.paths):
            path = self.paths[self.at]
            try:
                if self._open is None:
                    self._open = _batches(path, self.row)
                found = next(self._open, None)
            except (OSError, pa.ArrowInvalid) as error:
                raise CaptureError(f"{path}: not a readable Parquet file ({error})") from None
            if found is None:
                self.at, self.row, self._open = self.at + 1, 0, None
                self.done = sum(self._sizes[: self.at])
                continue
            batch, rows = found
            table = ParquetTable(batch, self.first_file + self.at, self.row + 1)
            self.row += len(batch)
            self.done = sum(self._sizes[: self.at]) + self._sizes[self.at] * self.row // max(rows, 1)
            return table
        return None


def _batches(path: Path, skip: int) -> Iterator[tuple[Any, int]]:
    """Batches after the first `skip` rows, and how many rows the file has."""
    with pq.ParquetFile(path) as parquet:
        groups = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        first = 0
        while first < len(groups) and skip >= groups[first]:
            skip -= groups[first]
            first += 1
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=range(first, len(groups))):
            if len(batch) > skip:
                yield batch.slice(skip), sum(groups)
            skip = max(skip - len(batch), 0)
