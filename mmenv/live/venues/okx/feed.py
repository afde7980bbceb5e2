"""OKX's market data as it happens: the book's levels and trades of a symbol over one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from mmenv.data.formats.okx import Okx
from mmenv.live.throttle import TooOften
from mmenv.live.venues.client import RETRY_S, BaseError
from mmenv.live.venues.feed import FormatFeed
from mmenv.live.venues.okx.client import OkxClient

LEVELS: Final = "400"
"""Of the book that is asked for, a side: as many as the stream has."""
RECENT: Final = 2_000
"""Messages kept while the book is not whole."""


class OkxFeed(FormatFeed):
    """See `mmenv.live.venues.feed.FormatFeed`.

    The stream may begin without the whole book (https://www.okx.com/docs-v5/log_en/, 12 February 2026). It is
    then asked for, and what has come since is heard again after it.
    """

    importer = Okx
    client: OkxClient
    chatter = ("pong",)

    def __init__(self, client: OkxClient, symbol: str, **more: Any) -> None:
        self._recent: deque[str | bytes] = deque(maxlen=RECENT)
        super().__init__(client, symbol, **more)

    def subscriptions(self) -> Sequence[dict[str, Any]]:
        channels = [{"channel": name, "instId": self.symbol} for name in ("books", "trades")]
        return ({"op": "subscribe", "args": channels},)

    def received(self, text: str | bytes) -> None:
        super().received(text)
        if not self._reason:
            self._recent.clear()
        elif text not in self.chatter:
            self._recent.append(text)

    def mend(self, urgent: bool) -> None:
        """See `StreamFeed.mend`; the connection begins anew only where the book was asked for in vain."""
        if not self.unfounded or self._clock() > self._due_ns:
            super().mend(urgent)
        else:
            self.ask_for_book()

    def _broke(self, reason: str) -> None:
        self._recent.clear()
        super()._broke(reason)

    async def _synchronise(self) -> None:
        """Ask for the book until it joins on to what has come."""
        for pause in RETRY_S:
            await asyncio.sleep(pause)
            with suppress(BaseError, TooOften):
                [book] = await self.client.ask("market/books", {"instId": self.symbol, "sz": LEVELS})
                if not self._reason:
                    return
                for message in self._joined(book):
                    text, local_ns = orjson.dumps(message), self._clock()
                    if self._keep is not None:
                        self._keep(local_ns, text)
                    self._decode(local_ns, text)
                if not self._reason:
                    return

    def _joined(self, book: dict[str, Any]) -> list[dict[str, Any]]:
        """The book as the stream words it, and the changes since; empty where one between is not known."""
        at = int(book["seqId"])
        argument = {"channel": "books", "instId": self.symbol}
        found = [{"arg": argument, "action": "snapshot", "data": [book | {"prevSeqId": -1}]}]
        for text in self._recent:
            with suppress(ValueError):
                message = orjson.loads(text)
                if message.get("action") != "update" or int(message["data"][0]["seqId"]) <= at:
                    continue
                [change] = message["data"]
                if int(change["prevSeqId"]) > at:
                    return []
                # The first may have begun before the book was taken.
                change["prevSeqId"], at = at, int(change["seqId"])
                found.append(message)
        return found
