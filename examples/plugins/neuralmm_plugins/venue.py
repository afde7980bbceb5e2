"""A venue: plays the rows of a list as market data, once, and takes no orders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np

from mmenv.data.rows import BUY, CLEAR, DEPTH, ROW, SELL, SNAPSHOT, TRADE
from mmenv.live.market_feed import NEVER_NS, Batch, Instrument, MarketFeed
from mmenv.live.orders import OrderClient, VenueError
from mmenv.live.venues.base import Clock, Keep, Venue, register

PAUSE_SECONDS = 0.01

MESSAGES = (
    ((CLEAR, BUY, 0, 0), (SNAPSHOT, BUY, 999, 5), (SNAPSHOT, SELL, 1001, 5)),
    ((TRADE, BUY, 1001, 2), (DEPTH, SELL, 1001, 3)),
    ((DEPTH, BUY, 1000, 4),),
)
"""Messages of rows: kind, side, price in ticks, size in lots."""


class ScriptedFeed(MarketFeed):
    """`MESSAGES`, a batch each, as if they happened now."""

    def __init__(self, symbol: str, clock: Clock) -> None:
        self.symbol, self.clock = symbol, clock
        self.alarm_ns = NEVER_NS
        self.alarm: Callable[[int], None] = lambda local_ns: None

    async def open(self) -> Instrument:
        return Instrument("scripted", self.symbol, "0.1", "0.001", maker_fee_bp=0.0, taker_fee_bp=1.0)

    def take(self) -> Batch | None:
        return None

    async def close(self) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Batch]:
        for number, message in enumerate(MESSAGES):
            await asyncio.sleep(PAUSE_SECONDS)
            rows = np.array([(0, 0, *row, number) for row in message], ROW)
            rows["exch_ns"] = rows["local_ns"] = self.clock()
            yield Batch(self.symbol, rows, live=True, reason="", problems=())


@register
class Scripted(Venue):
    """Market data from a list."""

    name = "scripted"

    def feed(self, symbol: str, keep: Keep | None = None) -> ScriptedFeed:
        return ScriptedFeed(symbol, self.clock)

    async def orders(self, symbol: str) -> OrderClient:
        raise VenueError("scripted takes no orders")

    async def close(self) -> None: ...
