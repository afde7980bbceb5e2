"""Batches of Parquet files as numpy columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmenv.data.decimals import DECIMALS, INVALID, TOO_FINE
from mmenv.data.lines import FilesInTurn
from mmenv.data.rows import CaptureError
from mmenv.data.text import TextTable, iso_times

BATCH_ROWS: Final = 1 << 16
EXACT: Final = 2.0**53
"""Above this a float no longer tells two neighbouring whole numbers apart."""


class ParquetTable:
    """A `mmenv.data.columns.Table` of a Parquet batch whose first row is row `first_line`."""

    def __init__(self, batch: Any, file: int, first_line: int) -> None:
        self.file, self._batch = file, batch
        self.lines: NDArray[np.int64] = np.arange(first_line, first_line + len(batch), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self._batch.schema.names)

    def has(self, name: str) -> bool:
        return name in self._batch.schema.names

    def column(self, name: str) -> Any:
        """An Arrow array."""
        column = self._batch.column(name)
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def _text(self, name: str) -> TextTable:
        """The column as the one column "x" of a text."""
        texts = ("" if value is None else str(value) for value in self.column(name).to_pylist())
        lines = "".join(f'"{text}"\n' for text in texts).encode()
        return TextTable(np.frombuffer(lines, np.uint8), ["x"], 0, 1)

    def integers(self, name: str) -> NDArray[np.int64]:
        column = self.column(name)
        if not pa.types.is_integer(column.type):
            return self._text(name).integers("x")
        return column.cast(pa.int64(), safe=False).fill_null(INVALID).to_numpy(zero_copy_only=False)

    def decimals(self, name: str, places: int = DECIMALS) -> NDArray[np.int64]:
        column = self.column(name)
        if not pa.types.is_floating(column.type):
            return self._text(name).decimals("x", places)
        numbers = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):  # what does not fit is INVALID
            values = numbers * 10.0**places
        good = np.abs(values) < EXACT
        units = np.rint(np.where(good, values, 0.0))
        # What is left beside whole units is no rounding of floats.
        fine = good & (np.abs(np.where(good, values, 0.0) - units) > np.maximum(np.abs(units) * 1e-14, 1e-6))
        return np.where(fine, TOO_FINE, np.where(good, units.astype(np.int64), INVALID))

    def times(self, name: str) -> NDArray[np.int64]:
        column = self.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
            return column.fill_null(INVALID).to_numpy(zero_copy_only=False)
        if pa.types.is_integer(column.type):
            return self.integers(name)
        texts = ["" if value is None else str(value) for value in column.to_pylist()]
        return iso_times(pa.array(texts, pa.string()))

    def equals(self, name: str, text: str) -> NDArray[np.bool_]:
        same = pc.equal(self.column(name).cast(pa.string()), text).fill_null(text == "")
        return same.to_numpy(zero_copy_only=False)

    def letters(self, name: str) -> NDArray[np.uint8]:
        found = self.column(name).cast(pa.string()).fill_null("").dictionary_encode()
        texts = [text.encode() for text in found.dictionary.to_pylist()]
        known = [text[0] if len(text) == 1 else 0 for text in texts]
        return np.array(known, np.uint8)[found.indices.to_numpy()]

    def value(self, name: str, row: int) -> str:
        return str(self.column(name)[row].as_py())

    def hashes(self, name: str) -> NDArray[np.int64]:
        return self._text(name).hashes("x")


class ParquetFiles(FilesInTurn):
    """Batches of Parquet files one after another."""

    def __init__(self, paths: Sequence[Path], file: int) -> None:
        super().__init__(paths, file)
        self.row = 0

    def _restart(self) -> None:
        self.row = 0

    def pull(self) -> ParquetTable | None:
        """The next batch; None after the last file. Raises `CaptureError` if a file cannot be read."""
        while self.at < len(self.paths):
            try:
                if self._open is None:
                    self._open = _batches(self.path, self.row)
                found = next(self._open, None)
            except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
                raise CaptureError(f"{self.path}: not a readable Parquet file ({error})") from None
            if found is None:
                self._go_on()
                continue
            batch, rows = found
            table = ParquetTable(batch, self.first_file + self.at, self.row + 1)
            self.row += len(batch)
            self._count(self._sizes[self.at] * self.row // max(rows, 1))
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
            batch.validate(full=True)  # of damaged text, which Python could not show
            if len(batch) > skip:
                yield batch.slice(skip), sum(groups)
            skip = max(skip - len(batch), 0)
