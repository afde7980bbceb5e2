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
from numpy.typing import NDArray

from mmenv.data.columns import Series, Table, has_columns, scaled, symbols_in
from mmenv.data.decimals import Places
from mmenv.data.formats.base import ALL, ImportOptions, register
from mmenv.data.formats.levels import Decoded, Files, LevelImporter
from mmenv.data.problems import Report
from mmenv.data.rows import BUY, DEPTH, RAW, SELL, SNAPSHOT, TRADE, CaptureError
from mmenv.data.source import source_of
from mmenv.times import MICROSECOND

BOOK: Final = ("exchange", "symbol", "timestamp", "local_timestamp", "is_snapshot", "side", "price", "amount")
TRADES: Final = ("exchange", "symbol", "timestamp", "local_timestamp", "id", "side", "price", "amount")


@register
class Tardis(LevelImporter):
    """Tardis.dev's files of book and trades."""

    name = "tardis"
    description = "Tardis.dev CSV files, `incremental_book_L2` and `trades`"
    notes = "give both; merged by `local_timestamp`; a snapshot within a file is reported as a `reconnect`"

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return has_columns(head, BOOK) or has_columns(head, TRADES)

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Tardis]:
        found: dict[tuple[str, str], list[tuple[int, Path, dict[str, str]]]] = {}
        for path in paths:
            first = _first_row(path)
            every = options.symbol == ALL
            symbols = symbols_in(path, "symbol") if every else [options.symbol or first["symbol"]]
            for symbol in symbols:
                key = options.venue or first["exchange"], symbol
                found.setdefault(key, []).append((_time(path, first), path, first))
        importers = []
        for (venue, symbol), files in found.items():
            files.sort(key=lambda file: file[0])
            book = [path for _, path, first in files if "is_snapshot" in first]
            trades = [path for _, path, first in files if "id" in first]
            series = [Files(book, BOOK, decode_book, restarts=True)] if book else []
            if trades:
                numbered = all(first["id"].isdigit() for _, _, first in files if "id" in first)
                decode = decode_trades if numbered else decode_named
                # A trade before the change of the book that it caused.
                series.insert(0, Files(trades, TRADES, decode, numbered))
            lacks = ""
            if not book:
                lacks = (
                    f"{trades[0].name}: trades of {symbol} alone; give its incremental_book_L2 files "
                    "with them, or --symbol of one that has them"
                )
            importers.append(cls(source_of(venue, symbol), series, options, lacks))
        return importers


def _time(path: Path, first: dict[str, str]) -> int:
    text = first["local_timestamp"]
    if not text.isdigit():
        raise CaptureError(f"{path.name}: local_timestamp = {text!r:.40} of its first row is no time")
    return int(text)


def _first_row(path: Path) -> dict[str, str]:
    """The first row of a file of book or trades, by column."""
    table = Series([path], 0, ()).pull(Report())
    if table is None:
        raise CaptureError(f"{path.name}: no rows after its first line")
    for columns in (BOOK, TRADES):
        if all(table.has(name) for name in columns):
            return {name: table.value(name, 0) for name in columns}
    raise CaptureError(
        f"{path.name}: no Tardis file of book or trades; its first line would be {','.join(BOOK)} "
        f"or {','.join(TRADES)}"
    )


def decode_book(table: Table, places: Places) -> Decoded:
    """Rows of `incremental_book_L2`."""
    rows = _common(table, places)
    snapshot = table.equals("is_snapshot", "true")
    rows["kind"] = np.where(snapshot, SNAPSHOT, DEPTH)
    rows["side"] = np.where(table.equals("side", "bid"), BUY, np.where(table.equals("side", "ask"), SELL, 0))
    return Decoded(rows, np.where(snapshot, 0, rows["local_ns"]))


def decode_trades(table: Table, places: Places) -> Decoded:
    """Rows of `trades` whose ids are numbers. `side` is that of the aggressor."""
    rows = _trades(table, places)
    rows["id"] = np.maximum(table.integers("id"), -1)
    return Decoded(rows, rows["local_ns"])


def decode_named(table: Table, places: Places) -> Decoded:
    """As `decode_trades`, with ids that are any text."""
    rows = _trades(table, places)
    rows["id"] = table.hashes("id")
    return Decoded(rows, rows["local_ns"])


def _trades(table: Table, places: Places) -> NDArray[np.void]:
    rows = _common(table, places)
    rows["kind"] = TRADE
    rows["side"] = np.where(table.equals("side", "buy"), BUY, np.where(table.equals("side", "sell"), SELL, 0))
    return rows


def _common(table: Table, places: Places) -> NDArray[np.void]:
    rows = np.zeros(len(table), RAW)
    rows["exch_ns"] = scaled(table.integers("timestamp"), MICROSECOND)
    rows["local_ns"] = scaled(table.integers("local_timestamp"), MICROSECOND)
    rows["price"] = table.decimals("price", places.price)
    rows["size"] = table.decimals("amount", places.size)
    return rows
