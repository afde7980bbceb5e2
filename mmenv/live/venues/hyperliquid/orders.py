"""Orders at Hyperliquid."""

from __future__ import annotations

from mmenv.live.venues.hyperliquid.requests import HyperliquidRequests
from mmenv.live.venues.hyperliquid.user_stream import HyperliquidUserStream
from mmenv.live.venues.orders import VenueOrders
from mmenv.live.venues.requests import Requests
from mmenv.live.venues.user_stream import UserStream


class HyperliquidOrders(VenueOrders):
    """See `mmenv.live.venues.orders.VenueOrders`."""

    # Questions are dear.
    reconcile_every_s = 15.0

    def requests(self) -> Requests:
        return HyperliquidRequests(self.client, self.instrument)

    def user_stream(self, requests: Requests) -> UserStream:
        return HyperliquidUserStream(requests)
