"""The same bytes whatever threads the machine's BLAS has, in the environment of Ray's workers and in one.

python -m tests.test_threads        # prints the hashes of this process
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmenv import make_config
from mmenv.backtest import Entrant, Settings, backtest
from mmenv.measure.calibrate import calibrate_market
from mmenv.run.job import Job, Tell
from mmenv.run.jobs import run, workers
from policies.optimal import solve
from tests.helpers.entrants import Make
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.run import train
from train.settings import env_config, market_defaults, write_settings
from train.signals.judging import regress

ROOT = Path(__file__).parents[1]

RAY = {"OMP_NUM_THREADS": "1"}
"""What Ray sets for a worker of one processor."""

THREADS = {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4", "OPENBLAS_CORETYPE": "Haswell"}
"""Several threads, and a kernel that sums in another order than those of newer processors even on one."""


def training(folder: Path) -> Iterator[np.ndarray]:
    settings = dataclasses.replace(
        market_defaults("brownian"), steps=2 * 9600, threads=1, lstm_size=16, n_epochs=1, device="cpu",
        eval_episodes=8, final_episodes=0,
    )  # fmt: skip
    config = env_config(settings)
    write_settings(folder, settings, config)
    train(settings, config, folder)
    model = FastRecurrentPPO.load(folder / "last_model.zip", device="cpu")
    for weights in model.policy.state_dict().values():
        yield weights.numpy()


def played(folder: Path) -> Iterator[np.ndarray]:
    config = make_config("brownian", horizon=200, risk={"position_limit": 60})
    entrant = Entrant(Make("it", "cartea-jaimungal", ()), config)
    run = backtest([entrant], folder, Settings(jobs=1, days=0.2), progress=False).first
    for name in ("orders", "equity"):
        yield run.table(name).to_numpy(dtype=float)
    yield np.array(list(run.counts["positions"]))


def solved(folder: Path) -> Iterator[np.ndarray]:
    config = make_config("hidden-regime", horizon=30, risk={"position_limit": 4})
    found = solve(config, "exponential-average", resolution=40)
    yield from (found.ask, found.bid, found.values)


def calibrated(folder: Path) -> Iterator[np.ndarray]:
    found = calibrate_market("brownian", environments=16, seconds=120.0)
    yield np.array(
        [*found.fills.rate, *found.fills.decay, *(x for e in found.volatility.values() for x in e)]
    )


def signal(folder: Path) -> Iterator[np.ndarray]:
    x = np.random.default_rng(0).normal(size=(30_000, 12)).astype(np.float32)
    rows = np.arange(len(x))
    yield regress(x, x[:, 0] > x[:, 1], rows[:20_000], rows[20_000:], True)


def hashes() -> dict[str, str]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (training, played, solved, calibrated, signal):
            made = hashlib.sha256()
            for array in part(Path(folder) / part.__name__):
                made.update(np.ascontiguousarray(array).tobytes())
            found[part.__name__] = made.hexdigest()
    return found


@dataclasses.dataclass(frozen=True)
class Hashes:
    """The job of making them."""

    def __call__(self, tell: Tell) -> dict[str, str]:
        return hashes()


@pytest.fixture(scope="module")
def found() -> list[dict[str, str]]:
    """The hashes of processes with one thread and with several."""
    command = [sys.executable, "-m", "tests.test_threads"]
    apart = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS")
    plain = {name: value for name, value in os.environ.items() if name not in apart}
    children = [
        subprocess.Popen(command, env=plain | own, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for own in (RAY, THREADS)
    ]
    return [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]


def test_results_do_not_depend_on_the_threads_of_a_blas(found: list[dict[str, str]]):
    here, there = found
    assert here == there


def test_a_worker_of_ray_makes_the_same_bytes(found: list[dict[str, str]]):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'neuralmm[scale]'")
    with workers(1, "local") as pool:
        [done] = run([Job("hashes", Hashes())], pool)
    assert done.value == found[0]


if __name__ == "__main__":
    print(json.dumps(hashes()))
