"""Speed beside the libraries of docs/comparison.md that are installed here, by turns: read the ratios.

    python -m benchmarks.peers             # mbt_gym: its market of Avellaneda and Stoikov beside `brownian`
    python -m benchmarks.peers STORE       # and hftbacktest beside our matcher, on a recorded tape

mbt_gym is on no package index: put its checkout on PYTHONPATH, and `pip install gym`. It is stepped as it
comes, three state variables observed and profit as the reward, where `brownian` also computes eighteen
features and the parts of the profit. hftbacktest and our matcher give the same environment, orders take 1 ms.
"""

from __future__ import annotations

import importlib.util
import statistics
import warnings
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
    """Numbers of environments."""


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


def main(options: Peers) -> None:
    """Run what is installed."""
    warnings.filterwarnings("ignore")
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
