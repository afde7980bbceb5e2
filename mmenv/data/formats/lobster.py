"""LOBSTER: pairs of message and orderbook files, plain or compressed.

https://lobsterdata.com/info/DataStructure.php: row k of the orderbook file is the book after message k; times
are seconds after midnight in New York, on the date in the file's name; prices are dollars x 10,000.

A message's direction is that of the resting order: an execution of a sell order (-1) is a buyer's trade.
Executions of hidden orders (type 5) leave the book as it is. They are trades all the same: whoever hid gave
way to all that was visible at that price. Where one prints between two ticks, it is moved to the next tick
away from its aggressor, so that it fills those of our orders that it would have. Auctions (type 6) and halts
(type 7) are told in the report.

The files show a few levels of each side. A level that leaves this view keeps its last size until it is seen
again or its place is seen empty: a queue that cannot be seen is not taken to be gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from mmenv.data.columns import TABLE_BYTES, scaled
from mmenv.data.decimals import INVALID, ONE
from mmenv.data.formats import lobster_book as book
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.lines import Lines
from mmenv.data.problems import Report, valid
from mmenv.data.rows import BUY, CLEAR, DEPTH, RAW, SELL, TRADE, CaptureError, taken
from mmenv.data.sequence import Arrival
from mmenv.data.source import Source, source_of
from mmenv.data.text import text_table
from mmenv.times import SECOND

NAME: Final = re.compile(
    r"(?P<symbol>.+)_(?P<day>\d{4}-\d\d-\d\d)_(?P<begin>\d+)_\d+_(?P<kind>message|orderbook)_"
    r"(?P<levels>\d+)\.csv"
)
CENT: Final = book.DOLLAR // 100
TIME_PLACES: Final = 9
"""Decimal places of the times in a message file."""
GAP: Final = "the book does not change as the message says: lines are missing before it"
BROKEN: Final = "an order or book that is none: values are missing, out of bounds or out of order; skipped"


@dataclass(frozen=True)
class _Pair:
    """The files of one day, or of a part of it."""

    day: str
    begin: int
    """Milliseconds after midnight."""
    messages: Path
    books: Path

    @property
    def midnight_ns(self) -> int:
        # Twelve hours before noon: the clocks change at night.
        noon = datetime.fromisoformat(self.day).replace(hour=12, tzinfo=ZoneInfo("America/New_York"))
        return (int(noon.timestamp()) - 12 * 3_600) * SECOND


class _Numbers:
    """The lines of one file as numbers; those that the other file has not come to yet are held."""

    def __init__(self, path: Path, file: int, places: Sequence[int]) -> None:
        self.lines = Lines([path], file)
        self.places = np.array(places, np.int64)
        """Decimal places of each column."""
        self.header = 0
        """Lines that name the columns; the files have none when they come from LOBSTER."""
        self.held: NDArray[np.int64] = np.zeros((0, 1 + len(places)), np.int64)
        """Line after the header, and columns [n, 1 + columns]."""

    def pull(self, report: Report, local_ns: int) -> bool:
        """Hold more of the file; False at its end."""
        block = self.lines.pull(TABLE_BYTES)
        if block is None:
            return False
        name = self.lines.paths[0].name
        if self.lines.error:
            last = block.line + block.text.count(b"\n")
            report.add(name, last, local_ns, "truncated", self.lines.error)
        columns = [str(number) for number in range(len(self.places))]
        text = block.text
        if block.line == 1 and text[:1].isalpha():
            text, self.header = text.partition(b"\n")[2], 1
        line = max(block.line, 1 + self.header)
        table = text_table(text, columns, block.file, line, name, report)
        table.lines -= self.header
        self.held = np.concatenate([self.held, table.numbers(self.places)])
        return True

    def take(self, last: int) -> NDArray[np.int64]:
        """What is held of the lines up to the last one asked for."""
        cut = int(np.searchsorted(self.held[:, 0], last, side="right"))
        taken, self.held = self.held[:cut], self.held[cut:]
        return taken


@register
class Lobster(Importer):
    """Consecutive days of one symbol."""

    name = "lobster"
    description = "LOBSTER message and orderbook files, in pairs"
    notes = (
        "named as LOBSTER names them; New York time; hidden executions count as trades, auctions do not, "
        "halts are told"
    )

    def __init__(self, source: Source, pairs: Sequence[_Pair], levels: int) -> None:
        self.source, self._pairs, self._levels = source, tuple(pairs), levels
        self.names = [pair.messages.name for pair in pairs]
        self._arrival = Arrival()
        self._sizes = [pair.messages.stat().st_size + pair.books.stat().st_size for pair in pairs]
        self.size = sum(self._sizes)
        self._begin(0)

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return NAME.match(path.name) is not None

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Lobster]:
        found: dict[tuple[str, int], dict[tuple[str, int], dict[str, Path]]] = {}
        for path in paths:
            match = NAME.match(path.name)
            if not match:
                raise CaptureError(
                    f"{path.name}: not named as LOBSTER does, "
                    "such as AAPL_2012-06-21_34200000_57600000_message_5.csv"
                )
            days = found.setdefault((match["symbol"], int(match["levels"])), {})
            pair = days.setdefault((match["day"], int(match["begin"])), {})
            if match["kind"] in pair:
                raise CaptureError(f"{path.name}: given twice, with {pair[match['kind']]}; give one of them")
            pair[match["kind"]] = path
        importers = []
        chosen = options.one_symbol
        if chosen and chosen not in {symbol for symbol, _ in found}:
            held = ", ".join(sorted({symbol for symbol, _ in found}))
            raise CaptureError(f"--symbol = {chosen!r} is not possible: the files hold {held}.")
        for (symbol, levels), days in found.items():
            if chosen not in (None, symbol):
                continue
            for (day, _), pair in days.items():
                for kind in ("message", "orderbook"):
                    if kind not in pair:
                        other = next(iter(pair.values())).name
                        raise CaptureError(f"{other}: the {kind} file of {day} with it is missing; give both")
            pairs = [_Pair(*key, days[key]["message"], days[key]["orderbook"]) for key in sorted(days)]
            importers.append(cls(source_of(options.venue or "nasdaq", symbol), pairs, levels))
        return importers

    def _begin(self, at: int) -> None:
        """Begin a day."""
        self._at, self._new_file = at, True
        if at < len(self._pairs):
            pair = self._pairs[at]
            places = [TIME_PLACES * (name == "time") for name in (book.MESSAGE.names or ())[1:]]
            self._messages = _Numbers(pair.messages, at, places)
            self._books = _Numbers(pair.books, at, [0] * (len(book.LEVEL.names or ()) * self._levels))
            self._before, self._far = np.zeros(0, book.LEVEL), book.no_far()

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while self._at < len(self._pairs):
            over = not self._pull(report)
            self.done = sum(self._sizes[: self._at]) + self._messages.lines.done + self._books.lines.done
            messages, books = self._in_step()
            if over:
                self._check_ends(report)
            rows = self._rows(messages, books, report)
            if over:
                self._begin(self._at + 1)
            if len(rows):
                yield rows

    def _pull(self, report: Report) -> bool:
        """Read more of the file that is behind, or of the other if that is at its end; False if both are."""
        behind = sorted((self._messages, self._books), key=lambda numbers: len(numbers.held))
        return any(numbers.pull(report, self._arrival.last) for numbers in behind)

    def _in_step(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """`MESSAGE` [n] and `LEVEL` [n, levels] of the same lines, which come first."""
        messages, books = self._messages.held, self._books.held
        last = min(messages[-1, 0], books[-1, 0]) if len(messages) and len(books) else 0
        messages, books = self._messages.take(last), self._books.take(last)
        if not np.array_equal(messages[:, 0], books[:, 0]):
            lines = messages[:, 0], books[:, 0]
            _, left, right = np.intersect1d(*lines, assume_unique=True, return_indices=True)
            messages, books = messages[left], books[right]
        return messages.view(book.MESSAGE)[:, 0], books[:, 1:].view(book.LEVEL)

    def _check_ends(self, report: Report) -> None:
        """Report what the longer file of the day has beyond the shorter one."""
        for longer, shorter in ((self._messages, self._books), (self._books, self._messages)):
            if len(longer.held):
                other = shorter.lines.paths[0].name
                text = f"{len(longer.held)} lines from here on have none in {other}; skipped"
                name, first = longer.lines.paths[0].name, longer.held[0, 0]
                report.add(name, first, self._arrival.last, "truncated", text)

    def _rows(self, messages: NDArray[np.void], books: NDArray[np.void], report: Report) -> NDArray[np.void]:
        heads = self._heads(messages)
        good = valid(heads, report)
        sound = book.possible(books) & (messages["order"] != INVALID)
        report.add_rows(heads[good & ~sound], "bad-message", BROKEN)
        good &= sound
        if not good.all():
            heads, messages, books = taken(heads, good), taken(messages, good), books[good]
        if not len(heads):
            return heads
        self._arrival.set(heads, report, self._new_file)
        self._new_file = False
        _note(heads, messages, report)
        rows, gaps, self._before = book.changes(heads, messages, books, self._before, self._far)
        report.add_rows(heads[gaps], "sequence-gap", GAP)
        return rows

    def _heads(self, messages: NDArray[np.void]) -> NDArray[np.void]:
        """What each message says, as a row: the trade it is, or a change of a level."""
        kind, time, direction = messages["type"], messages["time"], messages["direction"]
        heads = np.zeros(len(messages), RAW)
        trade = (kind == book.EXECUTE) | (kind == book.HIDDEN)
        other = (kind == book.CROSS) | (kind == book.HALT)
        known = (kind >= book.NEW) & (kind <= book.HALT) & (np.abs(direction) == 1)
        heads["kind"] = np.where(~known, 0, np.where(trade, TRADE, np.where(other, CLEAR, DEPTH)))
        heads["side"] = np.where(trade, -direction, direction).clip(SELL, BUY)
        heads["local_ns"] = np.where(time < 0, INVALID, self._pairs[self._at].midnight_ns + time)
        heads["exch_ns"] = heads["local_ns"]
        heads["price"] = scaled(_on_tick(messages["price"], kind, direction), book.UNIT)
        heads["size"] = scaled(messages["size"], ONE)
        heads["id"] = messages["line"]
        heads["line"] = messages["line"] + self._messages.header
        heads["file"] = self._at
        return heads


def _note(heads: NDArray[np.void], messages: NDArray[np.void], report: Report) -> None:
    """Tell how many trades were hidden or in an auction, and when trading was halted."""
    kind, price = messages["type"], messages["price"]
    report.note("execution of a hidden order", int((kind == book.HIDDEN).sum()))
    report.note("execution in an auction, left out", int((kind == book.CROSS).sum()))
    states = {-1: "trading halted", 0: "quoting resumed", 1: "trading resumed"}
    for row, code in zip(heads[kind == book.HALT], price[kind == book.HALT], strict=True):
        when = np.datetime64(int(row["local_ns"]), "ns")
        report.notes.append(f"{states.get(int(code), 'halt')} at {when}")


def _on_tick(
    price: NDArray[np.int64], kind: NDArray[np.int64], direction: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Hidden executions between two cents: down for a buyer's trade, up for a seller's (see above)."""
    off = (kind == book.HIDDEN) & (price >= book.DOLLAR) & (price % CENT != 0)
    down = price - price % CENT
    return np.where(off, np.where(direction == SELL, down, down + CENT), price)
