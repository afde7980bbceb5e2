"""Several orders a side in the queues of `book`: fills level by level, money, limits, one order as before."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.engine.state import HALTED
from mmenv.observation import observation_names
from tests.helpers.alone import same_alone
from tests.helpers.ladders import as_of_one_order

N = 64
FEATURES = ("trade_book", "inventory", "clock", "orders", "queues", "surprise")


def config_of(quote: dict, lots: int, limit: int = 10_000, latency: int = 0, **more) -> EnvConfig:
    risk = {"order_lots": lots, "position_limit": limit} | more.pop("risk", {})
    market = {"name": "book", "latency_steps": latency}
    return make_config(market, horizon=200, quote=quote, risk=risk, features=FEATURES, **more)


def started(config: EnvConfig, n: int = N) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(n))
    desk.reset()
    return desk


@pytest.mark.parametrize("latency", [0, 3])
def test_a_ladder_of_one_order_is_that_of_spread_and_skew(latency):
    """One level, or three at one price: observations, rewards and fills, byte for byte, limits cut or not.
    Where there may be three, no second is seen."""
    quotes = {"name": "spread-skew"}, *({"name": "ladder", "levels": levels} for levels in (1, 3))
    desks = [started(config_of(quote, 3, 4, latency)) for quote in quotes]
    random, fills = np.random.default_rng(0), 0
    for _ in range(150):
        action = random.uniform(-1, 1, (N, 6)).astype(np.float32)
        action[:, 0] = -1 + 0.2 * random.integers(0, 3, N)
        action[:, 1] *= random.choice([0.0, 0.1], N)
        action[:, 2:4] = -1
        plain, *others = [desk.step(action[:, : desk.actions.shape[1]]) for desk in desks]
        for desk, other in zip(desks[1:], others, strict=True):
            seen = as_of_one_order(desk.config, other.observations)
            assert plain.observations.tobytes() == seen.tobytes()
            assert plain.rewards.tobytes() == other.rewards.tobytes()
        fills += int(desks[0].get("ask_fill").sum())
    assert fills > 100


def test_each_level_is_filled_as_it_would_be_alone():
    """Nothing of ours moves the market, so both levels of a ladder can be played alone on the same paths: the
    nearest is filled as it is there, the one behind no more, and as much where the nearest is not.

    While the mid stands where the episode began; later, orders may keep a place that they had in the other.
    """
    unit = config_of({"name": "ladder"}, 1).market.price_scale
    step = 2 / unit  # a tick
    ladder = started(config_of({"name": "ladder", "levels": 2, "max_step": step}, 5), 1000)
    near, far = (started(config_of({"name": "spread-skew"}, lots), 1000) for lots in (2, 3))
    asked = ladder.config.quote.to_action(0.1, 0.1, step, step, 1.0, 0.8)
    pair = [near.config.quote.to_action(0.1 + k * step, 0.1 + k * step) for k in (0, 1)]
    total, behind = np.zeros(2, int), 0
    for k in range(60):
        if k % 12 == 0:
            [desk.reset() for desk in (ladder, near, far)]
            stands, start = np.ones(1000, bool), ladder.get("mid")
        for desk, action in zip((ladder, near, far), (asked, *pair), strict=True):
            desk.step(np.tile(action, (1000, 1)))
        for side in ("ask", "bid"):
            ours, first, second = (desk.get(f"{side}_fill")[stands] for desk in (ladder, near, far))
            assert (first <= ours).all()
            assert (ours <= first + second).all()
            assert (ours == second)[first == 0].all()
            edges = [desk.get(f"{side}_edge")[stands] for desk in (ladder, near, far)]
            assert (edges[0] == edges[1])[second == 0].all()
            assert (edges[0] == edges[2])[first == 0].all()
            total += first.sum(), second.sum()
            behind += int((ours - first).sum())
        stands &= ladder.get("mid") == start
    lots = np.diff(ladder.stages.market[1].own["ladder"]["before"][0, :3, 0])
    assert lots.tolist() == [2, 3]
    assert total.min() > 30
    assert 0 < behind <= total[1]


def test_money_is_exact_and_limits_hold():
    """Wealth recounted from fills and their edges; garbage and losses quote nothing."""
    config = config_of({"name": "ladder", "levels": 4}, 6, 8, 2, risk={"daily_loss_limit": 200.0})
    desk, random = started(config), np.random.default_rng(1)
    cash, position, halted, fills = np.zeros(N), np.zeros(N, int), np.zeros(N, bool), 0
    for _ in range(200):
        action = random.uniform(-1, 1, (N, 6)).astype(np.float32)
        action[:, :2] = action[:, :2] * 0.1 - [0.9, 0]
        action[random.random(action.shape) < 0.01] = np.nan
        mid = desk.get("mid").astype(float)
        desk.step(action)
        sold, bought = desk.get("ask_fill"), desk.get("bid_fill")
        cash += sold * mid + desk.get("ask_edge") - bought * mid + desk.get("bid_edge")
        position += bought - sold
        assert (position == desk.get("position")).all()
        assert (np.abs(position) <= 8).all()
        np.testing.assert_array_equal(desk.get("pnl"), cash + position * desk.get("mid"))
        idle = ~np.isfinite(action).all(axis=1) | halted
        assert not (desk.get("ask_lots") + desk.get("bid_lots"))[idle].any()
        halted |= desk.get("risk_state") == HALTED
        fills += int((sold + bought).sum())
    assert fills > 1000


def test_one_environment_and_many_give_the_same_bytes():
    quote = {"name": "ladder", "levels": 3}
    same_alone(market="book", quote=quote, horizon=9, start_inventory=4, risk={"order_lots": 4})


def test_surprises_keep_their_mean_of_zero():
    """They count what the nearer levels take in the mean as well."""
    config = config_of({"name": "ladder", "levels": 3}, 9)
    desk, random = started(config), np.random.default_rng(2)
    names = observation_names(config)
    columns = [names.index(f"{side}_fill_surprise") for side in ("ask", "bid")]
    sums = []
    for _ in range(200):
        action = random.uniform(-1, 1, (N, 6)).astype(np.float32)
        action[:, :2] = [-0.95, 0.0]
        sums.append(desk.step(action).observations[:, columns])
    means = np.array(sums).mean(axis=0)  # (N, 2), each of a path of its own
    assert np.abs(np.array(sums)).max() > 1
    assert (np.abs(means.mean(axis=0)) < 4 * means.std(axis=0) / np.sqrt(N)).all()
