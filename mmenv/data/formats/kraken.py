"""Kraken spot, websocket version 2.

https://docs.kraken.com/api/docs/websocket-v2/book and .../trade: a snapshot, then new quantities by price;
`depth` levels a side, of which those that fall behind are not heard of again. The side of a trade is the
taker's; the snapshot of trades is history and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.formats.feed_rows import CUT
from mmenv.data.formats.layout import (
    BOOK,
    CHANGE,
    DEAL_ID,
    DEAL_PRICE,
    DEAL_SIDE,
    DEAL_SIZE,
    SNAPSHOT,
    TRADE,
    Layout,
)
from mmenv.data.rows import BUY, SELL, UNKNOWN_NS
from mmenv.data.text import iso_ns

_SIDES = {"buy": BUY, "sell": SELL}


@register
class Kraken(FeedImporter):
    """Captures of one pair, which is called BTC-USD instead of BTC/USD."""

    name = "kraken"
    description = "captures of Kraken websocket v2 `book` and `trade`"
    notes = "messages are not numbered, checksums not checked; the book has the depth that was subscribed"
    venue = "kraken"
    one_by_one = True
    mode = CUT
    layout = Layout(
        words={
            "channel": {"book": BOOK, "trade": TRADE},
            "type": {"snapshot": SNAPSHOT, "update": CHANGE},
        },
        book="data[]",
        deal="data[]",
        symbol="data[].symbol",
        time="data[].timestamp",
        iso=True,
        history=True,
        says_which=True,
        bids="data[].bids",
        asks="data[].asks",
        level=("price", "qty"),
        deals={DEAL_ID: "trade_id", DEAL_SIDE: "side", DEAL_PRICE: "price", DEAL_SIZE: "qty"},
    )

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        channel, kind = message.get("channel"), message.get("type")
        if channel == "book":
            return self._book(message)
        return self._trades(message) if channel == "trade" and kind == "update" else None

    def _book(self, message: Any) -> Iterator[Book]:
        for data in message["data"]:
            bids, asks = (
                [(level["price"], level["qty"]) for level in data[side]] for side in ("bids", "asks")
            )
            yield Book(_pair(data), _time(data), message["type"] == "snapshot", bids, asks)

    def _trades(self, message: Any) -> Iterator[Trade]:
        for deal in message["data"]:
            side, exch_ns = _SIDES.get(deal["side"], 0), iso_ns(deal["timestamp"])
            yield Trade(_pair(deal), exch_ns, int(deal["trade_id"]), side, deal["price"], deal["qty"])


def _time(data: Any) -> int:
    """A snapshot has none."""
    return iso_ns(data["timestamp"]) if "timestamp" in data else UNKNOWN_NS


def _pair(data: Any) -> str:
    return str(data["symbol"]).replace("/", "-")
