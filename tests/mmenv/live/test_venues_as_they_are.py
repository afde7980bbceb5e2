"""What real venues do, done by the local one: bans, limits, old trades, silent streams, harmless rejects."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ccxt")

from mmenv.data.tape import Tape
from mmenv.exchange.protocol import ApiError
from mmenv.live import desk as desk_module
from mmenv.live import journal
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import read
from mmenv.live.rerun import check
from tests.helpers.desks import Fixed, Runs
from tests.helpers.exchanges import START_NS, VENUES, tape


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tape]:
    folder = tmp_path_factory.mktemp("stores")
    return {venue: tape(folder, venue) for venue in VENUES}


def updates(runs: Runs, kind: str) -> list[dict[str, Any]]:
    """What the venue said of this kind."""
    frames = (frame.json() for frame in read(runs.desk.plan.journal) if frame.kind == journal.UPDATE)
    return [told for told in frames if told["type"] == kind]


@pytest.mark.parametrize("venue", VENUES)
def test_a_desk_on_an_account_with_old_trades_asks_for_little(recorded, tmp_path: Path, venue: str) -> None:
    """10^5 trades, of orders that the venue forgets: quoting within 5 s and 20 requests, and again."""
    runs = Runs(recorded[venue], tmp_path, venue)
    runs.exchange.trade_long_ago(runs.account, runs.listing, 100_000, START_NS - 10**15)
    runs((5.0, 5.0))
    assert not runs.errors
    starts = (0.0, runs.requests("GET", "/exchangeInfo")[-1].at)
    for start in starts:
        first = runs.requests("POST", "/order", since=start)[0].at
        assert first - start < 5
        asked = [one for one in runs.asked if start <= one.at < first]
        assert 5 < len(asked) <= 20
    assert not runs.latched.keys() - {"stop"}


@pytest.mark.parametrize("venue", VENUES)
def test_in_a_ban_only_what_shrinks_risk_is_asked(recorded, tmp_path: Path, venue: str) -> None:
    """From the first refusal to the end of the ban nothing but a few cancels; then the desk goes on."""
    runs = Runs(recorded[venue], tmp_path, venue)
    runs((36.0,), acts=[(5.0, lambda desk: runs.exchange.ban(venue, 25.0))])
    refused = [one for one in runs.asked if one.status == 418]
    later = [one for one in runs.asked if refused[0].at + 0.01 < one.at < 30.0]
    assert {one.method for one in later} <= {"DELETE"}
    assert len(later) <= 10
    assert "silence" in runs.rules()
    assert runs.requests("POST", "/order", since=31.0)
    assert not runs.latched.keys() - {"stop"}
    check(runs.desk.plan.journal, Fixed())


def test_the_venues_limit_of_orders_is_kept(recorded, tmp_path: Path) -> None:
    """Spot takes 100 new orders in 10 s: a desk that would send more sends fewer, and is never refused."""
    runs = Runs(recorded["binance-spot"], tmp_path, "binance-spot")
    desk = runs((30.0,))
    assert len(runs.requests("POST", "/order")) > 60
    assert not [one for one in runs.asked if one.status == 429]
    assert not updates(runs, "Silence")
    assert desk.session is not None
    assert desk.session.setup.guard.max_orders <= 100


def test_a_lost_user_stream_is_found_and_replaced(recorded, tmp_path: Path) -> None:
    """The key is gone, the connection open and silent: known by the first order that it does not report. What
    was filled meanwhile is told."""
    runs = Runs(recorded["binance-usdm"], tmp_path)
    runs((25.0,), acts=[(8.0, lambda desk: runs.exchange.lose_user_streams())])
    assert len(runs.requests("POST", "/listenKey")) == 2
    broken = [told["reason"] for told in updates(runs, "Stream") if not told["ok"]]
    assert broken == ["nothing came for 5 s after an order"]
    assert {told["trade_id"] for told in updates(runs, "Fill")} == {t.id for t in runs.account.trades}
    assert runs.requests("POST", "/order", since=16.0)


@pytest.mark.parametrize("name", ["depth", "trade", "bookTicker"])
def test_one_silent_stream_among_live_ones_stops_quoting(recorded, tmp_path: Path, name: str) -> None:
    """And nothing is quoted until it speaks again."""
    runs = Runs(recorded["binance-usdm"], tmp_path)
    [streams] = runs.exchange._streams.values()
    broadcast, stalled = streams._broadcast, []

    def stall(stream: str, data: Any) -> None:
        if not (stalled and stream.startswith(name)):
            broadcast(stream, data)

    streams._broadcast = stall
    acts = [(8.0, lambda desk: stalled.append(1)), (16.0, lambda desk: stalled.clear())]
    runs((22.0,), acts=acts)
    assert "silent-stream" in runs.rules()
    assert not runs.requests("POST", "/order", since=11.0, until=16.0)
    assert runs.requests("POST", "/order", since=19.0)
    check(runs.desk.plan.journal, Fixed())


@pytest.mark.parametrize("venue", VENUES)
def test_orders_that_would_trade_at_once_are_part_of_quoting(recorded, tmp_path: Path, venue: str) -> None:
    """50 ms away some of them do, at either venue by its own words; none counts as a fault."""
    runs = Runs(recorded[venue], tmp_path, venue)
    runs((30.0,), player=Fixed(-0.95), latency_s=0.05)
    refused = [told["trouble"] for told in updates(runs, "Reject")]
    assert refused.count("crossed") > 5
    assert set(refused) <= {"crossed", "unsent"}
    assert not runs.latched.keys() - {"stop"}


def test_endless_harmless_rejects_are_a_stale_book(recorded, tmp_path: Path) -> None:
    """The venue refuses whatever comes as if it crossed: after the bound the desk stops, begins its feed anew
    and tries again."""
    runs = Runs(recorded["binance-usdm"], tmp_path)
    place = runs.exchange._matching.place

    def refuse(order: Any) -> None:
        if 5.0 < runs.exchange.present.since_start_ns / 1e9 < 12.0:
            raise ApiError(*order.listing.dialect.crossed)
        place(order)

    runs.exchange._matching.place = refuse
    guard = GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=5, max_crossed=10)
    runs((25.0,), guard=guard)
    assert "crossed" in runs.rules()
    assert len([told for told in updates(runs, "Reject") if told["trouble"] == "crossed"]) <= 30
    assert runs.requests("GET", "/depth", since=5.0)
    assert runs.requests("POST", "/order", since=20.0)
    assert not runs.latched.keys() - {"stop"}


def test_an_account_in_hedge_mode_is_refused_before_the_first_order(recorded, tmp_path: Path) -> None:
    runs = Runs(recorded["binance-usdm"], tmp_path)
    runs.account.hedged = True
    with pytest.raises(AttributeError):
        # It never has a session.
        _ = runs((5.0,)).session.state
    assert "hedge mode" in str(runs.errors[0])
    assert not runs.requests("POST", "/order")


@pytest.mark.parametrize("venue", VENUES)
def test_orders_below_the_smallest_value_are_refused_before_the_first(
    recorded, tmp_path: Path, venue: str
) -> None:
    """And one that is large enough at first is cut by a limit to less, which is then not sent."""
    runs = Runs(recorded[venue], tmp_path / "one", venue)
    runs.listing.min_notional = Decimal(5)
    with pytest.raises(AttributeError):
        _ = runs((5.0,)).session.state
    assert "order_lots = 1 is too small" in str(runs.errors[0])
    assert "--order-lots 9" in str(runs.errors[0])
    runs = Runs(recorded[venue], tmp_path / "two", venue)
    runs.listing.min_notional = Decimal(5)
    runs((15.0,), lots=10, limit=14, player=Fixed(-0.95))
    assert not [told for told in updates(runs, "Reject") if told["trouble"] == "bad-order"]
    assert runs.account.trades


def test_open_orders_are_cancelled_before_the_journal_is_played(
    recorded, tmp_path: Path, monkeypatch
) -> None:
    runs, seen = Runs(recorded["binance-usdm"], tmp_path), []
    recover = desk_module.recovered

    def recovered(*given: Any) -> Any:
        seen.append(len(runs.account.open()))
        return recover(*given)

    monkeypatch.setattr(desk_module, "recovered", recovered)
    runs(
        (6.0, 4.0),
        player=Fixed(-0.5),
        kill=True,
        countdown_s=60.0,
        between=lambda _: seen.append(len(runs.account.open())),
    )
    assert seen[0] > 0
    assert seen[1] == 0
    assert not runs.latched
