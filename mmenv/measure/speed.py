"""`neuralmm bench`: steps per second of NeuralMM-v0 beside known peers, in one run.

Peers are gymnasium's CartPole-v1, single and vector, and a bare NumPy loop of Avellaneda and Stoikov's market
of the same size, which computes fills, cash, inventory and mid, and no features. Everything takes turns, so
that a busy machine slows all alike: read the ratios. Compilation is timed apart.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro
from rich.console import Console

import mmenv  # noqa: F401  (registers the environment)
from mmenv.engine.compiler import vector_extension
from mmenv.engine.state import LANES
from mmenv.measure.naming import named_market
from mmenv.measure.options import MARKET_HELP
from mmenv.sheet import Sheet

Step = Callable[[], None]
"""Makes one step of what is timed."""


@dataclass(frozen=True)
class Bench:
    """Time the environment against its peers."""

    sizes: tuple[int, ...] = (1, 64, 1024, 16384)
    """Numbers of environments."""
    markets: Annotated[tuple[str, ...], tyro.conf.arg(help=f"What is timed: each {MARKET_HELP}.")] = (
        "brownian",
        "hidden-regime",
        "correlated",
        "book",
    )
    repeats: int = 5
    """Number of measurements whose median is shown."""
    seconds: float = 0.2
    """Length of one measurement."""
    threads: int = 1
    """Threads of our vector environments; the peers have one."""


def main(options: Bench) -> None:
    """Run the command."""
    console = Console()
    start = time.perf_counter()
    for market in options.markets:
        single(gym.make("NeuralMM-v0", market=named_market(market)))()
    console.print(f"Compiled, or read from the cache, in {time.perf_counter() - start:.1f} s.")
    for n in options.sizes:
        compare(n, options).print(console)
    widest, _ = vector_extension()
    versions = f"gymnasium {gym.__version__}, numpy {np.__version__}, {widest}, {os.cpu_count()} processors"
    console.print(f"Medians of {options.repeats}; {versions}.")


def compare(n: int, options: Bench) -> Sheet:
    """Time n environments and their peers by turns."""
    if n == 1:
        peers = {"CartPole-v1": single(gym.make("CartPole-v1"))}
    else:
        peers = {"CartPole-v1": vector(gym.make_vec("CartPole-v1", n))}
    peers["NumPy loop"] = numpy_loop(n)
    steps = peers | {market: our_step(market, n, options.threads) for market in options.markets}
    for step in steps.values():
        step()
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            samples[name].append(rate(step, n, options.seconds))
    rates = {name: statistics.median(found) for name, found in samples.items()}
    threads = min(options.threads, -(-n // LANES))
    title = f"{n} environment{'s' if n > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
    rows = [
        [name, f"{value:,.0f}", *(f"{value / rates[peer]:.2f}" for peer in peers)]
        for name, value in rates.items()
    ]
    return Sheet.of_rows(title, ["environment", "steps/s", *(f"x {peer}" for peer in peers)], rows)


def our_step(market: str, n: int, threads: int) -> Step:
    """Step n environments of a market: a single one, or a vector."""
    given = named_market(market)
    if n == 1:
        return single(gym.make("NeuralMM-v0", market=given))
    return vector(gym.make_vec("NeuralMM-v0", n, market=given, num_threads=threads))


def single(env: gym.Env) -> Step:
    """Step a single environment, and reset it where it ends."""
    env.reset(seed=0)
    env.action_space.seed(0)
    action = env.action_space.sample()

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return step


def vector(envs: gym.vector.VectorEnv) -> Step:
    """Step a vector environment."""
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = envs.action_space.sample()

    def step() -> None:
        envs.step(actions)

    return step


def numpy_loop(n: int) -> Step:
    """Step the market of `brownian` in plain NumPy: orders, fills, cash, inventory, mid, reward."""
    random = np.random.default_rng(0)
    cash: np.ndarray = np.zeros(n)
    inventory, mid, age = cash.copy(), cash + 100.0, cash.copy()
    chance, half = 1 - np.exp(-0.5), np.full(n, 1.0)

    def step() -> None:
        nonlocal cash, inventory, mid, age
        skew = 0.1 * inventory
        ask, bid = half - skew, half + skew
        sold = (random.random(n) < chance) & (random.random(n) < np.exp(-ask)) & (inventory > -10)
        bought = (random.random(n) < chance) & (random.random(n) < np.exp(-bid)) & (inventory < 10)
        before = cash + inventory * mid
        cash = cash + sold * (mid + ask) - bought * (mid - bid)
        inventory = inventory + bought - sold
        mid = mid + random.standard_normal(n)
        reward = cash + inventory * mid - before - 0.01 * inventory**2
        age = age + 1
        done = age >= 300
        observations = np.stack([inventory, mid, age, reward], axis=1).astype(np.float32)
        cash, inventory, age = np.where(done, 0, cash), np.where(done, 0, inventory), np.where(done, 0, age)
        assert observations.shape == (n, 4)

    return step


def rate(step: Step, n: int, seconds: float) -> float:
    """Measure the steps of environments per second, for `seconds`."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(10):
            step()
        count += 10
    return count * n / elapsed
