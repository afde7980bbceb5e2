"""OKX's market data as it happens: the book's levels and trades of a symbol over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmenv.data.formats.okx import Okx
from mmenv.live.venues.feed import FormatFeed
from mmenv.live.venues.okx.client import OkxClient


class OkxFeed(FormatFeed):
    """See `mmenv.live.venues.feed.FormatFeed`."""

    importer = Okx
    client: OkxClient
    chatter = ("pong",)

    def subscriptions(self) -> Sequence[dict[str, Any]]:
        channels = [{"channel": name, "instId": self.symbol} for name in ("books", "trades")]
        return ({"op": "subscribe", "args": channels},)
