"""What every reader of recorded feeds shares: the raw row, the report of problems, decimal parsing.

A reader (one file per format) turns captures into chunks of `RAW` rows; `mmenv.data.importer` turns
those, whatever their format, into a store.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

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

    def add(self, file: str, line: int, time_ns: int, kind: str, text: str) -> None:
        """Record a problem. Raises `CaptureError` under `strict`."""
        problem = Problem(file, int(line), int(time_ns), kind, text)
        if self.strict:
            raise CaptureError(f"{problem} (refused by --strict; without it, this is repaired and reported)")
        self.counts[kind] += 1
        if self.counts[kind] <= self.keep:
            self.problems.append(problem)

    def __str__(self) -> str:
        lines = [*self.notes]
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


@njit(cache=True, nogil=True)
def parse_decimals(text: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Decimals of a text, one per line, as integers in units of 10^-DECIMALS.

    Args:
        text: bytes [any]; `count` lines, each ended by a newline.
        count: how many lines there are.

    Returns:
        int64 [count]; INVALID where a line is no plain decimal, has a non-zero digit beyond DECIMALS
        or does not fit.
    """
    out = np.full(count, INVALID, np.int64)
    limit = np.iinfo(np.int64).max // 10 - 1
    line = 0
    value, digits, places, negative, good = 0, 0, -1, False, True
    for byte in text:
        if 48 <= byte <= 57:
            digits += 1
            if places >= DECIMALS:
                good = good and byte == 48
            elif value > limit:
                good = False
            else:
                value = value * 10 + (byte - 48)
                if places >= 0:
                    places += 1
        elif byte == 46 and places < 0:
            places = 0
        elif byte == 45 and digits == 0 and places < 0 and not negative:
            negative = True
        elif byte == 10:
            for _ in range(DECIMALS - max(places, 0)):
                if value > limit:
                    good = False
                else:
                    value *= 10
            if good and digits > 0 and line < count:
                out[line] = -value if negative else value
            line += 1
            value, digits, places, negative, good = 0, 0, -1, False, True
        else:
            good = False
    return out
