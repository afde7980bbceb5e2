"""A venue through ccxt: what the clients of all venues share.

ccxt signs and keeps the connections. Its order books drop what a market maker needs (the ids of each update,
exchange times, which messages were lost), so stream messages are taken from it undecoded; its errors lose the
code, or the text, so answers are read before it does; its throttle knows neither what shrinks risk nor what
the venue has counted.
"""

from __future__ import annotations

import asyncio
import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, ClassVar, Final

from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Trouble, VenueError
from mmenv.live.redact import Redacting, hide, redact
from mmenv.live.throttle import ORDERS, WEIGHT, Throttle, TooOften
from mmenv.live.venues.base import Clock, Credentials
from mmenv.live.venues.refusal import Refusal, Row
from mmenv.live.venues.refusal import refusal as refusal_of
from mmenv.times import MILLISECOND

# After `refusal`, which says what to install where it is missing.
import ccxt.pro  # isort: skip
from ccxt.base.errors import BaseError, ExchangeError, NetworkError  # isort: skip

__all__ = ["RETRY_S", "BaseError", "Call", "ExchangeError", "NetworkError", "VenueClient", "trimmed"]

PING_MS: Final = 5_000
"""A dead line is noticed after two unanswered pings; ccxt's own pause is up to three minutes."""
RETRY_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Pauses before a new connection, or before a request that may be repeated; the last one is repeated. A
venue's return is thus noticed within a second, at less than the 300 connections in five minutes that Binance
allows, and Bybit's 500."""

OnMessage = Callable[[str | bytes], None]


class Call:
    """What a request costs: weight, new orders, and whether it shrinks risk."""

    __slots__ = ("orders", "reducing", "weight")

    def __init__(self, weight: int = 1, orders: int = 0, *, reducing: bool = False) -> None:
        self.weight, self.orders, self.reducing = weight, orders, reducing


class VenueClient(ccxt.pro.Exchange):  # type: ignore[misc]
    """ccxt's client of one market, with stream messages handed over as they come. Subclass with ccxt's class.

    For the parameters see `mmenv.live.venues.base.Venue`; `market` has the `venue`'s name and a symbol for an
    `example`; `options` are ccxt's. All clients of an account share a `throttle`. A request unanswered for
    `answer_s` is of unknown fate.
    """

    errors: ClassVar[Sequence[Row]]
    """What the venue's errors mean."""
    bans_all: ClassVar[bool] = False
    """Whether TOO_OFTEN is the answer to every request, for a time that is not said: any other answer shows
    that it is over."""

    def __init__(
        self,
        market: Any,
        options: Mapping[str, Any],
        *,
        url: str | None = None,
        credentials: Credentials | None = None,
        clock: Clock = time.time_ns,
        throttle: Throttle | None = None,
        testnet: bool = False,
        answer_s: float = 2.0,
    ) -> None:
        self.market, self.venue = market, str(market.venue)
        self.clock, self.answer_s, self.testnet = clock, answer_s, testnet
        self.throttle = throttle or Throttle(clock)
        self.takers: dict[str, OnMessage] = {}
        """Who is given the text of the connection of an address."""
        # Compression costs time and nothing here is far away.
        config: dict[str, Any] = {"options": {**options, "ws": {"compress": 0}}}
        if credentials is not None:
            config |= {"apiKey": credentials.key, "secret": credentials.secret}
            config["password"] = credentials.passphrase
            hide(credentials.key, credentials.secret, credentials.passphrase)
        super().__init__(config)
        # It writes down whole requests.
        self.logger.addFilter(Redacting())
        self.enableRateLimit = False
        self.streaming["keepAlive"] = PING_MS
        if testnet:
            self.use_testnet()
        if url is not None:
            self.urls["api"] = self.local_urls(url.rstrip("/"))

    # What each venue says

    @abstractmethod
    def local_urls(self, url: str) -> dict[str, Any]:
        """ccxt's addresses at another server of the protocol, such as the local exchange."""

    @abstractmethod
    def call(self, method: str, path: str, params: Mapping[str, Any]) -> Call:
        """What the venue counts a request as."""

    @abstractmethod
    def error_of(self, status: int, reason: str, found: Mapping[str, Any]) -> tuple[int, str] | None:
        """Code (0 if none) and text of an answer that is an error, None of one that is not."""

    @abstractmethod
    def silent_until(self, error: Refusal, headers: Mapping[str, str]) -> int:
        """When the venue may be asked again, by our clock, after it said TOO_OFTEN or TOO_MANY_ORDERS."""

    @abstractmethod
    async def listed(self, symbol: str, anew: bool) -> Instrument | None:
        """What the venue says about `symbol`, None if it knows none; `anew`, if it has been asked before.

        Raises as `request` does.
        """

    @abstractmethod
    def market_url(self, index: int) -> str:
        """Address of a market data connection; each index is a connection of its own."""

    def use_testnet(self) -> None:
        """Speak to the venue's testnet from now on."""
        self.set_sandbox_mode(True)

    def learn(self, path: str, found: Any) -> None:
        """Learn from the answer to a request what the venue allows."""

    def count(self, headers: Mapping[str, str], url: str) -> None:
        """Learn from the headers of any answer what the venue has counted."""

    # What is asked

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
            found = await self.listed(symbol, anew)
        except Refusal as error:
            if error.trouble != Trouble.UNKNOWN_SYMBOL:
                raise self._silent(error) from error
            found = None
        except (BaseError, TooOften) as error:
            raise self._silent(error) from error
        if found is None:
            raise ValueError(
                f"symbol = {symbol!r} is not possible: it must be one that {self.venue} trades, written as "
                f"{self.market.example}."
            )
        return found

    def _silent(self, error: Exception) -> VenueError:
        return VenueError(
            f"{self.venue} does not say what it trades: {error}. Is there a network? `neuralmm paper --store "
            "STORE` needs none."
        )

    def milliseconds(self) -> int:
        """Local time, by our clock; ccxt stamps requests with it."""
        return self.clock() // MILLISECOND

    async def request(
        self,
        path: str,
        api: Sequence[str] = ("public",),
        method: str = "GET",
        params: Mapping[str, Any] | Sequence[Any] | None = None,
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
        # ccxt adds to what it is given.
        given: Any = copy.copy(params) if params is not None else {}
        call = self.call(method.upper(), path, given)
        silent = await self.throttle.admit(call.weight, call.orders, reducing=call.reducing)
        try:
            async with asyncio.timeout(self.answer_s):
                found = await super().request(path, list(api), method, given, dict(config or {}))
        except TimeoutError:
            raise NetworkError(f"no answer within {self.answer_s:g} s") from None
        except Refusal as error:
            if silent and self.bans_all and error.trouble not in (Trouble.TOO_OFTEN, Trouble.OVERLOADED):
                self.throttle.lifted()
            raise
        except BaseError as error:
            # ccxt names the whole address, signature and all; so does what caused it.
            raise type(error)(redact(str(error))) from None
        if silent and self.bans_all:
            self.throttle.lifted()
        self.learn(path, found)
        return found

    # What ccxt is told and tells

    def on_rest_response(
        self, code: int, reason: str, url: str, method: str, headers: Mapping[str, str], body: str, *more: Any
    ) -> str:
        """Learn from any answer what the venue has counted."""
        self.count({name.lower(): value for name, value in (headers or {}).items()}, url)
        return body

    def handle_errors(
        self, code: int, reason: str, url: str, method: str, headers: Mapping[str, str], body: str,
        response: Any, *more: Any,
    ) -> None:  # fmt: skip
        """Raise an error answer as what it means; ccxt's own errors lose the code, or the text."""
        said = self.error_of(code, reason, response if isinstance(response, dict) else {})
        if said is not None:
            raise self.heeded(*said, code, headers or {})

    def heeded(self, code: int, text: str, status: int, headers: Mapping[str, str]) -> Refusal:
        """The error of an answer; if it asks for silence, the throttle knows."""
        error = refusal_of(self.errors, code, text, status)
        kind = {Trouble.TOO_OFTEN: WEIGHT, Trouble.TOO_MANY_ORDERS: ORDERS}.get(error.trouble)
        if kind is not None:
            lower = {name.lower(): value for name, value in headers.items()}
            self.throttle.refused(self.silent_until(error, lower), f"{status}: {error}", kind)
        return error

    def client(self, url: str) -> Any:
        """ccxt's connection for `url`, made if need be; its text goes to the taker of that url, if any."""
        known = url in (self.clients or {})
        connection = super().client(url)
        if not known and (take := self.takers.get(url)) is not None:

            def taken(text: str | bytes) -> None:
                # Any message says as much as the answer to a ping, which is one here.
                connection.lastPong = ccxt.pro.Exchange.milliseconds()
                take(text)

            connection.handle_text_or_binary_message = taken if hasattr(self, "ping") else take
        return connection

    async def hang_up(self, url: str) -> None:
        """Close the connection for `url`, if there is one; the next `watch` makes a new one."""
        connection = (self.clients or {}).pop(url, None)
        if connection is not None:
            # Without an error ccxt forgets, when it notices, whatever connection this url has by then.
            connection.error = connection.error or NetworkError("hung up")
            with suppress(Exception):
                await connection.close()
            if not connection.connected.done():
                # It is being dialled, and nobody else would close it.
                connection.connected.add_done_callback(lambda _: asyncio.ensure_future(connection.close()))


def trimmed(text: str) -> str:
    """Decimal text without zeros at its end."""
    return f"{Decimal(text).normalize():f}"
