"""Databento's mbo records as `ORDER` rows, whatever kind of file they come in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.columns import Series, ours, scaled, symbols_in
from mmenv.data.decimals import INVALID, ONE, Places
from mmenv.data.formats.base import ALL, ImportOptions
from mmenv.data.formats.databento_book import CLEAR, NUMBERS, ORDER
from mmenv.data.formats.dbn import Header, read_header, read_records
from mmenv.data.lines import FilesInTurn, begins_with
from mmenv.data.problems import Report
from mmenv.data.rows import BUY, SELL, CaptureError, SeveralSymbols, taken

COLUMNS: Final = (
    "ts_recv",
    "ts_event",
    "instrument_id",
    "action",
    "side",
    "price",
    "size",
    "order_id",
    "flags",
)
PLACES: Final = Places(price=9)
"""Their prices are whole units of 1e-9."""
PUBLISHERS: Final = {
    1: "glbx.mdp3", 2: "xnas.itch", 3: "xbos.itch", 4: "xpsx.itch", 5: "bats.pitch", 6: "baty.pitch",
    7: "edga.pitch", 8: "edgx.pitch", 9: "xnys.pillar", 10: "xcis.pillar", 11: "xase.pillar",
    12: "xchi.pillar", 15: "memx.memoir", 16: "eprl.dom", 38: "iexg.tops", 43: "arcx.pillar",
    57: "ifeu.impact", 58: "ndex.impact",
}  # fmt: skip
"""Datasets of those publishers that have orders, by the number that records give."""
NO_PRICE: Final = 1 << 62
"""From here on a price is none, as is that of a record without one, the largest number of 64 bits."""

_SIDES: Final = np.zeros(256, np.int8)
"""Side of a row by letter, 0 for none."""
_SIDES[ord("B")], _SIDES[ord("A")] = BUY, SELL


def is_dbn(path: Path) -> bool:
    """Whether the file says so in its first bytes. Raises `CaptureError` if there is none."""
    return begins_with(path, b"DBN")


def identify(path: Path, options: ImportOptions) -> tuple[str, list[str], int]:
    """Venue, symbols and first time of a file."""
    chosen = options.one_symbol
    if is_dbn(path):
        header = read_header(path)
        try:
            records = next(iter(read_records(path, header)), None)
        except EOFError as error:
            raise CaptureError(f"{path.name}: cannot be read: it ends early ({error})") from None
        if records is None or not len(records[0]):
            raise CaptureError(f"{path.name}: no mbo records")
        first = records[0][0]
        number = int(first["instrument_id"])
        symbols = [chosen or header.symbols.get(number, str(number))]
        if options.symbol == ALL:
            numbers = set[int]()
            with suppress(EOFError):  # what a damaged file still has is imported
                for part, *_ in read_records(path, header):
                    numbers.update(np.unique(part["instrument_id"]).tolist())
            symbols = sorted({header.symbols.get(one, str(one)) for one in numbers})
        return options.venue or header.dataset.lower(), symbols, int(first["ts_recv"])
    table = Series([path], 0, COLUMNS).pull(Report())
    if table is None:
        raise CaptureError(f"{path.name}: no rows")
    name = "symbol" if table.has("symbol") else "instrument_id"
    publisher = int(table.integers("publisher_id")[0]) if table.has("publisher_id") else 0
    venue = PUBLISHERS.get(publisher, f"databento-{publisher}" if publisher > 0 else "databento")
    symbols = symbols_in(path, name) if options.symbol == ALL else [chosen or table.value(name, 0)]
    return options.venue or venue, symbols, int(table.times("ts_recv")[0])


class DbnFiles(FilesInTurn):
    """Orders of one symbol, or number of an instrument, from DBN files.

    Other symbols are refused, or left out where `choose`.
    """

    def __init__(self, paths: Sequence[Path], symbol: str, choose: bool) -> None:
        super().__init__(paths)
        self.symbol, self.choose = symbol, choose
        self._skip, self._line = 0, 1
        self._header: Header | None = None
        self._open: Iterator[tuple[NDArray[np.void], int, int]] | None = None

    def _restart(self) -> None:
        self._skip, self._line = 0, 1

    def orders(self, report: Report) -> tuple[NDArray[np.void], bool] | None:
        """The next `ORDER` rows and whether they begin a file; None after the last."""
        while self.at < len(self.paths):
            if self._open is None:
                self._header = read_header(self.path)
                self._open = read_records(self.path, self._header, self._skip)
            try:
                found = next(self._open, None)
            except EOFError as error:
                told = f"the file ends early ({error}); the rest is kept"
                report.add(self.path.name, self._line, 0, "truncated", told)
                found = None
            if found is None:
                self._go_on()
                continue
            records, self._skip, position = found
            self._count(position)
            begins = self._line == 1
            rows = self._rows(records)
            self._line += len(records)
            if len(rows):
                return rows, begins
        return None

    def _rows(self, records: NDArray[np.void]) -> NDArray[np.void]:
        assert self._header is not None
        symbols = self._header.symbols
        wanted = [number for number, symbol in symbols.items() if symbol == self.symbol]
        if self.symbol.isdigit():
            wanted.append(int(self.symbol))
        ids = records["instrument_id"]
        same = ids == wanted[0] if len(wanted) == 1 else np.isin(ids, wanted)
        if not self.choose and not same.all():
            number = int(records["instrument_id"][np.argmin(same)])
            raise SeveralSymbols(self.path.name, symbols.get(number, str(number)), self.symbol)
        _one_publisher(records["publisher_id"], self.path.name)
        rows = _orders(records, self.at, self._line)
        return rows if same.all() else taken(rows, same)


class TableFiles(Series):
    """The same from CSV and Parquet exports, whose prices are whole units of 1e-9, or decimals ("pretty")."""

    def __init__(self, paths: Sequence[Path], symbol: str, choose: bool) -> None:
        super().__init__(paths, 0, COLUMNS)
        self.symbol, self.choose = symbol, choose
        self._pretty: dict[int, bool] = {}

    def orders(self, report: Report) -> tuple[NDArray[np.void], bool] | None:
        """The next `ORDER` rows and whether they begin a file; None after the last."""
        table = self.pull(report)
        if table is None:
            return None
        rows = np.zeros(len(table), ORDER)
        rows["file"], rows["line"] = table.file, table.lines
        rows["exch_ns"], rows["local_ns"] = table.times("ts_event"), table.times("ts_recv")
        rows["order"], rows["flags"] = table.integers("order_id") & NUMBERS, table.integers("flags")
        rows["action"], rows["side"] = table.letters("action"), _SIDES[table.letters("side")]
        if table.file not in self._pretty:
            priced = np.flatnonzero(rows["action"] != CLEAR)
            self._pretty[table.file] = any("." in table.value("price", int(row)) for row in priced[:100])
        decimals = self._pretty[table.file]
        units = table.decimals("price", PLACES.price) if decimals else table.integers("price")
        rows["price"] = _price(units)
        rows["size"] = scaled(table.integers("size"), ONE)
        if table.has("publisher_id"):
            _one_publisher(table.integers("publisher_id"), report.name(table.file))
        by_name = table.has("symbol") and not self.symbol.isdigit()
        name = "symbol" if by_name else "instrument_id"
        same = ours(table, name, self.symbol, self.choose, report)
        return rows if same.all() else taken(rows, same), self.new_file


def _price(units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Prices, INVALID where there is none."""
    return np.where(units >= NO_PRICE, INVALID, units)


@njit(cache=True, nogil=True)
def _orders(records, file, line):
    """`MBO` records [n] as `ORDER` rows [n] of this file from this line on."""
    rows = np.empty(len(records), ORDER)
    for number in range(len(records)):
        record, row = records[number], rows[number]
        row.file, row.line = file, line + number
        row.exch_ns, row.local_ns = np.int64(record.ts_event), np.int64(record.ts_recv)
        row.order = np.int64(record.order_id) & NUMBERS
        row.flags, row.action, row.side = record.flags, record.action, _SIDES[record.side]
        row.price = INVALID if record.price >= NO_PRICE else record.price
        row.size = np.int64(record.size) * ONE
    return rows


def _one_publisher(publishers: NDArray[Any], name: str) -> None:
    """Refuse orders of several venues."""
    if len(publishers) and (publishers != publishers[0]).any():
        other = publishers[np.argmax(publishers != publishers[0])]
        raise CaptureError(
            f"{name}: orders of several venues, publishers {publishers[0]} and {other}; "
            "ask Databento for one venue's dataset"
        )
