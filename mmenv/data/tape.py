"""The store of recorded markets: tapes, one for each venue, symbol and day.

A store is a folder of Parquet files, `venue=V/symbol=S/day=D/tape.parquet`: one row per book level or
trade in arrival order, prices in ticks, sizes in lots, times in nanoseconds, and a `TapeInfo` as JSON in
the Parquet metadata. What a replay reads of it is made by `mmenv.data.events`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmenv.data.rows import ADD, ROW

SCHEMA_VERSION: Final = 1
METADATA_KEY: Final = b"neuralmm"
BATCH_ROWS: Final = 1 << 19

_SCHEMA: Final = pa.schema([(name, pa.from_numpy_dtype(ROW[name])) for name in ROW.names or ()])


class TapeError(ValueError):
    """A store or tape that cannot be used as asked."""


@dataclass(frozen=True)
class TapeInfo:
    """What is known about a tape; stored inside its Parquet file.

    Sizes are decimal text, so that they are exact. `low_tick` and `high_tick` bound the best prices,
    `disorder_ns` how far exchange times run backwards in arrival order, and `latency_ns` the largest feed
    delay after clock correction. `book_complete` is false if the book was built without a snapshot or
    holds an unrepaired gap.
    """

    venue: str
    symbol: str
    day: str
    tick_size: str
    lot_size: str
    maker_fee_bp: float
    taker_fee_bp: float
    clock_offset_ns: int
    source: str
    first_ns: int
    last_ns: int
    low_tick: int
    high_tick: int
    disorder_ns: int
    latency_ns: int
    book_complete: bool = True
    contract: str = "linear"
    contract_size: str = "1"
    rows: int = 0
    trades: int = -1
    """-1: not counted, in tapes of earlier versions."""
    orders: int = 0
    """Of the rows, those of single orders."""
    schema_version: int = SCHEMA_VERSION


class TapeWriter:
    """Writes one tape to `path`; it is one once `close` was given its description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._parquet = pq.ParquetWriter(
            path,
            _SCHEMA,
            compression="zstd",
            use_dictionary=["kind", "side"],
            column_encoding=dict.fromkeys(
                ("exch_ns", "local_ns", "price", "size", "id"), "DELTA_BINARY_PACKED"
            ),
        )
        self.rows = 0

    def write(self, rows: NDArray[np.void]) -> None:
        """Append `ROW` rows [n]."""
        columns = [pa.array(np.ascontiguousarray(rows[name])) for name in ROW.names or ()]
        self._parquet.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        self.rows += len(rows)

    def close(self, info: TapeInfo | None = None) -> None:
        """Finish the file, a tape if described; harmless when repeated."""
        if info is not None:
            stored = asdict(info) | {"rows": self.rows}
            self._parquet.add_key_value_metadata({METADATA_KEY: json.dumps(stored)})
        self._parquet.close()


def tape_path(store: Path, venue: str, symbol: str, day: str) -> Path:
    """Where the store has the tape."""
    return store / f"venue={venue}" / f"symbol={symbol}" / f"day={day}" / "tape.parquet"


def put_tape(written: Path, path: Path) -> None:
    """Put a finished tape in its place, over an older one of the same venue, symbol and day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, path)


class Tape:
    """One venue, symbol and day of a store. Opening it reads only the metadata.

    Raises `TapeError` where there is no tape, or one that is not ours or of another schema version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            metadata = pq.read_metadata(self.path).metadata or {}
        except FileNotFoundError:
            raise TapeError(f"{self.path}: no tape there; import one with `neuralmm import`") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise TapeError(f"{self.path}: not a readable Parquet file ({error}); import it again") from None
        if METADATA_KEY not in metadata:
            raise TapeError(f"{self.path}: a Parquet file, but not a tape of ours; use `neuralmm import`")
        found = json.loads(metadata[METADATA_KEY])
        if found.get("schema_version") != SCHEMA_VERSION:
            version = found.get("schema_version")
            raise TapeError(
                f"{self.path}: schema version {version}, expected {SCHEMA_VERSION}; import it again"
            )
        self.info = TapeInfo(
            **{item.name: found[item.name] for item in fields(TapeInfo) if item.name in found}
        )

    def __repr__(self) -> str:
        return f"Tape({self.info.venue} {self.info.symbol} {self.info.day}, {self.info.rows} rows)"

    def rows(self, orders: bool = False) -> Iterator[NDArray[np.void]]:
        """Batches of `ROW` rows in arrival order; those of single orders only if asked for."""
        with pq.ParquetFile(self.path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS):
                rows = np.empty(len(batch), ROW)
                for name in ROW.names or ():
                    rows[name] = batch.column(name).to_numpy()
                yield rows if orders or not self.info.orders else rows[rows["kind"] < ADD]


def tapes(store: Path | str, venue: str = "*", symbol: str = "*", day: str = "*") -> list[Tape]:
    """The store's tapes that match, by venue, symbol and day; each argument may be a glob pattern, and the
    day a range such as 2024-08-01..2024-08-07.

    Raises `TapeError` if none does.
    """
    first, dots, last = day.partition("..")
    named = "*" if dots else day
    paths = sorted(Path(store).glob(f"venue={venue}/symbol={symbol}/day={named}/tape.parquet"))
    if dots:
        paths = [path for path in paths if first <= path.parent.name[4:14] <= last]
    if not paths:
        raise TapeError(
            f"{store}: no tape of venue {venue}, symbol {symbol}, day {day}; see `neuralmm import`"
        )
    return [Tape(path) for path in paths]
