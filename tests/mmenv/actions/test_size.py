"""Lots of either side chosen with the price: what is asked for is quoted, limits hold, money is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.data.importer import Import
from mmenv.desk.desk import Desk
from mmenv.engine.state import HALTED, REDUCING
from tests.helpers.alone import same_alone
from tests.helpers.captures import market as captured
from tests.helpers.captures import write

MARKETS = ("brownian", "hidden-regime", "correlated", "bursts", "book")
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0)


def started(config: EnvConfig, n: int, seed: int) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(seed, seed + n))
    desk.reset()
    return desk


@settings(max_examples=60, deadline=None)
@given(most=st.integers(1, 60), seed=st.integers(0, 1000))
def test_every_size_can_be_asked_for(most, seed):
    config = make_config("brownian", quote={"name": "size"}, risk={"position_limit": 60, "order_lots": most})
    ask, bid = np.random.default_rng(seed).integers(0, most + 1, (2, 64))
    distances = np.full(64, 1.0), np.full(64, 2.0)
    actions = config.quote.to_action(*distances, ask / most, bid / most)
    np.testing.assert_allclose(config.quote.to_shares(actions), [ask / most, bid / most], atol=1e-6)
    np.testing.assert_allclose(config.quote.to_distances(actions), distances, atol=1e-5)
    desk = started(config, 64, 0)
    desk.step(actions)
    assert (desk.get("ask_lots") == ask).all()
    assert (desk.get("bid_lots") == bid).all()
    desk.step(config.quote.to_action(*distances))  # all of it by default
    held = desk.get("position") - desk.get("bid_fill") + desk.get("ask_fill")
    assert (desk.get("ask_lots") == np.minimum(most, 60 + held)).all()


@settings(max_examples=25, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    seed=st.integers(0, 2**30),
    limit=st.integers(1, 6),
    lots=st.integers(1, 6),
    fee=st.integers(-300, 300),
    loss=st.floats(0.5, 60),
    garbage=st.lists(st.sampled_from(GARBAGE), min_size=2, max_size=7),
)
def test_limits_hold_and_money_is_exact(market, seed, limit, lots, fee, loss, garbage):
    config = make_config(
        market,
        horizon=80,
        maker_fee_bp=fee / 100,
        quote={"name": "size"},
        risk={"position_limit": limit, "order_lots": min(lots, limit), "daily_loss_limit": loss},
    )
    desk = started(config, 16, seed)
    random, halted, gained = np.random.default_rng(seed), np.zeros(16, bool), np.zeros(16)
    before = desk.get("position").astype(np.int64)
    for _ in range(80):
        action = random.uniform(-1, 1, (16, 4)).astype(np.float32)
        hit = random.random(action.shape) < 0.1
        action[hit] = random.choice(np.array(garbage, np.float32), hit.sum())
        step = desk.step(action)
        position, state = desk.get("position").astype(np.int64), desk.get("risk_state")
        ask, bid = desk.get("ask_lots"), desk.get("bid_lots")
        assert (np.abs(position) <= limit).all()
        assert (np.maximum(ask, bid) <= lots).all()
        idle = (ask == 0) & (bid == 0)
        assert idle[~np.isfinite(action).all(axis=1)].all()
        assert (state[halted] == HALTED).all()
        halted |= state == HALTED
        assert idle[halted].all()
        assert (np.abs(position) <= np.abs(before))[(state == REDUCING) | halted].all()
        rows = step.ledger_rows
        gained += rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(rows["wealth"], gained, rtol=1e-9, atol=1e-9)
        before = position


@pytest.mark.parametrize("market", MARKETS)
def test_one_environment_and_many_give_the_same_bytes(market):
    quote = {"name": "size"}
    results = same_alone(market=market, quote=quote, horizon=9, start_inventory=4, risk={"order_lots": 4})
    assert any(info["ledger"]["fills"].max() > 1 for *_, info in results)


@pytest.mark.parametrize("engine", ["matcher", "hftbacktest"])
def test_what_a_desk_knows_of_its_order_is_what_the_venue_has(tmp_path_factory, engine):
    """Lots left by our own memory are those open there, once all has been answered: an order keeps its place
    with the lots it was placed with or has left, and is a new one with any others, more or less."""
    pytest.importorskip("hftbacktest")
    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", captured(seconds=60, seed=3).lines)
    Import("binance", (path,), folder / "store", progress=False).run()
    market = {
        "name": "replay", "store": str(folder / "store"), "split": "all", "engine": engine,
        "order_latency_ms": 0.0, "feed_latency_ms": 0.0,
    }  # fmt: skip
    quote = {"name": "size", "requote_ticks": 6}  # or each move of the mid would be a new price
    config = make_config(market, horizon=200, quote=quote, risk={"order_lots": 4})
    desk, random = started(config, 4, 0), np.random.default_rng(0)
    actions, aged, partly = np.zeros((4, 4), np.float32), 0, 0
    for _ in range(200):
        fresh = config.quote.to_action(*random.uniform(0, 2, (2, 4)), *random.uniform(0, 1, (2, 4)))
        for columns, often in ((slice(0, 2), 0.1), (slice(2, 4), 0.3)):  # prices, then lots
            changed = random.random(4) < often
            actions[changed, columns] = fresh[changed, columns]
        desk.step(actions)
        told = desk.external.venue.outcomes
        for side in ("ask", "bid"):
            left, there = desk.get(f"own_{side}_lots"), told[f"{side}_open_lots"]
            # One that would have traded at once has expired.
            assert ((left == there) | (there == 0)).all()
            age, filled = desk.get(f"own_{side}_age"), desk.get(f"{side}_fill")
            aged += int((age[there > 0] > 3).sum())
            partly += int(((filled > 0) & (there > 0)).sum())
    assert aged > 20
    assert partly > 5
    desk.close()
