"""What every venue's adapter promises, in conversations made after the venue's published specifications."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ccxt.pro", reason="live markets need ccxt")

from mmenv.data.importer import Import
from mmenv.data.rows import BUY, CLEAR, DEPTH, SELL, SNAPSHOT, TRADE
from mmenv.data.tape import tapes
from mmenv.exchange.faults import RequestFate
from mmenv.exchange.loopback import Loopback
from mmenv.live.market_feed import Batch
from mmenv.live.orders import (
    Ack,
    Cancel,
    CancelReject,
    Fill,
    Funding,
    Order,
    Rate,
    Reject,
    Silence,
    Stream,
    Trouble,
    Unknown,
    VenueError,
)
from mmenv.live.venues.base import VENUES
from mmenv.live.venues.feed import StreamFeed
from mmenv.live.venues.orders import VenueOrders
from mmenv.live.venues.shared import SharedVenue
from tests.helpers.captures import write
from tests.helpers.exchanges import SECOND, START_NS, apply, on_virtual_time
from tests.helpers.venues.base import Fake, FakeOrder
from tests.helpers.venues.binance import Coinm, Usdm
from tests.helpers.venues.bybit import Bybit, BybitSpot
from tests.helpers.venues.hyperliquid import Hyperliquid
from tests.helpers.venues.okx import Okx, OkxSwap

FAKES: dict[str, type[Fake]] = {
    fake.venue: fake for fake in (Usdm, Coinm, Bybit, BybitSpot, Okx, OkxSwap, Hyperliquid)
}


@pytest.fixture(params=FAKES)
def fake(request: pytest.FixtureRequest) -> Fake:
    return FAKES[request.param]()


class Desk:
    """Orders at a fake, and all that was heard."""

    def __init__(self, fake: Fake, orders: VenueOrders) -> None:
        self.fake, self.orders = fake, orders
        self.heard: list[Any] = []

    def order(self, number: int = 1, lots: int = 5, **more: Any) -> Order:
        return Order(
            client_id=f"nmm{self.fake.symbol}18c2f3a4b5c-{number}", side=BUY, tick=1000, lots=lots, **more
        )

    async def placed(self, number: int = 1, lots: int = 5) -> FakeOrder:
        """An order that rests."""
        await self.orders.submit(self.order(number, lots))
        await asyncio.sleep(0.05)
        return self.fake.orders[-1]

    def of(self, *kinds: type) -> list[Any]:
        """What was heard of these kinds."""
        return [event for event in self.heard if isinstance(event, kinds)]


@asynccontextmanager
async def trading(carrier: Loopback, fake: Fake) -> AsyncIterator[Desk]:
    """Orders that are open."""
    fake.carry = carrier.advance
    client = carrier.client(fake.venue, fake.credentials)
    kind = VENUES.find(fake.venue)
    assert issubclass(kind, SharedVenue)
    try:
        orders = kind.orderings(client, await client.instrument(fake.symbol))
        desk = Desk(fake, orders)
        await orders.open()

        async def listen() -> None:
            async for event in orders.events():
                desk.heard.append(event)

        task = asyncio.create_task(listen())
        yield desk
        await orders.close()
        await task
    finally:
        await client.close()


def on_desk(fake: Fake, act: Callable[[Desk], Awaitable[None]]) -> Desk:
    """What a desk hears while it acts, and 2 s later."""

    async def session(carrier: Loopback) -> Desk:
        async with trading(carrier, fake) as desk:
            await act(desk)
            await asyncio.sleep(2.0)
        return desk

    return on_virtual_time(fake, session)  # type: ignore[arg-type]


def refused(fake: Fake) -> str:
    """The sentence with which a desk is refused before its first order."""

    async def session(carrier: Loopback) -> str:
        with pytest.raises((VenueError, ValueError)) as error:
            async with trading(carrier, fake):
                pass
        return str(error.value)

    told = on_virtual_time(fake, session)  # type: ignore[arg-type]
    assert not fake.orders
    return told


# Orders.


def test_an_order_is_acknowledged_filled_and_over(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        order = await desk.placed()
        assert [type(event) for event in desk.of(Ack)] == [Ack]
        fake.fill(order, 2, fee="0.07")
        await asyncio.sleep(0.1)
        fake.fill(order, 3, fee="-0.02")

    desk = on_desk(fake, act)
    [ack], fills = desk.of(Ack), desk.of(Fill)
    assert [(fill.side, fill.tick, fill.lots) for fill in fills] == [(BUY, 1000, 2), (BUY, 1000, 3)]
    assert [(Decimal(fill.fee), fill.fee_asset) for fill in fills] == [
        (Decimal("0.07"), fake.quote), (Decimal("-0.02"), fake.quote)
    ]  # fmt: skip
    assert {event.client_id for event in (ack, *fills)} == {desk.order().client_id}
    assert {event.order_id for event in fills} == {ack.order_id}
    assert fills[0].trade_id < fills[1].trade_id
    assert all(fill.maker for fill in fills)
    assert not desk.of(Cancel, Reject, Unknown)
    sent = fake.orders[0]
    assert (sent.buys, Decimal(sent.price), sent.size, sent.post_only) == (True, 100, Decimal("0.005"), True)


def test_a_market_order_takes_what_is_there_and_the_rest_expires(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        await desk.orders.submit(desk.order(post_only=False, at_once=True))
        fake.fill(fake.orders[-1], 2)
        fake.cancel(fake.orders[-1].name)

    desk = on_desk(fake, act)
    [sent], [fill], [end] = fake.orders, desk.of(Fill), desk.of(Cancel)
    assert (sent.at_once, sent.post_only, Decimal(sent.price)) == (True, False, 100)
    assert (fill.lots, end.filled_lots, end.expired) == (2, 2, True)
    assert not desk.of(Reject, Unknown)


def test_a_fill_before_its_acknowledgement_is_told_after_it(fake: Fake) -> None:
    """The stream says both before the answer to the request comes."""

    async def act(desk: Desk) -> None:
        fake.quiet = True
        task = asyncio.create_task(desk.orders.submit(desk.order()))
        await asyncio.sleep(0.0006)
        fake.quiet = False
        fake.fill(fake.orders[-1], 5)
        await task

    desk = on_desk(fake, act)
    kinds = [type(event) for event in desk.of(Ack, Fill, Cancel)]
    assert kinds == [Ack, Fill]


def test_a_post_only_order_that_would_trade_is_part_of_quoting(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        fake.crossing = True
        await desk.orders.submit(desk.order())

    desk = on_desk(fake, act)
    [reject] = desk.of(Reject)
    assert reject.kind == Trouble.CROSSED
    assert not desk.of(Ack, Cancel, Fill)


def test_a_cancelled_order_is_told_once_with_what_it_had_filled(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        order = await desk.placed()
        fake.fill(order, 2)
        await asyncio.sleep(0.05)
        await desk.orders.cancel(desk.order().client_id)

    desk = on_desk(fake, act)
    [cancel] = desk.of(Cancel)
    assert (cancel.filled_lots, cancel.expired) == (2, False)
    assert not desk.of(CancelReject)


def test_all_is_cancelled(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        await desk.placed(1)
        await desk.placed(2)
        assert {order.client_id for order in await desk.orders.open_orders()} == {
            desk.order(1).client_id, desk.order(2).client_id
        }  # fmt: skip
        await desk.orders.cancel_all()
        await asyncio.sleep(0.1)
        assert await desk.orders.open_orders() == []

    assert [event.filled_lots for event in on_desk(fake, act).of(Cancel)] == [0, 0]


def test_what_the_stream_says_twice_or_not_at_all_is_told_once(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        order = await desk.placed()
        trade = fake.fill(order, 2)
        fake.tell(*fake.fill_news(trade))
        await asyncio.sleep(0.01)
        fake.fill(order, 1, told=False)
        await asyncio.sleep(20.0)
        found = await desk.orders.fills(0, [desk.order().client_id])
        assert [(fill.client_id, fill.lots) for fill in found] == [
            (desk.order().client_id, n) for n in (2, 1)
        ]
        assert {fill.trade_id for fill in found} == {fill.trade_id for fill in desk.of(Fill)}

    desk = on_desk(fake, act)
    assert [fill.lots for fill in desk.of(Fill)] == [2, 1]
    assert len(desk.of(Ack)) == 1


def test_a_trade_with_ourselves_is_two_fills(fake: Fake) -> None:
    """Both have the trade's id, and both count, by the stream and by request."""

    async def act(desk: Desk) -> None:
        await desk.placed(1)
        await desk.orders.submit(replace(desk.order(2), side=SELL))
        await asyncio.sleep(0.05)
        for order in fake.orders:
            fake.fill(order, 2, with_last=order.id > fake.orders[0].id)
        await asyncio.sleep(0.1)
        found = await desk.orders.fills(0, [desk.order(n).client_id for n in (1, 2)])
        assert {(fill.client_id, fill.side) for fill in found} == {
            (desk.order(1).client_id, BUY), (desk.order(2).client_id, SELL)
        }  # fmt: skip
        assert len({fill.trade_id for fill in found}) == 1

    assert sorted(fill.side for fill in on_desk(fake, act).of(Fill)) == [SELL, BUY]


def test_a_restart_asks_only_for_what_is_newer(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        order = await desk.placed()
        first = fake.fill(order, 1)
        await asyncio.sleep(0.5)
        fake.fill(order, 1)
        await asyncio.sleep(0.1)
        known = desk.of(Fill)[0].trade_id
        assert first.size == Decimal("0.001")
        found = await desk.orders.fills(known, [])
        assert [fill.trade_id for fill in found] == [desk.of(Fill)[1].trade_id]

    on_desk(fake, act)


def test_an_order_that_never_arrived_is_known_to_be_lost(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        fake.fates.append(RequestFate(arrives=False, answered=False))
        await desk.orders.submit(desk.order())
        await asyncio.sleep(8.0)

    desk = on_desk(fake, act)
    assert len(desk.of(Unknown)) == 1
    [reject] = desk.of(Reject)
    assert reject.kind == Trouble.LOST


def test_an_order_whose_answer_was_lost_is_found(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        fake.quiet = True
        fake.fates.append(RequestFate(answered=False))
        await desk.orders.submit(desk.order())
        await asyncio.sleep(3.0)
        assert len(desk.of(Ack)) == 1

    assert not on_desk(fake, act).of(Reject)


def test_what_the_stream_keeps_to_itself_is_found(fake: Fake) -> None:
    """That an order rests, and that it is cancelled."""

    async def act(desk: Desk) -> None:
        await desk.placed(1)
        fake.quiet = True
        await desk.orders.submit(desk.order(2))
        await desk.orders.cancel(desk.order(1).client_id)
        await asyncio.sleep(20.0)
        assert {event.client_id for event in desk.of(Ack)} == {desk.order(n).client_id for n in (1, 2)}
        assert [event.client_id for event in desk.of(Cancel)] == [desk.order(1).client_id]

    on_desk(fake, act)


def test_there_is_nothing_to_cancel(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        await desk.orders.cancel(desk.order(77).client_id)

    assert [event.client_id for event in on_desk(fake, act).of(CancelReject)] == [
        f"nmm{fake.symbol}18c2f3a4b5c-77"
    ]


@pytest.mark.parametrize("trouble", [Trouble.NO_FUNDS, Trouble.CLOSED, Trouble.BAD_ORDER])
def test_a_refusal_is_understood(fake: Fake, trouble: Trouble) -> None:
    async def act(desk: Desk) -> None:
        fake.refusing["order"] = trouble
        await desk.orders.submit(desk.order())

    desk = on_desk(fake, act)
    [reject] = desk.of(Reject)
    assert reject.kind == trouble
    assert reject.reason


def test_in_a_ban_nothing_is_sent_but_what_shrinks_risk(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        await desk.placed()
        fake.refusing["any"] = Trouble.TOO_OFTEN
        await desk.orders.submit(desk.order(2))
        await asyncio.sleep(0.01)
        [silence] = desk.of(Silence)
        assert silence.until_ns > fake.now_ns + SECOND
        asked = len(fake.requests)
        await desk.orders.submit(desk.order(3))
        assert len(fake.requests) == asked
        fake.refusing.clear()
        await desk.orders.cancel(desk.order(1).client_id)
        await desk.orders.submit(desk.order(4))
        await asyncio.sleep(0.1)

    desk = on_desk(fake, act)
    unsent = [reject.client_id for reject in desk.of(Reject) if reject.kind == Trouble.UNSENT]
    assert len(desk.of(Cancel)) == 1
    # Where a ban is of every request and its end is not said, an answer shows that it is over.
    over = VENUES.find(fake.venue).clients.bans_all  # type: ignore[attr-defined]
    assert over == fake.venue.startswith("bybit")
    assert unsent == [desk.order(number).client_id for number in ((3,) if over else (3, 4))]


def test_a_fee_in_another_coin_is_told_with_its_price(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        fake.fill(await desk.placed(), 5, fee="0.001", asset="COIN")

    desk = on_desk(fake, act)
    [fill], [rate] = desk.of(Fill), desk.of(Rate)
    assert (fill.fee, fill.fee_asset) == ("0.001", "COIN")
    assert (rate.asset, Decimal(rate.price)) == ("COIN", 600)


def test_funding_is_told_once(fake: Fake) -> None:
    if not fake.futures:
        pytest.skip("no funding")

    async def act(desk: Desk) -> None:
        await asyncio.sleep(0.1)
        fake.pay("-0.25")
        await asyncio.sleep(5.0)
        fake.pay("0.5")
        await asyncio.sleep(5.0)
        assert [payment.amount for payment in await desk.orders.funding(START_NS)] == ["-0.25", "0.5"]

    payments = on_desk(fake, act).of(Funding)
    assert [(payment.amount, payment.asset) for payment in payments] == [
        ("-0.25", fake.quote), ("0.5", fake.quote)
    ]  # fmt: skip
    assert len({payment.payment_id for payment in payments}) == 2


def test_a_lost_stream_is_told_and_what_it_missed_before_it_is_back(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        order = await desk.placed()
        fake.cut()
        fake.fill(order, 5, told=False)
        await asyncio.sleep(3.0)

    desk = on_desk(fake, act)
    assert [event.ok for event in desk.of(Stream)] == [True, False, True]
    told = [type(event) for event in desk.of(Stream, Fill)]
    assert told == [Stream, Stream, Fill, Stream]


def test_the_account_is_read(fake: Fake) -> None:
    async def act(desk: Desk) -> None:
        held, terms = await desk.orders.holdings(), await desk.orders.terms()
        assert terms is not None
        assert (round(terms.maker_fee_bp, 9), round(terms.taker_fee_bp, 9)) == (1.0, 6.0)
        assert Decimal(held.balances[fake.quote]) == 1000
        assert (Decimal(held.size), held.owned) == ((0, False) if fake.futures else (2, True))
        assert await desk.orders.fills(await desk.orders.newest_trade(), []) == []

    on_desk(fake, act)


# Before the first order.


def test_a_wrong_key_is_said(fake: Fake) -> None:
    fake.key = "another"
    assert "--testnet" in refused(fake)


def test_no_right_to_trade_is_said(fake: Fake) -> None:
    fake.may_trade = False
    assert "may not trade" in refused(fake)


def test_hedge_mode_is_said(fake: Fake) -> None:
    if not fake.hedges:
        pytest.skip("there is none")
    fake.hedged = True
    assert "hedge mode" in refused(fake)


def test_maintenance_is_said(fake: Fake) -> None:
    fake.refusing["any"] = Trouble.CLOSED
    assert fake.venue in refused(fake)


def test_a_halted_symbol_is_said(fake: Fake) -> None:
    fake.status = "Halted"

    async def session(carrier: Loopback) -> None:
        kind = VENUES.find(fake.venue)
        assert issubclass(kind, SharedVenue)
        client = carrier.client(fake.venue)
        with pytest.raises(VenueError, match=f"{fake.symbol} is not traded now: "):
            await kind.feeds(client, fake.symbol).open()
        await client.close()

    on_virtual_time(fake, session)  # type: ignore[arg-type]


def test_an_unknown_symbol_is_said(fake: Fake) -> None:
    async def session(carrier: Loopback) -> None:
        client = carrier.client(fake.venue)
        with pytest.raises(ValueError, match="symbol = 'NOSUCH'"):
            await client.instrument("NOSUCH")
        await client.close()

    on_virtual_time(fake, session)  # type: ignore[arg-type]


def test_a_testnet_has_addresses_of_its_own(fake: Fake) -> None:
    kind = VENUES.find(fake.venue)
    assert issubclass(kind, SharedVenue)

    async def addresses(testnet: bool) -> tuple[str, str, str]:
        client = kind.clients(kind.market, testnet=testnet, credentials=fake.credentials)
        signed = client.sign("x", ["private"], "POST", {})
        await client.close()
        return client.market_url(0), signed["url"], str(client.headers)

    real, test = (asyncio.run(addresses(testnet)) for testnet in (False, True))
    assert real[0] != test[0]
    assert real[1:] != test[1:]


# Market data.

FIRST = ([("100.0", "1"), ("99.9", "2")], [("100.2", "3"), ("100.3", "0.5")])
NEXT = ([("100.0", "0"), ("99.8", "4")], [("100.2", "2")])
WHOLE = {(1, 999): 2000, (1, 998): 4000, (-1, 1002): 2000, (-1, 1003): 500}


def heard(fake: Fake, say: Callable[[], Awaitable[None]], lines: list[str] | None = None) -> list[Batch]:
    """The batches of a feed to which a fake says something."""

    def keep(local_ns: int, message: bytes) -> None:
        if lines is not None:
            lines.append(f"{local_ns} {message.decode()}")

    async def session(carrier: Loopback) -> list[Batch]:
        kind = VENUES.find(fake.venue)
        assert issubclass(kind, SharedVenue)
        client = carrier.client(fake.venue)
        feed: StreamFeed = kind.feeds(client, fake.symbol, keep=keep)
        found = []

        async def read() -> None:
            async for batch in feed:
                found.append(batch)

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        fake.carry = carrier.advance
        await say()
        await asyncio.sleep(1.0)
        await feed.close()
        await reading
        await client.close()
        return found

    return on_virtual_time(fake, session)  # type: ignore[arg-type]


def book(batches: list[Batch]) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for batch in batches:
        apply(found, batch.rows)
    return found


def test_snapshot_changes_and_trades_are_the_rows_of_the_importer(fake: Fake, tmp_path: Path) -> None:
    async def say() -> None:
        fake.publish(*fake.book(1, True, *FIRST))
        await asyncio.sleep(0.1)
        fake.publish(*fake.deal(1, True, "100.2", "1"))
        fake.publish(*fake.book(2, False, *NEXT), *fake.deal(2, False, "99.9", "0.25"))

    lines: list[str] = []
    batches = heard(fake, say, lines)
    rows = np.concatenate([batch.rows for batch in batches])
    assert batches[-1].live
    assert rows["kind"][0] == CLEAR
    assert {SNAPSHOT, DEPTH, TRADE} <= set(rows["kind"].tolist())
    assert book(batches) == WHOLE
    trades = rows[rows["kind"] == TRADE]
    assert [(t["side"], t["price"], t["size"]) for t in trades] == [(BUY, 1002, 1000), (SELL, 999, 250)]
    assert not [problem for batch in batches for problem in batch.problems]
    kind = VENUES.find(fake.venue)
    path = write(tmp_path / "kept.gz", lines)
    Import(
        kind.format, (path,), tmp_path / "store", strict=True, progress=False, tick_size=fake.tick,
        lot_size=fake.lot_as_sent, clock_offset_ns=0,
    ).run()  # fmt: skip
    [imported] = tapes(tmp_path / "store")
    assert np.concatenate(list(imported.rows())).tobytes() == rows.tobytes()


def test_a_connection_that_is_given_up_while_it_is_made_does_not_stay(fake: Fake) -> None:
    """Nobody is left to read it."""

    async def session(carrier: Loopback) -> None:
        fake.carry = carrier.advance
        client = carrier.client(fake.venue)
        watch = asyncio.ensure_future(client.watch(url := client.market_url(0), "all", {}, "all"))
        await asyncio.sleep(carrier.latency_s / 2)
        await client.hang_up(url)
        await asyncio.sleep(1.0)
        assert watch.done()
        assert not carrier.sockets
        assert not fake.open
        await client.close()

    on_virtual_time(fake, session)  # type: ignore[arg-type]


def test_a_lost_connection_breaks_the_book_until_a_snapshot_mends_it(fake: Fake) -> None:
    async def say() -> None:
        fake.publish(*fake.book(1, True, *FIRST))
        await asyncio.sleep(0.1)
        fake.cut()
        await asyncio.sleep(1.0)
        fake.publish(*fake.book(9, True, [("50", "1")], [("51", "1")]))

    batches = heard(fake, say)
    assert any(not batch.live and "connection lost" in batch.reason for batch in batches[1:])
    assert batches[-1].live
    assert book(batches) == {(1, 500): 1000, (-1, 510): 1000}


def test_a_gap_breaks_the_book_until_a_snapshot_mends_it(fake: Fake) -> None:
    if not fake.numbered:
        pytest.skip("each message is the book whole")

    async def say() -> None:
        fake.publish(*fake.book(1, True, *FIRST))
        await asyncio.sleep(0.1)
        fake.publish(*fake.book(3, False, *NEXT))
        await asyncio.sleep(2.0)
        fake.publish(*fake.book(9, True, [("50", "1")], [("51", "1")]))

    batches = heard(fake, say)
    assert any(not batch.live and "lost" in batch.reason for batch in batches[1:])
    assert batches[-1].live
    assert book(batches) == {(1, 500): 1000, (-1, 510): 1000}


@pytest.mark.parametrize("made", [Okx, OkxSwap])
@pytest.mark.parametrize("between", [False, True])
def test_a_stream_that_begins_without_the_book(made: type[Okx], between: bool, tmp_path: Path) -> None:
    """The book is asked for, at first in vain and then too old, and joined to what has come; it may have been
    taken between two messages. What is kept of it is imported to the same rows."""
    fake = made()

    async def say() -> None:
        first, second = (fake.book(number, False, *NEXT)[0] for number in (2, 3))
        [whole] = fake.book(1, True, *FIRST)[0]["data"]
        fake.publish(first)
        await asyncio.sleep(0.05)
        fake.whole = whole | {"seqId": 1}
        await asyncio.sleep(0.2)
        fake.whole = whole | {"seqId": 4 if between else 3}
        await asyncio.sleep(1.0)
        fake.publish(second, *fake.deal(1, True, "100.2", "1"))

    lines: list[str] = []
    batches = heard(fake, say, lines)
    assert batches[-1].live
    assert book(batches) == WHOLE
    assert not any("connection lost" in batch.reason for batch in batches[1:])
    rows = np.concatenate([batch.rows for batch in batches])
    path = write(tmp_path / "kept.gz", lines)
    Import(
        "okx", (path,), tmp_path / "store", progress=False, tick_size=fake.tick, lot_size=fake.lot_as_sent,
        clock_offset_ns=0,
    ).run()  # fmt: skip
    [imported] = tapes(tmp_path / "store")
    assert np.concatenate(list(imported.rows())).tobytes() == rows.tobytes()
