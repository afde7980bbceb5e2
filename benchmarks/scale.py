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
import torch.distributed as dist
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.multiprocessing.spawn import spawn

from mmenv import make_config
from mmenv.backtest import Entrant
from mmenv.backtest.run import Settings as Backtest
from mmenv.backtest.run import units
from mmenv.backtest.unit import Play
from mmenv.run.job import Job
from mmenv.run.jobs import run, workers
from policies.make import make_policy
from train.evaluate import load
from train.experiments.training import Training
from train.settings import Settings, env_config, from_table, read_settings, write_settings
from train.sources import Fixed


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
    batch: int = 1
    """Environments and minibatches so many times those of the defaults (train)."""
    latency_us: float = 30.0
    """Assumed of the network in the model of more machines: microseconds a message (train)."""
    gigabits: float = 10.0
    """The same: its bandwidth per second (train)."""


WORKERS = (1, 2, 4, 8)


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
        for unit in units([entrant], Backtest(days=0.01 if warm else options.days)):
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
    """Data-parallel training: what one worker and two do, and what limits more of them (docs/scale.md).

    A worker's share of a round (rollout and update) is timed alone, without the others; what two workers do
    together is measured, and for more it is modelled: the share, and two all-reduces a minibatch.
    """
    whole = Settings()
    # A minibatch is made of whole sequences of n_steps, so it has no smaller part.
    counts = [count for count in WORKERS if options.batch * whole.batch_size // count >= whole.n_steps]
    alone = {count: round_seconds(options, folder / f"share of {count}", 1, count) for count in counts}
    together = round_seconds(options, folder / "together", 2, 1)
    settings, _ = read_settings(folder / "share of 1")
    minibatches = settings.num_envs * settings.n_steps // settings.batch_size * settings.n_epochs
    model, _ = load(folder / "share of 1" / "last_model.zip")
    size = 4 * sum(parameter.numel() for parameter in model.policy.parameters())
    spawn(_all_reduce, (str(folder), size), nprocs=2)
    small, large = (float(text) for text in (folder / "seconds").read_text().split())
    latency, bandwidth = small / 2, size / max(large - small, 1e-9)
    print(f"one policy: {minibatches} minibatches a round, gradients of {size:,} bytes")
    print(f"  all-reduce between two processes here: {1e3 * large:.2f} ms, of 24 bytes {1e3 * small:.2f} ms")
    for count, seconds in alone.items():
        print(f"  a worker's share of {count}: {1e3 * seconds:.0f} ms a round")
    reductions = minibatches * (small + large)
    print(f"  two workers, measured: {1e3 * together:.0f} ms, {alone[1] / together:.2f} times one")
    print(f"  two workers, model:    {1e3 * (alone[2] + reductions):.0f} ms")
    wire = options.latency_us * 1e-6, options.gigabits * 1e9 / 8
    for count in counts[1:]:
        parts = [2 * (count - 1) * (latency + wire[0])] * 2
        parts.append(2 * (count - 1) / count * size / min(bandwidth, wire[1]))
        seconds = alone[count] + minibatches * sum(parts)
        speed = alone[1] / seconds
        print(
            f"  {count} machines, model: {1e3 * alone[count]:.0f} + {1e3 * minibatches * sum(parts):.0f} ms, "
            f"{speed:.2f} times one, efficiency {speed / count:.2f}"
        )


def round_seconds(options: Options, folder: Path, workers: int, share: int) -> float:
    """Seconds of a rollout with its update, by the times in the run's own log.

    The run has one part in `share` of environments and minibatches.
    """
    settings, batch = Settings(), options.batch
    command = ["train", "--market", "brownian", "--steps", str(options.steps // share), "--threads", "1"]
    command += ["--workers", str(workers), "--final-episodes", "0", "--eval-every", str(10 * options.steps)]
    command += ["--num-envs", str(batch * settings.num_envs // share)]
    command += ["--batch-size", str(batch * settings.batch_size // share)]
    command += ["--logs", str(folder.parent), "--name", folder.name]
    subprocess.run([sys.executable, "-m", "train.cli", *command], check=True, stdout=subprocess.DEVNULL)
    log = EventAccumulator(str(folder)).Reload().Scalars("time/fps")
    return (log[-1].wall_time - log[0].wall_time) / (len(log) - 1)


def _all_reduce(rank: int, folder: str, size: int) -> None:
    """Write the median seconds of an all-reduce of 24 bytes, and of `size`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    medians = []
    for content in (torch.zeros(3, dtype=torch.float64), torch.zeros(size // 4)):
        times = []
        for _ in range(300):
            start = time.perf_counter()
            dist.all_reduce(content)
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times))
    if rank == 0:
        Path(folder, "seconds").write_text(" ".join(map(str, medians)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
