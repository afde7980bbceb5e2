"""News of our orders as Binance tells them: a stream that is kept, and an account of when it was not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from mmenv.live.orders import Stream, Trouble, VenueError
from mmenv.live.redact import hide, redact
from mmenv.live.venues.binance.client import RETRY_S, BinanceClient
from mmenv.live.venues.binance.requests import REQUEST_ERRORS, trouble_of
from mmenv.live.venues.binance.tracker import TrackedOrder, Tracker
from mmenv.times import SECOND

KEEP_ALIVE_S: Final = 1_200.0
"""The key to a stream is told to live on this often."""
OWED_S: Final = 5.0
"""A stream that is silent for so long after an order that it must report is dead, open or not."""
LOOK_S: Final = 0.5
"""It is looked at this often."""
REFUSED: Final = (Trouble.BAD_KEY, Trouble.NO_RIGHTS)
"""Errors that waiting does not mend."""


class UserStream:
    """Keeps the stream of one account, and tells when it breaks and is back.

    `compare` finds out, once the stream runs, what happened while it did not.
    """

    def __init__(
        self,
        client: BinanceClient,
        tracker: Tracker,
        compare: Callable[[], Awaitable[None]],
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self.opened = asyncio.Event()
        """Set once the stream has run, or the venue has refused us."""
        self.refused = ""
        """Why it has; empty if it has not."""
        self.paid = asyncio.Event()
        """Set when the venue says that funding was paid."""
        self.doubtful = asyncio.Event()
        """Set when a message could not be read."""
        self._client = client
        self._tracker, self._compare = tracker, compare
        self._broken = asyncio.Event()
        self._why = ""
        self._owing_ns = 0

    def owes(self, order: TrackedOrder) -> None:
        """The venue has taken the order, which the stream must report."""
        if not order.reported and not self._owing_ns:
            self._owing_ns = self._client.clock()

    async def keep(self) -> None:
        """Connect, and connect again, until cancelled."""
        tries = 0
        while True:
            url, reason = "", ""
            try:
                url, message = await self._address()
                self._client.takers[url] = self._received
                self._client.ws_dial_backoff = {}
                self._broken.clear()
                self._why, self._owing_ns = "", 0
                await self._listen(url, message)
                reason, tries = self._why, 0
            except (*REQUEST_ERRORS, VenueError, TimeoutError) as error:
                reason, tries = redact(str(error)) or "no connection", tries + 1
                if trouble_of(error.__cause__ or error) in REFUSED and not self.opened.is_set():
                    self.refused = reason
                    self.opened.set()
                    return
            finally:
                await self._client.hang_up(url)
                self._client.takers.pop(url, None)
            self._tracker.tell(Stream, ok=False, reason=reason)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

    async def _listen(self, url: str, message: dict[str, Any] | None) -> None:
        """Run the stream at `url` until it breaks. Raises ccxt's errors."""
        client = self._client
        watch = asyncio.ensure_future(client.watch(url, "user", message, "user"))
        broken = asyncio.create_task(self._broken.wait())
        alive = asyncio.create_task(self._keep_alive())
        watched = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(client.answer_s):
                await asyncio.wait((watch, client.clients[url].connected), return_when="FIRST_COMPLETED")
            await self._compare()
            self._tracker.tell(Stream, ok=True, reason="")
            self.opened.set()
            await asyncio.wait((watch, broken), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
        finally:
            tasks = (watch, broken, alive, watched)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _address(self) -> tuple[str, dict[str, Any] | None]:
        """Where the stream is, and what subscribes to it if that is not enough."""
        if self._client.market.futures:
            answer = await self._client.fapiPrivatePostListenKey()
            hide(answer["listenKey"])
            return self._client.get_private_ws_url(self._client.market.socket, answer["listenKey"]), None
        url = self._client.urls["api"]["ws"]["ws-api"][self._client.market.socket]
        method = "userDataStream.subscribe.signature"
        return url, {"id": "user", "method": method, "params": self._client.sign_params({})}

    async def _keep_alive(self) -> None:
        while self._client.market.futures:
            await asyncio.sleep(self._keep_alive_s)
            try:
                await self._client.fapiPrivatePutListenKey()
            except REQUEST_ERRORS as error:
                if trouble_of(error) == Trouble.LOST_STREAM:
                    self._break("the key of the stream is not valid any more")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._owing_ns and self._client.clock() - self._owing_ns > OWED_S * SECOND:
                self._break(f"nothing came for {OWED_S:g} s after an order")

    def _received(self, text: str | bytes) -> None:
        """A message of the stream. Half a message says nothing; the next comparison does."""
        self._owing_ns = 0
        try:
            message = orjson.loads(text)
            message = message.get("event", message)
            kind = message.get("e")
            if "error" in message:
                self._break(str(message["error"]))
            elif kind == "ORDER_TRADE_UPDATE":
                self._tracker.hear_report(message["o"])
            elif kind == "executionReport":
                self._tracker.hear_report(message)
            elif kind == "ACCOUNT_UPDATE" and message["a"].get("m") == "FUNDING_FEE":
                self.paid.set()
            elif kind in ("listenKeyExpired", "eventStreamTerminated"):
                self._break(str(kind))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.doubtful.set()

    def _break(self, why: str) -> None:
        self._why = why
        self._broken.set()
