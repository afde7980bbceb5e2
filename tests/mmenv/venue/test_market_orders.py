"""Market orders in recorded markets: what fills, at what price, within what limits, by both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv import ConfigError, make_config
from mmenv.data.events import open_replay
from mmenv.data.rows import DEPTH
from mmenv.data.tape import tapes
from mmenv.desk.desk import Desk
from mmenv.engine.state import FEE_DIGITS
from mmenv.times import MILLISECOND, SECOND
from mmenv.venue.matched import MatcherVenue
from mmenv.venue.replay import ReplayVenue
from mmenv.venue.settings import FIFO, ReplayConfig
from tests.mmenv.venue.test_hft import BOOK, END, tape_of

pytest.importorskip("hftbacktest")
from benchmarks.crosscheck import by_hftbacktest, by_matcher, disagreements, random_ladders
from mmenv.venue.hft import HftVenue

ENGINES = {"matcher": MatcherVenue, "hftbacktest": HftVenue}
DEEPER = [(1001, 1001, DEPTH, -1, 112, 6), (1001, 1001, DEPTH, 1, 107, 4)]
NO_QUOTES = (0, 0, 0, 0)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


def by_hand(folder: Path, engine: str, *rows: tuple[int, ...], **config: object) -> ReplayVenue:
    """One lane at 2 s, a decision every 100 ms, 1 ms away, after a book of 4 at 107, 5 at 109, 5 at 110, 6 at
    112."""
    chosen = ReplayConfig(feed_latency_ns=0, order_latency_ns=MILLISECOND, episode_ns=SECOND, **config)
    venue = ENGINES[engine]([tape_of(folder, [*BOOK, *DEEPER, *rows, *END])], 1, chosen)
    venue.take_market_orders()
    venue.start(0, venue.spans[0], 2 * SECOND)
    return venue


def sent(venue: ReplayVenue, tick: int, lots: int, quotes: tuple[int, ...] = NO_QUOTES) -> tuple[int, ...]:
    """What a market order filled by the next decision: lots and notional sold, lots and notional bought."""
    venue.advance(np.array([quotes], np.int64), np.array([[tick, lots]], np.int64))
    return tuple(int(value) for value in venue.taken[0])


@pytest.mark.parametrize(
    ("tick", "lots", "taken"),
    [
        (110, 3, (0, 0, 3, 330)),
        (110, 8, (0, 0, 5, 550)),  # no more than stands there
        (112, 8, (0, 0, 8, 8 * 112)),  # all of it pays the last level's price
        (112, 20, (0, 0, 11, 11 * 112)),
        (109, 3, (0, 0, 0, 0)),  # nothing stands at what it would pay
        (109, -2, (2, 218, 0, 0)),
        (107, -7, (7, 7 * 107, 0, 0)),
    ],
)
def test_it_takes_what_stands_there_and_the_rest_is_gone(tmp_path, engine, tick, lots, taken):
    venue = by_hand(tmp_path, engine)
    assert sent(venue, tick, lots) == taken
    assert venue.outcomes["position_lots"][0] == taken[2] - taken[0]
    assert venue.outcomes[["ask_open_lots", "bid_open_lots"]][0].tolist() == (0, 0)
    assert sent(venue, 0, 0) == (0, 0, 0, 0)


def test_it_meets_the_book_as_it_is_when_it_arrives(tmp_path, engine):
    """Half a millisecond after the decision 110 is gone and 111 there: an order that pays 111 finds that."""
    gone = [(2000, 2000, DEPTH, -1, 110, 0), (2000, 2000, DEPTH, -1, 111, 2)]
    venue = by_hand(tmp_path, engine, *gone)
    assert sent(venue, 110, 1) == (0, 0, 0, 0)
    assert sent(venue, 111, 3) == (0, 0, 2, 222)


def test_whole_orders_fill_whole(tmp_path, engine):
    assert sent(by_hand(tmp_path, engine, partial_fills=False), 110, 8) == (0, 0, 8, 880)


def test_the_limit_counts_what_is_on_its_way(tmp_path, engine):
    """With a limit of 6 a bid of 4 that may still fill leaves 2."""
    venue = by_hand(tmp_path, engine, position_limit_lots=6)
    venue.advance(np.array([(0, 0, 105, 4)], np.int64))
    assert sent(venue, 110, 5, (0, 0, 105, 4))[2] == 2
    assert sent(venue, 110, 5, NO_QUOTES)[2] == 0  # the bid's cancel is only on its way
    assert sent(venue, 110, 5, NO_QUOTES)[2] == 4
    assert venue.outcomes["position_lots"][0] == 6


def test_it_never_meets_an_order_of_ours(tmp_path, engine):
    """It waits for the cancel of our ask to be on its way before it, where it would reach that."""
    venue = by_hand(tmp_path, engine)
    kept = (110, 1, 0, 0)
    venue.advance(np.array([kept], np.int64))
    assert sent(venue, 110, 1, kept) == (0, 0, 0, 0)
    assert sent(venue, 109, -1, kept) == (1, 109, 0, 0)
    assert sent(venue, 110, 1, NO_QUOTES) == (0, 0, 1, 110)


def test_what_cannot_be_is_refused_before_anything_is_sent(tmp_path, engine):
    venue = by_hand(tmp_path, engine)
    for takers, words in (
        (np.array([[110, 1]], np.int32), "int64 array of shape"),
        (np.array([[110, 1, 1]], np.int64), "int64 array of shape"),
        (np.array([[100_000, 1]], np.int64), "market order of 1 lots at 100000, .* ticks"),
        (np.array([[110, 1 << 31]], np.int64), "lots must be"),
    ):
        with pytest.raises(ValueError, match=words):
            venue.advance(np.zeros((1, 4), np.int64), takers)
    venue = ENGINES[engine](venue.tapes, 1, venue.config)
    venue.start(0, venue.spans[0], 2 * SECOND)
    with pytest.raises(ValueError, match="take_market_orders was called"):
        venue.advance(np.zeros((1, 4), np.int64), np.array([[110, 1]], np.int64))


def test_hftbacktest_lets_them_rest_among_single_orders(tmp_path):
    config = ReplayConfig(queue_model=FIFO, partial_fills=False, episode_ns=SECOND)
    venue = object.__new__(HftVenue)
    venue.config = config
    with pytest.raises(ConfigError, match=r"hftbacktest .*fifo.* engine matcher"):
        venue.take_market_orders()


@pytest.mark.parametrize("levels", [1, 3])
def test_both_engines_fill_the_same(store, levels):
    """Random quotes with market orders, a few or many in flight; `benchmarks.crosscheck` runs 50,000."""
    found = tapes(store)
    for latency_ms, partial, spread in (
        (10, True, "constant"),
        (120, True, "lognormal"),
        (10, False, "constant"),
    ):
        config = ReplayConfig(
            episode_ns=5 * SECOND, gap_ns=SECOND, partial_fills=partial, order_latency=spread,
            order_latency_ns=latency_ms * MILLISECOND, position_limit_lots=30,
        )  # fmt: skip
        count = disagreements(found, config, 400, seed=latency_ms, levels=levels)
        assert count.differ == 0
        assert count.filled > 100
        assert count.taken > 100
        assert count.filled > 20


def test_money_is_exact(store, engine):
    """Wealth and fees recounted from the venue's fills, those of market orders at their own fee."""
    replay = {"name": "replay", "store": str(store), "split": "all", "engine": engine}
    quote = {"name": "taker", "taker_lots": 3, "taker_fee_bp": 4.5}
    config = make_config(
        replay, horizon=100, maker_fee_bp=-0.5, quote=quote, risk={"order_lots": 2, "taker_spacing": 2}
    )
    desk = Desk(config, 4, autoreset=False)
    desk.seed(range(4))
    desk.reset()
    mid = desk.get("mid").astype(np.int64)
    rates = [round(fee * 1e-4 * FEE_DIGITS) for fee in (-0.5, 4.5)]
    cash, position, paid, lots, maker = *np.zeros((3, 4), np.int64), 0, 0
    random, waited = np.random.default_rng(0), np.full(4, 2)
    for _ in range(100):
        step = desk.step(random.uniform(-1, 1, (4, 3)).astype(np.float32))
        told, taken, asked = desk.external.venue.outcomes, desk.external.venue.taken, desk.get("taker_lots")
        assert (waited[asked != 0] >= 2).all()
        waited = np.where(asked != 0, 1, waited + 1)
        sold = told["ask_fill_notional"], taken["sold_notional"]
        bought = told["bid_fill_notional"], taken["bought_notional"]
        cash += 2 * (sum(sold) - sum(bought))
        position += told["bid_fill_lots"] - told["ask_fill_lots"] + taken["bought_lots"] - taken["sold_lots"]
        paid += sum(2 * (s + b) * rate for s, b, rate in zip(sold, bought, rates, strict=True))
        mid, now, wealth, fees = (desk.get(k).astype(np.int64) for k in ("mid", "position", "pnl", "fees"))
        assert (position == now).all()
        assert (wealth == cash + position * mid).all()
        assert (fees == paid).all()
        assert (np.abs(position) <= config.risk.position_limit).all()
        rows = step.ledger_rows
        gain = rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(step.rewards, gain - rows["inventory_penalty"], rtol=1e-9, atol=1e-9)
        lots += int((taken["sold_lots"] + taken["bought_lots"]).sum())
        maker += int((told["ask_fill_lots"] + told["bid_fill_lots"]).sum())
    assert lots > 30
    assert maker > 5
    desk.close()


@pytest.mark.parametrize("partial", [True, False])
def test_ladders_with_market_orders_fill_the_same(store, partial):
    """Order by order: status, time, price and lots left; a lot more in the queue would show."""
    found = open_replay(tapes(store)[0], 2 * MILLISECOND)
    config = ReplayConfig(partial_fills=partial, order_latency_ns=10 * MILLISECOND)
    actions = random_ladders(found, 300, config.order_latency_ns, np.random.default_rng(0))
    theirs, ours = by_hftbacktest(found, actions, config), by_matcher(found, actions, config)
    assert (theirs == ours).all()
    assert (theirs != by_matcher(found, actions, config, ahead=1.0)).any()
    market = actions["order"][actions["market"] > 0]
    assert (ours["fill_tick"][market] > 0).sum() > 30
    assert (np.delete(ours["fill_tick"], market) > 0).sum() > 100
