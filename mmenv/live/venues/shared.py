"""A venue of the parts that all venues here have: a client, a feed and orders."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from mmenv.checks import ConfigError
from mmenv.live.api_key import PASSPHRASE
from mmenv.live.throttle import Throttle
from mmenv.live.venues.base import Clock, Credentials, Keep, Venue
from mmenv.live.venues.client import VenueClient
from mmenv.live.venues.feed import StreamFeed
from mmenv.live.venues.orders import VenueOrders


class SharedVenue(Venue):
    """All feeds share a client, the orders of each symbol have one of their own, and all share a throttle."""

    testnets = True
    market: ClassVar[Any]
    """Which market of the venue's, and what it calls things there."""
    clients: ClassVar[type[VenueClient]]
    feeds: ClassVar[type[StreamFeed]]
    orderings: ClassVar[type[VenueOrders]]
    passphrase: ClassVar[bool] = False
    """Whether keys have one."""

    def __init__(
        self,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
        testnet: bool = False,
    ) -> None:
        super().__init__(url, credentials, clock, testnet)
        if credentials is not None and self.passphrase and not credentials.passphrase:
            raise ConfigError(
                f"keys of {self.name} have a passphrase: give it in {PASSPHRASE}, or on a third line of the "
                "key file."
            )
        self._throttle = Throttle(clock)
        self._feeding = self._client(None)
        self._ordering: list[VenueClient] = []

    def feed(self, symbol: str, keep: Keep | None = None) -> StreamFeed:
        return self.feeds(self._feeding, symbol, keep=keep)

    async def orders(self, symbol: str) -> VenueOrders:
        client = self._client(self.credentials)
        self._ordering.append(client)
        return self.orderings(client, await client.instrument(symbol))

    async def close(self) -> None:
        for client in (self._feeding, *self._ordering):
            await client.close()

    def _client(self, credentials: Credentials | None) -> VenueClient:
        # ccxt's part of its parameters is a venue's own.
        make: Any = self.clients
        made: VenueClient = make(
            self.market,
            url=self.url,
            credentials=credentials,
            clock=self.clock,
            throttle=self._throttle,
            testnet=self.testnet,
        )
        return made
