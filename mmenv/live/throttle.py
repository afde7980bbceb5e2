"""How often a venue may be asked, kept by all who ask it from this process.

The venue says what it allows (`Throttle.limits`), counts what it was asked (`Throttle.counted`, by others on
the same address or account, too), and sometimes wants silence (`Throttle.refused`). Requests pass here one by
one. What shrinks risk passes first: a part of every limit is kept for it, and it alone is let through now and
then, while the venue wants silence.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mmenv.times import SECOND

WEIGHT, ORDERS = "weight", "orders"
"""What a venue counts: the weight of all requests, and new orders."""
KEPT: Final = 0.2
"""Part of each limit that only requests which shrink risk may use."""
PROBE_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses between such requests while the venue wants silence; the last one is repeated."""
BRIEF_S: Final = 2.0
"""A limit of orders in so short a time costs those that are too many, and is no reason to quote no more."""
PARTS: Final = 50
"""A window forgets in steps of this part of its length."""


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` of `kind`, WEIGHT or ORDERS, in `seconds`."""

    kind: str
    limit: int
    seconds: float


class TooOften(RuntimeError):
    """A request that was not sent, for it would be one too many; it may be from `until_ns` on."""

    def __init__(self, reason: str, until_ns: int) -> None:
        super().__init__(reason)
        self.until_ns = until_ns


class _Window:
    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._span_ns = round(limit.seconds * SECOND)
        self._step_ns = max(self._span_ns // PARTS, 1)
        self._parts: deque[list[int]] = deque()
        self._used = 0

    def used(self, now_ns: int) -> int:
        while self._parts and self._parts[0][0] + self._step_ns + self._span_ns <= now_ns:
            self._used -= self._parts.popleft()[1]
        return self._used

    def add(self, now_ns: int, count: int) -> None:
        start = now_ns // self._step_ns * self._step_ns
        if self._parts and self._parts[-1][0] >= start:
            self._parts[-1][1] += count
        else:
            self._parts.append([start, count])
        self._used += count

    def free_ns(self, now_ns: int, count: int, allowed: int) -> int:
        """When `count` more are within `allowed`."""
        left = self.used(now_ns) + count - allowed
        for start, held in self._parts:
            if left <= 0:
                break
            now_ns, left = start + self._step_ns + self._span_ns, left - held
        return now_ns


class Throttle:
    """All requests of this process to one venue, by one account.

    Parameters
    ----------
    clock
        Local time in nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._windows: list[_Window] = []
        self._until_ns = {WEIGHT: 0, ORDERS: 0}
        self._reasons = {WEIGHT: "", ORDERS: ""}
        self._probes, self._probe_ns = 0, 0
        self.listeners: list[Callable[[int, str], None]] = []
        """Are told until when the venue wants silence, and why."""

    @property
    def limits(self) -> Sequence[RateLimit]:
        """What the venue allows; nothing is limited until that is known."""
        return [window.limit for window in self._windows]

    @limits.setter
    def limits(self, limits: Iterable[RateLimit]) -> None:
        known = {window.limit: window for window in self._windows}
        self._windows = [known.get(limit) or _Window(limit) for limit in limits]

    async def admit(self, weight: int, orders: int = 0, *, reducing: bool = False) -> bool:
        """Return when a request may be sent, which then counts: whether the venue wants silence all the same.

        Raises
        ------
        TooOften
            The venue wants silence; or it is an order, and one too many: an order that waits is of no use.
        """
        while True:
            silent = self._heed(orders, reducing)
            now_ns = self._clock()
            if (until := self._admitted_ns(now_ns, weight, orders, reducing)) <= now_ns:
                break
            if self._order_ns(now_ns, orders, reducing) > now_ns:
                full = self._fullest(now_ns, orders, reducing)
                reason = f"the venue takes {full.limit} orders in {full.seconds:g} s, and they have been sent"
                if full.seconds > BRIEF_S:
                    self._tell(until, reason)
                raise TooOften(reason, until)
            await asyncio.sleep((until - now_ns) / SECOND)
        if silent:
            self._probe_ns = now_ns + round(PROBE_S[min(self._probes, len(PROBE_S) - 1)] * SECOND)
        self._probes = self._probes + 1 if silent else 0
        for window in self._windows:
            count = orders if window.limit.kind == ORDERS else weight
            if count:
                window.add(now_ns, count)
        return silent

    def counted(self, kind: str, seconds: float, count: int) -> None:
        """The venue's own count of what it was asked in a window, ours included."""
        for window in self._windows:
            if window.limit.kind == kind and window.limit.seconds == seconds:
                window.add(self._clock(), max(count - window.used(self._clock()), 0))

    def refused(self, until_ns: int, reason: str, kind: str = WEIGHT) -> None:
        """The venue wants silence until then: of new orders only, or (WEIGHT) of all."""
        if until_ns > self._until_ns[kind]:
            self._until_ns[kind], self._reasons[kind] = until_ns, reason
            self._tell(until_ns, reason)

    def lifted(self) -> None:
        """The venue wants no silence any more, sooner than was thought."""
        now_ns = self._clock()
        if now_ns < self._until_ns[WEIGHT]:
            self._until_ns[WEIGHT] = now_ns
            self._tell(now_ns, self._reasons[WEIGHT])

    def share(self, seconds: float) -> int:
        """New orders that may be sent in a time, and go on to be, by all limits; 0 if there is none."""
        allowed = (
            window.limit.limit * (1 - KEPT) * seconds / window.limit.seconds
            for window in self._windows
            if window.limit.kind == ORDERS and window.limit.seconds <= 60.0
        )
        least = min(allowed, default=math.inf)
        return 0 if math.isinf(least) else int(least)

    def _heed(self, orders: int, reducing: bool) -> bool:
        """Whether the venue wants silence. Raises `TooOften` then, unless it is time for another try."""
        now_ns = self._clock()
        for kind in (WEIGHT, ORDERS) if orders else (WEIGHT,):
            if now_ns < self._until_ns[kind]:
                if not reducing or now_ns < self._probe_ns:
                    raise TooOften(self._reasons[kind], self._until_ns[kind])
                return True
        return False

    def _admitted_ns(self, now_ns: int, weight: int, orders: int, reducing: bool) -> int:
        weights = (window for window in self._windows if window.limit.kind == WEIGHT)
        free = (window.free_ns(now_ns, weight, _allowed(window.limit, reducing)) for window in weights)
        return max([now_ns, self._order_ns(now_ns, orders, reducing), *free])

    def _order_ns(self, now_ns: int, orders: int, reducing: bool) -> int:
        return max((free for _, free in self._order_windows(now_ns, orders, reducing)), default=0)

    def _fullest(self, now_ns: int, orders: int, reducing: bool) -> RateLimit:
        windows = self._order_windows(now_ns, orders, reducing)
        return max(windows, key=lambda found: found[1])[0]

    def _order_windows(self, now_ns: int, orders: int, reducing: bool) -> Iterator[tuple[RateLimit, int]]:
        """Limits of new orders, and when each lets so many pass."""
        for window in self._windows:
            if orders and window.limit.kind == ORDERS:
                yield window.limit, window.free_ns(now_ns, orders, _allowed(window.limit, reducing))

    def _tell(self, until_ns: int, reason: str) -> None:
        for listener in list(self.listeners):
            listener(until_ns, reason)


def _allowed(limit: RateLimit, reducing: bool) -> int:
    return limit.limit if reducing else max(int(limit.limit * (1 - KEPT)), 1)
