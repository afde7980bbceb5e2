"""Real orders at the local exchange, with faults and kills: `benchmarks.chaos` runs more of the same."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("hftbacktest")
pytest.importorskip("ccxt")

from benchmarks import chaos
from examples.paper import free_port
from mmenv.checks import ConfigError
from mmenv.data.tape import Tape, tapes
from mmenv.engine.state import ACTIVE, HALTED
from mmenv.exchange.faults import Fault, Faults
from mmenv.exchange.loopback import VirtualLoop
from mmenv.live import journal
from mmenv.live.api_key import KEY, SECRET, read_key
from mmenv.live.execution import LiveExecution
from mmenv.live.journal import read
from mmenv.live.orders import Fill, Order
from mmenv.live.rerun import check, decisions, setup_of
from mmenv.live.snapshot import pack, unpack
from mmenv.times import MILLISECOND
from mmenv.venue.view import View
from mmenv.venue.working import Working
from train.journals import leave
from train.live import real_desks
from train.options.desks import Halt, Real

SECRET_TEXT = "the-secret-of-this-account"


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> list[Tape]:
    return tapes(chaos.random_store(tmp_path_factory.mktemp("chaos")), "binance-usdm", chaos.SYMBOL)


@pytest.mark.parametrize(("seed", "seconds"), [(7, 8.0), (13, 8.0), (21, 8.0), (24, 10.0), (69, 10.0)])
def test_books_agree_to_the_last_unit(tape, seed, seconds):
    """Position, cash and open orders as the exchange has them, no order while HALTED but to flatten, no limit
    passed, no flushed frame lost to a kill, and the journal plays again to the same bytes. Seed 7: two fills
    were told after a newer one, and the desk killed before it wrote them down. Seed 24: its own orders are
    reported cancelled before the venue says that they were open. Seed 69: fills that the stream lost are
    asked for and refused, and newer ones told meanwhile."""
    found = chaos.run(tape, seed, seconds)
    assert found.violations == []
    assert found.orders > 10
    assert found.fills > 2


@pytest.mark.parametrize(
    ("venue", "seed"),
    [("binance-usdm", 0), ("binance-usdm", 1), ("binance-usdm", 30024), ("bybit", 2), ("bybit", 4)],
)
def test_books_agree_at_a_venue_as_they_are(tape, venue, seed):
    """Bans, lost user streams, funding, fees in a coin and rebates, thousands of old trades, besides. Seed
    30024: the venue deleverages the position, the user stream is lost just then, and newer fills are told."""
    tape = chaos.spoken(tape[0].path.parents[3], venue)
    found = chaos.run(tape, seed, 10.0, unruly=True)
    assert found.violations == []
    assert found.orders > 10


def test_a_restart_asks_from_before_what_may_be_missing():
    """A newer fill of one order does not say that an older one of another was heard."""
    working = Working(4, position_limit=10)
    execution = LiveExecution(View(100, 2000), working, "s", last_trade=5)
    execution.quote(np.array([1010, 1, 990, 1]), 1)
    fill = {"exch_ns": 2, "local_ns": 3, "order_id": 1, "lots": 1, "fee": "0", "fee_asset": "", "maker": True}
    execution.hear(Fill(client_id="s-2", trade_id=7, side=1, tick=990, **fill))
    assert (execution.last_trade, execution.told_until) == (7, 5)
    execution.hear(Fill(client_id="s-1", trade_id=6, side=-1, tick=1010, **fill))
    assert execution.told_until == 7


def test_both_sides_of_a_trade_with_ourselves_are_booked_once():
    """As often as they are told, a snapshot between them or not."""
    working = Working(4, position_limit=10)
    execution = LiveExecution(View(100, 2000), working, "s", last_trade=5)
    execution.quote(np.array([1000, 3, 990, 3]), 1)
    fill = {"exch_ns": 2, "local_ns": 3, "order_id": 1, "lots": 1, "fee": "0", "fee_asset": "", "maker": True}
    sides = [
        Fill(client_id=f"s-{n}", trade_id=7, side=side, tick=1000, **fill) for n, side in ((1, -1), (2, 1))
    ]
    execution.hear(sides[0])
    kept, _ = unpack(pack({"execution": execution.kept()}))
    execution.restore(kept["execution"])
    for side in (*sides, *sides):
        execution.hear(side)
    assert working.position == 0
    assert working.open_lots().tolist() == [2, 2]
    assert len(execution.collect(4)) == 2


class Calm(chaos.Trial):
    """No faults but those given, no kills."""

    def __init__(self, tape, folder, seconds=6.0, faults=()):
        super().__init__(tape, 1, folder, seconds, kills=0, operator=False)
        self.exchange.misbehave(Faults(faults))
        self.acts = []

    async def make_desk(self, carrier, loop):
        desk = await super().make_desk(carrier, loop)
        for after_s, act in self.acts:
            loop.call_later(after_s, act, desk)
        return desk


def test_halt_file_cancels_all_and_flattens(tape, tmp_path):
    """`neuralmm halt --flatten`: everything is cancelled, then only reducing orders leave, until flat."""
    trial = Calm(tape, tmp_path, seconds=12.0)
    seen = []
    trial.acts = [
        (4.0, lambda desk: leave(Halt(journals=tmp_path, flatten=True, reason="test"))),
        (4.3, lambda desk: seen.append(len(trial.account.open(trial.listing)))),
    ]
    found = trial.run()
    path = trial.desk.plan.journal
    assert found.violations == []
    assert found.flattening > 0
    made = decisions(path)
    held = dict(zip(made["time_ns"].tolist(), made["outcome"]["position_lots"].tolist(), strict=True))
    halted = made["time_ns"][made["state"] == HALTED]
    orders = np.concatenate([f.array() for f in read(path) if f.kind == journal.ORDERS])
    orders = orders[(orders["lots"] > 0) & np.isin(orders["time_ns"], halted)]
    for order in orders:
        assert held[int(order["time_ns"])] * order["side"] < 0
    sent = {f"{setup_of(path).session}-{number}" for number in orders["id"].tolist()}
    assert all(o.reduce_only for o in trial.account.orders.values() if o.client_id in sent)
    assert trial.account.position(trial.listing).lots == 0
    assert seen == [0] or seen == [1]  # at most the first reducing one


def test_a_lost_desk_is_cancelled_by_the_venue(tape, tmp_path):
    """Cancel-on-disconnect: killed and never restarted, it leaves no order behind."""
    trial = Calm(tape, tmp_path)

    async def trade(loop: VirtualLoop) -> None:
        carrier = chaos.Loopback(trial.exchange, loop)
        desk = await trial.make_desk(carrier, loop)
        running = loop.create_task(desk.run())
        await asyncio.sleep(4.0)
        while not trial.account.open(trial.listing):
            await asyncio.sleep(0.01)
        await trial.kill(desk)
        assert running.cancelled()
        assert trial.account.open(trial.listing)
        await asyncio.sleep(desk.plan.countdown_s + 0.1)
        assert not trial.account.open(trial.listing)
        await carrier.close()

    with VirtualLoop(chaos.START_NS) as loop:
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(trade(loop))


def test_an_order_that_is_not_ours_halts(tape, tmp_path):
    """Somebody trades by hand on the same account and symbol."""
    trial = Calm(tape, tmp_path)
    sent = []

    def by_hand(desk):
        order = Order(client_id="by-hand", side=1, tick=5900, lots=1)
        sent.append(asyncio.ensure_future(desk.client.submit(order)))

    trial.acts = [(3.0, by_hand)]
    found = trial.run()
    assert "unknown-order: unknown order by-hand" in found.latched


def test_secrets_are_nowhere(tape, tmp_path, monkeypatch, caplog, capfd):
    """Not in the journal, the messages, the log, the output, nor in what objects show of themselves."""
    caplog.set_level(logging.DEBUG)
    trial = Calm(
        tape,
        tmp_path,
        faults=[
            Fault(kind="reject", start_ns=2_000 * MILLISECOND, duration_ns=500 * MILLISECOND),
            Fault(kind="lose-answer", start_ns=3_000 * MILLISECOND, duration_ns=500 * MILLISECOND),
        ],
    )
    trial.account.secret = SECRET_TEXT
    monkeypatch.setattr(chaos, "Credentials", lambda key, _: Credentials_(key, SECRET_TEXT))
    found = trial.run()
    assert found.orders > 5
    desk = trial.desk
    shown = [*desk.messages, repr(desk.plan), repr(desk.session.setup), caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if SECRET_TEXT in text]
    assert SECRET_TEXT.encode() not in desk.plan.journal.read_bytes()


def Credentials_(key: str, secret: str):
    from mmenv.live.venues.base import Credentials

    found = Credentials(key, secret)
    assert secret not in repr(found)
    return found


def test_keys_come_from_the_environment_or_a_private_file(tmp_path):
    assert read_key(None, {KEY: "a", SECRET: "b"}) == ("a", "b")
    file = tmp_path / "key"
    file.write_text(f"a\n{SECRET_TEXT}\n")
    file.chmod(0o600)
    assert read_key(file, {}) == ("a", SECRET_TEXT)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600") as error:
        read_key(file, {})
    assert SECRET_TEXT not in str(error.value)
    for environment in ({}, {KEY: "a"}):
        with pytest.raises(ConfigError, match=SECRET):
            read_key(None, environment)


async def connect(options: Real) -> None:
    async with real_desks(options):
        pass


def test_real_orders_are_off_unless_all_is_given(tmp_path, monkeypatch):
    given = {"real_orders": True, "position_limit": 1, "order_lots": 1, "max_loss": 1.0}
    monkeypatch.delenv(KEY, raising=False)
    for left_out in given:
        options = Real(policy="fixed-spread", **{k: v for k, v in given.items() if k != left_out})
        with pytest.raises(ConfigError, match=f"--{left_out.replace('_', '-')}"):
            asyncio.run(connect(options))
    with pytest.raises(ConfigError, match="key"):
        asyncio.run(connect(Real(policy="fixed-spread", **given)))


def command_line(tape, folder, *more: str) -> list[str]:
    """`neuralmm paper` on the tape."""
    code = "import sys; sys.argv = ['neuralmm', 'paper', *sys.argv[1:]]; from train.cli import main; main()"
    store = tape[0].path.parents[3]
    command = [sys.executable, "-c", code, "--policy", "fixed-spread", "--parameters", "half_spread", "0.5"]
    command += ["--store", str(store), "--journals", str(folder), "--price-unit", "4", "--lot-unit", "20"]
    return [*command, "--warm-up", "0.5", "--no-show", *more]


def wait_for(true: Callable[[], bool], patience_s: float = 300.0) -> None:
    """Long, because compiling what is not cached takes long."""
    until = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


def said(path) -> list[tuple[str, str]]:
    """Operator commands of a journal, and why."""
    found = [frame.json() for frame in read(path) if frame.kind == journal.OPERATOR]
    return [(content["command"], content["reason"]) for content in found]


def test_signals_the_halt_file_and_prometheus_of_a_real_process(tape, tmp_path):
    """SIGUSR1 halts and stays, `neuralmm halt` too, `--clear` takes both back, SIGTERM halts and ends; what
    Prometheus is told follows."""
    path = tmp_path / f"paper-binance-usdm-{chaos.SYMBOL}.journal"
    port = free_port()

    def metric(name: str) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return -1.0
        found = [line for line in lines if line.startswith(f"neuralmm_{name}" + "{")]
        return float(found[0].split()[-1]) if found else -1.0

    with subprocess.Popen(command_line(tape, tmp_path, "--metrics", str(port))) as process:
        try:
            wait_for(lambda: metric("state") == ACTIVE and metric("rows") > 0)
            process.send_signal(signal.SIGUSR1)
            wait_for(lambda: metric("state") == HALTED)
            leave(Halt(journals=tmp_path, clear=True, reason="first"))
            wait_for(lambda: metric("state") == ACTIVE)
            leave(Halt(journals=tmp_path, reason="second"))
            wait_for(lambda: metric("state") == HALTED)
            assert metric("position_lots") == float(decisions(path)[-1]["outcome"]["position_lots"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    expected = [("halt", "signal SIGUSR1"), ("clear", "first"), ("halt", "second"), ("stop", "SIGTERM")]
    assert said(path) == expected
    check(path)


def test_sigkill_of_a_real_process(tape, tmp_path):
    """`neuralmm paper` killed by the system and started again: it goes on in the same journal, which plays
    again to the same bytes from the first frame to the last. SIGINT ends it in order."""
    path = tmp_path / f"paper-binance-usdm-{chaos.SYMBOL}.journal"
    # Small files: killed and recovered across rotations.
    command = command_line(tape, tmp_path, "--rotate-mb", "0.01")

    def decided() -> int:
        return len(decisions(path)) if path.exists() and path.stat().st_size > len(journal.MAGIC) else 0

    process = subprocess.Popen(command)
    wait_for(lambda: decided() > 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = decided()
    assert before > 0
    process = subprocess.Popen(command)
    wait_for(lambda: decided() > before)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    commands = said(path)
    assert commands[0][0] in ("resume", "restart")
    assert commands[-1] == ("stop", "SIGINT")
    assert len(journal.parts(path)) > 1
    check(path)
    assert json.loads(next(read(path)).payload)["policy"] == "fixed-spread half_spread=0.5"
