"""Binance through ccxt: one client class for the real servers, the local exchange and the in-process one.

ccxt signs, throttles, maps errors and keeps the connections. Its order books drop what a market maker needs
(the ids of each update, exchange times, which messages were lost), so stream messages are taken from it
undecoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from mmenv.data.source import FEES_BP
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import VenueError
from mmenv.live.venues.base import Clock, Credentials
from mmenv.live.venues.binance.market import Market
from mmenv.times import MILLISECOND

try:
    import ccxt.pro
    from ccxt.base.errors import BaseError, DDoSProtection, ExchangeError, NetworkError, RateLimitExceeded
except ImportError as error:
    raise ImportError(
        "live markets need ccxt, which is not installed; install the extra `live`: "
        "pip install 'neuralmm[live]'"
    ) from error

__all__ = ["RETRY_S", "TOO_OFTEN", "BaseError", "BinanceClient", "ExchangeError", "NetworkError"]

TOO_OFTEN: Final = (RateLimitExceeded, DDoSProtection)
"""What ccxt raises where the venue asks us to wait."""
PING_MS: Final = 5_000
"""A dead line is noticed after two unanswered pings; ccxt's own pause for Binance is three minutes."""
RETRY_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Pauses before a new connection, or before a request that may be repeated; the last one is repeated. A
venue's return is thus noticed within a second, at less than the 300 connections in five minutes that Binance
allows."""

OnMessage = Callable[[str | bytes], None]


class BinanceClient(ccxt.pro.binance):  # type: ignore[misc]
    """ccxt's client of one market, with stream messages handed over as they come.

    For the parameters see `mmenv.live.venues.base.Venue`.
    """

    def __init__(
        self,
        market: Market,
        *,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
    ) -> None:
        self.market, self.clock = market, clock
        self.takers: dict[str, OnMessage] = {}
        """Who is given the text of the connection of an address."""
        config: dict[str, Any] = {
            "options": {
                "defaultType": market.kind,
                "defaultSubType": market.socket if market.futures else None,
                "fetchMarkets": {"types": [market.socket]},
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
        self.streaming["keepAlive"] = PING_MS
        if url is not None:
            self.urls["api"] = local_urls(url)

    def milliseconds(self) -> int:
        """Local time, by our clock; ccxt stamps requests with it."""
        return self.clock() // MILLISECOND

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
        """What the venue says about `symbol`.

        Raises
        ------
        ValueError
            It does not list it.
        VenueError
            It gives no answer.
        """
        try:
            await self.load_markets()
        except NetworkError as error:
            raise VenueError(str(error)) from error
        found = next((each for each in self.markets_by_id.get(symbol, ()) if each["active"]), None)
        if found is None:
            raise ValueError(
                f"symbol = {symbol!r} is not possible: it must be one that {self.market.venue} trades, "
                "written as BTCUSDT."
            )
        filters = {each["filterType"]: each for each in found["info"]["filters"]}
        maker, taker = FEES_BP[self.market.venue]
        return Instrument(
            venue=self.market.venue,
            symbol=symbol,
            tick_size=_trimmed(filters["PRICE_FILTER"]["tickSize"]),
            lot_size=_trimmed(filters["LOT_SIZE"]["stepSize"]),
            maker_fee_bp=maker,
            taker_fee_bp=taker,
            base=found["base"],
        )

    def market_url(self, index: int) -> str:
        """Address of a market data connection; each index is a connection of its own."""
        return f"{self.get_ws_url(self.market.socket, 'public')}/{index}"

    async def depth(self, symbol: str) -> dict[str, Any]:
        """A REST snapshot of the book, as the venue sends it."""
        return await self.request("depth", [self.market.public], "GET", {"symbol": symbol, "limit": 1000})


def local_urls(url: str) -> dict[str, Any]:
    """ccxt's addresses at a local exchange (`mmenv.exchange.exchange`)."""
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
