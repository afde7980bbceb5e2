"""Databento market by order (schema `mbo`): DBN (versions 1 to 3, plain or zstd), CSV and Parquet exports.

https://databento.com/docs/schemas/mbo and .../examples/order-book: A adds an order, C takes size off one, M
changes one (and adds it if it is new), R clears the book; T is a trade with the aggressor's side and F the
resting side of it: neither changes the book, a cancel that follows does. Records up to the one with F_LAST
are one event; the book is looked at only then. Orders are summed to the size of their level.

Records with F_SNAPSHOT carry the time at which their order was entered, so their arrival stands for the
exchange time.
DBN is read here, without Databento's own package: a header and records of a length they begin with.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit, typed, types
from numpy.typing import NDArray

from mmenv.data.capture import (
    BUY,
    CLEAR,
    DECIMALS,
    DEPTH,
    INVALID,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    CaptureError,
    Options,
    Reader,
    Report,
    Source,
    register,
    valid,
)
from mmenv.data.columns import ParquetTable, Series, TextTable, read_blocks, scaled
from mmenv.data.order import Arrival, ExchangeTime

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
MBO: Final = np.dtype(
    [
        ("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"),
        ("ts_event", "<u8"), ("order_id", "<u8"), ("price", "<i8"), ("size", "<u4"), ("flags", "u1"),
        ("channel_id", "u1"), ("action", "u1"), ("side", "u1"), ("ts_recv", "<u8"), ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
    ]
)  # fmt: skip
"""A DBN record of type MBO; a send time may follow it."""
MBO_TYPE: Final = 160
PRICE_UNIT: Final = 10 ** (9 - DECIMALS)
"""Their price units in one of ours."""
NO_PRICE: Final = np.iinfo(np.int64).max
F_LAST: Final = 1 << 7
F_TOB: Final = 1 << 6
F_SNAPSHOT: Final = 1 << 5
F_MBP: Final = 1 << 4
F_MAYBE_BAD_BOOK: Final = 1 << 2
BLOCK_RECORDS: Final = 1 << 14

ORDER: Final = np.dtype(
    [
        ("line", "<i8"), ("exch_ns", "<i8"), ("local_ns", "<i8"), ("order", "<i8"), ("price", "<i8"),
        ("size", "<i8"), ("flags", "<i8"), ("action", "u1"), ("side", "i1"), ("file", "<i2"),
    ]
)  # fmt: skip
"""A record as we use it: price and size in `RAW` units, side as in `RAW` or 0."""

_ADD, _CANCEL, _MODIFY, _CLEAR, _TRADE, _FILL, _NOTHING = (ord(letter) for letter in "ACMRTFN")
_KINDS: Final = np.zeros(256, np.uint8)
"""Kind of a row by action, 0 for none; CLEAR stands for all that neither adds, changes nor trades."""
_KINDS[[_ADD, _MODIFY]], _KINDS[_TRADE], _KINDS[[_CANCEL, _CLEAR, _FILL, _NOTHING]] = DEPTH, TRADE, CLEAR
_SIDES: Final = np.zeros(256, np.int8)
_SIDES[ord("B")], _SIDES[ord("A")] = BUY, SELL
_UNKNOWN, _DUPLICATE, _TOO_MUCH = range(3)
PROBLEMS: Final = {
    _UNKNOWN: ("unknown-order", "a cancel of an order that was never added; ignored"),
    _DUPLICATE: ("duplicate-order", "an order that is in the book already; it replaces the other"),
    _TOO_MUCH: ("bad-value", "a cancel of more than the order has; all of it is removed"),
}


@register("databento", "Databento mbo: DBN (.dbn, .dbn.zst), CSV or Parquet")
def open_files(paths: Sequence[Path], options: Options) -> list[DatabentoReader]:
    """One reader for each dataset and symbol."""
    found: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for path in paths:
        source, first_ns = _identify(path, options)
        found.setdefault(source, []).append((first_ns, path))
    return [
        DatabentoReader(
            Source(venue, symbol), [path for _, path in sorted(files)], options.symbol is not None
        )
        for (venue, symbol), files in found.items()
    ]


def _identify(path: Path, options: Options) -> tuple[tuple[str, str], int]:
    """Venue, symbol and first time of a file."""
    if is_dbn(path):
        header = read_header(path)
        records = next(iter(_records(path, header)), None)
        if records is None or not len(records[0]):
            raise CaptureError(f"{path.name}: no mbo records")
        first = records[0][0]
        symbol = options.symbol or header.symbols.get(
            int(first["instrument_id"]), str(first["instrument_id"])
        )
        return (options.venue or header.dataset.lower(), symbol), int(first["ts_recv"])
    table = Series([path], 0, COLUMNS).pull(Report())
    if table is None:
        raise CaptureError(f"{path.name}: no rows")
    name = "symbol" if table.has("symbol") else "instrument_id"
    venue = table.value("publisher_id", 0) if table.has("publisher_id") else ""
    symbol = options.symbol or table.value(name, 0)
    return (options.venue or f"databento-{venue}".rstrip("-"), symbol), int(table.times("ts_recv")[0])


# Files of records.


class _Header:
    """What a DBN file begins with; `size` bytes long."""

    def __init__(self, text: bytes, name: str) -> None:
        version = text[3]
        if not 1 <= version <= 3:
            raise CaptureError(f"{name}: DBN version {version}; versions 1 to 3 can be read")
        self.size = 8 + struct.unpack_from("<I", text, 4)[0]
        self.dataset = text[8:24].rstrip(b"\0").decode()
        schema, self.ts_out = (
            struct.unpack_from("<H", text, 24)[0],
            bool(text[(58 if version == 1 else 50) + 2]),
        )
        if schema not in (0, 0xFFFF):
            raise CaptureError(f"{name}: its schema is not mbo; ask Databento for schema mbo")
        self._text, self._at = text, 108
        self._width = 22 if version == 1 else struct.unpack_from("<H", text, 53)[0]
        self._at += 4 + self._number()  # a schema definition, so far always empty
        for _ in range(3):  # symbols asked for, found in part, not found
            self._at += 4 + self._number() * self._width
        self.symbols = dict(self._mappings())

    def _number(self) -> int:
        return int(struct.unpack_from("<I", self._text, self._at)[0])

    def _name(self) -> str:
        text = self._text[self._at : self._at + self._width]
        self._at += self._width
        return text.split(b"\0")[0].decode()

    def _mappings(self) -> Iterator[tuple[int, str]]:
        """Instrument ids and the symbols they stand for."""
        count = self._number()
        self._at += 4
        for _ in range(count):
            symbol, intervals = self._name(), self._number()
            self._at += 4
            for _ in range(intervals):
                self._at += 8  # the dates
                number = self._name()
                if number.isdigit():
                    yield int(number), symbol


def is_dbn(path: Path) -> bool:
    """Whether the file says so in its first bytes. Raises `CaptureError` if there is none."""
    return next(read_blocks(path), (b"", 0))[0][:3] == b"DBN"


def read_header(path: Path) -> _Header:
    """The header of a DBN file. Raises `CaptureError` if it is not whole or not ours to read."""
    text = b""
    try:
        for block, _ in read_blocks(path):
            text += block
            if len(text) >= 8 and len(text) >= 8 + struct.unpack_from("<I", text, 4)[0]:
                return _Header(text, path.name)
    except EOFError:
        pass
    raise CaptureError(f"{path.name}: the file ends within its header")


def _records(path: Path, header: _Header, skip: int = 0) -> Iterator[tuple[NDArray[np.void], int, int]]:
    """MBO records after `skip` bytes of records, the bytes they end at, and bytes of the file read.

    Raises:
        EOFError: the file ends early; what came before it has been given.
        CaptureError: these are no records.
    """
    held = b""
    for block, position in read_blocks(path, header.size + skip):
        text = np.frombuffer(held + block, np.uint8)
        places, end = record_places(text)
        if end < 0:
            raise CaptureError(f"{path.name}: a record of length 0; the file is damaged")
        held = text[end:].tobytes()
        skip += end
        yield text[places[:, None] + np.arange(MBO.itemsize)].reshape(-1).view(MBO), skip, position
    if held:
        raise EOFError("within a record")


@njit(cache=True, nogil=True)
def record_places(text: NDArray[np.uint8]) -> tuple[NDArray[np.int64], int]:
    """Where the whole MBO records begin, and where the last whole record of any kind ends (-1: damaged)."""
    places = np.empty(len(text) // 56 + 1, np.int64)
    count, at = 0, 0
    while at < len(text):
        size = 4 * int(text[at])
        if size == 0:
            return places[:0], -1
        if at + size > len(text):
            break
        if text[at + 1] == MBO_TYPE and size >= 56:
            places[count] = at
            count += 1
        at += size
    return places[:count], at


class _DbnFiles:
    """Records of consecutive DBN files; pickled, it keeps its place."""

    def __init__(self, paths: Sequence[Path], symbol: str, choose: bool) -> None:
        self.paths, self.symbol, self.choose = tuple(paths), symbol, choose
        self._sizes = [path.stat().st_size for path in paths]
        self.at, self.done, self._skip, self._line = 0, 0, 0, 1
        self._header: _Header | None = None
        self._open: Iterator[tuple[NDArray[np.void], int, int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    @property
    def size(self) -> int:
        return sum(self._sizes)

    def pull(self, report: Report) -> tuple[NDArray[np.void], bool] | None:
        """The next `ORDER` rows and whether they begin a file; None after the last."""
        while self.at < len(self.paths):
            path = self.paths[self.at]
            if self._open is None:
                self._header = read_header(path)
                self._open = _records(path, self._header, self._skip)
            try:
                found = next(self._open, None)
            except EOFError as error:
                report.add(
                    path.name, self._line, 0, "truncated", f"the file ends early ({error}); the rest is kept"
                )
                found = None
            if found is None:
                self.at, self._skip, self._line, self._open = self.at + 1, 0, 1, None
                self.done = sum(self._sizes[: self.at])
                continue
            records, self._skip, position = found
            self.done = sum(self._sizes[: self.at]) + position
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
        ours = np.isin(records["instrument_id"], wanted)
        if not self.choose and not ours.all():
            number = int(records["instrument_id"][np.argmin(ours)])
            raise CaptureError(
                f"{self.paths[self.at].name}: {symbols.get(number, number)} among {self.symbol}; "
                "choose one with --symbol"
            )
        rows = np.zeros(len(records), ORDER)
        rows["file"], rows["line"] = self.at, self._line + np.arange(len(records))
        for name, source in (("exch_ns", "ts_event"), ("local_ns", "ts_recv"), ("order", "order_id")):
            rows[name] = records[source].astype(np.int64)
        rows["flags"], rows["action"] = records["flags"], records["action"]
        rows["side"] = _SIDES[records["side"]]
        rows["price"] = _price(records["price"])
        rows["size"] = records["size"].astype(np.int64) * 10**DECIMALS
        _one_publisher(records["publisher_id"], self.paths[self.at].name)
        return rows if ours.all() else rows[ours]


def _price(units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Prices in our unit, INVALID where there is none or it is finer."""
    good = (units != NO_PRICE) & (units != INVALID) & (units % PRICE_UNIT == 0)
    return np.where(good, units // PRICE_UNIT, INVALID)


def _one_publisher(publishers: NDArray[Any], name: str) -> None:
    if len(publishers) and (publishers != publishers[0]).any():
        other = publishers[np.argmax(publishers != publishers[0])]
        raise CaptureError(
            f"{name}: orders of several venues, publishers {publishers[0]} and {other}; "
            "ask Databento for one venue's dataset"
        )


class _TableFiles:
    """The same of CSV and Parquet exports; prices are whole units of 1e-9, or decimals ("pretty")."""

    def __init__(self, paths: Sequence[Path], symbol: str, choose: bool) -> None:
        self.symbol, self.choose = symbol, choose
        self.names = [path.name for path in paths]
        self._series = Series(paths, 0, COLUMNS)
        self._pretty: dict[int, bool] = {}

    @property
    def size(self) -> int:
        return self._series.size

    @property
    def done(self) -> int:
        return self._series.done

    def pull(self, report: Report) -> tuple[NDArray[np.void], bool] | None:
        """As `_DbnFiles.pull`."""
        table = self._series.pull(report)
        if table is None:
            return None
        rows = np.zeros(len(table), ORDER)
        rows["file"], rows["line"] = table.file, table.lines
        rows["exch_ns"], rows["local_ns"] = table.times("ts_event"), table.times("ts_recv")
        rows["order"], rows["flags"] = table.integers("order_id"), table.integers("flags")
        rows["action"], rows["side"] = table.letters("action"), _SIDES[table.letters("side")]
        if table.file not in self._pretty:
            priced = np.flatnonzero(rows["action"] != _CLEAR)
            self._pretty[table.file] = any("." in table.value("price", int(row)) for row in priced[:100])
        decimals = self._pretty[table.file]
        rows["price"] = table.decimals("price") if decimals else _price(table.integers("price"))
        rows["size"] = scaled(table.integers("size"), 10**DECIMALS)
        if table.has("publisher_id"):
            _one_publisher(table.integers("publisher_id"), self.names[table.file])
        ours = self._ours(table)
        return rows if ours.all() else rows[ours], self._series.new_file

    def _ours(self, table: TextTable | ParquetTable) -> NDArray[np.bool_]:
        name = "symbol" if table.has("symbol") and not self.symbol.isdigit() else "instrument_id"
        same = table.equals(name, self.symbol)
        if not self.choose and not same.all():
            row = int(np.argmin(same))
            raise CaptureError(
                f"{self.names[table.file]}:{table.lines[row]}: {table.value(name, row)} among {self.symbol}; "
                "choose one with --symbol"
            )
        return same


# From orders to levels.


class DatabentoReader(Reader):
    """Consecutive files of one symbol. Its state are the resting orders and the event that is open."""

    def __init__(self, source: Source, paths: Sequence[Path], choose: bool) -> None:
        self.source = source
        self.names = [path.name for path in paths]
        files = _DbnFiles if is_dbn(paths[0]) else _TableFiles
        self._files: _DbnFiles | _TableFiles = files(paths, source.symbol, choose)
        self.size = self._files.size
        self._arrival, self._times = Arrival(), ExchangeTime()
        self._begun = self._new_file = False
        self._book = empty_book()

    def __getstate__(self) -> dict[str, Any]:
        orders, *levels = self._book
        return self.__dict__ | {"_book": (unload_orders(orders), *(unload(each) for each in levels))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        orders, *levels = state["_book"]
        self.__dict__ = state | {"_book": (load_orders(orders), *(load(each) for each in levels))}

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while (found := self._files.pull(report)) is not None:
            self.done = self._files.done
            records, begins = found
            self._new_file |= begins
            if len(records):
                yield self._rows(records, report)
        if len(self._book[3]):
            report.add(
                self.names[-1], 0, self._arrival.last, "half-event", "the last event has no end; left out"
            )

    def _rows(self, records: NDArray[np.void], report: Report) -> NDArray[np.void]:
        self._refuse_levels(records)
        heads = self._heads(records)
        good = valid(heads, self.names, report)
        if not good.all():
            heads, records = heads[good], records[good]
        if not len(heads):
            return heads
        self._arrival.set(heads, self.names, report, self._new_file)
        self._times.set(heads, heads["kind"] != 0, self.names, report, (records["flags"] & F_SNAPSHOT) > 0)
        self._new_file = False
        if not self._begun and records["action"][0] != _CLEAR:
            report.add_rows(self.names, heads[:1], "missing-snapshot", _no_snapshot)
        self._begun = True
        gaps = (records["flags"] & F_MAYBE_BAD_BOOK) > 0
        report.add_rows(self.names, heads[gaps], "sequence-gap", _gap)
        unsided = (heads["kind"] == TRADE) & (heads["side"] == 0)
        report.note("trade whose aggressor is unknown, left out", int(unsided.sum()))
        rows, wrong = apply(heads, records, *self._book)
        for code, (kind, text) in PROBLEMS.items():
            report.add_rows(self.names, heads[wrong[wrong[:, 1] == code, 0]], kind, _say(text))
        return rows

    def _refuse_levels(self, records: NDArray[np.void]) -> None:
        levels = (records["flags"] & (F_TOB | F_MBP)) > 0
        if levels.any():
            row = records[np.argmax(levels)]
            raise CaptureError(
                f"{self.names[row['file']]}:{row['line']}: levels instead of orders (F_TOB or F_MBP); "
                "only full depth by order can be imported"
            )

    def _heads(self, records: NDArray[np.void]) -> NDArray[np.void]:
        """The records as rows."""
        heads = np.zeros(len(records), RAW)
        heads["kind"] = _KINDS[records["action"]]
        used = (heads["kind"] == DEPTH) | (heads["kind"] == TRADE)
        for name in ("price", "size"):
            heads[name] = np.where(used, records[name], 0)
        for name in ("side", "file", "line", "local_ns"):
            heads[name] = records[name]
        # What a snapshot's records tell is when their orders were entered.
        snapshot = (records["flags"] & F_SNAPSHOT) > 0
        heads["exch_ns"] = np.where(snapshot, records["local_ns"], records["exch_ns"])
        heads["id"] = records["line"]
        return heads


def _say(text: str) -> Callable[[Any], str]:
    return lambda _: text


def _no_snapshot(_: Any) -> str:
    return "the file does not begin by clearing the book; orders entered before it are unknown"


def _gap(_: Any) -> str:
    return "the venue's channel lost messages here (F_MAYBE_BAD_BOOK); the book is unreliable from here on"


_ORDER = types.UniTuple(types.int64, 3)


@njit(cache=True)
def empty_book():  # type: ignore[no-untyped-def]
    """Orders by id: side, price, size. Levels by key: size now, size last told. Keys changed in the event."""
    return (
        typed.Dict.empty(types.int64, _ORDER),
        typed.Dict.empty(types.int64, types.int64),
        typed.Dict.empty(types.int64, types.int64),
        typed.Dict.empty(types.int64, types.int64),
    )


@njit(cache=True)
def unload(found):  # type: ignore[no-untyped-def]
    """A dictionary of numbers as [n, 2], in its order."""
    out = np.empty((len(found), 2), np.int64)
    for row, (key, value) in enumerate(found.items()):
        out[row, 0], out[row, 1] = key, value
    return out


@njit(cache=True)
def load(rows):  # type: ignore[no-untyped-def]
    """Inverse of `unload`."""
    found = typed.Dict.empty(types.int64, types.int64)
    for row in rows:
        found[row[0]] = row[1]
    return found


@njit(cache=True)
def unload_orders(orders):  # type: ignore[no-untyped-def]
    """Orders as [n, 4]: id, side, price, size."""
    out = np.empty((len(orders), 4), np.int64)
    for row, (key, value) in enumerate(orders.items()):
        out[row, 0], out[row, 1], out[row, 2], out[row, 3] = key, value[0], value[1], value[2]
    return out


@njit(cache=True)
def load_orders(rows):  # type: ignore[no-untyped-def]
    """Inverse of `unload_orders`."""
    orders = typed.Dict.empty(types.int64, _ORDER)
    for row in rows:
        orders[row[0]] = (row[1], row[2], row[3])
    return orders


@njit(cache=True, nogil=True)
def apply(heads, records, orders, levels, told, changed):  # type: ignore[no-untyped-def]
    """Follow the orders; the trades, and at the end of each event the levels it changed.

    Args:
        heads: RAW [n]; records: ORDER [n].
        orders, levels, told, changed: as `empty_book`; updated.

    Returns:
        RAW [m], and [p, 2]: record and code of each problem.
    """
    out = np.empty(2 * len(heads) + len(changed) + 1, RAW)
    count = 0
    problems = [(0, 0) for _ in range(0)]
    for place in range(len(heads)):
        head, record = heads[place], records[place]
        action, number = record.action, record.order
        if action == _TRADE and head.side != 0:
            out[count] = head
            count += 1
        elif action == _CLEAR:
            orders.clear()
            levels.clear()
            told.clear()
            changed.clear()
            out[count] = head
            out[count].side, out[count].price, out[count].size = BUY, 0, 0
            count += 1
        elif action in (_ADD, _MODIFY):
            if number in orders:
                if action == _ADD:
                    problems.append((place, _DUPLICATE))
                side, price, size = orders[number]
                _shift(levels, changed, side, price, -size)
            orders[number] = (np.int64(record.side), record.price, record.size)
            _shift(levels, changed, np.int64(record.side), record.price, record.size)
        elif action == _CANCEL:
            if number not in orders:
                problems.append((place, _UNKNOWN))
            else:
                side, price, size = orders[number]
                if record.size > size:
                    problems.append((place, _TOO_MUCH))
                gone = min(size, record.size)
                _shift(levels, changed, side, price, -gone)
                if gone == size:
                    orders.pop(number)
                else:
                    orders[number] = (side, price, size - gone)
        if record.flags & F_LAST:
            for key in changed:
                now = levels.get(key, 0)
                if now != told.get(key, 0):
                    out[count] = head
                    out[count].kind = SNAPSHOT if record.flags & F_SNAPSHOT else DEPTH
                    out[count].side = BUY if key & 1 else SELL
                    out[count].price, out[count].size = key >> 1, now
                    count += 1
                told[key] = now
                if now == 0:
                    told.pop(key)
                    if key in levels:
                        levels.pop(key)
            changed.clear()
    found = np.empty((len(problems), 2), np.int64)
    for row in range(len(problems)):
        found[row, 0], found[row, 1] = problems[row]
    return out[:count].copy(), found


@njit(cache=True, nogil=True)
def _shift(levels, changed, side, price, size):  # type: ignore[no-untyped-def]
    """Add to the size of a level."""
    key = 2 * price + (1 if side == BUY else 0)
    levels[key] = levels.get(key, 0) + size
    changed[key] = 0
