"""What each memory costs, by turns in one run: `python -m benchmarks.memories`.

Of each cell of 64 units: microseconds of a decision of a bundle, of the memory's forward and backward pass a
step (the least of many turns: what disturbs only adds), and of processor time a step of the whole learner at
the default settings of `hidden-regime`, rollout and update, with the ratio of the learners to the first.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from policies.network.packed_lstm import run_packed
from policies.network.recurrent import OWN_KERNELS, RecurrentPolicy
from policies.network.runtime import Stream
from policies.network.trained import actor_network
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.run import new_model, training_env
from train.settings import env_config, market_defaults

INPUTS, SEQUENCES, LENGTH = 9, 4, 300
CELLS = ("lstm", "gru", "mingru", "lru")


class Going(BaseCallback):
    """Stops nothing."""

    def _on_step(self) -> bool:
        return True


def policy(cell: str) -> RecurrentPolicy:
    """An untrained one."""
    seen, act = spaces.Box(-9, 9, (INPUTS,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    settings = {"cell": cell, "lstm_hidden_size": 64, "enable_critic_lstm": False}
    return RecurrentPolicy(seen, act, lambda _: 1e-3, **settings)


def decision(cell: str) -> Callable[[], float]:
    """Microseconds of one decision, over a hundred."""
    stream, row = Stream(actor_network(policy(cell))), np.linspace(-1, 1, INPUTS, dtype=np.float32)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(100):
            stream.step(row)
        return (time.perf_counter() - start) * 1e4

    return timed


def both_ways(cell: str) -> Callable[[], float]:
    """Microseconds a step of the memory's forward and backward pass over a minibatch."""
    rnn, sizes = policy(cell).lstm_actor, np.full(LENGTH, SEQUENCES)
    x, zeros = torch.randn(LENGTH * SEQUENCES, INPUTS), (torch.zeros(1, SEQUENCES, 64),) * 2
    parameters = list(rnn.parameters())
    run = rnn.run_packed if isinstance(rnn, OWN_KERNELS) else functools.partial(run_packed, rnn)

    def timed() -> float:
        start = time.perf_counter()
        torch.autograd.grad(run(x, zeros, sizes).sum(), parameters)
        return (time.perf_counter() - start) / len(x) * 1e6

    return timed


def learner(cell: str) -> Callable[[], tuple[float, float]]:
    """Microseconds of processor time a step, of a rollout and of its update."""
    raw = 'features=["tape","inventory","clock"]'
    settings = dataclasses.replace(market_defaults("hidden-regime"), cell=cell, threads=1, set=(raw,))
    config = env_config(settings)
    model = new_model(FastRecurrentPPO, settings, config, training_env(settings, config))
    _, callback = model._setup_learn(10**9, Going())
    model._update_current_progress_remaining(0, 10**9)
    steps = settings.num_envs * settings.n_steps

    def timed() -> tuple[float, float]:
        start = time.process_time()
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        between = time.process_time()
        model.train()
        return (between - start) / steps * 1e6, (time.process_time() - between) / steps * 1e6

    return timed


def main(turns: int = 8) -> None:
    """Print the table.

    Parameters
    ----------
    turns
        Of a rollout and its update; twenty times as many of what is short.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    short = {cell: (decision(cell), both_ways(cell)) for cell in CELLS}
    found = {cell: [[timed() for timed in pair] for _ in range(3)] for cell, pair in short.items()}
    for _ in range(20 * turns):
        for cell, pair in short.items():
            found[cell].append([timed() for timed in pair])
    learners = {cell: learner(cell) for cell in CELLS}
    long = {cell: [timed()] for cell, timed in learners.items()}  # the first compiles
    for _ in range(turns):
        for cell, timed in learners.items():
            long[cell].append(timed())
    print("microseconds: decision, forward and backward, rollout, update; learner's speed, x the first")
    first = np.sum(long[CELLS[0]][1:], axis=1)
    for cell in CELLS:
        least, taken = np.min(found[cell][3:], axis=0), np.array(long[cell][1:])
        ratio = statistics.median(first / taken.sum(axis=1))
        print(f"{cell:8}", *(f"{x:8.2f}" for x in (*least, *np.median(taken, axis=0))), f"{ratio:8.2f}")


if __name__ == "__main__":
    tyro.cli(main)
