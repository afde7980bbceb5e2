"""Steps per second of recurrent PPO, ours and sb3-contrib's, on an environment that costs next to nothing.

    python -m benchmarks.learner            # medians of five updates each
    python -m benchmarks.learner --quick    # one update each

Everything runs in one process, taking turns update by update, so that a busy machine slows all alike; read
the ratios. All learners have the same network (LSTM-64, 64-64 heads; the MLP: 64-64), the same 64
environments x 512 steps, 4 epochs and minibatches of 4096 steps (with sb3-contrib's default of 128 steps it
is several times slower still).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from train.learner.recurrent_ppo import FastRecurrentPPO

N_ENVS, N_STEPS = 64, 512
SEPARATE = {"lstm_hidden_size": 64}
SHARED = {"lstm_hidden_size": 64, "shared_lstm": True, "enable_critic_lstm": False}


class Noise(VecEnv):
    """27 observations of noise, 2 actions, episodes of `episode` steps, in step or spread out."""

    def __init__(self, n_envs: int = N_ENVS, episode: int = 256, spread: bool = False):
        action_space = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(n_envs, spaces.Box(-np.inf, np.inf, (27,), np.float32), action_space)
        rng = np.random.default_rng(0)
        self.noise = rng.standard_normal((1024, n_envs, 27), dtype=np.float32)
        self.age = rng.integers(0, episode, n_envs) if spread else np.zeros(n_envs, int)
        self.episode, self.clock = episode, 0

    def _observe(self) -> np.ndarray:
        self.clock += 1
        return self.noise[self.clock % len(self.noise)].copy()

    def reset(self) -> np.ndarray:
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        self.age += 1
        dones = self.age == self.episode
        self.age[dones] = 0
        obs = self._observe()
        infos: list[dict[str, Any]] = [
            {"terminal_observation": obs[i]} if dones[i] else {} for i in range(len(dones))
        ]
        return obs, (self.actions[:, 0] * obs[:, 0]).astype(np.float32), dones, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


@dataclass
class Case:
    name: str
    build: Callable[[], BaseAlgorithm]
    threads: int = 1


def case(
    name: str, algorithm: type, policy: str, threads: int = 1, spread: bool = False, **settings: Any
) -> Case:
    settings = {"n_steps": N_STEPS, "n_epochs": 4, "batch_size": 4096, "seed": 0, "device": "cpu"} | settings
    if algorithm is FastRecurrentPPO:
        settings["threads"] = threads
    return Case(name, lambda: algorithm(policy, Noise(spread=spread), **settings), threads)


def cases(quick: bool) -> list[Case]:
    recurrent = "MlpLstmPolicy"
    stock = case("sb3-contrib RecurrentPPO", RecurrentPPO, recurrent, policy_kwargs=SEPARATE)
    stock_shared = case("sb3-contrib RecurrentPPO, shared", RecurrentPPO, recurrent, policy_kwargs=SHARED)
    fast = [
        case(
            f"ours, {kind}, {threads} thread{'s' * (threads > 1)}",
            FastRecurrentPPO,
            recurrent,
            threads,
            policy_kwargs=p,
        )
        for kind, p in (("separate", SEPARATE), ("shared", SHARED))
        for threads in (1, 2)
    ]
    variants = [
        case(
            "ours, separate, resets spread out",
            FastRecurrentPPO,
            recurrent,
            spread=True,
            policy_kwargs=SEPARATE,
        ),
        case(
            "ours, separate, chunks of 64",
            FastRecurrentPPO,
            recurrent,
            chunk_length=64,
            policy_kwargs=SEPARATE,
        ),
    ]
    mlp = case("SB3 PPO, MLP without memory", PPO, "MlpPolicy")
    return [stock, *([] if quick else [stock_shared]), *fast, *variants, mlp]


def seconds_per_update(case: Case, model: BaseAlgorithm) -> float:
    torch.set_num_threads(case.threads)
    start = time.perf_counter()
    model.learn(N_ENVS * N_STEPS, reset_num_timesteps=False)
    return time.perf_counter() - start


def main(quick: bool = False) -> None:
    """Print the table.

    Parameters
    ----------
    quick
        One update of each learner instead of five, without the slowest.
    """
    runs: list[tuple[Case, BaseAlgorithm, list[float]]] = [(case, case.build(), []) for case in cases(quick)]
    for _, model, _ in track(runs, "warming up (compiling)"):
        if isinstance(model, FastRecurrentPPO):
            model.learn(N_ENVS * N_STEPS)
    for _ in range(1 if quick else 5):
        for each, model, seconds in track(runs, "measuring"):
            seconds.append(seconds_per_update(each, model))

    baseline = statistics.median(runs[0][2])
    libraries = ("torch", "stable-baselines3", "sb3-contrib", "numpy", "numba")
    table = Table(title=", ".join(f"{name} {version(name)}" for name in libraries))
    for heading in ("learner", "steps/s", "against stock"):
        table.add_column(heading, justify="left" if heading == "learner" else "right")
    for each, _, seconds in runs:
        median = statistics.median(seconds)
        table.add_row(each.name, f"{N_ENVS * N_STEPS / median:,.0f}", f"{baseline / median:.1f}")
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
