"""Mean less expected shortfall as the objective: what a policy is worth, what a learner is paid and shown."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.observation import observation_names
from mmenv.vector import NeuralMMVectorEnv
from train.learner.checkpoint import Checkpoint, load_latest, remaining_timesteps
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.learner.shortfall import SHOWN, Shortfall
from train.learner.vec_env import NeuralMMVecEnv
from train.objective import quantile, worth
from train.run import new_model, training_env
from train.settings import Settings, env_config, market_defaults

REWARD = {"shortfall_weight": 0.5, "shortfall_level": 0.1}


def test_worth_is_the_most_over_thresholds_and_its_intervals_are_right() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(3, 2, (400, 1000))
    found = [worth(row, 0.5, 0.1) for row in samples]
    returns = samples[0]
    of_thresholds = [returns.mean() + 0.5 * (z - np.maximum(z - returns, 0).mean() / 0.1) for z in returns]
    assert found[0].mean() == pytest.approx(max(of_thresholds))
    assert found[0].mean() == pytest.approx(returns.mean() + 0.5 * np.sort(returns)[:100].mean())
    means = np.array([row.mean() for row in found])
    assert np.mean([row.std() / np.sqrt(1000) for row in found]) == pytest.approx(means.std(), rel=0.1)


def test_the_threshold_follows_the_quantile_and_utility_has_the_slopes_of_the_objective() -> None:
    rule = Shortfall(2.0, 0.2, horizon=5, scale=10.0)
    rng = np.random.default_rng(1)
    for _ in range(200):
        rule.follow(rng.normal(7, 3, 40))
    assert rule.threshold == pytest.approx(7 - 0.8416 * 3, abs=0.3)
    totals = rng.normal(7, 3, 50_000)
    slopes = (rule.utility(totals + 1e-6) - rule.utility(totals - 1e-6)) / 2e-6
    assert np.unique(slopes.round(4)) == pytest.approx([1 / 3, 11 / 3], abs=1e-3)
    assert slopes.mean() == pytest.approx(1, abs=0.05)
    exact = worth(totals, 2.0, 0.2).mean()
    constant = 2.0 * rule.threshold  # U(R) - (w z) of the objective, per 1 + w
    assert 3 * rule.utility(totals).mean() + constant == pytest.approx(exact, abs=0.02)


def test_expected_utility_is_the_mean_of_utility_where_the_rest_is_normal() -> None:
    rule = Shortfall(2.0, 0.2, horizon=20, scale=10.0)
    rule.threshold, rule.mean, rule.deviation = 3.0, 6.0, 4.0
    normal = np.random.default_rng(2).normal(size=400_000)
    for total, steps, variance in ((-4.0, 0, 0.0), (2.0, 13, 5.0), (3.1, 20, 4.0), (9.0, 10, 0.0)):
        left = 1 - steps / 20
        ends = total + 6.0 * left + np.sqrt(16.0 * left + variance) * normal
        found = rule.expected(np.array([total]), np.array([steps]), variance)
        assert found == pytest.approx(rule.utility(ends).mean(), abs=0.1)
    totals = np.linspace(-5, 12, 9)
    assert rule.expected(totals, np.full(9, 20)) == pytest.approx(rule.utility(totals), abs=1e-5)


def test_what_is_paid_of_normal_noise_is_its_mean() -> None:
    rule = Shortfall(2.0, 0.2, horizon=20, scale=10.0)
    rule.threshold, rule.mean, rule.deviation = 3.0, 6.0, 4.0
    noise = np.random.default_rng(3).normal(0, 1.5, 400_000)
    rewards = 0.4 + noise
    steps = np.full(len(noise), 18)
    paid = rule.paid(rewards, 1.0 + rewards, steps)
    without = rule.paid(rewards, 1.0 + rewards, steps, noise, 1.5**2)
    assert np.ptp(without) < 1e-9
    assert without[0] == pytest.approx(paid.mean(), abs=0.01)


def test_what_surprises_are_worth_is_learned_by_the_slope_of_utility_too() -> None:
    rule = Shortfall(2.0, 0.2, horizon=20, scale=10.0)
    rule.threshold, rule.mean, rule.deviation = 3.0, 6.0, 4.0
    total, steps, step = np.array([-8.0, 3.0, 12.0]), np.full(3, 10), 1e-4
    shown = rule.shown(total, steps)
    terms = rule.terms(np.ones((3, 1), np.float32), shown, np.zeros((3, 1), np.float32))
    slopes = (rule.expected(total + step, steps) - rule.expected(total - step, steps)) / (2 * step)
    per_surprise = 1 + 1 + shown.shape[1]
    assert terms.shape == (3, 2 * per_surprise)
    assert terms[:, per_surprise] == pytest.approx(slopes, abs=0.1)


def test_the_learner_is_paid_what_it_adds_to_expected_utility_and_its_critic_shown_where_it_stands() -> None:
    config = make_config("brownian", horizon=20, reward=REWARD, start_inventory=3)
    plain, envs = (
        NeuralMMVectorEnv(64, config=config),
        NeuralMMVecEnv(config, 64, seed=4, reward_scale=0.25),
    )
    rule, surprises = envs.shortfall, envs.surprises
    assert rule is not None
    assert surprises is not None
    assert surprises.shape == (64, 1)
    rule.threshold, rule.deviation, rule.mean = 2.0, 5.0, 4.0
    before = deepcopy(rule)  # it moves with the end of the episodes
    plain.reset(seed=4)
    assert envs.reset()[:, -SHOWN:] == pytest.approx(rule.shown(np.zeros(64), np.zeros(64)))
    total = np.zeros(64)
    for step in range(1, 21):
        actions = np.random.default_rng(step).uniform(-1, 0, (64, 2)).astype(np.float32)
        seen, rewards, _, _, info = plain.step(actions)
        shown, learned, dones, infos = envs.step(actions)
        total, ledger = total + rewards, info["ledger"]
        variance = config.market.noise_variance * ledger["position"] ** 2
        paid = before.paid(rewards, total, np.full(64, step), ledger["noise"], variance)
        assert learned == pytest.approx(0.25 * paid, abs=1e-4)
        ended = np.stack([one["terminal_observation"] for one in infos]) if step == 20 else shown
        stands = before.shown(total, np.full(64, step))
        assert ended[:, -SHOWN:] == pytest.approx(stands, abs=1e-4)
        assert envs.surprises is not None
        assert envs.surprises[:, 0] == pytest.approx(0.25 * ledger["noise"], abs=1e-5)
        assert (shown[:, :-SHOWN] == seen).all()
    assert dones.all()
    assert rule.threshold == quantile(total, 0.1)


def _settings(**changes: object) -> tuple[Settings, EnvConfig]:
    sets = ("horizon=20", "reward.shortfall_weight=0.5", 'features=["inventory","clock"]')
    small = {"num_envs": 8, "n_steps": 20, "batch_size": 80, "lstm_size": 8, "net_arch": (8,), "threads": 1}
    settings = dataclasses.replace(market_defaults("brownian"), set=sets, **small | changes)
    return settings, env_config(settings)


def test_a_resumed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    settings, config = _settings()
    whole = new_model(FastRecurrentPPO, settings, config, training_env(settings, config))
    whole.learn(10 * 160, Checkpoint(tmp_path, every=6))
    assert whole.env.get_state()["shortfall"]["threshold"] != 0  # type: ignore[union-attr]
    again = load_latest(tmp_path, training_env(settings, config), FastRecurrentPPO)
    assert again.num_timesteps < whole.num_timesteps
    again.learn(remaining_timesteps(again), reset_num_timesteps=False)
    for ours, theirs in zip(again.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_the_critic_is_shown_the_reward_so_far_and_the_memory_foretells_what_is_hidden_alone() -> None:
    settings, config = _settings()
    policy = new_model(FastRecurrentPPO, settings, config, training_env(settings, config)).policy
    seen = len(observation_names(config))
    hidden = policy.observation_space.shape[0] - seen - SHOWN  # type: ignore[index]
    assert policy.lstm_actor.input_size == seen
    assert policy.predictor.out_features == hidden  # type: ignore[union-attr]
    obs, memory = torch.randn(5, seen + hidden + SHOWN), torch.randn(5, 8)
    told = policy.predictor(memory)  # type: ignore[misc]
    error = (told - obs[:, seen : seen + hidden]).square().sum(1)
    assert torch.allclose(policy.surprise(memory, obs), error)  # type: ignore[arg-type]


def test_what_cannot_be_learned_is_refused_in_a_sentence_and_no_weight_leaves_no_trace() -> None:
    for changes, words in (({"critic": "lstm"}, "critic = 'lstm'"), ({"workers": 2}, "workers = 2")):
        settings, config = _settings(**changes)
        with pytest.raises(ConfigError, match=words):
            new_model(FastRecurrentPPO, settings, config, training_env(settings, config))
    with pytest.raises(ConfigError, match=r"shortfall_level = 0"):
        make_config("brownian", reward={"shortfall_weight": 1.0, "shortfall_level": 0.0})
    plain = make_config("brownian", reward={"shortfall_level": 0.2})
    assert plain.schema_id == make_config("brownian").schema_id
    averse = make_config("brownian", reward=REWARD)
    assert make_config(**averse.to_dict()) == averse
    assert averse.schema_id != plain.schema_id
