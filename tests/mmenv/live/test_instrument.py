"""The instrument changes while a desk runs, or while it is down: it stops, reloads, and goes on."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

pytest.importorskip("ccxt")

from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.checks import ConfigError
from mmenv.data.tape import Tape
from mmenv.live.execution import LiveExecution
from mmenv.live.relisting import Terms, relisted
from mmenv.live.rerun import check
from mmenv.live.session import Session
from tests.helpers import sessions
from tests.helpers.desks import Fixed, Runs
from tests.helpers.exchanges import VENUES, tape


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tape]:
    folder = tmp_path_factory.mktemp("stores")
    return {venue: tape(folder, venue) for venue in VENUES}


def relist(runs: Runs, times: int) -> None:
    """A grid so many times finer than the tape's."""
    tick, lot = Decimal(runs.tape.info.tick_size), Decimal(runs.tape.info.lot_size)
    runs.exchange.relist(runs.listing, tick / times, lot / times)


def assert_books_are_right(runs: Runs) -> None:
    """Position and cash are the venue's to the last unit, profit is the account's and its terms' sum."""
    session, account, listing = runs.desk.session, runs.account, runs.listing
    assert session is not None
    execution = session.execution
    assert isinstance(execution, LiveExecution)
    setup, charges = session.setup, execution.charges
    held = (setup.baseline + session.working.position) * Decimal(setup.lot_size) - charges.owed
    outcome = session.view.outcome
    mid = Decimal(int(outcome["best_bid_ticks"] + outcome["best_ask_ticks"])) / 2 * Decimal(setup.tick_size)
    if runs.venue == "binance-usdm":
        position = account.position(listing)
        assert held == position.lots * listing.lot
        cash = account.wallet - 1_000_000 - position.cost
        worth = cash + position.lots * listing.lot * mid
    else:
        assert held == account.balances["BTC"]
        cash = account.balances["USDT"] - 1_000_000
        worth = cash + (account.balances["BTC"] - 100) * mid
    assert cash == -execution.paid - charges.fees.get("USDT", Decimal(0))
    assert session.wealth == pytest.approx(float(worth), abs=2e-5)
    terms = session.episodes.terms
    assert session.wealth == pytest.approx(terms[:3].sum() - terms[3] + terms[4], abs=1e-6)


@pytest.mark.parametrize("venue", VENUES)
def test_a_finer_grid_is_found_and_taken(recorded, tmp_path: Path, venue: str) -> None:
    """Twice: then limits, orders and position are worth what they were, orders stand between the old ticks,
    nothing is refused for its grid, and the journal plays again."""
    runs = Runs(recorded[venue], tmp_path, venue, finer=10)
    acts = [(6.0, lambda _: relist(runs, 2)), (13.0, lambda _: relist(runs, 10))]
    desk = runs((22.0,), player=Fixed(-0.95), limit=40, lots=4, acts=acts, look_s=1.0)
    session = desk.session
    assert session is not None
    assert not runs.errors
    assert "instrument" in runs.rules()
    assert (session.setup.tick_size, session.setup.lot_size) == ("0.01", "0.0001")
    assert (session.setup.config.risk.position_limit, session.setup.config.risk.order_lots) == (400, 40)
    odd = [order for order in runs.account.orders.values() if order.tick % 10]
    assert odd
    assert max(order.lots for order in runs.account.orders.values()) == 40
    assert not [one for one in runs.asked if one.code == -1013]
    assert set(runs.latched) == {"stop"}
    assert runs.account.trades
    assert_books_are_right(runs)
    check(desk.plan.journal, Fixed(-0.95))


@pytest.mark.parametrize("kill", [False, True])
def test_a_change_while_the_desk_is_down(recorded, tmp_path: Path, kill: bool, monkeypatch) -> None:
    """It may be coarser, too. What was open and what was filled meanwhile is told in the units of then. Each
    start goes on from a snapshot of a session with fills, in units that its journal did not begin with."""
    restore, restored = Session.restore, []

    def spy(session: Session, payload: bytes) -> None:
        restore(session, payload)
        restored.append(session.setup.tick_size)

    monkeypatch.setattr(Session, "restore", spy)
    runs = Runs(recorded["binance-usdm"], tmp_path, finer=2)
    relist(runs, 2)
    runs(
        (10.0, 8.0, 6.0), player=Fixed(-0.95), limit=80, lots=8, kill=kill, snapshot_work=500,
        between=lambda _: relist(runs, 1),
    )  # fmt: skip
    session = runs.desk.session
    assert session is not None
    assert not runs.errors
    assert session.setup.tick_size == "0.1"
    assert restored == ["0.05", "0.1"]
    assert session.setup.config.risk.position_limit == 40
    assert runs.requests("POST", "/order", since=30.0 if not kill else 25.0)
    assert not runs.latched.keys() - {"stop"}
    if not kill:
        assert_books_are_right(runs)
    check(runs.desk.plan.journal, Fixed(-0.95))


@pytest.mark.parametrize("venue", VENUES)
def test_a_symbol_that_is_not_traded_is_left_alone_until_it_is(recorded, tmp_path: Path, venue: str) -> None:
    runs = Runs(recorded[venue], tmp_path, venue)
    acts = [
        (6.0, lambda _: runs.exchange.suspend(runs.listing, "BREAK")),
        (14.0, lambda _: runs.exchange.suspend(runs.listing, "TRADING")),
    ]
    runs((20.0,), acts=acts, look_s=1.0)
    assert "instrument" in runs.rules() or "silence" in runs.rules()
    refused = [one for one in runs.requests("POST", "/order", since=6.0, until=14.0) if one.status != 200]
    assert len(refused) <= 6
    assert not [one for one in runs.requests("POST", "/order", since=8.0, until=14.0) if one.status == 200]
    assert runs.requests("POST", "/order", since=17.0)
    assert set(runs.latched) == {"stop"}


@pytest.mark.parametrize("venue", VENUES)
def test_maintenance_is_waited_for(recorded, tmp_path: Path, venue: str) -> None:
    """While it runs, and where it begins then: a sentence, and nothing that the operator must take back."""
    runs = Runs(recorded[venue], tmp_path, venue)
    runs((20.0,), acts=[(6.0, lambda _: runs.exchange.maintain(venue, 6.0))])
    assert len(runs.requests("POST", "/order", since=6.0, until=12.0)) <= 6
    assert runs.requests("POST", "/order", since=16.0)
    assert set(runs.latched) == {"stop"}
    assert_books_are_right(runs)
    again = Runs(recorded[venue], tmp_path / "again", venue)
    again.exchange.maintain(venue, 100.0)
    with pytest.raises(IndexError):
        again((3.0,))
    assert "This service is no longer available" in str(again.errors[0])


@pytest.mark.parametrize("name", ["adl_autoclose", "autoclose-1"])
def test_the_venue_closes_part_of_the_position(recorded, tmp_path: Path, name: str) -> None:
    """Deleveraged or liquidated, the desk halts and names the order; position and cash are the venue's."""
    runs = Runs(recorded["binance-usdm"], tmp_path)
    act = (12.0, lambda _: runs.exchange.close_out(runs.account, runs.listing, 3, name))
    runs((16.0,), player=Fixed(-0.95, 0.1), limit=40, lots=10, acts=[act])
    assert [order for order in runs.account.orders.values() if order.client_id == name]
    assert name in runs.latched["unknown-order"]
    assert_books_are_right(runs)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-500, 500), st.integers(0, 999), st.integers(1, 40), st.integers(1, 40), st.integers(1, 30)
)
def test_what_is_held_is_worth_the_same_in_any_units(
    position: int, owed: int, tick: int, lot: int, order_lots: int
) -> None:
    """To the last unit; and no limit allows more than it did."""
    made = sessions.setup(risk={"position_limit": 60, "order_lots": order_lots}, quote={"requote_ticks": 7})
    debt = Decimal(owed) * Decimal("0.000001")
    terms = Terms(f"{tick * Decimal('0.01'):f}", f"{lot * Decimal('0.0001'):f}", 1, 0)
    old, new = Decimal(made.lot_size), Decimal(terms.lot_size)
    if order_lots * old < new:
        with pytest.raises(ConfigError, match="too small now"):
            relisted(made, terms, position, debt)
        return
    again, owed_now = relisted(made, terms, position, debt)
    assert again.position * new - owed_now == position * old - debt
    assert abs(owed_now) < new
    near = [one.config.quote.requote_ticks * Decimal(one.tick_size) for one in (made, again)]
    assert 0 <= near[0] - near[1] < Decimal(again.tick_size)
    for name in ("position_limit", "order_lots"):
        was, now = (getattr(one.config.risk, name) for one in (made, again))
        assert 0 <= was * old - now * new < new
