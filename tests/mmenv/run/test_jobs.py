"""Jobs give the same results wherever they run, and a worker that is killed costs none."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmenv.run.job import Done, Job, JobError
from mmenv.run.jobs import run, workers
from mmenv.run.processes import Processes

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'neuralmm[scale]'"
)


@dataclass(frozen=True)
class Square:
    """Squares a number; leaves its process's number behind, and stays a while."""

    number: int
    folder: Path
    seconds: float = 0.0

    def __call__(self, tell):
        with (self.folder / f"{self.number}.pid").open("a") as file:
            file.write(f"{os.getpid()}\n")
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            tell(1)
            time.sleep(0.01)
        return self.number**2


@dataclass(frozen=True)
class Kills:
    """Kills its own process the first `times` times."""

    folder: Path
    times: int

    def __call__(self, tell):
        with (self.folder / "kills").open("a") as file:
            file.write("x")
        if len((self.folder / "kills").read_text()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"


class Fails:
    def __call__(self, tell):
        raise KeyError("this one is wrong")


@pytest.mark.parametrize("ray", [None, pytest.param("local", marks=needs_ray)])
def test_a_killed_worker_costs_no_result(tmp_path, ray):
    """One worker kills itself, another is killed from outside in the middle; all results come."""
    jobs = [Job(f"square {i}", Square(i, tmp_path)) for i in range(4)]
    jobs += [Job("long", Square(9, tmp_path, seconds=1.0)), Job("kills", Kills(tmp_path, times=1))]
    killed = []

    def kill(_told):
        path = tmp_path / "9.pid"
        if not killed and path.exists() and (text := path.read_text().strip()):
            killed.append(int(text))
            os.kill(killed[0], signal.SIGKILL)

    with workers(2, ray) as pool:
        found = {done.name: done.value for done in run(jobs, pool, kill)}
        assert found == {f"square {i}": i**2 for i in range(4)} | {"long": 81, "kills": "survived"}
        assert killed
        assert len((tmp_path / "9.pid").read_text().split()) == 2  # it was done again

        with pytest.raises(KeyError, match="this one is wrong"):
            list(run([Job("fails", Fails())], pool))


def test_a_job_that_always_kills_its_worker_ends(tmp_path):
    with Processes(1, retries=2) as pool, pytest.raises(JobError, match="lost its worker 3 times"):
        list(run([Job("kills", Kills(tmp_path, times=99))], pool))
    assert (tmp_path / "kills").read_text() == "xxx"


def test_processes_end_with_their_pool(tmp_path):
    """Idle ones and busy ones."""
    with Processes(2) as pool:
        pool.submit(Job("short", Square(2, tmp_path)))
        pool.submit(Job("long", Square(3, tmp_path, seconds=600.0)))
        found: list[Done] = []
        while not found or not (tmp_path / "3.pid").exists():
            found += pool.collect(0.1)
        assert [done.value for done in found] == [4]
    for number in (2, 3):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"{number}.pid").read_text()), 0)
