"""Orders at OKX."""

from __future__ import annotations

from mmenv.live.venues.okx.requests import OkxRequests
from mmenv.live.venues.okx.user_stream import OkxUserStream
from mmenv.live.venues.orders import VenueOrders
from mmenv.live.venues.requests import Requests
from mmenv.live.venues.user_stream import UserStream


class OkxOrders(VenueOrders):
    """See `mmenv.live.venues.orders.VenueOrders`."""

    def requests(self) -> Requests:
        return OkxRequests(self.client, self.instrument)

    def user_stream(self, requests: Requests) -> UserStream:
        return OkxUserStream(requests)
