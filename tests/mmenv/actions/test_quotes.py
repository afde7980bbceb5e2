"""Actions where there is a book: what is asked for on the grid is quoted, sides are left, orders held."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from mmenv.desk.desk import Desk
from mmenv.observation import observation_names

N = 64


def desk_of(**settings_) -> Desk:
    desk = Desk(make_config("book", **settings_), N, autoreset=False)
    desk.seed(range(N))
    desk.reset()
    return desk


@settings(max_examples=40, deadline=None)
@given(
    width=st.floats(3.0, 60.0),
    skew=st.floats(1.0, 60.0),
    ticks=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    price=st.integers(100, 2**20),
    seed=st.integers(0, 100),
)
def test_a_price_on_the_grid_is_quoted(width, skew, ticks, price, seed):
    """For every box, side, parity of the spread and level of price."""
    skew = max(skew, abs(ticks[0] - ticks[1]) + 0.5)
    box = {"max_half_spread": width + 6, "max_skew": skew, "max_distance": width + 5}
    desk = Desk(make_config({"name": "book", "start_price": price}, quote=box), N, autoreset=False)
    desk.seed(range(seed, seed + N))
    desk.reset()
    for _ in range(6):
        half = desk.get("spread") // 2
        ask, bid = half + 2 * ticks[0], half + 2 * ticks[1]
        desk.step(desk.config.quote.to_action(ask.astype(float), bid.astype(float)))
        assert (desk.get("ask_distance") == ask).all()
        assert (desk.get("bid_distance") == bid).all()
        assert (desk.get("ask_lots") == 1).all()


def test_a_side_is_left_by_the_action():
    """One side, the other, or both: nothing rests there and nothing is filled."""
    desk = desk_of()
    names = observation_names(desk.config)
    column = {side: names.index(f"{side}_order_lots") for side in ("ask", "bid")}
    touch, left = np.full(N, 1.0), np.full(N, np.inf)
    for ask, bid in ((touch, touch), (left, touch), (touch, left), (left, left)):
        for _ in range(5):
            step = desk.step(desk.config.quote.to_action(ask, bid))
        assert (desk.get("ask_lots") == (ask < 9)).all()
        assert (desk.get("bid_lots") == (bid < 9)).all()
        for side, distance in (("ask", ask), ("bid", bid)):
            if distance[0] > 9:
                assert (step.observations[:, column[side]] == 0).all()
    assert np.isinf(desk.config.quote.to_distances(desk.config.quote.to_action(left, left))[0]).all()


def test_the_solvable_markets_keep_their_formulas():
    config = make_config("brownian")
    assert not config.quote.withdraw
    assert "withdraw" not in config.to_dict()["quote"]


def test_orders_are_held_within_the_threshold():
    """An order one tick behind the price asked for stays, and ages; beyond the threshold it moves."""
    box = {"max_half_spread": 12.0, "max_skew": 12.0, "max_distance": 11.0}
    for threshold, stays in ((0, False), (1, True)):
        desk = desk_of(quote={**box, "requote_ticks": threshold})
        half = (desk.get("spread") // 2).astype(float)
        desk.step(desk.config.quote.to_action(half + 6, half + 6))
        placed, lots = desk.get("own_ask"), desk.get("own_ask_lots")
        half = (desk.get("spread") // 2).astype(float)
        near = desk.config.quote.to_action(placed - desk.get("mid") - 2.0, half + 6)
        desk.step(near)
        kept = (desk.get("own_ask") == placed)[lots > 0]
        assert kept.all() if stays else not kept.any()


@pytest.mark.parametrize("action", ["spread-skew", "touch"])
def test_positions_stay_within_their_limit(action):
    """Whatever is asked for, not a number included."""
    desk = Desk(make_config("book", quote={"name": action}, risk={"position_limit": 2}), N, autoreset=False)
    desk.seed(range(N))
    desk.reset()
    random = np.random.default_rng(0)
    for _ in range(200):
        actions = random.uniform(-1.5, 1.5, (N, 2)).astype(np.float32)
        actions[random.random(N) < 0.05] = np.nan
        desk.step(actions)
        assert (np.abs(desk.get("position")) <= 2).all()


def test_touch_stands_where_it_says():
    desk = desk_of(quote={"name": "touch"})
    half = desk.get("spread") // 2
    desk.step(np.tile(np.array([0.25, -0.25], np.float32), (N, 1)))
    assert (desk.get("ask_distance") == half).all()
    assert (desk.get("bid_distance") == half + 2).all()
    desk.step(np.tile(np.array([-0.75, 0.25], np.float32), (N, 1)))
    assert (desk.get("ask_lots") == 0).all()


def test_innovations_and_surprises_have_mean_zero():
    """What is taken off the rewards, and the surprises of our fills, average to zero given what is known and
    what is quoted, to four errors of ten million decisions: by imbalance, mispricing, activity and the lots
    ahead of us, for orders that hold their place at the touch or a tick behind it."""
    n, bins = 16_896, np.array([-0.6, -0.2, 0.2, 0.6])
    published = ("order_flow_noise", "ask_fill_surprise", "bid_fill_surprise")
    base = make_config("book")
    config = dataclasses.replace(base, features=(*base.features, "latent"))
    names = observation_names(config)
    columns = [names.index(name) for name in ("book_imbalance", "latent", "activity", "ask_order_ahead")]
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(n))
    seen = desk.reset()[:, columns]
    total, squares, count = np.zeros((3, len(published), len(columns), 10))
    for step in range(config.horizon):
        half = (desk.get("spread") / 2).astype(float)
        near = (np.arange(n) + step // 20) % 2
        after = desk.step(config.quote.to_action(half + 2 * near, half + 2 * near))
        drawn = [desk.get(name).astype(float) for name in published]
        for column, values in enumerate(seen.T):
            middle, width = (0.0, 1.0) if column == 0 else (np.median(values), values.std() + 1e-9)
            cell = 2 * np.digitize((values - middle) / width, bins) + near
            for of, noise in enumerate(drawn):
                for into, weights in ((total, noise), (squares, noise**2), (count, np.ones(n))):
                    into[of, column] += np.bincount(cell, weights, minlength=10)
        seen = after.observations[:, columns]
    assert (count[:, 0].sum(axis=1) == n * config.horizon).all()
    large = count > 1000
    assert (np.abs(total) <= 4 * np.sqrt(squares))[large].all()
    assert (large.sum(axis=(1, 2)) > 25).all()
    assert (squares[1:, 0, ::2].sum(axis=1) > 0.01 * n * config.horizon).all()


@pytest.mark.parametrize("market", ["brownian", "hidden-regime", "correlated", "bursts"])
def test_the_touch_is_refused_where_there_is_no_book(market):
    with pytest.raises(ConfigError, match=rf"quote = 'touch' .*'spread-skew'.*{market!r} has no book"):
        make_config(market, quote={"name": "touch"})


def test_an_unknown_action_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r"tuoch.*Did you mean 'touch'"):
        make_config("book", quote={"name": "tuoch"})
