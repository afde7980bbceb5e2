"""A maker of exponential utility: the exact optimum of `brownian`, and what a learner is taught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.engine.state import LEDGER
from policies.make import make_policy
from policies.optimal import solve
from policies.solver.recursion import evaluate_tabular
from train.baselines import scale
from train.learner.buffer import TimeMajorBuffer
from train.learner.vec_env import NeuralMMVecEnv
from train.objective import certain
from train.simulate import simulate


def _config(gamma: float, **settings: object) -> EnvConfig:
    return make_config("brownian", reward={"risk_aversion": gamma}, **settings)


def test_no_pair_of_distances_on_a_grid_is_better_and_a_plain_expectation_agrees() -> None:
    """An independent dynamic programme: expected utilities themselves, the best pair found by trying all."""
    gamma = 0.3
    config = _config(gamma, horizon=4, risk={"position_limit": 2})
    market, reward = config.market, config.reward
    arrival = 1 - math.exp(-market.arrival_rate * market.step_seconds)
    grid = np.linspace(0, config.quote.max_distance, 401)
    a, b = grid[:, None], grid[None, :]
    positions = range(-2, 3)
    losses = {q: math.exp(gamma * reward.terminal_penalty * q * q) for q in positions}
    for _ in range(config.horizon):
        ended = {
            q: losses[q]
            * math.exp(gamma * reward.inventory_penalty * q * q + gamma**2 * market.volatility**2 * q * q / 2)
            for q in positions
        }
        for q in positions:
            u = arrival * np.exp(-market.fill_decay * a) * (q > -2)
            v = arrival * np.exp(-market.fill_decay * b) * (q < 2)
            sold, bought = np.exp(-gamma * a), np.exp(-gamma * b)
            expected = (1 - u) * (1 - v) * ended[q] + u * v * sold * bought * ended[q]
            expected = expected + u * (1 - v) * sold * ended.get(q - 1, 0.0)
            expected = expected + (1 - u) * v * bought * ended.get(q + 1, 0.0)
            losses[q] = float(expected.min())
    tried = [-math.log(losses[q]) / gamma for q in positions]
    exact = solve(config, "optimum")
    assert (exact.values >= np.array(tried) - 1e-12).all()
    assert exact.values == pytest.approx(tried, abs=1e-3)
    assert evaluate_tabular(config, exact.ask[:, 0], exact.bid[:, 0]) == pytest.approx(exact.values, abs=1e-6)


def test_little_aversion_is_the_mean_and_more_of_it_costs() -> None:
    values = [solve(_config(gamma), "optimum").value for gamma in (1e-6, 0.01, 0.03, 0.1)]
    assert values[0] == pytest.approx(solve(make_config("brownian"), "optimum").value, abs=1e-3)
    assert values == sorted(values, reverse=True)


def test_simulated_certainty_equivalents_are_the_exact_ones() -> None:
    config = _config(0.1)
    found = simulate(make_policy("optimum", config), config, 4096)
    exact, measure = solve(config, "optimum").value, scale(config)
    assert measure is not None
    assert measure.one == pytest.approx(exact, abs=1e-9)
    error = found.controlled.std() / np.sqrt(4096)
    assert abs(found.value().mean - exact) < 4 * error
    plain = -np.log(np.exp(-0.1 * found.returns).mean()) / 0.1
    assert found.value().mean == pytest.approx(plain)
    averse = make_policy("optimum", config)
    bold = simulate(make_policy("optimum", make_config("brownian")), config, 4096)
    assert bold.returns.mean() > found.returns.mean()
    assert simulate(averse, config, 4096).minus(bold).low > 0


def test_intervals_are_those_of_certainty_equivalents() -> None:
    """Over many samples the interval of `certain` has the spread that certainty equivalents have."""
    rng = np.random.default_rng(0)
    samples = rng.normal(3, 2, (400, 1000))
    means = np.array([certain(row, 0.5).mean() for row in samples])
    assert means.mean() == pytest.approx(3 - 0.5 * 4 / 2, abs=0.02)
    told = np.mean([certain(row, 0.5).std() / np.sqrt(1000) for row in samples])
    assert told == pytest.approx(means.std(), rel=0.1)


def test_the_learner_is_paid_the_certainty_equivalent_of_normal_noise() -> None:
    """Who holds a position and quotes far away is paid what the utility of the real rewards says."""
    gamma = 0.2
    config = _config(gamma, start_inventory=5, quote={"max_distance": 60.0, "max_half_spread": 60.0})
    paid = []
    for control in (True, False):
        envs = NeuralMMVecEnv(config, 40_000, seed=3, control_variate=control)
        envs.reset()
        paid.append(envs.step(np.tile(np.float32([1.0, 0.0]), (40_000, 1)))[1].astype(float))
        held = envs.envs.ledger[LEDGER.index("position")]
        envs.close()
    learned, real = paid
    for position in np.unique(held):
        mine = held == position
        utilities = np.exp(-gamma * real[mine])
        equivalent = -np.log(utilities.mean()) / gamma
        error = utilities.std() / np.sqrt(mine.sum()) / utilities.mean() / gamma
        assert np.ptp(learned[mine]) < 1e-4
        assert abs(learned[mine].mean() - equivalent) < 4 * error + 1e-4


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_residuals_have_mean_zero_where_the_critic_knows_certainty_equivalents(gae_lambda: float) -> None:
    steps, n, aversion = 3, 20_000, 0.8
    box = spaces.Box(-1, 1, (1,))
    cpu = torch.device("cpu")
    buffer = TimeMajorBuffer(steps, n, steps, box, box, (1, 1), cpu, cpu, 1.0, gae_lambda, 0, aversion)
    rewards = np.random.default_rng(1).gamma(2.0, 0.5, (steps, n))
    one = 2.0 * math.log(1 + 0.5 * aversion) / aversion  # of a gamma-distributed reward
    for step in range(steps):
        values = np.full(n, (steps - step) * one, np.float32)
        buffer.store(step, np.zeros((n, 1)), np.zeros((n, 1)), values, np.zeros(n))
    buffer.rewards[:], buffer.episode_starts[1:] = rewards, False
    buffer.compute_returns_and_advantage(np.zeros(n), np.ones(n, bool))
    advantages = buffer.advantages.numpy()
    assert (np.abs(advantages.mean(axis=1)) < 4 * advantages.std(axis=1) / np.sqrt(n)).all()
    assert (advantages.mean(axis=1) - (rewards.mean() - one) < -0.05).all()  # the mean pays more


@pytest.mark.parametrize(("market", "kind"), [("hidden-regime", "blind"), ("bursts", "optimum")])
def test_other_markets_say_that_they_have_no_exact_optimum(market: str, kind: str) -> None:
    with pytest.raises(ConfigError, match="must be 'brownian' itself"):
        solve(
            make_config(market, reward={"risk_aversion": 0.1}), "optimum" if market == "bursts" else "blind"
        )


def test_a_negative_aversion_is_refused_and_none_leaves_no_trace() -> None:
    with pytest.raises(ConfigError, match=r"risk_aversion = -0\.1"):
        _config(-0.1)
    assert _config(0.0).schema_id == make_config("brownian").schema_id
    assert make_config(**_config(0.1).to_dict()) == _config(0.1)


def test_noise_of_unknown_variance_costs_its_certainty_equivalent_on_average() -> None:
    """Who holds a position through an episode: what is paid has the mean that the utility of it all says."""
    gamma, paid = 0.05, []
    config = make_config(
        "hidden-regime",
        horizon=20,
        reward={"risk_aversion": gamma},
        start_inventory=4,
        quote={"max_distance": 60.0, "max_half_spread": 60.0},
    )
    assert config.market.noise_variance is None
    for control in (True, False):
        envs = NeuralMMVecEnv(config, 20_000, seed=4, control_variate=control)
        envs.reset()
        still = np.tile(np.float32([1.0, 0.0]), (20_000, 1))
        paid.append(sum(envs.step(still)[1].astype(float) for _ in range(20)))
        assert envs.surprises is None
        envs.close()
    learned, real = paid
    truth, spread = certain(real, gamma).mean(), certain(real, gamma).std() / np.sqrt(20_000)
    assert abs(certain(learned, gamma).mean() - truth) < 3 * spread
    free = learned + gamma * (real - learned).var() / 2  # as if noise cost nothing
    assert certain(free, gamma).mean() - truth > 6 * spread
    assert learned.std() < 0.8 * real.std()
