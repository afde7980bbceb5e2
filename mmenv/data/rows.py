"""The rows of recorded feeds: `RAW` as readers of captures give them, `ROW` as tapes store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DEPTH: Final = 1
TRADE: Final = 2
CLEAR: Final = 3
SNAPSHOT: Final = 4
BBO: Final = 5
ADD: Final = 10
CANCEL: Final = 11
MODIFY: Final = 12
FILL: Final = 13
"""What happens to single orders; numbered as hftbacktest does. See `mmenv.data.orders`."""

BUY: Final = 1
SELL: Final = -1

UNKNOWN_NS: Final = -1
"""Exchange time of a message that carries none."""

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
"""One recorded row: price and size in units of 10^-`mmenv.data.decimals.DECIMALS`, times in nanoseconds.

`kind` is one of the above; a CLEAR empties the book, and a BBO is the best bid or ask of a ticker, the
bid first. `side` is +1 for a bid level or a buying aggressor, -1 for an ask or a seller; `id` is the update
id of a book row and the trade id of a trade; `line` and `file` say where it was read."""

ROW: Final = np.dtype(
    [
        ("exch_ns", "<i8"),
        ("local_ns", "<i8"),
        ("kind", "u1"),
        ("side", "i1"),
        ("price", "<i8"),
        ("size", "<i8"),
        ("id", "<i8"),
    ]
)
"""A stored row: kinds and sides as in `RAW`, price in ticks, size in lots, local time as recorded (add
`TapeInfo.clock_offset_ns` to compare it with exchange time)."""


# numpy copies rows field by field, and as so many bytes each ten times as fast.


def joined(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """Rows of one type [n], one array after another; of a single one that has rows, itself."""
    found = [part for part in parts if len(part)] or list(parts[:1])
    if len(found) == 1:
        return found[0]
    return np.concatenate([whole(part) for part in found]).view(found[0].dtype)


def taken(rows: NDArray[np.void], which: NDArray[Any]) -> NDArray[np.void]:
    """A copy of the rows where a mask [n] is true, or of those of these numbers [m]."""
    return whole(rows)[which].view(rows.dtype)


def without(rows: NDArray[np.void], which: NDArray[Any]) -> NDArray[np.void]:
    """A copy without the rows of these numbers [m]."""
    return np.delete(whole(rows), which).view(rows.dtype)


def inserted(rows: NDArray[np.void], places: Any, others: NDArray[np.void]) -> NDArray[np.void]:
    """A copy with `others` [m], of the same type, before the rows of these numbers [m], or of this one."""
    return np.insert(whole(rows), places, whole(others)).view(rows.dtype)


def whole(rows: NDArray[np.void]) -> NDArray[np.void]:
    """The same rows [n] as so many bytes each."""
    return rows.view(f"V{rows.dtype.itemsize}")


class CaptureError(ValueError):
    """A capture that cannot be imported, or may not be under `--strict`."""


class NoTape(CaptureError):
    """What there is of one symbol makes no tape; of others it may."""


class SeveralSymbols(CaptureError):
    """There is another symbol beside the one that is read, and nobody chose one."""

    def __init__(self, place: str, other: str, symbol: str) -> None:
        super().__init__(f"{place}: {other} among {symbol}")
