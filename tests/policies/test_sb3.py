"""Models of Stable-Baselines3 as policies: they act as their own `predict` does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console
from sb3_contrib import TQC, RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from mmenv import ConfigError, make_config
from policies.make import make_policy
from policies.sb3 import ENV_CONFIG, load_model, statistics_of
from train.evaluate import report
from train.experiments import members
from train.options.evaluate import Evaluate
from train.options.experiments import Members

CONFIG = make_config("brownian", horizon=20)
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8}
REPLAY: dict[str, Any] = {"buffer_size": 100}
SQUASHED = {PPO: SMALL, RecurrentPPO: SMALL, SAC: REPLAY, TD3: REPLAY, TQC: REPLAY}


def environment(market: str = "brownian") -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make("mmenv:NeuralMM-v0", market=market, horizon=20)])


def saved(folder: Path, algorithm: Any, env: VecEnv) -> Any:
    name = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    model = algorithm(name, env, device="cpu", seed=0, **SQUASHED[algorithm])
    model.save(folder / "model.zip")
    return model


@pytest.mark.parametrize("algorithm", SQUASHED, ids=lambda algorithm: algorithm.__name__)
def test_a_model_of_any_algorithm_acts_as_it_predicts(tmp_path: Path, algorithm: Any) -> None:
    config = CONFIG
    model = saved(tmp_path, algorithm, environment())
    policy = make_policy(str(tmp_path / "model.zip"), config)
    state, expected_state = policy.reset(3), None
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 3, *model.observation_space.shape)).astype(np.float32)
    for number, observation in enumerate(seen):
        starts = np.full(3, number == 0)
        expected, expected_state = model.predict(observation, expected_state, starts, deterministic=True)
        action, state = policy.act(observation, state)
        np.testing.assert_array_equal(action, expected)
    assert np.ptp(action) > 0


def test_what_was_normalised_in_training_is_normalised(tmp_path: Path) -> None:
    env = VecNormalize(environment())
    env.reset()
    for _ in range(30):
        env.step(env.action_space.sample()[None])
    model = saved(tmp_path, PPO, env)
    env.save(str(tmp_path / "vecnormalize.pkl"))
    policy = make_policy(str(tmp_path / "model.zip"), CONFIG)
    observation = np.random.default_rng(1).uniform(-1, 1, (4, *env.observation_space.shape)).astype("f4")
    expected, _ = model.predict(env.normalize_obs(observation), deterministic=True)
    np.testing.assert_array_equal(policy.act(observation, policy.reset(4))[0], expected)
    assert not np.allclose(expected, model.predict(observation, deterministic=True)[0])


def test_a_model_is_not_played_without_its_statistics_or_with_those_of_another(tmp_path: Path) -> None:
    plain, normalised = environment(), VecNormalize(environment())
    paths = [tmp_path / "plain.zip", tmp_path / "normalised.zip"]
    for path, env in zip(paths, (plain, normalised), strict=True):
        PPO("MlpPolicy", env, device="cpu", **SMALL).learn(8).save(path)
    make_policy(str(paths[0]), CONFIG)
    with pytest.raises(ConfigError, match=r"trained through a VecNormalize.*normalised\.pkl"):
        make_policy(str(paths[1]), CONFIG)
    normalised.save(str(tmp_path / "vecnormalize.pkl"))
    assert load_model(paths[0]).normalisation is None
    assert load_model(paths[1]).normalisation is not None


def test_statistics_of_a_checkpoint_lie_where_sb3_puts_them() -> None:
    found = statistics_of(Path("runs/rl_model_2000_steps.zip"))
    assert found[0] == Path("runs/rl_model_vecnormalize_2000_steps.pkl")


def test_a_model_that_knows_no_market_is_judged_on_the_one_that_is_named(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: gym.make("mmenv:NeuralMM-v0", config=CONFIG)])
    model = saved(tmp_path, PPO, env)
    path, console = tmp_path / "model.zip", Console(record=True, width=100)
    with pytest.raises(ConfigError, match=r"--market = None .* does not say which it was trained on"):
        report(Evaluate(model=path), console)
    report(Evaluate(model=path, market="brownian", episodes=8, baselines=False), console)
    assert "model" in console.export_text()
    setattr(model, ENV_CONFIG, CONFIG.to_dict())
    model.save(path)
    report(Evaluate(model=path, episodes=8, baselines=False), console)
    members.main(Members((str(path), "no-trade"), ("volatility=1",), episodes=8, out=tmp_path / "out"))
    rows = list(csv.DictReader((tmp_path / "out" / "members.csv").open()))
    assert [row["policy"] for row in rows] == ["model", "no-trade"]
    assert float(rows[0]["% of optimum"]) < 100
    with pytest.raises(ConfigError, match="brings its own"):
        report(Evaluate(model=path, market="brownian"), console)


def test_what_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    saved(tmp_path, PPO, environment("hidden-regime"))
    with pytest.raises(ConfigError, match=r"observes \(\d+,\), and 'book' shows \d+ entries"):
        make_policy(str(tmp_path / "model.zip"), make_config("book"))
    cart = PPO("MlpPolicy", gym.make("CartPole-v1"), device="cpu", **SMALL)
    cart.save(tmp_path / "cart.zip")
    with pytest.raises(ConfigError, match=r"cart\.zip acts by Discrete\(2\)"):
        make_policy(str(tmp_path / "cart.zip"), make_config("brownian"))
    for name, sentence in (
        ("other.zip", "not a model of Stable-Baselines3"),
        ("other.pt", "a file of no known kind"),
    ):
        (tmp_path / name).write_bytes(b"weights")
        with pytest.raises(ConfigError, match=rf'{sentence}.*named as "module:name"'):
            make_policy(str(tmp_path / name), make_config("brownian"))
