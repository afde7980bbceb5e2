"""What an exchange has on record: symbols on offer, customers, orders, trades; and what a market is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar, Final

from mmenv.data.decimals import decimal_text, decimal_units
from mmenv.data.tape import Tape
from mmenv.exchange.playback import Playback
from mmenv.times import SECOND

ZERO: Final = Decimal(0)
Json = dict[str, Any]
QUOTES: Final = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "USD")
OPEN: Final = ("NEW", "PARTIALLY_FILLED")
"""States of an order that may still trade."""


@dataclass(frozen=True)
class RateRule:
    """At most `limit` of a `kind`, REQUEST_WEIGHT or ORDERS, in `number` of a `unit` of time."""

    kind: str
    limit: int
    number: int
    unit: str

    @property
    def span_ns(self) -> int:
        """Length of its window."""
        return self.number * {"SECOND": 1, "MINUTE": 60, "DAY": 86_400}[self.unit] * SECOND


class Listing:
    """A symbol on offer: its playback, the grid of its prices and sizes, its fees, what was published last.

    Ticks and lots in the books are the tape's divided by `finer`, so that the grid on offer, `grid`, can
    change from the tape's to finer ones while it is traded. For the other parameters see
    `mmenv.exchange.playback.Playback`.
    """

    dialect: Dialect
    """The ways of its market; known once an exchange lists it."""

    def __init__(
        self,
        tapes: Sequence[Tape],
        *,
        queue_model: str = "risk-adverse",
        repeat: bool = False,
        finer: int = 1,
    ) -> None:
        info = tapes[0].info
        self.venue, self.symbol = info.venue, info.symbol
        self.playback = Playback(tapes, queue_model, repeat)
        self.quote = next((found for found in QUOTES if info.symbol.endswith(found)), "")
        self.base = info.symbol.removesuffix(self.quote)
        self.finer = finer
        self.tick, self.lot = Decimal(info.tick_size) / finer, Decimal(info.lot_size) / finer
        self.grid = Decimal(info.tick_size), Decimal(info.lot_size)
        """Tick and lot on offer: multiples of those in the books."""
        self.status = "TRADING"
        """"TRADING", or why it is not traded now."""
        self.maker = Decimal(str(info.maker_fee_bp)) / 10_000
        self.taker = Decimal(str(info.taker_fee_bp)) / 10_000
        tick = decimal_units("tick size", f"{self.tick:f}")
        lot = decimal_units("lot size", f"{self.lot:f}")
        self.price_text = lru_cache(1 << 16)(lambda ticks: decimal_text(ticks * tick) or "0")
        self.size_text = lru_cache(1 << 16)(lambda lots: decimal_text(lots * lot) or "0")
        self.ticker: Json = {}
        """The best bid and ask, as last published."""
        self.last_tick = 0
        """Price of the last trade."""
        self.min_notional = ZERO
        """Smallest value of an order."""
        self.funding_rate, self.funding_every_ns, self.funding_ns = ZERO, 0, 0
        """Part of the notional that a long position pays, how often (0: never), and when next."""

    def level_text(self, ticks: int, lots: int) -> list[str]:
        """A price and a size of the tape as text."""
        return [self.price_text(ticks * self.finer), self.size_text(lots * self.finer)]

    def value(self, tick_lots: int) -> Decimal:
        """Value of so many ticks x lots, in the quote asset."""
        return tick_lots * self.tick * self.lot


@dataclass(eq=False)
class ExchangeOrder:
    """An order in the exchange's books. `filled` in lots, `paid` is the sum of ticks x lots."""

    id: int
    client_id: str
    account: Account
    listing: Listing
    side: int
    tick: int
    lots: int
    kind: str
    force: str
    reduce_only: bool
    created_ns: int
    updated_ns: int
    filled: int = 0
    paid: int = 0
    status: str = "NEW"
    slot: int | None = None
    """Where it rests in the playback, if it does."""

    @property
    def left(self) -> int:
        """Lots not filled."""
        return self.lots - self.filled

    @property
    def open(self) -> bool:
        """Whether it may still trade."""
        return self.status in OPEN


@dataclass(frozen=True, slots=True)
class ExchangeTrade:
    """One fill in the exchange's books."""

    id: int
    order: ExchangeOrder
    tick: int
    lots: int
    fee: Decimal
    fee_asset: str
    realised: Decimal
    maker: bool
    time_ns: int


@dataclass(frozen=True, slots=True)
class Income:
    """A payment of funding to an account, negative if it paid."""

    id: int
    listing: Listing
    amount: Decimal
    time_ns: int


@dataclass(eq=False)
class Position:
    """Lots held, and what they cost (signed notional)."""

    lots: int = 0
    cost: Decimal = ZERO


@dataclass(eq=False)
class Account:
    """One customer's books, exact."""

    key: str
    secret: str = field(repr=False)
    balances: dict[str, Decimal] = field(default_factory=dict)
    """What there is of each asset of the spot account, free or locked."""
    wallet: Decimal = Decimal(1_000_000)
    """Balance of the futures account in the quote asset."""
    fees_in: str = ""
    """Asset that fees are paid in: "" for the quote asset, "received" for what a trade brings in, as on spot,
    or the name of a coin, from `coins`."""
    coins: dict[str, Decimal] = field(default_factory=dict)
    """What there is of coins to pay fees with."""
    hedged: bool = False
    """Whether each side has a position of its own, which a desk cannot trade."""
    income: list[Income] = field(default_factory=list)
    """Payments of funding."""
    positions: dict[Listing, Position] = field(default_factory=dict)
    orders: dict[int, ExchangeOrder] = field(default_factory=dict)
    trades: list[ExchangeTrade] = field(default_factory=list)
    listen_key: str = ""
    cancel_at_ns: dict[Listing, int] = field(default_factory=dict)
    """When all orders of a symbol are to be cancelled, unless that is put off again."""

    def open(self, listing: Listing | None = None, venue: str | None = None) -> list[ExchangeOrder]:
        """Open orders, oldest first."""
        return [
            order
            for order in self.orders.values()
            if order.open and listing in (None, order.listing) and venue in (None, order.listing.venue)
        ]

    def position(self, listing: Listing) -> Position:
        """Futures position of a symbol."""
        return self.positions.setdefault(listing, Position())


class Dialect(ABC):
    """How one market is addressed, how it keeps its customers' money, and how it words what it says.

    A dialect has no state: it is given all that it needs. Messages are JSON objects whose fields stand in the
    order of the real ones; `stamp` is the exchange's own clock, in ms.
    """

    venue: ClassVar[str]
    """Name of the market in tapes."""
    rest: ClassVar[str]
    """First part of the path of its requests."""
    websocket_api: ClassVar[str]
    """First part of the path of websockets that carry requests."""
    stream: ClassVar[str]
    """First part of the path of websockets that carry streams."""
    depth_speed_ms: ClassVar[int]
    """Speed of a depth stream that names none."""
    stamped: ClassVar[bool]
    """Whether what it says of the book has a second time, "T", and a diff the update before it, "pu"."""
    reducing: ClassVar[bool]
    """Whether it has orders that only reduce a position."""
    rates: ClassVar[tuple[RateRule, ...]]
    """How often it may be asked."""
    weights: ClassVar[Mapping[tuple[str, str], int]]
    """What requests count as, by method and path, where it is not 1."""
    crossed: ClassVar[tuple[int, str]]
    """Error of a post-only order that would trade at once."""
    duplicate: ClassVar[tuple[int, str]]
    """Error of a client id that an open order has."""
    closed: ClassVar[tuple[int, str]]
    """Error of an order while the symbol is not traded."""
    too_small: ClassVar[tuple[int, str]]
    """Error of an order of less than the smallest value, which its text names as {}."""
    poor: ClassVar[tuple[int, str]]
    """Error of an order that the account cannot pay."""

    @abstractmethod
    def can_pay(self, order: ExchangeOrder, notional: Decimal) -> bool:
        """Whether the account has the money for a new order of `notional` beside those that are open."""

    @abstractmethod
    def settle(
        self, order: ExchangeOrder, lots: int, value: Decimal, fee: Decimal, fee_asset: str
    ) -> Decimal:
        """Book a fill of `lots` for `value`; the profit that it realises, fee not counted."""

    @abstractmethod
    def symbol(self, listing: Listing) -> Json:
        """A symbol as exchangeInfo describes it."""

    @abstractmethod
    def order(self, order: ExchangeOrder) -> Json:
        """An order as the answer to a request shows it."""

    @abstractmethod
    def trade(self, trade: ExchangeTrade) -> Json:
        """A customer's trade as the answer to a request shows it."""

    @abstractmethod
    def cancelled(self, orders: list[ExchangeOrder]) -> Any:
        """The answer where all orders of a symbol were to be cancelled. May raise `ApiError` if none was."""

    @abstractmethod
    def aggressor(self, buy: bool) -> Json:
        """The last fields of a trade of the market, which say whether a buyer was the aggressor."""

    @abstractmethod
    def order_message(self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None, stamp: int) -> Json:
        """What happened to an order, as the user stream tells it; `trade` if it is that."""

    def messages(
        self, order: ExchangeOrder, what: str, trade: ExchangeTrade | None, stamp: int
    ) -> list[Json]:
        """All that the user stream tells of it."""
        return [self.order_message(order, what, trade, stamp)]

    def funding_message(self, account: Account, listing: Listing, amount: Decimal, stamp: int) -> Json:
        """A payment of funding, as the user stream tells it; a market that pays none has no such message."""
        raise NotImplementedError

    @abstractmethod
    def account_message(self, account: Account, listing: Listing, stamp: int) -> Json:
        """What an account holds after a trade, as the user stream tells it."""
