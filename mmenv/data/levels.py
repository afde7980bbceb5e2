"""What formats that record price levels and trades as columns share: from tables to checked rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.data.capture import (
    BUY,
    CLEAR,
    DEPTH,
    INVALID,
    SNAPSHOT,
    TRADE,
    CaptureError,
    Reader,
    Report,
    Source,
    valid,
)
from mmenv.data.columns import ParquetTable, Series, TextTable
from mmenv.data.order import Arrival, ExchangeTime, Merge, TradeIds


@dataclass
class Decoded:
    """Rows of a table as the format means them.

    rows: RAW [n] in arrival order, kinds DEPTH, SNAPSHOT and TRADE; `side` 0 where it is not known.
    message: int64 [n], equal in consecutive book rows of one message.
    update, previous: int64 [n], number of the row's book message and of the one before; INVALID if unknown.
    """

    rows: NDArray[np.void]
    message: NDArray[np.int64]
    update: NDArray[np.int64] | None = None
    previous: NDArray[np.int64] | None = None

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Decoded:
        parts = (self.rows, self.message, self.update, self.previous)
        return Decoded(*(None if part is None else part[chosen] for part in parts))  # type: ignore[arg-type]


Decode = Callable[[Any], Decoded]


@dataclass(frozen=True)
class Files:
    """Files of one layout in time order, and how to read them."""

    paths: Sequence[Path]
    required: Sequence[str]
    decode: Decode
    numbered: bool = True
    """Trade ids are numbers that grow."""
    restarts: bool = False
    """A snapshot within a file means that the recording was interrupted."""


class LevelReader(Reader):
    """Book and trades of one symbol from one or more series of files, merged by arrival.

    Args:
        source: what is recorded.
        files: series; where rows of two arrive at the same time, the first one's come first.
        choose: leave other symbols out instead of refusing them.
    """

    def __init__(self, source: Source, files: Sequence[Files], choose: bool) -> None:
        self.source = source
        self.names = [path.name for each in files for path in each.paths]
        firsts = np.cumsum([0, *(len(each.paths) for each in files)]).tolist()
        self._streams = [
            _Stream(each, first, source.symbol, choose, self.names)
            for each, first in zip(files, firsts, strict=False)
        ]
        self.size = sum(stream.series.size for stream in self._streams)
        self._merge = Merge(self._streams)

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        while (rows := self._merge.pull(report)) is not None:
            self.done = sum(stream.series.done for stream in self._streams)
            yield rows


class _Stream:
    """One series of files: rows in order and checked."""

    def __init__(self, files: Files, first: int, symbol: str, choose: bool, names: Sequence[str]) -> None:
        self.files, self.symbol, self.choose, self.names = files, symbol, choose, names
        self.series = Series(files.paths, first, files.required)
        self.arrival, self.book_time, self.trade_time = Arrival(), ExchangeTime(), ExchangeTime()
        self.trade_ids = TradeIds(files.numbered)
        self.new_file = False
        self.messages = 0
        self.last_kind, self.last_message, self.last_update = 0, INVALID, INVALID

    def pull(self, report: Report) -> NDArray[np.void] | None:
        """The next rows; None after the last."""
        table = self.series.pull(report)
        if table is None:
            return None
        found = self.files.decode(table)
        found.rows["file"], found.rows["line"] = table.file, table.lines
        if table.has("symbol"):
            found = found[self._ours(table)]
        self.new_file |= self.series.new_file
        good = valid(found.rows, self.names, report)
        found = found if good.all() else found[good]
        if not len(found.rows):
            return found.rows
        rows, kind, new_file = found.rows, found.rows["kind"], self.new_file
        self.new_file = False
        self.arrival.set(rows, self.names, report, new_file)
        self.book_time.set(rows, kind != TRADE, self.names, report, silent=kind == SNAPSHOT)
        self.trade_time.set(rows, kind == TRADE, self.names, report)
        keep = self._new_trades(rows, report)
        found = found if keep.all() else found[keep]
        return self._messages(found, new_file, report)

    def _new_trades(self, rows: NDArray[np.void], report: Report) -> NDArray[np.bool_]:
        """Rows that are no trade, or one with a side that was not seen before."""
        keep = np.ones(len(rows), np.bool_)
        unsided = (rows["kind"] == TRADE) & (rows["side"] == 0)
        report.note("trade whose aggressor is unknown, left out", int(unsided.sum()))
        trades = np.flatnonzero(rows["kind"] == TRADE)
        keep[trades] = self.trade_ids.new(rows[trades], self.names, report)
        return keep & ~unsided

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
        rows["id"][book] = self.messages + np.cumsum(first)
        starts = book[first]
        self._check_updates(found, starts, report)
        snapshots = starts[rows["kind"][starts] == SNAPSHOT]
        if self.files.restarts:
            inside = snapshots[1:] if new_file and len(snapshots) and snapshots[0] == book[0] else snapshots
            report.add_rows(self.names, rows[inside], "reconnect", _reconnect)
        if self.last_kind == 0 and kinds[1] != SNAPSHOT:
            report.add_rows(self.names, rows[book[:1]], "missing-snapshot", _no_snapshot)
        self.messages = int(rows["id"][book[-1]])
        self.last_kind, self.last_message = int(kinds[-1]), int(keys[-1])
        clear = rows[snapshots].copy()
        clear["kind"], clear["side"], clear["price"], clear["size"] = CLEAR, BUY, 0, 0
        return np.insert(rows, snapshots, clear) if len(snapshots) else rows

    def _check_updates(self, found: Decoded, starts: NDArray[np.int64], report: Report) -> None:
        """Whether each message continues the one before it, where the file numbers them."""
        if found.update is None or found.previous is None or not len(starts):
            return
        update, previous = found.update[starts], found.previous[starts]
        before = np.concatenate([[self.last_update], update[:-1]])
        known = (previous != INVALID) & (before != INVALID) & (found.rows["kind"][starts] == DEPTH)
        broken = starts[known & (previous != before)]
        report.add_rows(self.names, found.rows[broken], "sequence-gap", _gap)
        self.last_update = int(update[-1])

    def _ours(self, table: TextTable | ParquetTable) -> NDArray[np.bool_]:
        same = table.equals("symbol", self.symbol)
        if not self.choose and not same.all():
            row = int(np.argmin(same))
            raise CaptureError(
                f"{self.names[table.file]}:{table.lines[row]}: {table.value('symbol', row)!r} among "
                f"{self.symbol!r}; choose one with --symbol"
            )
        return same


def _gap(_: Any) -> str:
    return "the message does not continue the one before it; the book is unreliable until the next snapshot"


def _reconnect(_: Any) -> str:
    return "a new snapshot within the file: the recording was interrupted before it"


def _no_snapshot(_: Any) -> str:
    return "no snapshot before the first change; the book is built from changes alone and lacks levels"
