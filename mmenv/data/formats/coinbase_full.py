"""Coinbase Exchange, channel `full` of the websocket: every order. `mmenv.data.formats.coinbase` opens them.

https://docs.cdp.coinbase.com/exchange/websocket-feed/channels#full-channel: an order that rests is `open`,
loses what is matched (`match` names the maker's), changes, and is `done`; the price that `done` says need not
be that of the book. `sequence` counts the messages of a product one by one. The book at the start is that of
REST at level 3, in a line of its own: it holds the messages up to its `sequence`; later ones follow it, those
that stand before it in the file too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data import table
from mmenv.data.decimals import INVALID, Places, parse_decimals
from mmenv.data.formats.ahead import ready
from mmenv.data.formats.base import ImportOptions
from mmenv.data.formats.coinbase_orders import (
    ACTIVATE,
    CHANGE,
    KEYS,
    KINDS,
    MATCH,
    MESSAGE,
    OPEN,
    RECEIVED,
    STATE,
    apply_orders,
    scan_orders,
)
from mmenv.data.formats.feed import BLOCK_BYTES, MALFORMED, Book, FeedImporter, Trade, split_line
from mmenv.data.formats.json_flat import LARGEST
from mmenv.data.lines import Translate
from mmenv.data.problems import Report
from mmenv.data.rows import ADD, BUY, CLEAR, RAW, SELL, SNAPSHOT, UNKNOWN_NS, CaptureError, joined, taken
from mmenv.data.source import Source
from mmenv.data.text import hash_text, iso_ns

NO_ROWS: Final = np.zeros(0, RAW)
NO_MESSAGES: Final = np.zeros(0, MESSAGE)
MOST_WAITING: Final = 100_000
"""Messages that may come before the first book."""
_SIDES: Final = {"buy": BUY, "sell": SELL}
Waiting = tuple[int, int, dict[str, Any]] | NDArray[np.void]
"""Line, local time and a message that Python has to read; or `MESSAGE` [n]."""


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
        self._orders, self._levels, self._state = table.empty(3), table.empty(1), np.zeros(1, STATE)
        self._state["sequence"] = -1
        self._waiting: list[Waiting] = []
        """What comes before the first book."""

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        """Whose message it is, for `open`."""
        if message.get("type") not in KINDS:
            return None
        return iter([Book(message["product_id"], iso_ns(message["time"]), False, (), ())])

    def pull(self, report: Report) -> NDArray[np.void] | None:
        block = self._lines.pull(BLOCK_BYTES)
        if block is None:
            if not self._waiting:
                self._trade_ids.settle(report)
                return None
            return self._checked(_joined(self._without_book(report)), False, report)
        self._file = block.file
        rows = list(self._told(block.text, block.line, report))
        if sum(map(_count, self._waiting)) > MOST_WAITING:
            rows += self._without_book(report)
        if self._lines.error:
            report.add(report.name(block.file), block.line, 0, "truncated", self._lines.error)
        return self._checked(_joined(rows), block.line == 1, report)

    def _told(self, text: bytes, line: int, report: Report) -> Iterator[NDArray[np.void]]:
        """Rows of lines: compiled code takes the usual ones, and `_odd` others."""
        data, at = np.frombuffer(text, np.uint8), 0
        wanted = np.frombuffer(self.source.symbol.encode(), np.uint8)
        read = scan_orders if ready(scan_orders, compile_scan) else no_scan
        while at < len(data):
            at, line, messages = read(data, at, line, wanted, *self.places, self.choose, KEYS)
            others = messages[~messages["ours"]]
            for other in others:
                name = text[other["symbol_begin"] : other["symbol_end"]].decode()
                report.note(f"{name} message, not used")
            mine = taken(messages, messages["ours"]) if len(others) else messages
            if not self._begun:
                self._waiting += [mine] if len(mine) else []
            else:
                yield self._apply(mine, report)
            if at < len(data):
                end = text.find(b"\n", at)
                end = end if end >= 0 else len(data)
                if text[at:end].strip():
                    yield from self._odd(text[at:end], line, report)
                at, line = end + 1, line + 1

    def _apply(self, messages: NDArray[np.void], report: Report, after_ns: int = 0) -> NDArray[np.void]:
        """Rows of messages of this product, none of which counts as having come before a time."""
        state = self._state
        rows, gaps, self._orders, self._levels = apply_orders(
            messages, self._file, after_ns, state, self._orders, self._levels
        )
        for line, local_ns, sequence, before in gaps.tolist():
            told = f"message {sequence} follows {before}; the book is unreliable from here on"
            report.add(report.name(self._file), line, local_ns, "sequence-gap", told)
        for name, told in (
            ("held", "message of level 3 that the book holds already, left out"),
            ("received", "received message, which changes no book"),
            ("activated", "activate message, which changes no book"),
        ):
            report.note(told, int(state[name][0]))
            state[name] = 0
        return rows

    def _odd(self, line: bytes, number: int, report: Report) -> Iterator[NDArray[np.void]]:
        """Rows of a line that compiled code has left."""
        name = report.name(self._file)
        try:
            local_ns, message = split_line(line)
        except MALFORMED:
            report.add(name, number, 0, "bad-line", "not '<local ns> <JSON object>' or JSON; skipped")
            return
        try:
            if "bids" in message and "sequence" in message:
                yield from self._take_book(local_ns, message, number, report)
            elif message.get("type") not in KINDS:
                report.note(f"{self.kind(message)} message, not used")
            elif message["product_id"] != self.source.symbol:
                self._other(str(message["product_id"]), message["type"] == "match", name, number, report)
            elif not self._begun:
                int(message["sequence"])
                self._waiting.append((number, local_ns, message))
            else:
                yield self._take(local_ns, message, number, report)
        except CaptureError:
            raise
        except MALFORMED as error:
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            report.add(name, number, local_ns, "bad-message", told)

    def _without_book(self, report: Report) -> Iterator[NDArray[np.void]]:
        first = self._waiting[0]
        number, local_ns = (
            first[:2] if isinstance(first, tuple) else (int(first["line"][0]), int(first["local_ns"][0]))
        )
        told = (
            "no book of level 3 before the first changes; the book is built from them alone and lacks orders"
        )
        report.add(report.name(self._file), number, local_ns, "missing-snapshot", told)
        self._begun = True
        yield from self._follow(report, 0)

    def _follow(self, report: Report, after_ns: int) -> Iterator[NDArray[np.void]]:
        """Take the messages that waited, as of the time of the book."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not isinstance(each, tuple):
                yield self._apply(each, report, after_ns)
                continue
            number, local_ns, message = each
            try:
                yield self._take(max(local_ns, after_ns), message, number, report)
            except CaptureError:
                raise
            except MALFORMED as error:
                report.add(report.name(self._file), number, local_ns, "bad-message", f"{error}; skipped")

    def _take_book(
        self, local_ns: int, message: Any, line: int, report: Report
    ) -> Iterator[NDArray[np.void]]:
        """REST's book; later ones are other views of what is known."""
        if self._begun:
            report.note("book of level 3 after the first one, not used")
            return
        orders: dict[int, tuple[int, int, int]] = {}
        levels: dict[tuple[int, int], int] = {}
        for side, told in ((BUY, message["bids"]), (SELL, message["asks"])):
            for price, size, order in told:
                units = _units(price, self.places[0]), _units(size, self.places[1])
                orders[hash_text(str(order))] = side, *units
        if not local_ns and not self._waiting:
            raise ValueError("local time")
        local_ns = local_ns or self._last_waiting()
        if any(not 0 < value < LARGEST for order in orders.values() for value in order[1:]):
            raise ValueError("price or size")
        sequence = int(message["sequence"])
        _require_fit(local_ns, sequence)
        for side, price, size in orders.values():
            levels[side, price] = levels.get((side, price), 0) + size
        state = self._state[0]
        state["number"] += 1
        self._begun, state["sequence"] = True, sequence
        self._orders = _filled(self._orders, orders)
        self._levels = _filled(
            self._levels, {2 * price + (side == BUY): (size,) for (side, price), size in levels.items()}
        )
        found = [(CLEAR, BUY, 0, 0, int(state["number"]))]
        found += [(ADD, *order, number) for number, order in orders.items()]
        found += [(SNAPSHOT, *level, size, int(state["number"])) for level, size in levels.items()]
        rows = np.zeros(len(found), RAW)
        for at, name in enumerate(("kind", "side", "price", "size", "id")):
            rows[name] = [each[at] for each in found]
        rows["exch_ns"], rows["local_ns"], rows["line"], rows["file"] = UNKNOWN_NS, local_ns, line, self._file
        yield rows
        self._waiting = [later for each in self._waiting if _count(later := _after(each, sequence))]
        yield from self._follow(report, local_ns)

    def _last_waiting(self) -> int:
        """The exchange's time of the last message that waits."""
        last = self._waiting[-1]
        return iso_ns(last[2]["time"]) if isinstance(last, tuple) else int(last["exch_ns"][-1])

    def _take(self, local_ns: int, message: Any, line: int, report: Report) -> NDArray[np.void]:
        """Rows of a message that Python has to read. Raises ValueError or another one where it cannot be."""
        exch_ns, sequence = iso_ns(message["time"]), int(message["sequence"])
        _require_fit(local_ns, exch_ns, sequence)
        found = np.zeros(1, MESSAGE)
        row = found[0]
        row["exch_ns"], row["sequence"] = exch_ns, sequence
        row["local_ns"], row["line"], row["ours"] = local_ns, line, True
        if not 0 <= row["sequence"] <= self._state["sequence"][0]:
            self._understand(message, row)
        return self._apply(found, report)

    def _understand(self, message: Any, row: np.void) -> None:
        """Note in `MESSAGE` what a message says that the book does not hold already."""
        kind = row["kind"] = KINDS.index(message["type"])
        if kind in (RECEIVED, ACTIVATE):
            return
        if kind == MATCH:
            side, id = _SIDES[message["side"]], int(message["trade_id"])
            if not 0 <= id < LARGEST:
                raise ValueError("trade_id")
            row["side"], row["trade"] = side, id
            row["price"], row["size"] = self._price_size(message["price"], message["size"])
            row["order"] = hash_text(str(message["maker_order_id"]))
            return
        row["order"] = hash_text(str(message["order_id"]))
        if kind == OPEN:
            row["side"] = _SIDES[message["side"]]
            row["price"], row["size"] = self._price_size(message["price"], message["remaining_size"])
        elif kind == CHANGE and table.find(self._orders, row["order"]) >= 0:
            price = message.get("new_price") or message.get("price")
            row["price"], row["size"] = self._price_size(price, message["new_size"])

    def _price_size(self, price: Any, size: Any) -> tuple[int, int]:
        found = _units(price, self.places[0]), _units(size, self.places[1])
        if not 0 < found[0] < LARGEST or not 0 <= found[1] < LARGEST:
            raise ValueError("price or size")
        return found


def _joined(rows: Iterable[NDArray[np.void]]) -> NDArray[np.void]:
    return joined([NO_ROWS, *rows])


def _require_fit(*numbers: int) -> None:
    """Raise ValueError for a time or number beyond 64 bits."""
    if any(abs(number) >= 1 << 63 for number in numbers):
        raise ValueError("time or number")


def _count(waiting: Waiting) -> int:
    """How many messages there are."""
    return 1 if isinstance(waiting, tuple) else len(waiting)


def _after(waiting: Waiting, sequence: int) -> Waiting:
    """Those that come after the message of this number, perhaps none of several."""
    if not isinstance(waiting, tuple):
        return waiting[waiting["sequence"] > sequence]
    return waiting if int(waiting[2]["sequence"]) > sequence else NO_MESSAGES


def _filled(held: table.Table, rows: Mapping[int, tuple[int, ...]]) -> table.Table:
    """A table with further rows, by key."""
    for key, row in rows.items():
        if table.full(held):
            held = table.larger(held)
        held[table.put(held, key), 1:] = row
    return held


def _units(value: Any, places: int) -> int:
    """A decimal in units of 10^-places; below 0 where it is none."""
    text = f"{value}\n"
    if not text.isascii() or text.count("\n") > 1:
        return INVALID
    return int(parse_decimals(np.frombuffer(text.encode(), np.uint8), 1, places, places)[0])


def no_scan(text: object, at: int, line: int, *_: object) -> tuple[int, int, Any]:
    """As `scan_orders`, which stops at once: Python reads all."""
    return at, line, NO_MESSAGES


def compile_scan() -> None:
    """Have `scan_orders` compiled, or taken from the cache."""
    line = np.frombuffer(b"\n", np.uint8)
    scan_orders(line, 0, 1, line, *Places(), False, KEYS)
