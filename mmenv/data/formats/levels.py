"""What formats that record price levels and trades as columns share: from tables to checked rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.columns import Series, Table, has_columns, ours
from mmenv.data.decimals import INVALID, Places
from mmenv.data.formats.base import Importer, ImportOptions
from mmenv.data.problems import Report, valid
from mmenv.data.read_ahead import ReadAhead
from mmenv.data.rows import BUY, CLEAR, DEPTH, RAW, SELL, SNAPSHOT, TRADE, inserted, taken
from mmenv.data.sequence import Arrival, ExchangeTime, Merge, TradeIds
from mmenv.data.source import Source

_GAP: Final = (
    "the message does not continue the one before it; the book is unreliable until the next snapshot"
)
_RECONNECT: Final = "a new snapshot within the file: the recording was interrupted before it"
_NO_SNAPSHOT: Final = (
    "no snapshot before the first change; the book is built from changes alone and lacks levels"
)


@dataclass
class Decoded:
    """Rows of a table as the format means them."""

    rows: NDArray[np.void]
    """`RAW` [n] in arrival order, kinds DEPTH, SNAPSHOT and TRADE; `side` 0 where it is not known."""
    message: NDArray[np.int64]
    """[n], equal in consecutive book rows of one message."""
    update: NDArray[np.int64] | None = None
    previous: NDArray[np.int64] | None = None
    """[n], number of the row's book message and of the one before; INVALID if unknown."""

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Decoded:
        update = None if self.update is None else self.update[chosen]
        previous = None if self.previous is None else self.previous[chosen]
        return Decoded(taken(self.rows, chosen), self.message[chosen], update, previous)


def deal_rows(
    table: Table,
    places: Places,
    exch_ns: NDArray[np.int64],
    ids: NDArray[np.int64],
    columns: tuple[str, str],
    sides: tuple[str, str],
    side: str = "side",
) -> Decoded:
    """Rows of an archive of trades, which has the venue's times alone.

    `columns` are those of prices and sizes, `sides` what the column `side` calls a buying and a selling
    aggressor.
    """
    rows = np.zeros(len(table), RAW)
    rows["kind"], rows["local_ns"], rows["exch_ns"], rows["id"] = TRADE, exch_ns, exch_ns, np.maximum(ids, -1)
    rows["price"], rows["size"] = (
        table.decimals(columns[0], places.price),
        table.decimals(columns[1], places.size),
    )
    for code, name in zip((BUY, SELL), sides, strict=True):
        rows["side"][table.equals(side, name)] = code
    return Decoded(rows, exch_ns)


@dataclass(frozen=True)
class Files:
    """Files of one layout in time order, and how to read them."""

    paths: Sequence[Path]
    required: Sequence[str]
    decode: Callable[[Table, Places], Decoded]
    numbered: bool = True
    """Trade ids are numbers that grow."""
    restarts: bool = False
    """A snapshot within a file means that the recording was interrupted."""
    columns: Sequence[str] = ()
    """Columns of files whose first line may not name them."""
    own_numbers: bool = False
    """Book messages keep the venue's numbers, which its tickers share."""
    symbol: str = "symbol"
    """The column that names the symbol, if there is one."""
    apart: bool = True
    """What `decode` makes of a table does not rest on those before."""


@dataclass(frozen=True)
class DealFile:
    """A layout of a venue's archives of trades."""

    columns: Sequence[str]
    """Those that files of it have."""
    decode: Callable[[Table, Places], Decoded]
    symbol: str = ""
    """The column of the symbol; without it, the symbol is a part of the file's name."""
    numbered: bool = True

    def fits(self, head: bytes) -> bool:
        """Whether a file begins as those of this layout."""
        return has_columns(head, self.columns)

    def holds(self, path: Path, symbol: str) -> bool:
        """Whether a file has trades of a symbol."""
        return bool(self.symbol) or symbol in re.split(r"[_.]|(?<=\w)-(?=trades)", path.name)


class LevelImporter(Importer):
    """Book and trades of one symbol from one or more series of files, merged by arrival.

    Where rows of two series arrive at the same time, the first one's come first. Other symbols are refused
    unless the user chose one.
    """

    def __init__(
        self, source: Source, files: Sequence[Files], options: ImportOptions, lacks: str = ""
    ) -> None:
        self.source, self.places, self.lacks = source, options.places, lacks
        self.names = [path.name for each in files for path in each.paths]
        firsts = np.cumsum([0, *(len(each.paths) for each in files)]).tolist()
        self._streams = [
            LevelStream(each, first, source.symbol, options)
            for each, first in zip(files, firsts, strict=False)
        ]
        self.size = sum(stream.series.size for stream in self._streams)
        self._merge = Merge(self._streams)

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        with read_by(self._streams, self.readers):
            while (rows := self._merge.pull(report)) is not None:
                self.done = sum(stream.series.done for stream in self._streams)
                yield rows


@contextmanager
def read_by(streams: Sequence[LevelStream], readers: int) -> Iterator[None]:
    """Within this, let so many files of each stream be read at a time."""
    for stream in streams:
        stream.ahead.readers = readers if stream.files.apart else 1
    try:
        yield
    finally:
        for stream in streams:
            stream.ahead.close()


class LevelStream:
    """The rows of one series of files, in order and checked."""

    def __init__(self, files: Files, first: int, symbol: str, options: ImportOptions) -> None:
        self.files, self.symbol = files, symbol
        self.choose, self.places = options.symbol is not None, options.places
        self.ahead: ReadAhead[Series, Decoded] = ReadAhead(
            Series(files.paths, first, files.required, files.columns)
        )
        self.arrival, self.book_time, self.trade_time = Arrival(), ExchangeTime(), ExchangeTime()
        self.trade_ids = TradeIds(files.numbered)
        self.new_file = False
        self.messages = 0
        self.last_kind, self.last_message, self.last_update = 0, INVALID, INVALID

    @property
    def series(self) -> Series:
        """The files, as far as their rows have come."""
        return self.ahead.source

    def _decoded(self, series: Series, report: Report) -> Decoded | None:
        """The rows of the next table that are ours; None after the last."""
        table = series.pull(report)
        if table is None:
            return None
        found = self.files.decode(table, self.places)
        found.rows["file"] = table.file
        if len(found.rows) == len(table):
            found.rows["line"] = table.lines
        if table.has(self.files.symbol):
            found = found[ours(table, self.files.symbol, self.symbol, self.choose, report)]
        return found

    def pull(self, report: Report) -> NDArray[np.void] | None:
        """The next rows; None after the last."""
        found = self.ahead.pull(report, self._decoded)
        if found is None:
            self.trade_ids.settle(report)
            return None
        self.new_file |= self.series.new_file
        good = valid(found.rows, report)
        found = found if good.all() else found[good]
        if not len(found.rows):
            return found.rows
        rows, kind, new_file = found.rows, found.rows["kind"], self.new_file
        self.new_file = False
        self.arrival.set(rows, report, new_file)
        self.book_time.set(rows, kind != TRADE, report, silent=kind == SNAPSHOT)
        self.trade_time.set(rows, kind == TRADE, report)
        trades = np.flatnonzero(kind == TRADE)
        keep = np.ones(len(rows), np.bool_)
        keep[trades] = self.trade_ids.new(taken(rows, trades), report)
        found = found if keep.all() else found[keep]
        return self._messages(found, new_file, report)

    def _messages(self, found: Decoded, new_file: bool, report: Report) -> NDArray[np.void]:
        """Number the book messages; put a CLEAR before each snapshot; check that none is missing."""
        rows = found.rows
        book = np.flatnonzero(rows["kind"] != TRADE)
        if not len(book):
            return rows
        kinds = np.concatenate([[self.last_kind], rows["kind"][book]])
        keys = np.concatenate([[self.last_message], found.message[book]])
        first = (kinds[1:] != kinds[:-1]) | (keys[1:] != keys[:-1])
        first[0] |= new_file
        rows["id"][book] = numbers = self.messages + np.cumsum(first)
        starts = book[first]
        if self.files.own_numbers and found.update is not None:
            rows["id"][book] = found.update[book]
        self._check_updates(found, starts, report)
        snapshots = starts[rows["kind"][starts] == SNAPSHOT]
        if self.files.restarts:
            inside = snapshots[1:] if new_file and len(snapshots) and snapshots[0] == book[0] else snapshots
            report.add_rows(rows[inside], "reconnect", _RECONNECT)
        if self.last_kind == 0 and kinds[1] == DEPTH:
            report.add_rows(rows[book[:1]], "missing-snapshot", _NO_SNAPSHOT)
        self.messages = int(numbers[-1])
        self.last_kind, self.last_message = int(kinds[-1]), int(keys[-1])
        clear = taken(rows, snapshots)
        clear["kind"], clear["side"], clear["price"], clear["size"] = CLEAR, BUY, 0, 0
        return inserted(rows, snapshots, clear) if len(snapshots) else rows

    def _check_updates(self, found: Decoded, starts: NDArray[np.int64], report: Report) -> None:
        """Whether each message continues the one before it, where the file numbers them."""
        if found.update is None or found.previous is None or not len(starts):
            return
        update, previous = found.update[starts], found.previous[starts]
        before = np.concatenate([[self.last_update], update[:-1]])
        known = (previous != INVALID) & (before != INVALID) & (found.rows["kind"][starts] == DEPTH)
        broken = starts[known & (previous != before)]
        report.add_rows(found.rows[broken], "sequence-gap", _GAP)
        self.last_update = int(update[-1])
