"""Tardis.dev CSV: `incremental_book_L2` and `trades`, plain or compressed.

https://docs.tardis.dev/downloadable-csv-files/data-types: times in microseconds; `local_timestamp` is the
arrival, and rows that share it are one message; `amount` is the new size of the level, 0 removes it. Where
`is_snapshot` becomes true, the book so far is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mmenv.data.capture import (
    BUY,
    DEPTH,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    CaptureError,
    Options,
    Source,
    register,
)
from mmenv.data.columns import ParquetTable, TextTable, first_lines, scaled
from mmenv.data.levels import Decoded, Files, LevelReader

MICROSECOND: Final = 1_000
BOOK: Final = ("exchange", "symbol", "timestamp", "local_timestamp", "is_snapshot", "side", "price", "amount")
TRADES: Final = ("exchange", "symbol", "timestamp", "local_timestamp", "id", "side", "price", "amount")


@register("tardis", "Tardis.dev CSV files, incremental_book_L2 and trades")
def open_files(paths: Sequence[Path], options: Options) -> list[LevelReader]:
    """One reader for each exchange and symbol."""
    found: dict[tuple[str, str], list[tuple[int, Path, dict[str, str]]]] = {}
    for path in paths:
        first = _first_row(path)
        key = options.venue or first["exchange"], options.symbol or first["symbol"]
        found.setdefault(key, []).append((int(first["local_timestamp"]), path, first))
    readers = []
    for (venue, symbol), files in found.items():
        files.sort(key=lambda file: file[0])
        book = [path for _, path, first in files if "is_snapshot" in first]
        trades = [path for _, path, first in files if "id" in first]
        if not book:
            raise CaptureError(
                f"{trades[0].name}: trades alone; give the incremental_book_L2 files with them"
            )
        series = [Files(book, BOOK, decode_book, restarts=True)]
        if trades:
            numbered = all(first["id"].isdigit() for _, _, first in files if "id" in first)
            # A trade before the change of the book that it caused.
            series.insert(0, Files(trades, TRADES, decode_trades if numbered else decode_named, numbered))
        readers.append(LevelReader(Source(venue, symbol), series, options.symbol is not None))
    return readers


def _first_row(path: Path) -> dict[str, str]:
    lines = [*first_lines(path, 2), "", ""][:2]
    header, row = ([value.strip() for value in line.split(",")] for line in lines)
    if not any(set(columns) <= set(header) for columns in (BOOK, TRADES)):
        raise CaptureError(
            f"{path.name}: no Tardis file of book or trades; its first line would be {','.join(BOOK)} "
            f"or {','.join(TRADES)}"
        )
    first = dict(zip(header, row, strict=False))
    if not first.get("local_timestamp", "").isdigit():
        raise CaptureError(f"{path.name}: no rows after its first line")
    return first


def decode_book(table: TextTable | ParquetTable) -> Decoded:
    """Rows of `incremental_book_L2`."""
    rows = _common(table)
    snapshot = table.equals("is_snapshot", "true")
    rows["kind"] = np.where(snapshot, SNAPSHOT, DEPTH)
    rows["side"] = np.where(table.equals("side", "bid"), BUY, np.where(table.equals("side", "ask"), SELL, 0))
    return Decoded(rows, np.where(snapshot, 0, rows["local_ns"]))


def decode_trades(table: TextTable | ParquetTable) -> Decoded:
    """Rows of `trades` whose ids are numbers. `side` is that of the aggressor."""
    rows = _trades(table)
    rows["id"] = np.maximum(table.integers("id"), -1)
    return Decoded(rows, rows["local_ns"])


def decode_named(table: TextTable | ParquetTable) -> Decoded:
    """As `decode_trades`, with ids that are any text."""
    rows = _trades(table)
    rows["id"] = table.hashes("id")
    return Decoded(rows, rows["local_ns"])


def _trades(table: TextTable | ParquetTable) -> np.ndarray:
    rows = _common(table)
    rows["kind"] = TRADE
    rows["side"] = np.where(table.equals("side", "buy"), BUY, np.where(table.equals("side", "sell"), SELL, 0))
    return rows


def _common(table: TextTable | ParquetTable) -> np.ndarray:
    rows = np.zeros(len(table), RAW)
    rows["exch_ns"] = scaled(table.integers("timestamp"), MICROSECOND)
    rows["local_ns"] = scaled(table.integers("local_timestamp"), MICROSECOND)
    rows["price"], rows["size"] = table.decimals("price"), table.decimals("amount")
    return rows
