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
from numba import njit
from numpy.typing import NDArray

from mmenv.data.capture import (
    BUY,
    CLEAR,
    DECIMALS,
    DEPTH,
    INVALID,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    CaptureError,
    Options,
    Reader,
    Report,
    Source,
    register,
    valid,
)
from mmenv.data.columns import TABLE_BYTES, Lines, scaled, text_table
from mmenv.data.order import Arrival

NAME: Final = re.compile(
    r"(?P<symbol>.+)_(?P<day>\d{4}-\d\d-\d\d)_\d+_\d+_(?P<kind>message|orderbook)_(?P<levels>\d+)\.csv"
)
MESSAGE: Final = ("time", "type", "order", "size", "price", "direction")
UNIT: Final = 10**DECIMALS // 10_000
"""`RAW` units in a unit of their prices."""
CENT: Final = 100
NO_LEVEL: Final = 9_999_999_999
"""Their price of a level that is not there, with a minus on the bid side."""
FAR_LEVELS: Final = 4_096
"""Levels out of view that are remembered on each side."""

_NEW, _CANCEL, _DELETE, _EXECUTE, _HIDDEN, _CROSS, _HALT = range(1, 8)


@register("lobster", "LOBSTER message and orderbook files, in pairs")
def open_files(paths: Sequence[Path], options: Options) -> list[LobsterReader]:
    """One reader for each symbol."""
    found: dict[tuple[str, int], dict[str, dict[str, Path]]] = {}
    for path in paths:
        match = NAME.match(path.name)
        if not match:
            raise CaptureError(
                f"{path.name}: not named as LOBSTER does, "
                "such as AAPL_2012-06-21_34200000_57600000_message_5.csv"
            )
        days = found.setdefault((match["symbol"], int(match["levels"])), {})
        days.setdefault(match["day"], {})[match["kind"]] = path
    readers = []
    for (symbol, levels), days in found.items():
        for day, pair in days.items():
            for kind in ("message", "orderbook"):
                if kind not in pair:
                    other = next(iter(pair.values())).name
                    raise CaptureError(f"{other}: the {kind} file of {day} with it is missing; give both")
        pairs = [_Pair(day, days[day]["message"], days[day]["orderbook"]) for day in sorted(days)]
        source = Source(options.venue or "nasdaq", options.symbol or symbol)
        readers.append(LobsterReader(source, pairs, levels))
    return readers


@dataclass(frozen=True)
class _Pair:
    day: str
    messages: Path
    books: Path

    @property
    def midnight_ns(self) -> int:
        midnight = datetime.fromisoformat(self.day).replace(tzinfo=ZoneInfo("America/New_York"))
        return int(midnight.timestamp()) * 10**9


class LobsterReader(Reader):
    """Consecutive days of one symbol."""

    def __init__(self, source: Source, pairs: Sequence[_Pair], levels: int) -> None:
        self.source, self._pairs, self._levels = source, tuple(pairs), levels
        self.names = [pair.messages.name for pair in pairs]
        self._arrival = Arrival()
        self._at = -1
        self._sizes = [pair.messages.stat().st_size + pair.books.stat().st_size for pair in pairs]
        self.size = sum(self._sizes)
        self._begin(0)

    def _begin(self, at: int) -> None:
        self._at, self._new_file = at, True
        if at < len(self._pairs):
            pair = self._pairs[at]
            self._lines = Lines([pair.messages], at), Lines([pair.books], at)
            widths = len(MESSAGE) + 1, 4 * self._levels + 1
            self._held: list[NDArray[np.int64]] = [np.zeros((0, width), np.int64) for width in widths]
            # The row before, and by side how many levels are out of view and their keys.
            self._row = np.zeros(0, np.int64)
            self._far = np.zeros(2, np.int64), np.zeros((2, FAR_LEVELS), np.int64)

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while self._at < len(self._pairs):
            over = not self._pull(report)
            begun = self._sizes[: self._at]
            self.done = sum(begun) + sum(lines.done for lines in self._lines)
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
        order = sorted((0, 1), key=lambda which: len(self._held[which]))
        columns = MESSAGE, [str(number) for number in range(4 * self._levels)]
        places = np.array([9 * (name == "time") for name in MESSAGE]), np.zeros(4 * self._levels, np.int64)
        for which in order:
            lines = self._lines[which]
            block = lines.pull(TABLE_BYTES)
            if block is None:
                continue
            name = lines.paths[0].name
            if lines.error:
                report.add(
                    name, block.line + block.text.count(b"\n"), self._arrival.last, "truncated", lines.error
                )
            table = text_table(block.text, columns[which], block.file, block.line, name, report)
            self._held[which] = np.concatenate([self._held[which], table.numbers(places[which])])
            return True
        return False

    def _in_step(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Messages [n, 1 + 6] and books [n, 1 + 4 levels] of the same lines, which come first."""
        messages, books = self._held
        if not len(messages) or not len(books):
            return messages[:0], books[:0]
        last = min(messages[-1, 0], books[-1, 0])
        cuts = [int(np.searchsorted(held[:, 0], last, side="right")) for held in self._held]
        self._held = [held[cut:] for held, cut in zip(self._held, cuts, strict=True)]
        messages, books = messages[: cuts[0]], books[: cuts[1]]
        if np.array_equal(messages[:, 0], books[:, 0]):
            return messages, books
        _, left, right = np.intersect1d(messages[:, 0], books[:, 0], assume_unique=True, return_indices=True)
        return messages[left], books[right]

    def _check_ends(self, report: Report) -> None:
        pair = self._pairs[self._at]
        for held, longer, shorter in (
            (self._held[0], pair.messages, pair.books), (self._held[1], pair.books, pair.messages),
        ):  # fmt: skip
            if len(held):
                text = f"{len(held)} lines from here on have none in {shorter.name}; skipped"
                report.add(longer.name, held[0, 0], self._arrival.last, "truncated", text)

    def _rows(
        self, messages: NDArray[np.int64], books: NDArray[np.int64], report: Report
    ) -> NDArray[np.void]:
        heads = self._heads(messages)
        good = valid(heads, self.names, report) & (books[:, 1:] != INVALID).all(axis=1)
        if not good.all():
            heads, messages, books = heads[good], messages[good], books[good]
        if not len(heads):
            return heads
        self._arrival.set(heads, self.names, report, self._new_file)
        self._new_file = False
        self._note(heads, messages, report)
        rows, gaps, self._row = _changes(heads, messages, books[:, 1:], self._row, *self._far)
        report.add_rows(
            self.names,
            heads[gaps],
            "sequence-gap",
            lambda row: "the book does not change as the message says: lines are missing before it",
        )
        return rows

    def _heads(self, messages: NDArray[np.int64]) -> NDArray[np.void]:
        """What each message says, as a row: the trade it is, or a change of a level."""
        kind, size, price, direction = messages[:, 2], messages[:, 4], messages[:, 5], messages[:, 6]
        heads = np.zeros(len(messages), RAW)
        trade = (kind == _EXECUTE) | (kind == _HIDDEN)
        other = (kind == _CROSS) | (kind == _HALT)
        known = (kind >= _NEW) & (kind <= _HALT) & (np.abs(direction) == 1)
        heads["kind"] = np.where(~known, 0, np.where(trade, TRADE, np.where(other, CLEAR, DEPTH)))
        heads["side"] = np.where(trade, -direction, direction).clip(SELL, BUY)
        heads["local_ns"] = np.where(
            messages[:, 1] < 0, INVALID, self._pairs[self._at].midnight_ns + messages[:, 1]
        )
        heads["exch_ns"] = heads["local_ns"]
        heads["price"], heads["size"] = (
            scaled(_on_tick(price, kind, direction), UNIT),
            scaled(size, 10**DECIMALS),
        )
        heads["line"] = heads["id"] = messages[:, 0]
        heads["file"] = self._at
        return heads

    def _note(self, heads: NDArray[np.void], messages: NDArray[np.int64], report: Report) -> None:
        kind, price = messages[:, 2], messages[:, 5]
        report.note("execution of a hidden order", int((kind == _HIDDEN).sum()))
        report.note("execution in an auction, left out", int((kind == _CROSS).sum()))
        states = {-1: "trading halted", 0: "quoting resumed", 1: "trading resumed"}
        for row, code in zip(heads[kind == _HALT], price[kind == _HALT], strict=True):
            report.notes.append(
                f"{states.get(int(code), 'halt')} at {np.datetime64(int(row['local_ns']), 'ns')}"
            )


def _on_tick(
    price: NDArray[np.int64], kind: NDArray[np.int64], direction: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Hidden executions between two cents: down for a buyer's trade, up for a seller's (see above)."""
    off = (kind == _HIDDEN) & (price >= 10_000) & (price % CENT != 0)
    down = price - price % CENT
    return np.where(off, np.where(direction == SELL, down, down + CENT), price)


@njit(cache=True, nogil=True)
def _changes(heads, messages, books, row, far_count, far):  # type: ignore[no-untyped-def]
    """Trades, and how the book changed with each message.

    Args:
        heads: RAW [n]; messages: [n, 7]; books: [n, 4 levels].
        row: [4 levels], the book before the first message, or empty.
        far_count, far: [2] and [2, FAR_LEVELS], keys of levels out of view; updated.

    Returns:
        RAW [m]; messages [g] that do not fit the change of the book; the last book.
    """
    width = books.shape[1]
    out = np.empty(2 * len(heads) + 2 * width + 2 * FAR_LEVELS + 4, RAW)
    count = 0
    gaps = []
    for place in range(len(heads)):
        head, book = heads[place], books[place]
        if count + 2 * width + 2 * FAR_LEVELS + 4 > len(out):
            bigger = np.empty(2 * len(out), RAW)
            bigger[:count] = out[:count]
            out = bigger
        if head.kind == TRADE:
            out[count] = head
            count += 1
        first = len(row) == 0
        if first:
            far_count[:] = 0
            row = _no_book(width)
            out[count] = head
            out[count].kind, out[count].side, out[count].price, out[count].size = CLEAR, BUY, 0, 0
            count += 1
        elif messages[place, 2] <= _HIDDEN and not _fits(messages[place], row, book):
            gaps.append(place)
        begin = count
        for side in range(2):
            count = _side_changes(head, side, row, book, far_count, far[side], out, count)
        for at in range(begin, count):
            out[at].kind = SNAPSHOT if first else DEPTH
        row = book
    return out[:count].copy(), np.array(gaps, np.int64), row.copy()


@njit(cache=True, nogil=True)
def _no_book(width):  # type: ignore[no-untyped-def]
    row = np.zeros(width, np.int64)
    row[0::4] = NO_LEVEL
    row[2::4] = -NO_LEVEL
    return row


@njit(cache=True, nogil=True)
def _level(book, side, at):  # type: ignore[no-untyped-def]
    """Distance key, which grows away from the mid, and size of a level; asks are side 0."""
    price, size = book[4 * at + 2 * side], book[4 * at + 2 * side + 1]
    return (price if side == 0 else -price), size


@njit(cache=True, nogil=True)
def _unchanged(before, after, side):  # type: ignore[no-untyped-def]
    """How many levels of one side, from the best one, are the same in both books."""
    for at in range(len(after) // 4):
        if _level(before, side, at) != _level(after, side, at):
            return at
    return len(after) // 4


@njit(cache=True, nogil=True)
def _worst(book, side):  # type: ignore[no-untyped-def]
    """Key up to which the side is in view: everything, if it has fewer levels than the file shows."""
    return _level(book, side, len(book) // 4 - 1)[0]


@njit(cache=True, nogil=True)
def _size_at(book, side, key):  # type: ignore[no-untyped-def]
    """Size at a key, -1 if that is out of view."""
    for at in range(len(book) // 4):
        found, size = _level(book, side, at)
        if found == key:
            return size
        if found > key:
            return 0
    return -1


@njit(cache=True, nogil=True)
def _fits(message, before, after):  # type: ignore[no-untyped-def]
    """Whether the level a message names changes by its size, and no other, as far as both books show."""
    named = 0 if message[6] == SELL else 1
    change = 0 if message[2] == _HIDDEN else message[4] if message[2] == _NEW else -message[4]
    levels = len(after) // 4
    for side in range(2):
        named_key = message[5] if side == 0 else -message[5]
        seen = min(_worst(before, side), _worst(after, side), NO_LEVEL - 1)
        wanted = change if side == named and named_key <= seen else 0
        old = new = _unchanged(before, after, side)
        while old < levels or new < levels:
            old_key, old_size = _level(before, side, old) if old < levels else (NO_LEVEL, 0)
            new_key, new_size = _level(after, side, new) if new < levels else (NO_LEVEL, 0)
            key = min(old_key, new_key)
            if key > seen:
                break
            difference = (new_size if new_key == key else 0) - (old_size if old_key == key else 0)
            if difference != (wanted if key == named_key else 0):
                return False
            if key == named_key:
                wanted = 0
            old += old_key == key
            new += new_key == key
        if wanted != 0:
            return False
    return True


@njit(cache=True, nogil=True)
def _side_changes(head, side, before, after, far_count, far, out, count):  # type: ignore[no-untyped-def]
    """Write a row for each level of one side that changed; returns how many rows there are."""
    levels, worst = len(after) // 4, _worst(after, side)
    same = _unchanged(before, after, side)
    if same == levels:
        return count
    # What was out of view and should be seen now is gone, or is a level of `after`.
    at = 0
    while at < far_count[side]:
        if far[at] <= worst:
            if _size_at(after, side, far[at]) <= 0:
                count = _write(head, side, far[at], 0, out, count)
            far_count[side] -= 1
            far[at] = far[far_count[side]]
        else:
            at += 1
    old = new = same
    while old < levels or new < levels:
        old_key, old_size = _level(before, side, old) if old < levels else (NO_LEVEL, 0)
        new_key, new_size = _level(after, side, new) if new < levels else (NO_LEVEL, 0)
        if old_key == NO_LEVEL and new_key == NO_LEVEL:
            break
        if old_key < new_key:
            if old_key <= worst or far_count[side] == len(far):
                count = _write(head, side, old_key, 0, out, count)
            else:
                far[far_count[side]] = old_key
                far_count[side] += 1
            old += 1
        elif new_key < old_key:
            count = _write(head, side, new_key, new_size, out, count)
            new += 1
        else:
            if old_size != new_size:
                count = _write(head, side, new_key, new_size, out, count)
            old += 1
            new += 1
    return count


@njit(cache=True, nogil=True)
def _write(head, side, key, size, out, count):  # type: ignore[no-untyped-def]
    out[count] = head
    out[count].side = SELL if side == 0 else BUY
    out[count].price = (key if side == 0 else -key) * UNIT
    out[count].size = size * 10**DECIMALS
    return count + 1
