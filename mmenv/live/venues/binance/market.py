"""Binance's markets, and what ccxt and the API call things in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Market:
    """One of Binance's markets."""

    venue: str
    """Name as in tapes and journals."""
    kind: str
    """ccxt's word for what is traded."""
    socket: str
    """ccxt's word for its streams, and for what is listed."""
    public: str
    """ccxt's word for requests without a signature, and the beginning of its methods for them."""
    private: str
    """ccxt's word for requests with one."""
    diffs: str
    """Stream of changes of the book."""
    cancel_all: str
    """Path of the request that cancels all orders of a symbol."""
    trades: str
    """Path of the request for our trades."""
    maker: tuple[str, str]
    """Parameter, and its value, of a limit order that must not trade at once."""
    futures: bool
    """Whether there are positions, reduce-only orders, a countdown that cancels all, and a user stream at an
    address of its own; otherwise there are balances, and the user stream comes over the API's connection."""


USDM: Final = Market(
    venue="binance-usdm",
    kind="swap",
    socket="linear",
    public="fapiPublic",
    private="fapiPrivate",
    diffs="depth@0ms",
    cancel_all="allOpenOrders",
    trades="userTrades",
    maker=("timeInForce", "GTX"),
    futures=True,
)
SPOT: Final = Market(
    venue="binance-spot",
    kind="spot",
    socket="spot",
    public="public",
    private="private",
    diffs="depth@100ms",
    cancel_all="openOrders",
    trades="myTrades",
    maker=("type", "LIMIT_MAKER"),
    futures=False,
)
MARKETS: Final = {market.venue: market for market in (USDM, SPOT)}
"""All of them, by the name of the venue."""
