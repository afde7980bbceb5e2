"""News of our orders as OKX tells them: orders and their fills, by one channel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from mmenv.live.venues.news import Ended, News, Paid, Report
from mmenv.live.venues.okx.client import OkxClient
from mmenv.live.venues.okx.requests import OkxRequests
from mmenv.live.venues.user_stream import UserStream


class OkxUserStream(UserStream):
    """See `mmenv.live.venues.user_stream.UserStream`."""

    chatter = ("pong",)
    requests: OkxRequests
    client: OkxClient

    async def address(self) -> tuple[str, Any]:
        return self.client.get_url("orders", "private"), None

    async def log_in(self) -> None:
        client = self.client
        stamp = str(int(client.nonce()) // 1000)
        signed = f"{stamp}GET/users/self/verify".encode()
        signature = client.hmac(signed, client.secret.encode(), hashlib.sha256, "base64")
        who = {"apiKey": client.apiKey, "passphrase": client.password, "timestamp": stamp, "sign": signature}
        await self._say({"op": "login", "args": [who]})
        named = {"instType": client.market.kind, "instId": self.requests.instrument.symbol}
        channels = [{"channel": "orders", **named}, {"channel": "balance_and_position"}]
        for channel in channels:
            await self._say({"op": "subscribe", "args": [channel]})

    async def _say(self, message: dict[str, Any]) -> None:
        """Send, and hear that it is well. Raises `Refusal`."""
        await self.send(message)
        while (found := await self.answer()).get("event") not in (message["op"], "error"):
            pass
        if found["event"] == "error" or found.get("code", "0") != "0":
            raise self.client.heeded(int(found["code"]), str(found["msg"]), 200, {})

    def read(self, message: Any) -> Iterable[News] | None:
        if message.get("event") == "notice":
            # It is to be closed for the service is upgraded.
            return [Ended(str(message.get("msg")))]
        if "event" in message:
            return None
        if message["arg"]["channel"] == "balance_and_position":
            return [Paid() for each in message["data"] if each["eventType"] == "funding_fee"]
        # Whole, so that a message which cannot be read says nothing.
        return list(self._orders(message["data"]))

    def _orders(self, orders: Iterable[dict[str, Any]]) -> Iterator[News]:
        requests = self.requests
        for found in orders:
            if found["instId"] == requests.instrument.symbol:
                traded = found["tradeId"] and float(found["fillSz"] or 0)
                fill = requests.fill(found) if traded else None
                yield requests.not_taken(found) or Report(requests.view(found), fill)
