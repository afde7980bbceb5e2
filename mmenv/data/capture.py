"""What every reader of recorded feeds shares: the raw row, the report of problems, decimal parsing.

A reader (one file per format, which registers itself) turns captures into chunks of `RAW` rows;
`mmenv.data.importer` turns those, whatever their format, into a store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

DEPTH: Final = 1
TRADE: Final = 2
CLEAR: Final = 3
SNAPSHOT: Final = 4
BBO: Final = 5

BUY: Final = 1
SELL: Final = -1

DECIMALS: Final = 8
"""Prices and sizes of a `RAW` row are integers in units of 10^-DECIMALS."""

UNKNOWN_NS: Final = -1
"""Exchange time of a message that carries none."""

INVALID: Final = np.iinfo(np.int64).min
"""What `parse_decimals` returns for text that is not a decimal of at most DECIMALS digits."""

RAW: Final = np.dtype(
    [
        ("exch_ns", "<i8"),
        ("local_ns", "<i8"),
        ("price", "<i8"),
        ("size", "<i8"),
        ("id", "<i8"),
        ("line", "<i4"),
        ("file", "<i2"),
        ("kind", "u1"),
        ("side", "i1"),
    ]
)
"""One recorded row. `side` is +1 for a bid level or a buying aggressor, -1 for an ask or a seller;
`id` is the update id of a book row and the trade id of a trade."""


Names = Sequence[str] | Mapping[int, str]
"""File names by the number `RAW` rows give."""


class CaptureError(ValueError):
    """A capture that cannot be imported, or may not be under `--strict`."""


@dataclass(frozen=True)
class Source:
    """What a capture records, and the venue's usual fees in basis points of notional."""

    venue: str
    symbol: str
    contract: str = "linear"
    contract_size: str = "1"
    maker_fee_bp: float = 0.0
    taker_fee_bp: float = 0.0


@dataclass(frozen=True)
class Options:
    """What the user says about files that do not say it themselves; None where nothing was said."""

    venue: str | None = None
    symbol: str | None = None


class Reader:
    """Reads the files of one venue and symbol. Subclass in one file and `register` what opens it.

    Between two chunks a reader can be pickled; `chunks` of the copy continues with the same rows.
    """

    source: Source
    names: list[str]
    """File names; `RAW` rows refer to them by number."""
    size = 0
    """Bytes to read."""
    done = 0
    """Bytes read."""

    def chunks(self, report: Report) -> Iterator[NDArray[np.void]]:
        """Chunks of `RAW` rows in arrival order; memory is bounded whatever the length of the files.

        Raises:
            CaptureError: files that cannot be used together, or `report.strict` and any problem.
        """
        raise NotImplementedError


Opener = Callable[[Sequence[Path], Options], Sequence[Reader]]
"""Sorts files into one reader for each venue and symbol. Raises `CaptureError`."""

FORMATS: Final[dict[str, tuple[Opener, str]]] = {}
"""By name: what opens files of the format, and what they are."""


def register(name: str, description: str) -> Callable[[Opener], Opener]:
    """Decorator: make a format known to `neuralmm import`."""

    def add(opener: Opener) -> Opener:
        FORMATS[name] = opener, description
        return opener

    return add


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

    def add_rows(self, names: Names, rows: NDArray[np.void], kind: str, text: Callable[[Any], str]) -> None:
        """Record a problem of each of the `RAW` rows [n], described by `text` of the row."""
        shown = max(self.keep - self.counts[kind], 0)
        for row in rows[:shown]:
            self.add(names[row["file"]], row["line"], row["local_ns"], kind, text(row))
        if len(rows) > shown:
            self.counts[kind] += len(rows) - shown

    def note(self, text: str, count: int = 1) -> None:
        """Count something worth knowing that is no fault."""
        if count:
            self.tally[text] += count

    def __str__(self) -> str:
        lines = [*self.notes, *(f"{count} x {text}" for text, count in sorted(self.tally.items()))]
        if not self.counts:
            return "\n".join([*lines, "no problems found"])
        lines += [f"{count} x {kind}" for kind, count in sorted(self.counts.items())]
        return "\n".join(lines + [str(problem) for problem in self.problems])


def decimal_text(units: int) -> str:
    """The decimal that `units` of 10^-DECIMALS stand for, without trailing zeros: 10000000 -> '0.1'."""
    whole, fraction = divmod(units, 10**DECIMALS)
    return f"{whole}.{fraction:0{DECIMALS}d}".rstrip("0").rstrip(".")


def decimal_units(name: str, text: str) -> int:
    """Inverse of `decimal_text` for a positive decimal. Raises `CaptureError` naming the field `name`."""
    units = int(parse_decimals(np.frombuffer(f"{text}\n".encode(), np.uint8), 1)[0])
    if units <= 0:
        raise CaptureError(f"{name} is {text!r}; give a positive decimal such as 0.01")
    return units


def valid(rows: NDArray[np.void], names: Names, report: Report) -> NDArray[np.bool_]:
    """Which `RAW` rows [n] have a time, price and size that can be; the others are reported."""
    price, size, kind = rows["price"], rows["size"], rows["kind"]
    bad = (price == INVALID) | (size == INVALID) | (size < 0) | ((price <= 0) & (kind != CLEAR))
    bad |= ((size == 0) & (kind == TRADE)) | (rows["local_ns"] < 0) | (rows["exch_ns"] < UNKNOWN_NS)
    bad |= ((rows["side"] == 0) & (kind != TRADE) & (kind != CLEAR)) | (kind == 0)
    report.add_rows(names, rows[bad], "bad-value", _bad_value)
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


@njit(cache=True, nogil=True)
def parse_decimals(text: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Decimals of a text, one per line, as integers in units of 10^-DECIMALS.

    Args:
        text: bytes [any]; `count` lines, each ended by a newline.
        count: how many lines there are.

    Returns:
        int64 [count]; as `parse_decimal` of each line.
    """
    out = np.full(count, INVALID, np.int64)
    line, begin = 0, 0
    for place, byte in enumerate(text):
        if byte == 10:
            if line < count:
                out[line] = parse_decimal(text, begin, place, DECIMALS)
            line += 1
            begin = place + 1
    return out


@njit(cache=True, nogil=True)
def parse_decimal(text, begin, end, decimals):  # type: ignore[no-untyped-def]
    """The decimal text[begin:end] as an integer in units of 10^-decimals.

    A power of ten may follow ("1e-7"). INVALID where the text is no decimal, has a non-zero digit beyond
    `decimals` places or does not fit.
    """
    place, negative = begin, begin < end and text[begin] == 45
    if negative:
        place += 1
    # The number is value x 10^(zeros - fraction): its last zeros are counted, not multiplied in.
    value, digits, zeros, fraction, point = np.int64(0), 0, 0, 0, False
    while place < end:
        byte = text[place]
        if byte == 46 and not point:
            point = True
        elif 48 <= byte <= 57:
            digits += 1
            zeros += 1
            if point:
                fraction += 1
            if byte != 48:
                value = _shifted(value, zeros)
                if value < 0:
                    return INVALID
                value += byte - 48
                zeros = 0
        else:
            break
        place += 1
    power = zeros - fraction + decimals
    if place < end:
        if text[place] != 101 and text[place] != 69:  # e, E
            return INVALID
        place += 1
        sign = -1 if text[place] == 45 else 1
        if text[place] == 45 or text[place] == 43:
            place += 1
        # Two digits say more than fits.
        if not 0 < end - place <= 2:
            return INVALID
        exponent = 0
        for at in range(place, end):
            if not 48 <= text[at] <= 57:
                return INVALID
            exponent = 10 * exponent + text[at] - 48
        power += sign * exponent
    if digits == 0 or (value > 0 and power < 0):
        return INVALID
    value = _shifted(value, power) if value > 0 else value
    if value < 0:
        return INVALID
    return -value if negative else value


@njit(cache=True, nogil=True)
def short_decimal(text, begin, end, decimals):  # type: ignore[no-untyped-def]
    """As `parse_decimal` of digits with or without a point that surely fit; negative for any other text.

    The text is read at one place only: more would have each call count its references to it, which takes
    longer than the digits do.
    """
    value, point = np.int64(0), end
    for place in range(begin, end):
        digit = np.int64(text[place]) - 48
        if 0 <= digit <= 9:
            value = 10 * value + digit
        elif digit == -2 and point == end:
            point = place
        else:
            return np.int64(-1)
    fraction = max(end - point - 1, 0)
    digits = end - begin - (point < end)
    if digits == 0 or fraction > decimals or digits + decimals - fraction > 19:
        return np.int64(-1)
    # Nineteen digits fit into 64 bits without a sign: what does not fit with one is negative here.
    found = value * _POWERS[decimals - fraction]
    return found if found < 9 * 10**18 else np.int64(-1)


@njit(cache=True, nogil=True)
def _shifted(value, power):  # type: ignore[no-untyped-def]
    """value x 10^power with room for one more digit, or -1."""
    if value == 0 or power == 0:
        return value
    if power >= len(_POWERS) or value > _ROOM[power]:
        return np.int64(-1)
    return value * _POWERS[power]


_POWERS: Final = np.array([10**power for power in range(19)], np.int64)
_ROOM: Final = (np.iinfo(np.int64).max - 9) // _POWERS
