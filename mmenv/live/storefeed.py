"""A recorded tape as a live feed: what a desk sees without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import numpy as np

from mmenv.data.tape import Tape, TapeInfo
from mmenv.live.feed import Batch

SECOND = 1_000_000_000
STEP_NS = 10_000_000
"""Rows are handed over this often."""


class StoreFeed:
    """Plays a tape from its beginning, once, as if it happened now.

    Args:
        tape: what to play.
        latency_ns: delay of its fastest message.
        clock: nanoseconds since 1970; on a virtual loop the tape takes no time.
    """

    def __init__(
        self, tape: Tape, latency_ns: int = 2_000_000, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.tape, self.latency_ns, self.clock = tape, latency_ns, clock
        self.ended = asyncio.Event()
        # Its rows come on time by themselves.
        self.alarm_ns = 0
        self.alarm: Callable[[int], None] | None = None

    def take(self) -> Batch | None:
        return None

    async def open(self) -> TapeInfo:
        return self.tape.info

    async def close(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Batch]:
        info = self.tape.info
        shift = self.clock() - info.first_ns - info.clock_offset_ns
        for rows in self.tape.rows():
            rows["exch_ns"] += shift
            rows["local_ns"] += shift + info.clock_offset_ns + self.latency_ns
            slots = rows["local_ns"] // STEP_NS
            for part in np.split(rows, np.flatnonzero(np.diff(slots)) + 1):
                due = (int(part["local_ns"][-1]) - self.clock()) / SECOND
                await asyncio.sleep(max(due, 0.0))
                yield Batch(info.symbol, part, True, "", ())
        self.ended.set()
