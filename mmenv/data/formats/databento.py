"""Databento market by order (schema `mbo`): DBN (versions 1 to 3, plain or zstd), CSV and Parquet exports.

https://databento.com/docs/schemas/mbo and .../examples/order-book: A adds an order, C takes size off one, M
changes one (and adds it if it is new), R clears the book; T is a trade with the aggressor's side and F the
resting side of it: neither changes the book, a cancel that follows does. Records up to the one with F_LAST
are one event; the book is looked at only then. Orders are summed to the size of their level.

Records with F_SNAPSHOT carry the time at which their order was entered, so their arrival stands for the
exchange time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.columns import has_columns
from mmenv.data.formats import databento_book as book
from mmenv.data.formats.base import Importer, ImportOptions, register
from mmenv.data.formats.databento_files import COLUMNS, PLACES, DbnFiles, TableFiles, identify, is_dbn
from mmenv.data.problems import Report, valid
from mmenv.data.read_ahead import ReadAhead
from mmenv.data.rows import CLEAR, DEPTH, RAW, TRADE, CaptureError, taken
from mmenv.data.sequence import Arrival, ExchangeTime
from mmenv.data.source import Source, source_of

_KINDS: Final = np.zeros(256, np.uint8)
"""Kind of a row by action, 0 for none; CLEAR stands for all that neither adds, changes nor trades."""
_KINDS[[book.ADD, book.MODIFY]], _KINDS[book.TRADE] = DEPTH, TRADE
_KINDS[[book.CANCEL, book.CLEAR, book.FILL, book.NOTHING]] = CLEAR

PROBLEMS: Final = {
    book.UNKNOWN: ("unknown-order", "a cancel of an order that was never added; ignored"),
    book.DUPLICATE: ("duplicate-order", "an order that is in the book already; it replaces the other"),
    book.TOO_MUCH: ("bad-value", "a cancel of more than the order has; all of it is removed"),
}
NO_SNAPSHOT: Final = "the file does not begin by clearing the book; orders entered before it are unknown"
GAP: Final = "the venue's channel lost messages here (F_MAYBE_BAD_BOOK); the book is unreliable from here on"


@register
class Databento(Importer):
    """Consecutive files of one symbol. Its state are the resting orders and the event that is open."""

    name = "databento"
    description = "Databento schema `mbo`: DBN 1 to 3 (.dbn, .dbn.zst), CSV or Parquet"
    notes = "orders are summed to levels at the end of each event (`F_LAST`); top-of-book feeds are refused"

    def __init__(self, source: Source, paths: Sequence[Path], choose: bool) -> None:
        self.source, self.places = source, PLACES
        self.names = [path.name for path in paths]
        files = DbnFiles if is_dbn(paths[0]) else TableFiles
        self._ahead: ReadAhead[DbnFiles | TableFiles, tuple[NDArray[np.void], bool]] = ReadAhead(
            files(paths, source.symbol, choose)
        )
        self.size = self._ahead.source.size
        self._arrival, self._times = Arrival(), ExchangeTime()
        self._begun = self._new_file = False
        self._orders = book.Orders()

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return head.startswith(b"DBN") or has_columns(head, COLUMNS)

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Databento]:
        found: dict[tuple[str, str], list[tuple[int, Path]]] = {}
        for path in paths:
            venue, symbols, first_ns = identify(path, options)
            for symbol in symbols:
                found.setdefault((venue, symbol), []).append((first_ns, path))
        return [
            cls(source_of(venue, symbol), [path for _, path in sorted(files)], options.symbol is not None)
            for (venue, symbol), files in found.items()
        ]

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        self._ahead.readers = self.readers
        with closing(self._ahead):
            while (found := self._ahead.pull(report, lambda files, told: files.orders(told))) is not None:
                self.done = self._ahead.source.done
                records, begins = found
                self._new_file |= begins
                if len(records):
                    yield self._rows(records, report)
        if self._orders.open:
            told = "the last event has no end; left out"
            report.add(self.names[-1], 0, self._arrival.last, "half-event", told)

    def _rows(self, records: NDArray[np.void], report: Report) -> NDArray[np.void]:
        self._refuse_levels(records)
        heads = _heads(records)
        good = valid(heads, report)
        if not good.all():
            heads, records = taken(heads, good), taken(records, good)
        if not len(heads):
            return heads
        self._arrival.set(heads, report, self._new_file)
        self._times.set(heads, heads["kind"] != 0, report, (records["flags"] & book.F_SNAPSHOT) > 0)
        self._new_file = False
        if not self._begun and records["action"][0] != book.CLEAR:
            report.add_rows(heads[:1], "missing-snapshot", NO_SNAPSHOT)
        self._begun = True
        report.add_rows(heads[(records["flags"] & book.F_MAYBE_BAD_BOOK) > 0], "sequence-gap", GAP)
        rows, wrong = self._orders.apply(heads, records)
        for code, (kind, text) in PROBLEMS.items() if len(wrong) else ():
            report.add_rows(heads[wrong["record"][wrong["code"] == code]], kind, text)
        return rows

    def _refuse_levels(self, records: NDArray[np.void]) -> None:
        levels = (records["flags"] & (book.F_TOB | book.F_MBP)) > 0
        if levels.any():
            row = records[np.argmax(levels)]
            raise CaptureError(
                f"{self.names[row['file']]}:{row['line']}: levels instead of orders (F_TOB or F_MBP); "
                "only full depth by order can be imported"
            )


@njit(cache=True, nogil=True)
def _heads(records):
    """`ORDER` rows [n] as `RAW` rows [n]."""
    heads = np.empty(len(records), RAW)
    for number in range(len(records)):
        record, head = records[number], heads[number]
        kind = _KINDS[record.action]
        used = kind in (DEPTH, TRADE)
        head.kind, head.side, head.file, head.line = kind, record.side, record.file, record.line
        head.price = record.price if used else 0
        head.size = 0 if record.action in (book.CLEAR, book.NOTHING) else record.size
        head.id, head.local_ns = record.line, record.local_ns
        # What a snapshot's records tell is when their orders were entered.
        head.exch_ns = record.local_ns if record.flags & book.F_SNAPSHOT else record.exch_ns
    return heads
