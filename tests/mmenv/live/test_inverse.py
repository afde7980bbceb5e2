"""Contracts that are paid in coin: the desk's books are an account's own, counted here in exact fractions."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ccxt")

from mmenv import make_config
from mmenv.engine.state import ACTIVE
from mmenv.exchange.loopback import Loopback
from mmenv.live import journal
from mmenv.live.compare import backtest
from mmenv.live.desk import LiveDesk
from mmenv.live.execution import LiveExecution
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import Journal, Memory, read
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Ack, Cancel, Fill, Funding
from mmenv.live.plan import Plan
from mmenv.live.relisting import Terms, terms_of
from mmenv.live.rerun import check, decisions, recover, to_tape
from mmenv.live.session import Session
from mmenv.live.setup import Setup
from mmenv.live.venues.base import VENUES
from mmenv.live.venues.shared import SharedVenue
from mmenv.market.live import Live
from mmenv.venue.working import FILL
from tests.helpers.desks import Fixed
from tests.helpers.exchanges import KEY, on_virtual_time
from tests.helpers.sessions import Wanderer, rows, run, setup
from tests.helpers.venues.binance import Coinm

TICK, LOT = Fraction(1, 10), Fraction(100)
FEE = Fraction(2, 10_000)


def inverse(**given: Any) -> Setup:
    """The session of the helpers on contracts of 100 dollars."""
    return replace(setup(**given), lot_size="100", inverse=True)


class Account:
    """What the venue holds for us, from its formula alone: contracts bought at e and sold at x have earned
    their dollars times 1/e - 1/x; fees and funding come and go in coin."""

    def __init__(self) -> None:
        self.position, self.cash, self.capture = 0, Fraction(0), Fraction(0)

    def fill(self, side: int, lots: int, price: Fraction, fee: Fraction, mid: Fraction) -> None:
        """`mid` is the price at the decision before."""
        self.position += side * lots
        self.cash += side * lots * LOT / price - fee
        self.capture += side * lots * LOT * (1 / price - 1 / mid)

    def wealth(self, mid: Fraction) -> float:
        return float(self.cash - self.position * LOT / mid)


def mid_of(made: np.void, tick: Fraction = TICK) -> Fraction:
    outcome = made["outcome"]
    return int(outcome["best_bid_ticks"] + outcome["best_ask_ticks"]) * tick / 2


def text(amount: Fraction) -> str:
    return f"{Decimal(amount.numerator) / amount.denominator:f}"


def audit(path: Path) -> Account:
    """The account of a paper journal; each decision's profit is compared on the way."""
    account, mid, at = Account(), Fraction(0), iter(decisions(path))
    for frame in read(path):
        if frame.kind == journal.FILLS:
            for fill in np.frombuffer(frame.payload, FILL):
                side, lots, price = int(fill["side"]), int(fill["lots"]), int(fill["tick"]) * TICK
                account.fill(side, lots, price, FEE * lots * LOT / price, mid)
        elif frame.kind == journal.DECISION:
            made = next(at)
            mid = mid_of(made)
            assert made["wealth"] == pytest.approx(account.wealth(mid), rel=1e-9, abs=1e-12)
    return account


def test_a_paper_desk_earns_what_the_contracts_pay(tmp_path: Path) -> None:
    """At every decision; the parts add up, it is killed and goes on, plays again, and its tape gives the
    backtest's bytes."""
    path = tmp_path / "journal"
    file = Journal(path)
    session = run(Session(inverse(), Wanderer(), file), rows(), snapshots=0.05)
    file.close()
    assert session.fills > 5
    account = audit(path)
    terms = session.episodes.terms
    assert terms[0] == pytest.approx(float(account.capture), rel=1e-9)
    assert session.wealth == pytest.approx(terms[:3].sum() - terms[3], rel=1e-12)
    assert session.setup.currency == "BTC"
    check(path, Wanderer())
    again = recover(path, Wanderer())
    assert again.wealth == session.wealth
    again.sink.close()  # type: ignore[union-attr]
    tape = to_tape(path, tmp_path / "store")
    assert tape.info.contract == "inverse"
    found = backtest(path, tape, "matcher")
    assert (found.compared, found.why) == (len(decisions(path)), "")


def answer(session: Session, account: Account, random: np.random.Generator, tick: Fraction, loss: int) -> int:
    """The venue's part: all is acknowledged, cancelled, and now and then filled, lot by lot, at prices that
    are not the orders' but worse by `loss` ticks in the mean, so that nothing but the fills themselves can be
    right; how many fills."""
    execution, mid, count = session.execution, mid_of(session.decision, tick), 0
    assert isinstance(execution, LiveExecution)
    for command in (command for outgoing in session.outbox for command in outgoing.commands):
        number, side = int(command["id"]), int(command["side"])
        slot = session.working.find(number)
        told = {"client_id": execution.client_id(number), "exch_ns": 0, "local_ns": session.next_ns}
        if slot is None:
            continue
        if not command["lots"]:
            filled = int(slot["filled"])
            session.hear(Cancel(**told, order_id=number, filled_lots=filled, expired=False))
            continue
        session.hear(Ack(**told, order_id=number))
        for _ in range(int(random.integers(0, command["lots"]))):
            count += 1
            at = int(command["tick"]) + side * loss + int(random.integers(-30, 31))
            fee = Fraction(int(random.integers(-20, 90)), 10**9)
            account.fill(side, 1, at * tick, fee, mid)
            session.hear(
                Fill(
                    **told, order_id=number, trade_id=10 * number + count % 10, side=side, tick=at, lots=1,
                    fee=text(fee), fee_asset="BTC", maker=True,
                )
            )  # fmt: skip
    session.outbox.clear()
    return count


@pytest.mark.parametrize(("seed", "limit", "loss"), [(0, 0.02, 20), (1, 1.0, 0), (2, 1.0, 0)])
def test_a_live_desk_counts_fills_fees_and_funding_in_coin(seed: int, limit: float, loss: int) -> None:
    """Fills at several prices between two decisions, rebates, funding either way; the ticks are halved in the
    middle while the price jumps. It halts at the decision at which the coin lost reaches the limit."""
    random, account, tick = np.random.default_rng(seed), Account(), TICK
    made = inverse(mode="live", guard={"daily_loss": limit, "drawdown": 9.0}, risk={"order_lots": 3})
    session = Session(replace(made, base="USD", quote="BTC"), Wanderer(), Memory())
    session.feed(True, "")
    again = rows().copy()
    span = int(again["local_ns"][-1] - again["local_ns"][0])
    for name in ("local_ns", "exch_ns"):
        again[name] += span + 1
    again["price"] *= 2
    fills, halted = 0, False
    for number, part in enumerate([*np.array_split(rows(), 400), *np.array_split(again, 400)]):
        if number == 380:
            session.unlist("its terms change")
        if number == 400:
            session.relist(Terms(text(tick / 2), "100", 1, 0))
            session.feed(True, "")
            tick /= 2
        due = session.next_ns
        session.take(part)
        if session.next_ns == due or not session.view.known:
            continue
        mid = mid_of(session.decision, tick)
        assert session.wealth == pytest.approx(account.wealth(mid), rel=1e-9, abs=1e-12)
        halted |= session.wealth <= -limit
        assert ("daily-loss" in session.guard.latched) == halted
        fills += answer(session, account, random, tick, loss)
        if random.random() < 0.05:
            amount = Fraction(int(random.integers(-50, 50)), 10**8)
            account.cash += amount
            paid = {"client_id": "", "exch_ns": 0, "local_ns": 0, "payment_id": session.next_ns}
            session.hear(Funding(**paid, asset="BTC", amount=text(amount)))
    assert halted == (limit < 1.0)
    assert fills > (20 if halted else 200)
    execution = session.execution
    assert isinstance(execution, LiveExecution)
    charges = execution.charges
    cash = -execution.paid - charges.fees["BTC"] + charges.funding["BTC"]
    assert float(Fraction(cash) - account.cash) == pytest.approx(0, abs=1e-22)
    assert session.working.position == account.position


def test_an_order_of_contracts_is_worth_the_same_at_any_price() -> None:
    """So the venue's smallest value is a smallest size."""
    perpetual = Instrument(
        "binance-coinm", "BTCUSD_PERP", "0.1", "100", 1.0, 5.0, base="BTC", quote="USD", inverse=True,
        min_notional="250", contract_size="100",
    )  # fmt: skip
    assert terms_of(perpetual) == Terms("0.1", "100", 3, 0)


def test_a_desk_at_coinm(tmp_path: Path) -> None:
    """It begins with the contracts that are held, is filled, killed while another fill comes, and begun
    again: its books are the venue's, in coin, and nothing is latched."""
    fake = Coinm()
    fake.held = Decimal("0.003")
    limits = GuardConfig(daily_loss=1.0, drawdown=1.0, position_limit=50)
    live = Live(venue=fake.venue, symbol=fake.symbol)
    plan = Plan(
        config=make_config(live, maker_fee_bp=1.0, risk={"position_limit": 50, "order_lots": 5}),
        policy="fixed", folder=tmp_path, venue=fake.venue, symbol=fake.symbol, mode="live", price_unit=4,
        lot_unit=20.0, warm_up_s=0.5, guard=limits,
    )  # fmt: skip

    clients: list[Any] = []

    async def publish() -> None:
        fake.publish(*fake.book(1, True, [("100.0", "1")], [("100.2", "1")]))
        for number in itertools.count(2):
            await asyncio.sleep(0.05)
            bids = [("100.0", f"0.{number % 7 + 1}")]
            fake.publish(*fake.book(number, False, bids, []))
            fake.snapshot = number, bids, [("100.2", "1")]
            fake.publish(*fake.deal(number, bool(number % 2), "100.1", "0.01"))

    async def desk_of(carrier: Loopback) -> LiveDesk:
        client, market = carrier.client(fake.venue, KEY), carrier.client(fake.venue)
        clients.extend((client, market))
        kind = VENUES.find(fake.venue)
        assert issubclass(kind, SharedVenue)
        orders = kind.orderings(client, await client.instrument(fake.symbol))
        feed = kind.feeds(market, fake.symbol)
        return LiveDesk(plan, Fixed(-0.9), feed, orders, clock=carrier.loop.time_ns, timer=carrier.loop.time)

    async def session(carrier: Loopback) -> LiveDesk:
        fake.carry = carrier.advance
        publishing = asyncio.create_task(publish())
        for start in range(2):
            desk = await desk_of(carrier)
            running = asyncio.create_task(desk.run())
            await asyncio.sleep(3.0)
            assert desk.session is not None
            assert desk.session.state == ACTIVE, desk.messages
            bought = next(order for order in reversed(fake.orders) if order.open and order.buys)
            fake.fill(bought, 2, fee="0.0000002")
            await asyncio.sleep(0.5)
            if start == 0:
                fake.fill(bought, 1, fee="0.0000001", told=False)
                await desk.kill()
                assert isinstance(desk.session.sink, Journal)
                desk.session.sink.close()
            else:
                desk.stop("end")
                await running
        publishing.cancel()
        for client in clients:
            await client.close()
        return desk

    desk = on_virtual_time(fake, session)  # type: ignore[arg-type]
    made = desk.session
    assert made is not None
    assert set(made.guard.latched) == {"stop"}
    assert (made.setup.base, made.setup.quote, made.setup.lot_size) == ("USD", "BTC", "0.1")
    assert made.setup.position == 3
    sold = sum(int(trade.size * 1000) for trade in fake.trades if not trade.order.buys)
    assert made.working.position == 3 + sum(int(trade.size * 1000) for trade in fake.trades) - 2 * sold == 8
    fees = sum(Decimal(trade.fee) for trade in fake.trades)
    cash = sum(trade.size * 100 / Decimal(trade.price) for trade in fake.trades) - fees
    assert isinstance(made.execution, LiveExecution)
    assert made.execution.charges.fees == {"BTC": fees}
    assert float(-made.execution.paid - fees) == pytest.approx(float(cash), rel=1e-20)
