"""Coinbase Exchange, channel `full` of the websocket: every order. `mmenv.data.formats.coinbase` opens them.

https://docs.cdp.coinbase.com/exchange/websocket-feed/channels#full-channel: an order that rests is `open`,
loses what is matched (`match` names the maker's), changes, and is `done`; the price that `done` says need not
be that of the book. `sequence` counts the messages of a product one by one. The book at the start is that of
REST at level 3, in a line of its own: it holds the messages up to its `sequence`; later ones follow it, those
that stand before it in the file too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.decimals import INVALID, parse_decimals
from mmenv.data.formats.base import ImportOptions
from mmenv.data.formats.feed import BLOCK_BYTES, MALFORMED, Book, FeedImporter, Trade, split_line
from mmenv.data.lines import Translate
from mmenv.data.problems import Report
from mmenv.data.rows import (
    ADD,
    BUY,
    CANCEL,
    CLEAR,
    DEPTH,
    FILL,
    MODIFY,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
)
from mmenv.data.source import Source
from mmenv.data.text import hash_text, iso_ns

KINDS: Final = ("received", "open", "match", "change", "done", "activate")
MOST_WAITING: Final = 100_000
"""Messages that may come before the first book."""
_SIDES: Final = {"buy": BUY, "sell": SELL}
Said = tuple[int, int, int, int, int]
"""Kind, side, price, size and id of a row."""


class CoinbaseFull(FeedImporter):
    """Captures of one product."""

    venue = "coinbase"
    one_by_one = True

    def __init__(
        self,
        source: Source,
        paths: Sequence[Path],
        options: ImportOptions,
        translate: Translate | None = None,
    ) -> None:
        super().__init__(source, paths, options, translate)
        self._orders: dict[int, tuple[int, int, int]] = {}
        """Side, price and size by id."""
        self._levels: dict[tuple[int, int], int] = {}
        self._waiting: list[tuple[int, int, dict[str, Any]]] = []
        """Line, local time and message of those before the first book."""
        self._sequence = -1

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        """Whose message it is, for `open`."""
        if message.get("type") not in KINDS:
            return None
        return iter([Book(message["product_id"], iso_ns(message["time"]), False, (), ())])

    def pull(self, report: Report) -> NDArray[np.void] | None:
        block = self._lines.pull(BLOCK_BYTES)
        found: list[tuple[int, ...]] = []
        if block is None:
            if not self._waiting:
                self._trade_ids.settle(report)
                return None
            self._begin_without_book(found, report)
            return self._checked(np.array(found, RAW), False, report)
        self._file = block.file
        for number, line in enumerate(block.text.split(b"\n"), block.line):
            if line.strip():
                self._told(line, number, found, report)
        if len(self._waiting) > MOST_WAITING:
            self._begin_without_book(found, report)
        if self._lines.error:
            report.add(report.name(block.file), block.line, 0, "truncated", self._lines.error)
        return self._checked(np.array(found, RAW), block.line == 1, report)

    def _told(self, line: bytes, number: int, found: list[tuple[int, ...]], report: Report) -> None:
        """Take a line, and append its rows."""
        name = report.name(self._file)
        try:
            local_ns, message = split_line(line)
        except MALFORMED:
            report.add(name, number, 0, "bad-line", "not '<local ns> <JSON object>' or JSON; skipped")
            return
        try:
            if "bids" in message and "sequence" in message:
                self._take_book(local_ns, message, number, found, report)
            elif message.get("type") not in KINDS:
                report.note(f"{self.kind(message)} message, not used")
            elif message["product_id"] != self.source.symbol:
                self._other(str(message["product_id"]), message["type"] == "match", number, report)
            elif not self._begun:
                int(message["sequence"])
                self._waiting.append((number, local_ns, message))
            else:
                self._take(local_ns, message, number, found, report)
        except CaptureError:
            raise
        except MALFORMED as error:
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            report.add(name, number, local_ns, "bad-message", told)

    def _begin_without_book(self, found: list[tuple[int, ...]], report: Report) -> None:
        number, local_ns, _ = self._waiting[0]
        told = (
            "no book of level 3 before the first changes; the book is built from them alone and lacks orders"
        )
        report.add(report.name(self._file), number, local_ns, "missing-snapshot", told)
        self._begun = True
        self._follow(found, report, 0)

    def _follow(self, found: list[tuple[int, ...]], report: Report, after_ns: int) -> None:
        """Take the messages that waited, as of the time of the book."""
        waiting, self._waiting = self._waiting, []
        for number, local_ns, message in waiting:
            try:
                self._take(max(local_ns, after_ns), message, number, found, report)
            except CaptureError:
                raise
            except MALFORMED as error:
                report.add(report.name(self._file), number, local_ns, "bad-message", f"{error}; skipped")

    def _take_book(
        self, local_ns: int, message: Any, line: int, found: list[tuple[int, ...]], report: Report
    ) -> None:
        """REST's book; later ones are other views of what is known."""
        if self._begun:
            report.note("book of level 3 after the first one, not used")
            return
        orders = {}
        for side, levels in ((BUY, message["bids"]), (SELL, message["asks"])):
            for price, size, order in levels:
                orders[hash_text(str(order))] = (
                    side,
                    _units(price, self.places[0]),
                    _units(size, self.places[1]),
                )
        if not local_ns and not self._waiting:
            raise ValueError("local time")
        local_ns = local_ns or iso_ns(self._waiting[-1][2]["time"])
        if any(not 0 < value < 1 << 62 for order in orders.values() for value in order[1:]):
            raise ValueError("price or size")
        self._begun, self._sequence = True, int(message["sequence"])
        self._number += 1
        rows: list[Said] = [(CLEAR, BUY, 0, 0, self._number)]
        for number, order in orders.items():
            self._orders[number] = order
            self._shift(*order)
            rows.append((ADD, *order, number))
        rows += [(SNAPSHOT, *level, size, self._number) for level, size in self._levels.items()]
        self._put(found, rows, UNKNOWN_NS, local_ns, line)
        self._waiting = [each for each in self._waiting if int(each[2]["sequence"]) > self._sequence]
        self._follow(found, report, local_ns)

    def _take(
        self, local_ns: int, message: Any, line: int, found: list[tuple[int, ...]], report: Report
    ) -> None:
        exch_ns, sequence = iso_ns(message["time"]), int(message["sequence"])
        if 0 <= sequence <= self._sequence:
            report.note("message of level 3 that the book holds already, left out")
            return
        rows = self._rows_of(message, report)
        if self._sequence >= 0 and sequence != self._sequence + 1:
            told = f"message {sequence} follows {self._sequence}; the book is unreliable from here on"
            report.add(report.name(self._file), line, local_ns, "sequence-gap", told)
        self._sequence = sequence
        self._put(found, rows, exch_ns, local_ns or exch_ns, line)

    def _put(
        self, found: list[tuple[int, ...]], rows: list[Said], exch_ns: int, local_ns: int, line: int
    ) -> None:
        for kind, side, price, size, id in rows:
            found.append((exch_ns, local_ns, price, size, id, line, self._file, kind, side))

    def _rows_of(self, message: Any, report: Report) -> list[Said]:
        """The rows of a message; what is known of orders is then as it says."""
        kind = message["type"]
        if kind in ("received", "activate"):
            report.note(f"{kind} message, which changes no book")
            return []
        if kind == "match":
            return self._match(message)
        number = hash_text(str(message["order_id"]))
        old = self._orders.get(number)
        if kind == "open":
            order = _SIDES[message["side"]], *self._price_size(message["price"], message["remaining_size"])
            return self._leave(number, old) + self._enter(number, order)
        if kind == "done":
            return self._leave(number, old)
        if old is None:  # of an order that has not come to rest
            return []
        price = message.get("new_price") or message.get("price")
        units, size = self._price_size(price, message["new_size"])
        if units == old[1]:
            return self._resize(number, old, size)
        return self._leave(number, old) + self._enter(number, (old[0], units, size))

    def _match(self, message: Any) -> list[Said]:
        side, id = _SIDES[message["side"]], int(message["trade_id"])
        if not 0 <= id < 1 << 62:
            raise ValueError("trade_id")
        price, size = self._price_size(message["price"], message["size"])
        number = hash_text(str(message["maker_order_id"]))
        old = self._orders.get(number)
        rows: list[Said] = [(TRADE, -side, price, size, id)]
        if old is not None:
            rows.append((FILL, *old[:2], min(size, old[2]), number))
            rows += self._resize(number, old, max(old[2] - size, 0))
        return rows

    def _price_size(self, price: Any, size: Any) -> tuple[int, int]:
        found = _units(price, self.places[0]), _units(size, self.places[1])
        if not 0 < found[0] < 1 << 62 or not 0 <= found[1] < 1 << 62:
            raise ValueError("price or size")
        return found

    def _enter(self, number: int, order: tuple[int, int, int]) -> list[Said]:
        if not order[2]:
            return []
        self._orders[number] = order
        self._shift(*order)
        return [(ADD, *order, number), self._level(*order[:2])]

    def _leave(self, number: int, old: tuple[int, int, int] | None) -> list[Said]:
        if old is None:
            return []
        return self._resize(number, old, 0)

    def _resize(self, number: int, old: tuple[int, int, int], size: int) -> list[Said]:
        """An order gets another size, with its place where it is less."""
        side, price, before = old
        self._shift(side, price, size - before)
        if size:
            self._orders[number] = side, price, size
        else:
            del self._orders[number]
        row = (MODIFY, side, price, size, number) if size else (CANCEL, side, price, before, number)
        return [row, self._level(side, price)]

    def _shift(self, side: int, price: int, size: int) -> None:
        left = self._levels.get((side, price), 0) + size
        if left > 0:
            self._levels[side, price] = left
        else:
            self._levels.pop((side, price), None)

    def _level(self, side: int, price: int) -> Said:
        self._number += 1
        return DEPTH, side, price, self._levels.get((side, price), 0), self._number


def _units(value: Any, places: int) -> int:
    """A decimal in units of 10^-places; below 0 where it is none."""
    text = f"{value}\n"
    if not text.isascii() or text.count("\n") > 1:
        return INVALID
    return int(parse_decimals(np.frombuffer(text.encode(), np.uint8), 1, places, places)[0])
