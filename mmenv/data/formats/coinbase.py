"""Coinbase Exchange, websocket: `level2` and `matches`.

https://docs.cdp.coinbase.com/exchange/websocket-feed/channels: a snapshot, then new sizes by price
(`l2update`); the side of a match is the maker's. The last match before the subscription (`last_match`) is
history and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from mmenv.data.formats.base import Importer, ImportOptions, head_of, register
from mmenv.data.formats.coinbase_full import CoinbaseFull
from mmenv.data.formats.feed import Book, FeedImporter, Trade
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
from mmenv.data.lines import Translate
from mmenv.data.rows import BUY, SELL, UNKNOWN_NS, CaptureError
from mmenv.data.source import Source
from mmenv.data.text import iso_ns

ORDERS: Final = re.compile(rb'"type": ?"(received|open|done)"')
_AGGRESSORS = {"buy": SELL, "sell": BUY}


@register
class Coinbase(FeedImporter):
    """Captures of one product."""

    name = "coinbase"
    description = "captures of Coinbase Exchange `level2` (or `level2_batch`) and `matches`, or `full`"
    notes = "levels are not numbered: a lost change is not seen; of `full` single orders are kept"
    venue = "coinbase"
    one_by_one = True
    layout = Layout(
        words={"type": {"snapshot": BOOK | SNAPSHOT, "l2update": BOOK | CHANGE, "match": TRADE}},
        book="",
        deal="",
        symbol="product_id",
        time="time",
        iso=True,
        maker=True,
        bids="bids",
        asks="asks",
        level=("0", "1"),
        changes="changes",
        deals={DEAL_ID: "trade_id", DEAL_SIDE: "side", DEAL_PRICE: "price", DEAL_SIZE: "size"},
    )

    @classmethod
    def captures(
        cls, paths: Sequence[Path], options: ImportOptions, translate: Translate | None = None
    ) -> list[tuple[Source, list[Path]]]:
        if full := [path for path in paths if ORDERS.search(head_of(path))]:
            raise CaptureError(f"{full[0].name}: orders (`full`) among files of levels; import them apart")
        return super().captures(paths, options, translate)

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> Sequence[Importer]:
        if paths and all(ORDERS.search(head_of(path)) for path in paths):
            return [CoinbaseFull(*found, options) for found in CoinbaseFull.captures(paths, options)]
        return super().open(paths, options)

    @classmethod
    def looks_like(cls, head: bytes, path: Path) -> bool:
        return ORDERS.search(head) is not None or super().looks_like(head, path)

    def parts(self, message: Any) -> Iterator[Book | Trade] | None:
        kind = message.get("type")
        if kind in ("snapshot", "l2update") and "product_id" in message:
            return self._book(message)
        return self._trades(message) if kind == "match" else None

    def _book(self, message: Any) -> Iterator[Book]:
        exch_ns = iso_ns(message["time"]) if "time" in message else UNKNOWN_NS
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
