"""OKX, API version 5: captures of its public websocket.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel: `prevSeqId` names the
message that one continues; a message of `books5` has no `action` and holds the book whole. The side of a
trade is the taker's. Sizes of contracts are numbers of contracts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.rows import BUY, SELL
from mmenv.times import MILLISECOND

_SIDES = {"buy": BUY, "sell": SELL}


@register
class Okx(FeedImporter):
    """Captures of one instrument."""

    name = "okx"
    description = "captures of OKX `books`, `books5`, `books-l2-tbt` and `trades`"
    notes = "sizes of contracts are numbers of them: give `--contract-size`; neither funding nor liquidations"
    venue = "okx"

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        channel = str(message.get("arg", {}).get("channel", ""))
        if "data" not in message:
            return None
        if channel.startswith("books"):
            return self._book(message)
        return self._trades(message) if channel in ("trades", "trades-all") else None

    def _book(self, message: Any) -> Iterator[Book]:
        snapshot = message.get("action", "snapshot") == "snapshot"
        for data in message["data"]:
            update, previous = int(data.get("seqId", -1)), int(data.get("prevSeqId", -1))
            exch_ns = int(data["ts"]) * MILLISECOND
            yield Book(
                message["arg"]["instId"], exch_ns, snapshot, data["bids"], data["asks"], update,
                -1 if snapshot else previous,
            )  # fmt: skip

    def _trades(self, message: Any) -> Iterator[Trade]:
        for deal in message["data"]:
            side, exch_ns = _SIDES.get(deal["side"], 0), int(deal["ts"]) * MILLISECOND
            yield Trade(deal["instId"], exch_ns, int(deal["tradeId"]), side, deal["px"], deal["sz"])
