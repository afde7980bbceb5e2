"""Files of columns, text or Parquet, as tables of numpy columns.

A pickled copy of `Series` keeps its place: it continues with the next row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mmenv.data.decimals import DECIMALS, INVALID
from mmenv.data.lines import Lines, begins_with
from mmenv.data.parquet import ParquetFiles
from mmenv.data.problems import Report
from mmenv.data.rows import CaptureError, SeveralSymbols
from mmenv.data.text import TextTable, text_table

TABLE_BYTES: Final = 1 << 20
"""Text turned into columns at a time."""


class Table(Protocol):
    """Some rows of a file. Column names are the file's; each method returns an array [n]."""

    file: int
    lines: NDArray[np.int64]
    """Line (of text) or row (of Parquet) of each row, from 1."""

    def __len__(self) -> int: ...

    def has(self, name: str) -> bool:
        """Whether there is such a column."""

    def integers(self, name: str) -> NDArray[np.int64]:
        """Whole numbers, INVALID where the column is none."""

    def decimals(self, name: str, places: int = DECIMALS) -> NDArray[np.int64]:
        """In units of 10^-places; INVALID where the column is no decimal, TOO_FINE where it has more."""

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


def scaled(values: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """values x factor, INVALID where that does not fit or the value is."""
    limit = np.iinfo(np.int64).max // factor
    good = (values >= -limit) & (values <= limit)
    return np.where(good, np.where(good, values, 0) * factor, INVALID)


def ours(table: Table, name: str, wanted: str, choose: bool, report: Report) -> NDArray[np.bool_]:
    """Rows [n] whose column `name` is the `wanted` symbol.

    Raises `CaptureError` where there are others, unless these are to be left out (`choose`).
    """
    same = table.equals(name, wanted)
    if not choose and not same.all():
        row = int(np.argmin(same))
        place = f"{report.name(table.file)}:{table.lines[row]}"
        raise SeveralSymbols(place, repr(table.value(name, row)), repr(wanted))
    return same


def has_columns(head: bytes, names: Sequence[str]) -> bool:
    """Whether the first line of a file names these columns."""
    first = head.partition(b"\n")[0].decode(errors="replace")
    return set(names) <= {name.strip().strip('"') for name in first.split(",")}


def symbols_in(path: Path, name: str) -> list[str]:
    """The values of a column, in the order of their first rows; the whole file is read."""
    series, report = Series([path], 0, (name,)), Report()
    found: dict[int, str] = {}
    while (table := series.pull(report)) is not None:
        hashes, rows = np.unique(table.hashes(name), return_index=True)
        for place in np.argsort(rows):
            if int(hashes[place]) not in found:
                found[int(hashes[place])] = table.value(name, int(rows[place]))
    return list(found.values())


class Series:
    """Tables of consecutive files, text or Parquet, whose first line (of text) names the columns.

    `file` is the number of the first file in its importer's `names`; every file must have the columns in
    `required`. Files whose first line begins with a digit have the given `columns`.
    """

    def __init__(
        self, paths: Sequence[Path], file: int, required: Sequence[str], columns: Sequence[str] = ()
    ) -> None:
        self.required, self._columns = tuple(required), list(columns)
        self._names: list[str] = []
        self._header = b"\n"
        self.new_file = False
        """Whether the table just pulled begins a file."""
        parquet = begins_with(paths[0], b"PAR1")
        self._source: Lines | ParquetFiles = ParquetFiles(paths, file) if parquet else Lines(paths, file)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._source.size

    @property
    def done(self) -> int:
        """Bytes read."""
        return self._source.done

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": copy.copy(self._source)}

    @property
    def files(self) -> Lines | ParquetFiles:
        """The files, and how far they have been read."""
        return self._source

    def only(self, at: int) -> Series:
        """A copy that reads the file of this number alone, from its beginning or from where this one is."""
        one = copy.copy(self)
        one._source = self._source.only(at)
        return one

    def pull(self, report: Report) -> Table | None:
        """The next table, None after the last; what is no row is reported.

        Raises `CaptureError` for a file that lacks a required column.
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
                header, _, rest = text.partition(b"\n")
                self._names = [name.strip().strip('"') for name in header.decode(errors="replace").split(",")]
                if self._columns and header[:1].isdigit():
                    self._header, self._names = b"\n\n", self._columns[: len(self._names)]
                else:
                    self._header, text, line = header + b"\n", rest, 2
                self._require(path, self._names)
                self.new_file = True
            if self._header in text:
                # Files put one after another: an empty line keeps the numbers of those that follow.
                report.note("line that names the columns again, left out", text.count(self._header))
                text = text.replace(self._header, b"\n")
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
