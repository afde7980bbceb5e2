"""Raw Binance feed captures: USD-M and COIN-M futures and spot.

One line is the local time in nanoseconds, a blank and the exchange's JSON message (diff depth, book
ticker, trade; REST depth snapshots in between), plain or gzipped.

The book starts at the first REST snapshot. That answer arrives after newer diffs, so it is placed by
`lastUpdateId`: the diffs newer than it are applied on top before it is emitted (Binance, "How to manage
a local order book correctly").
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from mmenv.data.capture import (
    BBO,
    BUY,
    CLEAR,
    DECIMALS,
    DEPTH,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
    Options,
    Reader,
    Report,
    Source,
    parse_decimal,
    parse_decimals,
    register,
    valid,
)
from mmenv.data.columns import Block, Lines

NEVER: Final = np.iinfo(np.int64).max
MILLISECOND: Final = 1_000_000
BLOCK_BYTES: Final = 1 << 20
"""Text parsed at a time."""
SNAPSHOT_WAIT_NS: Final = 30_000_000_000
"""How long diffs are held back for a snapshot before the book is started without one."""
RECENT_DIFFS: Final = 4_096
"""Diffs remembered for a snapshot that arrives late; a bound on memory, not on the file."""

# Regular (VIP 0) fees in basis points; a desk's own go into ReplayConfig or `--maker-fee-bp`.
FEES_BP: Final = {
    "binance-usdm": (2.0, 5.0),
    "binance-coinm": (2.0, 5.0),
    "binance-spot": (10.0, 10.0),
}


@register("binance", "raw captures of Binance USD-M, COIN-M or spot, told apart by their content")
def open_files(paths: Sequence[Path], options: Options) -> list[BinanceReader]:
    """One reader for each venue and symbol."""
    found: dict[tuple[str, str], list[tuple[int, Path, Source]]] = {}
    for path in paths:
        first_ns, source = identify(path)
        for name, given in (("venue", options.venue), ("symbol", options.symbol)):
            if given not in (None, getattr(source, name)):
                raise CaptureError(f"--{name} is {given!r}, but {path.name} holds {getattr(source, name)!r}")
        found.setdefault((source.venue, source.symbol), []).append((first_ns, path, source))
    groups = [sorted(group, key=lambda file: file[0]) for group in found.values()]
    return [BinanceReader(group[0][2], [path for _, path, _ in group]) for group in groups]


def identify(path: Path) -> tuple[int, Source]:
    """Read `path` up to its first depth diff: when it starts, and which venue and symbol it is.

    Raises:
        CaptureError: unreadable, or no Binance depth diff in it.
    """
    first_ns = 0
    lines = Lines([path])
    while (block := lines.pull()) is not None:
        for line in block.text.split(b"\n"):
            stamp, _, payload = line.partition(b" ")
            try:
                local_ns, message = int(stamp), orjson.loads(payload)
                data = message.get("data", message)
            except (ValueError, AttributeError):
                continue
            first_ns = first_ns or local_ns
            if data.get("e") == "depthUpdate":
                return first_ns, _source(data)
        if lines.error:
            raise CaptureError(f"{path}: cannot be read: {lines.error}")
    raise CaptureError(
        f"{path}: no Binance depth diff found; expected lines of '<local ns> <JSON message>' of a raw capture"
    )


def _source(diff: dict[str, Any]) -> Source:
    venue = "binance-coinm" if "ps" in diff else "binance-usdm" if "pu" in diff else "binance-spot"
    maker, taker = FEES_BP[venue]
    symbol = str(diff["s"])
    if venue != "binance-coinm":
        return Source(venue, symbol, maker_fee_bp=maker, taker_fee_bp=taker)
    # COIN-M contracts are worth 100 USD on BTC and 10 USD on everything else.
    return Source(venue, symbol, "inverse", "100" if symbol.startswith("BTC") else "10", maker, taker)


@dataclass(frozen=True)
class _Diff:
    first_id: int
    last_id: int
    previous_id: int
    exch_ns: int
    bids: list[list[str]]
    asks: list[list[str]]


class Decoder:
    """Messages of one symbol to rows, of a capture or a live feed; sequence numbers and times are checked.

    Its state runs across files and connections: ids, times, whether the book has begun, the open chunk.
    `valid` is whether the book is whole: a gap makes it false until the next snapshot.
    """

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        self.name = ""
        self.file = 0
        self.line = 0
        self.local_ns = 0
        self.started = False
        self.valid = False
        self.straddling = False
        self.first_ns = 0
        self.last_update = -1
        self.last_trade = -1
        self.exch_ns = {DEPTH: 0, TRADE: 0, BBO: 0}
        self.recent: deque[_Diff] = deque(maxlen=RECENT_DIFFS)
        # Seven numbers per message: kind, bid rows, ask rows, exchange time, local time, id, line.
        self.messages = array("q")
        self.texts: list[str] = []
        self.handlers = {"depthUpdate": self._depth, "trade": self._trade, "bookTicker": self._ticker}

    def problem(self, kind: str, text: str) -> None:
        self.report.add(self.name, self.line, self.local_ns, kind, text)

    def message(self, local_ns: int, message: Any) -> None:
        """Decode a parsed message, a stream's or a REST depth snapshot; `flush` gives its rows."""
        try:
            data = message.get("data", message)
            kind = data.get("e")
        except AttributeError:
            data = None
        if data is None or not 0 < local_ns < NEVER:
            self.problem("bad-line", "not '<local ns> <JSON object>'; skipped")
            return
        if local_ns < self.local_ns:
            self.problem(
                "time-backwards",
                f"local time {local_ns} follows {self.local_ns}; the later one is used",
            )
        else:
            self.local_ns = local_ns
        try:
            handle = self.handlers.get(kind)
            if handle is not None:
                handle(data)
            elif "lastUpdateId" in data:
                self._snapshot(data)
            elif kind is None and "B" in data:
                # Spot book tickers carry no event name.
                self._ticker(data)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, CaptureError):
                raise
            self.problem(
                "bad-message",
                f"a {kind or 'snapshot'} message without a usable {error}; skipped",
            )

    def _symbol(self, data: dict[str, Any]) -> None:
        if data["s"] != self.source.symbol:
            raise CaptureError(
                f"{self.name}:{self.line}: {data['s']} among {self.source.symbol}; give one symbol per file"
            )

    def _exchange_ns(self, stream: int, data: dict[str, Any]) -> int:
        stamp = data.get("T") or data.get("E")
        if stamp is None:
            return UNKNOWN_NS
        exch_ns = int(stamp) * MILLISECOND
        if exch_ns > NEVER:
            raise ValueError("time")
        last = self.exch_ns[stream]
        if exch_ns < last:
            self.problem(
                "time-backwards",
                f"exchange time {exch_ns} follows {last}; the later one is used",
            )
            return last
        self.exch_ns[stream] = exch_ns
        return exch_ns

    def _depth(self, data: dict[str, Any]) -> None:
        self._symbol(data)
        first, last = int(data["U"]), int(data["u"])
        previous = int(data.get("pu", first - 1))
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
        diff = _Diff(first, last, previous, exch_ns, data["b"], data["a"])
        if not self.valid:
            self.recent.append(diff)
        if self.started:
            self._emit(DEPTH, diff.bids, diff.asks, exch_ns, last)
            return
        self.first_ns = self.first_ns or self.local_ns
        if self.local_ns - self.first_ns > SNAPSHOT_WAIT_NS:
            self.start_without_snapshot()

    def _trade(self, data: dict[str, Any]) -> None:
        self._symbol(data)
        trade = int(data["t"])
        exch_ns = self._exchange_ns(TRADE, data)
        if self.last_trade >= 0 and trade <= self.last_trade:
            self.problem("duplicate-trade", f"trade {trade} after {self.last_trade}; skipped")
            return
        if self.last_trade >= 0 and trade > self.last_trade + 1:
            self.problem(
                "trade-gap",
                f"{trade - self.last_trade - 1} trades missing before {trade}",
            )
        self.last_trade = trade
        # Insurance-fund and auto-deleveraging prints never met the book.
        if self.started and data.get("X", "MARKET") == "MARKET":
            # "m": the buyer was the maker, so the aggressor sold.
            buys, sells = (0, 1) if data["m"] else (1, 0)
            texts = data["p"], data["q"]
            self._put(TRADE, buys, sells, exch_ns, trade)
            self.texts += texts

    def _ticker(self, data: dict[str, Any]) -> None:
        self._symbol(data)
        exch_ns = self._exchange_ns(BBO, data)
        if self.started:
            texts = data["b"], data["B"], data["a"], data["A"]
            self._put(BBO, 1, 1, exch_ns, int(data["u"]))
            self.texts += texts

    def _snapshot(self, data: dict[str, Any]) -> None:
        if self.valid:
            return
        update = int(data["lastUpdateId"])
        newer = [diff for diff in self.recent if diff.last_id > update]
        if newer and newer[0].previous_id > update:
            self.problem(
                "stale-snapshot",
                f"it is of update {update}, but the diffs kept begin at {newer[0].first_id}; ignored",
            )
            return
        book: list[dict[str, str]] = []
        for side, levels in (("bids", data["bids"]), ("asks", data["asks"])):
            merged: dict[str, str] = dict(levels)
            for diff in newer:
                merged.update((price, size) for price, size in getattr(diff, side))
            book.append({price: size for price, size in merged.items() if size.strip("0.")})
        stamp = int(data["T"]) * MILLISECOND if "T" in data else UNKNOWN_NS
        exch_ns = max(stamp, self.exch_ns[DEPTH]) if self.exch_ns[DEPTH] else stamp
        last = max(update, self.last_update)
        self._emit(CLEAR, [["0", "0"]], [], exch_ns, last)
        self._emit(SNAPSHOT, list(book[0].items()), list(book[1].items()), exch_ns, last)
        self.started = self.valid = True
        # The diffs up to the snapshot are part of it; the first one past it may begin before its end.
        self.straddling = self.last_update < update
        self.last_update = last
        # A million small lists would keep the garbage collector busy.
        self.recent.clear()

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
        for diff in self.recent:
            self._emit(DEPTH, diff.bids, diff.asks, diff.exch_ns, diff.last_id)

    def _emit(
        self,
        kind: int,
        bids: Sequence[Any],
        asks: Sequence[Any],
        exch_ns: int,
        number: int,
    ) -> None:
        self._put(kind, len(bids), len(asks), exch_ns, number)
        self.texts.extend(chain.from_iterable(bids))
        self.texts.extend(chain.from_iterable(asks))

    def _put(self, kind: int, bids: int, asks: int, exch_ns: int, number: int) -> None:
        # All seven numbers or, where one does not fit, none.
        self.messages.extend(array("q", (kind, bids, asks, exch_ns, self.local_ns, number, self.line)))

    def flush(self) -> NDArray[np.void]:
        """The rows gathered since the last flush, invalid ones reported and left out."""
        count = len(self.texts)
        text = "\n".join([*self.texts, ""]).encode()
        if count % 2 or text.count(b"\n") != count:
            raise CaptureError(f"{self.name}: a price level near line {self.line} is not a pair of decimals")
        values = parse_decimals(np.frombuffer(text, np.uint8), count)
        messages = np.array(self.messages, np.int64)
        self.messages = array("q")
        self.texts.clear()
        return self.keep_possible(messages, values)

    def keep_possible(self, messages: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.void]:
        """RAW rows of messages, seven numbers each, without the impossible ones, which are reported."""
        rows, good = _rows(messages, values, self.file)
        return rows if good else rows[valid(rows, {self.file: self.name}, self.report)]

    def get_state(self, next_line: int) -> NDArray[np.int64]:
        """What `scan` goes on from, at this line."""
        state = np.zeros(_STATE_SIZE, np.int64)
        state[_LINE], state[_LOCAL] = next_line, self.local_ns
        state[_UPDATE], state[_LAST_TRADE] = self.last_update, self.last_trade
        for stream, exch_ns in self.exch_ns.items():
            state[_EXCH + stream] = exch_ns
        return state

    def set_state(self, state: NDArray[np.int64]) -> int:
        """Inverse of `get_state`."""
        self.line, self.local_ns = int(state[_LINE]) - 1, int(state[_LOCAL])
        self.last_update, self.last_trade = int(state[_UPDATE]), int(state[_LAST_TRADE])
        self.exch_ns = {stream: int(state[_EXCH + stream]) for stream in self.exch_ns}
        return int(state[_LINE])


@njit(cache=True, nogil=True)
def _rows(
    messages: NDArray[np.int64], values: NDArray[np.int64], file_number: int
) -> tuple[NDArray[np.void], bool]:
    """RAW rows [n] of messages, seven numbers each, with prices and sizes [2 n]; and if all are possible."""
    rows = np.empty(len(values) // 2, RAW)
    good = True
    place = 0
    for at in range(0, len(messages), 7):
        kind, bids = messages[at], messages[at + 1]
        for level in range(bids + messages[at + 2]):
            row = rows[place]
            price, size = values[2 * place], values[2 * place + 1]
            row.kind, row.side = kind, BUY if level < bids else SELL
            row.exch_ns, row.local_ns = messages[at + 3], messages[at + 4]
            row.id, row.line, row.file = messages[at + 5], messages[at + 6], file_number
            row.price, row.size = price, size
            # A first look, for speed; `valid` says what is wrong.
            good = good and size >= 0 and price >= 0 and (price > 0 or kind == CLEAR)
            good = good and (size > 0 or kind != TRADE)
            place += 1
    return rows, good


class BinanceReader(Reader):
    """Consecutive captures of one symbol, in arrival order.

    Args:
        source: what is recorded.
        paths: files in time order.
    """

    def __init__(self, source: Source, paths: Sequence[Path]) -> None:
        self.source = source
        self.names = [path.name for path in paths]
        self._lines = Lines(paths)
        self.size = self._lines.size
        self._decoder = Decoder(source, Report())
        self._decoder.file = -1

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        decoder = self._decoder
        decoder.report = report
        while (block := self._lines.pull(BLOCK_BYTES)) is not None:
            self.done = self._lines.done
            begins = block.file != decoder.file
            if begins:
                yield self._end_file()
                decoder.file, decoder.name = block.file, self.names[block.file]
            yield np.concatenate([np.zeros(0, RAW), *self._block(block, begins), decoder.flush()])
            if self._lines.error:
                decoder.problem("truncated", self._lines.error)
        yield self._end_file()

    def _end_file(self) -> NDArray[np.void]:
        """All rows of a chunk are of one file."""
        if self._decoder.file >= 0 and not self._decoder.started:
            self._decoder.start_without_snapshot()
        return self._decoder.flush()

    def _block(self, block: Block, begins: bool) -> Iterator[NDArray[np.void]]:
        """Rows of a block: compiled code takes what is in order, `Decoder.message` the lines it stops at."""
        decoder, text = self._decoder, np.frombuffer(block.text, np.uint8)
        symbol = np.frombuffer(self.source.symbol.encode(), np.uint8)
        at, next_line = 0, block.line
        if begins and decoder.local_ns and _stamp(block.text) < decoder.local_ns:
            raise CaptureError(
                f"{decoder.name} begins before {self.names[block.file - 1]} ends: they overlap; "
                "give only one of them"
            )
        while at < len(text):
            if decoder.started and decoder.valid and not decoder.straddling:
                begin, state = at, decoder.get_state(next_line)
                at, messages, values = scan(text, at, symbol, state)
                if at > begin:
                    yield decoder.flush()
                    next_line = decoder.set_state(state)
                    yield decoder.keep_possible(messages, values)
                    continue
            end = block.text.find(b"\n", at)
            line = block.text[at : end if end >= 0 else len(text)]
            at += len(line) + 1
            decoder.line, next_line = next_line, next_line + 1
            self._line(line)

    def _line(self, line: bytes) -> None:
        stamp, _, payload = line.partition(b" ")
        try:
            local_ns, message = int(stamp), orjson.loads(payload)
        except ValueError:
            self._decoder.problem("bad-line", "not '<local ns> <JSON object>'; skipped")
        else:
            self._decoder.message(local_ns, message)


def _stamp(text: bytes) -> int:
    stamp = text[:20].partition(b" ")[0]
    return int(stamp) if stamp.isdigit() else 0


# The state of a decoder that compiled code reads and writes.
_LINE, _LOCAL, _UPDATE, _LAST_TRADE, _EXCH = range(5)
_STATE_SIZE: Final = _EXCH + 6

# Places of what a message says, by key.
_E, _T, _U, _LAST_U, _PU, _ID, _MAKER, _FIELDS = range(8)
_ABSENT: Final = -1


@njit(cache=True, nogil=True)
def scan(text, at, symbol, state):  # type: ignore[no-untyped-def]
    """Diffs, trades and tickers that are in order, up to the first line that is anything else.

    Args:
        text: bytes of whole lines; at: where to begin; symbol: bytes.
        state: of `Decoder.get_state`; updated.

    Returns:
        Where it stopped, a line's begin; messages and values as `_rows` takes them.
    """
    messages = np.empty(7 * (len(text) // 64 + 1), np.int64)
    values = np.empty(len(text) // 4 + 8, np.int64)
    fields = np.empty(_FIELDS, np.int64)
    spans = np.empty((4, 2), np.int64)
    count, filled = 0, 0
    while at < len(text) and count + 7 <= len(messages):
        place, local_ns = _number(text, at)
        if local_ns < state[_LOCAL] or place >= len(text) or text[place] != 32:
            break
        end, kind, bids, asks, used = _wrapped(text, place + 1, symbol, fields, spans, values, filled)
        if kind == 0 or end >= len(text) or text[end] != 10:
            break
        number = _follow(kind, fields, state)
        if number < 0:
            break
        stamp = fields[_T] if fields[_T] > 0 else fields[_E]
        exch_ns = np.int64(UNKNOWN_NS)
        if stamp > 0:
            exch_ns = stamp * MILLISECOND
            if exch_ns < state[_EXCH + kind]:
                break
        if kind == TRADE and fields[_MAKER] == _ABSENT:
            break
        # From here on the line counts.
        if kind == TRADE:
            bids, asks = 1 - fields[_MAKER], fields[_MAKER]
            state[_LAST_TRADE] = number
        elif kind == DEPTH:
            state[_UPDATE] = number
        if stamp > 0:
            state[_EXCH + kind] = exch_ns
        state[_LOCAL] = local_ns
        row = messages[count : count + 7]
        row[0], row[1], row[2], row[3] = kind, bids, asks, exch_ns
        row[4], row[5], row[6] = local_ns, number, state[_LINE]
        count += 7
        filled += used
        state[_LINE] += 1
        at = end + 1
    return at, messages[:count].copy(), values[:filled].copy()


@njit(cache=True, nogil=True)
def _follow(kind, fields, state):  # type: ignore[no-untyped-def]
    """Number of a message that continues the ones before it, or -1."""
    if kind == BBO:
        return fields[_LAST_U]
    if kind == TRADE:
        last = state[_LAST_TRADE]
        return fields[_ID] if last < 0 or fields[_ID] == last + 1 else -1
    previous = fields[_PU] if fields[_PU] != _ABSENT else fields[_U] - 1
    follows = previous == state[_UPDATE] and fields[_LAST_U] > state[_UPDATE] and fields[_U] != _ABSENT
    return fields[_LAST_U] if follows else -1


@njit(cache=True, nogil=True)
def _number(text, at):  # type: ignore[no-untyped-def]
    """Where a whole number ends, and it; -1 if there is none."""
    begin, value = at, np.int64(0)
    while at < len(text) and 48 <= text[at] <= 57:
        value = 10 * value + (text[at] - 48)
        at += 1
    digits = at - begin
    good = 0 < digits <= 18 or (digits == 19 and value > 0)
    return at, value if good and (text[begin] != 48 or digits == 1) else np.int64(-1)


@njit(cache=True, nogil=True)
def _wrapped(text, at, symbol, fields, spans, values, filled):  # type: ignore[no-untyped-def]
    """As `_object`, of a message that may be inside {"stream": ..., "data": ...}."""
    if not _begins(text, at, _STREAM):
        return _object(text, at, symbol, fields, spans, values, filled)
    end = _quote_end(text, at + len(_STREAM))
    if end < 0 or not _begins(text, end, _DATA):
        return at, 0, 0, 0, 0
    end, kind, bids, asks, used = _object(text, end + len(_DATA), symbol, fields, spans, values, filled)
    if end >= len(text) or text[end] != 125:
        kind = 0
    return end + 1, kind, bids, asks, used


@njit(cache=True, nogil=True)
def _object(text, at, symbol, fields, spans, values, filled):  # type: ignore[no-untyped-def]
    """Read one message, as compact as exchanges write it.

    Returns where it ends, its kind (0: not one of ours), levels of bids and asks, and how many values they
    took. Prices and sizes go to `values` from `filled` on, numbers to `fields`.
    """
    fields[:] = _ABSENT
    spans[:] = -1
    nothing = (at, 0, 0, 0, 0)
    kind, bids, asks, used = -1, 0, 0, 0
    ours, opened = False, True
    size = len(text)
    while at < size:
        if text[at] == 125:  # }
            at += 1
            break
        if text[at] != (123 if opened else 44) or at + 1 >= size or text[at + 1] != 34:
            return nothing
        opened = False
        begin = at + 2
        end = _quote_end(text, begin)
        if end < 0 or end + 2 >= size or text[end + 1] != 58:
            return nothing
        at = end + 2
        first, length = text[begin], end - begin
        if text[at] == 34:
            value, at = at + 1, _quote_end(text, at + 1) + 1
            if at <= 0:
                return nothing
            last = at - 1
            if length > 1:
                continue
            if first == 101:  # e
                kind = _kind(text, value, last)
            elif first == 115:  # s
                ours = _same(text, value, last, symbol)
            elif first == 88:  # X
                if not _same(text, value, last, _MARKET):
                    return nothing
            elif first == 112 or first == 98:  # p, b
                spans[0, 0], spans[0, 1] = value, last
            elif first == 113 or first == 66:  # q, B
                spans[1, 0], spans[1, 1] = value, last
            elif first == 97:  # a
                spans[2, 0], spans[2, 1] = value, last
            elif first == 65:  # A
                spans[3, 0], spans[3, 1] = value, last
            else:
                return nothing
        elif text[at] == 91:  # [
            if length != 1 or (first != 98 and first != 97):
                return nothing
            at, levels = _levels(text, at, values, filled + used)
            if at < 0:
                return nothing
            used += 2 * levels
            if first == 98:
                if asks:
                    return nothing
                bids = levels
            else:
                asks = levels
        elif _begins(text, at, _TRUE) or _begins(text, at, _FALSE):
            if length == 1 and first == 109:  # m
                fields[_MAKER] = 1 if text[at] == 116 else 0
            at += 4 if text[at] == 116 else 5
        else:
            at, number = _number(text, at)
            if number < 0:
                return nothing
            if length == 1:
                if first == 69:
                    fields[_E] = number
                elif first == 84:
                    fields[_T] = number
                elif first == 85:
                    fields[_U] = number
                elif first == 117:
                    fields[_LAST_U] = number
                elif first == 116:
                    fields[_ID] = number
            elif length == 2 and first == 112 and text[begin + 1] == 117:  # pu
                fields[_PU] = number
    if kind < 0 and spans[1, 0] >= 0 and spans[3, 0] >= 0:
        kind = BBO  # spot book tickers carry no event name
    if not ours or kind <= 0 or text[at - 1] != 125:
        return nothing
    if kind == DEPTH:
        return (at, DEPTH, bids, asks, used) if fields[_LAST_U] >= 0 and used else nothing
    wanted = 2 if kind == TRADE else 4
    if (fields[_ID] if kind == TRADE else fields[_LAST_U]) < 0 or used:
        return nothing
    for number in range(wanted):
        if spans[number, 0] < 0:
            return nothing
        values[filled + number] = parse_decimal(text, spans[number, 0], spans[number, 1], DECIMALS)
    return at, kind, 1, 1, wanted


@njit(cache=True, nogil=True)
def _quote_end(text, at):  # type: ignore[no-untyped-def]
    """The quote that ends a text; -1 if there is none on the line, or an escape before it."""
    while at < len(text) and text[at] != 34:
        if text[at] == 92 or text[at] == 10:
            return -1
        at += 1
    return at if at < len(text) else -1


@njit(cache=True, nogil=True)
def _begins(text, begin, wanted):  # type: ignore[no-untyped-def]
    if begin + len(wanted) > len(text):
        return False
    same = True
    for place in range(len(wanted)):
        same = same and text[begin + place] == wanted[place]
    return same


@njit(cache=True, nogil=True)
def _same(text, begin, end, wanted):  # type: ignore[no-untyped-def]
    return end - begin == len(wanted) and _begins(text, begin, wanted)


_STREAM: Final = np.frombuffer(b'{"stream":"', np.uint8)
_DATA: Final = np.frombuffer(b'","data":', np.uint8)
_MARKET: Final = np.frombuffer(b"MARKET", np.uint8)
_TRUE: Final = np.frombuffer(b"true", np.uint8)
_FALSE: Final = np.frombuffer(b"false", np.uint8)
_DEPTH_NAME: Final = np.frombuffer(b"depthUpdate", np.uint8)
_TRADE_NAME: Final = np.frombuffer(b"trade", np.uint8)
_TICKER_NAME: Final = np.frombuffer(b"bookTicker", np.uint8)


@njit(cache=True, nogil=True)
def _kind(text, begin, end):  # type: ignore[no-untyped-def]
    if _same(text, begin, end, _DEPTH_NAME):
        return DEPTH
    if _same(text, begin, end, _TRADE_NAME):
        return TRADE
    return BBO if _same(text, begin, end, _TICKER_NAME) else 0


@njit(cache=True, nogil=True)
def _levels(text, at, values, filled):  # type: ignore[no-untyped-def]
    """Where [["price","size"],...] ends and how many levels it has; -1 if it is anything else."""
    levels = 0
    at += 1
    while at + 1 < len(text) and text[at] != 93:
        if levels:
            if text[at] != 44:
                return -1, 0
            at += 1
        if text[at] != 91 or text[at + 1] != 34:
            return -1, 0
        end = _quote_end(text, at + 2)
        if end < 0 or end + 2 >= len(text) or text[end + 1] != 44 or text[end + 2] != 34:
            return -1, 0
        last = _quote_end(text, end + 3)
        if last < 0 or last + 1 >= len(text) or text[last + 1] != 93:
            return -1, 0
        values[filled + 2 * levels] = parse_decimal(text, at + 2, end, DECIMALS)
        values[filled + 2 * levels + 1] = parse_decimal(text, end + 3, last, DECIMALS)
        levels += 1
        at = last + 2
    return at + 1, levels
