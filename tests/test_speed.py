"""What makes the step fast changes nothing that is seen: number of environments, memory, vectors."""

from __future__ import annotations

import multiprocessing

import gymnasium as gym
import numpy as np
import pytest

from mmenv import make_config
from mmenv.config import EnvConfig
from mmenv.desk import Desk
from mmenv.env import ActionError

GROUPS = ("order_flow", "trade_book", "inventory", "clock")


def play(config: EnvConfig, n: int, actions: np.ndarray, **settings: object) -> list[bytes]:
    """What the first environment of n, the last one seeded alike, and all before them see and earn."""
    desk = Desk(config, n, autoreset=True, **settings)  # type: ignore[arg-type]
    desk.seed(range(n))
    seen = [desk.reset()]
    for action in actions[:, :n]:
        step = desk.step(action)
        seen += [step.observations, step.rewards, step.terminated, step.ledger.T.copy()]
    return seen


@pytest.mark.parametrize("market", ["brownian", "hidden-regime", "book"])
@pytest.mark.parametrize("features", [GROUPS, ("clock",), ("order_flow",), ("trade_book", "inventory")])
def test_same_bytes_for_any_number_of_environments(market, features):
    """Scalar rest loops, vectors, squares of the transposition that overlap: lane i is what it is alone."""
    config = make_config(market, features=features, horizon=7)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (16, 130, 2)).astype(np.float32)
    whole = play(config, 130, actions)
    for n in (1, 7, 8, 11, 64, 67):
        for ours, theirs in zip(play(config, n, actions), whole, strict=True):
            assert ours.tobytes() == theirs[:n].tobytes()


def test_arrays_that_are_held_are_not_overwritten():
    """Memory is used again, but never under someone who holds an array, a view or a row of the ledger."""
    envs = gym.make_vec("NeuralMM-v0", 70, market="brownian", horizon=5)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (40, 70, 2)).astype(np.float32)
    kept, copies, addresses = [], [], set()
    for t, action in enumerate(actions):
        observations, rewards, terminated, _, info = envs.step(action)
        addresses.add(observations.ctypes.data)
        views = [observations[3:5, 2], rewards, terminated[::2], info["ledger"]["wealth"], observations.T]
        if t < 10:
            kept.append(views[t % 5])
            copies.append(kept[-1].copy())
        del observations, rewards, terminated, info, views
    assert all((view == copy).all() for view, copy in zip(kept, copies, strict=True))
    assert len({view.tobytes() for view in kept}) > 5
    assert len(addresses) <= 10 + 4


@pytest.mark.parametrize("market", ["hidden-regime", "book"])
def test_same_bytes_for_any_number_of_threads(market):
    config = make_config(market, horizon=7)
    n = 1100
    actions = np.random.default_rng(0).uniform(-1, 0.5, (40, n, 2)).astype(np.float32)
    alone = play(config, n, actions)
    for num_threads in (2, 3, 7, None):
        for ours, theirs in zip(play(config, n, actions, num_threads=num_threads), alone, strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_threads_after_a_fork():
    """A child has none of its parent's threads: it starts its own."""
    config = make_config("brownian", horizon=7)
    actions = np.random.default_rng(0).uniform(-1, 0.5, (5, 200, 2)).astype(np.float32)
    expected = [array.tobytes() for array in play(config, 200, actions, num_threads=2)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_play_on_two_threads, (actions,)) == expected


def _play_on_two_threads(actions: np.ndarray) -> list[bytes]:
    config = make_config("brownian", horizon=7)
    return [array.tobytes() for array in play(config, 200, actions, num_threads=2)]


def test_a_refused_action_moves_no_environment():
    """Also on the threads that do not see it first: the step after equals one without the attempt."""
    envs = [gym.make_vec("NeuralMM-v0", 200, market="brownian", num_threads=k) for k in (1, 2, 1)]
    good = np.zeros((200, 2), np.float32)
    bad = good.copy()
    bad[150, 1] = np.inf
    for env in envs:
        env.reset(seed=3)
    for env in envs[:2]:
        with pytest.raises(ActionError, match=r"actions\[150\]"):
            env.step(bad)
    steps = [env.step(good) for env in envs]
    assert len({step[0].tobytes() for step in steps}) == 1
    assert len({step[1].tobytes() for step in steps}) == 1
