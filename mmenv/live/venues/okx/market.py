"""OKX's markets, and what the API calls things in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Market:
    """One of OKX's markets."""

    venue: str
    """Name as in tapes and journals."""
    kind: str
    """The API's word for what is traded."""
    mode: str
    """Its word for how that is paid."""
    futures: bool
    """Whether there are positions and reduce-only orders; otherwise there are balances."""
    example: str
    """A symbol."""


SPOT: Final = Market(venue="okx", kind="SPOT", mode="cash", futures=False, example="BTC-USDT")
SWAP: Final = Market(venue="okx-swap", kind="SWAP", mode="cross", futures=True, example="BTC-USDT-SWAP")
