"""The local exchange: its protocol as ccxt sees it, its matching, its books; orders through its faults."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ccxt.pro", reason="live markets need ccxt")

import ccxt.pro
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data.events import open_replay
from mmenv.data.rows import BUY, SELL
from mmenv.data.tape import Tape
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.faults import Fault, Faults
from mmenv.exchange.loopback import Loopback
from mmenv.exchange.server import Server
from mmenv.exchange.spot import locked
from mmenv.live.orders import Ack, AnyEvent, Cancel, Fill, Order, Reject, Silence, Stream, Trouble, VenueError
from mmenv.live.venues.base import Credentials
from mmenv.live.venues.binance.client import local_urls
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.live.venues.binance.orders import BinanceOrders
from mmenv.venue.matcher import ACTIVE, CANCELLED, EXPIRED, FILLED, PARTIALLY_FILLED
from tests.helpers.exchanges import KEY, SECOND, START_NS, VENUES, ask, exchange, on_virtual_time, tape

ROOT = {"binance-usdm": "/fapi/v1/", "binance-spot": "/api/v3/"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tape]:
    folder = tmp_path_factory.mktemp("stores")
    return {venue: tape(folder, venue) for venue in VENUES}


def order(venue: Exchange, side: str, tick: int, lots: int, **more: Any) -> tuple[int, Any]:
    """A limit order at once; `tick` counts from the best price of its own side, away from the other."""
    [(name, symbol)] = venue.listings
    listing = venue.listings[name, symbol]
    best = int(listing.playback.matcher.best[0 if side == "BUY" else 1])
    at = best - tick if side == "BUY" else best + tick
    params = {"symbol": symbol, "side": side, "type": "LIMIT", "timeInForce": "GTC"}
    params |= {"quantity": lots * listing.lot, "price": at * listing.tick} | more
    if params["type"] == "MARKET":
        del params["price"], params["timeInForce"]
    return ask(venue, "POST", f"{ROOT[name]}order", **params)


def check_books(venue: Exchange) -> None:
    """What the account has is what it began with and its trades, to the last unit."""
    [account] = venue.accounts.values()
    [listing] = venue.listings.values()
    value = sum(
        (t.order.side * t.tick * t.lots * listing.tick * listing.lot for t in account.trades), Decimal(0)
    )
    fees = sum((trade.fee for trade in account.trades), Decimal(0))
    lots = sum(trade.order.side * trade.lots for trade in account.trades)
    if listing.venue == "binance-usdm":
        position = account.position(listing)
        assert position.lots == lots
        assert account.wallet - position.cost == 1_000_000 - value - fees
        assert position.lots or position.cost == 0
    else:
        assert account.balances["BTC"] == 100 + lots * listing.lot
        assert account.balances["USDT"] == 1_000_000 - value - fees
        assert all(0 <= locked(account, asset) <= total for asset, total in account.balances.items())
    for placed in account.orders.values():
        assert placed.filled == sum(trade.lots for trade in account.trades if trade.order is placed)
        resting = placed.slot is not None
        assert resting == (placed.status in ("NEW", "PARTIALLY_FILLED"))
        if resting:
            assert (
                venue.listings[listing.venue, listing.symbol].playback.matcher.orders["left"][placed.slot]
                == placed.left
            )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_books_balance_whatever_is_asked(recorded: dict[str, Tape], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(VENUES))
    venue = exchange(recorded[name])
    venue.advance(START_NS + SECOND)
    [account] = venue.accounts.values()
    for _ in range(data.draw(st.integers(1, 25))):
        venue.advance(venue.present.now_ns + data.draw(st.integers(0, SECOND // 2)))
        act = data.draw(st.sampled_from(["limit", "limit", "limit", "market", "cancel", "all", "reduce"]))
        side, lots = data.draw(st.sampled_from(["BUY", "SELL"])), data.draw(st.integers(1, 60))
        before = account.position(venue.listings[name, "BTCUSDT"]).lots
        if act == "limit":
            force = data.draw(st.sampled_from(["GTC", "GTX", "IOC", "FOK"]))
            kind = {"timeInForce": force} if force != "GTX" or name == VENUES[0] else {"type": "LIMIT_MAKER"}
            order(venue, side, data.draw(st.integers(-4, 3)), lots, **kind)
        elif act == "market":
            order(venue, side, 0, lots, type="MARKET")
        elif act == "reduce":
            kind = {"type": "MARKET"} if data.draw(st.booleans()) else {}
            status, _ = order(venue, side, data.draw(st.integers(-1, 2)), lots, reduceOnly="true", **kind)
            assert status == 400 or before * (1 if side == "BUY" else -1) < 0
        elif act == "cancel" and account.orders:
            number = data.draw(st.sampled_from(sorted(account.orders)))
            ask(venue, "DELETE", f"{ROOT[name]}order", symbol="BTCUSDT", orderId=number)
        elif act == "all":
            path = "allOpenOrders" if name == VENUES[0] else "openOrders"
            ask(venue, "DELETE", f"{ROOT[name]}{path}", symbol="BTCUSDT")
            assert not account.open()
        check_books(venue)
    for trade, after in zip(account.trades, itertools.accumulate(
        trade.order.side * trade.lots for trade in account.trades), strict=True):  # fmt: skip
        if trade.order.reduce_only:
            # It never opens: the position before it was larger, on the other side.
            assert (after - trade.order.side * trade.lots) * trade.order.side <= -trade.lots


def test_orders_fill_as_in_hftbacktest(recorded: dict[str, Tape]) -> None:
    """The same orders at the same times, here by REST and there in the backtest."""
    crosscheck = pytest.importorskip("benchmarks.crosscheck", reason="hftbacktest is not installed")
    from mmenv.venue.settings import ReplayConfig

    found = recorded["binance-usdm"]
    replay = open_replay(found, 0)
    latency = SECOND // 100
    actions = crosscheck.random_actions(replay, 300, latency, np.random.default_rng(0))
    config = ReplayConfig(order_latency_ns=latency, feed_latency_ns=0)
    theirs = crosscheck.by_hftbacktest(replay, actions, config)
    venue = exchange(found)
    [account] = venue.accounts.values()
    [listing] = venue.listings.values()
    account.wallet = Decimal(10**12)
    first = listing.playback.first_ns
    rejected: dict[int, int] = {}
    for act in actions:
        venue.advance(START_NS + int(act["time_ns"]) + latency - first)
        if act["lots"]:
            status, _ = ask(
                venue, "POST", "/fapi/v1/order", symbol="BTCUSDT",
                side="BUY" if act["side"] == BUY else "SELL", type="LIMIT", timeInForce="GTX",
                quantity=int(act["lots"]) * listing.lot,
                price=int(act["tick"]) * listing.tick, newClientOrderId=f"o-{act['order']}",
            )  # fmt: skip
            if status != 200:
                rejected[int(act["order"])] = venue.present.now_ns - START_NS + first
        else:
            name = f"o-{act['order']}"
            ask(venue, "DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId=name)
    venue.advance(START_NS + 60 * SECOND)
    placed = {made.client_id: made for made in account.orders.values()}
    codes = {"NEW": ACTIVE, "PARTIALLY_FILLED": PARTIALLY_FILLED, "FILLED": FILLED, "CANCELED": CANCELLED}
    for number, their in enumerate(theirs):
        made = placed.get(f"o-{number}")
        if made is None:
            assert (int(their["status"]), int(their["time_ns"])) == (EXPIRED, rejected[number])
            continue
        mine = codes[made.status], made.left, made.updated_ns - START_NS + first
        assert mine == (int(their["status"]), int(their["left"]), int(their["time_ns"])), number
    assert (theirs["fill_tick"] > 0).sum() > 50


def test_requests_are_checked(recorded: dict[str, Tape]) -> None:
    venue = exchange(recorded["binance-usdm"])
    venue.advance(START_NS + SECOND)
    stamp = venue.present.clock_ms

    def code(query: str, key: str | None = KEY.key, path: str = "account") -> int:
        answer = venue.gateway.request("GET", f"/fapi/v2/{path}", query, key=key)
        return int(orjson.loads(answer.body).get("code", 0))

    assert code(f"timestamp={stamp}&signature=0") == -1022
    assert code(f"timestamp={stamp}&signature=0", key="nobody") == -2015
    assert code(f"timestamp={stamp}", key=None) == -2015
    assert ask(venue, "GET", "/fapi/v2/account")[0] == 200
    for late in (-6_000, 2_000):
        assert ask(venue, "GET", "/fapi/v2/account", timestamp=stamp)[0] == 200
        venue.present.faults.add(
            Fault(kind="clock-jump", start_ns=0, duration_ns=10**12, amount_ns=-late * 10**6)
        )
        assert _at(venue, stamp) == -1021
        venue.present.faults.faults.clear()
    assert order(venue, "BUY", 1, 5, quantity="0.0005")[1]["code"] == -1013
    assert order(venue, "BUY", 1, 5, symbol="NONE")[1]["code"] == -1121
    assert order(venue, "BUY", -3, 5, timeInForce="GTX")[1]["code"] == -5022
    assert order(venue, "BUY", 3, 5, newClientOrderId="twice")[0] == 200
    assert order(venue, "BUY", 3, 5, newClientOrderId="twice")[1]["code"] == -4116
    assert order(venue, "BUY", 3, 10**9)[1]["code"] == -2019
    assert order(venue, "BUY", 3, 5, reduceOnly="true")[1]["code"] == -2022
    wait = ask(venue, "POST", "/fapi/v1/countdownCancelAll", symbol="BTCUSDT", countdownTime=1000)
    assert wait[0] == 200
    [account] = venue.accounts.values()
    venue.advance(venue.present.now_ns + SECOND - 1)
    assert account.open()
    venue.advance(venue.present.now_ns + 1)
    assert not account.open()


def _at(venue: Exchange, stamp: int) -> int:
    query = f"timestamp={stamp}"
    signature = hmac.new(KEY.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
    answer = venue.gateway.request("GET", "/fapi/v2/account", f"{query}&signature={signature}", key=KEY.key)
    return int(orjson.loads(answer.body)["code"])


@pytest.mark.parametrize("name", VENUES)
def test_ccxt_trades_here_unchanged_but_for_the_address(recorded: dict[str, Tape], name: str) -> None:
    """ccxt's own classes and calls, over sockets."""

    async def session() -> None:
        venue = exchange(recorded[name], start_ns=time.time_ns())
        async with Server(venue) as server:
            spot = name == "binance-spot"
            client = (ccxt.pro.binance if spot else ccxt.pro.binanceusdm)(
                {"apiKey": KEY.key, "secret": KEY.secret}
            )
            client.urls["api"] = local_urls(server.url)
            symbol = "BTC/USDT" if spot else "BTC/USDT:USDT"
            try:
                await trade(client, symbol, venue)
            finally:
                await client.close()

    async def trade(client: Any, symbol: str, venue: Exchange) -> None:
        [account] = venue.accounts.values()
        book = await client.watch_order_book(symbol)
        bid, ask_price = book["bids"][0][0], book["asks"][0][0]
        assert bid < ask_price
        assert len(await client.watch_trades(symbol)) > 0
        watched = asyncio.ensure_future(client.watch_orders(symbol))
        await asyncio.sleep(0)
        while not any(found.account for found in venue.connections.open):
            await asyncio.sleep(0.01)
        made = await client.create_order(
            symbol, "limit", "buy", 0.01, bid - 2, {"postOnly": True, "clientOrderId": "mine"}
        )
        [heard] = await watched
        assert (heard["id"], heard["clientOrderId"], heard["status"]) == (made["id"], "mine", "open")
        [standing] = await client.fetch_open_orders(symbol)
        assert (standing["price"], standing["amount"]) == (bid - 2, 0.01)
        bought = await client.create_order(symbol, "market", "buy", 0.02)
        assert (bought["status"], bought["filled"]) == ("closed", 0.02)
        cancelled = await client.cancel_order(made["id"], symbol)
        assert cancelled["status"] == "canceled"
        assert not account.open()
        mine = await client.fetch_my_trades(symbol)
        assert sum(found["amount"] for found in mine) == pytest.approx(0.02)
        balance = await client.fetch_balance()
        if symbol.endswith(":USDT"):
            [position] = [found for found in await client.fetch_positions() if found["contracts"]]
            assert (position["contracts"], position["side"]) == (0.02, "long")
            assert balance["USDT"]["total"] == pytest.approx(float(account.wallet), abs=50)
        else:
            assert balance["BTC"]["total"] == 100.02
            assert balance["USDT"]["total"] == float(account.balances["USDT"])
        with pytest.raises(ccxt.OrderNotFound):
            await client.cancel_order(made["id"], symbol)
        check_books(venue)

    asyncio.run(session())


def trading(venue: Exchange, seed: int) -> list[AnyEvent]:
    """Orders at random for a while, all cancelled, then time for the truth; every event."""
    rng = np.random.default_rng(seed)
    [(name, symbol)] = venue.listings
    listing = venue.listings[name, symbol]
    heard: list[AnyEvent] = []

    async def session(carrier: Loopback) -> None:
        client = carrier.client(name, KEY)
        while True:
            try:
                orders = BinanceOrders(client, await client.instrument(symbol))
                break
            except VenueError:
                await asyncio.sleep(0.5)
        await orders.open()

        async def listen() -> None:
            async for event in orders.events():
                heard.append(event)

        listening = asyncio.create_task(listen())
        tasks, live = [], []
        number = itertools.count()
        while carrier.loop.time() < 14.0:
            await asyncio.sleep(0.1)
            side = int(rng.choice((BUY, SELL)))
            best = int(listing.playback.matcher.best[0 if side == BUY else 1])
            made = Order(
                client_id=f"t-{next(number)}",
                side=side,
                tick=best + side * int(rng.integers(-2, 2)),
                lots=int(rng.integers(1, 30)),
                kind="market" if rng.random() < 0.1 else "limit",
                post_only=bool(rng.random() < 0.8),
            )
            live.append(made.client_id)
            tasks.append(asyncio.create_task(orders.submit(made)))
            if len(live) > 4:
                tasks.append(asyncio.create_task(orders.cancel(live.pop(0))))
        await asyncio.gather(*tasks)
        while True:
            try:
                await orders.cancel_all()
                break
            except VenueError:
                await asyncio.sleep(1.0)
        await asyncio.sleep(25.0)
        [account] = venue.accounts.values()
        assert await orders.open_orders() == []
        held = await orders.holdings()
        if name == "binance-usdm":
            assert Decimal(held.size) == account.position(listing).lots * listing.lot
            assert Decimal(held.balances["USDT"]) == account.wallet
        else:
            assert Decimal(held.balances["USDT"]) == account.balances["USDT"]
        await orders.close()
        await listening

    on_virtual_time(venue, session)
    return heard


@pytest.mark.parametrize("name", VENUES)
@pytest.mark.parametrize("seed", range(6))
def test_no_order_and_no_fill_is_lost_through_any_faults(
    recorded: dict[str, Tape], name: str, seed: int
) -> None:
    """Seed 0 has no faults; the others have eight of random kind, time and severity."""
    venue = exchange(recorded[name], Faults.random(seed, 14 * SECOND, count=8) if seed else None)
    heard = trading(venue, seed)
    [account] = venue.accounts.values()
    check_books(venue)
    fills = [event for event in heard if isinstance(event, Fill)]
    told = sorted((f.trade_id, f.client_id, f.tick, f.lots, f.side, Decimal(f.fee), f.maker) for f in fills)
    assert told == [
        (t.id, t.order.client_id, t.tick, t.lots, t.order.side, t.fee, t.maker) for t in account.trades
    ]
    placed = {made.client_id: made for made in account.orders.values()}
    names = {event.client_id for event in heard if not isinstance(event, (Stream, Silence))}
    assert placed.keys() <= names
    for client_id in names:
        mine = [event for event in heard if event.client_id == client_id]
        kinds = [type(event) for event in mine if isinstance(event, (Ack, Reject, Fill, Cancel))]
        filled = sum(event.lots for event in mine if isinstance(event, Fill))
        made = placed.get(client_id)
        if made is None:
            assert kinds == [Reject]
        else:
            assert kinds[0] is Ack
            assert kinds.count(Ack) == 1
            assert filled == made.filled
            ended = kinds.count(Cancel) + (filled == made.lots)
            assert ended == 1
            assert kinds[-1] is (Fill if filled == made.lots else Cancel)
    if not seed:
        assert len(fills) > 20
        assert not any(isinstance(event, Reject) and event.trouble == Trouble.LOST for event in heard)


def test_a_schedule_of_faults_happens_the_same_way_twice(recorded: dict[str, Tape]) -> None:
    first, second = (
        trading(exchange(recorded["binance-usdm"], Faults.random(7, 14 * SECOND, count=10)), 7)
        for _ in range(2)
    )
    assert first == second
    assert len({type(event) for event in first}) >= 4


def test_a_restarted_client_hears_of_what_it_missed(recorded: dict[str, Tape]) -> None:
    """Fills since a trade id, open orders by name; and a wrong key is refused at once."""
    venue = exchange(recorded["binance-usdm"])

    async def session(carrier: Loopback) -> None:
        await asyncio.sleep(1.0)
        carrier.advance()
        for number in range(3):
            order(venue, "BUY", 0, 4, type="MARKET", newClientOrderId=f"old-{number}")
        order(venue, "BUY", 9, 7, newClientOrderId="standing")
        client = carrier.client("binance-usdm", KEY)
        orders = BinanceOrders(client, await client.instrument("BTCUSDT"))
        await orders.open()
        [account] = venue.accounts.values()
        missed = await orders.fills(account.trades[0].id, ("old-1", "never-sent"))
        assert [fill.trade_id for fill in missed] == [trade.id for trade in account.trades[1:]]
        ours = {trade.id for trade in account.trades if trade.order.client_id == "old-1"}
        assert {fill.trade_id for fill in missed if fill.client_id == "old-1"} == ours != set()
        assert {fill.client_id for fill in missed} == {"old-1", ""}
        [standing] = await orders.open_orders()
        assert (standing.client_id, standing.lots, standing.side) == ("standing", 7, BUY)
        assert await orders.cancel_after(2.0)
        await orders.cancel("standing")
        await orders.close()
        heard = [event async for event in orders.events()]
        assert [type(event) for event in heard if event.client_id == "standing"] == [Ack, Cancel]
        assert not any(isinstance(event, Fill) for event in heard)
        wrong = carrier.client("binance-usdm", Credentials("key", "wrong"))
        stranger = BinanceOrders(wrong, orders.instrument)
        with pytest.raises(VenueError, match="-1022"):
            await stranger.open()

    on_virtual_time(venue, session)


def test_several_symbols_share_a_client(recorded: dict[str, Tape], tmp_path: Path) -> None:
    """Two feeds, one connection each, one REST client."""
    other = tape(tmp_path, "binance-usdm", seed=9)
    other.info = replace(other.info, symbol="ETHUSDT")
    venue = Exchange(
        [Listing([recorded["binance-usdm"]]), Listing([other])],
        start_ns=START_NS,
        accounts=[Account("key", "secret")],
    )

    async def session(carrier: Loopback) -> dict[str, int]:
        client = carrier.client("binance-usdm")
        feeds = [BinanceFeed(client, symbol) for symbol in ("BTCUSDT", "ETHUSDT")]
        seen = dict.fromkeys(("BTCUSDT", "ETHUSDT"), 0)

        async def read(feed: BinanceFeed) -> None:
            async for batch in feed:
                assert not batch.problems
                seen[batch.symbol] += batch.live * len(batch.rows)

        reading = [asyncio.create_task(read(feed)) for feed in feeds]
        await asyncio.sleep(5.0)
        for feed in feeds:
            await feed.close()
        await asyncio.gather(*reading)
        return seen

    seen = on_virtual_time(venue, session)
    assert min(seen.values()) > 500


def test_spot_has_no_orders_that_only_reduce(recorded: dict[str, Tape]) -> None:
    """One that asks for it is refused, and leaves no trace in the account."""
    venue = exchange(recorded["binance-spot"])
    venue.advance(START_NS + SECOND)
    assert order(venue, "BUY", 1, 5, reduceOnly="true")[1]["code"] == -2022
    [account] = venue.accounts.values()
    assert not account.positions
    assert not account.orders
