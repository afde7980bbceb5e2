"""What a desk asks of a market feed, and what it gets from it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mmenv.data.problems import Problem

NEVER_NS: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Batch:
    """What came since the last batch. It is not empty: there are rows, problems or a change of `live`."""

    symbol: str
    rows: NDArray[np.void]
    """`mmenv.data.rows.ROW` [n] in arrival order, n >= 0; a message is never split between batches. After a
    gap, the row CLEAR and the rows SNAPSHOT begin the book anew, as in a tape."""
    live: bool
    """Whether the book is whole after these rows. It is not from the loss of a message, of the connection or
    of patience with a silent one, until the book is built anew."""
    reason: str
    """Why the book is not whole; empty if it is."""
    problems: tuple[Problem, ...]
    """What was wrong with the messages of this batch, a gap included."""


@dataclass(frozen=True)
class Instrument:
    """A symbol at a venue: sizes are exact decimal text, fees basis points of notional."""

    venue: str
    symbol: str
    tick_size: str
    lot_size: str
    maker_fee_bp: float
    taker_fee_bp: float
    base: str = ""
    """The asset that is traded, where the venue keeps balances of assets."""
    quote: str = ""
    """The asset that prices and profits are in."""
    max_orders: int = 0
    """New orders in ten seconds that the venue takes of one account; 0 where that is not known."""
    min_lots: int = 1
    """Smallest size of an order."""
    reduces: bool = True
    """Whether there are orders that only reduce a position."""
    min_notional: str = "0"
    """Smallest value of an order that does not reduce, in the quote asset."""
    status: str = ""
    """Why it is not traded now, in the venue's word for it; empty if it is."""
    contract_size: str = "1"
    """Units of the base asset (the quote asset, if `inverse`) in a contract, where sizes are in contracts."""
    inverse: bool = False
    """Whether profit is paid in the base asset: a contract is worth `contract_size` of the quote asset."""

    @property
    def lot_as_sent(self) -> str:
        """The lot as the venue writes sizes."""
        return f"{(Decimal(self.lot_size) / Decimal(self.contract_size)).normalize():f}"


class MarketFeed(AsyncIterable[Batch], Protocol):
    """Batches of one symbol for ever, through reconnections and resynchronisations. For one consumer."""

    alarm_ns: int
    """Local time from which a message, before it is decoded, sets off `alarm`; NEVER_NS at first."""
    alarm: Callable[[int], None]
    """Is given the local time: what cannot wait until the messages in the socket are read."""

    async def open(self) -> Instrument:
        """Connect; what the symbol is.

        Raises
        ------
        ValueError
            The venue does not trade the symbol.
        VenueError
            It gives no answer.
        """

    def renew(self, reason: str) -> None:
        """Begin anew, book and connection: what comes is not to be trusted. By default nothing is done."""
        return None

    async def look(self) -> Instrument | None:
        """What the symbol is now; None, as by default, where that cannot be asked. Raises as `open` does."""
        return None

    def adopt(self, instrument: Instrument) -> None:
        """Give rows in these ticks and lots from now on, and begin anew."""
        self.renew("the instrument has changed")

    def take(self) -> Batch | None:
        """What has come that was not iterated over yet, without waiting; None if nothing has."""

    async def close(self) -> None:
        """Disconnect; the iteration ends."""
