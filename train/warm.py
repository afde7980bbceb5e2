"""`neuralmm warm`: compile beforehand what the first commands after installation would stop to compile.

What is compiled is found by using it: the readers of recordings of a few lines, the learner in a training of
a few steps. Stages need no use, for their types are known.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from train.warm_samples import CAPTURES, READERS, write

if TYPE_CHECKING:
    from mmenv.config import EnvConfig
    from train.settings import Settings

PACKAGES = ("mmenv.step", "mmenv.market", "mmenv.features", "mmenv.rewards", "mmenv.actions", "mmenv.desk")
"""Where the stages of all markets are."""


@dataclass(frozen=True)
class Warm:
    """Compile what commands need, on all processors, and keep it: once after installation or an update."""

    only: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="{markets,learner,readers,captures}...", help="Of all that is compiled, this alone."
        ),
    ] = ()


def markets() -> None:
    """Every stage of every market, feature group and reward, and what works through them."""
    from mmenv.engine import plan, products
    from mmenv.engine.stage import Native
    from mmenv.engine.state import LANES
    from mmenv.engine.together import compile_all
    from mmenv.vector import NeuralMMVectorEnv

    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    ours = [vars(module) for name, module in sys.modules.items() if name.startswith("mmenv.")]
    compile_all(value for names in ours for value in names.values() if isinstance(value, Native))
    for function in (plan.step_at, plan.step_alone, plan.reset_at):
        plan.entry(function)
    several = NeuralMMVectorEnv(2 * LANES, "brownian", num_threads=2)
    several.reset(seed=0)
    several.step(several.action_space.sample())
    one = np.eye(1)
    for of_matrices in (products.product, products.solve_linear, products.whitened):
        of_matrices(one, one)


def learner() -> None:
    """The learner's networks, with each kind of memory, in a training of a few steps on a pendulum."""
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv

    from train.learner.recurrent_ppo import FastRecurrentPPO

    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 8)
    critic = {"enable_critic_lstm": False, "critic_reads_memory": True}
    shape = {"lstm_hidden_size": 16, "net_arch": [16, 16], "privileged": 1}
    for cell in ("lstm", "gru", "mingru", "lru"):
        model = FastRecurrentPPO(
            "MlpLstmPolicy", env, n_steps=16, batch_size=64, n_epochs=1, noise_memory=0.5, device="cpu",
            policy_kwargs={"cell": cell, **shape, **critic},
        )  # fmt: skip
        model.learn(128)


def readers() -> None:
    """What all importers share, and the readers of archives: columns, LOBSTER, Databento, ITCH."""
    import_samples(READERS)


def captures() -> None:
    """The readers of captures of websockets, single orders among them."""
    from mmenv.data.formats import binance, bitstamp, coinbase_full, feed

    for module in (feed, binance, bitstamp, coinbase_full):
        module.compile_scan()
    import_samples(CAPTURES)


def import_samples(samples: dict[str, dict[str, str | bytes]]) -> None:
    """Import files by format, as in `train.warm_samples`."""
    from mmenv.data.importer import Import

    with tempfile.TemporaryDirectory() as name:
        for kind, files in samples.items():
            paths, store = write(files, Path(name, kind)), Path(name, "store", kind)
            venue = "x" if kind == "plain" else None
            Import(kind.partition("-")[0], paths, store, venue=venue, progress=False).run()


def compile_ahead(settings: Settings, config: EnvConfig) -> None:
    """Compile the learner in another process while this one compiles the environment of training.

    Where the learner's code is in the cache, or there is one processor, nothing is done.
    """
    from mmenv.engine.cache import kept
    from mmenv.engine.threads import processors
    from policies.network.compiled import pack

    if kept(pack) or processors() < 2:
        return
    apart = multiprocessing.get_context("spawn").Process(target=_quietly, args=("learner",), daemon=True)
    apart.start()
    from train.run import training_env

    training_env(settings, config).close()
    apart.join()


def _quietly(name: str) -> None:
    os.environ["NEURALMM_QUIET"] = "1"
    JOBS[name]()


JOBS: dict[str, Callable[[], None]] = {
    "markets": markets,
    "learner": learner,
    "readers": readers,
    "captures": captures,
}


def main(options: Warm) -> None:
    """Run the command."""
    names = options.only or tuple(JOBS)
    start = time.monotonic()
    print(f"Compiling what {', '.join(names)} need and is not in the cache ...", flush=True)
    spawn = multiprocessing.get_context("spawn")
    apart = [spawn.Process(target=_timed, args=(name,)) for name in names if name != "markets"]
    for process in apart:
        process.start()
    if "markets" in names:
        _timed("markets")
    for process in apart:
        process.join()
    failed = any(process.exitcode for process in apart)
    print(f"{'Not all of it could be compiled' if failed else 'Done'}: {time.monotonic() - start:.0f} s.")
    if failed:
        sys.exit(1)


def _timed(name: str) -> None:
    start = time.monotonic()
    JOBS[name]()
    print(f"  {name}: {time.monotonic() - start:.0f} s", flush=True)
