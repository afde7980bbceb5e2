"""Proximal policy optimisation by the library Tianshou, on the native vector environment.

pip install tianshou
python examples/tianshou_ppo.py --market brownian --timesteps 400000
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch.distributions import Independent, Normal

try:
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import BaseVectorEnv
    from tianshou.env.worker import DummyEnvWorker
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
except ImportError as error:
    raise SystemExit(f"tianshou is missing or too old ({error}): pip install 'tianshou>=2'") from None


@dataclass
class Args:
    market: str = "brownian"
    seed: int = 1
    timesteps: int = 400_000
    num_envs: int = 256
    rollouts: int = 64
    threads: int = 1


class Native(BaseVectorEnv):
    """All environments in one compiled call, where Tianshou's own forms call one after the other."""

    def __init__(self, num_envs: int, **settings: Any) -> None:
        one = gym.make("mmenv:NeuralMM-v0", **settings)
        super().__init__([lambda: one], DummyEnvWorker)  # what it asks of one environment, it asks of this
        self.envs = gym.make_vec(
            "mmenv:NeuralMM-v0", num_envs=num_envs, autoreset_mode="Disabled", **settings
        )
        self.env_num = self.wait_num = num_envs
        self.ready_id = list(range(num_envs))
        self.returns, self.ended = np.zeros(num_envs), deque[float](maxlen=num_envs)

    def get_env_attr(self, key: str, id: Any = None) -> list[Any]:
        return super().get_env_attr(key, 0) * self.env_num

    def reset(self, env_id: Any = None, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(self.env_num) if env_id is None else np.atleast_1d(env_id)
        if len(chosen) < self.env_num:
            mask = np.zeros(self.env_num, bool)
            mask[chosen] = True
            settings = {"options": {"reset_mask": mask}}
        observations, _ = self.envs.reset(**settings)
        self.returns[chosen] = 0
        return observations[chosen].copy(), self._infos(chosen)

    def step(self, action: Any, id: Any = None) -> tuple[np.ndarray, ...]:
        if len(action) < self.env_num:
            raise ValueError("Native steps all its environments: collect n_step, not n_episode")
        observations, rewards, terminated, truncated, _ = self.envs.step(
            np.clip(action, -1, 1).astype(np.float32)
        )
        self.returns += rewards
        self.ended.extend(self.returns[terminated | truncated])
        return observations.copy(), rewards.copy(), terminated, truncated, self._infos(range(self.env_num))

    def close(self) -> None:
        self.envs.close()
        super().close()

    @staticmethod
    def _infos(chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.array([{"env_id": int(i)} for i in chosen])


def main(args: Args) -> float:
    """Train; returns the mean return of the last episodes, exploration included."""
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002 - Tianshou draws its minibatches by it
    torch.set_num_threads(args.threads)
    envs = Native(args.num_envs, market=args.market)
    observations, actions = envs.envs.single_observation_space, envs.envs.single_action_space
    steps = args.num_envs * args.rollouts

    def net() -> Net:
        return Net(state_shape=observations.shape, hidden_sizes=(64, 64), activation=torch.nn.Tanh)

    actor = ContinuousActorProbabilistic(preprocess_net=net(), action_shape=actions.shape, unbounded=True)
    torch.nn.init.constant_(actor.sigma_param, -1.0)
    algorithm = PPO(
        policy=ProbabilisticActorPolicy(
            actor=actor,
            dist_fn=lambda given: Independent(Normal(*given), 1),
            action_space=actions,
            action_scaling=False,
            action_bound_method=None,
        ),
        critic=ContinuousCritic(preprocess_net=net()),
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.97,
        gae_lambda=0.9,
        max_grad_norm=0.5,
        ent_coef=0.0,
        return_scaling=True,
        max_batchsize=steps,
    )
    collector = Collector(algorithm, envs, VectorReplayBuffer(steps, args.num_envs))
    collector.reset(gym_reset_kwargs={"seed": args.seed})
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=args.timesteps,
            collection_step_num_env_steps=steps,
            update_step_num_repetitions=8,
            batch_size=max(steps // 8, 2),
            verbose=False,
            show_progress=False,
        )
    )
    envs.close()
    return float(np.mean(envs.ended))


if __name__ == "__main__":
    print(f"mean return of the last episodes, exploration included: {main(tyro.cli(Args)):.2f}")
