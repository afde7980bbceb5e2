"""Each stream of a feed has its own age: one that falls silent among live ones is known by its own habits."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import BBO, DEPTH, TRADE
from mmenv.live.snapshot import Kept, give_back, keep
from mmenv.times import HOUR, MILLISECOND, SECOND

STREAMS: Final = {DEPTH: "depth", TRADE: "trades", BBO: "ticker"}
ENOUGH: Final = 20
"""Messages from which on a stream has habits."""
MEANS: Final = 20.0
"""A stream is not silent before so many of its usual gaps have passed."""

_AGE: Final = np.dtype(
    [
        ("last_ns", "i8"),  # of the newest message; 0: there was none, -1: none since the feed began anew
        ("muted", "i8"),  # 1 from when it was found silent until it speaks
        ("count", "i8"),
        ("mean_ns", "f8"),  # of the gaps between messages, the newest counting most
        ("peak_ns", "f8"),  # the longest gap of late, and what is taken off it in an hour
        ("id", "i8"),  # of the newest message
    ]
)


class Streams:
    """When each kind of row came last, and whether that is long ago for its kind.

    A stream is silent after `patience` times its longest gap of late, but never before `least_ns` or MEANS of
    its mean gaps, and only while another one lives: when all are silent, that is not the stream's fault.
    """

    def __init__(self, patience: float, least_ns: int) -> None:
        self._patience, self._least_ns = patience, least_ns
        self._ages: NDArray[np.void] = np.zeros(max(STREAMS) + 1, _AGE)
        self._behind = np.zeros(1, np.int64)

    def take(self, rows: NDArray[np.void]) -> None:
        """Take in ROW rows [n]."""
        _take(rows, self._ages, self._behind, self._patience, float(self._least_ns))

    def kept(self) -> Kept:
        """All that it knows; see `restore`."""
        return keep(self, "_ages", "_behind")

    def restore(self, state: Kept) -> None:
        """Go on from what `kept` gave."""
        give_back(self, state)

    def interrupt(self) -> None:
        """The feed begins anew: the time until then is nobody's gap. What was silent must still speak."""
        ages = self._ages
        ages["last_ns"][ages["last_ns"] > 0] = -1
        self._behind[0] = 0

    def silent(self, time_ns: int) -> str:
        """Which stream is silent, or behind the others; empty if none is."""
        ages = self._ages
        newest = int(ages["last_ns"].max())
        if time_ns - newest > self._least_ns:
            return ""
        for kind, name in STREAMS.items():
            age, since = ages[kind], time_ns - int(ages[kind]["last_ns"])
            if age["last_ns"] > 0 and age["count"] >= ENOUGH and since > self._limit_ns(age):
                age["muted"] = 1
                return f"no {name} for {since / SECOND:.1f} s while other streams go on"
            if age["muted"]:
                return f"no {name} since the feed began anew"
        behind = int(self._behind[0])
        if behind and time_ns - behind > self._least_ns:
            late = (time_ns - behind) // MILLISECOND
            return f"the depth stream has been behind the ticker for {late} ms"
        return ""

    def _limit_ns(self, age: np.void) -> float:
        return float(_limit(age["mean_ns"], age["peak_ns"], self._patience, float(self._least_ns)))


@njit(cache=True, nogil=True)
def _limit(mean_ns: float, peak_ns: float, patience: float, least_ns: float) -> float:
    return max(least_ns, patience * peak_ns, MEANS * mean_ns)


@njit(cache=True, nogil=True)
def _take(rows: Any, ages: Any, behind: Any, patience: float, least_ns: float) -> None:
    for row in rows:
        if row.kind != DEPTH and row.kind != TRADE and row.kind != BBO:
            continue
        for other in ages:
            # From the first message on, each has its time to speak.
            if other.last_ns == -1:
                other.last_ns = row.local_ns
        age = ages[row.kind]
        age.muted = 0
        if age.last_ns > 0 and row.local_ns > age.last_ns:
            gap = float(row.local_ns - age.last_ns)
            # A stall is not a habit, but quiet hours are: the limit grows step by step.
            known = min(gap, _limit(age.mean_ns, age.peak_ns, patience, least_ns))
            age.peak_ns = max(known, age.peak_ns * (1.0 - min(gap / HOUR, 1.0)))
            age.mean_ns += (known - age.mean_ns) / min(age.count + 1.0, 100.0)
            age.count += 1
        age.last_ns, age.id = max(age.last_ns, row.local_ns), row.id
        # Ids are shared: the book's newest change must come by the depth stream, too.
        if row.kind == BBO and row.id > ages[DEPTH].id and behind[0] == 0:
            behind[0] = row.local_ns
        elif row.kind == DEPTH and row.id >= ages[BBO].id:
            behind[0] = 0
