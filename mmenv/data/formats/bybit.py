"""Bybit, API version 5: the archives of its order book (`ob500`), and captures of its public websocket.

https://bybit-exchange.github.io/docs/v5/websocket/public/orderbook and .../trade: `u` numbers the messages of
a book one by one, a snapshot replaces it; `cts` is the time of the matching engine; the side of a trade is
the taker's. Archives of trades are those of public.bybit.com.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmenv.data.columns import Table, scaled
from mmenv.data.decimals import Places
from mmenv.data.formats.base import register
from mmenv.data.formats.feed import Book, FeedImporter, Trade
from mmenv.data.formats.layout import (
    BOOK,
    CHANGE,
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
from mmenv.data.formats.levels import DealFile, Decoded, deal_rows
from mmenv.data.rows import BUY, SELL
from mmenv.times import MILLISECOND

_SIDES = {"Buy": BUY, "Sell": SELL}


def decode_deals(table: Table, places: Places) -> Decoded:
    """Rows of an archive of trades in derivatives; times are seconds with a fraction."""
    exch_ns = table.decimals("timestamp", 9)
    return deal_rows(table, places, exch_ns, table.hashes("trdMatchID"), ("price", "size"), ("Buy", "Sell"))


def decode_spot(table: Table, places: Places) -> Decoded:
    """Rows of an archive of spot trades."""
    exch_ns = scaled(table.integers("timestamp"), MILLISECOND)
    return deal_rows(table, places, exch_ns, table.integers("id"), ("price", "volume"), ("buy", "sell"))


@register
class Bybit(FeedImporter):
    """Captures of one symbol."""

    name = "bybit"
    description = "Bybit archives of book (`ob500`) and trades, captures of `orderbook`, `publicTrade`"
    notes = "give the archives of trades with those of the book; no liquidations"
    venue = "bybit"
    numbered = False
    archives = (
        DealFile(
            ("timestamp", "symbol", "side", "size", "price", "trdMatchID"), decode_deals, "symbol", False
        ),
        DealFile(("id", "timestamp", "price", "volume", "side"), decode_spot),
    )
    layout = Layout(
        words={
            "topic": {"orderbook": BOOK, "publicTrade": TRADE},
            "type": {"snapshot": SNAPSHOT, "delta": CHANGE},
        },
        book="",
        deal="data[]",
        symbol="data.s",
        time="cts",
        other_time="ts",
        update="data.u",
        follows=True,
        says_which=True,
        bids="data.b",
        asks="data.a",
        level=("0", "1"),
        deals={
            DEAL_SYMBOL: "s",
            DEAL_TIME: "T",
            DEAL_ID: "i",
            DEAL_SIDE: "S",
            DEAL_PRICE: "p",
            DEAL_SIZE: "v",
        },
        buy="Buy",
        sell="Sell",
    )

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
