"""Throughput of one and two workers: `python -m benchmarks.scale [sweep|backtest|train]`.

Two workers on two hyper-threads of one core cannot do twice the work of one: so two plain processes that
share nothing are timed too, and the pool's figure is given against theirs.
"""

from __future__ import annotations

import importlib.util
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from mmenv import make_config
from mmenv.backtest import Entrant
from mmenv.backtest.run import Play, Settings, units
from mmenv.jobs import Job, run, workers
from policies.base import make_policy
from train.backtest import Fixed
from train.ppo import env_config, from_table, write_settings
from train.training import Training


@dataclass(frozen=True)
class Options:
    """Time one worker, two workers, two plain processes and two Ray workers."""

    what: tyro.conf.Positional[Literal["sweep", "backtest", "train"]] = "backtest"
    jobs: int = 4
    """Trials or days, of equal length."""
    days: float = 2.0
    """Of each policy (backtest)."""
    steps: int = 200_000
    """Of each trial (sweep), or of the one policy (train)."""
    repeats: int = 3
    """Rounds of all jobs by each kind of worker; the median counts."""
    ray: bool = True


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "train":
            train(options, Path(folder))
        else:
            pools(options, Path(folder))


def pools(options: Options, folder: Path) -> None:
    """Jobs a second of each kind of pool."""
    kinds: list[tuple[str, int, str | None]] = [("one process", 1, None), ("two processes", 2, None)]
    if options.ray and importlib.util.find_spec("ray"):
        kinds += [("one Ray worker", 1, "local"), ("two Ray workers", 2, "local")]
    seconds = {}
    for name, count, ray in kinds:
        with workers(count, ray) as pool:
            # Start-up, imports and compilation are no throughput.
            list(run(jobs(options, folder / f"{name} warm", count, warm=True), pool))
            rounds = []
            for repeat in range(options.repeats):
                start = time.perf_counter()
                list(run(jobs(options, folder / f"{name} {repeat}", options.jobs), pool))
                rounds.append(time.perf_counter() - start)
            seconds[name] = statistics.median(rounds)
    seconds["two plain processes"] = plain(options, folder)
    one = {"Ray": seconds.get("one Ray worker"), "plain": seconds["one process"]}
    print(
        f"{options.what}: {options.jobs} jobs, median of {options.repeats} rounds (target for Ray: 1.7 times)"
    )
    for name, took in seconds.items():
        against = one["Ray"] if "Ray" in name else one["plain"]
        assert against is not None
        print(f"  {name:<20} {took:7.1f} s   {against / took:5.2f} times one")


def jobs(options: Options, folder: Path, count: int, warm: bool = False) -> list[Job]:
    """`count` jobs of the same length."""
    folder.mkdir(parents=True)
    if options.what == "sweep":
        return [trial(folder / str(i), 10_000 if warm else options.steps) for i in range(count)]
    config = make_config("hidden-regime")
    found = []
    for i in range(count):
        policy = make_policy("fixed-spread", config, half_spread=1 + 0.1 * i)
        entrant = Entrant(Fixed(f"spread {i}", policy), config)
        for unit in units([entrant], Settings(days=0.01 if warm else options.days)):
            for name in ("states", "fills", "orders", "equity", "units"):
                (folder / name).mkdir(exist_ok=True)
            found.append(Job(unit.name, Play(unit, folder), unit.decisions))
    return found


def trial(folder: Path, steps: int) -> Job:
    """A short training run, as trials of a sweep are."""
    table = {"market": "brownian", "steps": steps, "threads": 1, "eval_every": 100_000, "final_episodes": 0}
    settings = from_table("benchmark", table)
    write_settings(folder, settings, env_config(settings))
    return Job(str(folder), Training(folder), steps)


def plain(options: Options, folder: Path) -> float:
    """Two processes without a pool, each with half the jobs: what this machine can give."""
    code = (
        "import sys,time,pickle,torch;torch.set_num_threads(1)\n"
        "work=pickle.loads(sys.stdin.buffer.read())\n"
        "work[0].work(lambda n: None); print('ready',flush=True); start=time.perf_counter()\n"
        "[job.work(lambda n: None) for job in work[1:]]; print(time.perf_counter()-start)"
    )
    running = []
    for half in range(2):
        work = jobs(options, folder / f"plain warm {half}", 1, warm=True)
        work += jobs(options, folder / f"plain {half}", options.jobs // 2)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin
        process.stdin.write(pickle.dumps(work))
        process.stdin.close()
        running.append(process)
    told = [process.stdout.read().decode().split() for process in running if process.stdout]
    return max(float(words[-1]) for words in told)


def train(options: Options, folder: Path) -> None:
    """Seconds of an update and a rollout, bytes and time of an all-reduce: the inputs of docs/scale.md."""
    from torch.multiprocessing.spawn import spawn

    print("one policy, all-reduce of its gradients between two processes:")
    spawn(_all_reduce, (str(folder),), nprocs=2)
    one = run_once(options, folder / "one", 1)
    two = run_once(options, folder / "two", 2)
    rates = options.steps / one, options.steps / two
    print(f"  one worker {rates[0]:,.0f} steps/s, two {rates[1]:,.0f}: {one / two:.2f} times")


def _all_reduce(rank: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    from train.recurrent_ppo import FastRecurrentPPO
    from train.vec_env import NeuralMMVecEnv

    model = FastRecurrentPPO("MlpLstmPolicy", NeuralMMVecEnv(make_config("hidden-regime"), 2), n_steps=10)
    count = sum(parameter.numel() for parameter in model.policy.parameters())
    gradient = torch.zeros(count)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        dist.all_reduce(gradient)
        times.append(time.perf_counter() - start)
    if rank == 0:
        print(f"  {4 * count:,} bytes, {1e3 * sorted(times)[100]:.2f} ms (median)")
    dist.destroy_process_group()


def run_once(options: Options, folder: Path, count: int) -> float:
    """Seconds that `learn` takes by the run's own log, start-up left out."""
    import pandas as pd

    command = ["train", "--market", "brownian", "--steps", str(options.steps), "--threads", "1"]
    command += ["--workers", str(count), "--final-episodes", "0", "--eval-every", str(10 * options.steps)]
    command += ["--logs", str(folder.parent), "--name", folder.name]
    subprocess.run([sys.executable, "-m", "train.cli", *command], check=True, stdout=subprocess.DEVNULL)
    log = pd.read_csv(folder / "progress.csv")[["time/total_timesteps", "time/time_elapsed"]].dropna()
    first, last = log.iloc[0], log.iloc[-1]
    rate = (last.iloc[0] - first.iloc[0]) / max(last.iloc[1] - first.iloc[1], 1)
    return float(options.steps / rate)


if __name__ == "__main__":
    main()
