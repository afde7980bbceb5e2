"""Proximal policy optimisation by the library skrl, on the native vector environment as it is.

pip install skrl
python examples/skrl_ppo.py --market brownian --timesteps 4000
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn

try:
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.trainers.torch import SequentialTrainer
    from skrl.utils import set_seed
except ImportError as error:
    raise SystemExit(f"skrl is missing or too old ({error}): pip install 'skrl>=2'") from None


@dataclass
class Args:
    market: str = "brownian"
    seed: int = 1
    timesteps: int = 4000
    num_envs: int = 256
    rollouts: int = 64
    threads: int = 1


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class Policy(GaussianMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        GaussianMixin.__init__(self)
        self.mean = network(self.num_observations, self.num_actions)
        self.log_std = nn.Parameter(torch.full((self.num_actions,), -1.0))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.mean(inputs["observations"]), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = network(self.num_observations, 1)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


def main(args: Args) -> float:
    """Train; returns the mean return of the last episodes, exploration included."""
    set_seed(args.seed)
    torch.set_num_threads(args.threads)
    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=args.num_envs, market=args.market)
    envs = statistics = gym.wrappers.vector.RecordEpisodeStatistics(envs, buffer_length=1000)
    env = wrap_env(gym.wrappers.vector.NormalizeReward(envs, gamma=0.97), wrapper="gymnasium")
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    cfg = PPO_CFG(
        rollouts=args.rollouts, mini_batches=4, learning_epochs=8, discount_factor=0.97, gae_lambda=0.9
    )
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Policy(**spaces), "value": Value(**spaces)},
        memory=RandomMemory(memory_size=args.rollouts, num_envs=args.num_envs, device="cpu"),
        cfg=cfg,
        **spaces,
    )
    settings = {"timesteps": args.timesteps, "headless": True, "close_environment_at_exit": False}
    SequentialTrainer(env=env, agents=agent, cfg=settings).train()
    envs.close()
    return float(np.mean(statistics.return_queue))


if __name__ == "__main__":
    print(f"mean return of the last episodes, exploration included: {main(tyro.cli(Args)):.2f}")
