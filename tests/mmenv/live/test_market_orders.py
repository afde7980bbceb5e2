"""Market orders of live desks: on paper to the last byte and unit of money, at a venue as it tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv.data.rows import BUY
from mmenv.live import journal
from mmenv.live.compare import backtest
from mmenv.live.guard import Facts, Guard, GuardConfig
from mmenv.live.journal import Journal, read
from mmenv.live.orders import Ack, Cancel, Fill, Reject, Trouble
from mmenv.live.rerun import check, decisions, recover, setup_of, to_tape
from mmenv.live.session import Session
from mmenv.times import SECOND
from tests.helpers.sessions import Wanderer, at_venue, paper, rows, run

pytest.importorskip("hftbacktest")

TAKER = {
    "quote": {"name": "taker", "taker_lots": 3, "taker_fee_bp": 5.0},
    "risk": {"order_lots": 2, "taker_spacing": 3},
}


def taker() -> Wanderer:
    """Quotes near the touch, and market orders of either side."""
    return Wanderer(np.array([-1.0, -0.5, -1.0]), np.array([-0.8, 0.5, 1.0]), 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "journal"
    file = Journal(path)
    paper(file, player=taker(), snapshots=0.05, **TAKER)
    file.close()
    return path


def test_a_journal_plays_again_to_the_same_bytes(whole, tmp_path):
    """From its beginning, and after a kill, from a snapshot on, as if nothing had been."""
    _, frames = check(whole, taker())
    sent = [frame.number for frame in read(whole) if frame.kind == journal.TAKERS]
    assert frames > sent[-1]
    assert len(sent) > 20
    path = tmp_path / "cut"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert journal.newest_snapshot(path).number
    session = recover(path, taker())
    known = sum(len(frame.array()) for frame in read(path) if frame.kind == journal.ROWS)
    run(session, rows()[known:], seed=1)
    session.sink.close()
    check(path)
    for kind in (journal.DECISION, journal.ORDERS, journal.TAKERS, journal.FILLS):
        ours, theirs = (
            [frame.payload for frame in read(file) if frame.kind == kind] for file in (path, whole)
        )
        assert ours == theirs


def test_money_and_limits(whole):
    """Wealth, from each fill at its own price and fee; market orders keep their distance in time."""
    found, wealth = setup_of(whole), 0.0
    orders = [frame.array() for frame in read(whole) if frame.kind == journal.TAKERS]
    market = {int(number) for some in orders for number in some["id"]}
    times = np.array([int(some["time_ns"][0]) for some in orders])
    assert np.diff(times).min() >= 3 * found.interval_ns
    position, cash, fees, taken = 0, 0, 0.0, 0
    for frame in read(whole):
        if frame.kind == journal.FILLS:
            for fill in frame.array():
                signed = int(fill["side"] * fill["lots"])
                position += signed
                cash -= signed * int(fill["tick"])
                at_market = int(fill["id"]) in market
                taken += at_market
                fees += abs(signed) * int(fill["tick"]) * (5e-4 if at_market else 2e-4)
        elif frame.kind == journal.DECISION:
            made = np.frombuffer(frame.payload, decisions(whole).dtype)[0]
            mid = (made["outcome"]["best_bid_ticks"] + made["outcome"]["best_ask_ticks"]) / 2
            wealth = (cash + position * mid - fees) * 2 * found.money
            assert abs(position) <= found.config.risk.position_limit
            assert made["wealth"] == pytest.approx(wealth, rel=1e-9, abs=1e-9)
    assert taken > 20
    assert wealth != 0


@pytest.mark.parametrize("engine", ["matcher", "hftbacktest"])
def test_a_backtest_does_what_the_session_did(whole, tmp_path, engine):
    found = backtest(whole, to_tape(whole, tmp_path), engine)
    assert found.compared > 100
    assert found.fills > 0


def live() -> Session:
    """One market order is sent, to buy 2."""
    return at_venue(6.0, 6.0, 2, quote={"name": "taker", "taker_lots": 2})


def test_a_venue_tells_what_became_of_it():
    session = live()
    [quotes, market] = session.outbox
    [command] = market.commands
    assert (quotes.at_once, market.at_once, market.reduce_only) == (False, True, False)
    ask = int(session.decision["outcome"]["best_ask_ticks"])
    assert (int(command["side"]), int(command["tick"]), int(command["lots"])) == (BUY, ask, 2)
    name, now = session.execution.client_id(int(command["id"])), session.next_ns - 1
    said = {"client_id": name, "exch_ns": now, "local_ns": now}
    session.hear(Ack(order_id=7, **said))
    session.hear(
        Fill(
            order_id=7, trade_id=9, side=BUY, tick=ask - 1, lots=1, fee="0.3", fee_asset="USDT",
            maker=False, **said,
        )
    )  # fmt: skip
    assert not session.quiet
    session.hear(Cancel(order_id=7, filled_lots=1, expired=True, **said))
    session.tick(session.next_ns)
    assert session.working.position == 1
    assert int(session.decision["outcome"]["bid_fill_lots"]) == 0
    core = session.desk.core
    assert (int(core["taken_bid"][0, 0]), int(core["position"][0, 0])) == (1, 1)
    mid = int(core["mid"][0, 0] - core["move"][0, 0])
    assert float(core["taken_bid_edge"][0, 0]) == mid - 2 * (ask - 1)
    assert not session.guard.findings


def test_one_that_finds_nothing_is_part_of_taking():
    session = live()
    name, now = session.execution.client_id(int(session.outbox[1].commands["id"][0])), session.next_ns - 1
    session.hear(
        Reject(
            client_id=name, exch_ns=0, local_ns=now, code=0, reason="nothing there",
            trouble=str(Trouble.NOTHING_TO_TAKE),
        )
    )  # fmt: skip
    assert session.working.find(int(session.outbox[1].commands["id"][0])) is None
    session.tick(session.next_ns)
    assert not session.guard.findings


def test_a_halted_or_reducing_desk_takes_nothing_but_what_reduces():
    session = live()
    session.operator("halt", "enough", session.next_ns)
    session.outbox.clear()
    session.tick(session.next_ns)
    assert not [out for out in session.outbox if out.at_once]
    session = live()
    session.operator("reduce", "less", session.next_ns)
    session.outbox.clear()
    session.tick(session.next_ns)
    assert not [out for out in session.outbox if out.at_once]  # it would buy, flat


def test_the_order_rate_counts_them():
    """A decision sends three orders at most: the guard stops where the next could be one too many."""
    limits = GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=10, max_orders=10, calm_s=0.0)
    states = []
    for most in (2, 3):
        guard = Guard(limits, most)
        guard.sent(SECOND, 8)
        states.append(guard.check(Facts(time_ns=SECOND)))
    assert states == [1, 2]
