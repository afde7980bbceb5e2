"""Hyperliquid's market data as it happens: the book, whole each time, and trades of a coin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmenv.data.formats.hyperliquid import Hyperliquid
from mmenv.live.venues.feed import FormatFeed


class HyperliquidFeed(FormatFeed):
    """See `mmenv.live.venues.feed.FormatFeed`."""

    importer = Hyperliquid

    def subscriptions(self) -> Sequence[dict[str, Any]]:
        return [
            {"method": "subscribe", "subscription": {"type": kind, "coin": self.symbol}}
            for kind in ("l2Book", "trades")
        ]
