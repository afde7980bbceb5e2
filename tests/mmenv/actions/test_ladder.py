"""Several levels a side: where they stand, what is filled of them, limits, and money to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from mmenv.actions.ladder import Ladder
from mmenv.actions.taker import Taker
from mmenv.config import EnvConfig, check_orders
from mmenv.desk.desk import Desk
from mmenv.engine.state import HALTED, REDUCING
from mmenv.market.replay import Replay
from mmenv.observation import observation_names
from tests.helpers.alone import same_alone

MARKETS = ("brownian", "hidden-regime", "correlated", "bursts")
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0)


def started(config: EnvConfig, n: int, seed: int) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(seed, seed + n))
    desk.reset()
    return desk


def beta_lots(order_lots: int, levels: int, near: float, far: float) -> np.ndarray:
    """Lots of each level by the docstring of `mmenv.actions.ladder`; not where float32 could round them to
    others."""
    middle = (np.arange(levels) + 0.5) / levels
    weight = middle ** (near - 1) * (1 - middle) ** (far - 1)
    up_to = order_lots * np.cumsum(weight) / weight.sum() + 0.5
    assume((np.abs(up_to - np.rint(up_to)) > 1e-4).all())
    return np.diff(np.floor(up_to), prepend=0).astype(int)


@settings(max_examples=25, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    seed=st.integers(0, 2**30),
    levels=st.integers(1, 8),
    lots=st.integers(1, 8),
    limit=st.integers(8, 12),
    shapes=st.tuples(st.floats(0.26, 3.9), st.floats(0.26, 3.9)),
)
def test_levels_are_filled_as_an_independent_count_has_it(market, seed, levels, lots, limit, shapes):
    """Each level by its own distance and the reach of the orders of others; limits keep the nearest."""
    quote = {"name": "ladder", "levels": levels}
    config = make_config(market, quote=quote, horizon=40, risk={"position_limit": limit, "order_lots": lots})
    desk, n = started(config, 30, seed), 30
    random, unit = np.random.default_rng(seed), config.market.price_scale
    each = beta_lots(lots, levels, *shapes)
    assert each.sum() == lots
    gained, filled = np.zeros(n), 0
    for _ in range(40):
        mid, before = desk.get("mid").astype(int), desk.get("position").astype(int)
        ask, bid, ask_step, bid_step = random.uniform(0, 1.5, (4, n))
        action = config.quote.to_action(ask, bid, ask_step, bid_step, *shapes)
        asked = config.quote.to_levels(action)
        step = desk.step(action)
        for side, name, room in ((1, "ask", limit + before), (-1, "bid", limit - before)):
            wanted = asked[0 if side > 0 else 1] * unit
            exact = mid[:, None] + side * wanted
            price = side * 2 * np.ceil(side * exact / 2 - 1e-3)  # outward to a tick, as float32 has it
            left = np.minimum(np.cumsum(each), np.clip(room, 0, None)[:, None])
            here = np.diff(left, prepend=0)
            reach = desk.get(f"{name}_reach")[:, None]
            near = np.abs(reach - side * (price - mid[:, None])) > 3  # or rounding decides
            sure = near.all(axis=1)
            hit = reach >= side * (price - mid[:, None])
            assert (desk.get(f"{name}_fill") == (here * hit).sum(axis=1))[sure].all()
            edge = (here * hit * side * (price - mid[:, None])).sum(axis=1)
            assert (np.abs(desk.get(f"{name}_edge") - edge) <= 2 * lots)[sure].all()
            filled += hit.sum()
        rows = step.ledger_rows
        gained += rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(rows["wealth"], gained, rtol=1e-9, atol=1e-9)
        assert (np.abs(desk.get("position")) <= limit).all()
    assert filled > 20


@settings(max_examples=20, deadline=None)
@given(
    market=st.sampled_from(MARKETS),
    seed=st.integers(0, 2**30),
    limit=st.integers(1, 6),
    lots=st.integers(1, 6),
    loss=st.floats(0.5, 60),
    garbage=st.lists(st.sampled_from(GARBAGE), min_size=2, max_size=7),
)
def test_limits_hold_whatever_the_policy_says(market, seed, limit, lots, loss, garbage):
    risk = {"position_limit": limit, "order_lots": min(lots, limit), "daily_loss_limit": loss}
    config = make_config(market, horizon=80, quote={"name": "ladder", "levels": 3}, risk=risk)
    desk = started(config, 16, seed)
    random, halted = np.random.default_rng(seed), np.zeros(16, bool)
    before = desk.get("position").astype(np.int64)
    for _ in range(80):
        action = random.uniform(-1, 1, (16, 6)).astype(np.float32)
        hit = random.random(action.shape) < 0.1
        action[hit] = random.choice(np.array(garbage, np.float32), hit.sum())
        desk.step(action)
        position, state = desk.get("position").astype(np.int64), desk.get("risk_state")
        idle = (desk.get("ask_lots") == 0) & (desk.get("bid_lots") == 0)
        assert (np.abs(position) <= limit).all()
        assert idle[~np.isfinite(action).all(axis=1)].all()
        assert (state[halted] == HALTED).all()
        halted |= state == HALTED
        assert idle[halted].all()
        assert (position == before)[idle].all()
        assert (np.abs(position) <= np.abs(before))[(state == REDUCING) | halted].all()
        before = position


@pytest.mark.parametrize("market", MARKETS)
def test_one_environment_and_many_give_the_same_bytes(market):
    quote = {"name": "ladder", "levels": 3}
    same_alone(market=market, quote=quote, horizon=9, start_inventory=4, risk={"order_lots": 4})


def test_surprises_keep_their_mean_of_zero():
    """They count the mean of each level."""
    n = 16_000
    config = make_config(
        "brownian", quote={"name": "ladder", "levels": 3}, risk={"order_lots": 4, "position_limit": 6},
        features=("inventory", "clock", "surprise"),
    )  # fmt: skip
    names = observation_names(config)
    columns = [names.index(f"{side}_fill_surprise") for side in ("ask", "bid")]
    desk, total = started(config, n, 0), np.zeros((2, n))
    random = np.random.default_rng(0)
    for _ in range(30):
        ask, bid, ask_step, bid_step = random.uniform(0, 1, (4, n))
        action = config.quote.to_action(ask, bid, ask_step, bid_step, 2.0, 1.0)
        total += desk.step(action).observations[:, columns].T
    error = total.std(axis=1) / np.sqrt(n)
    assert (np.abs(total.mean(axis=1)) < 4 * error).all()


class OneOrder(Replay):
    """A market of one order a side, without market orders."""

    takes_levels = takes_market_orders = False


def test_a_market_of_single_orders_refuses_a_ladder():
    with pytest.raises(ConfigError, match=r"quote = 'ladder' .*'spread-skew'.* has no more"):
        check_orders(OneOrder(store="store"), Ladder())
    with pytest.raises(ConfigError, match=r"quote = 'taker' .*'spread-skew'.* does not fill them"):
        check_orders(OneOrder(store="store"), Taker())
    for bad, words in (
        ({"levels": 9}, "levels = 9 .* to 8"),
        ({"max_step": 0.0}, "max_step = 0.0"),
        ({"requote_ticks": 1}, "requote_ticks = 1 .* 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_config("brownian", quote={"name": "ladder", **bad})
