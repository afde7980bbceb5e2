"""Orders at Bybit."""

from __future__ import annotations

from mmenv.live.venues.bybit.requests import BybitRequests
from mmenv.live.venues.bybit.user_stream import BybitUserStream
from mmenv.live.venues.orders import VenueOrders
from mmenv.live.venues.requests import Requests
from mmenv.live.venues.user_stream import UserStream


class BybitOrders(VenueOrders):
    """See `mmenv.live.venues.orders.VenueOrders`."""

    def requests(self) -> Requests:
        return BybitRequests(self.client, self.instrument)

    def user_stream(self, requests: Requests) -> UserStream:
        return BybitUserStream(requests)
