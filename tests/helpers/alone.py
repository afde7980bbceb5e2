"""One environment against the same one among many."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmenv.env import NeuralMMEnv
from mmenv.vector import NeuralMMVectorEnv

COUNT, STEPS = 150, 22


def same_alone(**setting: Any) -> list[tuple[Any, ...]]:
    """The steps of many environments, of which the first, one in the middle and the last were also alone with
    the same observations, rewards and ledger to the last bit."""
    envs = NeuralMMVectorEnv(COUNT, **setting)
    width = envs.single_action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, COUNT, width)).astype(np.float32)
    envs.reset(seed=100)
    results = [envs.step(action) for action in actions]
    for i in (0, COUNT // 2, COUNT - 1):
        env = NeuralMMEnv(**setting)
        env.reset(seed=100 + i)
        for action, (now, rewards, _, _, info) in zip(actions[:, i], results, strict=True):
            observation, reward, over, _, single = env.step(action)
            assert reward == rewards[i]
            assert all(value == info["ledger"][name][i] for name, value in single["ledger"].items())
            if over:
                observation, _ = env.reset()
            assert observation.tobytes() == now[i].tobytes()
    return results
