"""What raw captures of websocket feeds share: a JSON message a line, from messages to checked rows.

A line is the local time in nanoseconds, a blank and the venue's message; or the message alone, as archives
of venues have it, whose own time is then the local one. A format says what its messages mean (`parts`); those
that mean nothing to it are counted by kind, and those of other symbols than the one chosen by symbol.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from mmenv.data.columns import Series
from mmenv.data.decimals import Places, parse_decimals
from mmenv.data.formats.ahead import ready
from mmenv.data.formats.base import ALL, Importer, ImportOptions, head_of
from mmenv.data.formats.feed_rows import NOTHING, PLAIN, fresh, rows_of_parts
from mmenv.data.formats.json_scan import scan
from mmenv.data.formats.json_work import PART
from mmenv.data.formats.layout import Layout, compiled
from mmenv.data.formats.levels import DealFile, Files, LevelStream, read_by
from mmenv.data.lines import Block, Lines, Translate
from mmenv.data.problems import Report, valid
from mmenv.data.read_ahead import ReadAhead
from mmenv.data.rows import TRADE, UNKNOWN_NS, CaptureError, SeveralSymbols, joined, taken, without
from mmenv.data.sequence import Arrival, ExchangeTime, Merge, TradeIds
from mmenv.data.source import SAFE, Source, source_of
from mmenv.data.text import hash_text

BLOCK_BYTES: Final = 1 << 21
LOOK_LINES: Final = 2_000
"""A file that says nothing of its format in so many lines is not of it."""
_NO_PARTS: Final = np.zeros(0, PART)
_NO_LEVELS: Final = np.zeros((0, 2), np.int64)
NO_BLOCK: Final = Block(0, 1, b"")

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


class Read(NamedTuple):
    """A block, and its books and trades as `PART` [m] with their levels [n, 2]."""

    block: Block
    parts: NDArray[np.void]
    levels: NDArray[np.int64]


class FeedImporter(Importer):
    """Consecutive captures of one symbol. Subclasses say what a message means."""

    venue: ClassVar[str] = ""
    numbered: ClassVar[bool] = True
    """Trade ids are numbers that grow."""
    one_by_one: ClassVar[bool] = False
    """They grow one by one."""
    mode: ClassVar[int] = PLAIN
    """What its book messages are; see `mmenv.data.formats.feed_rows`."""
    layout: ClassVar[Layout]
    """Where things stand in its usual messages; those that it does not fit are read by `parts`."""

    archives: ClassVar[Sequence[DealFile]] = ()
    """Archives of trades, which are merged with those of the book."""

    def __init__(
        self,
        source: Source,
        paths: Sequence[Path],
        options: ImportOptions,
        translate: Translate | None = None,
        deals: Mapping[Path, DealFile] | None = None,
    ) -> None:
        self.source, self.places, self.choose = source, options.places, options.symbol is not None
        self.names = [path.name for path in paths]
        self._deals = self._deal_streams(deals or {}, options)
        self._ahead: ReadAhead[Lines, Read] = ReadAhead(Lines(paths, len(self.names) - len(paths), translate))
        self.size = self._lines.size + sum(stream.series.size for stream in self._deals)
        self._merge = Merge([*self._deals, self])
        self._arrival, self._book_time, self._trade_time = Arrival(), ExchangeTime(), ExchangeTime()
        self._trade_ids = TradeIds(self.numbered, self.one_by_one)
        self._begun, self._update, self._number, self._file = False, -1, 0, 0
        self._depth, self._held = 0, NOTHING

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
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> Sequence[Importer]:
        deals = {path: kind for path in paths for kind in cls.archives if kind.fits(head_of(path))}
        found = cls.captures([path for path in paths if path not in deals], options)
        if not found:
            raise CaptureError(
                f"{next(iter(deals)).name}: trades alone; give the files of the book with them"
            )
        importers = [cls(source, files, options, deals=deals) for source, files in found]
        if options.symbol == ALL:
            importers += cls._trades_alone(deals, {source.symbol for source, _ in found}, options)
        return importers

    @classmethod
    def _trades_alone(
        cls, deals: Mapping[Path, DealFile], known: set[str], options: ImportOptions
    ) -> Iterator[FeedImporter]:
        """Of each symbol that archives of trades begin with and that has no book."""
        for path, kind in deals.items():
            table = Series([path], 0, kind.columns).pull(Report()) if kind.symbol else None
            symbol = "" if table is None else table.value(kind.symbol, 0)
            if symbol and symbol not in known:
                known.add(symbol)
                source = source_of(options.venue or cls.venue, symbol)
                alone = cls(source, [], options, deals={path: kind})
                alone.lacks = f"{path.name}: trades of {symbol} alone; give the files of its book with them"
                yield alone

    @classmethod
    def captures(
        cls, paths: Sequence[Path], options: ImportOptions, translate: Translate | None = None
    ) -> list[tuple[Source, list[Path]]]:
        """Each symbol in captures of the websocket, and its files in time order."""
        found: dict[str, list[tuple[int, Path]]] = {}
        known: set[str] = set()
        for path in paths:
            first_ns, symbols = cls._identify(path, options.symbol is not None, translate)
            known |= set(symbols)
            for symbol in symbols:
                if options.one_symbol in (None, symbol):
                    found.setdefault(symbol, []).append((first_ns, path))
        if paths and not found:
            held = ", ".join(sorted(known))
            raise CaptureError(f"--symbol = {options.symbol!r} is not possible: the files hold {held}.")
        venue = options.venue or cls.venue
        return [
            (source_of(venue, symbol), [path for _, path in sorted(files)]) for symbol, files in found.items()
        ]

    @classmethod
    def _identify(cls, path: Path, every: bool, translate: Translate | None) -> tuple[int, list[str]]:
        """First time and symbols of a file; without `every` the first one that has a book."""
        reader = cls.__new__(cls)
        first_ns, symbols, seen = 0, dict[str, None](), 0
        lines = Lines([path], 0, translate)
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
        if any(kind.fits(head) for kind in cls.archives):
            return True
        reader = cls.__new__(cls)
        for line in head.split(b"\n")[:200]:
            try:
                if any(reader.parts(split_line(line)[1]) or ()):
                    return True
            except MALFORMED:
                continue
        return False

    def _deal_streams(self, deals: Mapping[Path, DealFile], options: ImportOptions) -> list[LevelStream]:
        """The trades of archives; their files are named before those of the book."""
        symbol, streams, names = self.source.symbol, list[LevelStream](), list[str]()
        for kind in self.archives:
            chosen = sorted(path for path in deals if deals[path] is kind and kind.holds(path, symbol))
            if chosen:
                files = Files(chosen, kind.columns, kind.decode, kind.numbered, symbol=kind.symbol)
                streams.append(LevelStream(files, len(names), symbol, replace(options, symbol=symbol)))
                names += [path.name for path in chosen]
        self.names = [*names, *self.names]
        return streams

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        # A trade before the change of the book that it caused.
        stream = self._merge if self._deals else self
        with read_by(self._deals, self.readers), closing(self._ahead):
            self._ahead.readers = self.readers
            while (rows := stream.pull(report)) is not None:
                self.done = self._lines.done + sum(stream.series.done for stream in self._deals)
                if len(rows):
                    yield rows

    @property
    def _lines(self) -> Lines:
        """The files, as far as their rows have come."""
        return self._ahead.source

    def pull(self, report: Report) -> NDArray[np.void] | None:
        """The next rows, perhaps none; None after the last."""
        found = self._ahead.pull(report, self._read)
        if found is None:
            self._trade_ids.settle(report)
            return None
        block, parts, levels = found
        self._file = block.file
        rows = self._rows(block, parts, levels, block.line == 1, report)
        if self._lines.error:
            last = block.line + block.text.count(b"\n")
            report.add(report.name(block.file), last, self._arrival.last, "truncated", self._lines.error)
        return rows

    def _read(self, lines: Lines, report: Report) -> Read | None:
        """The next block: compiled code takes what fits the layout, and `parts` other lines."""
        block = lines.pull(BLOCK_BYTES)
        if block is None:
            return None
        text, symbol = np.frombuffer(block.text, np.uint8), self.source.symbol.encode()
        wanted, layout = np.frombuffer(symbol, np.uint8), compiled_layout(type(self))
        read = scan if ready(scan, compile_scan) else no_scan
        found: list[tuple[NDArray[np.void], NDArray[np.int64]]] = []
        odd = Odd(self.places)
        at, line = 0, block.line
        while at < len(text):
            at, line, parts, levels = read(text, at, line, wanted, *self.places, layout)
            if len(parts):
                found += [odd.take(), (parts, levels)]
            if at < len(text):
                end = block.text.find(b"\n", at)
                end = end if end >= 0 else len(text)
                if block.text[at:end].strip():
                    self._line(block.text[at:end], line, block.file, odd, report)
                at, line = end + 1, line + 1
        found.append(odd.take())
        parts, levels = joined([parts for parts, _ in found]), np.concatenate([levels for _, levels in found])
        return Read(block, parts, levels)

    def _line(self, line: bytes, number: int, file: int, odd: Odd, report: Report) -> None:
        name = report.name(file)
        try:
            local_ns, message = split_line(line)
        except MALFORMED:
            report.add(name, number, 0, "bad-line", "not '<local ns> <JSON object>' or JSON; skipped")
            return
        held = odd.mark()
        try:
            parts = self.parts(message)
            if parts is None:
                report.note(f"{self.kind(message)} message, not used")
            for part in parts or ():
                if part.symbol == self.source.symbol:
                    odd.add(part, local_ns or part.exch_ns, number)
                else:
                    self._other(part.symbol, isinstance(part, Trade), name, number, report)
        except CaptureError:
            raise
        except MALFORMED as error:
            odd.back(held)
            told = f"without a usable {error}; skipped" if str(error) else "not as it should be; skipped"
            report.add(name, number, local_ns, "bad-message", told)

    def _other(self, symbol: str, trade: bool, name: str, line: int, report: Report) -> None:
        """A book or trade of another symbol: leave it out, or refuse files of several symbols."""
        if not self.choose and not trade:
            raise SeveralSymbols(f"{name}:{line}", symbol, self.source.symbol)
        report.note(f"{symbol} message, not used")

    def rows(self, parts: NDArray[np.void], levels: NDArray[np.int64], report: Report) -> NDArray[np.void]:
        """`RAW` rows of books and trades of this symbol that come next, as `Odd.take` gives them."""
        return self._rows(NO_BLOCK, parts, levels, False, report)

    def _rows(
        self, block: Block, parts: NDArray[np.void], levels: NDArray[np.int64], new_file: bool, report: Report
    ) -> NDArray[np.void]:
        for part in parts[parts["ours"] == 0]:
            name = block.text[part["symbol_begin"] : part["symbol_end"]].decode().replace("/", "-")
            self._other(name, bool(part["trade"]), report.name(self._file), int(part["line"]), report)
        books = parts[(parts["ours"] == 1) & (parts["trade"] == 0)]
        if len(books):
            self._check(books, report)
        rows, self._number, self._depth, self._held = rows_of_parts(
            parts, levels, self._file, self._number, self.mode, self._depth, self._held
        )
        return self._checked(rows, new_file, report)

    def _checked(self, rows: NDArray[np.void], new_file: bool, report: Report) -> NDArray[np.void]:
        """Rows that can be, in order, without trades that were seen before."""
        good = valid(rows, report)
        if not good.all():
            rows = taken(rows, good)
        if not len(rows):
            return rows
        self._arrival.set(rows, report, new_file)
        traded = rows["kind"] == TRADE
        self._book_time.set(rows, ~traded, report)
        self._trade_time.set(rows, traded, report)
        trades = np.flatnonzero(traded)
        new = self._trade_ids.new(taken(rows, trades), report)
        return rows if new.all() else without(rows, trades[~new])

    def _check(self, books: NDArray[np.void], report: Report) -> None:
        """Say where the first book is missing, and where one does not continue the one before it."""
        name = report.name(self._file)
        if not self._begun and not books["snapshot"][0]:
            told = (
                "no snapshot before the first change; the book is built from changes alone and lacks levels"
            )
            report.add(name, books["line"][0], books["local_ns"][0], "missing-snapshot", told)
        before = self._update
        broken, self._update = fresh(books, before)
        for at in np.flatnonzero(broken):
            last = books["update"][at - 1] if at else before
            told = f"it continues {books['previous'][at]}, but the last one was {last}"
            report.add(name, books["line"][at], books["local_ns"][at], "sequence-gap", told)
        self._begun = True


class Odd:
    """Books and trades of lines that Python has read, until they are arrays."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._parts: list[tuple[int, ...]] = []
        self._texts: list[str] = []

    def mark(self) -> tuple[int, int]:
        """How much there is."""
        return len(self._parts), len(self._texts)

    def back(self, mark: tuple[int, int]) -> None:
        """Forget what came after."""
        del self._parts[mark[0] :], self._texts[mark[1] :]

    def add(self, part: Book | Trade, local_ns: int, line: int) -> None:
        """Keep a part. Raises ValueError for one that cannot be."""
        if isinstance(part, Trade):
            number = part.id if isinstance(part.id, int) else hash_text(part.id)
            sides = (1, 0) if part.side >= 0 else (0, 1)
            fields: tuple[int, ...] = (
                part.exch_ns,
                local_ns,
                -1,
                -1,
                number,
                line,
                *sides,
                0,
                0,
                1,
                0,
                part.side,
                1,
            )
            levels: list[Level] = [(part.price, part.size)]
        else:
            number, levels = 0, [*part.bids, *part.asks]
            fields = (part.exch_ns, local_ns, part.update, part.previous, -1, line)
            fields += (len(part.bids), len(part.asks), 0, 0, 0, int(part.snapshot), 0, 1)
        if (
            not 0 < local_ns < 1 << 63
            or not UNKNOWN_NS <= part.exch_ns < 1 << 63
            or not 0 <= number < 1 << 63
        ):
            raise ValueError("time or number")
        if not all(-(1 << 63) <= each < 1 << 63 for each in fields):
            raise ValueError("time or number")
        texts = [str(value) for level in levels for value in (level[0], level[1])]
        if any("\n" in text or not text.isascii() for text in texts):
            raise ValueError("price or size")
        self._parts.append(fields)
        self._texts += texts

    def take(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """All of them as `PART` [m] and their levels [n, 2]."""
        parts = np.array(self._parts, PART)
        text = "\n".join([*self._texts, ""]).encode()
        levels = parse_decimals(np.frombuffer(text, np.uint8), len(self._texts), *self.places).reshape(-1, 2)
        self._parts, self._texts = [], []
        return parts, levels


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


@cache
def compiled_layout(cls: type[FeedImporter]) -> Any:
    """The layout of a venue's messages as compiled code takes it."""
    return compiled(cls.layout, text_ids=not cls.numbered)


def no_scan(text: object, at: int, line: int, *_: object) -> tuple[int, int, Any, Any]:
    """As `scan`, which stops at once: Python reads all."""
    return at, line, _NO_PARTS, _NO_LEVELS


def compile_scan() -> None:
    """Have `scan` compiled, or taken from the cache."""
    line = np.frombuffer(b"\n", np.uint8)
    layout = Layout(
        {}, book="", deal="", symbol="s", time="t", bids="b", asks="a", level=("0", "1"), deals={}
    )
    scan(line, 0, 1, line, *Places(), compiled(layout, text_ids=False))
