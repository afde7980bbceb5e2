"""How long the first use takes, with nothing compiled and with all: `python -m benchmarks.cold`.

Each command runs with an empty cache of compiled code, then with what that left there. Shown are seconds on
the clock, and of processor time of all its processes, which tells more on a machine that others use too.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from mmenv.sheet import Sheet

STEP = """
import sys, gymnasium, mmenv
env = gymnasium.make("NeuralMM-v0", market=sys.argv[1])
env.reset(seed=0)
env.step(env.action_space.sample())
"""
IMPORT = """
import sys
from train import warm, warm_samples
samples = warm_samples.READERS | warm_samples.CAPTURES
warm.import_samples({sys.argv[1]: samples[sys.argv[1]]})
"""
IMPORTS = ("lobster", "plain", "itch", "okx", "binance", "bitstamp", "coinbase")
MARKETS = ("book", "brownian", "hidden-regime", "correlated", "bursts")


@dataclass(frozen=True)
class Cold:
    """Time first uses."""

    only: tuple[str, ...] = (*MARKETS, *IMPORTS, "train", "warm")
    """Markets (to their first step), formats (the import of a few lines), `neuralmm train` to its first
    logged update, and `neuralmm warm`."""


def main(options: Cold) -> None:
    rows = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            figures = [timed(name, Path(folder)) for _ in ("cold", "warm")]
        rows.append([name, *(f"{value:.1f}" for pair in figures for value in pair)])
    heads = ["first use", "cold, s", "cold, processor s", "warm, s", "warm, processor s"]
    console = Console()
    Sheet.of_rows("First uses: cold, nothing is compiled", heads, rows).print(console)
    console.print(f"{os.cpu_count()} processors, others' load {os.getloadavg()[0]:.1f}.")


def timed(name: str, folder: Path) -> tuple[float, float]:
    """Seconds on the clock and of processors until a first use is over, with the cache of `folder`."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "NEURALMM_QUIET": "1"}
    process = subprocess.Popen(
        command(name), env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    over: Callable[[], bool] = (lambda: logged(folder)) if name == "train" else lambda: False
    while process.poll() is None and not over():
        time.sleep(0.05)
    clock = time.perf_counter() - start
    if process.poll() is None:
        process.terminate()
    elif process.returncode:
        sys.exit(f"{name}: {' '.join(command(name)[:4])} ended with status {process.returncode}")
    process.wait()
    for run in (folder / "logs").glob("*/progress.csv"):
        run.unlink()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command(name: str) -> list[str]:
    """What runs for a first use."""
    ours = [sys.executable, "-m", "train.cli"]
    if name in MARKETS:
        return [sys.executable, "-c", STEP, name]
    if name in IMPORTS:
        return [sys.executable, "-c", IMPORT, name]
    return {
        "train": [*ours, "train", "--final-episodes", "0"],
        "warm": [*ours, "warm"],
    }[name]


def logged(folder: Path) -> bool:
    """Whether a run has written its first update."""
    return any(len(file.read_text().splitlines()) > 1 for file in (folder / "logs").glob("*/progress.csv"))


if __name__ == "__main__":
    main(tyro.cli(Cold))
