"""Several quoted assets: lanes of the compiled step that add up to one environment."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from mmenv import ConfigError, make_config
from mmenv.desk.basket import BasketDesk
from mmenv.desk.desk import Desk
from mmenv.env import NeuralMMEnv
from mmenv.market.basket import Basket
from mmenv.observation import observation_names
from mmenv.vector import NeuralMMVectorEnv
from policies.make import make_policy

THREE = {"name": "basket", "count": 3, "volatilities": [1.0, 2.0, 0.5], "loadings": [0.9, -0.6, 0.3]}


def started(config, n, seed=0, **settings):
    desk = BasketDesk(config, n, autoreset=False, **settings)
    desk.seed(range(seed, seed + n))
    return desk


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(2, 8),
    seed=st.integers(0, 2**40),
    fee=st.floats(-5, 5),
    lots=st.integers(1, 3),
    spread=st.floats(-1, 1),
)
def test_identity_of_each_asset_and_of_the_whole(count, seed, fee, lots, spread):
    """Cash and positions recounted from the fills are the wealth of the ledger, to the last bit, and the
    penalty is that of all positions together."""
    n, horizon, phi, alpha = 9, 40, 0.03, 0.7
    config = make_config(
        {"name": "basket", "count": count, "loadings": (0.9, -0.5)},
        maker_fee_bp=round(fee, 2),
        risk={"order_lots": lots},
        horizon=horizon,
        start_inventory=3,
        reward={"inventory_penalty": phi, "terminal_penalty": alpha},
    )
    desk = started(config, n, seed)
    desk.reset()
    mid, unit = desk.get("mid").astype(np.int64), config.market.price_scale
    first = desk.get("position").astype(np.int64) * mid
    assert len(np.unique(desk.get("position"), axis=1)) == n  # assets start apart from each other
    cash = np.zeros((n, count), np.int64)
    random = np.random.default_rng(seed)
    for t in range(horizon):
        out = desk.step(np.clip(random.normal(spread, 0.7, (n, 2 * count)), -1, 1))
        sold, bought = desk.get("ask_fill").astype(np.int64), desk.get("bid_fill").astype(np.int64)
        cash += sold * (mid + desk.get("ask_distance")) - bought * (mid - desk.get("bid_distance"))
        mid, position = desk.get("mid").astype(np.int64), desk.get("position").astype(np.int64)
        rows = {name: row.copy() for name, row in out.ledger_rows.items()}
        gained = cash + position * mid - first
        assert (desk.get("pnl") == gained).all()
        for k in range(count):
            own = {name: rows[f"asset_{k + 1}_{name}"] for name in ("wealth", "position", "fees")}
            fees = desk.get("fees")[:, k] * (1 / unit / 1_000_000)
            assert (own["wealth"] == gained[:, k] / unit - fees).all()
            assert (own["position"] == position[:, k]).all()
        for name in ("spread_capture", "adverse_selection", "carry", "fees", "wealth", "fills", "position"):
            parts = [rows[f"asset_{k}_{name}"] for k in range(1, count + 1)]
            np.testing.assert_allclose(rows[name], np.sum(parts, axis=0), rtol=0, atol=1e-12)
        weight = phi + (alpha if t == horizon - 1 else 0.0)
        penalty = weight * np.einsum("ni,ij,nj->n", position, config.market.covariance, position)
        np.testing.assert_allclose(rows["inventory_penalty"], penalty, rtol=1e-12, atol=1e-12)
        profit = rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(out.rewards, profit - penalty, rtol=1e-9, atol=1e-9)
    assert out.terminated.all()


def test_bytes_do_not_depend_on_the_number_of_environments_or_threads():
    """300 environments of 3 assets, whose lanes lie across blocks, on one thread and on three; and alone."""
    config = make_config(THREE, horizon=20)
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (45, 300, 6)).astype(np.float32)
    envs = [NeuralMMVectorEnv(300, config=config, num_threads=threads) for threads in (1, 3)]
    alone = [(i, NeuralMMEnv(config=config)) for i in (0, 42, 127, 299)]
    seen = [env.reset(seed=7)[0] for env in envs]
    assert seen[0].tobytes() == seen[1].tobytes()
    for i, env in alone:
        assert env.reset(seed=7 + i)[0].tobytes() == seen[0][i].tobytes()
    for action in actions:
        one, three = (env.step(action) for env in envs)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one[:4], three[:4], strict=True))
        for i, env in alone:
            last, reward, ended, _, info = env.step(action[i])
            assert (reward, ended) == (one[1][i], one[2][i])
            assert info["ledger"] == {name: row[i] for name, row in one[4]["ledger"].items()}
            if ended:
                assert last.tobytes() == one[4]["final_obs"][i].tobytes()
                last = env.reset()[0]
            assert last.tobytes() == one[0][i].tobytes()
    state, copy = envs[0].get_state(), pickle.loads(pickle.dumps(envs[1]))
    ahead = [envs[0].step(action) for action in actions[:25]]
    envs[1].set_state(state)
    for (rows, rewards, *_), action in zip(ahead, actions, strict=False):
        for env in (envs[1], copy):
            again = env.step(action)
            assert again[0].tobytes() == rows.tobytes()
            assert again[1].tobytes() == rewards.tobytes()


@pytest.mark.parametrize("loadings", [0.95, (0.9, -0.6, 0.3), 0.0, 1.0])
def test_moves_have_the_covariance_that_is_told(loadings):
    market = {"name": "basket", "count": 3, "volatilities": [1, 2, 0.5], "loadings": loadings}
    config = make_config(market | {"step_seconds": 0.25}, horizon=10_000)
    desk, quiet = started(config, 500), np.zeros((500, 6), np.float32)
    desk.reset()
    moves = []
    for _ in range(400):
        desk.step(quiet)
        moves.append(desk.get("move") / config.market.price_scale)
    moves = np.concatenate(moves)
    told = config.market.covariance * 0.25
    size = np.sqrt(np.diag(told))
    error = (np.cov(moves.T) - told) / np.outer(size, size)
    assert np.abs(error).max() < 5 * np.sqrt(2 / len(moves))
    assert np.abs(moves.mean(axis=0) / size).max() < 5 / np.sqrt(len(moves))
    # Environments share nothing: the sum of two has the sum of their variances.
    pairs = moves.reshape(400, 250, 2, 3).sum(axis=2)
    assert pairs.var(axis=(0, 1)) == pytest.approx(2 * np.diag(told), rel=0.03)


def test_what_is_observed_of_the_factor():
    """Exposure is beta'q over its largest, and the move the conditional mean given all moves: no linear
    estimate from them correlates more with the factor."""
    config = make_config(THREE, horizon=10_000, features=("tape", "inventory", "clock"))
    market, names = config.market, observation_names(config)
    assert names.count("time_left") == 1
    desk = started(config, 64)
    desk.reset(positions=np.tile([3, -2, 1], 64).astype(np.int32))
    column = {name: at for at, name in enumerate(names)}
    out = desk.step(np.full((64, 6), 1.0, np.float32))
    moves = out.observations[:, [column[f"asset_{k}_move"] for k in (1, 2, 3)]].astype(float)
    np.testing.assert_allclose(moves, np.clip(desk.get("move") / 4096, -10, 10), rtol=1e-6)
    expected = moves @ np.linalg.solve(market.covariance, market.exposures)
    np.testing.assert_allclose(out.observations[:, column["factor_move"]], expected, rtol=1e-4, atol=1e-5)
    exposed = desk.get("position") @ market.exposures / (3 * np.abs(market.exposures).sum())
    np.testing.assert_allclose(out.observations[:, column["factor_exposure"]], exposed, rtol=1e-5, atol=1e-6)


def test_gymnasium_and_stable_baselines_take_it():
    env = gym.make("NeuralMM-v0", market=THREE, horizon=30)
    check_env(env.unwrapped, skip_render_check=True)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0)
    model.learn(128)
    action, _ = model.predict(env.reset(seed=0)[0])
    assert action.shape == (6,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Basket(count=1), "count = 1 is not possible"),
        (lambda: Basket(loadings=(0.5, 0.5, 0.5)), r"loadings = .* 1 to 2 numbers from -1 to 1"),
        (lambda: Basket(volatilities=float("nan")), "volatilities = nan"),
        (lambda: Basket(arrival_rates=()), r"arrival_rates = \(\)"),
        (lambda: make_config("basket", randomise={"maker_fee_bp": (0, 1)}), "randomise = 'maker_fee_bp'"),
        (lambda: NeuralMMEnv("basket", render_mode="ansi"), "render_mode = 'ansi'.*one quoted asset"),
        (
            lambda: Desk(make_config("basket"), 1, autoreset=False),
            "this one quotes 2",
        ),
        (lambda: make_policy("glft:gamma=0.1", make_config("basket")), "single quoted asset for this policy"),
        (lambda: NeuralMMEnv("basket").reset(options={"position": [1, 2, 3]}), "one for each of 2 assets"),
        (lambda: NeuralMMEnv("basket").reset(options={"position": [1, 4]}), "whole lots from -3 to 3"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_configuration_is_its_plain_form():
    config = make_config(THREE)
    assert make_config(**config.to_dict()) == config
