"""Market orders beside the quotes: exact money, hard limits and rate, the same bytes for one and for many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.engine.state import FEE_DIGITS, HALTED, REDUCING
from mmenv.market.brownian import Brownian
from mmenv.observation import action_space, observation_names
from tests.helpers.alone import same_alone

MARKETS = ("brownian", "hidden-regime", "correlated", "bursts", "book")
BOX = {"max_half_spread": 8.0, "max_skew": 8.0, "max_distance": 8.0}
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0)


def started(config: EnvConfig, n: int, seed: int) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(seed, seed + n))
    desk.reset()
    return desk


def whole(desk: Desk, *names: str) -> list[np.ndarray]:
    return [desk.get(name).astype(np.int64) for name in names]


def taken_of(desk: Desk) -> tuple[np.ndarray, np.ndarray]:
    """Lots that market orders filled, above 0 bought, and their edge; of a simulated market, where one side
    alone is."""
    sold, bought, *edges = whole(desk, "taken_ask", "taken_bid", "taken_ask_edge", "taken_bid_edge")
    assert (sold * bought == 0).all()
    return bought - sold, sum(edges)


@settings(max_examples=25, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    seed=st.integers(0, 2**30),
    fees=st.tuples(st.integers(-500, 500), st.integers(-500, 500)),
    lots=st.integers(1, 4),
    half=st.floats(0, 3),
)
def test_money_is_exact(market, seed, fees, lots, half):
    """Wealth and fees, recounted from each fill at its own price: those of quotes, and of market orders."""
    config = make_config(
        market,
        maker_fee_bp=fees[0] / 100,
        horizon=40,
        start_inventory=5,
        risk={"order_lots": 2},
        quote={
            "name": "taker",
            "taker_lots": lots,
            "half_spread": half,
            "taker_fee_bp": fees[1] / 100,
            **BOX,
        },
    )
    desk = started(config, 20, seed)
    mid, position = whole(desk, "mid", "position")
    first, cash, paid = position * mid, 0, 0
    rates = [round(fee / 100 * 1e-4 * FEE_DIGITS) for fee in fees]
    random, taken_in_all = np.random.default_rng(seed), 0
    for _ in range(40):
        (spread,) = whole(desk, "spread")
        there = whole(desk, "best_bid_lots", "best_ask_lots")
        step = desk.step(random.uniform(-1, 1, (20, 3)).astype(np.float32))
        sold, bought, asked = whole(desk, "ask_fill", "bid_fill", "taker_lots")
        taken, edge = taken_of(desk)
        if market == "book":
            assert (edge == -np.abs(taken) * spread // 2).all()
            queue = np.where(asked > 0, there[1], there[0])
            assert (np.abs(taken) == np.minimum(np.abs(asked), queue)).all()
        else:
            assert (taken == asked).all()
            assert (edge <= -np.abs(taken) * (half * config.market.price_scale - 0.01)).all()
            assert (edge >= -np.abs(taken) * (half * config.market.price_scale + 2)).all()
        ask, bid = sold + np.minimum(taken, 0), bought - np.maximum(taken, 0)  # of the quotes
        assert ((ask == 0) | (taken <= 0)).all()
        assert ((bid == 0) | (taken >= 0)).all()
        price = mid * np.abs(taken) - np.sign(taken) * edge  # in all
        quoted = desk.get("ask_edge"), desk.get("bid_edge")
        ask_money = ask * mid + quoted[0] - np.where(taken < 0, edge, 0)
        bid_money = bid * mid - quoted[1] + np.where(taken > 0, edge, 0)
        cash = cash + ask_money - bid_money - np.sign(taken) * price
        paid = paid + (ask_money + bid_money) * rates[0] + price * rates[1]
        position = position + bid - ask + taken
        mid, now, wealth, fees_paid = whole(desk, "mid", "position", "pnl", "fees")
        assert (position == now).all()
        assert (wealth == cash + position * mid - first).all()
        assert (fees_paid == paid).all()
        rows = step.ledger_rows
        gain = rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(step.rewards, gain - rows["inventory_penalty"], rtol=1e-12, atol=1e-9)
        assert (rows["fills"] == ask + bid + np.abs(taken)).all()
        taken_in_all += np.abs(taken).sum()
    assert taken_in_all > 100


@settings(max_examples=25, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    seed=st.integers(0, 2**30),
    limit=st.integers(1, 6),
    lots=st.integers(1, 9),
    loss=st.floats(0.5, 60),
    spacing=st.integers(1, 5),
    garbage=st.lists(st.sampled_from(GARBAGE), min_size=2, max_size=7),
)
def test_limits_and_rate_hold_whatever_the_policy_says(market, seed, limit, lots, loss, spacing, garbage):
    config = make_config(
        market,
        horizon=80,
        quote={"name": "taker", "taker_lots": lots, **BOX},
        risk={"position_limit": limit, "daily_loss_limit": loss, "taker_spacing": spacing},
    )
    desk = started(config, 16, seed)
    random = np.random.default_rng(seed)
    halted, since = np.zeros(16, bool), np.full(16, spacing)
    before = desk.get("position").astype(np.int64)
    for _ in range(80):
        action = random.uniform(-1, 1, (16, 3)).astype(np.float32)
        hit = random.random(action.shape) < 0.1
        action[hit] = random.choice(np.array(garbage, np.float32), hit.sum())
        desk.step(action)
        position, state, ask, bid, taker = whole(
            desk, "position", "risk_state", "ask_lots", "bid_lots", "taker_lots"
        )
        idle = (ask == 0) & (bid == 0) & (taker == 0)
        assert (np.abs(position) <= limit).all()
        # Even if the market order is filled last, or all else is.
        assert (before + bid + np.maximum(taker, 0) <= np.maximum(limit, before)).all()
        assert (before - ask + np.minimum(taker, 0) >= np.minimum(-limit, before)).all()
        assert idle[~np.isfinite(action).all(axis=1)].all()
        assert (ask * np.maximum(taker, 0) == 0).all()
        assert (bid * np.maximum(-taker, 0) == 0).all()
        assert (since[taker != 0] >= spacing).all()
        since = np.where(taker != 0, 1, since + 1)
        assert (state[halted] == HALTED).all()
        halted |= state == HALTED
        assert idle[halted].all()
        assert (np.abs(position) <= np.abs(before))[(state == REDUCING) | halted].all()
        before = position


def test_market_orders_reach_every_state():
    """The properties above would hold for a desk that never takes, or is never stopped."""
    risk = {"daily_loss_limit": 6.0, "reducing_at": 0.5}
    config = make_config("brownian", quote={"name": "taker", **BOX}, risk=risk, start_inventory=10)
    desk = started(config, 64, 0)
    seen = set()
    for _ in range(60):
        desk.step(np.random.default_rng(0).uniform(-1, 1, (64, 3)).astype(np.float32))
        seen |= set(
            zip(desk.get("risk_state").tolist(), np.sign(desk.get("taker_lots")).tolist(), strict=True)
        )
    assert {(state, lots) for state in (0, REDUCING) for lots in (-1, 0, 1)} | {(HALTED, 0)} == seen


@pytest.mark.parametrize("market", MARKETS)
def test_one_environment_and_many_give_the_same_bytes(market):
    quote = {"name": "taker"}
    assert action_space(make_config(market, quote=quote)).shape == (3,)
    same_alone(market=market, quote=quote, horizon=9, start_inventory=4, risk={"taker_spacing": 3})


@settings(max_examples=60, deadline=None)
@given(most=st.integers(1, 50), threshold=st.none() | st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_every_number_of_lots_can_be_asked_for(most, threshold, seed):
    """`to_action` and `to_lots` are inverses, and are what the desk does."""
    risk = {"position_limit": 200}
    quote = {"name": "taker", "taker_lots": most, "taker_threshold": threshold, **BOX}
    config = make_config("brownian", quote=quote, risk=risk)
    lots = np.random.default_rng(seed).integers(-most, most + 1, 64)
    lots[:2] = -most, most
    actions = config.quote.to_action(np.full(64, 1.0), np.full(64, 2.0), lots)
    assert (config.quote.to_lots(actions) == lots).all()
    ask, bid = config.quote.to_distances(actions)
    np.testing.assert_allclose([ask, bid], [np.full(64, 1.0), np.full(64, 2.0)], atol=1e-5)
    desk = started(config, 64, 0)
    desk.step(actions)
    assert (taken_of(desk)[0] == lots).all()
    assert (config.quote.to_lots(config.quote.to_action(1.0, 2.0)[None]) == 0).all()


def test_surprises_keep_their_mean_of_zero():
    """Lots of our own market orders are no news."""
    n = 16_000
    features = ("inventory", "clock", "surprise")
    config = make_config("brownian", quote={"name": "taker", **BOX}, features=features)
    names = observation_names(config)
    columns = [names.index(f"{side}_fill_surprise") for side in ("ask", "bid")]
    desk = started(config, n, 0)
    taken = np.random.default_rng(0).integers(-1, 2, (30, n))
    total = np.zeros((2, n))
    for lots in taken:
        ask, bid = np.full(n, 0.4), np.full(n, 0.8)
        total += desk.step(config.quote.to_action(ask, bid, lots)).observations[:, columns].T
    error = total.std(axis=1) / np.sqrt(n)
    assert (np.abs(total.mean(axis=1)) < 4 * error).all()


def test_touch_taker_is_touch_and_a_market_order():
    """While it sends none it is `touch` to the last bit; what it sends are the lots of the third number."""
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 64, 3)).astype(np.float32)
    quiet = actions * np.array([1, 1, 0.89], np.float32)
    touch = started(make_config("book", quote={"name": "touch"}), 64, 0)
    both = started(make_config("book", quote={"name": "touch-taker", "taker_threshold": 0.9}), 64, 0)
    for t in range(60):
        told, same = touch.step(actions[t, :, :2]), both.step(quiet[t])
        assert told.observations.tobytes() == same.observations.tobytes()
        assert told.rewards.tobytes() == same.rewards.tobytes()
    config = make_config("book", quote={"name": "touch-taker", "taker_lots": 2, "taker_threshold": 0.5})
    desk = started(config, 64, 0)
    sent = np.zeros(64, bool)
    for t in range(60):
        position, bids, asks = whole(desk, "position", "best_bid_lots", "best_ask_lots")
        desk.step(actions[t])
        asked, (filled, edge) = config.quote.to_lots(actions[t]), taken_of(desk)
        free = abs(position) + 2 <= config.risk.position_limit
        assert (filled[free] == np.clip(asked, -bids, asks)[free]).all()
        assert (edge[filled != 0] < 0).all()
        sent |= filled != 0
    assert sent.all()
    with pytest.raises(ConfigError, match="taker_threshold = None"):
        make_config("book", quote={"name": "touch-taker", "taker_threshold": None})
    with pytest.raises(ConfigError, match=r"touch-taker.*book"):
        make_config("brownian", quote={"name": "touch-taker"})


def test_what_a_market_does_not_fill_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Quotes(Brownian):
        takes_market_orders = False

    with pytest.raises(ConfigError, match=r"quote = 'taker' .*'spread-skew'.*'brownian' does not fill them"):
        make_config(Quotes(), quote={"name": "taker"})
    for bad, words in (
        ({"taker_lots": 0}, "taker_lots = 0 .* from 1"),
        ({"taker_threshold": 1.0}, "taker_threshold = 1.0 .* to 0.99"),
        ({"half_spread": -1.0}, "half_spread = -1.0 .* from 0"),
        ({"taker_fee_bp": 1000}, "taker_fee_bp = 1000 .* to 100"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_config("brownian", quote={"name": "taker", **bad})
    with pytest.raises(ConfigError, match=r"taker_spacing = 0 .*from 1"):
        make_config("brownian", risk={"taker_spacing": 0})
