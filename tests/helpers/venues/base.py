"""Venues made after their published specifications, small enough to be told what happens.

A `Fake` takes the place of an exchange in a `Loopback`: requests and connections reach it, and a test makes
it fill an order, refuse one, or say something twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import orjson

from mmenv.exchange.connections import Connection
from mmenv.exchange.faults import RequestFate
from mmenv.exchange.protocol import Answer
from mmenv.live.orders import Trouble
from mmenv.live.venues.base import Credentials
from mmenv.times import MILLISECOND

Levels = Sequence[tuple[str, str]]


class Refused(Exception):
    """The venue refuses a request."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble)
        self.trouble = trouble


@dataclass(eq=False)
class FakeOrder:
    """An order as the venue has it; `name` is as it was sent."""

    id: int
    name: str
    buys: bool
    price: str
    size: Decimal
    post_only: bool
    reduce_only: bool
    ms: int
    filled: Decimal = Decimal(0)
    state: str = "new"
    """"new", "partial", "filled", "cancelled", or "crossed" where it was post-only and would have traded."""
    at_once: bool = False

    @property
    def open(self) -> bool:
        return self.state in ("new", "partial")


@dataclass(frozen=True)
class FakeTrade:
    """A fill; `fee` is positive where it is paid."""

    id: int
    order: FakeOrder
    price: str
    size: Decimal
    fee: str
    asset: str
    ms: int


@dataclass(frozen=True)
class Payment:
    """Funding: positive where the account receives."""

    id: int
    amount: str
    asset: str
    ms: int


@dataclass
class Fake(ABC):
    """One symbol of a venue, and an account. Subclasses word it."""

    venue: ClassVar[str]
    symbol: ClassVar[str] = "BTCUSDT"
    base: ClassVar[str] = "BTC"
    quote: ClassVar[str] = "USDT"
    tick: ClassVar[str] = "0.1"
    lot: ClassVar[str] = "0.001"
    futures: ClassVar[bool] = True
    late_reject: ClassVar[bool] = False
    """Whether a post-only order that would trade is taken first, and then refused by the stream."""
    numbered: ClassVar[bool] = True
    """Whether changes of the book are numbered."""
    hedges: ClassVar[bool] = True
    """Whether there is a hedge mode."""
    credentials: ClassVar[Credentials] = Credentials("key", "secret", "passphrase")

    key: str = "key"
    status: str = ""
    """Of the symbol, where it is not traded."""
    hedged: bool = False
    may_trade: bool = True
    crossing: bool = False
    """Whether a post-only order would trade at once."""
    quiet: bool = False
    """Whether the user stream says nothing."""
    refusing: dict[str, Trouble] = field(default_factory=dict)
    """What requests are refused for: "order", "cancel", or "any"."""
    fates: deque[RequestFate] = field(default_factory=deque)
    """Of the next requests."""
    orders: list[FakeOrder] = field(default_factory=list)
    trades: list[FakeTrade] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    open: list[Connection] = field(default_factory=list)
    now_ns: int = 0
    carry: Callable[[], None] = lambda: None
    """Lets what was said be delivered."""

    @property
    def lot_as_sent(self) -> str:
        return self.lot

    # What a Loopback asks of an exchange

    @property
    def gateway(self) -> Fake:
        return self

    @property
    def connections(self) -> Fake:
        return self

    @property
    def ms(self) -> int:
        return self.now_ns // MILLISECOND

    def advance(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def next_ns(self) -> None:
        return None

    def fate(self) -> RequestFate:
        return self.fates.popleft() if self.fates else RequestFate()

    def connect(self, path: str, query: str = "") -> Connection:
        self.open.append(Connection(path))
        return self.open[-1]

    def close(self, connection: Connection) -> None:
        connection.closed = True
        if connection in self.open:
            self.open.remove(connection)

    def receive(self, connection: Connection, text: str) -> None:
        for answer in self.heard(connection, orjson.loads(text) if text[:1] == "{" else text):
            connection.outbox.append(orjson.dumps(answer).decode())

    def request(
        self,
        method: str,
        path: str,
        query: str,
        body: str,
        key: str | None,
        reject: bool,
        sent: Mapping[str, str],
    ) -> Answer:
        params: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
        if body[:1] in ("{", "["):
            params |= {"body": orjson.loads(body)} if body[0] == "[" else orjson.loads(body)
        elif body:
            params |= dict(parse_qsl(body, keep_blank_values=True))
        self.requests.append((method, path))
        try:
            kind = self.kind(method, path, params)
            if self.refusing.get("any") or self.refusing.get(kind):
                raise Refused(self.refusing.get("any") or self.refusing[kind])
            if key not in (None, self.key):
                raise Refused(Trouble.BAD_KEY)
            status, headers, found = 200, {}, self.route(method, path, params)
        except Refused as error:
            status, headers, found = self.refusal(error.trouble, kind)
        return Answer(status, orjson.dumps(found), headers)

    # What happens

    def new(
        self, name: str, buys: bool, price: str, size: str, post_only: bool, reduces: bool, at_once: bool
    ) -> FakeOrder:
        """Take an order in. Raises `Refused` where it would trade and the venue says so at once."""
        if any(order.name == name for order in self.orders):
            raise Refused(Trouble.DUPLICATE)
        number = 1000 + len(self.orders)
        order = FakeOrder(number, name, buys, price, Decimal(size), post_only, reduces, self.ms)
        order.at_once = at_once
        crossed = self.crossing and post_only
        if crossed and not self.late_reject:
            raise Refused(Trouble.CROSSED)
        self.orders.append(order)
        order.state = "crossed" if crossed else "new"
        self.tell(*self.order_news(order))
        return order

    def find(self, name: str) -> FakeOrder:
        """The order of this name. Raises `Refused`."""
        for order in self.orders:
            if name in (order.name, str(order.id)):
                return order
        raise Refused(Trouble.UNKNOWN_ORDER)

    def cancel(self, name: str) -> FakeOrder:
        """Cancel the order of this name. Raises `Refused`."""
        order = self.find(name)
        if not order.open:
            raise Refused(Trouble.UNKNOWN_ORDER)
        order.state = "cancelled"
        self.tell(*self.order_news(order))
        return order

    def fill(
        self, order: FakeOrder, lots: int, fee: str = "0.01", asset: str = "", told: bool = True,
        with_last: bool = False,
    ) -> FakeTrade:  # fmt: skip
        """Let some of an order trade; `with_last`, with the order that traded last, as its other side."""
        self.carry()
        size = lots * Decimal(self.lot)
        order.filled += size
        order.state = "filled" if order.filled == order.size else "partial"
        number = self.trades[-1].id if with_last else 500 + len(self.trades)
        self.trades.append(FakeTrade(number, order, order.price, size, fee, asset or self.quote, self.ms))
        if told:
            self.tell(*self.fill_news(self.trades[-1]))
        return self.trades[-1]

    def pay(self, amount: str) -> None:
        """Let funding be paid."""
        self.carry()
        self.payments.append(Payment(900 + len(self.payments), amount, self.quote, self.ms))
        self.tell(*self.funding_news(self.payments[-1]))

    def tell(self, *messages: Any) -> None:
        """Say something by the user stream."""
        for connection in list(self.open):
            if connection.account is not None and not self.quiet:
                connection.outbox += [orjson.dumps(message).decode() for message in messages]
        self.carry()

    def publish(self, *messages: Any) -> None:
        """Say something by the market's streams."""
        for connection in self.open:
            if connection.streams:
                connection.outbox += [orjson.dumps(message).decode() for message in messages]
        self.carry()

    def cut(self) -> None:
        """Break all connections."""
        for connection in list(self.open):
            connection.outbox.append(None)
            self.close(connection)
        self.carry()

    # How it is worded

    @abstractmethod
    def kind(self, method: str, path: str, params: dict[str, Any]) -> str:
        """What a request is: "order", "cancel", or anything else."""

    @abstractmethod
    def route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        """What is answered. May raise `Refused`."""

    @abstractmethod
    def refusal(self, trouble: Trouble, kind: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON that say it."""

    @abstractmethod
    def heard(self, connection: Connection, message: Any) -> list[Any]:
        """Answers to what came over a connection; sets what it is: `account` (of anything) or `streams`."""

    @abstractmethod
    def order_news(self, order: FakeOrder) -> list[Any]: ...

    @abstractmethod
    def fill_news(self, trade: FakeTrade) -> list[Any]: ...

    def funding_news(self, payment: Payment) -> list[Any]:
        return []

    @abstractmethod
    def book(self, number: int, first: bool, bids: Levels, asks: Levels) -> list[Any]:
        """Messages of the book's change of this number, from 1 on; the first holds it whole."""

    @abstractmethod
    def deal(self, number: int, buys: bool, price: str, size: str) -> list[Any]:
        """A trade of the market."""
