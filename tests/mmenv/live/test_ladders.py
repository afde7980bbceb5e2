"""Ladders of live desks: on paper to the last byte, within every limit, at a venue order by order."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train.live
from mmenv import ConfigError
from mmenv.data.rows import BUY, SELL
from mmenv.live import journal
from mmenv.live.beginning import check_size, make_setup
from mmenv.live.compare import backtest
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import Journal, Memory, read
from mmenv.live.market_feed import Instrument
from mmenv.live.orders import Ack, Fill
from mmenv.live.plan import Plan
from mmenv.live.relisting import Terms, relisted
from mmenv.live.rerun import check, decisions, recover, to_tape
from mmenv.live.session import Session
from mmenv.live.setup import orders_a_decision
from mmenv.times import SECOND
from tests.helpers.sessions import Wanderer, at_venue, paper, rows, run, setup
from train.live import Chosen
from train.options.desks import Common

pytest.importorskip("hftbacktest")

LADDER = {"quote": {"name": "ladder", "levels": 3, "max_step": 4.0}, "risk": {"order_lots": 5}}
SYMBOL = {"venue": "binance-usdm", "symbol": "BTCUSDT"}
FAR = [-1.0, -0.1, -1.0, -1.0, -1.0, -1.0], [-0.9, 0.1, -0.6, -0.6, 1.0, 1.0]


def climber() -> Wanderer:
    """Ladders near the touch of random steps and shapes."""
    return Wanderer(*map(np.array, FAR), 6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "journal"
    file = Journal(path)
    paper(file, player=climber(), snapshots=0.05, **LADDER)
    file.close()
    return path


def test_a_journal_plays_again_to_the_same_bytes(whole, tmp_path):
    """From its beginning, and after a kill, from a snapshot on, as if nothing had been."""
    check(whole, climber())
    path = tmp_path / "cut"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert journal.newest_snapshot(path).number
    session = recover(path, climber())
    known = sum(len(frame.array()) for frame in read(path) if frame.kind == journal.ROWS)
    run(session, rows()[known:], seed=1)
    session.sink.close()
    for kind in (journal.DECISION, journal.ORDERS, journal.FILLS):
        ours, theirs = (
            [frame.payload for frame in read(file) if frame.kind == kind] for file in (path, whole)
        )
        assert ours == theirs


def test_all_orders_together_stay_within_the_limit(whole):
    made = decisions(whole)
    seen = made["outcome"]
    assert (seen["position_lots"] + seen["bid_open_lots"] <= 10).all()
    assert (seen["position_lots"] - seen["ask_open_lots"] >= -10).all()
    assert seen["bid_fill_lots"].sum() + seen["ask_fill_lots"].sum() > 20
    levels = (made["quotes"].reshape(-1, 2, 3, 2)[..., 1] > 0).sum(axis=2)
    assert {1, 2, 3} <= {*levels.ravel()}


@pytest.mark.parametrize("engine", ["matcher", "hftbacktest"])
def test_a_backtest_does_what_the_session_did(whole, tmp_path, engine):
    found = backtest(whole, to_tape(whole, tmp_path), engine)
    assert found.compared > 100
    assert found.fills > 0


def test_the_order_rate_is_never_passed():
    """Six orders a decision at most: the guard stops before the next could be one too many."""
    sink, limits = Memory(), {"max_orders": 20, "order_window_s": 2.0}
    session = paper(sink, player=climber(), guard=limits, **LADDER)
    assert orders_a_decision(session.setup.config.quote) == 6
    commands = np.concatenate([frame.array() for frame in sink.frames if frame.kind == journal.ORDERS])
    times = commands["time_ns"][commands["lots"] > 0]
    before = np.searchsorted(times, times - 2 * SECOND, side="right")
    count = np.arange(len(times)) - before + 1
    assert 14 < count.max() <= 20


def instrument(**more: Any) -> Instrument:
    """BTCUSDT, where nothing is charged."""
    fees = {"maker_fee_bp": 0.0, "taker_fee_bp": 0.0}
    return Instrument(**SYMBOL, tick_size="0.1", lot_size="0.001", **fees, **more)


def plan(max_orders: int | None = None, **config: Any) -> Plan:
    return Plan(config=setup(**config).config, policy="it", folder=Path(), max_orders=max_orders, **SYMBOL)


def test_a_limit_below_the_orders_of_a_decision_is_refused():
    """Given in a guard, or on the command line, where nothing is asked of a venue before."""
    found = setup(**LADDER)
    guard = GuardConfig(daily_loss=1.0, drawdown=1.0, position_limit=10, max_orders=5)
    for asked in (replace(plan(**LADDER), guard=guard), plan(5, **LADDER)):
        with pytest.raises(ConfigError, match=r"max_orders = 5 .* at least 6, .* 'ladder'"):
            make_setup(asked, instrument(), found.market, 1, (5000, 7000))
    with pytest.raises(ConfigError, match=r"max_orders = 4 .* at least 6"):
        make_setup(plan(**LADDER), instrument(max_orders=4), found.market, 1, (5000, 7000))


@pytest.mark.parametrize(
    ("asked", "venue", "allowed"), [(None, 0, 750), (90, 0, 90), (90, 40, 40), (90, 200, 90)]
)
def test_so_many_orders_as_asked_for_and_the_venue_takes(asked, venue, allowed):
    made = make_setup(plan(asked, **LADDER), instrument(max_orders=venue), setup().market, 1, (5000, 7000))
    assert made.guard.max_orders == allowed


@pytest.mark.parametrize("name", ["spread-skew", "taker", "ladder"])
def test_max_orders_on_the_command_line(name, monkeypatch):
    least = {"spread-skew": 3, "taker": 3, "ladder": 6}[name]
    config = setup(quote={"name": name} | ({"levels": 3} if name == "ladder" else {})).config
    monkeypatch.setattr(train.live, "choose", lambda *_: Chosen(config, "it", Wanderer))
    for given in (None, least, 500):
        for loss in (None, 5.0):
            made, _ = train.live.plan(
                Common(policy="it", max_orders=given, max_loss=loss), **SYMBOL, mode="paper"
            )
            assert made.max_orders == given
    with pytest.raises(ConfigError, match=rf"--max-orders = {least - 1} .* at least {least}, .* '{name}'"):
        train.live.plan(Common(policy="it", max_orders=least - 1), **SYMBOL, mode="paper")


def test_sizes_that_a_venue_refuses():
    """For each level of a ladder, and for a whole market order."""
    window, least = (5000, 7000), instrument(min_lots=2)
    check_size(plan(quote=LADDER["quote"], risk={"order_lots": 6}), least, window)
    with pytest.raises(
        ConfigError, match=r"order_lots = 5 .* for each of 3 levels; give --order-lots 6 or more"
    ):
        check_size(plan(quote=LADDER["quote"], risk={"order_lots": 5}), least, window)
    taker = {"risk": {"order_lots": 2}, "quote": {"name": "taker", "taker_lots": 2}}
    check_size(plan(**taker), least, window)
    with pytest.raises(ConfigError, match=r"quote\.taker_lots = 1 is too small: .* 2 lots or more"):
        check_size(plan(risk=taker["risk"], quote={"name": "taker"}), least, window)


def test_market_orders_keep_their_worth_on_another_grid():
    made = setup(quote={"name": "taker", "taker_lots": 3}, risk={"order_lots": 4})
    finer, _ = relisted(made, Terms("0.01", "0.0001", 1, 0), 0, Decimal(0))
    assert (finer.config.quote.taker_lots, finer.config.risk.order_lots) == (30, 40)
    asked = np.array([[0, 0, a] for a in (-1.0, -0.2, -0.13, 0.0, 0.13, 0.2, 1.0)])
    lots = finer.config.quote.to_lots(asked)
    assert ((lots == 0) == (made.config.quote.to_lots(asked) == 0)).all()
    assert (lots[0], lots[-1]) == (-30, 30)
    assert relisted(made, Terms("0.01", "0.001", 1, 0), 0, Decimal(0))[0].config.quote == made.config.quote
    with pytest.raises(ConfigError, match="taker_lots = 0 is not possible"):
        relisted(made, Terms("0.1", "0.004", 1, 0), 0, Decimal(0))


def live() -> Session:
    """Two levels are quoted, 2 ticks apart, of 1 and 2 lots."""
    quote = {"name": "ladder", "levels": 2, "max_step": 4.0}
    return at_venue(3.0, 3.0, 1.0, 1.0, 1.2, 1.0, quote=quote, risk={"order_lots": 3})


def test_a_venue_tells_of_each_order():
    """One level is filled in part, the others stand: nothing is sent anew, and the limit counts them all."""
    session = live()
    [sent] = session.outbox
    assert sorted(zip(sent.commands["side"], sent.commands["lots"], strict=True)) == [
        (SELL, 1), (SELL, 2), (BUY, 1), (BUY, 2),
    ]  # fmt: skip
    now = session.next_ns - 1
    for command in sent.commands:
        name = session.execution.client_id(int(command["id"]))
        session.hear(Ack(client_id=name, order_id=int(command["id"]), exch_ns=now, local_ns=now))
    far = sent.commands[(sent.commands["side"] == BUY) & (sent.commands["lots"] == 2)][0]
    session.hear(
        Fill(
            client_id=session.execution.client_id(int(far["id"])), order_id=1, trade_id=9, side=BUY,
            tick=int(far["tick"]), lots=1, fee="0", fee_asset="USDT", maker=True, exch_ns=now, local_ns=now,
        )
    )  # fmt: skip
    session.outbox.clear()
    session.tick(session.next_ns)
    assert session.working.position == 1
    assert session.working.open_lots().tolist() == [3, 2]
    assert not session.guard.findings
    moved = [c for out in session.outbox for c in out.commands if c["lots"] and c["tick"] == far["tick"]]
    assert not moved


@pytest.mark.parametrize("word", ["halt", "reduce", "flatten"])
def test_what_a_stopped_desk_sends(word):
    """Nothing; or, holding 2 lots, no more than these to sell, at the touch where it works out of them."""
    session = live()
    session.working.slots[:] = 0
    session.working.position = 2
    session.desk.set("position", 2)
    session.operator(word, "enough", session.next_ns)
    session.outbox.clear()
    session.tick(session.next_ns)
    sent = [command for out in session.outbox for command in out.commands if command["lots"]]
    assert {int(command["side"]) for command in sent} == ({SELL} if word != "halt" else set())
    assert sum(int(command["lots"]) for command in sent) == (2 if word != "halt" else 0)
    if word == "flatten":
        assert [int(c["tick"]) for c in sent] == [int(session.decision["outcome"]["best_ask_ticks"])]
