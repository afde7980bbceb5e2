"""Small Binance captures for tests: a random market, written as an exchange would send it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.times import HOUR, MILLISECOND, SECOND

MIDNIGHT_NS = 1_723_161_600 * SECOND  # 2024-08-09 00:00 UTC
START_NS = MIDNIGHT_NS + HOUR
OFFSET_NS = 1270 * MILLISECOND
"""The recorder's clock is this far behind the exchange's, as in the captures at hand."""

Key = tuple[str, int]


@dataclass
class Market:
    """What truly happened, in ticks, lots and exchange milliseconds since START_NS."""

    venue: str
    symbol: str
    tick: float
    lot: float
    lines: list[str] = field(default_factory=list)
    books: list[tuple[int, int, dict[Key, int]]] = field(default_factory=list)
    """After each diff: exchange ns, local ns (recorder's clock), the whole book by (side, tick)."""
    trades: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Exchange ns, +1 for a buying aggressor, tick, lots; of every trade."""
    touches: list[tuple[int, tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    """Local ns (recorder's clock), and tick and lots of bid and ask, by the newest of diff and ticker."""
    snapshot_line: int = 0
    first_diff: int = 0
    """The first of `books` that the reader can know."""

    def text(self, tick: int) -> str:
        return f"{tick * self.tick:.2f}"

    def size(self, lots: int) -> str:
        return f"{lots * self.lot:.3f}"


def market(
    seconds: float = 20.0,
    seed: int = 0,
    venue: str = "usdm",
    start_ns: int = START_NS,
    volatile: float = 0.3,
) -> Market:
    """A random market of one symbol; `venue` is "usdm", "coinm" or "spot".

    Messages are delayed by 3 ms on average; the REST snapshot arrives two diffs late.
    """
    rng = np.random.default_rng(seed)
    symbol = "BTCUSD_PERP" if venue == "coinm" else "BTCUSDT"
    found = Market(venue, symbol, 0.1, 1.0 if venue == "coinm" else 0.001)
    mid = 6000
    book: dict[Key, int] = {}
    for step in range(1, 40):
        book["b", mid - step] = int(rng.integers(1, 40))
        book["a", mid + step] = int(rng.integers(1, 40))
    told: dict[Key, int] = {}
    update, trade = 1000, 500
    ms, local_ns = 0, 0
    diffs = 0
    late: list[tuple[int, str]] = []
    held: list[tuple[int, bool, int, int, int]] = []
    while ms < seconds * 1000:
        ms += int(rng.integers(5, 60))
        exch_ns = start_ns + ms * MILLISECOND
        # One message after a pause has no delay at all, so that the clock offset is known exactly.
        if diffs == 20:
            ms += 500
            exch_ns = start_ns + ms * MILLISECOND
        delay = 0 if diffs == 20 else int(rng.exponential(3 * MILLISECOND))
        local_ns = max(local_ns + 1, exch_ns - OFFSET_NS + delay)
        due, held = held, []
        for _ in range(rng.poisson(0.7)):
            buy = bool(rng.random() < 0.5)
            price = _best(book, "a" if buy else "b")
            trade += 1
            lots = int(rng.integers(1, 12))
            # Some trades arrive after a later diff, as they do.
            if due or held or rng.random() < 0.2:
                held.append((trade, buy, price, lots, exch_ns))
            else:
                _add_trade(found, trade, buy, price, lots, exch_ns, local_ns)
            key = ("a" if buy else "b", price)
            book[key] = max(book[key] - lots, 1)
        if rng.random() < volatile:
            mid += int(rng.choice((-2, -1, 1, 2)))
        for side, sign in (("b", -1), ("a", 1)):
            for distance in rng.integers(1, 40, 6):
                book[side, mid + sign * int(distance)] = int(rng.integers(0, 40))
            book[side, mid + sign] = max(book.get((side, mid + sign), 0), 1)
        for side, price in list(book):
            if (side == "b" and price >= mid) or (side == "a" and price <= mid) or not book[side, price]:
                book.pop((side, price))
        changed = {
            key: book.get(key, 0) for key in told.keys() | book.keys() if book.get(key) != told.get(key)
        }
        told = dict(book)
        # Sometimes the ticker of the next change overtakes the diff.
        early = rng.random() < 0.2
        if early:
            book["b", _best(book, "b")] = int(rng.integers(1, 40))
            _add_ticker(found, book, update + 7, exch_ns, local_ns)
        _add_diff(found, changed, update + 1, update + 5, update, exch_ns, local_ns)
        update += 5
        diffs += 1
        found.books.append((exch_ns, local_ns, told))
        if not early:
            _add_ticker(found, book, update, exch_ns, local_ns)
        bid, ask = _best(book, "b"), _best(book, "a")
        found.touches.append((local_ns, (bid, book["b", bid]), (ask, book["a", ask])))
        for arguments in due:
            _add_trade(found, *arguments, local_ns)
        if diffs == 5:
            late.append((diffs + 2, _snapshot(found, told, update, exch_ns)))
        if late and diffs == late[0][0]:
            found.lines.append(f"{local_ns} {late.pop()[1]}")
            found.snapshot_line = len(found.lines)
            found.first_diff = len(found.books) - 1
    return found


def write(path: Path, lines: list[str], compress: bool = True) -> Path:
    """A capture file of `lines`."""
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    return path


def _best(book: dict[Key, int], side: str) -> int:
    prices = [price for found, price in book if found == side]
    return max(prices) if side == "b" else min(prices)


def _line(found: Market, stream: str, data: dict[str, Any], local_ns: int) -> None:
    message = {"stream": f"{found.symbol.lower()}@{stream}", "data": data}
    found.lines.append(f"{local_ns} {json.dumps(message, separators=(',', ':'))}")


def _levels(found: Market, levels: dict[Key, int], side: str) -> list[list[str]]:
    return [
        [found.text(price), found.size(lots)] for (at, price), lots in sorted(levels.items()) if at == side
    ]


def _add_diff(
    found: Market, changed: dict[Key, int], first: int, last: int, previous: int, exch_ns: int, local_ns: int
) -> None:
    stamp = exch_ns // MILLISECOND
    data: dict[str, Any] = {"e": "depthUpdate", "E": stamp, "s": found.symbol, "U": first, "u": last}
    if found.venue != "spot":
        data |= {"T": stamp, "pu": previous}
    if found.venue == "coinm":
        data["ps"] = "BTCUSD"
    data |= {"b": _levels(found, changed, "b"), "a": _levels(found, changed, "a")}
    _line(found, "depth@0ms", data, local_ns)


def _add_trade(
    found: Market, number: int, buy: bool, price: int, lots: int, exch_ns: int, local_ns: int
) -> None:
    stamp = exch_ns // MILLISECOND
    data = {"e": "trade", "E": stamp, "T": stamp, "s": found.symbol, "t": number, "p": found.text(price)}
    data |= {"q": found.size(lots), "m": not buy}
    if found.venue != "spot":
        data["X"] = "MARKET"
    _line(found, "trade", data, local_ns)
    found.trades.append((exch_ns, 1 if buy else -1, price, lots))


def _add_ticker(found: Market, book: dict[Key, int], update: int, exch_ns: int, local_ns: int) -> None:
    bid, ask = _best(book, "b"), _best(book, "a")
    data: dict[str, Any] = {"u": update, "s": found.symbol, "b": found.text(bid), "a": found.text(ask)}
    data |= {"B": found.size(book["b", bid]), "A": found.size(book["a", ask])}
    if found.venue != "spot":
        data |= {"e": "bookTicker", "T": exch_ns // MILLISECOND, "E": exch_ns // MILLISECOND}
    _line(found, "bookTicker", data, local_ns)


def _snapshot(found: Market, book: dict[Key, int], update: int, exch_ns: int) -> str:
    data: dict[str, Any] = {"lastUpdateId": update}
    if found.venue != "spot":
        data |= {"E": exch_ns // MILLISECOND, "T": exch_ns // MILLISECOND}
    data |= {"bids": _levels(found, book, "b"), "asks": _levels(found, book, "a")}
    return json.dumps(data, separators=(",", ":"))
