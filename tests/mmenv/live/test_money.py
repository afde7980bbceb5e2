"""The desk's books are the venue's: fees as charged, in whatever asset, and funding; through restarts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ccxt")

from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data.tape import Tape
from mmenv.exchange.playback import Execution
from mmenv.live.charges import Charges
from mmenv.live.desk import LiveDesk
from mmenv.live.execution import LiveExecution
from mmenv.live.orders import Fill, Rate
from mmenv.live.rerun import check, decisions
from tests.helpers.desks import Fixed, Runs
from tests.helpers.exchanges import VENUES, tape

BNB = Decimal(600)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tape]:
    folder = tmp_path_factory.mktemp("stores")
    return {venue: tape(folder, venue) for venue in VENUES}


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(("rate", "fees_in"), [("-0.00005", ""), ("0.001", "received"), ("0.0004", "BNB")])
def test_profit_is_what_the_account_has_gained(
    recorded: dict[str, Tape], tmp_path: Path, venue: str, rate: str, fees_in: str
) -> None:
    """A rebate, a fee in what was bought (a lot of it now and then), one in a coin; twice started, with the
    position carried over. Cash and coins agree to the last unit, profit to a float's; nothing is latched."""
    if venue == "binance-usdm" and fees_in == "received":
        pytest.skip("futures have no such fees")
    runs = Runs(recorded[venue], tmp_path, venue)
    runs.listing.maker, runs.account.fees_in = Decimal(rate), fees_in
    runs.exchange.present.prices["BNB"] = BNB
    for held in (runs.account.balances, runs.account.coins):
        held["BNB"] = Decimal(5)
    desk = runs((25.0, 12.0), player=Fixed(-0.95, 0.02), limit=80, lots=20)
    session, account = desk.session, runs.account
    assert not runs.errors
    assert session is not None
    assert set(runs.latched) == {"stop"}
    assert len(account.trades) > 10
    execution = session.execution
    assert isinstance(execution, LiveExecution)
    paid: dict[str, Decimal] = {}
    for trade in account.trades:
        paid[trade.fee_asset] = paid.get(trade.fee_asset, Decimal(0)) + trade.fee
    assert {asset: fee for asset, fee in execution.charges.fees.items() if fee} == paid
    assert session.setup.config.maker_fee_bp == pytest.approx(float(rate) * 1e4)
    assert session.working.position == int(session.desk.core["position"][0, 0])
    if venue == "binance-spot":
        lots = session.setup.baseline + session.working.position
        assert lots * runs.listing.lot - execution.charges.owed == account.balances["BTC"]
    else:
        assert session.working.position == account.position(runs.listing).lots
    assert session.wealth == pytest.approx(runs.gained(5 * BNB), abs=2e-5)
    terms = session.episodes.terms
    assert session.wealth == pytest.approx(terms[:3].sum() - terms[3] + terms[4], abs=1e-6)
    check(desk.plan.journal, Fixed(-0.95, 0.02))


class Taking(Fixed):
    """Quotes at one price, and buys and sells by turns in every fourth decision."""

    decisions = 0

    def reset(self) -> None:
        self.decisions = 0

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        self.decisions += 1
        taking = 0.0 if self.decisions % 4 else 1.0 if self.decisions % 8 else -1.0
        return np.append(self.action, np.float32(taking))


@pytest.mark.parametrize("venue", VENUES)
def test_market_orders_reach_the_venue(recorded: dict[str, Tape], tmp_path: Path, venue: str) -> None:
    """As orders that are filled at once or gone, at its taker fee; profit is what the account has gained, and
    nothing is latched."""
    runs = Runs(recorded[venue], tmp_path, venue)
    runs.listing.maker, runs.listing.taker = Decimal("-0.00005"), Decimal("0.0004")
    desk = runs((20.0,), player=Taking(), limit=80, lots=20, quote={"name": "taker", "taker_lots": 10})
    session, account = desk.session, runs.account
    assert not runs.errors
    assert session is not None
    assert set(runs.latched) == {"stop"}
    taken = [trade for trade in account.trades if not trade.maker]
    assert {trade.order.side for trade in taken} == {1, -1}
    assert len(taken) > 20
    assert session.working.position == int(session.desk.core["position"][0, 0])
    assert session.wealth == pytest.approx(runs.gained(), abs=2e-5)
    check(desk.plan.journal, Taking())


def test_what_is_filled_in_the_end_is_booked_there(recorded: dict[str, Tape], tmp_path: Path) -> None:
    """After the last decision: in the profit, once, and in the journal; the next start decides by the old
    times."""
    runs = Runs(recorded["binance-usdm"], tmp_path)

    def fill_and_stop(desk: LiveDesk) -> None:
        for order in runs.account.open(runs.listing)[:1]:
            assert order.slot is not None
            runs.exchange._matching.execute(runs.listing, Execution(order.slot, 3, 0))
        desk.stop("enough")

    desk = runs((60.0, 3.0), player=Fixed(-0.95), limit=80, lots=20, acts=[(8.02, fill_and_stop)])
    for each in runs.desks:
        assert each.session is not None
        assert each.session.working.position == int(each.session.desk.core["position"][0, 0])
    assert set(runs.latched) == {"stop"}
    session = desk.session
    assert session is not None
    assert session.wealth == pytest.approx(runs.gained(), abs=2e-5)
    check(desk.plan.journal, Fixed(-0.95))
    made, setup = decisions(desk.plan.journal), session.setup
    late = made[(made["time_ns"] - setup.start_ns) % setup.interval_ns > 0]
    assert 1 <= len(late) <= 2  # the last of a start, at most
    assert late["outcome"]["ask_fill_lots"][0] + late["outcome"]["bid_fill_lots"][0] >= 3


def test_funding_enters_the_ledger_once(recorded: dict[str, Tape], tmp_path: Path) -> None:
    """Paid every four seconds, while the desk runs, while its user stream is dead and while it is down."""
    runs = Runs(recorded["binance-usdm"], tmp_path)
    runs.exchange.advance(runs.exchange.present.now_ns)
    runs.exchange.fund(runs.listing, Decimal("0.0003"), 4.0)
    acts = [(9.0, lambda desk: runs.exchange.lose_user_streams())]
    desk = runs((23.0, 9.5), player=Fixed(-0.95, 0.1), limit=40, lots=10, pause=6.0, acts=acts)
    session = desk.session
    assert session is not None
    assert len(runs.account.income) > 5
    execution = session.execution
    assert isinstance(execution, LiveExecution)
    heard = [one.amount for one in runs.account.income if one.time_ns // 10**6 * 10**6 <= execution.funded_ns]
    # The next start asks for what was paid in the last seconds, and after them.
    late = sum(one.amount for one in runs.account.income[len(heard) :])
    assert len(runs.account.income) - len(heard) <= 2
    assert execution.charges.funding == {"USDT": sum(heard)}
    assert session.wealth == pytest.approx(runs.gained() - float(late), abs=2e-5)
    assert session.episodes.terms[4] == pytest.approx(float(execution.charges.funding["USDT"]))
    assert set(runs.latched) == {"stop"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("bs"), st.integers(1, 50), st.integers(-9, 9)), max_size=40))
def test_what_is_taken_of_the_position_is_worth_what_it_was(steps: list[tuple[str, int, int]]) -> None:
    """Fees in the asset bought, step by step: lots held at their prices, less the fees settled, are at every
    step what the account's own exact balances are worth."""
    lot, tick = Decimal("0.001"), Decimal("0.5")
    charges = Charges("B", "Q", tick, lot, 0.001)
    base, cash, position, profit, at = Decimal(0), Decimal(0), 0, 0.0, 1000
    for number, (side, lots, move) in enumerate(steps):
        sign = 1 if side == "b" else -1
        fee = lots * lot * Decimal("0.037") if sign > 0 else lots * lot * at * tick * Decimal("0.001")
        told = Fill(
            client_id="", exch_ns=0, local_ns=0, order_id=0, trade_id=number, side=sign, tick=at, lots=lots,
            fee=str(fee), fee_asset="B" if sign > 0 else "Q", maker=True,
        )  # fmt: skip
        gone = charges.fill(told)
        assert gone == charges.lots_gone
        before = position - gone
        position = before + sign * lots
        base += sign * lots * lot - (fee if sign > 0 else 0)
        cash -= sign * lots * lot * at * tick + (0 if sign > 0 else fee)
        fees, funding = charges.settle(float((at + move) * tick), float(move * tick))
        assert funding == 0
        profit += float((before + sign * lots) * lot * move * tick) - fees
        at += move
        assert position * lot - charges.owed == base
        assert profit == pytest.approx(float(cash + base * at * tick), abs=1e-9)
        assert abs(charges.owed) < lot


def test_a_fee_whose_asset_has_no_price_yet_is_put_right() -> None:
    charges = Charges("B", "Q", Decimal(1), Decimal(1), 0.001)
    told = Fill(
        client_id="", exch_ns=0, local_ns=0, order_id=0, trade_id=1, side=1, tick=100, lots=10, fee="0.25",
        fee_asset="C", maker=True,
    )  # fmt: skip
    charges.fill(told)
    assert charges.settle(100.0, 0.0) == (1.0, 0.0)
    charges.price(Rate(client_id="", exch_ns=0, local_ns=0, asset="C", price="8"))
    assert charges.settle(100.0, 0.0) == (1.0, 0.0)
