"""Hyperliquid: captures of its websocket, and the hourly archives of its order book.

https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/websocket/subscriptions: every `l2Book`
message is the book whole, 20 levels a side; the side of a trade is the taker's, "B" or "A". A line of the
archives has the message under "raw", and when it was recorded under "time".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.formats.feed_rows import WHOLE
from mmenv.data.formats.layout import (
    BOOK,
    DEAL_ID,
    DEAL_PRICE,
    DEAL_SIDE,
    DEAL_SIZE,
    DEAL_SYMBOL,
    DEAL_TIME,
    SNAPSHOT,
    TRADE,
    Layout,
)
from mmenv.data.rows import BUY, SELL
from mmenv.times import MILLISECOND

_SIDES = {"B": BUY, "A": SELL}


@register
class Hyperliquid(FeedImporter):
    """Captures of one coin."""

    name = "hyperliquid"
    description = "captures of Hyperliquid `l2Book` and `trades`, and its archives of `l2Book`"
    notes = "20 levels a side, twice a second: queues change between two messages unseen"
    venue = "hyperliquid"
    numbered = False
    mode = WHOLE
    layout = Layout(
        words={key: {"l2Book": BOOK | SNAPSHOT, "trades": TRADE} for key in ("channel", "raw.channel")},
        book="data|raw.data",
        deal="data[]|raw.data[]",
        symbol="data.coin|raw.data.coin",
        time="data.time|raw.data.time",
        numbered="data.levels|raw.data.levels",
        bids="data.levels[0]|raw.data.levels[0]",
        asks="data.levels[1]|raw.data.levels[1]",
        level=("px", "sz"),
        deals={
            DEAL_SYMBOL: "coin",
            DEAL_TIME: "time",
            DEAL_ID: "tid",
            DEAL_SIDE: "side",
            DEAL_PRICE: "px",
            DEAL_SIZE: "sz",
        },
        buy="B",
        sell="A",
    )

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        message = message.get("raw", message)
        channel = message.get("channel")
        if channel == "l2Book":
            return self._book(message["data"])
        return self._trades(message["data"]) if channel == "trades" else None

    def _book(self, data: Any) -> Iterator[Book]:
        bids, asks = ([(level["px"], level["sz"]) for level in side] for side in data["levels"])
        yield Book(data["coin"], int(data["time"]) * MILLISECOND, True, bids, asks)

    def _trades(self, data: Any) -> Iterator[Trade]:
        for deal in data:
            side, exch_ns = _SIDES.get(deal["side"], 0), int(deal["time"]) * MILLISECOND
            yield Trade(deal["coin"], exch_ns, str(deal["tid"]), side, deal["px"], deal["sz"])
