"""Our own columns, CSV or Parquet, for whatever has no importer: docs/data.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mmenv.data.capture import (
    BUY,
    DEPTH,
    INVALID,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
    Options,
    Report,
    Source,
    register,
)
from mmenv.data.columns import ParquetTable, Series, TextTable
from mmenv.data.levels import Decoded, Files, LevelReader

REQUIRED: Final = ("local_ns", "kind", "side", "price", "size")
OPTIONAL: Final = ("exch_ns", "id", "previous_id", "symbol", "venue")


@register("plain", "the columns of docs/data.md, CSV or Parquet")
def open_files(paths: Sequence[Path], options: Options) -> list[LevelReader]:
    """One reader for each venue and symbol. Files that overlap in time are merged by arrival."""
    found: dict[tuple[str, str], list[tuple[int, str, Path]]] = {}
    for path in paths:
        table = Series([path], 0, REQUIRED).pull(Report())
        if table is None:
            raise CaptureError(f"{path.name}: no rows")
        key = tuple(
            given or (table.value(name, 0) if table.has(name) else "")
            for name, given in (("venue", options.venue), ("symbol", options.symbol))
        )
        for name, value in zip(("venue", "symbol"), key, strict=True):
            if not value:
                raise CaptureError(f"{path.name}: no column {name!r}; add it or give --{name}")
        kind = "trades" if table.value("kind", 0) == "trade" else "book"
        found.setdefault((key[0], key[1]), []).append((int(table.times("local_ns")[0]), kind, path))
    readers = []
    for (venue, symbol), files in found.items():
        files.sort()
        series = [
            Files(chosen, REQUIRED, decode)
            for wanted in ("trades", "book")
            if (chosen := [path for _, kind, path in files if kind == wanted])
        ]
        readers.append(LevelReader(Source(venue, symbol), series, options.symbol is not None))
    return readers


def decode(table: TextTable | ParquetTable) -> Decoded:
    """Rows of our own columns."""
    rows = np.zeros(len(table), RAW)
    rows["local_ns"] = table.times("local_ns")
    rows["exch_ns"] = _optional(table, "exch_ns", UNKNOWN_NS)
    rows["price"], rows["size"] = table.decimals("price"), table.decimals("size")
    for code, name in ((DEPTH, "depth"), (SNAPSHOT, "snapshot"), (TRADE, "trade")):
        rows["kind"][table.equals("kind", name)] = code
    book = rows["kind"] != TRADE
    for code, level, aggressor in ((BUY, "bid", "buy"), (SELL, "ask", "sell")):
        chosen = np.where(book, table.equals("side", level), table.equals("side", aggressor))
        rows["side"][chosen] = code
    number = _optional(table, "id", INVALID)
    rows["id"] = np.maximum(number, -1)
    message = rows["local_ns"] ^ (number << 1)
    return Decoded(rows, message, number, _optional(table, "previous_id", INVALID))


def _optional(table: TextTable | ParquetTable, name: str, missing: int) -> np.ndarray:
    """Integers of a column that may be absent, or empty in some rows."""
    if not table.has(name):
        return np.full(len(table), missing, np.int64)
    read = table.times if name.endswith("_ns") else table.integers
    return np.where(table.equals(name, ""), missing, read(name))
