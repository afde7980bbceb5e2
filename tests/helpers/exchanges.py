"""Local exchanges for tests: stores of random markets, sessions on a virtual clock, and the true books."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import numpy as np
import orjson

from mmenv.data.importer import Import
from mmenv.data.rows import BUY, CLEAR, DEPTH, SNAPSHOT
from mmenv.data.tape import Tape, tapes
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.faults import Faults
from mmenv.exchange.loopback import Loopback, VirtualLoop
from mmenv.exchange.playback import Playback
from mmenv.live.venues.base import Credentials
from tests.helpers.captures import market, write

START_NS = 1_800_000_000_000_000_000
SECOND = 1_000_000_000
KEY = Credentials("key", "secret")
VENUES = ("binance-usdm", "binance-spot")
Levels = dict[tuple[int, int], int]
T = TypeVar("T")


def tape(folder: Path, venue: str, seconds: float = 20.0, seed: int = 1, volatile: float = 0.3) -> Tape:
    """A random market in a store of its own."""
    sent = market(seconds=seconds, seed=seed, venue=venue.removeprefix("binance-"), volatile=volatile)
    path = write(folder / f"{venue}-{seed}.gz", sent.lines)
    Import("binance", (path,), folder / f"store-{venue}-{seed}", strict=True, progress=False).run()
    [found] = tapes(folder / f"store-{venue}-{seed}")
    return found


def exchange(found: Tape, faults: Faults | None = None, start_ns: int = START_NS) -> Exchange:
    """An exchange of one symbol and one well-funded account."""
    account = Account(KEY.key, KEY.secret, balances={"BTC": Decimal(100), "USDT": Decimal(1_000_000)})
    return Exchange([Listing([found])], start_ns=start_ns, accounts=[account], faults=faults)


def on_virtual_time(
    venue: Exchange, session: Callable[[Loopback], Awaitable[T]], latency_s: float = 0.0005
) -> T:
    """Run a session against the exchange in this process."""
    with VirtualLoop(START_NS) as loop:
        asyncio.set_event_loop(loop)
        try:
            carrier = Loopback(venue, loop, latency_s)

            async def whole() -> T:
                try:
                    return await session(carrier)
                finally:
                    await carrier.close()

            return loop.run_until_complete(whole())
        finally:
            asyncio.set_event_loop(None)
            gc.collect()


def books(found: Tape) -> dict[int, Levels]:
    """The true book after each update of the tape."""
    playback = Playback([found])
    book: Levels = {}
    history = {}
    for message in playback.play(np.iinfo(np.int64).max):
        if getattr(message, "kind", None) == DEPTH:
            apply(book, message.rows)
            history[message.id] = dict(book)
    return history


def apply(book: Levels, rows: Any) -> None:
    """Book rows onto a plain dictionary."""
    for row in rows:
        if row["kind"] == CLEAR:
            book.clear()
        elif row["kind"] in (DEPTH, SNAPSHOT):
            key = 1 if row["side"] == BUY else -1, int(row["price"])
            if row["size"]:
                book[key] = int(row["size"])
            else:
                book.pop(key, None)


def ask(venue: Exchange, method: str, path: str, **params: Any) -> tuple[int, Any]:
    """One signed request at the exchange's present."""
    query = urlencode(params | {"timestamp": venue.present.clock_ms})
    signature = hmac.new(KEY.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
    answer = venue.gateway.request(method, path, f"{query}&signature={signature}", key=KEY.key)
    return answer.status, orjson.loads(answer.body)
