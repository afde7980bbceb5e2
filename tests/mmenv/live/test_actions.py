"""Every action from a bundle to a venue: its orders placed, kept and cancelled as the desk says, money to the
last unit, through broken connections and limits of orders, and a journal that plays again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hftbacktest")
pytest.importorskip("ccxt")

from mmenv import make_config
from mmenv.data.rows import BUY, SELL
from mmenv.data.tape import Tape
from mmenv.live import journal
from mmenv.live.compare import backtest
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import read
from mmenv.live.rerun import check, decisions, setup_of, to_tape
from mmenv.market.live import Live
from mmenv.times import SECOND
from policies.bundle import save
from tests.helpers.bundles import random_bundle
from tests.helpers.desks import Runs
from tests.helpers.exchanges import VENUES, tape
from train.live import Chosen, choose
from train.options.bundles import Verify
from train.verify import main as verify

ACTIONS: dict[str, dict[str, Any]] = {
    "ladder": {"quote": {"name": "ladder", "levels": 3, "max_step": 2.0}, "risk": {"order_lots": 9}},
    "taker": {"quote": {"name": "taker", "taker_lots": 3}, "risk": {"order_lots": 4, "taker_spacing": 3}},
    "size": {"quote": {"name": "size"}, "risk": {"order_lots": 5}},
    "touch": {"quote": {"name": "touch"}, "risk": {"order_lots": 4}},
    "touch-taker": {"quote": {"name": "touch-taker", "taker_threshold": 0.15}, "risk": {"order_lots": 4}},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tape]:
    folder = tmp_path_factory.mktemp("stores")
    return {venue: tape(folder, venue) for venue in VENUES}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A verified bundle of each action, made for the simulated book."""
    folder, found = tmp_path_factory.mktemp("bundles"), {}
    for name, settings in ACTIONS.items():
        risk = settings["risk"] | {"position_limit": 20, "daily_loss_limit": 1e9}
        near = (
            {} if name.startswith("touch") else {"max_half_spread": 6.0, "max_skew": 6.0, "max_distance": 8.0}
        )
        config = make_config("book", horizon=100, quote=settings["quote"] | near, risk=risk)
        found[name] = folder / f"{name}.mmz"
        save(random_bundle(config, 0.0 if name.startswith("touch") else -0.95), found[name])
        verify(Verify(bundle=found[name]))
    return found


def chosen(bundle: Path, venue: str) -> Chosen:
    """What `neuralmm live --policy BUNDLE` takes of it."""
    return choose(str(bundle), {}, Live(venue=venue, symbol="BTCUSDT"), None, None)


@dataclass
class Sent:
    """An order of ours in a journal."""

    side: int
    tick: int
    lots: int
    filled: int = 0
    unwanted: bool = False
    """Whether a decision since has not asked for it."""
    cancelled: bool = False


def wanted(quotes: np.ndarray) -> Counter[tuple[int, int, int]]:
    """Side, tick and lots of each quote of a decision."""
    found: Counter[tuple[int, int, int]] = Counter()
    for side, row in zip((SELL, BUY), quotes.reshape(2, -1, 2), strict=True):
        found.update((side, int(tick), int(lots)) for tick, lots in row if lots)
    return found


def story(path: Path) -> tuple[dict[int, Sent], dict[int, Sent], int]:
    """The orders of a journal by number, its market orders, and how often an order was kept.

    Each is what a quote of its decision asks for, no quote has two of them, and none is cancelled that every
    decision has asked for.
    """
    orders: dict[int, Sent] = {}
    takers: dict[int, Sent] = {}
    made, kept, paper = decisions(path), 0, setup_of(path).mode == "paper"
    asked: Counter[tuple[int, int, int]] = Counter()
    rounds = iter(made)
    for frame in read(path):
        if frame.kind == journal.FILLS and paper:
            for fill in frame.array():
                (orders | takers)[int(fill["id"])].filled += int(fill["lots"])
        elif frame.kind == journal.DECISION:
            asked = wanted(next(rounds)["quotes"])
            for order in orders.values():
                left = order.lots - order.filled
                if order.unwanted or not left:
                    continue
                same = [k for k in {(order.side, order.tick, n) for n in (order.lots, left)} if asked[k] > 0]
                order.unwanted = not same
                kept += bool(same)
                asked.subtract(same[:1])
        elif frame.kind == journal.ORDERS:
            for command in frame.array():
                number, lots = int(command["id"]), int(command["lots"])
                if lots == 0:
                    assert orders[number].unwanted
                    assert not orders[number].cancelled
                    orders[number].cancelled = True
                    continue
                quote = int(command["side"]), int(command["tick"]), lots
                assert asked[quote] > 0
                asked[quote] -= 1
                orders[number] = Sent(*quote)
        elif frame.kind == journal.TAKERS:
            for command in frame.array():
                takers[int(command["id"])] = Sent(*(int(command[k]) for k in ("side", "tick", "lots")))
        elif frame.kind == journal.OPERATOR and frame.json()["command"] in ("resume", "reopen"):
            for order in orders.values():
                order.unwanted = True
        elif frame.kind == journal.UPDATE and (told := frame.json())["type"] in ("Reject", "Cancel", "Fill"):
            order = (orders | takers)[int(told["client_id"].rpartition("-")[2])]
            if told["type"] == "Fill":
                order.filled += told["lots"]
            else:
                order.unwanted = True
    return orders, takers, kept


def compare_orders(runs: Runs) -> tuple[dict[int, Sent], dict[int, Sent], int]:
    """The orders of the journal beside those of the exchange; see `story`."""
    path, account = runs.desk.plan.journal, runs.account
    orders, takers, kept = story(path)
    refused = {
        frame.json()["client_id"]
        for frame in read(path)
        if frame.kind == journal.UPDATE and frame.json()["type"] == "Reject"
    }
    prefix = setup_of(path).session
    ours = {f"{prefix}-{number}": (order, number in takers) for number, order in (orders | takers).items()}
    theirs = {order.client_id: order for order in account.orders.values()}
    assert theirs.keys() <= ours.keys()
    assert ours.keys() - theirs.keys() <= refused
    for name, order in theirs.items():
        known, at_once = ours[name]
        assert (order.side, order.tick, order.lots) == (known.side, known.tick, known.lots)
        assert order.filled == known.filled
        assert (order.force == "IOC") == at_once
        assert known.filled == known.lots or not known.cancelled or order.status == "CANCELED"
    assert not account.open(runs.listing)
    return orders, takers, kept


def compare_money(runs: Runs) -> None:
    """Position, profit and its parts are what the account has gained; nothing went wrong."""
    session = runs.desk.session
    assert not runs.errors
    assert session is not None
    assert set(runs.latched) <= {"stop"}
    assert session.working.position == int(session.desk.core["position"][0, 0])
    if runs.venue == "binance-spot":
        assert (
            session.setup.baseline + session.working.position
            == runs.account.balances["BTC"] / runs.listing.lot
        )
    else:
        assert session.working.position == runs.account.position(runs.listing).lots
    assert session.wealth == pytest.approx(runs.gained(), abs=2e-5)
    terms = session.episodes.terms
    assert session.wealth == pytest.approx(terms[:3].sum() - terms[3] + terms[4], abs=1e-6)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("name", ACTIONS)
def test_a_session_at_the_exchange(
    recorded: dict[str, Tape], bundles: dict[str, Path], tmp_path: Path, venue: str, name: str
) -> None:
    """Started twice, with a rebate and a taker fee."""
    runs, found = Runs(recorded[venue], tmp_path, venue), chosen(bundles[name], venue)
    runs.listing.maker, runs.listing.taker = Decimal("-0.00005"), Decimal("0.0004")
    player = found.player()
    desk = runs((15.0, 6.0), player=player, config=found.config)
    compare_money(runs)
    orders, takers, kept = compare_orders(runs)
    assert len(orders) > 20
    assert kept > 20
    assert sum(order.cancelled for order in orders.values()) > 5
    assert len(runs.account.trades) > 10
    assert (len(takers) > 5) == name.endswith("taker")
    assert {trade.maker for trade in runs.account.trades} == ({True, False} if takers else {True})
    levels = (
        decisions(desk.plan.journal)["quotes"].reshape(-1, 2, found.config.quote.side_orders, 2)[..., 1] > 0
    ).sum(2)
    assert levels.max() == found.config.quote.side_orders
    check(desk.plan.journal, found.player())
    check(desk.plan.journal)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_session_on_paper(
    recorded: dict[str, Tape], bundles: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """It plays again to the same bytes, both engines do the same on its tape, and its money is that of its
    fills."""
    runs, found = Runs(recorded["binance-usdm"], tmp_path / "run"), chosen(bundles[name], "binance-usdm")
    desk = runs((20.0,), player=found.player(), config=found.config, mode="paper", maker_fee_bp=2.0)
    session, path = desk.session, desk.plan.journal
    assert not runs.errors
    assert session is not None
    orders, takers, kept = story(path)
    assert min(len(orders), kept) > 20
    assert (len(takers) > 5) == name.endswith("taker")
    setup = setup_of(path)
    fees = {True: 2e-4, False: found.config.quote.taking.fee_bp * 1e-4 if takers else 0.0}
    position, cash = 0, 0.0
    for frame in read(path):
        for fill in frame.array() if frame.kind == journal.FILLS else ():
            signed, tick = int(fill["side"] * fill["lots"]), int(fill["tick"])
            position += signed
            cash -= signed * tick + abs(signed) * tick * fees[int(fill["id"]) in orders]
    last = decisions(path)[-1]["outcome"]
    mid = int(last["best_bid_ticks"] + last["best_ask_ticks"]) / 2
    assert session.working.position == position
    assert session.wealth == pytest.approx((cash + position * mid) * 2 * setup.money, rel=1e-9)
    assert session.fills > 5
    check(path, found.player())
    for engine in ("matcher", "hftbacktest"):
        # Until there are so many orders that the guard has a say.
        assert backtest(path, to_tape(path, tmp_path), engine).compared > 25


@pytest.mark.parametrize("name", ["ladder", "taker"])
@pytest.mark.parametrize("seconds", [2.0, 14.0])
def test_a_broken_connection(
    recorded: dict[str, Tape], bundles: dict[str, Path], tmp_path: Path, name: str, seconds: float
) -> None:
    """Cut with all its orders open, for less and for more time than the venue waits before it cancels them:
    what was filled meanwhile is booked, no order is left or doubled, and it goes on."""
    runs, found = Runs(recorded["binance-usdm"], tmp_path), chosen(bundles[name], "binance-usdm")
    standing: list[Counter[int]] = []

    def cut(desk: Any) -> None:
        standing.append(Counter(order.side for order in runs.account.open(runs.listing)))
        runs.disconnect(seconds)

    desk = runs((seconds + 16.0,), player=found.player(), config=found.config, acts=[(2.45, cut)])
    compare_money(runs)
    compare_orders(runs)
    least = 2 if name == "ladder" else 1
    assert max(standing[0].values(), default=0) >= least
    assert {"order-stream", "book"} & runs.rules()
    later = [
        o
        for o in runs.account.orders.values()
        if o.created_ns > runs.exchange.present.start_ns + (3 + seconds) * SECOND
    ]
    assert len(later) > 10
    check(desk.plan.journal, found.player())


def test_no_more_orders_than_asked_for(
    recorded: dict[str, Tape], bundles: dict[str, Path], tmp_path: Path
) -> None:
    """`max_orders` is the most in ten seconds of what the exchange is asked; started again with fewer, the
    journal is of other settings, with more or without, it goes on."""
    runs, found = Runs(recorded["binance-usdm"], tmp_path), chosen(bundles["ladder"], "binance-usdm")
    runs((14.0,), player=found.player(), config=found.config, max_orders=30)
    times = np.array([one.at for one in runs.requests("POST", "/order")])
    within = np.arange(len(times)) - np.searchsorted(times, times - 10.0, side="right") + 1
    assert 24 < within.max() <= 30
    assert "order-rate" in runs.rules()
    compare_money(runs)
    for more in ({"max_orders": 200}, {}):
        runs((2.0,), player=found.player(), config=found.config, **more)
        compare_money(runs)
        assert runs.desk.session is not None
        assert runs.desk.session.setup.guard.max_orders == 30
    runs((2.0,), player=found.player(), config=found.config, max_orders=20)
    assert "max_orders: 20, not 30" in str(runs.errors[-1])


def test_the_venues_limit_of_orders_is_kept(
    recorded: dict[str, Tape], bundles: dict[str, Path], tmp_path: Path
) -> None:
    """Spot takes 100 new orders in 10 s: a ladder of three levels is never refused."""
    runs, found = (
        Runs(recorded["binance-spot"], tmp_path, "binance-spot"),
        chosen(bundles["ladder"], "binance-spot"),
    )
    desk = runs((15.0,), player=found.player(), config=found.config)
    assert len(runs.requests("POST", "/order")) > 60
    assert not [one for one in runs.asked if one.status == 429]
    assert "order-rate" in runs.rules()
    compare_money(runs)
    check(desk.plan.journal, found.player())


def test_a_guard_of_fewer_orders_is_not_widened(
    recorded: dict[str, Tape], bundles: dict[str, Path], tmp_path: Path
) -> None:
    """A limit below the orders of one decision is refused before anything is sent."""
    runs, found = Runs(recorded["binance-usdm"], tmp_path), chosen(bundles["ladder"], "binance-usdm")
    guard = GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=20)
    runs((2.0,), player=found.player(), config=found.config, guard=guard, max_orders=5)
    assert "max_orders = 5 is not possible: it must be at least 6" in str(runs.errors[-1])
    assert not runs.account.orders
