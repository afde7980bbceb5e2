"""Market data as it happens, in the rows of the store.

async for batch in Feed("binance-usdm", "BTCUSDT"):
    ...

"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmenv.data.capture import Problem


@dataclass(frozen=True, slots=True)
class Batch:
    """What came since the last batch. Not empty: rows, problems or a change of `live`.

    rows: `mmenv.data.tape.ROW` [n] in arrival order, n >= 0; a message is never split between batches. After
        a gap, the row CLEAR and the rows SNAPSHOT begin the book anew, as in a tape.
    live: whether the book is whole after these rows. False from the loss of a message, the connection or
        patience with a silent one until the book is built anew.
    reason: why not; empty if live.
    problems: what was wrong with the messages of this batch, a gap included.
    """

    symbol: str
    rows: NDArray[np.void]
    live: bool
    reason: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Instrument:
    """A symbol at a venue: sizes are exact decimal text, fees basis points of notional."""

    venue: str
    symbol: str
    tick_size: str
    lot_size: str
    maker_fee_bp: float
    taker_fee_bp: float
    min_notional: str = "0"
    contract: str = "linear"
    contract_size: str = "1"


class Feed:
    """Batches of one symbol for ever, through reconnections and resynchronisations.

    Args:
        venue: "binance-usdm" or "binance-spot".
        symbol: the venue's own name, such as "BTCUSDT".
        url: address of another server of the same protocol, such as "http://127.0.0.1:8080".
    """

    def __init__(self, venue: str, symbol: str, *, url: str | None = None) -> None:
        self.venue, self.symbol, self.url = venue, symbol, url

    async def open(self) -> Instrument:
        """Connect and learn the instrument; `async for` does it if not done before."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect; the iteration ends."""

    def __aiter__(self) -> AsyncIterator[Batch]:
        raise NotImplementedError
