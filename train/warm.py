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

import tyro

if TYPE_CHECKING:
    from mmenv.config import EnvConfig
    from train.settings import Settings

PACKAGES = ("mmenv.step", "mmenv.market", "mmenv.features", "mmenv.rewards", "mmenv.actions", "mmenv.desk")
"""Where the stages of all markets are."""

MESSAGES = """34200.1,1,1,100,1000000,1
34200.2,1,2,100,1000200,-1
34200.3,1,3,100,1000000,1
34201.1,4,2,50,1000200,-1
34202.2,4,1,50,1000000,1
34203.5,2,3,50,1000000,1
34204.5,1,4,50,999900,1
34205.5,3,4,50,999900,1
"""
"""A recording of LOBSTER's, one level: time, type, order, shares, price in 1/10,000 dollars, side."""

BOOK = """9999999999,0,1000000,100
1000200,100,1000000,100
1000200,100,1000000,200
1000200,50,1000000,200
1000200,50,1000000,150
1000200,50,1000000,100
1000200,50,1000000,100
1000200,50,1000000,100
"""


WEBSOCKET = """1723100000000000000 {"arg":{"channel":"books","instId":"A-B"},"action":"snapshot","data":\
[{"bids":[["99","5","0","1"]],"asks":[["101","5","0","1"]],"ts":"1723100000000","seqId":3,"prevSeqId":-1}]}
1723100000100000000 {"arg":{"channel":"books","instId":"A-B"},"action":"update","data":\
[{"bids":[["98","7","0","1"]],"asks":[],"ts":"1723100000100","seqId":6,"prevSeqId":3}]}
1723100000200000000 {"arg":{"channel":"trades","instId":"A-B"},"data":\
[{"instId":"A-B","tradeId":"1","px":"101","sz":"1","side":"buy","ts":"1723100000200"}]}
"""
"""A recording of OKX's websocket; those of all venues but Binance are read by the same code."""

BINANCE = """1723100000000000000 {"lastUpdateId":1,"E":1723100000000,"T":1723100000000,\
"bids":[["99","5"]],"asks":[["101","5"]]}
1723100000100000000 {"stream":"ab@depth","data":{"e":"depthUpdate","E":1723100000100,"T":1723100000100,\
"s":"AB","U":1,"u":3,"pu":1,"b":[["98","7"]],"a":[]}}
1723100000150000000 {"stream":"ab@bookTicker","data":{"e":"bookTicker","u":4,"s":"AB","b":"99","B":"4",\
"a":"101","A":"5","T":1723100000150,"E":1723100000150}}
1723100000200000000 {"stream":"ab@trade","data":{"e":"trade","E":1723100000200,"T":1723100000200,"s":"AB",\
"t":1,"p":"101","q":"1","X":"MARKET","m":false}}
"""


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
    from mmenv.engine import plan
    from mmenv.engine.stage import Native
    from mmenv.engine.together import compile_all

    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    ours = [vars(module) for name, module in sys.modules.items() if name.startswith("mmenv.")]
    compile_all(value for names in ours for value in names.values() if isinstance(value, Native))
    for function in (plan.step_at, plan.step_alone, plan.reset_at):
        plan.entry(function)


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
    """What all importers share, and the reader of LOBSTER, in the import of a recording of a few lines."""
    from mmenv.data.importer import Import

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for kind, lines in (("message", MESSAGES), ("orderbook", BOOK)):
            files.append(folder / f"WARM_2020-01-02_34200000_34210000_{kind}_1.csv")
            files[-1].write_text(lines)
        Import("lobster", tuple(files), folder / "store", progress=False).run()


def captures() -> None:
    """The readers of captures of websockets, in the import of a few messages."""
    from mmenv.data.importer import Import

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, lines in (("okx", WEBSOCKET), ("binance", BINANCE)):
            (folder / kind).write_text(lines)
            Import(kind, (folder / kind,), folder / "store", progress=False).run()


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
