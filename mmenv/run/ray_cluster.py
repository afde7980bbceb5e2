"""Jobs on a Ray cluster, see `mmenv.run.jobs`; needs the extra `scale`."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenv.checks import ConfigError
from mmenv.run.job import RETRIES, Done, Job, JobError, Workers, perform
from mmenv.run.provenance import source_hash

try:
    import ray
except ImportError as error:
    raise ConfigError(
        "Ray is not installed: pip install 'neuralmm[scale]', or leave the option --ray out."
    ) from error


def connect(address: str, count: int | None) -> None:
    """Connect to the cluster at `address`, or start one here of `count` workers where it is "local"."""
    local = address == "local"
    if local:
        # Ray would run its workers at the lowest priority but four, so that they starve beside anything else.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(
            address=address,
            num_cpus=count if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise ConfigError(
            f"--ray {address}: no cluster answers there ({error}). Start one with `ray start --head`, or "
            "give --ray local."
        ) from error


class RayWorkers(Workers):
    """Jobs as Ray tasks; Ray starts one again elsewhere when its worker, or the machine, dies."""

    def __init__(self, address: str, count: int | None = None, retries: int = RETRIES) -> None:
        connect(address, count)
        processors = int(ray.cluster_resources().get("CPU", 1))
        self.capacity = min(count or processors, processors)
        self._retries = retries
        self._task = ray.remote(_perform).options(num_cpus=1, max_retries=retries)
        self._progress: Any = ray.remote(Progress).options(num_cpus=0).remote()
        self._driver = Driver.here()
        self._waiting: list[Job] = []
        self._running: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._fill()

    def _fill(self) -> None:
        # No more than the capacity, so that a pool that is closed leaves nothing behind in a queue.
        while self._waiting and len(self._running) < self.capacity:
            job = self._waiting.pop(0)
            ref = self._task.remote(pickle.dumps(job), job.name, self._progress, self._driver)
            self._running[ref] = job

    def collect(self, seconds: float) -> list[Done]:
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        found = []
        for ref in ready:
            job = self._running.pop(ref)
            try:
                found.append(ray.get(ref))
            except ray.exceptions.RayError as error:
                times = f"after {self._retries} retries"
                found.append(Done(job.name, error=JobError(f"job {job.name!r} was lost {times}: {error}")))
        self._fill()
        return found

    def progress(self) -> dict[str, int]:
        told: dict[str, int] = ray.get(self._progress.told.remote())
        return {job.name: told.get(job.name, 0) for job in self._running.values()}

    def close(self) -> None:
        for ref in self._running:
            ray.cancel(ref, force=True)
        self._running.clear()
        self._waiting.clear()
        ray.shutdown()


class Progress:
    """The actor that jobs tell how far they are."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}

    def tell(self, name: str, done: int) -> None:
        self._done[name] = done

    def told(self) -> dict[str, int]:
        return self._done


@dataclass(frozen=True)
class Driver:
    """The process that gives out the jobs: what workers must have in common with it."""

    folder: str
    path: tuple[str, ...]
    source: str

    @classmethod
    def here(cls) -> Driver:
        """This process."""
        return cls(os.getcwd(), tuple(sys.path), source_hash())

    def follow(self) -> None:
        """Work in its folder, with its search path. Raises `JobError` where folder or code is not here."""
        node = ray.util.get_node_ip_address()
        if source_hash() != self.source:
            raise JobError(f"the code on {node} is not that of the driver: install the same everywhere.")
        if not Path(self.folder).is_dir():
            raise JobError(f"{node} does not see {self.folder}: start where all machines share storage.")
        os.chdir(self.folder)
        sys.path += [entry for entry in self.path if entry not in sys.path]


def _perform(pickled: bytes, name: str, progress: Any, driver: Driver) -> Done:
    """Do a job on whatever machine this is."""
    try:
        driver.follow()
        job = pickle.loads(pickled)
    except Exception as error:
        return Done(name, error=error)
    return perform(job, lambda done: progress.tell.remote(name, done))
