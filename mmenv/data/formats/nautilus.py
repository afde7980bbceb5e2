"""NautilusTrader's Parquet catalog: `order_book_deltas` and `trades` (`trade_tick`) of one instrument.

https://nautilustrader.io/docs/latest/concepts/data, and the Arrow schemas of nautilus_serialization: prices
and sizes are whole numbers of eight bytes in units of 1e-9, or of sixteen in units of 1e-16, or decimals; the
instrument, `BTCUSDT-PERP.BINANCE`, stands in the schema's metadata. A delta adds (1), updates (2) or deletes
(3) a level, or clears the book (4); sides are 1 for buyers and 2 for sellers. `ts_init` is the local time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmenv.data.columns import Table, has_columns
from mmenv.data.decimals import INVALID, TOO_FINE, Places
from mmenv.data.formats.base import ALL, ImportOptions, register
from mmenv.data.formats.levels import Decoded, Files, LevelImporter
from mmenv.data.parquet import ParquetTable
from mmenv.data.rows import BUY, DEPTH, RAW, SELL, SNAPSHOT, TRADE, CaptureError, taken
from mmenv.data.source import source_of

DELTAS: Final = ("action", "side", "price", "size", "order_id", "flags", "ts_event", "ts_init")
TRADES: Final = ("price", "size", "aggressor_side", "trade_id", "ts_event", "ts_init")
DELETE, CLEAR = 3, 4
SNAPSHOT_FLAG: Final = 32
FIXED: Final = {8: 9, 16: 16}
"""Decimal places by bytes of a fixed number."""
_SIDES: Final = np.array([0, BUY, SELL], np.int8)


@register
class Nautilus(LevelImporter):
    """Files of one instrument: deltas of levels, and trades."""

    name = "nautilus"
    description = "NautilusTrader's Parquet catalog: order book deltas and trades"
    notes = "books by level (L2) alone; neither quotes, bars nor the instrument's own definition are read"

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return has_columns(head, DELTAS) or has_columns(head, TRADES)

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Nautilus]:
        found: dict[tuple[str, str], dict[bool, list[tuple[int, Path]]]] = {}
        for path in paths:
            symbol, venue, deltas, first_ns = _identify(path)
            if options.symbol in (None, ALL, symbol):
                kinds = found.setdefault((options.venue or venue, symbol), {})
                kinds.setdefault(deltas, []).append((first_ns, path))
        if not found:
            raise CaptureError(f"--symbol = {options.symbol!r} is not possible: no file is of it.")
        importers = []
        for (venue, symbol), kinds in found.items():
            lacks = ""
            if True not in kinds:
                lacks = (
                    f"{kinds[False][0][1].name}: trades alone; give order_book_deltas of {symbol} with them"
                )
            series = [
                Files([path for _, path in sorted(kinds[deltas])], columns, decode, numbered=False)
                for deltas, columns, decode in ((False, TRADES, decode_trades), (True, DELTAS, decode_deltas))
                if deltas in kinds
            ]
            importers.append(cls(source_of(venue, symbol), series, options, lacks))
        return importers


def _identify(path: Path) -> tuple[str, str, bool, int]:
    """Symbol and venue of a file, whether it holds deltas, and its first time."""
    try:
        schema = pq.read_schema(path)
        rows = next(pq.ParquetFile(path).iter_batches(1, columns=["ts_init"]), None)
    except FileNotFoundError:
        raise CaptureError(f"{path}: no such file; check its name") from None
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise CaptureError(f"{path.name}: no Parquet file of NautilusTrader's ({error})") from None
    deltas = set(DELTAS) <= set(schema.names)
    if not deltas and not set(TRADES) <= set(schema.names):
        raise CaptureError(
            f"{path.name}: columns {', '.join(schema.names)[:200]}: neither order_book_deltas nor trades"
        )
    name = (schema.metadata or {}).get(b"instrument_id", b"").decode(errors="replace")
    symbol, _, venue = name.rpartition(".")
    if not symbol or not venue:
        raise CaptureError(f"{path.name}: instrument_id = {name!r} of its metadata is no SYMBOL.VENUE")
    if rows is None or not len(rows):
        raise CaptureError(f"{path.name}: no rows")
    first_ns = int(ParquetTable(rows, 0, 1).times("ts_init")[0])
    return symbol.replace("/", "-"), venue.lower(), deltas, first_ns


def decode_deltas(table: Table, places: Places) -> Decoded:
    """Rows of `order_book_deltas`; what follows a clear in the same event is a snapshot."""
    rows = _common(table, places)
    orders = table.integers("order_id")
    if (orders > 0).any():
        raise CaptureError(
            f"order_id = {orders[np.argmax(orders > 0)]}: deltas of orders (L3); give those of levels (L2)"
        )
    action, event = table.integers("action"), rows["local_ns"]
    cleared = np.isin(event, event[action == CLEAR])
    snapshot = cleared | ((table.integers("flags") & SNAPSHOT_FLAG) > 0)
    rows["kind"] = np.where(snapshot, SNAPSHOT, DEPTH)
    rows["side"] = _sides(table, "side")
    rows["size"] = np.where(action == DELETE, 0, rows["size"])
    kept = action != CLEAR
    rows["line"] = table.lines
    message = np.where(snapshot, 0, event)
    return Decoded(taken(rows, kept), message[kept])


def decode_trades(table: Table, places: Places) -> Decoded:
    """Rows of `trades`."""
    rows = _common(table, places)
    rows["kind"], rows["side"], rows["id"] = TRADE, _sides(table, "aggressor_side"), table.hashes("trade_id")
    return Decoded(rows, rows["local_ns"])


def _sides(table: Table, name: str) -> NDArray[np.int8]:
    values = table.integers(name)
    return _SIDES[np.where((values > 0) & (values < len(_SIDES)), values, 0)]


def _common(table: Table, places: Places) -> NDArray[np.void]:
    rows = np.zeros(len(table), RAW)
    rows["exch_ns"], rows["local_ns"] = table.times("ts_event"), table.times("ts_init")
    rows["price"] = _fixed(table, "price", places.price)
    rows["size"] = _fixed(table, "size", places.size)
    return rows


def _fixed(table: Table, name: str, places: int) -> NDArray[np.int64]:
    """Whole numbers of fixed width in units of 10^-places."""
    assert isinstance(table, ParquetTable)
    column: Any = table.column(name)
    if not pa.types.is_fixed_size_binary(column.type) or column.type.byte_width not in FIXED:
        return table.decimals(name, places)
    width = column.type.byte_width
    raw, which = np.unique(
        np.array([value or b"\0" * width for value in column.to_pylist()], f"V{width}"), return_inverse=True
    )
    # Few of them differ, and those of sixteen bytes fit into no number of numpy's.
    found = [
        _units(int.from_bytes(value.tobytes(), "little", signed=True), FIXED[width], places) for value in raw
    ]
    return np.array(found, np.int64)[which.ravel()]


def _units(value: int, has: int, places: int) -> int:
    """A number of `has` decimal places in units of 10^-places."""
    found, rest = divmod(value * 10**places, 10**has)
    return TOO_FINE if rest else found if abs(found) < 1 << 62 else INVALID
