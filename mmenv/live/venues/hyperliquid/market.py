"""Hyperliquid's market."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Market:
    """The one market there is."""

    venue: str
    """Name as in tapes and journals."""
    example: str
    """A symbol."""
    quote: str
    """What prices and profits are in."""
    digits: int
    """Significant digits of a price that is not a whole number, at most."""
    decimals: int
    """Decimals of a price and a size together, at most."""
    min_notional: str
    """Smallest value of an order."""


PERPETUALS: Final = Market(
    venue="hyperliquid", example="BTC", quote="USDC", digits=5, decimals=6, min_notional="10"
)
