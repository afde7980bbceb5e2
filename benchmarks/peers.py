"""Speed beside the libraries of docs/comparison.md that are installed here, by turns: read the ratios.

    python -m benchmarks.peers             # mbt_gym: its market of Avellaneda and Stoikov beside `brownian`
    python -m benchmarks.peers STORE       # and hftbacktest beside our matcher, on a recorded tape
    python -m benchmarks.peers --learners  # and recurrent PPO: ours, sb3-contrib's, TorchRL's, skrl's
    python -m benchmarks.peers --minutes M # what these have learned after minutes: `benchmarks.peers_learn`

mbt_gym is on no package index: put its checkout on PYTHONPATH, and `pip install gym`. It is stepped as it
comes, three state variables observed and profit as the reward, where `brownian` also computes eighteen
features and the parts of the profit. hftbacktest and our matcher give the same environment, orders take 1 ms.
Learners have the same network and settings (`benchmarks.learner`), one thread each; what is counted is time
of the processor, which another process on it does not lengthen as it does the clock's.
"""

from __future__ import annotations

import functools
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

from mmenv.measure.speed import Step, our_step, rate, single

ROUNDS, SECONDS = 7, 0.3


@dataclass(frozen=True)
class Peers:
    """Time other libraries beside this one."""

    store: tyro.conf.Positional[Path | None] = None
    """Recorded tapes of one symbol, for hftbacktest."""
    sizes: tuple[int, ...] = (1, 64, 1024, 16384)
    """Numbers of environments; none leaves mbt_gym out."""
    learners: bool = False
    """Time recurrent PPO too: several minutes."""
    updates: int = 3
    """Rollouts that each learner makes and learns from, after one that is not timed."""
    minutes: float | None = None
    """Minutes of a processor that each other learner learns for; nothing else is done then."""
    only: tuple[str, ...] = ()
    """Learners that learn, of `benchmarks.peers_learn`; by default ours, and each other one once."""
    logs: Path = Path("logs/peers")
    """What they reach is written here; those that are finished are not run again."""


def mbt_gym_step(n: int) -> Step:
    """Step n trajectories of mbt_gym's default market, all at once."""
    from mbt_gym.gym.TradingEnvironment import TradingEnvironment

    env = TradingEnvironment(num_trajectories=n, seed=1)
    env.reset()
    action = np.zeros((n, env.action_space.shape[0]))

    def step() -> None:
        _, _, done, _ = env.step(action)
        if done[0]:
            env.reset()

    return step


def replay_step(store: Path, engine: str) -> Step:
    """Step one environment of the tape, on a venue of ours or of hftbacktest."""
    market = {"name": "replay", "store": str(store), "engine": engine, "order_latency_ms": 1.0}
    return single(gym.make("mmenv:NeuralMM-v0", market=market))


def by_turns(steps: dict[str, tuple[Step, int]]) -> None:
    """Print the median speed of each, and its ratio to the first."""
    for step, _ in steps.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, (step, n) in steps.items():
            found[name].append(rate(step, n, SECONDS))
    first = np.array(next(iter(found.values())))
    for name, rates in found.items():
        ratio = statistics.median(np.array(rates) / first)
        print(f"{name:32} {statistics.median(rates):14,.0f} steps/s {ratio:10.2f}")


def learners() -> dict[str, Callable[[], object]]:
    """A rollout with its update of every library that is installed; sb3-contrib is always."""
    from benchmarks.learner import N_ENVS, N_STEPS, SEPARATE, Noise, case
    from benchmarks.peer_learners import LEARNERS, Setup
    from train.learner.recurrent_ppo import FastRecurrentPPO

    found: dict[str, Callable[[], object]] = {}
    for name, build in LEARNERS.items():
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            print(f"{name} is not installed: pip install {name}.")
        else:
            found[name] = functools.partial(build(Noise(), Setup()).update, Setup().rate)
    for cell in ("lstm", "lru"):
        network = SEPARATE | {"cell": cell}
        model = case(cell, FastRecurrentPPO, "MlpLstmPolicy", policy_kwargs=network).build()
        found[f"ours, {cell}"] = functools.partial(model.learn, N_ENVS * N_STEPS, reset_num_timesteps=False)
    return found


def time_learners(updates: int) -> None:
    """Print the median speed of each learner, by turns, and its ratio to the first."""
    import torch

    from benchmarks.learner import N_ENVS, N_STEPS

    torch.set_num_threads(1)
    calls = learners()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + updates):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                seconds[name].append(time.process_time() - start)
    print("recurrent PPO, one thread, steps per second of a processor's time")
    first = np.array(next(iter(seconds.values())))
    for name, each in seconds.items():
        speed, ratio = N_ENVS * N_STEPS / statistics.median(each), statistics.median(first / np.array(each))
        print(f"{name:32} {speed:14,.0f} steps/s {ratio:10.2f}")


def main(options: Peers) -> None:
    """Run what is installed."""
    warnings.filterwarnings("ignore")
    if options.minutes is not None:
        from benchmarks.peers_learn import learn_all

        return learn_all(options.minutes, options.only, options.logs)
    if options.learners:
        time_learners(options.updates)
    if importlib.util.find_spec("mbt_gym") is None:
        print("mbt_gym is not installed: put its checkout on PYTHONPATH.")
    else:
        for n in options.sizes:
            print(f"{n} environments, one thread")
            by_turns({"mbt_gym": (mbt_gym_step(n), n), "brownian": (our_step("brownian", n, 1), n)})
    if options.store is not None:
        print(f"one environment of {options.store}")
        by_turns({engine: (replay_step(options.store, engine), 1) for engine in ("hftbacktest", "matcher")})


if __name__ == "__main__":
    main(tyro.cli(Peers))
