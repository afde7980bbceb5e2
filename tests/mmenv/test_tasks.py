"""Tasks are frozen: by gymnasium's name, to the same paths, and nothing of them can be set."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import mmenv  # noqa: F401
from mmenv import ConfigError, make_config
from mmenv.tasks import find_task, tasks


@pytest.mark.parametrize("name", ["brownian-v0", "hidden-regime-v0", "large-tick-v0", "nasdaq-msft-v0"])
def test_environments_of_a_task_are_those_of_its_configuration(name):
    task = find_task(name)
    one = gym.make(f"NeuralMM/{name}")
    many = gym.make_vec(f"NeuralMM/{name}", num_envs=2, autoreset_mode="Disabled")
    assert one.unwrapped.config == many.config == task.config()
    assert np.array_equal(one.reset(seed=task.seed)[0], many.reset(seed=task.seed)[0][0])
    assert task.same_paths()


def test_what_is_frozen_stays():
    with pytest.raises(ConfigError, match=r"horizon.*freezes it; free are quote, features"):
        gym.make("NeuralMM/brownian-v0", horizon=10)
    free = gym.make("NeuralMM/large-tick-v0", quote={"name": "touch"}, features=("inventory", "clock"))
    find_task("large-tick").check(free.unwrapped.config, "mine")
    with pytest.raises(ConfigError, match=r"mine was made for another task.*horizon: 20, not 300"):
        find_task("NeuralMM/brownian-v0").check(make_config("brownian", horizon=20), "mine")
    with pytest.raises(ConfigError, match=r"'browniann'\. Did you mean 'brownian-v0'\? Known: brownian-v0"):
        find_task("browniann")


@pytest.mark.parametrize("name", ["brownian-v0", "hidden-regime-v0"])
def test_the_market_of_a_task_is_the_default_of_its_day(name):
    """Defaults may change; then the task keeps the old ones, and this test says which it has."""
    task = tasks()[name]
    assert task.config() == make_config(name.removesuffix("-v0"))
