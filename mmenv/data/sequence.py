"""Rows in order: clocks that run backwards, ids of trades, streams merged by arrival.

All of it can be pickled between two calls and then goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.problems import Report
from mmenv.data.rows import RAW, UNKNOWN_NS, CaptureError, joined, taken, whole

NEVER: Final = np.iinfo(np.int64).max
RECENT_IDS: Final = 4_096
"""Trades are compared with at least so many before them; one that comes still later is not awaited."""
CONSECUTIVE: Final = 0.9
"""A venue numbers its trades one by one if this share of the ids so far follows its predecessor."""
ENOUGH_IDS: Final = 100
"""Trades to have seen before a jump of ids counts as a gap."""


def overlap(report: Report, file: int) -> CaptureError:
    """The error that the file of this number begins before the one before it ends."""
    return CaptureError(
        f"{report.name(file)} begins before {report.name(file - 1)} ends: they overlap; give only one of them"
    )


class Arrival:
    """The local times of one stream, made to go forward."""

    def __init__(self) -> None:
        self.last = 0

    def set(self, rows: NDArray[np.void], report: Report, new_file: bool) -> None:
        """Let no `RAW` row [n] arrive before the one before it; report where one did.

        Raises `CaptureError` if a new file begins before the one before it ends.
        """
        if new_file and self.last and len(rows) and rows["local_ns"][0] < self.last:
            raise overlap(report, int(rows["file"][0]))
        self.last = _forward(rows, "local_ns", self.last, report)


class ExchangeTime:
    """The exchange times of one stream, made to go forward."""

    def __init__(self) -> None:
        self.last = 0

    def set(
        self,
        rows: NDArray[np.void],
        chosen: NDArray[np.bool_],
        report: Report,
        silent: NDArray[np.bool_] | None = None,
    ) -> None:
        """Let the known times of the chosen `RAW` rows [n] go forward; report all but the silent ones."""
        latest = _latest_of_forward(rows["exch_ns"], chosen, self.last)
        if latest >= 0:
            self.last = int(latest)
            return
        chosen = chosen & (rows["exch_ns"] != UNKNOWN_NS)
        if chosen.all():
            self.last = _forward(rows, "exch_ns", self.last, report, silent)
            return
        part = taken(rows, chosen)
        quiet = None if silent is None else silent[chosen]
        self.last = _forward(part, "exch_ns", self.last, report, quiet)
        rows["exch_ns"][chosen] = part["exch_ns"]


def _forward(
    rows: NDArray[np.void],
    name: str,
    last: int,
    report: Report,
    silent: NDArray[np.bool_] | None = None,
) -> int:
    """Raise times to the latest before them, in place; the latest of all."""
    if not len(rows):
        return last
    if _goes_forward(rows[name], last):
        return int(rows[name][-1])
    latest = np.maximum.accumulate(np.concatenate([[last], rows[name]]))
    back = rows[name] < latest[:-1]
    which = "local" if name == "local_ns" else "exchange"
    report.add_rows(
        rows[back if silent is None else back & ~silent],
        "time-backwards",
        lambda row: f"{which} time {row[name]} follows a later one, which is used",
    )
    rows[name] = latest[1:]
    return int(latest[-1])


@njit(cache=True, nogil=True)
def _goes_forward(times, last):
    for at in range(len(times)):
        if times[at] < last:
            return False
        last = times[at]
    return True


@njit(cache=True, nogil=True)
def _latest_of_forward(times, chosen, last):
    """The latest of the chosen times [n] that are known, -1 where one of them follows a later one."""
    for at in range(len(times)):
        if chosen[at] and times[at] != UNKNOWN_NS:
            if times[at] < last:
                return np.int64(-1)
            last = times[at]
    return last


class TradeIds:
    """The ids of one stream's trades, in any order: what was seen before, and what is missing.

    Only ids among the last few thousand can be told to have been seen; where they are numbers that grow
    (`numbered`), what is missing is known once as many have passed, or at the end. A venue that is not known
    to number its trades `one_by_one` must first be seen to.
    """

    def __init__(self, numbered: bool, one_by_one: bool = False) -> None:
        self.numbered, self.one_by_one = numbered, one_by_one
        self.settled = -1
        """Ids up to here have passed."""
        self.seen = 0
        self.followed = 0
        self.last = -1
        self._held: NDArray[np.void] = np.zeros(0, RAW)
        self._count = 0

    def new(self, rows: NDArray[np.void], report: Report) -> NDArray[np.bool_]:
        """Which `RAW` trades [n] were not seen before; the others are reported. An id below 0 is none."""
        again = np.zeros(len(rows), np.bool_)
        known = np.flatnonzero(rows["id"] >= 0)
        while len(known):
            if len(self.recent) >= 2 * RECENT_IDS:
                self.settle(report, RECENT_IDS)
            # Always as many at a time, so that what is known does not depend on how the rows are cut.
            room = 2 * RECENT_IDS - len(self.recent)
            part, known = known[:room], known[room:]
            again[part] = self._again(rows["id"][part])
            self._hold(taken(rows, part[~again[part]]))
        report.add_rows(
            rows[again], "duplicate-trade", lambda row: f"trade {row['id']} was seen before; skipped"
        )
        return ~again

    def note(self, *ids: int) -> None:
        """Ids that are neither new nor missing: of trades that are not given as rows."""
        rows = np.zeros(len(ids), RAW)
        rows["id"] = ids
        self._hold(rows)

    @property
    def recent(self) -> NDArray[np.void]:
        """`RAW` trades that a later one is compared with."""
        return self._held[: self._count]

    def _hold(self, rows: NDArray[np.void]) -> None:
        end = self._count + len(rows)
        if end > len(self._held):
            self._held = joined([self.recent, np.zeros(2 * end - self._count, RAW)])
        whole(self._held)[self._count : end] = whole(rows)
        self._count = end

    def _again(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        again = np.zeros(len(ids), np.bool_)
        if ids[0] > self.last and (np.diff(ids) > 0).all():
            self.last = int(ids[-1])
            return again
        self.last = max(self.last, int(ids.max()))
        again[:] = True
        again[np.unique(ids, return_index=True)[1]] = False
        return again | np.isin(ids, self.recent["id"])

    def settle(self, report: Report, keep: int = 0) -> None:
        """Let all but the newest `keep` ids pass, and report what is missing among them."""
        cut = max(len(self.recent) - keep, 0)
        rows = self.recent
        if self.numbered:
            rows = taken(rows, np.argsort(rows["id"], kind="stable"))
        rows, newest = rows[:cut], rows[cut:]
        self._held, self._count = newest.copy(), len(newest)
        if not self.numbered:
            return
        late = rows["id"] <= self.settled
        report.add_rows(rows[late], "late-trade", lambda row: f"trade {row['id']} is thousands late; kept")
        self._gaps(rows[~late], report)

    def _gaps(self, rows: NDArray[np.void], report: Report) -> None:
        if not len(rows):
            return
        steps = np.diff(rows["id"], prepend=self.settled)
        if self.settled < 0:
            steps[0] = 1
        seen = self.seen + np.arange(len(rows))
        followed = self.followed + np.concatenate([[0], np.cumsum(steps == 1)[:-1]])
        one_by_one = (seen >= ENOUGH_IDS) & (followed >= CONSECUTIVE * seen)
        jumps = (steps > 1) & (one_by_one | self.one_by_one)
        missing = dict(zip(rows["id"][jumps].tolist(), (steps[jumps] - 1).tolist(), strict=True))
        report.add_rows(
            rows[jumps],
            "trade-gap",
            lambda row: f"{missing[int(row['id'])]} trades missing before {row['id']}",
        )
        self.settled, self.seen = int(rows["id"][-1]), self.seen + len(rows)
        self.followed += int((steps == 1).sum())


class Stream(Protocol):
    """Rows of one kind in arrival order."""

    def pull(self, report: Report) -> NDArray[np.void] | None:
        """The next `RAW` rows, perhaps none; None after the last."""


class Merge:
    """Streams as one, by arrival; at equal times the first stream's rows come first."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = list(streams)
        self._held: list[NDArray[np.void]] = [np.zeros(0, RAW) for _ in streams]
        self._over = [False for _ in streams]

    def pull(self, report: Report) -> NDArray[np.void] | None:
        """The next `RAW` rows; None after the last."""
        if all(self._over) and not any(map(len, self._held)):
            return None
        # Rows that another stream could still precede are held: pull the stream that is least far.
        ends = [self._end(number) for number in range(len(self.streams))]
        least = int(np.argmin(ends))
        if not self._over[least]:
            found = self.streams[least].pull(report)
            self._over[least] = found is None
            if found is not None:
                self._held[least] = joined([self._held[least], found])
            ends[least] = self._end(least)
        limit = min(ends)
        parts = []
        for number, held in enumerate(self._held):
            cut = len(held) if limit == NEVER else int(np.searchsorted(held["local_ns"], limit))
            parts.append(held[:cut])
            self._held[number] = held[cut:]
        rows = joined(parts)
        if sum(map(bool, map(len, parts))) < 2:
            return rows
        return taken(rows, np.argsort(rows["local_ns"], kind="stable"))

    def _end(self, number: int) -> int:
        """No later row of the stream comes before this time."""
        held = self._held[number]
        return NEVER if self._over[number] else int(held["local_ns"][-1]) if len(held) else -1
