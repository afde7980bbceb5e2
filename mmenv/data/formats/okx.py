"""OKX, API version 5: captures of its public websocket.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel: `prevSeqId` names the
message that one continues; a message of `books5` has no `action` and holds the book whole. The side of a
trade is the taker's. Sizes of contracts are numbers of contracts. A line of the archives of 400 levels is a
book alone, whose messages are not numbered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mmenv.data.columns import Table, scaled
from mmenv.data.decimals import Places
from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.formats.layout import (
    ALONE,
    BOOK,
    CHANGE,
    DEAL_ID,
    DEAL_PRICE,
    DEAL_SIDE,
    DEAL_SIZE,
    DEAL_SYMBOL,
    SNAPSHOT,
    TRADE,
    Layout,
)
from mmenv.data.formats.levels import DealFile, Decoded, deal_rows
from mmenv.data.rows import BUY, SELL
from mmenv.times import MILLISECOND

BOOKS: Final = ("books", "books5", "books-l2-tbt", "books50-l2-tbt")
"""Channels of the book; those of retail orders (`books-rpi`) are another one."""
DEALS: Final = ("trades", "trades-all")
_SIDES = {"buy": BUY, "sell": SELL}


def decode_deals(table: Table, places: Places) -> Decoded:
    """Rows of an archive of trades."""
    exch_ns = scaled(table.integers("created_time"), MILLISECOND)
    return deal_rows(table, places, exch_ns, table.integers("trade_id"), ("price", "size"), ("buy", "sell"))


@register
class Okx(FeedImporter):
    """Captures of one instrument."""

    name = "okx"
    description = "captures of OKX `books`, `books5`, `books-l2-tbt` and `trades`; archives of both"
    notes = "sizes of contracts are numbers of them: give `--contract-size`; neither funding nor liquidations"
    venue = "okx"
    archives = (
        DealFile(
            ("instrument_name", "trade_id", "side", "price", "size", "created_time"),
            decode_deals,
            "instrument_name",
        ),
    )
    layout = Layout(
        words={
            "arg.channel": {**dict.fromkeys(BOOKS, BOOK), **dict.fromkeys(DEALS, TRADE)},
            "action": {"snapshot": ALONE | SNAPSHOT, "update": ALONE | CHANGE},
        },
        book="data[]|",
        deal="data[]",
        symbol="arg.instId|instId",
        time="data[].ts|ts",
        update="data[].seqId",
        previous="data[].prevSeqId",
        bids="data[].bids|bids",
        asks="data[].asks|asks",
        level=("0", "1"),
        deals={
            DEAL_SYMBOL: "instId",
            DEAL_ID: "tradeId",
            DEAL_SIDE: "side",
            DEAL_PRICE: "px",
            DEAL_SIZE: "sz",
        },
    )

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        if "instId" in message and "bids" in message:
            return self._book({"action": message["action"], "arg": message, "data": [message]})
        channel = str(message.get("arg", {}).get("channel", ""))
        if "data" not in message:
            return None
        if channel in BOOKS:
            return self._book(message)
        return self._trades(message) if channel in DEALS else None

    @classmethod
    def kind(cls, message: Any) -> str:
        return str(message.get("arg", {}).get("channel") or super().kind(message))

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
