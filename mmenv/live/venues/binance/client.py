"""Binance through ccxt: one client class for the real servers, the local exchange and the in-process one.

ccxt signs, throttles, maps errors and keeps the connections. Its order books drop what a market maker needs
(the ids of each update, exchange times, which messages were lost), so stream messages are taken from it
undecoded.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

from mmenv.data.source import FEES_BP
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Trouble, VenueError
from mmenv.live.redact import Redacting, hide, redact
from mmenv.live.throttle import ORDERS, WEIGHT, RateLimit, Throttle, TooOften
from mmenv.live.venues.base import Clock, Credentials
from mmenv.live.venues.binance.errors import refusal
from mmenv.live.venues.binance.market import Market
from mmenv.live.venues.refusal import Refusal
from mmenv.times import MILLISECOND, SECOND

try:
    import ccxt.pro
    from ccxt.base.errors import BaseError, ExchangeError, NetworkError
except ImportError as error:
    raise ImportError(
        "live markets need ccxt, which is not installed; install the extra `live`: "
        "pip install 'neuralmm[live]'"
    ) from error

__all__ = ["RETRY_S", "BaseError", "BinanceClient", "ExchangeError", "NetworkError"]

PING_MS: Final = 5_000
"""A dead line is noticed after two unanswered pings; ccxt's own pause for Binance is three minutes."""
RETRY_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Pauses before a new connection, or before a request that may be repeated; the last one is repeated. A
venue's return is thus noticed within a second, at less than the 300 connections in five minutes that Binance
allows."""

VALUES: Final = (("MIN_NOTIONAL", "notional"), ("NOTIONAL", "minNotional"))
"""Filters that name the smallest value of an order, and the name it has there."""
BAN_S: Final = 120.0
"""The shortest ban of an address, for an answer that does not say how long."""
_BANNED_UNTIL: Final = re.compile(r"banned until (\d{13})")
_ORDERS_PER: Final = re.compile(r"orders per (\d*) ?([A-Z]+)")
_UNIT_S: Final = {"S": 1, "M": 60, "H": 3_600, "D": 86_400}
"""Seconds in a unit of time, by its first letter."""

OnMessage = Callable[[str | bytes], None]


class BinanceClient(ccxt.pro.binance):  # type: ignore[misc]
    """ccxt's client of one market, with stream messages handed over as they come.

    For the parameters see `mmenv.live.venues.base.Venue`. All clients of an account share a `throttle`. A
    request unanswered for `answer_s` is of unknown fate.
    """

    def __init__(
        self,
        market: Market,
        *,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
        throttle: Throttle | None = None,
        answer_s: float = 2.0,
    ) -> None:
        self.market, self.clock, self.answer_s = market, clock, answer_s
        self.throttle = throttle or Throttle(clock)
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
            hide(credentials.key, credentials.secret)
        super().__init__(config)
        # It writes down whole requests.
        self.logger.addFilter(Redacting())
        # ccxt's throttle knows neither what shrinks risk nor what the venue has counted; ours does.
        self.enableRateLimit = False
        self.streaming["keepAlive"] = PING_MS
        if url is not None:
            self.urls["api"] = local_urls(url)

    def milliseconds(self) -> int:
        """Local time, by our clock; ccxt stamps requests with it."""
        return self.clock() // MILLISECOND

    async def request(
        self,
        path: str,
        api: Sequence[str] = ("public",),
        method: str = "GET",
        params: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Any:
        """One request, ccxt's own among them, when the throttle lets it pass.

        Raises
        ------
        TooOften
            It was not sent.
        Refusal
            The venue answers with an error.
        NetworkError
            Its answer is overdue, or cannot be had.
        """
        given = dict(params or {})
        call = method.upper(), path
        orders = int(call == ("POST", "order"))
        reducing = method.upper() == "DELETE" or str(given.get("reduceOnly", "")).lower() == "true"
        await self.throttle.admit(self.market.weight(*call, given), orders, reducing=reducing)
        try:
            async with asyncio.timeout(self.answer_s):
                found = await super().request(path, list(api), method, given, dict(config or {}))
        except TimeoutError:
            raise NetworkError(f"no answer within {self.answer_s:g} s") from None
        except Refusal:
            raise
        except BaseError as error:
            # ccxt names the whole address, signature and all; so does what caused it.
            raise type(error)(redact(str(error))) from None
        if path == "exchangeInfo":
            self.throttle.limits = _limits(found.get("rateLimits", ()))
        return found

    def on_rest_response(
        self, code: int, reason: str, url: str, method: str, headers: Mapping[str, str], body: str, *more: Any
    ) -> str:
        """Learn from any answer what the venue has counted."""
        for name, value in (headers or {}).items():
            kind, _, interval = name.lower().removeprefix("x-mbx-").rpartition("-")
            kinds = {"used-weight": WEIGHT, "order-count": ORDERS}
            if kind in kinds and value.isdigit() and interval[:-1].isdigit():
                seconds = float(int(interval[:-1]) * _UNIT_S.get(interval[-1].upper(), 0))
                self.throttle.counted(kinds[kind], seconds, int(value))
        return body

    def handle_errors(
        self, code: int, reason: str, url: str, method: str, headers: Mapping[str, str], body: str,
        response: Any, *more: Any,
    ) -> None:  # fmt: skip
        """Raise an error answer as what it means; ccxt's own errors lose the code, or the text."""
        found = response if isinstance(response, dict) else {}
        number = found.get("code", 0)
        if code < 400 and (not isinstance(number, int) or number in (0, 200) or "msg" not in found):
            return
        error = refusal(number if isinstance(number, int) else 0, str(found.get("msg", reason)), code)
        if error.trouble == Trouble.TOO_OFTEN:
            self.throttle.refused(self._silent_until(error.text, headers or {}), f"{code}: {error}")
        elif error.trouble == Trouble.TOO_MANY_ORDERS:
            wait = _ORDERS_PER.search(error.text)
            seconds = int(wait[1] or 1) * _UNIT_S.get(wait[2][0], 60) if wait is not None else 10
            self.throttle.refused(self.clock() + round(seconds * SECOND), f"{code}: {error}", ORDERS)
        raise error

    def _silent_until(self, text: str, headers: Mapping[str, str]) -> int:
        """When the venue may be asked again, by our clock."""
        wait = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
        if wait.isdigit():
            return self.clock() + int(wait) * SECOND
        if (until := _BANNED_UNTIL.search(text)) is not None:
            # By the venue's clock, from which ours may differ.
            return int(until[1]) * MILLISECOND - self.nonce() * MILLISECOND + self.clock()
        return self.clock() + round(BAN_S * SECOND)

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

    async def instrument(self, symbol: str, anew: bool = False) -> Instrument:
        """What the venue says about `symbol`; `anew`, if it has been asked before.

        Raises
        ------
        ValueError
            It does not list it.
        VenueError
            It gives no answer.
        """
        try:
            await self.load_markets(anew)
        except (BaseError, TooOften) as error:
            raise VenueError(
                f"{self.market.venue} does not say what it trades: {error}. Is there a network? `neuralmm "
                "paper --store STORE` needs none."
            ) from error
        found = next(iter(self.markets_by_id.get(symbol, ())), None)
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
            reduces=self.market.futures,
            max_orders=self.throttle.share(10.0),
            quote=found["quote"],
            min_lots=math.ceil(
                Decimal(filters["LOT_SIZE"]["minQty"]) / Decimal(filters["LOT_SIZE"]["stepSize"])
            ),
            min_notional=next((each[name] for kind, name in VALUES if (each := filters.get(kind))), "0"),
            status="" if found["active"] else str(found["info"].get("status", "closed")),
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


def _limits(found: Iterable[Mapping[str, Any]]) -> list[RateLimit]:
    """Binance's `rateLimits`."""
    kinds = {"REQUEST_WEIGHT": WEIGHT, "ORDERS": ORDERS}
    return [
        RateLimit(
            kinds[each["rateLimitType"]],
            int(each["limit"]),
            float(int(each["intervalNum"]) * _UNIT_S[each["interval"][0]]),
        )
        for each in found
        if each["rateLimitType"] in kinds
    ]


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
