"""Bybit, API version 5: the archives of its order book (`ob500`), and captures of its public websocket.

https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook and .../trade: `u` numbers the messages of
a book one by one, a snapshot replaces it; `cts` is the time of the matching engine; the side of a trade is
the taker's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.rows import BUY, SELL
from mmenv.times import MILLISECOND

_SIDES = {"Buy": BUY, "Sell": SELL}


@register
class Bybit(FeedImporter):
    """Captures of one symbol."""

    name = "bybit"
    description = "Bybit `ob500` archives of the book, and captures of `orderbook` and `publicTrade`"
    notes = "archives of the book hold no trades: capture these, or give `--allow-no-trades`; no liquidations"
    venue = "bybit"
    numbered = False

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        kind = str(message.get("topic", "")).partition(".")[0]
        if kind == "orderbook":
            return self._book(message)
        return self._trades(message) if kind == "publicTrade" else None

    def _book(self, message: Any) -> Iterator[Book]:
        data, snapshot = message["data"], message["type"] == "snapshot"
        stamp, update = message.get("cts") or message["ts"], int(data["u"])
        previous = -1 if snapshot else update - 1
        yield Book(data["s"], int(stamp) * MILLISECOND, snapshot, data["b"], data["a"], update, previous)

    def _trades(self, message: Any) -> Iterator[Trade]:
        for deal in message["data"]:
            side = _SIDES.get(deal["S"], 0)
            yield Trade(deal["s"], int(deal["T"]) * MILLISECOND, str(deal["i"]), side, deal["p"], deal["v"])
