"""Binance's market data as it happens: diff depth, trades and book tickers of a symbol over one connection,
and REST snapshots of the book."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, Final

import orjson

from mmenv.data.formats.binance_decoder import Decoder
from mmenv.data.problems import Report
from mmenv.data.source import Source
from mmenv.live.throttle import TooOften
from mmenv.live.venues.binance.client import BinanceClient
from mmenv.live.venues.client import RETRY_S, BaseError
from mmenv.live.venues.feed import StreamFeed
from mmenv.times import SECOND

SNAPSHOT_S: Final = 1.0
"""A snapshot not answered for so long is asked for again."""


class BinanceFeed(StreamFeed):
    """See `mmenv.live.venues.feed.StreamFeed`."""

    client: BinanceClient
    _decoder: Decoder

    def decoder(self, report: Report) -> Decoder:
        return Decoder(Source(self.client.venue, self.symbol), report)

    def subscriptions(self) -> Sequence[dict[str, Any]]:
        names = (self.client.market.diffs, "trade", "bookTicker")
        streams = [f"{self.symbol.lower()}@{name}" for name in names]
        return ({"method": "SUBSCRIBE", "params": streams, "id": 1},)

    def mend(self, urgent: bool) -> None:
        """See `StreamFeed.mend`; the book begins anew by a request, and the connection stays."""
        if self._decoder.recent:
            self.ask_for_book()

    async def _synchronise(self) -> None:
        """Ask for snapshots until one fits what has come since the gap."""
        for tries in itertools.count():
            pause = RETRY_S[min(tries + 1, len(RETRY_S) - 1)]
            try:
                async with asyncio.timeout(SNAPSHOT_S):
                    snapshot = orjson.dumps(await self.client.depth(self.symbol))
                local_ns = self._clock()
                if self._keep is not None:
                    self._keep(local_ns, snapshot)
                self._decode(local_ns, snapshot)
            except TooOften as error:
                pause = max(pause, (error.until_ns - self._clock()) / SECOND)
            except (BaseError, TimeoutError):
                pass
            if self._decoder.valid or not self._decoder.recent:
                return
            await asyncio.sleep(pause)
