"""Bitstamp: order events, trades and snapshots of the book as its websocket sends them, `<local ms> <event>
<JSON>`.

An order is created, changed (`amount` is what it has left) and deleted. Until the first `order_book` the
orders that stand are unknown: its levels, 20 a side, are then lots of unknown place. Later ones serve for
comparison alone: they are taken at another moment than the events around them. `datetime` counts whole
seconds, so local time stands for the exchange's. A trade does not say who took: its side is that of the order
that changed last at its price, and unknown where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv.data import table
from mmenv.data.decimals import INVALID, TOO_FINE, Places
from mmenv.data.formats.ahead import ready
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.formats.bitstamp_orders import (
    BOOK,
    DEAL,
    EVENT,
    EVENTS,
    KEY,
    KEYS,
    KNOWN,
    LEFT,
    NEW,
    PRICE,
    SIDE,
    SINCE,
    SIZE,
    STATE,
    apply_log,
    scan_log,
)
from mmenv.data.formats.json_flat import LARGEST
from mmenv.data.lines import Block, Lines
from mmenv.data.problems import Report, valid
from mmenv.data.read_ahead import ReadAhead
from mmenv.data.rows import (
    ADD,
    BUY,
    CLEAR,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
    joined,
    taken,
    without,
)
from mmenv.data.sequence import Arrival, TradeIds
from mmenv.data.source import Source, source_of
from mmenv.times import MILLISECOND

BLOCK_BYTES: Final = 1 << 18
_SIDES: Final = (BUY, SELL)
"""By `order_type`."""
_ROOM: Final = 64
NO_ROWS: Final = np.zeros(0, RAW)
NO_EVENTS: Final = np.zeros(0, EVENT)
NO_PAIRS: Final = np.zeros((0, 2), np.int64)


class Read(NamedTuple):
    """A block, its events and their pairs of prices and sizes."""

    block: Block
    events: NDArray[np.void]
    pairs: NDArray[np.int64]


@register
class Bitstamp(Importer):
    """Consecutive logs of one pair."""

    name = "bitstamp"
    description = "Bitstamp order events, trades and books, `<local ms> <event> <JSON>` a line"
    notes = (
        "single orders are kept; those from before the first `order_book` have no place, and beyond its 20 "
        "levels they are not known; a trade has the side of the order that lost its lots"
    )

    def __init__(self, source: Source, paths: Sequence[Path]) -> None:
        self.source, self.names = source, [path.name for path in paths]
        self._ahead: ReadAhead[Lines, Read] = ReadAhead(Lines(paths))
        self.size = self._ahead.source.size
        self._arrival, self._trade_ids = Arrival(), TradeIds(numbered=True)
        self._state = np.zeros(1, STATE)
        self._orders: Any = table.empty(4)
        self._last: Any = table.empty(1)
        self._bids: Any = np.zeros((_ROOM, 4), np.int64)
        self._asks, self._takers = self._bids.copy(), self._bids.copy()

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Bitstamp]:
        firsts = []
        for path in paths:
            block = Lines([path]).pull()
            line = block.text.split(b"\n")[0] if block else b""
            if not cls.looks_like(line, path):
                raise CaptureError(
                    f"{path.name}: not lines of '<local ms> <event> <JSON>' as {cls.description}"
                )
            firsts.append((int(line.split(b" ")[0]), path))
        symbol = options.one_symbol or "BTCUSD"
        return [cls(source_of(options.venue or "bitstamp", symbol), [path for _, path in sorted(firsts)])]

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        stamp, _, rest = head.partition(b" ")
        return (
            stamp.isdigit() and len(stamp) < 18 and rest.partition(b" ")[0].decode(errors="replace") in EVENTS
        )

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        self._ahead.readers = self.readers
        with closing(self._ahead):
            while (found := self._ahead.pull(report, self._read)) is not None:
                self.done = self._ahead.source.done
                yield from self._rows(found, self._ahead.source.error, report)
        self._trade_ids.settle(report)

    def _rows(self, found: Read, error: str, report: Report) -> Iterator[NDArray[np.void]]:
        block = found.block
        rows = joined([NO_ROWS, *self._follow(found.events, found.pairs, block.file)])
        for name, what in (("same", "as the orders say"), ("other", "another one by then")):
            report.note(f"level of an order_book that is {what}", int(self._state[name][0]))
            self._state[name] = 0
        good = valid(rows, report)
        rows = rows if good.all() else taken(rows, good)
        self._arrival.set(rows, report, block.line == 1)
        trades = np.flatnonzero(rows["kind"] == TRADE)
        new = self._trade_ids.new(taken(rows, trades), report)
        yield rows if new.all() else without(rows, trades[~new])
        if error:
            report.add(report.name(block.file), block.line, 0, "truncated", error)

    def _read(self, lines: Lines, report: Report) -> Read | None:
        """What the next block says: compiled code takes the usual lines, and `_line` others."""
        block = lines.pull(BLOCK_BYTES)
        if block is None:
            return None
        text, at, line = np.frombuffer(block.text, np.uint8), 0, block.line
        events, pairs, held = [NO_EVENTS], [NO_PAIRS], 0
        read = scan_log if ready(scan_log, compile_scan) else no_scan
        while at < len(text):
            at, line, *found = read(text, at, line, KEYS)
            odd: list[Any] = []
            if at < len(text):
                end = block.text.find(b"\n", at)
                end = end if end >= 0 else len(text)
                if block.text[at:end].strip():
                    odd = self._line(block.text[at:end], line, report.name(block.file), report)
                at, line = end + 1, line + 1
            for some, theirs in (found, odd) if odd else (found,):
                for name in ("bids", "bids_end", "asks", "asks_end") if held else ():
                    some[name][some["event"] == BOOK] += held
                events.append(some)
                pairs.append(theirs)
                held += len(theirs)
        return Read(block, joined(events), np.concatenate(pairs) if len(pairs) > 2 else pairs[-1])

    def _line(self, line: bytes, number: int, name: str, report: Report) -> list[Any]:
        """`EVENT` [1] of a line and its pairs of prices and sizes; nothing where it is none."""
        events = np.zeros(1, EVENT)
        try:
            stamp, event, payload = line.split(b" ", 2)
            local_ns, data = int(stamp) * MILLISECOND, orjson.loads(payload)
            if not 0 < local_ns < LARGEST:
                raise ValueError("time")
            if event.decode() not in EVENTS:
                report.note(f"{event.decode()} message, not used")
                return []
            events["local_ns"], events["line"] = local_ns, number
            return [events, _understand(event.decode(), data, events)]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, InvalidOperation) as error:
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            report.add(name, number, 0, "bad-message", told)
            return []

    def _follow(
        self, events: NDArray[np.void], pairs: NDArray[np.int64], file: int
    ) -> Iterator[NDArray[np.void]]:
        """Rows of events, whose books are of these pairs of prices and sizes."""
        at, state = 0, self._state
        while at < len(events):
            if events["event"][at] == BOOK and not state["begun"][0]:
                yield self._begin(events[at], pairs, file)
                at += 1
                continue
            self._make_room()
            room = 4 * len(events) + int(state["bids"][0] + state["asks"][0] + 3 * state["takers"][0]) + 8
            out = np.empty(room, RAW)
            at, count = apply_log(
                events, at, pairs, file, out, state, self._orders, self._last,
                self._bids, self._asks, self._takers,
            )  # fmt: skip
            yield out[:count]

    def _make_room(self) -> None:
        """For what the next event may add."""
        state = self._state[0]
        more = int(state["takers"]) + _ROOM // 2
        while 2 * (self._orders[-1, 0] + more) >= len(self._orders) - 1:
            self._orders = table.larger(self._orders)
        if table.full(self._last):
            self._last = table.larger(self._last)
        self._bids, self._asks, self._takers = (
            held if int(state[name]) + more <= len(held) else np.concatenate([held, np.zeros_like(held)])
            for held, name in ((self._bids, "bids"), (self._asks, "asks"), (self._takers, "takers"))
        )

    def _begin(self, event: np.void, pairs: NDArray[np.int64], file: int) -> NDArray[np.void]:
        """The first book: with the orders that are known by then, the levels that stand."""
        state = self._state[0]
        state["begun"], state["number"] = 1, state["number"] + 1
        levels = list[NDArray[np.int64]]()
        for side, name, held in ((BUY, "bids", self._bids), (SELL, "asks", self._asks)):
            told = pairs[event[name] : event[f"{name}_end"]]
            levels.append(_joined(held[: int(state[name])], told, side, int(state["entered"])))
            state["entered"] += len(told)
            state[name] = len(levels[-1])
        self._bids, self._asks = (np.concatenate([each, np.zeros((_ROOM, 4), np.int64)]) for each in levels)
        orders = table.rows(self._orders)
        orders = orders[np.argsort(orders[:, SINCE])]
        both, sides = np.concatenate(levels), np.repeat(np.array(_SIDES), list(map(len, levels)))
        by_age = np.argsort(both[:, NEW])
        both, sides = both[by_age], sides[by_age]
        rows = np.zeros(1 + len(orders) + len(both), RAW)
        rows["exch_ns"], rows["local_ns"], rows["line"] = UNKNOWN_NS, event["local_ns"], event["line"]
        rows["file"], rows["id"] = file, state["number"]
        rows[:1]["kind"], rows[:1]["side"] = CLEAR, BUY
        told_orders, told_levels = rows[1 : 1 + len(orders)], rows[1 + len(orders) :]
        told_orders["kind"], told_orders["id"] = ADD, orders[:, 0]
        for place, name in ((SIDE, "side"), (PRICE, "price"), (SIZE, "size")):
            told_orders[name] = orders[:, place]
        told_levels["kind"], told_levels["side"] = SNAPSHOT, sides
        told_levels["price"], told_levels["size"] = both[:, KEY] * sides, both[:, LEFT]
        return rows


def _joined(held: NDArray[np.int64], told: NDArray[np.int64], side: int, entered: int) -> NDArray[np.int64]:
    """Levels of a side with those of the first book, which has prices and sizes [n, 2].

    `entered` is the place of the first of them in the order in which levels were first known.
    """
    place = {key: at for at, key in enumerate(held[:, KEY].tolist())}
    new = np.zeros((len(told), 4), np.int64)
    new[:, KEY], new[:, LEFT], new[:, NEW] = told[:, 0] * side, told[:, 1], entered + np.arange(len(told))
    known = np.array([key in place for key in new[:, KEY].tolist()], np.bool_)
    for key, size in new[known][:, [KEY, LEFT]].tolist():
        row = held[place[key]]
        row[LEFT] = max(size, row[KNOWN])
    found = np.concatenate([held, new[~known]])
    return found[np.argsort(found[:, KEY])]


def _understand(event: str, data: Any, events: NDArray[np.void]) -> NDArray[np.int64]:
    """Note what a message says in `EVENT` [1]; the pairs of prices and sizes of a book.

    Raises ValueError or another one of a value that cannot be.
    """
    row = events[0]
    row["event"] = EVENTS.index(event)
    if row["event"] == BOOK:
        return _levels(data, row)
    if row["event"] == DEAL:
        price, number = units(data["price"]), int(data["id"])
        if not 0 <= number < LARGEST:
            raise ValueError("id")
        row["price"], row["size"], row["id"] = price, units(data["amount"]), number
        return NO_PAIRS
    number, side = int(data["id"]), _SIDES[int(data["order_type"])]
    price, size = units(data["price"]), units(data["amount"])
    if not 0 < price < LARGEST or size < 0 or not 0 <= number < LARGEST:
        raise ValueError("price, amount or id")
    row["price"], row["size"], row["id"], row["side"] = price, size, number, side
    return NO_PAIRS


def _levels(data: Any, row: np.void) -> NDArray[np.int64]:
    """The levels of a book, the last one where a price comes twice, at its first place."""
    told = {
        (side, units(price)): units(size)
        for side, levels in zip(_SIDES, (data["bids"], data["asks"]), strict=True)
        for price, size in levels
    }
    if any(not 0 < value < LARGEST for level, size in told.items() for value in (level[1], size)):
        raise ValueError("price or size")
    row["bids_end"] = row["asks"] = sum(side == BUY for side, _ in told)
    row["asks_end"] = len(told)
    return np.array([(price, size) for (_, price), size in told.items()], np.int64).reshape(-1, 2)


@lru_cache(1 << 10, typed=True)
def units(value: Any) -> int:
    """A decimal in units of 1e-8; floats are rounded, as this venue sends some."""
    found = Decimal(str(value)).scaleb(Places().price)
    if not found.is_finite() or abs(found) >= 1 << 62:
        return INVALID
    whole = int(found.to_integral_value())
    return whole if whole == found or isinstance(value, float) else TOO_FINE


def no_scan(text: object, at: int, line: int, *_: object) -> tuple[int, int, Any, Any]:
    """As `scan_log`, which stops at once: Python reads all."""
    return at, line, NO_EVENTS, NO_PAIRS


def compile_scan() -> None:
    """Have `scan_log` compiled, or taken from the cache."""
    scan_log(np.frombuffer(b"\n", np.uint8), 0, 1, KEYS)
