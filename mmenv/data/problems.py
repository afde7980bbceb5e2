"""What is wrong in a capture, gathered with file, line and time, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.decimals import INVALID, TOO_FINE, Places, decimal_text
from mmenv.data.rows import CLEAR, TRADE, UNKNOWN_NS, CaptureError

REFUSALS: Final = ("bad-line", "bad-message", "bad-value", "off-grid")
"""Kinds of problems whose row is not used."""
INCOMPLETE: Final = ("missing-snapshot", "sequence-gap")
"""Kinds of problems after which the book may lack levels."""
FINE_ROWS: Final = 1000
"""Rows to have seen before a few decimals too many count."""
FINE_SHARE: Final = 0.01
"""Strays of more decimals than all but so many rows are refused; more of them are how the venue writes."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a capture: where it is, when it happened and what was done about it."""

    file: str
    line: int
    time_ns: int
    kind: str
    text: str

    def __str__(self) -> str:
        known = 0 < self.time_ns < 1 << 63
        when = np.datetime64(int(self.time_ns), "ns") if known else "unknown time"
        return f"{self.file}:{self.line} ({when}): {self.kind}: {self.text}"


class FinerNeeded(Exception):
    """Prices or sizes have more decimals than they are read with: read the files again, with `places`."""

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self.places = places


@dataclass
class Report:
    """Collects problems; under `strict` the first one raises `CaptureError`.

    Only the first `keep` of each kind are kept in full, so that a broken day cannot fill the memory;
    `counts` holds the totals.
    """

    names: Sequence[str] = ()
    """File names by the number that `RAW` rows give."""
    strict: bool = False
    keep: int = 20
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: str = ""
    """Why there is no tape, where other symbols have theirs."""
    tally: Counter[str] = field(default_factory=Counter)
    places: Places = field(default_factory=Places)
    """Decimal places of the importer's prices and sizes."""
    finest: bool = False
    """The importer cannot have more of them."""
    rows: int = 0
    """Rows that `valid` has judged."""
    fine: list[int] = field(default_factory=lambda: [0, 0])
    """How many of their prices, and of their sizes, have more decimals."""

    def add(self, file: str, line: int, time_ns: int, kind: str, text: str) -> None:
        """Record a problem. Raises `CaptureError` under `strict`."""
        problem = Problem(file, int(line), int(time_ns), kind, text)
        if self.strict:
            raise CaptureError(f"{problem} (refused by --strict; without it, this is repaired and reported)")
        self.counts[kind] += 1
        if self.counts[kind] <= self.keep:
            self.problems.append(problem)

    def empty(self) -> Report:
        """One of the same files that nothing has been told yet."""
        return Report(self.names, self.strict, self.keep, places=self.places, finest=self.finest)

    def add_all(self, other: Report) -> None:
        """Record all of another report's problems and notes, in their order."""
        for problem in other.problems:
            self.add(problem.file, problem.line, problem.time_ns, problem.kind, problem.text)
        kept = Counter(problem.kind for problem in other.problems)
        self.counts.update(other.counts - kept)
        self.tally.update(other.tally)
        self.notes += other.notes

    def name(self, file: int) -> str:
        """What the file of this number is called."""
        return self.names[file] if 0 <= file < len(self.names) else f"file {file}"

    def add_rows(self, rows: NDArray[np.void], kind: str, text: str | Callable[[Any], str]) -> None:
        """Record a problem of each of the `RAW` rows [n], described by `text` or what it says of the row."""
        shown = max(self.keep - self.counts[kind], 0)
        for row in rows[:shown]:
            told = text if isinstance(text, str) else text(row)
            self.add(self.name(row["file"]), row["line"], row["local_ns"], kind, told)
        if len(rows) > shown:
            self.counts[kind] += len(rows) - shown

    def note(self, text: str, count: int = 1) -> None:
        """Count something worth knowing that is no fault."""
        if count:
            self.tally[text] += count

    @property
    def refused(self) -> int:
        """Rows and lines that are not used because of what they say."""
        return sum(self.counts[kind] for kind in REFUSALS)

    def broken_by(self, time_ns: int) -> bool:
        """Whether changes of the book were missing before this local time."""
        return any(each.kind in INCOMPLETE and each.time_ns < time_ns for each in self.problems)

    def check_places(self) -> None:
        """Raise `FinerNeeded` where more than a few rows have more decimals than they are read with."""
        price, size = (count > FINE_SHARE * self.rows for count in self.fine)
        finer = self.places.finer(price, size)
        if not self.finest and finer != self.places:
            raise FinerNeeded(finer)

    def shown(self, units: int, places: int) -> str:
        """A price or size for a message."""
        if units == TOO_FINE:
            return f"of more than {places} decimal places"
        if units == INVALID:
            return "no decimal that fits into 64 bits"
        return decimal_text(units, places) if units >= 0 else "-" + decimal_text(-units, places)

    def __str__(self) -> str:
        if self.left_out:
            return self.left_out
        lines = [*self.notes, *(f"{count} x {text}" for text, count in sorted(self.tally.items()))]
        if not self.counts:
            return "\n".join([*lines, "no problems found"])
        lines += [f"{count} x {kind}" for kind, count in sorted(self.counts.items())]
        return "\n".join(lines + [str(problem) for problem in self.problems])


def valid(rows: NDArray[np.void], report: Report) -> NDArray[np.bool_]:
    """Which `RAW` rows [n] have a time, price and size that can be; the others are reported."""
    bad, wrong, *fine = _impossible(rows)
    report.rows += len(rows)
    for place, count in enumerate(fine):
        report.fine[place] += count
    if report.strict or report.rows >= FINE_ROWS:
        report.check_places()
    if wrong:
        report.add_rows(rows[bad], "bad-value", lambda row: _bad_value(row, report))
    return ~bad


@njit(cache=True, nogil=True)
def _impossible(rows):
    """Which `RAW` rows [n] cannot be, how many; how many prices, and how many sizes, are TOO_FINE."""
    bad = np.zeros(len(rows), np.bool_)
    wrong, fine_prices, fine_sizes = 0, 0, 0
    for at in range(len(rows)):
        row = rows[at]
        price, size, kind = row.price, row.size, row.kind
        fine_prices += price == TOO_FINE
        fine_sizes += size == TOO_FINE
        bad[at] = (
            size < 0
            or (price <= 0 and kind != CLEAR)
            or (size == 0 and kind == TRADE)
            or row.local_ns < 0
            or row.exch_ns < UNKNOWN_NS
            or (row.side == 0 and kind != TRADE and kind != CLEAR)
            or kind == 0
        )
        wrong += bad[at]
    return bad, wrong, fine_prices, fine_sizes


def _bad_value(row: Any, report: Report) -> str:
    if row["local_ns"] < 0 or row["exch_ns"] < UNKNOWN_NS:
        return "a time that is no time; row skipped"
    if row["kind"] == 0 or (row["side"] == 0 and row["kind"] != TRADE):
        return "a kind or side that is none; row skipped"
    price = report.shown(int(row["price"]), report.places.price)
    size = report.shown(int(row["size"]), report.places.size)
    return f"price {price}, size {size}; row skipped"
