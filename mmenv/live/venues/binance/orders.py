"""Orders at Binance."""

from __future__ import annotations

from mmenv.live.venues.binance.requests import BinanceRequests
from mmenv.live.venues.binance.user_stream import BinanceUserStream
from mmenv.live.venues.orders import VenueOrders
from mmenv.live.venues.requests import Requests
from mmenv.live.venues.user_stream import UserStream


class BinanceOrders(VenueOrders):
    """See `mmenv.live.venues.orders.VenueOrders`."""

    def requests(self) -> Requests:
        return BinanceRequests(self.client, self.instrument)

    def user_stream(self, requests: Requests) -> UserStream:
        return BinanceUserStream(requests)
