"""Binance as venues."""

from __future__ import annotations

import time
from typing import ClassVar

from mmenv.live.throttle import Throttle
from mmenv.live.venues.base import Clock, Credentials, Keep, Venue, register
from mmenv.live.venues.binance.client import BinanceClient
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.live.venues.binance.market import SPOT, USDM, Market
from mmenv.live.venues.binance.orders import BinanceOrders


class Binance(Venue):
    """One market of Binance's. All feeds share a client; the orders of each symbol have one of their own."""

    format = "binance"
    market: ClassVar[Market]

    def __init__(
        self,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
    ) -> None:
        super().__init__(url, credentials, clock)
        self._throttle = Throttle(clock)
        self._feeding = BinanceClient(self.market, url=url, clock=clock, throttle=self._throttle)
        self._ordering: list[BinanceClient] = []

    def feed(self, symbol: str, keep: Keep | None = None) -> BinanceFeed:
        return BinanceFeed(self._feeding, symbol, keep=keep)

    async def orders(self, symbol: str) -> BinanceOrders:
        client = BinanceClient(
            self.market,
            url=self.url,
            credentials=self.credentials,
            clock=self.clock,
            throttle=self._throttle,
        )
        self._ordering.append(client)
        return BinanceOrders(client, await client.instrument(symbol))

    async def close(self) -> None:
        for client in (self._feeding, *self._ordering):
            await client.close()


@register
class Usdm(Binance):
    """USD-M futures."""

    name, market = USDM.venue, USDM


@register
class Spot(Binance):
    """Spot."""

    name, market = SPOT.venue, SPOT
