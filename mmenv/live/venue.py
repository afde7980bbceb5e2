"""Binance through ccxt: one client class for the real servers, the local exchange and the in-process one.

ccxt signs, throttles, maps errors and keeps the connections. Its order books drop what a market maker needs
(the ids of each update, exchange times, which messages were lost), so stream messages are taken from it
undecoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from mmenv.data.binance import FEES_BP

try:
    import ccxt.pro
    from ccxt.base.errors import BaseError, DDoSProtection, ExchangeError, NetworkError, RateLimitExceeded
except ImportError as error:
    raise ImportError(
        "live markets need ccxt, which is not installed; install the extra `live`: "
        "pip install 'neuralmm[live]'"
    ) from error

__all__ = [
    "TOO_OFTEN", "VENUES", "BaseError", "Credentials", "ExchangeError", "Instrument", "NetworkError",
    "VenueClient",
]  # fmt: skip

VENUES: Final = ("binance-usdm", "binance-spot")
TOO_OFTEN: Final = (RateLimitExceeded, DDoSProtection)
"""What ccxt raises where the venue asks us to wait."""
PING_MS: Final = 5_000
Clock = Callable[[], int]
OnMessage = Callable[[str | bytes], None]


@dataclass(frozen=True)
class Credentials:
    """An API key and its secret; never shown."""

    key: str
    secret: str

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True)
class Instrument:
    """A symbol at a venue: sizes are exact decimal text, fees basis points of notional."""

    venue: str
    symbol: str
    tick_size: str
    lot_size: str
    maker_fee_bp: float
    taker_fee_bp: float
    base: str
    quote: str
    min_notional: str = "0"
    contract: str = "linear"
    contract_size: str = "1"


class VenueClient(ccxt.pro.binance):  # type: ignore[misc]
    """ccxt's client of one venue, with stream messages handed over as they come.

    Args:
        venue: one of VENUES.
        url: address of another server of the same protocol, such as "http://127.0.0.1:8080".
        credentials: for orders; the feed needs none.
        clock: local time in nanoseconds since 1970.
    """

    def __init__(
        self,
        venue: str,
        *,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
    ) -> None:
        if venue not in VENUES:
            raise ValueError(f"venue is {venue!r}; it must be one of {', '.join(VENUES)}")
        self.venue = venue
        self.clock = clock
        self.takers: dict[str, OnMessage] = {}
        linear = venue == "binance-usdm"
        config: dict[str, Any] = {
            "options": {
                "defaultType": "swap" if linear else "spot",
                "defaultSubType": "linear" if linear else None,
                "fetchMarkets": {"types": ["linear" if linear else "spot"]},
                "fetchCurrencies": False,
                # Compression costs time and nothing here is far away.
                "ws": {"compress": 0},
            }
        }
        if credentials is not None:
            config |= {"apiKey": credentials.key, "secret": credentials.secret}
        super().__init__(config)
        # A snapshot is as dear to ccxt's throttle as a second of orders, and one given up still pays:
        # after a reconnection none would ever be sent. The guard and the feed's pauses keep the rates.
        self.enableRateLimit = False
        # A dead line is noticed after two unanswered pings; ccxt's own pause for Binance is three minutes.
        self.streaming["keepAlive"] = PING_MS
        if url is not None:
            self.urls["api"] = local_urls(url)

    def milliseconds(self) -> int:
        """Local time, by our clock; ccxt stamps requests with it."""
        return self.clock() // 1_000_000

    def client(self, url: str) -> Any:
        """ccxt's connection for `url`, made if need be; its text goes to the taker of that url, if any."""
        known = url in (self.clients or {})
        connection = super().client(url)
        if not known and url in self.takers:
            connection.handle_text_or_binary_message = self.takers[url]
        return connection

    async def hang_up(self, url: str) -> None:
        """Close the connection for `url`, if there is one; the next `watch` makes a new one."""
        connection = (self.clients or {}).pop(url, None)
        if connection is not None:
            # Without an error ccxt forgets, when it notices, whatever connection this url has by then.
            connection.error = connection.error or NetworkError("hung up")
            with suppress(Exception):
                await connection.close()

    async def instrument(self, symbol: str) -> Instrument:
        """What the venue says about `symbol`. Raises ValueError if it does not list it."""
        await self.load_markets()
        market = next((found for found in self.markets_by_id.get(symbol, ()) if found["active"]), None)
        if market is None:
            raise ValueError(f"symbol is {symbol!r}; {self.venue} does not trade it (write it as BTCUSDT)")
        filters = {found["filterType"]: found for found in market["info"]["filters"]}
        notional = filters.get("MIN_NOTIONAL") or filters.get("NOTIONAL") or {}
        maker, taker = FEES_BP[self.venue]
        return Instrument(
            venue=self.venue,
            symbol=symbol,
            tick_size=_trimmed(filters["PRICE_FILTER"]["tickSize"]),
            lot_size=_trimmed(filters["LOT_SIZE"]["stepSize"]),
            maker_fee_bp=maker,
            taker_fee_bp=taker,
            base=market["base"],
            quote=market["quote"],
            min_notional=str(notional.get("notional") or notional.get("minNotional") or "0"),
        )

    def market_url(self, index: int) -> str:
        """Address of a market data connection; each index is a connection of its own."""
        base = self.urls["api"]["ws"]
        url = self.get_ws_url("linear", "public") if self.venue == "binance-usdm" else base["spot"]
        return f"{url}/{index}"

    async def depth(self, symbol: str) -> dict[str, Any]:
        """A REST snapshot of the book, as the venue sends it."""
        get = self.fapiPublicGetDepth if self.venue == "binance-usdm" else self.publicGetDepth
        return await get({"symbol": symbol, "limit": 1000})


def local_urls(url: str) -> dict[str, Any]:
    """ccxt's addresses at a local exchange (`mmenv.live.exchange`)."""
    base = url.rstrip("/")
    stream = base.replace("http", "ws", 1)
    return {
        "public": f"{base}/api/v3",
        "private": f"{base}/api/v3",
        "sapi": f"{base}/sapi/v1",
        "fapiPublic": f"{base}/fapi/v1",
        "fapiPrivate": f"{base}/fapi/v1",
        "fapiPrivateV2": f"{base}/fapi/v2",
        "fapiPrivateV3": f"{base}/fapi/v3",
        "dapiPublic": f"{base}/dapi/v1",
        "ws": {
            # ccxt tells spot from futures by "/stream" in the address.
            "spot": f"{stream}/stream.spot/ws",
            "linear": f"{stream}/fstream/ws",
            "ws-api": {"spot": f"{stream}/ws-api/v3", "linear": f"{stream}/ws-fapi/v1"},
        },
    }


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
