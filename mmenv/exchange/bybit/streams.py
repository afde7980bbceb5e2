"""What Bybit tells of a market by itself: the book as a snapshot and its changes, and trades."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson

from mmenv.data.rows import BUY, DEPTH, SELL, TRADE
from mmenv.exchange.books import Json, Listing
from mmenv.exchange.connections import Connection, Connections
from mmenv.exchange.playback import Message
from mmenv.exchange.present import Present
from mmenv.exchange.views import levels_view


class BybitStreams:
    """The public topics of one symbol. Every message of the tape is one of its own, the book whole."""

    next_ns = None
    """Nothing waits to be sent."""

    def __init__(self, listing: Listing, connections: Connections, present: Present) -> None:
        self._listing, self._connections, self._present = listing, connections, present
        self._update = 1

    def publish(self, message: Message) -> None:
        """Tell of a message of the tape."""
        if message.kind == DEPTH:
            self._update += 1
            rows = message.rows
            levels = {
                side: list(zip(part["price"].tolist(), part["size"].tolist(), strict=True))
                for side in (BUY, SELL)
                for part in (rows[rows["side"] == side],)
            }
            self._broadcast("orderbook.", self._book("delta", levels))
        elif message.kind == TRADE:
            self._broadcast("publicTrade.", self._deal(message))

    def send_due(self) -> None:
        """Send what waits: nothing."""

    def greet(self, connection: Connection, topic: str) -> None:
        """Send what comes first to somebody who has subscribed."""
        if topic.startswith("orderbook.") and topic.endswith(f".{self._listing.symbol}"):
            book = self._listing.playback.book
            levels = {
                side: [
                    (place + book.low_tick, int(sizes[place]))
                    for place in sizes.nonzero()[0][::-side].tolist()
                ]
                for side, sizes in ((BUY, book.sizes[0]), (SELL, book.sizes[1]))
            }
            told = self._book("snapshot", levels) | {"topic": topic}
            self._connections.send(connection, "market", orjson.dumps(told).decode())

    def _book(self, kind: str, levels: Mapping[int, Iterable[tuple[int, int]]]) -> Json:
        stamp, listing = self._present.clock_ms, self._listing
        bids, asks = (levels_view(listing, levels[side]) for side in (BUY, SELL))
        data = {"s": listing.symbol, "b": bids, "a": asks, "u": self._update, "seq": self._update}
        return {"topic": "", "type": kind, "ts": stamp, "data": data, "cts": stamp}

    def _deal(self, message: Message) -> Json:
        listing, stamp, row = self._listing, self._present.clock_ms, message.rows[0]
        tick = int(row["price"])
        listing.last_tick = tick * listing.finer
        price, size = listing.level_text(tick, int(row["size"]))
        deal = {
            "T": stamp, "s": listing.symbol, "S": "Buy" if int(row["side"]) == BUY else "Sell",
            "v": size, "p": price,
            "i": f"{message.id}-2290", "BT": False,
        }  # fmt: skip
        return {"topic": "", "type": "snapshot", "ts": stamp, "data": [deal]}

    def _broadcast(self, start: str, told: Json) -> None:
        for connection in self._connections.open:
            for topic in connection.streams:
                if topic.startswith(start) and topic.endswith(f".{self._listing.symbol}"):
                    text = orjson.dumps(told | {"topic": topic}).decode()
                    self._connections.send(connection, "market", text)
