"""What an exchange tells by itself: market data to whoever has subscribed, news of orders to their owners."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from mmenv.data.rows import BUY, DEPTH, SELL, TRADE
from mmenv.exchange.books import Account, ExchangeOrder, ExchangeTrade, Json, Listing
from mmenv.exchange.connections import Connections
from mmenv.exchange.playback import Message
from mmenv.exchange.present import Present
from mmenv.exchange.views import levels_view
from mmenv.times import MILLISECOND


@dataclass
class Diff:
    """A diff depth message in the making: `levels` holds lots by (side, tick)."""

    first: int
    previous: int
    last: int
    begun_ns: int
    levels: dict[tuple[int, int], int]


class MarketStreams:
    """The public streams of one symbol: trades, aggregated trades, best prices, and diffs of the book."""

    def __init__(self, listing: Listing, connections: Connections, present: Present) -> None:
        self._listing, self._dialect = listing, listing.dialect
        self._connections, self._present = connections, present
        self._prefix = f"{listing.symbol.lower()}@"
        self._waiting: dict[int, Diff] = {}
        """The next diff of each speed, in milliseconds."""
        self._aggregate: list[Any] | None = None
        """Stamp, tick, whether a buyer's, lots, first and last id of the next aggregated trade."""
        self._aggregate_id = 0

    @property
    def next_ns(self) -> int | None:
        """When a diff is due; None if none is in the making."""
        return min((self._due_ns(speed) for speed in self._waiting), default=None)

    def publish(self, message: Message) -> None:
        """Tell of a message of the tape."""
        if message.kind == DEPTH:
            for speed in self._depth_speeds():
                self._collect(speed, message)
        elif message.kind == TRADE:
            self._tell_trade(message)
        else:
            self._tell_ticker(message)

    def send_due(self) -> None:
        """Send the diffs whose time has come."""
        for speed in [speed for speed in self._waiting if self._due_ns(speed) <= self._present.now_ns]:
            self._send(speed, self._waiting.pop(speed))

    def _due_ns(self, speed: int) -> int:
        return self._waiting[speed].begun_ns + speed * MILLISECOND

    def _tell_trade(self, message: Message) -> None:
        listing, stamp = self._listing, self._present.clock_ms
        row = message.rows[0]
        tick, lots, buy = int(row["price"]), int(row["size"]), int(row["side"]) == BUY
        listing.last_tick = tick * listing.finer
        trade = {"e": "trade", "E": stamp, "T": stamp, "s": listing.symbol, "t": message.id}
        trade |= dict(zip("pq", listing.level_text(tick, lots), strict=True))
        self._broadcast("trade", trade | self._dialect.aggressor(buy))
        self._collect_trade([stamp, tick, buy, lots, message.id, message.id])

    def _collect_trade(self, trade: list[Any]) -> None:
        """Trades of one price, side and millisecond are one aggTrade, sent with the first that is another."""
        held, listing = self._aggregate, self._listing
        if held is not None and held[:3] == trade[:3]:
            held[3] += trade[3]
            held[5] = trade[5]
            return
        self._aggregate = trade
        if held is None:
            return
        self._aggregate_id += 1
        stamp, tick, buy, lots, first, last = held
        data = {"e": "aggTrade", "E": self._present.clock_ms, "s": listing.symbol, "a": self._aggregate_id}
        data |= dict(zip("pq", listing.level_text(tick, lots), strict=True)) | {"f": first, "l": last}
        self._broadcast("aggTrade", data | {"T": stamp, "m": not buy})

    def _tell_ticker(self, message: Message) -> None:
        listing = self._listing
        bid, ask = message.rows[0], message.rows[-1]
        listing.ticker = {"u": message.id, "s": listing.symbol}
        for names, side in (("bB", bid), ("aA", ask)):
            level = listing.level_text(int(side["price"]), int(side["size"]))
            listing.ticker |= zip(names, level, strict=True)
        ticker, stamp = listing.ticker, self._present.clock_ms
        if self._dialect.stamped:
            ticker = {"e": "bookTicker", **ticker, "T": stamp, "E": stamp}
        self._broadcast("bookTicker", ticker)

    def _depth_speeds(self) -> set[int]:
        """Speeds of the depth streams that somebody hears."""
        start = f"{self._prefix}depth"
        return {
            self._speed(stream)
            for connection in self._connections.open
            if connection.venue == self._dialect.venue
            for stream in connection.streams
            if stream.startswith(start)
        }

    def _speed(self, stream: str) -> int:
        speed = stream.rpartition("@")[2]
        return int(speed[:-2]) if speed[:-2].isdigit() else self._dialect.depth_speed_ms

    def _collect(self, speed: int, message: Message) -> None:
        diff = self._waiting.get(speed)
        if diff is None:
            diff = Diff(message.previous + 1, message.previous, message.id, self._present.now_ns, {})
        diff.last = message.id
        rows = message.rows
        sides, prices, sizes = rows["side"].tolist(), rows["price"].tolist(), rows["size"].tolist()
        diff.levels.update(zip(zip(sides, prices, strict=True), sizes, strict=True))
        if speed:
            self._waiting[speed] = diff
        else:
            self._send(speed, diff)

    def _send(self, speed: int, diff: Diff) -> None:
        dialect, stamp = self._dialect, self._present.clock_ms
        data: Json = {"e": "depthUpdate", "E": stamp}
        if dialect.stamped:
            data["T"] = stamp
        data |= {"s": self._listing.symbol, "U": diff.first, "u": diff.last}
        if dialect.stamped:
            data["pu"] = diff.previous
        for name, side in (("b", BUY), ("a", SELL)):
            levels = ((tick, lots) for (own, tick), lots in diff.levels.items() if own == side)
            data[name] = levels_view(self._listing, levels)
        self._broadcast(f"depth@{speed}ms", data)
        if speed == dialect.depth_speed_ms:
            self._broadcast("depth", data)

    def _broadcast(self, name: str, data: Json) -> None:
        stream = f"{self._prefix}{name}"
        text = wrapped = ""
        for connection in self._connections.open:
            if connection.venue != self._dialect.venue or stream not in connection.streams:
                continue
            if not text:
                text = orjson.dumps(data).decode()
                wrapped = f'{{"stream":"{stream}","data":{text}}}'
            self._connections.send(connection, "market", wrapped if connection.combined else text)


class UserStreams:
    """News of orders and accounts, to the connections of their owners."""

    def __init__(self, connections: Connections, present: Present) -> None:
        self._connections, self._present = connections, present

    def tell(self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None = None) -> None:
        """What happened to an order; `trade` if it is that."""
        for message in order.listing.dialect.messages(order, what, trade, self._present.clock_ms):
            self._to_owner(order.account, order.listing.venue, message)

    def tell_account(self, account: Account, listing: Listing) -> None:
        """What the account holds after a trade of this symbol."""
        message = listing.dialect.account_message(account, listing, self._present.clock_ms)
        self._to_owner(account, listing.venue, message)

    def tell_funding(self, account: Account, listing: Listing, amount: Decimal) -> None:
        """That the account was paid funding, or paid it."""
        message = listing.dialect.funding_message(account, listing, amount, self._present.clock_ms)
        self._to_owner(account, listing.venue, message)

    def _to_owner(self, account: Account, venue: str, message: Json) -> None:
        for connection in self._connections.open:
            if connection.account is account and connection.venue == venue:
                wrapped = {"subscriptionId": 0, "event": message} if connection.api else message
                self._connections.send(connection, "user", orjson.dumps(wrapped).decode())
