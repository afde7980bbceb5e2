"""Raw Binance feed captures: USD-M and COIN-M futures and spot.

One line is the local time in nanoseconds, a blank and the exchange's JSON message (diff depth, book
ticker, trade; REST depth snapshots in between), plain or gzipped.

The book starts at the first REST snapshot. That answer arrives after newer diffs, so it is placed by
`lastUpdateId`: the diffs newer than it are applied on top before it is emitted (Binance, "How to manage
a local order book correctly").
"""

from __future__ import annotations

import gc
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    parse_decimals,
    register,
    valid,
)
from mmenv.data.columns import Block, Lines

MILLISECOND: Final = 1_000_000
CHUNK_ROWS: Final = 65_536
BLOCK_BYTES: Final = 1 << 18
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


@contextmanager
def _without_collector() -> Iterator[None]:
    """Parsing makes millions of lists and no cycles; the collector would double its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
        except (KeyError, TypeError, ValueError) as error:
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
        self.recent.append(diff)
        if self.started:
            self._emit(DEPTH, diff.bids, diff.asks, exch_ns, last)
            return
        self.first_ns = self.first_ns or self.local_ns
        if self.local_ns - self.first_ns > SNAPSHOT_WAIT_NS:
            self.start_without_snapshot()

    def _trade(self, data: dict[str, Any]) -> None:
        self._symbol(data)
        # Insurance-fund and auto-deleveraging prints never met the book.
        if data.get("X", "MARKET") != "MARKET":
            return
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
        if self.started:
            # "m": the buyer was the maker, so the aggressor sold.
            buys, sells = (0, 1) if data["m"] else (1, 0)
            texts = data["p"], data["q"]
            self.messages.extend((TRADE, buys, sells, exch_ns, self.local_ns, trade, self.line))
            self.texts += texts

    def _ticker(self, data: dict[str, Any]) -> None:
        self._symbol(data)
        exch_ns = self._exchange_ns(BBO, data)
        if self.started:
            texts = data["b"], data["B"], data["a"], data["A"]
            self.messages.extend((BBO, 1, 1, exch_ns, self.local_ns, int(data["u"]), self.line))
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
        self.messages.extend((kind, len(bids), len(asks), exch_ns, self.local_ns, number, self.line))
        self.texts.extend(chain.from_iterable(bids))
        self.texts.extend(chain.from_iterable(asks))

    def flush(self) -> NDArray[np.void]:
        """The rows gathered since the last flush, invalid ones reported and left out."""
        count = len(self.texts)
        text = "\n".join([*self.texts, ""]).encode()
        if count % 2 or text.count(b"\n") != count:
            raise CaptureError(f"{self.name}: a price level near line {self.line} is not a pair of decimals")
        values = parse_decimals(np.frombuffer(text, np.uint8), count)
        rows, good = _rows(np.frombuffer(self.messages, np.int64), values, self.file)
        self.messages = array("q")
        self.texts.clear()
        return rows if good else rows[valid(rows, {self.file: self.name}, self.report)]


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
            with _without_collector():
                self._block(block, begins)
            if self._lines.error:
                decoder.problem("truncated", self._lines.error)
            if len(decoder.texts) > 2 * CHUNK_ROWS:
                yield decoder.flush()
        yield self._end_file()

    def _end_file(self) -> NDArray[np.void]:
        """All rows of a chunk are of one file."""
        if self._decoder.file >= 0 and not self._decoder.started:
            self._decoder.start_without_snapshot()
        return self._decoder.flush()

    def _block(self, block: Block, begins: bool) -> None:
        lines = block.text.split(b"\n")
        if not lines[-1]:
            lines.pop()
        parts = [line.partition(b" ") for line in lines]
        try:
            # One call for all lines is faster than one for each.
            payloads = orjson.loads(b"[" + b",".join([payload for _, _, payload in parts]) + b"]")
            stamps = [int(stamp) for stamp, _, _ in parts]
        except ValueError:
            payloads = stamps = []
        decoder = self._decoder
        if begins and stamps and stamps[0] < decoder.local_ns:
            before = self.names[block.file - 1]
            raise CaptureError(
                f"{decoder.name} begins before {before} ends: they overlap; give only one of them"
            )
        if len(payloads) == len(parts):
            for decoder.line, local_ns, message in zip(
                range(block.line, block.line + len(parts)), stamps, payloads, strict=True
            ):
                decoder.message(local_ns, message)
            return
        for decoder.line, (stamp, _, payload) in enumerate(parts, block.line):
            try:
                local_ns, message = int(stamp), orjson.loads(payload)
            except ValueError:
                decoder.problem("bad-line", "not '<local ns> <JSON object>'; skipped")
            else:
                decoder.message(local_ns, message)
