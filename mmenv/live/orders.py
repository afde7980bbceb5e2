"""Orders at a venue: what is asked, what is heard back, and the client that speaks to it.

Everything a venue says about our orders is an `OrderEvent`. Each arrives exactly once, in the venue's order
for one order, whether it came by the user stream, in the answer to a request, or was found out afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias

from mmenv.live.market_feed import Instrument


class Trouble(StrEnum):
    """What a venue's error means to a desk, whatever its code and words are there."""

    CROSSED = "crossed"
    """A post-only order would have traded at once: part of quoting."""
    NOTHING_TO_REDUCE = "nothing-to-reduce"
    """A reduce-only order came after the position was gone: part of quoting."""
    NOTHING_TO_TAKE = "nothing-to-take"
    """An order that is filled at once or gone found nothing at its price: part of taking."""
    UNSENT = "unsent"
    """We did not send it: it would have been one too many."""
    LOST = "lost"
    """The venue says that it never saw the order."""
    UNKNOWN_ORDER = "unknown-order"
    """There is no such order there."""
    DUPLICATE = "duplicate"
    """The order was there already."""
    IN_DOUBT = "in-doubt"
    """Not known whether it was carried out."""
    OVERLOADED = "overloaded"
    """Not carried out, and may be asked again."""
    WRONG_TIME = "wrong-time"
    """Not carried out: our clocks differ."""
    TOO_OFTEN = "too-often"
    """Not carried out: too many requests."""
    TOO_MANY_ORDERS = "too-many-orders"
    """Not carried out: too many new orders."""
    NO_FUNDS = "no-funds"
    """The account cannot pay it."""
    BAD_ORDER = "bad-order"
    """Price, size or value is not on the venue's grid or within its limits."""
    CLOSED = "closed"
    """The symbol is not traded now, or the venue is under maintenance."""
    WRONG_MODE = "wrong-mode"
    """The account's mode of positions is another than the order's."""
    BAD_KEY = "bad-key"
    """Key, secret or signature are not accepted here."""
    NO_RIGHTS = "no-rights"
    """The key may not do this, or not from this address."""
    LOST_STREAM = "lost-stream"
    """The key of the user stream is not valid any more."""
    UNKNOWN_SYMBOL = "unknown-symbol"
    """There is no such symbol."""
    OTHER = "other"
    """None of these."""


HARMLESS: Final = frozenset({Trouble.CROSSED, Trouble.NOTHING_TO_REDUCE, Trouble.NOTHING_TO_TAKE})
"""Rejects that are part of quoting, unless they do not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order to send. `side` is +1 to buy, -1 to sell; a market order's `tick` is ignored."""

    client_id: str
    """Ours, unique for ever: sending it twice makes one order. At most 36 of letters, digits and . : / _ -"""
    side: int
    tick: int
    lots: int
    kind: Literal["limit", "market"] = "limit"
    post_only: bool = True
    at_once: bool = False
    """Of a limit order: whether what it does not fill at once is gone. Then it is not `post_only`."""
    reduce_only: bool = False
    """Whether it may only reduce the position; a venue without such orders ignores it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvent:
    """Common part of all events; times in nanoseconds, `exch_ns` 0 where the venue gives none."""

    client_id: str
    exch_ns: int
    local_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(OrderEvent):
    """The order is at the venue."""

    order_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject(OrderEvent):
    """The order is not at the venue and never will be. `code` is the venue's; LOST if it never arrived."""

    code: int
    reason: str
    trouble: str = ""
    """One of Trouble; empty in journals from before there was such a thing."""

    @property
    def kind(self) -> str:
        """One of Trouble."""
        return self.trouble or (Trouble.CROSSED if self.code in CROSSED else Trouble.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill(OrderEvent):
    """Some of the order has traded. `fee` is exact decimal text in `fee_asset`, negative for a rebate."""

    order_id: int
    trade_id: int
    side: int
    tick: int
    lots: int
    fee: str
    fee_asset: str
    maker: bool

    @property
    def key(self) -> int:
        """Unique: the trade id, below 0 for a sale, for a trade with ourselves is two fills of one id."""
        return self.side * self.trade_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(OrderEvent):
    """The order is gone with `filled_lots` filled in all; `expired` if we did not ask for it."""

    order_id: int
    filled_lots: int
    expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReject(OrderEvent):
    """The cancel found nothing to cancel; the order's own last event says why."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(OrderEvent):
    """The request may or may not have reached the venue; the client keeps asking and settles it later."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(OrderEvent):
    """The user stream broke or is back (`client_id` is empty). Back means: all missed events came before."""

    ok: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(OrderEvent):
    """The venue wants no new orders until `until_ns` of our clock (`client_id` is empty)."""

    until_ns: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(OrderEvent):
    """An asset in which fees are paid is worth `price`, exact decimal text, in the quote asset (`client_id`
    is empty)."""

    asset: str
    price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding(OrderEvent):
    """A payment of funding to the account, or of borrowing: `amount` is exact decimal text, negative if the
    account paid (`client_id` is empty). `payment_id` is the venue's."""

    payment_id: int
    asset: str
    amount: str


AnyEvent: TypeAlias = (
    Ack | Reject | Fill | Cancel | CancelReject | Unknown | Stream | Silence | Rate | Funding
)

LOST: Final = 0
"""`Reject.code` of an order that the venue says it never saw."""
CROSSED: Final = frozenset({-5022, -2010})
"""`Reject.code` of a post-only order that would have traded at once, in journals without `Reject.trouble`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOrder:
    """An order as the venue's own books have it."""

    client_id: str
    order_id: int
    side: int
    tick: int
    lots: int
    filled_lots: int
    reduce_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What the account holds in the venue's books."""

    size: str
    """The position, or what there is of the traded asset, in units of it, as exact decimal text."""
    balances: dict[str, str]
    """Cash as exact decimal text, by asset."""
    owned: bool = False
    """Whether the position is a balance of the traded asset, which may have been there before a desk came and
    is then not its to trade; otherwise it is a position that trading alone has made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the venue charges this account, basis points of notional; negative is a rebate."""

    maker_fee_bp: float
    taker_fee_bp: float


class OrderClient(Protocol):
    """One account and symbol at a venue.

    No method raises for anything the venue or the network does to an order: that is an event. Queries raise
    `VenueError` if no answer can be had.
    """

    async def open(self) -> None:
        """Connect, start the user stream."""

    async def close(self) -> None:
        """Stop; orders stay as they are."""

    async def submit(self, order: Order) -> None:
        """Send; returns when the venue has answered or the answer is overdue."""

    async def cancel(self, client_id: str) -> None:
        """Cancel; returns when the venue has answered or the answer is overdue."""

    async def cancel_all(self) -> None:
        """Cancel every order of the symbol, ours or not. Raises `VenueError` while they may be open."""

    def adopt(self, instrument: Instrument) -> None:
        """Speak in these ticks and lots from now on; no order is open."""

    async def cancel_after(self, seconds: float) -> bool:
        """Ask the venue to cancel all unless asked again within `seconds` (0: never mind).

        Returns whether the venue has such a thing.
        """

    async def open_orders(self) -> list[OpenOrder]:
        """Every open order of the symbol."""

    async def holdings(self) -> Holdings:
        """Position and balances."""

    async def terms(self) -> Terms | None:
        """What the venue charges this account in the symbol; None if it does not say."""

    async def funding(self, after_ns: int) -> list[Funding]:
        """Payments of funding later than that by the venue's clock, oldest first; for a restart."""

    async def newest_trade(self) -> int:
        """The largest trade id of the account in this symbol, 0 if it has none."""

    async def fills(self, after_trade_id: int, ours: Collection[str]) -> list[Fill]:
        """The account's fills with a larger trade id, oldest first; for a restart.

        `ours` are the orders that may have them; a fill of another has no client id.
        """

    def events(self) -> AsyncIterator[AnyEvent]:
        """Events as they come, until `close`. For one consumer."""


class VenueError(RuntimeError):
    """A venue that gave no usable answer, in one sentence."""
