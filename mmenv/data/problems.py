"""What is wrong in a capture, gathered with file, line and time, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.data.decimals import DECIMALS, INVALID, decimal_text
from mmenv.data.rows import CLEAR, TRADE, UNKNOWN_NS, CaptureError


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a capture: where it is, when it happened and what was done about it."""

    file: str
    line: int
    time_ns: int
    kind: str
    text: str

    def __str__(self) -> str:
        when = np.datetime64(self.time_ns, "ns") if self.time_ns > 0 else "unknown time"
        return f"{self.file}:{self.line} ({when}): {self.kind}: {self.text}"


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
    tally: Counter[str] = field(default_factory=Counter)

    def add(self, file: str, line: int, time_ns: int, kind: str, text: str) -> None:
        """Record a problem. Raises `CaptureError` under `strict`."""
        problem = Problem(file, int(line), int(time_ns), kind, text)
        if self.strict:
            raise CaptureError(f"{problem} (refused by --strict; without it, this is repaired and reported)")
        self.counts[kind] += 1
        if self.counts[kind] <= self.keep:
            self.problems.append(problem)

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

    def note_unsided(self, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which `RAW` rows [n] are trades without a side; they are counted, for the caller to leave out."""
        found = (rows["kind"] == TRADE) & (rows["side"] == 0)
        self.note("trade whose aggressor is unknown, left out", int(found.sum()))
        return found

    def __str__(self) -> str:
        lines = [*self.notes, *(f"{count} x {text}" for text, count in sorted(self.tally.items()))]
        if not self.counts:
            return "\n".join([*lines, "no problems found"])
        lines += [f"{count} x {kind}" for kind, count in sorted(self.counts.items())]
        return "\n".join(lines + [str(problem) for problem in self.problems])


def valid(rows: NDArray[np.void], report: Report) -> NDArray[np.bool_]:
    """Which `RAW` rows [n] have a time, price and size that can be; the others are reported."""
    price, size, kind = rows["price"], rows["size"], rows["kind"]
    bad = (price == INVALID) | (size == INVALID) | (size < 0) | ((price <= 0) & (kind != CLEAR))
    bad |= ((size == 0) & (kind == TRADE)) | (rows["local_ns"] < 0) | (rows["exch_ns"] < UNKNOWN_NS)
    bad |= ((rows["side"] == 0) & (kind != TRADE) & (kind != CLEAR)) | (kind == 0)
    report.add_rows(rows[bad], "bad-value", _bad_value)
    return ~bad


def _bad_value(row: Any) -> str:
    if row["local_ns"] < 0 or row["exch_ns"] < UNKNOWN_NS:
        return "a time that is no time; row skipped"
    if row["kind"] == 0 or (row["side"] == 0 and row["kind"] != TRADE):
        return "a kind or side that is none; row skipped"
    return f"price {_shown(row['price'])}, size {_shown(row['size'])}; row skipped"


def _shown(units: int) -> str:
    if units == INVALID:
        return f"not a decimal of at most {DECIMALS} places"
    return decimal_text(int(units)) if units >= 0 else "-" + decimal_text(-int(units))
