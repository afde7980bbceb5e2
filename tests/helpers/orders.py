"""A random market by order, and the files in which vendors would record it."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mmenv.times import MILLISECOND, SECOND

START_NS = 1_340_285_400 * SECOND  # 2012-06-21 13:30 UTC, 09:30 in New York
NEW_YORK_MIDNIGHT_NS = START_NS - 34_200 * SECOND
TICK = 0.01

Level = tuple[str, int]
Book = dict[Level, int]


@dataclass
class Step:
    """One elementary change: action as in Databento's mbo ("H": a hidden execution), and the book then."""

    action: str
    order: int
    side: str
    tick: float
    size: int
    book: Book


@dataclass
class Event:
    """What the venue does at once; times in whole microseconds."""

    exch_ns: int
    local_ns: int
    steps: list[Step] = field(default_factory=list)

    @property
    def book(self) -> Book:
        return self.steps[-1].book


class Market:
    """Resting orders and what happens to them."""

    def __init__(
        self, events: int = 400, seed: int = 0, start_ns: int = START_NS, hidden: bool = False
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.orders: dict[int, tuple[str, int, int]] = {}
        self.events: list[Event] = []
        self.number = 100
        self.now_ns, self.local_ns = start_ns, start_ns
        self._begin()
        for step in range(12):
            for side, sign in (("B", -1), ("A", 1)):
                self._add(side, 5000 + sign * (step + 1), int(self.rng.integers(1, 9)))
        while len(self.events) < events:
            self._begin()
            self._happen(hidden)

    def _begin(self) -> None:
        self.now_ns += 1000 * int(self.rng.integers(1, 200_000))
        delay = 1000 * int(self.rng.integers(100, 400))
        # Sometimes two messages arrive at the same time.
        self.local_ns = max(self.local_ns, self.now_ns + delay)
        self.events.append(Event(self.now_ns, self.local_ns))

    def _step(self, action: str, order: int, side: str, tick: float, size: int) -> None:
        book: Book = {}
        for at, price, left in self.orders.values():
            book[at, price] = book.get((at, price), 0) + left
        self.events[-1].steps.append(Step(action, order, side, tick, size, book))

    def _add(self, side: str, tick: int, size: int) -> None:
        self.number += 1
        self.orders[self.number] = side, tick, size
        self._step("A", self.number, side, tick, size)

    def best(self, side: str) -> int:
        prices = [price for at, price, _ in self.orders.values() if at == side]
        return max(prices) if side == "B" else min(prices)

    def _happen(self, hidden: bool) -> None:
        rng = self.rng
        kind = rng.choice(["add", "cancel", "modify", "trade", "hidden"], p=[0.42, 0.25, 0.1, 0.15, 0.08])
        side = str(rng.choice(["B", "A"]))
        sign = -1 if side == "B" else 1
        mine = [number for number, (at, _, _) in self.orders.items() if at == side]
        if kind == "hidden" and hidden:
            # In the middle of the spread, perhaps between two ticks.
            middle = (self.best("B") + self.best("A")) / 2
            self._step("H", 0, side, middle, int(rng.integers(1, 5)))
        elif kind == "trade" and len(mine) > 25:
            self._trade(side, int(rng.integers(1, 12)))
        elif kind == "modify":
            number = int(rng.choice(mine))
            _, tick, size = self.orders[number]
            other = self.best("A" if side == "B" else "B")
            tick = (
                min(tick + int(rng.integers(-2, 3)), other - 1) if side == "B" else max(tick - 1, other + 1)
            )
            self.orders[number] = side, tick, int(rng.integers(1, 9))
            self._step("M", number, side, tick, self.orders[number][2])
        elif kind == "cancel" and len(mine) > 25:
            number = int(rng.choice(mine))
            _, tick, size = self.orders[number]
            gone = int(rng.integers(1, size + 1))
            self._take(number, gone)
            self._step("C", number, side, tick, gone)
        else:
            best = self.best("A" if side == "B" else "B")
            self._add(side, best + sign * int(rng.integers(1, 14)), int(rng.integers(1, 9)))

    def _take(self, number: int, size: int) -> None:
        side, tick, left = self.orders.pop(number)
        if left > size:
            self.orders[number] = side, tick, left - size

    def _trade(self, side: str, size: int) -> None:
        """A market order that meets the resting orders of `side`."""
        aggressor = "A" if side == "B" else "B"
        while size:
            tick = self.best(side)
            number = min(n for n, (at, price, _) in self.orders.items() if (at, price) == (side, tick))
            taken = min(size, self.orders[number][2])
            self._step("T", 0, aggressor, tick, taken)
            self._step("F", number, side, tick, taken)
            self._take(number, taken)
            self._step("C", number, side, tick, taken)
            size -= taken


def trades(market: Market, hidden: bool = False) -> list[tuple[int, int, float, int]]:
    """Exchange time, +1 for a buying aggressor, tick, size."""
    found = []
    for event in market.events:
        for step in event.steps:
            if step.action == "T":
                found.append((event.exch_ns, 1 if step.side == "B" else -1, step.tick, step.size))
            if step.action == "H" and hidden:
                found.append((event.exch_ns, 1 if step.side == "A" else -1, step.tick, step.size))
    return found


def price(tick: float) -> str:
    return f"{tick * TICK:.4f}".rstrip("0").rstrip(".")


def changes(before: Book, after: Book) -> list[tuple[str, int, int]]:
    """Side, tick and new size of each level that differs."""
    return [
        (*level, after.get(level, 0))
        for level in sorted(before.keys() | after.keys())
        if before.get(level) != after.get(level)
    ]


# Tardis.

TARDIS_BOOK = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"
TARDIS_TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"


def tardis(
    market: Market, first: int = 0, last: int | None = None, symbol: str = "BTCUSDT"
) -> tuple[list[str], list[str]]:
    """Lines of `incremental_book_L2` and `trades` of events [first, last), the book first as a snapshot."""
    book, deals = [TARDIS_BOOK], [TARDIS_TRADES]
    before: Book = {}
    number = 7000 + len(trades(_part(market, 0, first)))
    for place, event in enumerate(market.events[first:last]):
        head = f"binance-futures,{symbol},{event.exch_ns // 1000},{event.local_ns // 1000}"
        for side, tick, size in changes(before, event.book):
            name = "bid" if side == "B" else "ask"
            book.append(f"{head},{'true' if place == 0 else 'false'},{name},{price(tick)},{size}")
        before = event.book
        for step in event.steps:
            if step.action == "T":
                number += 1
                name = "buy" if step.side == "B" else "sell"
                deals.append(f"{head},{number},{name},{price(step.tick)},{step.size}")
    return book, deals


def _part(market: Market, first: int, last: int | None) -> Market:
    part = object.__new__(Market)
    part.events = market.events[first:last]
    return part


def write_lines(path: Path, lines: list[str]) -> Path:
    """Text, compressed if the name says so."""
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


# Our own columns.


def plain(market: Market) -> list[str]:
    """Lines with every column but `venue`; the first event is a snapshot."""
    lines = ["symbol,kind,local_ns,exch_ns,side,price,size,id,previous_id"]
    before: Book = {}
    number, update = 50, 9
    for place, event in enumerate(market.events):
        times = f"{event.local_ns},{event.exch_ns}"
        for step in event.steps:
            if step.action == "T":
                number += 1
                side = "buy" if step.side == "B" else "sell"
                lines.append(f"X,trade,{times},{side},{price(step.tick)},{step.size},{number},")
        kind = "depth" if place else "snapshot"
        changed = changes(before, event.book)
        for side, tick, size in changed:
            name = "bid" if side == "B" else "ask"
            lines.append(
                f"X,{kind},{times},{name},{price(tick)},{size},{update + 3},{update if place else ''}"
            )
        update += 3 if changed else 0
        before = event.book
    return lines


# LOBSTER.


def lobster(market: Market, levels: int, midnight_ns: int) -> tuple[list[str], list[str], list[Book]]:
    """Lines of the message and the orderbook file, and the whole book after each line."""
    messages, books, truth = [], [], []
    previous: dict[int, tuple[str, int, int]] = {}
    orders: dict[int, tuple[str, int, int]] = {}

    def put(event: Event, kind: int, order: int, size: int, tick: float, side: str) -> None:
        time = f"{(event.exch_ns - midnight_ns) / SECOND:.9f}"
        direction = 1 if side == "B" else -1
        messages.append(f"{time},{kind},{order},{size},{round(tick * 100)},{direction}")
        book: Book = {}
        for at, price_, left in orders.values():
            book[at, price_] = book.get((at, price_), 0) + left
        truth.append(book)
        books.append(_lobster_row(book, levels))

    for event in market.events:
        for step in event.steps:
            if step.action == "A":
                orders[step.order] = step.side, int(step.tick), step.size
                put(event, 1, step.order, step.size, step.tick, step.side)
            elif step.action == "M":
                side, tick, size = orders.pop(step.order)
                put(event, 3, step.order, size, tick, side)
                orders[step.order] = step.side, int(step.tick), step.size
                put(event, 1, step.order, step.size, step.tick, step.side)
            elif step.action == "C":
                side, tick, size = orders.pop(step.order)
                if size > step.size:
                    orders[step.order] = side, tick, size - step.size
                traded = previous.pop(step.order, None) is not None
                kind = 4 if traded else 2 if size > step.size else 3
                put(event, kind, step.order, step.size, step.tick, step.side)
            elif step.action == "F":
                previous[step.order] = orders[step.order]
            elif step.action == "H":
                put(event, 5, 0, step.size, step.tick, step.side)
    return messages, books, truth


def _lobster_row(book: Book, levels: int) -> str:
    asks = sorted(tick for side, tick in book if side == "A")
    bids = sorted((tick for side, tick in book if side == "B"), reverse=True)
    values: list[int] = []
    for place in range(levels):
        ask = (asks[place] * 100, book["A", asks[place]]) if place < len(asks) else (9999999999, 0)
        bid = (bids[place] * 100, book["B", bids[place]]) if place < len(bids) else (-9999999999, 0)
        values += [*ask, *bid]
    return ",".join(map(str, values))


# Databento.

F_LAST, F_SNAPSHOT, F_BAD_TS_RECV, F_MAYBE_BAD_BOOK = 128, 32, 8, 4
NO_PRICE = 2**63 - 1


@dataclass(frozen=True)
class Record:
    """One mbo record, as both DBN and CSV tell it."""

    ts_recv: int
    ts_event: int
    action: str
    side: str
    price: int
    size: int
    order_id: int
    flags: int
    sequence: int
    instrument_id: int = 42
    publisher_id: int = 1


def databento(market: Market) -> list[Record]:
    """A snapshot of the first event's book, entered at older times, then each event's records."""
    first = market.events[0]
    records = [Record(first.local_ns, first.exch_ns, "R", "N", NO_PRICE, 0, 0, F_SNAPSHOT | F_BAD_TS_RECV, 0)]
    for place, event in enumerate(market.events):
        steps = [step for step in event.steps if step.action in "ACMTF"]
        for number, step in enumerate(steps):
            flags = F_LAST if number == len(steps) - 1 else 0
            entered = event.exch_ns
            if place == 0:
                flags |= F_SNAPSHOT | F_BAD_TS_RECV
                entered -= (len(steps) - number) * MILLISECOND
            units = int(step.tick) * 10**7
            order = 0 if step.action == "T" else step.order
            records.append(
                Record(
                    event.local_ns,
                    entered,
                    step.action,
                    step.side,
                    units,
                    step.size,
                    order,
                    flags,
                    len(records),
                )
            )
    return records


def dbn(
    records: list[Record], version: int = 3, symbols: dict[int, str] | None = None, schema: int = 0
) -> bytes:
    """A DBN file by its specification."""
    width = 22 if version == 1 else 71

    def name(text: str) -> bytes:
        return text.encode().ljust(width, b"\0")

    mapped = {42: "ESM2"} if symbols is None else symbols
    head = struct.pack("<16sHQQQ", b"GLBX.MDP3", schema, records[0].ts_recv, 2**64 - 1, 0)
    if version == 1:
        head += struct.pack("<QBBB47x", len(records), 1, 0, 0)
    else:
        head += struct.pack("<BBBH53x", 1, 0, 0, width)
    head += struct.pack("<II", 0, len(mapped)) + b"".join(name(symbol) for symbol in mapped.values())
    head += struct.pack("<III", 0, 0, len(mapped))
    for number, symbol in mapped.items():
        head += name(symbol) + struct.pack("<III", 1, 20120601, 20120701) + name(str(number))
    body = b"".join(
        struct.pack(
            "<BBHIQQqIBBccQiI", 14, 160, r.publisher_id, r.instrument_id, r.ts_event, r.order_id, r.price,
            r.size, r.flags, 0, r.action.encode(), r.side.encode(), r.ts_recv, 0, r.sequence,
        )
        for r in records
    )  # fmt: skip
    return b"DBN" + bytes([version]) + struct.pack("<I", len(head)) + head + body


def databento_csv(records: list[Record], pretty: bool) -> list[str]:
    """Lines as Databento's CSV encoder writes them, without and with its pretty times and prices."""
    lines = [
        "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,price,size,channel_id,order_id,flags,"
        "ts_in_delta,sequence,symbol"
    ]

    def time(ns: int) -> str:
        return f"{np.datetime64(ns, 'ns')}Z" if pretty else str(ns)

    for r in records:
        units = str(r.price) if not pretty else "" if r.price == NO_PRICE else f"{r.price / 1e9:.9f}"
        lines.append(
            f"{time(r.ts_recv)},{time(r.ts_event)},160,{r.publisher_id},{r.instrument_id},{r.action},{r.side},"
            f"{units},{r.size},0,{r.order_id},{r.flags},0,{r.sequence},ESM2"
        )
    return lines


# Files.


def tardis_files(market: Market, folder: Path, **parts: int | None) -> list[Path]:
    book, deals = tardis(market, **parts)  # type: ignore[arg-type]
    name = f"{parts.get('first', 0)}.csv.gz"
    return [write_lines(folder / f"book_{name}", book), write_lines(folder / f"trades_{name}", deals)]


def lobster_files(market: Market, folder: Path, levels: int = 4) -> tuple[list[Path], list[Book]]:
    messages, rows, truth = lobster(market, levels, NEW_YORK_MIDNIGHT_NS)
    stem = folder / "AAPL_2012-06-21_34200000_57600000_"
    paths = [
        write_lines(Path(f"{stem}message_{levels}.csv"), messages),
        write_lines(Path(f"{stem}orderbook_{levels}.csv"), rows),
    ]
    return paths, truth


def databento_file(market: Market, folder: Path, kind: str = "dbn3") -> Path:
    records = databento(market)
    if kind.startswith("dbn"):
        path = folder / "es.dbn"
        path.write_bytes(dbn(records, int(kind[3])))
        if kind.endswith("zst"):
            with pa.CompressedOutputStream(str(folder / "es.dbn.zst"), "zstd") as file:
                file.write(path.read_bytes())
            path = folder / "es.dbn.zst"
        return path
    path = write_lines(folder / "es.csv", databento_csv(records, pretty=kind != "csv"))
    if kind == "parquet":
        table = pyarrow.csv.read_csv(path)
        table = table.set_column(7, "price", pc.cast(table["price"], pa.float64()))
        pq.write_table(table, folder / "es.parquet", row_group_size=700)
        return folder / "es.parquet"
    return path


# NASDAQ ITCH.


def itch(market: Market, midnight_ns: int, symbol: str = "AAPL") -> bytes:
    """A day's file of two stocks by the specification of ITCH 5.0, one of them without orders."""
    out: list[bytes] = []

    def put(kind: bytes, ns: int, body: bytes, locate: int = 7) -> None:
        message = kind + struct.pack(">HH", locate, 0) + (ns - midnight_ns).to_bytes(6, "big") + body
        out.append(struct.pack(">H", len(message)) + message)

    start = market.events[0].exch_ns - 1_000
    put(b"S", start, b"O", 0)
    for name, locate in ((symbol, 7), ("ZVZZT", 8)):
        put(b"R", start, name.encode().ljust(8) + b"Q N" + struct.pack(">I", 100) + b"N" * 13, locate)
    put(b"A", start, struct.pack(">QcI8sI", 5, b"B", 10, b"ZVZZT   ", 1), 8)
    filled: set[int] = set()
    for number, event in enumerate(market.events):
        ns = event.exch_ns
        for step in event.steps:
            side, price_ = b"B" if step.side == "B" else b"S", int(step.tick * 100)
            body = struct.pack(">QcI8sI", step.order, side, step.size, symbol.encode().ljust(8), price_)
            if step.action == "A":
                put(b"A" if number % 2 else b"F", ns, body + (b"" if number % 2 else b"NSDQ"))
            elif step.action == "M":
                put(b"U", ns, struct.pack(">QQII", step.order, step.order, step.size, price_))
            elif step.action == "F":
                put(b"E", ns, struct.pack(">QIQ", step.order, step.size, number))
                filled.add(step.order)
            elif step.action == "C" and step.order in filled:
                filled.discard(step.order)
            elif step.action == "C":
                put(b"X", ns, struct.pack(">QI", step.order, step.size))
            elif step.action == "H":
                put(b"P", ns, body + struct.pack(">Q", number))
    put(b"Q", ns, struct.pack(">Q8sIQc", 100, symbol.encode().ljust(8), 500_000, 1, b"C"))
    return b"".join(out)
