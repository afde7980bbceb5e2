"""What is asked of a venue about orders of one symbol: the questions that all venues share.

A venue's own `Requests` says how each is asked there, and how its answer is read. Requests raise as
`mmenv.live.venues.client.VenueClient.request` does, questions that are repeated until they are answered
`VenueError`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from typing import Any, Final, TypeVar

from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Fill, Funding, Holdings, OpenOrder, Order, Terms, Trouble, VenueError
from mmenv.live.throttle import TooOften
from mmenv.live.venues.client import RETRY_S, BaseError
from mmenv.live.venues.names import last_in_time
from mmenv.live.venues.news import OrderView
from mmenv.live.venues.refusal import Refusal

RECV_WINDOW_MS: Final = 2_000
"""An order that arrives later than this after it was sent is refused."""
MARGIN_MS: Final = 1_000
"""What happened no longer ago is taken for ours, for clocks differ."""
REQUEST_ERRORS: Final = (BaseError, TooOften)
"""What a request may raise."""

Sending = Callable[[int], None]
"""Is told the venue's time in milliseconds whenever a request is about to be sent."""
T = TypeVar("T")


def trouble_of(error: BaseException) -> Trouble:
    """What an error of a request means; one that is no answer leaves in doubt whether it was carried out."""
    if isinstance(error, TooOften):
        return Trouble.UNSENT
    return error.trouble if isinstance(error, Refusal) else Trouble.IN_DOUBT


class Requests(ABC):
    """Requests for one symbol, by a client with credentials."""

    def __init__(self, client: Any, instrument: Instrument) -> None:
        self.client = client
        self.adopt(instrument)

    def adopt(self, instrument: Instrument) -> None:
        """Read and write in its ticks and lots from now on."""
        self.instrument = instrument
        self.tick, self.lot = Decimal(instrument.tick_size), Decimal(instrument.lot_as_sent)
        self.contract = Decimal(instrument.contract_size)

    # Orders

    @abstractmethod
    async def place(self, order: Order, sending: Sending) -> OrderView | None:
        """Send an order; as the venue shows it, None where it only says that it has heard."""

    @abstractmethod
    async def cancel(self, client_id: str) -> OrderView | None:
        """Cancel an order; as the venue shows it, None where it only says that it has heard."""

    @abstractmethod
    async def cancel_all(self) -> None:
        """Cancel every order of the symbol, ours or not."""

    async def cancel_after(self, seconds: float) -> bool:
        """See `mmenv.live.orders.OrderClient.cancel_after`; most venues have no such thing."""
        return False

    @abstractmethod
    async def order(self, client_id: str) -> OrderView:
        """An order, however it ended; a `Refusal` of UNKNOWN_ORDER where the venue knows none."""

    @abstractmethod
    async def open_orders(self) -> list[OpenOrder]:
        """Every open order of the symbol. Raises `VenueError`."""

    # Fills

    @abstractmethod
    async def newest_trade(self) -> int:
        """The largest trade id of the account in this symbol, 0 if it has none. Raises `VenueError`."""

    @abstractmethod
    async def fills(self, after_trade_id: int) -> list[Fill]:
        """The account's fills with a larger trade id, oldest first. Raises `VenueError`.

        They are without a client id where the venue does not say it.
        """

    @abstractmethod
    async def fills_of(self, client_id: str, order_id: int) -> list[Fill]:
        """The fills of one order, oldest first. Raises `VenueError`."""

    # The account

    @abstractmethod
    async def check_account(self) -> None:
        """Raise `VenueError` where the account cannot trade as a desk does."""

    @abstractmethod
    async def holdings(self) -> Holdings:
        """Position and balances. Raises `VenueError`."""

    @abstractmethod
    async def terms(self) -> Terms | None:
        """What the account pays; None where the venue does not say. Raises `VenueError`."""

    @abstractmethod
    async def price_of(self, asset: str) -> str:
        """What an asset is worth in the quote asset, decimal text. Raises `VenueError`."""

    async def next_funding_ms(self) -> int:
        """When funding is paid next, by the venue's clock; 0 if never. Raises `VenueError`."""
        return 0

    async def funding(self, after_ms: int) -> list[Funding]:
        """Payments of funding later than that, oldest first. Raises `VenueError`."""
        return []

    async def venue_ms(self) -> int:
        """The venue's clock, and ours set by it."""
        await self.client.load_time_difference()
        return int(self.client.nonce())

    # What they are made of

    async def newest_of(self, times_ms: Iterable[int]) -> int:
        """The trade id that is not smaller than those of trades at these times, where `names.number_in_time`
        makes them; without any, of what has happened until now."""
        newest = max(times_ms, default=0)
        return last_in_time(newest or await self.until_answered("time", self.venue_ms) - MARGIN_MS)

    async def in_time(self, ask: Callable[[], Awaitable[T]], sending: Sending | None = None) -> T:
        """Ask once; and once more where it was refused, thus not carried out, for our clocks differ."""
        try:
            if sending is not None:
                sending(int(self.client.nonce()))
            return await ask()
        except Refusal as error:
            if error.trouble != Trouble.WRONG_TIME:
                raise
        await self.venue_ms()
        if sending is not None:
            sending(int(self.client.nonce()))
        return await ask()

    async def until_answered(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask what may be asked again, until it is answered. Raises `VenueError`, which names `what`."""
        for pause in RETRY_S:
            try:
                return await self.in_time(ask)
            except REQUEST_ERRORS as error:
                if trouble_of(error) not in (Trouble.IN_DOUBT, Trouble.OVERLOADED):
                    raise VenueError(f"{what}: {error}") from error
            await asyncio.sleep(pause)
        try:
            return await self.in_time(ask)
        except REQUEST_ERRORS as error:
            raise VenueError(f"{what}: {error}") from error

    # How it is written

    def price(self, tick: int) -> str:
        """Decimal text of a price in ticks."""
        return f"{tick * self.tick:f}"

    def size(self, lots: int) -> str:
        """Decimal text of a size in lots."""
        return f"{lots * self.lot:f}"

    def ticks(self, price: str) -> int:
        """A price in ticks."""
        return round(Decimal(price) / self.tick)

    def lots(self, size: str) -> int:
        """A size in lots."""
        return round(Decimal(size) / self.lot)
