"""Coinbase Exchange, websocket: `level2` and `matches`.

https://docs.cdp.coinbase.com/exchange/websocket-feed/channels: a snapshot, then new sizes by price
(`l2update`); the side of a match is the maker's. The last match before the subscription (`last_match`) is
history and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.rows import BUY, SELL
from mmenv.data.text import iso_ns

_AGGRESSORS = {"buy": SELL, "sell": BUY}


@register
class Coinbase(FeedImporter):
    """Captures of one product."""

    name = "coinbase"
    description = "captures of Coinbase Exchange `level2` (or `level2_batch`) and `matches`"
    notes = "changes are not numbered: a lost one is not seen; the channel `full` is not read"
    venue = "coinbase"
    one_by_one = True

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        kind = message.get("type")
        if kind in ("snapshot", "l2update") and "product_id" in message:
            return self._book(message)
        return self._trades(message) if kind == "match" else None

    def _book(self, message: Any) -> Iterator[Book]:
        exch_ns = iso_ns(message["time"]) if "time" in message else 0
        if message["type"] == "snapshot":
            yield Book(message["product_id"], exch_ns, True, message["bids"], message["asks"])
            return
        bids, asks = (
            [(price, size) for side, price, size in message["changes"] if side == wanted]
            for wanted in ("buy", "sell")
        )
        yield Book(message["product_id"], exch_ns, False, bids, asks)

    def _trades(self, message: Any) -> Iterator[Trade]:
        side, exch_ns = _AGGRESSORS.get(message["side"], 0), iso_ns(message["time"])
        yield Trade(
            message["product_id"], exch_ns, int(message["trade_id"]), side, message["price"], message["size"]
        )
