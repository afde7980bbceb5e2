"""News of our orders as Hyperliquid tells them: orders, fills and funding, each by its subscription."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mmenv.live.orders import VenueError
from mmenv.live.venues.hyperliquid.client import HyperliquidClient
from mmenv.live.venues.hyperliquid.requests import HyperliquidRequests
from mmenv.live.venues.news import News, Paid, Report
from mmenv.live.venues.user_stream import UserStream

SUBSCRIPTIONS: Final = ("orderUpdates", "userFills", "userFundings")


class HyperliquidUserStream(UserStream):
    """See `mmenv.live.venues.user_stream.UserStream`."""

    requests: HyperliquidRequests
    client: HyperliquidClient

    async def address(self) -> tuple[str, Any]:
        return f"{self.client.urls['api']['ws']['public']}#user", None

    async def log_in(self) -> None:
        """Whoever asks may hear what an account does; nobody needs to say who it is."""
        for kind in SUBSCRIPTIONS:
            wanted = {"type": kind, "user": self.client.walletAddress}
            await self.send({"method": "subscribe", "subscription": wanted})
            found = await self.answer()
            if found["channel"] == "error":
                raise VenueError(str(found["data"]))

    def read(self, message: Any) -> Iterable[News] | None:
        channel, data = message["channel"], message.get("data")
        if channel in ("subscriptionResponse", "error"):
            return None
        symbol, requests = self.requests.instrument.symbol, self.requests
        if channel == "orderUpdates":
            mine = (found for found in data if found["order"]["coin"] == symbol)
            return [requests.not_taken(found) or Report(requests.view(found)) for found in mine]
        # What was before is for the comparison to find.
        if channel == "userFills" and not data.get("isSnapshot"):
            return [requests.fill(found) for found in data["fills"] if found["coin"] == symbol]
        if channel == "userFundings" and not data.get("isSnapshot"):
            return [Paid()]
        return []
