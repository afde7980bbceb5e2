"""A recorded tape as a live feed: what a desk sees without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Final

import numpy as np

from mmenv.data.tape import Tape
from mmenv.live.market_feed import NEVER_NS, Batch, Instrument, MarketFeed
from mmenv.times import MILLISECOND, SECOND

STEP_NS: Final = 10 * MILLISECOND
"""Rows are handed over this often."""


class TapeFeed(MarketFeed):
    """Plays a tape from its beginning, once, as if it happened now; its fastest message takes `latency_ns`.

    By the clock of a virtual loop the tape takes no time.
    """

    def __init__(
        self, tape: Tape, latency_ns: int = 2 * MILLISECOND, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.tape, self.latency_ns, self.clock = tape, latency_ns, clock
        # Never set off: its rows come on time by themselves.
        self.alarm_ns = NEVER_NS
        self.alarm: Callable[[int], None] = lambda local_ns: None

    async def open(self) -> Instrument:
        """What the tape is of."""
        info = self.tape.info
        return Instrument(
            venue=info.venue,
            symbol=info.symbol,
            tick_size=info.tick_size,
            lot_size=f"{Decimal(info.lot_size) * Decimal(info.contract_size):f}",
            maker_fee_bp=info.maker_fee_bp,
            taker_fee_bp=info.taker_fee_bp,
            contract_size=info.contract_size,
            inverse=info.contract == "inverse",
        )

    def take(self) -> Batch | None:
        """Nothing: what is due has been iterated over."""
        return None

    async def close(self) -> None:
        """There is nothing to disconnect."""

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
