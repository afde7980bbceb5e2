"""Binance messages of one symbol to rows, checked: of a capture or of a live feed.

The book starts at the first REST snapshot. That answer arrives after newer diffs, so it is placed by
`lastUpdateId`: the diffs newer than it are applied on top before it is emitted (Binance, "How to manage
a local order book correctly").
"""

from __future__ import annotations

import math
import re
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.decimals import Places, parse_decimals
from mmenv.data.formats.binance_scan import MESSAGE, STATE
from mmenv.data.problems import Report, valid
from mmenv.data.rows import (
    BBO,
    BUY,
    CLEAR,
    DEPTH,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
    SeveralSymbols,
    taken,
)
from mmenv.data.sequence import TradeIds
from mmenv.data.source import Source
from mmenv.times import MILLISECOND, SECOND

NEVER: Final = np.iinfo(np.int64).max
SNAPSHOT_WAIT_NS: Final = 30 * SECOND
"""How long diffs are held back for a snapshot before the book is started without one."""
MAX_AGGREGATED: Final = 4_096
"""Trades within an aggregated one that are remembered by their ids."""
RECENT_DIFFS: Final = 4_096
"""Diffs remembered for a snapshot that arrives late; a bound on memory, not on the file."""
PARTIAL: Final = re.compile(r"@depth\d")
"""In the name of a stream of a few levels, sent whole each time."""


@dataclass(frozen=True)
class _Diff:
    first_id: int
    last_id: int
    previous_id: int
    exch_ns: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    local_ns: int
    line: int


@dataclass(frozen=True)
class _Trade:
    """A trade from before the book is known."""

    local_ns: int
    line: int
    number: int
    exch_ns: int
    buys: bool
    texts: tuple[str, str]


class Decoder:
    """Turns messages into rows and checks their sequence numbers and times.

    Its state runs across files and connections: ids, times, whether the book has begun, the open chunk.
    `valid` is whether the book is whole: a gap makes it false until the next snapshot. Messages of other
    symbols are refused, unless these are `known` to be among ours.
    """

    def __init__(
        self,
        source: Source,
        report: Report,
        places: Places | None = None,
        known: Sequence[str] | None = None,
    ) -> None:
        self.source = source
        self.report = report
        self.places = places or Places()
        self.others: dict[str, float] | None = (
            None if known is None else {symbol: 0.0 for symbol in known if symbol != source.symbol}
        )
        """A price of each other symbol in the files, 0 until there is one; None: there may be none."""
        self.price = 0.0
        self.file = 0
        self.line = 0
        self.local_ns = 0
        self.started = False
        self.valid = False
        self.straddling = False
        self.first_ns = 0
        self.last_update = -1
        self.trade_ids = TradeIds(numbered=True, one_by_one=True)
        self.one_by_one = False
        """Trades come one by one; aggregated ones, which are the same, are then left out."""
        self.last_aggregate = -1
        """The newest trade that an aggregated one told of."""
        self.exch_ns = [0] * (BBO + 1)  # by kind of message
        self.recent: deque[_Diff] = deque(maxlen=RECENT_DIFFS)
        self.early: list[_Trade] = []
        self._messages = array("q")  # the numbers of MESSAGE one after another
        self._texts: list[str] = []  # prices and sizes of their rows
        self._handlers = {
            "depthUpdate": self._depth,
            "trade": self._trade,
            "aggTrade": self._aggregate,
            "bookTicker": self._ticker,
        }

    @property
    def name(self) -> str:
        """What the file or feed is called."""
        return self.report.name(self.file)

    def problem(self, kind: str, text: str) -> None:
        """Report what is wrong with the message of this line."""
        self.report.add(self.name, self.line, self.local_ns, kind, text)

    def message(self, local_ns: int, message: Any) -> None:
        """Decode a parsed message, a stream's or a REST depth snapshot; `flush` gives its rows.

        What is neither depth, trade nor book ticker is counted by kind.
        """
        try:
            data = message.get("data", message)
            kind = data.get("e")
            partial = PARTIAL.search(message.get("stream", "")) is not None
        except (AttributeError, TypeError):
            data = None
        if data is None or not 0 < local_ns < NEVER:
            self.problem("bad-line", "not '<local ns> <JSON object>'; skipped")
            return
        if local_ns < self.local_ns:
            told = f"local time {local_ns} follows {self.local_ns}; the later one is used"
            self.problem("time-backwards", told)
        else:
            self.local_ns = local_ns
        try:
            handle = self._handlers.get(kind)
            if partial:
                self._leave_out("partial depth")
            elif "lastUpdateId" in data:
                self._snapshot(data)
            elif kind is None and "B" in data and "u" in data:
                # Spot book tickers carry no event name.
                self._ticker(data)
            elif handle is not None:
                handle(data)
            elif kind is not None or "stream" in message:
                self._leave_out(str(kind or message["stream"].partition("@")[2]))
            elif "result" in data or "id" in data:
                self._leave_out("answer to a request")
            else:
                self._leave_out("unknown")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CaptureError):
                raise
            self.problem("bad-message", f"a {kind or 'snapshot'} message without a usable {error}; skipped")

    def _leave_out(self, kind: str) -> None:
        """Count a message that is not read."""
        self.report.note(f"{kind} message, not used")

    def _is_ours(self, data: dict[str, Any]) -> bool:
        """Whether a message is of our symbol; others are refused, or counted where they are known."""
        symbol = str(data["s"])
        if symbol == self.source.symbol:
            return True
        if self.others is None:
            raise SeveralSymbols(f"{self.name}:{self.line}", symbol, self.source.symbol)
        price = data["p"] if "p" in data else data["b"] or data["a"]
        price = price[0][0] if isinstance(price, list) and price else price
        if price:
            self.others[symbol] = float(price)
        self._leave_out(symbol)
        return False

    def _exchange_ns(self, stream: int, data: dict[str, Any]) -> int:
        stamp = data.get("T") or data.get("E")
        if stamp is None:
            return UNKNOWN_NS
        exch_ns = _number(int(stamp) * MILLISECOND, "time")
        last = self.exch_ns[stream]
        if exch_ns < last:
            self.problem("time-backwards", f"exchange time {exch_ns} follows {last}; the later one is used")
            return last
        self.exch_ns[stream] = exch_ns
        return exch_ns

    def _depth(self, data: dict[str, Any]) -> None:
        if not self._is_ours(data):
            return
        first, last = _number(data["U"], "update"), _number(data["u"], "update")
        previous = _number(data.get("pu", first - 1), "update")
        bids, asks = _levels(data["b"]), _levels(data["a"])
        exch_ns = self._exchange_ns(DEPTH, data)
        if last <= self.last_update:
            if not self.straddling:
                self.problem("duplicate-update", f"update {last} after {self.last_update}; skipped")
            return
        begins_early = self.straddling and previous <= self.last_update
        if self.last_update >= 0 and previous != self.last_update and not begins_early:
            missing = f"update {last} continues {previous}, but the last one was {self.last_update}"
            self.problem("sequence-gap", f"{missing}; the book is unreliable until the next snapshot")
            self.interrupt()
        self.last_update, self.straddling = last, False
        diff = _Diff(first, last, previous, exch_ns, bids, asks, self.local_ns, self.line)
        if not self.valid:
            self.recent.append(diff)
            if self.others and (diff.bids or diff.asks):
                self.price = float((diff.bids or diff.asks)[0][0])
        if self.started:
            self._emit(DEPTH, diff.bids, diff.asks, exch_ns, last)
            return
        self.first_ns = self.first_ns or self.local_ns
        if self.local_ns - self.first_ns > SNAPSHOT_WAIT_NS:
            self.start_without_snapshot()

    def _trade(self, data: dict[str, Any]) -> None:
        if not self._is_ours(data):
            return
        trade = _number(data["t"], "trade")
        exch_ns = self._exchange_ns(TRADE, data)
        self.one_by_one = True
        if trade <= self.last_aggregate:
            self._leave_out("trade told of by an aggTrade before it")
        elif data.get("X", "MARKET") != "MARKET":
            # Insurance-fund and auto-deleveraging prints never met the book.
            self.trade_ids.note(trade)
            self._leave_out(f"trade of type {data['X']}")
        else:
            self._put_trade(data, exch_ns, trade)

    def _aggregate(self, data: dict[str, Any]) -> None:
        """Aggregated trades stand in until trades come one by one; their id is that of their last trade."""
        if not self._is_ours(data):
            return
        if self.one_by_one:
            self._leave_out("aggTrade beside trade")
            return
        first, last = int(data["f"]), _number(data["l"], "trade")
        exch_ns = self._exchange_ns(TRADE, data)
        self.last_aggregate = max(self.last_aggregate, last)
        self.trade_ids.note(*range(first, last)[-MAX_AGGREGATED:])
        self._put_trade(data, exch_ns, last)

    def _put_trade(self, data: dict[str, Any], exch_ns: int, number: int) -> None:
        # "m": the buyer was the maker, so the aggressor sold.
        buys, [texts] = not data["m"], _levels([(data["p"], data["q"])])
        if self.started:
            self._put(TRADE, int(buys), int(not buys), exch_ns, number, texts)
        else:
            self.early.append(_Trade(self.local_ns, self.line, number, exch_ns, buys, texts))

    def _ticker(self, data: dict[str, Any]) -> None:
        if not self._is_ours(data):
            return
        exch_ns = self._exchange_ns(BBO, data)
        if self.started:
            touch = _levels([(data["b"], data["B"]), (data["a"], data["A"])])
            self._emit(BBO, touch[:1], touch[1:], exch_ns, _number(data["u"], "update"))

    def _snapshot(self, data: dict[str, Any]) -> None:
        if self.valid or not self._is_our_book(data):
            return
        update = _number(data["lastUpdateId"], "update")
        newer = [diff for diff in self.recent if diff.last_id > update]
        if newer and newer[0].previous_id > update:
            self.problem(
                "stale-snapshot",
                f"it is of update {update}, but the diffs kept begin at {newer[0].first_id}; ignored",
            )
            return
        book: list[dict[str, str]] = []
        for side, levels in (("bids", _levels(data["bids"])), ("asks", _levels(data["asks"]))):
            merged = dict(levels)
            for diff in newer:
                merged.update((price, size) for price, size in getattr(diff, side))
            book.append({price: size for price, size in merged.items() if size.strip("0.")})
        stamp = _number(int(data["T"]) * MILLISECOND, "time") if "T" in data else UNKNOWN_NS
        exch_ns = max(stamp, self.exch_ns[DEPTH]) if self.exch_ns[DEPTH] else stamp
        last = max(update, self.last_update)
        self._emit(CLEAR, [("0", "0")], [], exch_ns, last)
        self._emit(SNAPSHOT, list(book[0].items()), list(book[1].items()), exch_ns, last)
        self.started = self.valid = True
        # The diffs up to the snapshot are part of it; the first one past it may begin before its end.
        self.straddling = self.last_update < update
        self.last_update = last
        # A million small lists would keep the garbage collector busy.
        self.recent.clear()
        self.report.note("trade before the book begins, left out", len(self.early))
        self.early.clear()

    def _is_our_book(self, data: dict[str, Any]) -> bool:
        """Whether a snapshot is of our symbol; it may not say so, but prices of two symbols differ."""
        if "symbol" in data:
            return bool(data["symbol"] == self.source.symbol)
        levels = data["bids"] or data["asks"]
        if not self.others or not levels:
            return True
        price = float(levels[0][0])
        if not self.price:
            return False  # it will not be ours: ours could not be placed without a diff

        def distance(other: float) -> float:
            return abs(math.log(price / other)) if other > 0 and price > 0 else math.inf

        return distance(self.price) <= min(map(distance, self.others.values()))

    def interrupt(self) -> None:
        """Messages were lost, or may have been: the book is broken until the next snapshot."""
        self.valid = False
        self.recent.clear()

    def start_without_snapshot(self) -> None:
        """Give up waiting: emit the diffs held back."""
        self.problem(
            "missing-snapshot",
            "no depth snapshot; the book is built from diffs alone and lacks levels",
        )
        self.started = True
        now = self.local_ns, self.line
        held: list[_Diff | _Trade] = [*self.recent, *self.early]
        for each in sorted(held, key=lambda each: (each.local_ns, each.line)):
            self.local_ns, self.line = each.local_ns, each.line
            if isinstance(each, _Diff):
                self._emit(DEPTH, each.bids, each.asks, each.exch_ns, each.last_id)
            else:
                self._put(TRADE, int(each.buys), int(not each.buys), each.exch_ns, each.number, each.texts)
        self.local_ns, self.line = now
        self.early.clear()

    def _emit(self, kind: int, bids: Sequence[Any], asks: Sequence[Any], exch_ns: int, number: int) -> None:
        levels = chain.from_iterable(chain(bids, asks))
        self._put(kind, len(bids), len(asks), exch_ns, number, levels)

    def _put(self, kind: int, bids: int, asks: int, exch_ns: int, number: int, texts: Iterable[str]) -> None:
        # All the numbers or, where one does not fit, none.
        self._messages.extend(array("q", (kind, bids, asks, exch_ns, self.local_ns, number, self.line)))
        self._texts.extend(texts)

    def discard(self) -> None:
        """Forget what was gathered since the last flush."""
        self._messages = array("q")
        self._texts.clear()

    def flush(self) -> NDArray[np.void]:
        """The rows gathered since the last flush, invalid ones reported and left out."""
        count = len(self._texts)
        text = "\n".join([*self._texts, ""]).encode()
        values = parse_decimals(np.frombuffer(text, np.uint8), count, *self.places)
        messages = np.array(self._messages, np.int64).view(MESSAGE)
        self.discard()
        return self.keep_possible(messages, values)

    def keep_possible(self, messages: NDArray[np.void], values: NDArray[np.int64]) -> NDArray[np.void]:
        """`RAW` rows of `MESSAGE` [m] without the impossible ones, which are reported; see `scan`."""
        rows, good = rows_of(messages, values, self.file)
        if good:
            self.report.rows += len(rows)
        else:
            rows = rows[valid(rows, self.report)]
        trades = np.flatnonzero(rows["kind"] == TRADE)
        if not len(trades):
            return rows
        keep = np.ones(len(rows), np.bool_)
        keep[trades] = self.trade_ids.new(taken(rows, trades), self.report)
        return rows if keep.all() else taken(rows, keep)

    def get_state(self, next_line: int) -> np.void:
        """The `STATE` from which `scan` goes on at this line."""
        state = np.zeros(1, STATE)[0]
        state["line"], state["local_ns"] = next_line, self.local_ns
        state["update"], state["aggregate"] = self.last_update, self.last_aggregate
        state["found"]["price_places"], state["found"]["size_places"] = self.places
        state["exch_ns"] = self.exch_ns
        return state

    def set_state(self, state: np.void) -> int:
        """Go on where `scan` stopped; the next line."""
        self.line, self.local_ns = int(state["line"]) - 1, int(state["local_ns"])
        self.last_update = int(state["update"])
        self.exch_ns = state["exch_ns"].tolist()
        return int(state["line"])


def _number(value: Any, what: str) -> int:
    """A whole number of 64 bits. Raises TypeError or ValueError where it is none."""
    number = int(value)
    if abs(number) > NEVER:
        raise ValueError(what)
    return number


def _levels(found: Any) -> list[tuple[str, str]]:
    """Prices and sizes. Raises TypeError or ValueError where they are none, or not text of one line."""
    levels = [(price, size) for price, size in found]
    if not all(isinstance(text, str) and "\n" not in text for level in levels for text in level):
        raise TypeError("price or size")
    return levels


@njit(cache=True, nogil=True)
def rows_of(
    messages: NDArray[np.void], values: NDArray[np.int64], file: int
) -> tuple[NDArray[np.void], bool]:
    """`RAW` rows [n] of `MESSAGE` [m], with prices and sizes [2 n] by turns; and whether all are possible."""
    rows = np.empty(len(values) // 2, RAW)
    good = True
    place = 0
    for message in messages:
        kind = message.kind
        for level in range(message.bids + message.asks):
            row = rows[place]
            price, size = values[2 * place], values[2 * place + 1]
            row.kind, row.side = kind, BUY if level < message.bids else SELL
            row.exch_ns, row.local_ns = message.exch_ns, message.local_ns
            row.id, row.line, row.file = message.id, message.line, file
            row.price, row.size = price, size
            # A first look, for speed; `valid` says what is wrong.
            good = good and size >= 0 and price >= 0 and (price > 0 or kind == CLEAR)
            good = good and (size > 0 or kind != TRADE)
            place += 1
    return rows, good
