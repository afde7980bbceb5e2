"""The local exchange on loopback: aiohttp carries its requests and streams."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final, Self

from aiohttp import WSMsgType, web

from mmenv.exchange.connections import Connection
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.faults import Fault, Faults
from mmenv.exchange.protocol import ApiError
from mmenv.times import SECOND

BURST: Final = 256
"""Messages sent on one connection before others have their turn."""


class Server:
    """Serves `exchange` until closed; use as an async context manager.

    `POST /faults` makes it misbehave; it is given the fields of a `mmenv.exchange.faults.Fault` as a JSON
    object, times in nanoseconds from now.

    The exchange should begin at about now. Port 0 takes a free one, see `url`.
    """

    def __init__(self, exchange: Exchange, host: str = "127.0.0.1", port: int = 0) -> None:
        self.exchange = exchange
        self.host, self.port = host, port
        self._wakes: dict[Connection, asyncio.Event] = {}
        self._runner: web.AppRunner | None = None
        self._playing: asyncio.Task[None] | None = None
        self._sooner = asyncio.Event()

    @property
    def url(self) -> str:
        """Address for `BinanceClient`."""
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/faults", self._misbehave)
        app.router.add_route("*", "/{path:.*}", self._serve)
        # A half-open connection must not keep a closing server.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._playing = asyncio.create_task(self._play())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._playing is not None:
            self._playing.cancel()
            with suppress(asyncio.CancelledError):
                await self._playing
        self.exchange.connections.cut()
        for wake in self._wakes.values():
            wake.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def advance(self) -> None:
        """Bring the exchange to the present and let the senders run."""
        self.exchange.advance(time.time_ns())
        for connection, wake in self._wakes.items():
            if connection.outbox:
                wake.set()

    async def _play(self) -> None:
        while True:
            self.advance()
            due = self.exchange.next_ns()
            wait = 1.0 if due is None else (due - time.time_ns()) / SECOND
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(wait, 0.001), 1.0)):
                    await self._sooner.wait()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._stream(request)
        body = (await request.read()).decode()
        self.advance()
        fate = self.exchange.gateway.fate()
        if fate.delay_ns:
            await asyncio.sleep(fate.delay_ns / SECOND)
            self.advance()
        if fate.arrives:
            answer = self.exchange.gateway.request(
                request.method,
                request.path,
                request.rel_url.raw_query_string,
                body,
                request.headers.get("X-MBX-APIKEY"),
                fate.reject,
                request.headers,
            )
            self.advance()
            self._sooner.set()
        if not fate.answered:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError
        if fate.delay_ns:
            await asyncio.sleep(fate.delay_ns / SECOND)
        return web.Response(
            status=answer.status, body=answer.body, content_type="application/json", headers=answer.headers
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.advance()
        try:
            url = request.rel_url
            connection = self.exchange.gateway.connect(url.raw_path, url.raw_query_string)
        except ApiError as error:
            return web.json_response(error.body(), status=error.status)
        wake = self._wakes[connection] = asyncio.Event()
        socket = web.WebSocketResponse(compress=False, autoping=True)
        sender = None
        try:
            await socket.prepare(request)
            sender = asyncio.create_task(self._send(socket, connection, wake, request))
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    self.advance()
                    self.exchange.gateway.receive(connection, message.data)
                    wake.set()
        finally:
            self.exchange.connections.close(connection)
            del self._wakes[connection]
            if sender is not None:
                sender.cancel()
        return socket

    async def _send(
        self, socket: web.WebSocketResponse, connection: Connection, wake: asyncio.Event, request: web.Request
    ) -> None:
        with suppress(ConnectionError):
            while True:
                for _ in range(min(len(connection.outbox), BURST)):
                    text = connection.outbox.popleft()
                    if text is None:
                        # As a broken line does: without a goodbye.
                        if request.transport is not None:
                            request.transport.abort()
                        return
                    await socket.send_str(text)
                if connection.outbox:
                    await asyncio.sleep(0)
                    continue
                wake.clear()
                await wake.wait()

    async def _misbehave(self, request: web.Request) -> web.Response:
        try:
            given = await request.json()
            since = time.time_ns() - self.exchange.present.start_ns
            fault = Fault(**given | {"start_ns": since + int(given.get("start_ns", 0))})
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        faults = self.exchange.present.faults
        self.exchange.misbehave(Faults([*faults.faults, fault], seed=len(faults.faults)))
        self._sooner.set()
        return web.json_response({})
