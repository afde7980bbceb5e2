"""Bybit's markets, and what the API calls things in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Market:
    """One of Bybit's markets."""

    venue: str
    """Name as in tapes and journals."""
    example: str
    """A symbol."""
    category: str
    """The API's word for it."""
    depth: int
    """Levels of the book that is listened to: the deepest of those that come most often."""
    futures: bool
    """Whether there are positions and reduce-only orders; otherwise there are balances."""
    orders_a_second: int
    """New orders that an account may send; the answers to them say what it really is."""


LINEAR: Final = Market(
    venue="bybit", example="BTCUSDT", category="linear", depth=50, futures=True, orders_a_second=10
)
SPOT: Final = Market(
    venue="bybit-spot", example="BTCUSDT", category="spot", depth=50, futures=False, orders_a_second=20
)
