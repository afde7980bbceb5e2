"""Several symbols in one process: what goes wrong with one stops no other, but for the account's limit."""

from __future__ import annotations

import copy
import io
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hftbacktest")
pytest.importorskip("ccxt")

from rich.console import Console

from mmenv import make_config
from mmenv.checks import ConfigError
from mmenv.engine.state import ACTIVE, HALTED
from mmenv.exchange.books import Listing
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.loopback import Loopback
from mmenv.live.desk import LiveDesk
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import STATE, read
from mmenv.live.plan import Plan
from mmenv.live.rerun import check, decisions
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.market.live import Live
from tests.helpers.commands import neuralmm
from tests.helpers.exchanges import START_NS, on_virtual_time, tape
from tests.helpers.sessions import Wanderer
from train.live import trade
from train.options.desks import Common

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("stores")
    found = [tape(folder, "binance-usdm", seed=seed) for seed in (1, 9)]
    found[1].info = replace(found[1].info, symbol="ETHUSDT")
    return found


def run(
    listed: list[Any], folder: Path, act: Any = None, symbols: tuple[str, ...] = SYMBOLS,
    console: Console | None = None, **common: Any,
) -> list[LiveDesk]:  # fmt: skip
    """Eight seconds of two paper desks; `act` is called with exchange and desks after the fourth. What
    `neuralmm paper` ends with is raised."""
    venue = Exchange([Listing([found]) for found in listed], start_ns=START_NS)
    desks: list[LiveDesk] = []

    async def session(carrier: Loopback) -> None:
        client = carrier.client("binance-usdm")
        clock, timer = carrier.loop.time_ns, carrier.loop.time
        for symbol in symbols:
            live = Live(venue="binance-usdm", symbol=symbol)
            plan = Plan(
                config=make_config(live, risk={"position_limit": 5}), policy="wanderer", folder=folder,
                venue="binance-usdm", symbol=symbol, price_unit=4, lot_unit=20.0, warm_up_s=0.5,
                guard=GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=5),
            )  # fmt: skip
            feed = BinanceFeed(client, symbol)
            desks.append(LiveDesk(plan, Wanderer(), feed, clock=clock, timer=timer))
        if act is not None:
            carrier.loop.call_later(4.0, act, venue, desks)
        options = Common(policy="wanderer", symbol=symbols, seconds=8.0, show=False, **common)
        try:
            await trade(desks, options, console or Console(quiet=True))
        finally:
            await client.close()

    with suppress(ZeroDivisionError):
        on_virtual_time(venue, session)
    return desks


@pytest.fixture(scope="module")
def quiet(listed: list[Any], tmp_path_factory: pytest.TempPathFactory) -> list[LiveDesk]:
    """Two desks of which nothing is wrong."""
    return run(listed, tmp_path_factory.mktemp("quiet"))


def states(desk: LiveDesk) -> set[str]:
    """Rules that have asked for anything."""
    frames = [frame.json() for frame in read(desk.plan.journal) if frame.kind == STATE]
    return {reason.split(":")[0] for content in frames for reason in content["reasons"]}


def test_two_symbols_trade_side_by_side(quiet):
    for desk in quiet:
        made = decisions(desk.plan.journal)
        assert len(made) > 60
        assert (made["state"] == ACTIVE).all()
        assert desk.session.fills > 0
        check(desk.plan.journal, Wanderer())
    assert quiet[0].session.wealth != quiet[1].session.wealth


def go_silent(venue: Exchange, desks: list[LiveDesk]) -> None:
    for connection in venue.connections.open:
        if any("ethusdt" in stream for stream in connection.streams):
            connection.streams.clear()


def break_policy(venue: Exchange, desks: list[LiveDesk]) -> None:
    def step(observation: Any) -> Any:
        raise FloatingPointError("no idea")

    desks[1].player.step = step


def break_desk(venue: Exchange, desks: list[LiveDesk], which: int = 1, text: str = "") -> None:
    def take(rows: Any, now_ns: int) -> Any:
        raise ZeroDivisionError(text)

    desks[which].session.take = take


def break_all(venue: Exchange, desks: list[LiveDesk]) -> None:
    for which, desk in enumerate(desks):
        break_desk(venue, desks, which, f"of {desk.plan.symbol}")


@pytest.mark.parametrize(
    ("act", "rule", "ends"),
    [(go_silent, "stale-data", False), (break_policy, "policy", False), (break_desk, "policy", True)],
)
def test_a_fault_of_one_symbol_leaves_the_other_alone(listed, quiet, tmp_path, act, rule, ends):
    well, ill = run(listed, tmp_path, act)
    assert states(ill) | set(ill.session.guard.latched) == {rule}
    assert states(well) == set()
    theirs = decisions(quiet[0].plan.journal)
    assert decisions(well.plan.journal).tobytes() == theirs.tobytes()
    assert ill.session.guard.state == HALTED
    assert (len(decisions(ill.plan.journal)) < len(theirs)) == ends


def test_the_accounts_limit_halts_all(listed, quiet, tmp_path):
    made = [decisions(desk.plan.journal) for desk in quiet]
    wealth = np.sum([each["wealth"][-60:] for each in made], axis=0)
    fall = float((np.maximum.accumulate(wealth) - wealth).max())
    assert fall > 0
    desks = run(listed, tmp_path, account_loss=fall / 2)
    for desk in desks:
        assert desk.session.state == HALTED
        assert states(desk) == {"operator"}
        assert "the account has lost" in desk.session.guard.reason()
        check(desk.plan.journal, Wanderer())


def test_profits_that_do_not_add_up_have_no_common_limit(listed, tmp_path):
    """No order is sent by a desk whose account's limit cannot be counted."""
    other = copy.copy(listed[1])
    other.info = replace(other.info, symbol="ETHUSDC")
    with pytest.raises(ConfigError, match="in USDC and USDT, which do not add up"):
        run([listed[0], other], tmp_path, symbols=("BTCUSDT", "ETHUSDC"), account_loss=1.0)


def test_a_refusal_is_told_once(listed, tmp_path, monkeypatch, capsys):
    store = listed[0].path.parents[3]
    words = (
        *("paper", "--policy", "fixed-spread", "--parameters", "half_spread", "1", "--no-show"),
        *("--store", str(store), "--symbol", "BTCUSDT", "--warm-up", "0.01", "--journals", str(tmp_path)),
    )
    ended = str(neuralmm(monkeypatch, *words))
    told = " ".join(f"{ended} {''.join(capsys.readouterr())}".split())
    assert told.count("the market was silent while it was measured") == 1


def test_what_the_command_does_not_tell_is_told_beside_the_desk(listed, tmp_path):
    said = io.StringIO()
    run(listed, tmp_path, break_all, console=Console(file=said, width=1_000))
    assert re.findall("(.*) stopped: (.*)", said.getvalue()) == [("ETHUSDT", "ZeroDivisionError: of ETHUSDT")]
