"""The local exchange as Bybit: market data through its faults, and ccxt's own calls."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ccxt.pro", reason="live markets need ccxt")

import ccxt.pro

from benchmarks.chaos import spoken
from mmenv.data.rows import DEPTH, SNAPSHOT, TRADE
from mmenv.data.tape import Tape
from mmenv.exchange.faults import STREAM, Fault, Faults
from mmenv.exchange.loopback import Loopback
from mmenv.exchange.server import Server
from mmenv.live.market_feed import Batch
from mmenv.live.venues.bybit.feed import BybitFeed
from tests.helpers.exchanges import SECOND, Levels, apply, books, exchange, on_virtual_time, tape


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    found = tape(tmp_path_factory.mktemp("stores"), "binance-usdm")
    [said] = spoken(found.path.parents[3], "bybit")
    return said


def listen(found: Tape, seconds: float, faults: Faults | None = None) -> list[Batch]:
    """All batches of the only symbol."""

    async def session(carrier: Loopback) -> list[Batch]:
        client = carrier.client("bybit")
        feed = BybitFeed(client, "BTCUSDT")
        heard: list[Batch] = []

        async def read() -> None:
            async for batch in feed:
                heard.append(batch)

        reading = asyncio.create_task(read())
        await asyncio.sleep(seconds)
        await feed.close()
        await reading
        await client.close()
        return heard

    return on_virtual_time(exchange(found, faults), session)


@pytest.mark.parametrize("kind", [None, *STREAM, "break"])
def test_a_book_called_live_is_the_exchanges(recorded: Tape, kind: str | None) -> None:
    """Whatever happens to the messages; and once it is over the book is live again."""
    faults = Faults(
        [
            Fault(
                kind=kind, start_ns=3 * SECOND, duration_ns=2 * SECOND, amount_ns=SECOND // 5,
                probability=1.0 if kind in ("silence", "break") else 0.2,
            )
        ]
        if kind is not None
        else [],
        seed=3,
    )  # fmt: skip
    batches = listen(recorded, 19.0, faults)
    truth = [frozenset(book.items()) for book in books(recorded).values()]
    book: Levels = {}
    checked = broken = 0
    for batch in batches:
        apply(book, batch.rows)
        if batch.live and np.isin(batch.rows["kind"], (SNAPSHOT, DEPTH)).any():
            assert frozenset(book.items()) in truth
            checked += 1
        broken += checked > 0 and not batch.live
    assert checked > 100
    assert batches[-1].live
    rows = np.concatenate([batch.rows for batch in batches])
    assert (rows["kind"] == TRADE).sum() > 100
    if kind in ("drop", "reorder", "half", "break"):
        assert broken
    elif kind is None:
        assert not broken


def test_ccxt_trades_here_unchanged_but_for_the_address(recorded: Tape) -> None:
    """ccxt's own class and calls, over sockets."""

    async def session() -> dict[str, Any]:
        async with Server(exchange(recorded, start_ns=time.time_ns())) as server:
            client = ccxt.pro.bybit({"apiKey": "key", "secret": "secret"})
            for name in ("public", "private"):
                client.urls["api"][name] = server.url
            try:
                time_ms = await client.fetch_time()
                answer = await client.privateGetV5AccountWalletBalance({"accountType": "UNIFIED"})
                asked = {"category": "linear", "symbol": "BTCUSDT"}
                placed = await client.privatePostV5OrderCreate(
                    asked | {"side": "Buy", "orderType": "Limit", "qty": "0.001", "price": "50000"}
                )
                return {"time": time_ms, "wallet": answer, "placed": placed}
            finally:
                await client.close()

    said = asyncio.run(session())
    assert said["time"] > 0
    [account] = said["wallet"]["result"]["list"]
    assert Decimal(account["coin"][0]["walletBalance"]) == 1_000_000
    assert said["placed"]["retMsg"] == "OK"
