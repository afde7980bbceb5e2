"""Our own columns, CSV or Parquet, for whatever has no importer: docs/data.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.columns import Series, Table, has_columns, symbols_in
from mmenv.data.decimals import INVALID, Places
from mmenv.data.formats.base import ALL, ImportOptions, register
from mmenv.data.formats.levels import Decoded, Files, LevelImporter
from mmenv.data.problems import Report
from mmenv.data.rows import BUY, DEPTH, RAW, SELL, SNAPSHOT, TRADE, UNKNOWN_NS, CaptureError
from mmenv.data.source import source_of

SOONEST_NS: Final = 10**17
"""March 1973: today's microseconds, taken for nanoseconds, are of January 1970."""

REQUIRED: Final = ("local_ns", "kind", "side", "price", "size")


@register
class Plain(LevelImporter):
    """Files of our own columns; those that overlap in time are merged by arrival."""

    name = "plain"
    description = "the columns of docs/data.md, CSV or Parquet"
    notes = "for everything else"

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return has_columns(head, REQUIRED)

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Plain]:
        found: dict[tuple[str, str], list[tuple[int, str, Path]]] = {}
        for path in paths:
            first_ns, kind, venue, symbols = _first_row(path, options)
            for symbol in symbols:
                found.setdefault((venue, symbol), []).append((first_ns, kind, path))
        importers = []
        for (venue, symbol), files in found.items():
            files.sort()
            series = [
                Files(chosen, REQUIRED, decode)
                for wanted in ("trades", "book")
                if (chosen := [path for _, kind, path in files if kind == wanted])
            ]
            importers.append(cls(source_of(venue, symbol), series, options))
        return importers


def _first_row(path: Path, options: ImportOptions) -> tuple[int, str, str, list[str]]:
    """First time, kind ("trades" or "book"), venue and symbols of a file."""
    table = Series([path], 0, REQUIRED).pull(Report())
    if table is None:
        raise CaptureError(f"{path.name}: no rows")
    given = {"venue": options.venue, "symbol": options.one_symbol}
    source = [told or (table.value(name, 0) if table.has(name) else "") for name, told in given.items()]
    missing = [name for name, told in zip(given, source, strict=True) if not told]
    if missing:
        columns, told = " or ".join(map(repr, missing)), " and ".join(f"--{name}" for name in missing)
        raise CaptureError(f"{path.name}: no column {columns}; add it or give {told}")
    kind = "trades" if table.value("kind", 0) == "trade" else "book"
    symbols = symbols_in(path, "symbol") if options.symbol == ALL and table.has("symbol") else source[1:]
    first = int(table.times("local_ns")[0])
    if 0 < first < SOONEST_NS:
        day = np.datetime64(first, "ns").astype("datetime64[D]")
        raise CaptureError(
            f"{path.name}: local_ns = {first} is of {day}; give nanoseconds since 1970 (milliseconds x "
            "1,000,000) or ISO 8601 text"
        )
    return first, kind, source[0], symbols


def decode(table: Table, places: Places) -> Decoded:
    """Rows of our own columns."""
    rows = np.zeros(len(table), RAW)
    rows["local_ns"] = table.times("local_ns")
    rows["exch_ns"] = _optional(table, "exch_ns", UNKNOWN_NS)
    rows["price"] = table.decimals("price", places.price)
    rows["size"] = table.decimals("size", places.size)
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


def _optional(table: Table, name: str, missing: int) -> NDArray[np.int64]:
    """Integers of a column that may be absent, or empty in some rows."""
    if not table.has(name):
        return np.full(len(table), missing, np.int64)
    read = table.times if name.endswith("_ns") else table.integers
    return np.where(table.equals(name, ""), missing, read(name))
