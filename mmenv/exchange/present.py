"""The moment that an exchange is in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal

from mmenv.exchange.faults import Faults
from mmenv.exchange.playback import Playback
from mmenv.times import MILLISECOND


class Present:
    """The time at an exchange and what goes wrong there, shared by all its parts.

    Times are the wall clock's, in nanoseconds since 1970, but for those of a tape, of which `speed` passes in
    a unit of wall time.
    """

    def __init__(self, start_ns: int, speed: float, faults: Faults) -> None:
        self.start_ns = self.now_ns = start_ns
        self.speed, self.faults = speed, faults
        self.prices: dict[str, Decimal] = {}
        """What coins are worth in which fees are paid, in the quote asset."""
        self.numbers: Iterator[int] = itertools.count()
        """Tells apart what happens at the same time."""

    @property
    def since_start_ns(self) -> int:
        """Time since the exchange began, by which faults are scheduled."""
        return self.now_ns - self.start_ns

    @property
    def clock_ms(self) -> int:
        """What the exchange's own clock shows, in milliseconds."""
        return (self.now_ns + self.faults.clock_ns(self.since_start_ns)) // MILLISECOND

    def next_ns(self, playback: Playback) -> int | None:
        """When the next message of a tape is due; None at its end."""
        if playback.next_ns is None:
            return None
        return self.start_ns + int((playback.next_ns - playback.first_ns) / self.speed)

    def tape_ns(self, playback: Playback) -> int:
        """Now, on a tape's clock."""
        return playback.first_ns + int(self.since_start_ns * self.speed)
