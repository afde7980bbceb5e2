"""Several orders a side in recorded markets: places kept level by level, limits, money, engines alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.data.rows import DEPTH, TRADE
from mmenv.desk.desk import Desk
from mmenv.engine.state import HALTED, REDUCING
from mmenv.step.levels import LEFT, PLACED, PRICE
from mmenv.times import MILLISECOND, SECOND
from mmenv.venue.outcome import ASK
from mmenv.venue.settings import ReplayConfig
from mmenv.venue.working import Working
from tests.helpers.ladders import as_of_one_order
from tests.mmenv.venue.test_hft import BOOK, END, tape_of

pytest.importorskip("hftbacktest")
from mmenv.venue.hft import HftVenue
from mmenv.venue.matched import MatcherVenue

ENGINES = {"matcher": MatcherVenue, "hftbacktest": HftVenue}
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0)


def config_of(store: Path, engine: str, quote: dict, lots: int, limit: int = 10, **more) -> EnvConfig:
    replay = {"name": "replay", "store": str(store), "split": "all", "engine": engine}
    replay |= {"order_latency_ms": more.pop("latency_ms", 10.0)}
    risk = {"order_lots": lots, "position_limit": limit} | more.pop("risk", {})
    return make_config(replay, horizon=120, quote=quote, risk=risk, maker_fee_bp=1.0, **more)


def started(config: EnvConfig, n: int) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(n))
    desk.reset()
    return desk


def near(random: np.random.Generator, n: int) -> np.ndarray:
    """Actions of ladders near the touch whose levels stand for a while."""
    action = random.uniform(-1, 1, (n, 6)).astype(np.float32)
    action[:, 0] = random.choice([-1.0, -0.95], n)
    action[:, 1] = random.choice([0.0, 0.02], n)
    action[:, 2:4] = random.choice([-1.0, -0.9, -0.8], (n, 2))
    return action


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("moved", "sold"), [((113, 1, 114, 3), 3), ((112, 1, 114, 2), 1)])
def test_a_level_that_is_asked_for_again_keeps_its_place(tmp_path, engine, moved, sold):
    """4 lots stand at 114 before our 3; then 10 more come, and 6 are bought. The nearest level moving changes
    nothing behind it, another size would. The trade goes through the nearest."""
    rows = [
        (1001, 1001, DEPTH, -1, 114, 4),
        (2150, 2150, DEPTH, -1, 114, 14),
        (2350, 2350, TRADE, 1, 114, 6),
        (2351, 2351, DEPTH, -1, 114, 8),
    ]
    config = ReplayConfig(feed_latency_ns=0, order_latency_ns=MILLISECOND, episode_ns=SECOND)
    venue = ENGINES[engine]([tape_of(tmp_path, [*BOOK, *rows, *END])], 1, config)
    venue.take_levels(2)
    venue.start(0, venue.spans[0], 2 * SECOND)
    for asks in (*[(112, 1, 114, 3)] * 2, *[moved] * 3):
        venue.advance(np.array([(*asks, 0, 0, 0, 0)], np.int64))
    venue.close()
    assert venue.outcomes["position_lots"][0] == -sold


def test_quotes_of_another_shape_or_that_cross_are_refused(tmp_path):
    venue = MatcherVenue([tape_of(tmp_path, [*BOOK, *END])], 1, ReplayConfig(episode_ns=SECOND))
    venue.take_levels(2)
    venue.start(0, venue.spans[0], 2 * SECOND)
    with pytest.raises(ValueError, match=r"shape \(1, 8\)"):
        venue.advance(np.zeros((1, 4), np.int64))
    with pytest.raises(ValueError, match=r"ask 112 x 1, 110 x 1, bid 109 x 1, 110 x 2, .* bid < ask"):
        venue.advance(np.array([(112, 1, 110, 1, 109, 1, 110, 2)], np.int64))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_all_that_may_fill_stays_within_the_limit(data):
    """Random ladders, acknowledgements and fills; an order that is asked for again is never sent twice."""
    limit, levels = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    working = Working(levels * 5, limit, position=data.draw(st.integers(-limit, limit)))
    for _ in range(12):
        offsets = data.draw(st.lists(st.integers(0, 5), min_size=2 * levels, max_size=2 * levels))
        lots = data.draw(st.lists(st.integers(0, 4), min_size=2 * levels, max_size=2 * levels))
        asks, bids = 100 + np.cumsum(offsets[:levels]), 99 - np.cumsum(offsets[levels:])
        quotes = np.stack([np.concatenate([asks, bids]), lots], axis=1).reshape(-1)
        before = working.slots.copy()
        sent = working.requote(quotes, 0)
        ask_open, bid_open = working.open_lots()
        assert working.position + bid_open <= limit
        assert working.position - ask_open >= -limit
        again = working.requote(quotes, 0)
        assert not again["lots"].any()
        new = sent[sent["lots"] > 0]
        assert set(zip(new["tick"], new["lots"], strict=True)) <= {*map(tuple, quotes.reshape(-1, 2))}
        kept = (before["id"] > 0) & (before["id"] == working.slots["id"]) & (working.slots["unwanted"] == 0)
        assert (before["tick"] == working.slots["tick"])[kept].all()
        for place in np.argwhere(working.slots["id"] > 0):
            slot = working.slots[tuple(place)]
            slot["acknowledged"] = 1
            fills = data.draw(st.integers(0, int(slot["lots"] - slot["filled"])))
            slot["filled"] += fills
            working.position += -fills if place[0] == ASK else fills
            if slot["filled"] == slot["lots"] or (slot["cancelled"] and data.draw(st.booleans())):
                slot["id"] = 0
        assert abs(working.position) <= limit


def test_money_is_exact_and_the_engines_agree(store):
    """What a desk sees, is paid and holds, byte for byte; wealth recounted from the venue's fills."""
    desks = [
        started(config_of(store, engine, {"name": "ladder", "levels": 3}, lots=5), 4) for engine in ENGINES
    ]
    random, fills = np.random.default_rng(0), 0
    mid, cash = desks[0].get("mid").astype(np.int64), np.zeros(4, np.int64)
    for _ in range(120):
        action = near(random, 4)
        steps = [desk.step(action) for desk in desks]
        assert steps[0].observations.tobytes() == steps[1].observations.tobytes()
        assert steps[0].rewards.tobytes() == steps[1].rewards.tobytes()
        told = desks[0].external.venue.outcomes
        cash += 2 * (told["ask_fill_notional"] - told["bid_fill_notional"])
        mid, position, wealth = (desks[0].get(name).astype(np.int64) for name in ("mid", "position", "pnl"))
        assert (wealth == cash + position * mid).all()
        assert (position == told["position_lots"]).all()
        assert (np.abs(position) <= 10).all()
        fills += int((told["ask_fill_lots"] + told["bid_fill_lots"]).sum())
    assert fills > 50
    for desk in desks:
        desk.close()


@settings(max_examples=10, deadline=None)
@given(
    engine=st.sampled_from([*ENGINES]),
    seed=st.integers(0, 2**30),
    limit=st.integers(1, 6),
    loss=st.floats(0.5, 60),
    garbage=st.lists(st.sampled_from(GARBAGE), min_size=2, max_size=7),
)
def test_limits_hold_whatever_the_policy_says(store, engine, seed, limit, loss, garbage):
    """Position and all orders together; a desk that reduces or is halted sends nothing that adds."""
    risk = {"daily_loss_limit": loss}
    config = config_of(store, engine, {"name": "ladder", "levels": 3}, limit, limit, risk=risk)
    desk, random = started(config, 4), np.random.default_rng(seed)
    for _ in range(50):
        action = near(random, 4)
        hit = random.random(action.shape) < 0.03
        action[hit] = random.choice(np.array(garbage, np.float32), hit.sum())
        before = desk.get("position")
        desk.step(action)
        told, quotes, state = desk.external.venue.outcomes, desk.external.quotes, desk.get("risk_state")
        asks, bids = quotes[:, 1:6:2].sum(axis=1), quotes[:, 7::2].sum(axis=1)
        assert (told["position_lots"] + told["bid_open_lots"] <= limit).all()
        assert (told["position_lots"] - told["ask_open_lots"] >= -limit).all()
        assert (bids <= limit - before).all()
        assert (asks <= limit + before).all()
        idle = (state == HALTED) | ~np.isfinite(action).all(axis=1)
        assert not (asks + bids)[idle].any()
        reducing = state == REDUCING
        assert (asks <= np.maximum(before, 0))[reducing].all()
        assert (bids <= np.maximum(-before, 0))[reducing].all()
    desk.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_ladder_of_one_order_is_that_of_spread_and_skew(store, engine):
    """One level, or three at one price: observations (our orders among them), rewards and quotes."""
    features = ("trade_book", "inventory", "orders", "queues")
    ladders = [{"name": "ladder", "levels": levels, "requote_ticks": 0} for levels in (1, 3)]
    desks = [
        started(config_of(store, engine, quote, lots=3, features=features), 4)
        for quote in ({"name": "spread-skew"}, *ladders)
    ]
    random = np.random.default_rng(1)
    for _ in range(120):
        action = near(random, 4)
        action[:, 2:4] = -1.0
        plain, *ladder = [desk.step(action[:, : desk.actions.shape[1]]) for desk in desks]
        for desk, other in zip(desks[1:], ladder, strict=True):
            assert plain.observations.tobytes() == as_of_one_order(desk.config, other.observations).tobytes()
            assert plain.rewards.tobytes() == other.rewards.tobytes()
        assert desks[0].external.quotes.tobytes() == desks[1].external.quotes.tobytes()
        merged = desks[2].external.quotes
        assert merged[:, [0, 1, 6, 7]].tobytes() == desks[0].external.quotes.tobytes()
        assert not merged[:, [3, 5, 9, 11]].any()
    assert desks[0].get("position").any()
    for desk in desks:
        desk.close()


def test_what_a_desk_knows_of_its_orders_is_what_the_venue_has(store):
    """Each order that we want and the exchange has stands at its price with its lots among the levels."""
    quote = {"name": "ladder", "levels": 4}
    config = config_of(store, "matcher", quote, lots=8, limit=1000, latency_ms=1.0)
    desk, random, found = started(config, 4), np.random.default_rng(2), 0
    for _ in range(119):
        desk.step(near(random, 4))
        _, orders = desk.stages.levels
        for lane, paper in enumerate(desk.external.venue._papers):
            for side, slots in enumerate(paper.working.slots):
                known = orders["orders"][0, :, side, :, lane]
                wanted = slots[(slots["id"] > 0) & (slots["unwanted"] == 0)]
                for slot in wanted:
                    [level] = np.flatnonzero((known[PRICE] == 2 * slot["tick"]) & (known[LEFT] > 0))
                    assert known[PLACED, level] == slot["lots"]
                    assert known[LEFT, level] == slot["lots"] - slot["filled"]
                    found += 1
    assert found > 1000
    desk.close()
