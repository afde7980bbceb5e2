"""Bybit's market data as it happens: the book's levels and trades of a symbol over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmenv.data.formats.bybit import Bybit
from mmenv.live.venues.bybit.client import BybitClient
from mmenv.live.venues.feed import FormatFeed


class BybitFeed(FormatFeed):
    """See `mmenv.live.venues.feed.FormatFeed`."""

    importer = Bybit
    client: BybitClient

    def subscriptions(self) -> Sequence[dict[str, Any]]:
        topics = [f"orderbook.{self.client.market.depth}.{self.symbol}", f"publicTrade.{self.symbol}"]
        return ({"op": "subscribe", "args": topics},)
