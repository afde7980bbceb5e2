"""Proximal policy optimisation by RLlib, on the native vector environment as it is.

pip install 'ray[rllib]'
python examples/rllib_ppo.py --market brownian --iterations 20
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import tyro

try:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
except ImportError as error:
    raise SystemExit(f"RLlib is missing or too old ({error}): pip install 'ray[rllib]>=2.50'") from None


@dataclass
class Args:
    market: str = "brownian"
    seed: int = 1
    iterations: int = 20
    num_envs: int = 64
    rollouts: int = 64
    """Decisions of each environment in an iteration."""
    threads: int = 1


def main(args: Args) -> float:
    """Train; returns the mean return of the last episodes, exploration included."""
    torch.set_num_threads(args.threads)
    steps = args.num_envs * args.rollouts
    config = (
        PPOConfig()
        .environment(
            "mmenv:NeuralMM-v0",
            # RLlib skips the step in which an environment begins anew.
            env_config={"market": args.market, "autoreset_mode": "NextStep"},
        )
        .env_runners(
            num_env_runners=0,  # in this process
            num_envs_per_env_runner=args.num_envs,
            gym_env_vectorize_mode="vector_entry_point",  # RLlib's word for it
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[64, 64],
                vf_share_layers=False,  # or errors of the value drown the policy's gradient
            )
        )
        .training(
            gamma=0.97, lambda_=0.9, lr=1e-3, grad_clip=0.5, num_epochs=8,
            vf_clip_param=float("inf"),  # errors above it are not learned from, and returns are large
            train_batch_size_per_learner=steps, minibatch_size=max(steps // 8, 2),
        )
        .debugging(seed=args.seed, log_level="ERROR")
    )  # fmt: skip
    algorithm, found = config.build_algo(), float("nan")
    for _ in range(args.iterations):
        new = algorithm.train()["env_runners"].get("episode_return_mean", found)
        found = new if np.isfinite(new) else found  # no number where no episode ended
    algorithm.stop()
    return float(found)


if __name__ == "__main__":
    print(f"mean return of the last episodes, exploration included: {main(tyro.cli(Args)):.2f}")
