"""What raw captures of websocket feeds share: a JSON message a line, from messages to checked rows.

A line is the local time in nanoseconds, a blank and the venue's message; or the message alone, as archives
of venues have it, whose own time is then the local one. A format says what its messages mean (`parts`); those
that mean nothing to it are counted by kind, and those of other symbols than the one chosen by symbol.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv.data.decimals import parse_decimals
from mmenv.data.formats.base import Importer, ImportOptions
from mmenv.data.formats.binance_decoder import rows_of
from mmenv.data.formats.binance_scan import MESSAGE
from mmenv.data.lines import Lines
from mmenv.data.problems import Report, valid
from mmenv.data.rows import CLEAR, DEPTH, SNAPSHOT, TRADE, CaptureError
from mmenv.data.sequence import Arrival, ExchangeTime, TradeIds
from mmenv.data.source import SAFE, Source, source_of
from mmenv.data.text import hash_text

BLOCK_BYTES: Final = 1 << 20
LOOK_LINES: Final = 2_000
"""A file that says nothing of its format in so many lines is not of it."""

Level = Sequence[Any]
"""Price and size, as text or numbers, and whatever follows."""


class Book(NamedTuple):
    """Levels: all of them in a snapshot, else new sizes. `update` and `previous` are -1 where unknown."""

    symbol: str
    exch_ns: int
    snapshot: bool
    bids: Sequence[Level]
    asks: Sequence[Level]
    update: int = -1
    previous: int = -1


class Trade(NamedTuple):
    """A trade; `side` is the aggressor's, 0 where it is unknown."""

    symbol: str
    exch_ns: int
    id: int | str
    side: int
    price: Any
    size: Any


class FeedImporter(Importer):
    """Consecutive captures of one symbol. Subclasses say what a message means."""

    venue: ClassVar[str] = ""
    numbered: ClassVar[bool] = True
    """Trade ids are numbers that grow."""
    one_by_one: ClassVar[bool] = False
    """They grow one by one."""
    whole: ClassVar[bool] = False
    """Every book message is a snapshot: changes are made of the second and later ones."""

    def __init__(self, source: Source, paths: Sequence[Path], options: ImportOptions) -> None:
        self.source, self.places, self.choose = source, options.places, options.symbol is not None
        self.names = [path.name for path in paths]
        self._lines = Lines(paths)
        self.size = self._lines.size
        self._arrival, self._book_time, self._trade_time = Arrival(), ExchangeTime(), ExchangeTime()
        self._trade_ids = TradeIds(self.numbered, self.one_by_one)
        self._begun, self._update, self._number, self._file = False, -1, 0, 0
        self._sides: list[dict[str, str]] = [{}, {}]
        self._clear()

    @abstractmethod
    def parts(self, message: Any) -> Iterable[Book | Trade] | None:
        """What a message says of books and trades; None if it is of another kind.

        May raise KeyError, TypeError, ValueError or IndexError for one that is not as it should be.
        """

    @classmethod
    def kind(cls, message: Any) -> str:
        """What to call a message that says nothing of book or trades."""
        names = (
            str(message[key]) for key in ("e", "channel", "topic", "type", "op", "event") if key in message
        )
        return next(names, "unnamed")

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Self]:
        found: dict[str, list[tuple[int, Path]]] = {}
        known: set[str] = set()
        for path in paths:
            first_ns, symbols = cls._identify(path, every=options.symbol is not None)
            known |= set(symbols)
            for symbol in symbols:
                if options.one_symbol in (None, symbol):
                    found.setdefault(symbol, []).append((first_ns, path))
        if not found:
            held = ", ".join(sorted(known))
            raise CaptureError(f"--symbol = {options.symbol!r} is not possible: the files hold {held}.")
        venue = options.venue or cls.venue
        return [
            cls(source_of(venue, symbol), [path for _, path in sorted(files)], options)
            for symbol, files in found.items()
        ]

    @classmethod
    def _identify(cls, path: Path, every: bool) -> tuple[int, list[str]]:
        """First time and symbols of a file; without `every` the first one that has a book."""
        reader = cls.__new__(cls)
        first_ns, symbols, seen = 0, dict[str, None](), 0
        lines = Lines([path])
        while (block := lines.pull(BLOCK_BYTES)) is not None:
            for line in block.text.split(b"\n"):
                seen += 1
                try:
                    local_ns, message = split_line(line)
                    for part in reader.parts(message) or ():
                        first_ns = first_ns or local_ns or part.exch_ns
                        if isinstance(part, Book) and SAFE.fullmatch(part.symbol):
                            symbols[part.symbol] = None
                except MALFORMED:
                    continue
                if symbols and not every:
                    return first_ns, list(symbols)
            if lines.error and not symbols:
                raise CaptureError(f"{path}: cannot be read: {lines.error}")
            if not symbols and seen > LOOK_LINES:
                break
        if not symbols:
            raise CaptureError(f"{path}: no message of a book as {cls.description} would have it")
        return first_ns, list(symbols)

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        reader = cls.__new__(cls)
        for line in head.split(b"\n")[:200]:
            try:
                if any(reader.parts(split_line(line)[1]) or ()):
                    return True
            except MALFORMED:
                continue
        return False

    def _clear(self) -> None:
        self._messages = array("q")
        self._texts: list[str] = []

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while (block := self._lines.pull(BLOCK_BYTES)) is not None:
            self.done = self._lines.done
            new_file, self._file = block.line == 1, block.file
            for number, line in enumerate(block.text.split(b"\n"), block.line):
                if line:
                    self._line(line, number, report)
            rows = self._rows(report, new_file)
            if len(rows):
                yield rows
            if self._lines.error:
                report.add(
                    report.name(block.file), number, self._arrival.last, "truncated", self._lines.error
                )
        self._trade_ids.settle(report)

    def _line(self, line: bytes, number: int, report: Report) -> None:
        name = report.name(self._file)
        try:
            local_ns, message = split_line(line)
        except MALFORMED:
            report.add(name, number, 0, "bad-line", "not '<local ns> <JSON object>' or JSON; skipped")
            return
        held = len(self._messages), len(self._texts)
        try:
            parts = self.parts(message)
            if parts is None:
                report.note(f"{self.kind(message)} message, not used")
            for part in parts or ():
                self._take(part, local_ns or part.exch_ns, number, report)
        except MALFORMED as error:
            del self._messages[held[0] :], self._texts[held[1] :]
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            report.add(name, number, local_ns, "bad-message", told)

    def _take(self, part: Book | Trade, local_ns: int, line: int, report: Report) -> None:
        if part.symbol != self.source.symbol:
            if not self.choose and isinstance(part, Book):
                raise CaptureError(
                    f"{report.name(self._file)}:{line}: {part.symbol} among {self.source.symbol}; choose one "
                    "with --symbol, or --symbol all"
                )
            report.note(f"{part.symbol} message, not used")
            return
        if isinstance(part, Trade):
            number = part.id if isinstance(part.id, int) else hash_text(part.id)
            sides = (1, 0) if part.side >= 0 else (0, 1)
            kind = TRADE if part.side else UNSIDED
            self._put(kind, *sides, part.exch_ns, local_ns, number, line, ((part.price, part.size),))
            return
        name = report.name(self._file)
        if self.whole:
            part = self._changes(part)
        if part.snapshot:
            self._number += 1
            self._put(CLEAR, 1, 0, part.exch_ns, local_ns, self._number, line, (("0", "0"),))
        elif not self._begun:
            told = (
                "no snapshot before the first change; the book is built from changes alone and lacks levels"
            )
            report.add(name, line, local_ns, "missing-snapshot", told)
        elif part.previous >= 0 and self._update >= 0 and part.previous != self._update:
            told = f"it continues {part.previous}, but the last one was {self._update}"
            report.add(name, line, local_ns, "sequence-gap", told)
        self._begun, self._update = True, part.update
        self._number += 1
        kind = SNAPSHOT if part.snapshot else DEPTH
        levels = chain(part.bids, part.asks)
        counts = len(part.bids), len(part.asks)
        self._put(kind, *counts, part.exch_ns, local_ns, self._number, line, levels)

    def _changes(self, book: Book) -> Book:
        """What a snapshot changes in the one before it; the first one as it is."""
        sides = [{str(level[0]): str(level[1]) for level in levels} for levels in (book.bids, book.asks)]
        if self._begun:
            bids, asks = (
                [
                    *((price, "0") for price in before if price not in now),
                    *((price, size) for price, size in now.items() if before.get(price) != size),
                ]
                for before, now in zip(self._sides, sides, strict=True)
            )
            book = book._replace(snapshot=False, bids=bids, asks=asks)
        self._sides = sides
        return book

    def _put(
        self, kind: int, bids: int, asks: int, exch_ns: int, local_ns: int, number: int, line: int,
        levels: Iterable[Level],
    ) -> None:  # fmt: skip
        if not 0 < local_ns < 1 << 63 or not 0 <= exch_ns < 1 << 63 or not 0 <= number < 1 << 63:
            raise ValueError("time or number")
        texts = [str(value) for level in levels for value in (level[0], level[1])]
        if any("\n" in text or not text.isascii() for text in texts):
            raise ValueError("price or size")
        self._messages.extend((kind, bids, asks, exch_ns, local_ns, number, line))
        self._texts.extend(texts)

    def _rows(self, report: Report, new_file: bool) -> NDArray[np.void]:
        count = len(self._texts)
        text = "\n".join([*self._texts, ""]).encode()
        values = parse_decimals(np.frombuffer(text, np.uint8), count, *self.places)
        rows, _ = rows_of(np.array(self._messages, np.int64).view(MESSAGE), values, self._file)
        self._clear()
        unsided = rows["kind"] == UNSIDED
        rows["kind"][unsided], rows["side"][unsided] = TRADE, 0
        rows = rows[valid(rows, report)]
        if not len(rows):
            return rows
        self._arrival.set(rows, report, new_file)
        kind = rows["kind"]
        self._book_time.set(rows, kind != TRADE, report)
        self._trade_time.set(rows, kind == TRADE, report)
        trades = np.flatnonzero(kind == TRADE)
        keep = np.ones(len(rows), np.bool_)
        keep[trades] = self._trade_ids.new(rows[trades], report)
        return rows[keep]


UNSIDED: Final = 99
"""Kind of a trade without a side, until it is a row."""
MALFORMED: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


def split_line(line: bytes) -> tuple[int, Any]:
    """Local time, 0 if there is none, and message of a line. Raises ValueError."""
    if line[:1].isdigit():
        stamp, _, payload = line.partition(b" ")
        message = orjson.loads(payload)
        local_ns = int(stamp)
    else:
        local_ns, message = 0, orjson.loads(line)
    if not isinstance(message, dict):
        raise ValueError("message")
    return local_ns, message
