"""What recurrent PPO of several libraries has learned of `hidden-regime` after minutes of one processor.

    python -m benchmarks.peers --minutes 25                 # ours, and each other one: hours
    python -m benchmarks.peers --minutes 5 --only skrl-own  # one, with the settings of its own examples

All see the raw observations and rewards of the same compiled environment, less the rewards' zero-mean noise,
and start from the same positions; those of other libraries are normalised by `VecNormalize`. Each learns in a
process and a thread of its own. Time is the processor's, and the clock's beside it; that of judging is not
counted: mean actions on the same paths for all, as `neuralmm train` judges (`train.callbacks.Judge`).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.peer_learners import LEARNERS, Setup
from mmenv.checks import ConfigError
from policies.base import Policy
from policies.network.trained import TrainedPolicy
from train.baselines import Best
from train.callbacks import SEED
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.run import new_model, training_env
from train.settings import Settings, env_config, market_defaults
from train.simulate import simulate

PATHS, GOAL = 1024, 95.0
MARKS = 16
"""How often a learner is judged."""
SHOWN = (1, 2, 4, 8, 16)
"""The marks of the table."""

UNTOLD: dict[str, Any] = {"critic": "lstm", "surprise_control": False, "prediction_coef": 0.0}
"""Settings of ours under which nothing of it sees more than the others do."""

OURS: dict[str, dict[str, Any]] = {
    "ours-12m": {"steps": 12_000_000},
    "ours-24m": {"steps": 24_000_000},
    "ours-untold": {"steps": 12_000_000, **UNTOLD},
}
"""Settings that are not the market's; the rate falls over the steps, and learning ends with them."""

LIKE_OURS = Setup(
    n_envs=32, n_steps=300, sequence=300, minibatch=1200, epochs=2, rate=3e-3, falling=True, gamma=0.995,
    gae_lambda=0.3, max_grad_norm=5.0, log_std=-1.0,
)  # fmt: skip
"""The settings of `neuralmm train`, as far as the others have them."""

FAR = dataclasses.replace(LIKE_OURS, gae_lambda=0.9, rate=1e-3)
"""The same, but advantages trust the critic, which is told nothing, less."""

PEERS: dict[str, Setup] = {
    # Where both were tried for minutes, what learned more.
    "sb3-contrib": LIKE_OURS,
    "torchrl": LIKE_OURS,
    "skrl": FAR,
    **{f"{name}-like-ours": LIKE_OURS for name in LEARNERS},
    **{f"{name}-far": FAR for name in LEARNERS},
    # RL Zoo, `HalfCheetahBulletEnv-v0` and its like.
    "sb3-contrib-own": Setup(n_envs=16, n_steps=256, minibatch=128, epochs=10, gae_lambda=0.9),
    # TorchRL's PPO of MuJoCo, minibatches of whole sequences.
    "torchrl-own": Setup(n_envs=32, n_steps=300, minibatch=300, epochs=10, falling=True),
    # skrl's `PendulumNoVel` with an LSTM, but for its discount of 0.9; more environments, sequences that fit.
    "skrl-own": Setup(
        n_envs=32, n_steps=300, sequence=150, minibatch=300, epochs=10, rate=1e-3, kl_target=0.008
    ),
}


class Journal:
    """What a learner has reached at each mark, a line each."""

    def __init__(self, path: Path, settings: Settings, minutes: float) -> None:
        self.config = env_config(settings)
        best = Best.of(self.config, PATHS, seed=SEED)
        assert best is not None
        self._best, self._minutes, self._mark = best, minutes, -1
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        path.write_text("")
        self._began = time.process_time(), time.perf_counter()

    def share(self) -> float:
        """The part of the minutes that is used up."""
        return (time.process_time() - self._began[0]) / (60 * self._minutes)

    def look(self, steps: int, policy: Policy, done: bool = False) -> None:
        """Judge a policy if a mark has been passed, or the learner is done; the time starts at first."""
        if self._mark < 0:
            self._began = time.process_time(), time.perf_counter()
        mark = int(self.share() * MARKS)
        if mark == self._mark and not done:
            return
        now = time.process_time(), time.perf_counter()
        minutes, clock = ((end - start) / 60 for end, start in zip(now, self._began, strict=True))
        percent = self._best.percent(simulate(policy, self.config, PATHS, seed=SEED)).mean
        reached = {"minutes": minutes, "clock": clock, "steps": steps, "percent": percent}
        with self._path.open("a") as file:
            file.write(json.dumps({"mark": mark, **reached, "done": done}) + "\n")
        self._mark = mark
        self._began = (
            self._began[0] + time.process_time() - now[0],
            self._began[1] + time.perf_counter() - now[1],
        )


class Looking(BaseCallback):
    """Shows a model of ours to a journal before each rollout."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._journal.look(self.num_timesteps, TrainedPolicy(self.model.policy))


def learn_ours(settings: Settings, journal: Journal) -> None:
    """Learn with ours, for its number of steps."""
    env = training_env(settings, journal.config)
    model = new_model(FastRecurrentPPO, settings, journal.config, env)
    assert settings.steps is not None
    model.learn(settings.steps, Looking(journal))
    journal.look(model.num_timesteps, TrainedPolicy(model.policy), done=True)


def learn_peer(name: str, settings: Settings, journal: Journal) -> None:
    """Learn with another library until the minutes are used up."""
    setup = PEERS[name]
    plain = dataclasses.replace(settings, **UNTOLD, num_envs=setup.n_envs, reward_scale=1.0)
    env = VecNormalize(training_env(plain, journal.config), gamma=setup.gamma)
    library = next(known for known in LEARNERS if name.startswith(known))
    learner, steps = LEARNERS[library](env, setup), 0
    journal.look(steps, learner.policy)
    while (used := journal.share()) < 1:
        journal.look(steps, learner.policy)
        learner.update(setup.rate * (1 - used if setup.falling else 1))
        steps += setup.n_envs * setup.n_steps
    journal.look(steps, learner.policy, done=True)


def learn(name: str, minutes: float, logs: Path) -> None:
    """Have one learner learn, here."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    raw = 'features=["tape","inventory","clock"]'
    usual = dataclasses.replace(market_defaults("hidden-regime"), set=(raw,), threads=1)
    settings = dataclasses.replace(usual, **OURS.get(name, {}))
    journal = Journal(logs / f"{name}.jsonl", settings, minutes)
    if name in OURS:
        learn_ours(settings, journal)
    else:
        learn_peer(name, settings, journal)


def rows(name: str, logs: Path) -> list[dict[str, Any]]:
    """What a learner has reached, mark by mark; nothing where it has not begun."""
    path = logs / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def learn_all(minutes: float, only: tuple[str, ...], logs: Path) -> None:
    """Have learners learn, one after the other, and print what they reached."""
    unknown = {*only} - {*OURS, *PEERS}
    if unknown:
        raise ConfigError(f"--only {', '.join(unknown)} is not possible: {', '.join([*OURS, *PEERS])}.")
    for name in only or (*OURS, *LEARNERS):
        found = rows(name, logs)
        if not found or not found[-1]["done"]:
            call = f"from benchmarks.peers_learn import *; learn({name!r}, {minutes}, Path({str(logs)!r}))"
            subprocess.run([sys.executable, "-W", "ignore", "-c", call], check=True)
    show(minutes, logs)


def show(minutes: float, logs: Path) -> None:
    """Print the table of what is in the folder."""
    print(f"percent of the memory gap after minutes of a processor, {PATHS:,} paths")
    heads = "".join(f"{minutes * mark / MARKS:7.1f}" for mark in SHOWN)
    print(f"{'learner':24}{'steps':>12}{'steps/s':>9}{'minutes':>9}{'clock':>8}{heads}  minutes to {GOAL:g}%")
    for name in (*OURS, *PEERS):
        if found := rows(name, logs):
            print(f"{name:24}{reached(found)}")


def reached(found: list[dict[str, Any]]) -> str:
    """A learner's line of the table."""
    last, best = found[-1], max(row["percent"] for row in found)
    speed = last["steps"] / (60 * last["minutes"])
    shown = (next(row for row in reversed(found) if row["mark"] <= mark) for mark in SHOWN)
    percents = "".join(f"{row['percent']:7.1f}" for row in shown)
    there = next((f"{row['minutes']:.1f}" for row in found if row["percent"] >= GOAL), None)
    end = there or f"not within {last['minutes']:.1f}: best {best:.1f}%"
    return f"{last['steps']:12,}{speed:9,.0f}{last['minutes']:9.1f}{last['clock']:8.1f}{percents}  {end}"
