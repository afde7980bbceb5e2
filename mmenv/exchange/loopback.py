"""The local exchange in the same process, on a virtual clock: whole sessions in milliseconds, deterministic.

    with VirtualLoop(start_ns) as loop:
        loop.run_until_complete(session(Loopback(exchange, loop)))

The clients are the real ones. Only the carrier of ccxt's requests and streams is replaced, and the event
loop's clock: when nothing can run, it jumps to the next timer instead of waiting.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any, Final, Self
from urllib.parse import urlsplit

import ccxt
from aiohttp import WSMessage, WSMsgType

from mmenv.exchange.connections import Connection
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.protocol import ApiError
from mmenv.live.throttle import Throttle
from mmenv.live.venues.base import VENUES, Credentials
from mmenv.live.venues.client import VenueClient
from mmenv.live.venues.shared import SharedVenue
from mmenv.times import SECOND

ADDRESS: Final = "http://exchange"
KEYS: Final = ("X-MBX-APIKEY", "X-BAPI-API-KEY", "OK-ACCESS-KEY")
"""Headers in which venues are told the key."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when everything waits for it.

    `time_ns` shows `start_ns` at first. `run_*` raise RuntimeError when everything waits and no timer is set:
    nothing could ever happen.
    """

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._passed = 0.0
        super().__init__(_Jump(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def time(self) -> float:
        """Seconds since the start."""
        return self._passed

    def let_pass(self, seconds: float) -> None:
        """Move the clock on."""
        self._passed += seconds

    def time_ns(self) -> int:
        """Nanoseconds since 1970; the clock for feeds and clients."""
        return self._start_ns + round(self._passed * SECOND)


class _Jump(selectors.SelectSelector):
    """Lets the time pass instead of waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("everything waits and no timer is set: the session would hang for ever")
        # Never less than a nanosecond: a timer must be reached.
        self._loop.let_pass(max(timeout, 1e-9))
        return []


class Loopback:
    """Carries requests and streams between an exchange and its clients in this process.

    All follow the clock of `loop`, at whose present the exchange must begin; a request, an answer or a
    message takes `latency_s`.
    """

    def __init__(self, exchange: Exchange, loop: VirtualLoop, latency_s: float = 0.0005) -> None:
        self.exchange, self.loop, self.latency_s = exchange, loop, latency_s
        self.sockets: list[_Socket] = []
        self.throttles: dict[str, Throttle] = {}
        """By venue, as the clients of one process share them."""
        self._playing = loop.create_task(self._play())
        self._sooner = asyncio.Event()

    def client(self, venue: str, credentials: Credentials | None = None, **more: Any) -> Any:
        """A client of `venue` at this exchange."""
        kind = VENUES.find(venue)
        assert issubclass(kind, SharedVenue)
        clock = self.loop.time_ns
        throttle = self.throttles.setdefault(venue, Throttle(clock))
        make: Any = kind.clients
        client = _carried(make)(
            kind.market, url=ADDRESS, credentials=credentials, clock=clock, throttle=throttle, **more
        )
        client.carrier = self
        return client

    async def close(self) -> None:
        """Stop playing."""
        self._playing.cancel()
        with suppress(asyncio.CancelledError):
            await self._playing

    def advance(self) -> None:
        """Bring the exchange to the present and deliver what it sent."""
        self.exchange.advance(self.loop.time_ns())
        for socket in list(self.sockets):
            socket.deliver()
        self._sooner.set()

    async def _play(self) -> None:
        while True:
            self.advance()
            due = self.exchange.next_ns()
            wait = 3600.0 if due is None else (due - self.loop.time_ns()) / SECOND
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait, 1e-6)):
                    await self._sooner.wait()


class _Socket:
    """What ccxt takes for an aiohttp websocket."""

    _conn = None

    def __init__(self, carrier: Loopback, connection: Connection) -> None:
        self.closed = False
        self._carrier, self._connection = carrier, connection
        self._arrived: asyncio.Queue[WSMessage] = asyncio.Queue()
        # Timers of the same moment fire in any order; the messages must not.
        self._incoming: deque[WSMessage] = deque()
        self._outgoing: deque[str] = deque()
        carrier.sockets.append(self)

    def deliver(self) -> None:
        outbox = self._connection.outbox
        while outbox:
            text = outbox.popleft()
            message = WSMessage(WSMsgType.CLOSE, 1006, None)
            if text is not None:
                message = WSMessage(WSMsgType.TEXT, text, None)
            self._incoming.append(message)
            self._carrier.loop.call_later(self._carrier.latency_s, self._arrive)

    def _arrive(self) -> None:
        self._arrived.put_nowait(self._incoming.popleft())

    async def receive(self) -> WSMessage:
        return await self._arrived.get()

    async def send_str(self, text: str) -> None:
        self._outgoing.append(text)
        self._carrier.loop.call_later(self._carrier.latency_s, self._reach)

    def _reach(self) -> None:
        text = self._outgoing.popleft()
        self._carrier.advance()
        if not self._connection.closed:
            self._carrier.exchange.gateway.receive(self._connection, text)
            self._carrier.advance()

    async def ping(self) -> None:
        self._arrived.put_nowait(WSMessage(WSMsgType.PONG, b"", None))

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._arrived.put_nowait(WSMessage(WSMsgType.CLOSED, None, None))
            self._carrier.exchange.connections.close(self._connection)
            self._carrier.sockets.remove(self)


@cache
def _carried(kind: Any) -> Any:
    return type(f"Loopback{kind.__name__}", (_LoopbackClient, kind), {})


class _LoopbackClient(VenueClient):
    """Before a venue's client: carries what that one sends."""

    carrier: Loopback

    def open(self, lazy: bool = False) -> None:
        """No sockets, so no sessions to open."""
        self.asyncio_loop = self.carrier.loop
        self.throttler.loop = self.carrier.loop

    def client(self, url: str) -> Any:
        """A connection whose socket is in this process."""
        connection = super().client(url)
        connection.create_connection = lambda session: self._connect(url)
        return connection

    async def _connect(self, url: str) -> _Socket:
        await asyncio.sleep(self.carrier.latency_s)
        self.carrier.advance()
        parts = urlsplit(url)
        try:
            connection = self.carrier.exchange.gateway.connect(parts.path, parts.query)
        except ApiError as error:
            raise ConnectionRefusedError(error.text) from None
        return _Socket(self.carrier, connection)

    async def fetch(
        self,
        url: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: str | None = None,
    ) -> Any:
        """One request, as ccxt's own `fetch` but for the carrier."""
        carrier, gateway, parts = self.carrier, self.carrier.exchange.gateway, urlsplit(url)
        await asyncio.sleep(carrier.latency_s)
        carrier.advance()
        fate = gateway.fate()
        if fate.delay_ns:
            await asyncio.sleep(fate.delay_ns / SECOND)
            carrier.advance()
        if fate.arrives:
            key = next((value for name, value in (headers or {}).items() if name in KEYS), None)
            answer = gateway.request(
                method, parts.path, parts.query, body or "", key, fate.reject, headers or {}
            )
            carrier.advance()
        if not fate.answered:
            await asyncio.sleep(self.timeout / 1000)
            raise ccxt.RequestTimeout(f"{self.id} {method} {url}")
        await asyncio.sleep(carrier.latency_s + fate.delay_ns / SECOND)
        text = answer.body.decode()
        found = self.parse_json(text)
        self.on_rest_response(answer.status, "", url, method, answer.headers, text)
        self.handle_errors(answer.status, "", url, method, answer.headers, text, found, headers, body)
        self.handle_http_status_code(answer.status, "", url, method, text)
        return found
