"""News of our orders as Bybit tells them: orders and executions, by topics of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from mmenv.live.venues.bybit.client import BybitClient
from mmenv.live.venues.bybit.requests import BybitRequests
from mmenv.live.venues.news import News, Paid, Report
from mmenv.live.venues.user_stream import UserStream

TOPICS: Final = ("order", "execution")
LOGIN_MS: Final = 10_000
"""For so long what says who we are may be used."""


class BybitUserStream(UserStream):
    """See `mmenv.live.venues.user_stream.UserStream`."""

    requests: BybitRequests
    client: BybitClient

    async def address(self) -> tuple[str, Any]:
        return self.client.stream_url("private", "contract"), None

    async def log_in(self) -> None:
        client = self.client
        until = int(client.nonce()) + LOGIN_MS
        signature = client.hmac(
            f"GET/realtime{until}".encode(), client.secret.encode(), hashlib.sha256, "hex"
        )
        await self._say({"op": "auth", "args": [client.apiKey, until, signature]})
        await self._say({"op": "subscribe", "args": list(TOPICS)})

    async def _say(self, message: dict[str, Any]) -> None:
        """Send, and hear that it is well. Raises `Refusal`."""
        await self.send(message)
        while (found := await self.answer()).get("op") != message["op"]:
            pass
        if not found["success"]:
            code = found.get("retCode") or found.get("ret_code") or 0
            # What is wrong with a key is told without a code.
            code = int(code) or (10003 if message["op"] == "auth" else 0)
            raise self.client.heeded(code, str(found.get("ret_msg") or found.get("retMsg")), 200, {})

    def read(self, message: Any) -> Iterable[News] | None:
        topic = message.get("topic")
        if topic is None:
            return () if message.get("op") in ("pong", "ping") else None
        mine = (
            found
            for found in message["data"]
            if found["symbol"] == self.requests.instrument.symbol
            and found["category"] == self.client.market.category
        )
        # Whole, so that a message which cannot be read says nothing.
        return list(self._orders(mine) if topic == "order" else self._executions(mine))

    def _orders(self, orders: Iterable[dict[str, Any]]) -> Iterator[News]:
        for found in orders:
            yield self.requests.not_taken(found) or Report(self.requests.view(found))

    def _executions(self, executions: Iterable[dict[str, Any]]) -> Iterator[News]:
        for found in executions:
            if found["execType"] == "Funding":
                yield Paid()
            else:
                yield self.requests.fill(found)
