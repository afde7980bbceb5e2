"""Binance's markets, and what ccxt and the API call things in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class Market:
    """One of Binance's markets."""

    venue: str
    """Name as in tapes and journals."""
    example: str
    """A symbol."""
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
    coin: bool = False
    """Whether contracts are worth a fixed amount of the quote asset, and all is paid in the base asset; the
    API is then of an earlier version."""
    weights: Mapping[tuple[str, str], int]
    """Weight of a request by method and path, where it is not 1."""

    def weight(self, method: str, path: str, params: Mapping[str, Any]) -> int:
        """What the venue counts a request as."""
        # Trades of one order are cheap where the rest is dear.
        if "orderId" in params and (method, f"{path} of an order") in self.weights:
            path = f"{path} of an order"
        return self.weights.get((method, path), 1)


USDM: Final = Market(
    venue="binance-usdm",
    example="BTCUSDT",
    kind="swap",
    socket="linear",
    public="fapiPublic",
    private="fapiPrivate",
    diffs="depth@0ms",
    cancel_all="allOpenOrders",
    trades="userTrades",
    maker=("timeInForce", "GTX"),
    futures=True,
    weights={
        ("POST", "order"): 0, ("GET", "depth"): 20, ("GET", "userTrades"): 5, ("GET", "balance"): 5,
        ("GET", "positionRisk"): 5, ("POST", "countdownCancelAll"): 10, ("GET", "commissionRate"): 20,
        ("GET", "income"): 30, ("GET", "positionSide/dual"): 30, ("GET", "account"): 5,
        ("GET", "accountConfig"): 5,
    },
)  # fmt: skip
SPOT: Final = Market(
    venue="binance-spot",
    example="BTCUSDT",
    kind="spot",
    socket="spot",
    public="public",
    private="private",
    diffs="depth@100ms",
    cancel_all="openOrders",
    trades="myTrades",
    maker=("type", "LIMIT_MAKER"),
    futures=False,
    weights={
        ("GET", "depth"): 50, ("GET", "exchangeInfo"): 20, ("GET", "order"): 4, ("GET", "openOrders"): 6,
        ("GET", "myTrades"): 20, ("GET", "myTrades of an order"): 5, ("GET", "account"): 20,
        ("GET", "account/commission"): 20, ("GET", "ticker/price"): 2,
    },
)  # fmt: skip
COINM: Final = Market(
    venue="binance-coinm",
    example="BTCUSD_PERP",
    kind="swap",
    socket="inverse",
    public="dapiPublic",
    private="dapiPrivate",
    diffs="depth@0ms",
    cancel_all="allOpenOrders",
    trades="userTrades",
    maker=("timeInForce", "GTX"),
    futures=True,
    coin=True,
    weights={
        ("POST", "order"): 0, ("GET", "depth"): 20, ("GET", "userTrades"): 20, ("GET", "account"): 5,
        ("POST", "countdownCancelAll"): 10, ("GET", "commissionRate"): 20, ("GET", "income"): 20,
        ("GET", "positionSide/dual"): 30, ("GET", "premiumIndex"): 10,
    },
)  # fmt: skip
