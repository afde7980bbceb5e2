"""What a job is, what comes of it, and what does jobs."""

from __future__ import annotations

import pickle
import socket
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

RETRIES = 3
"""How often a job is given to another worker before it counts as lost."""

TELL_SECONDS = 0.5
"""Progress is passed on no more often than this."""

Tell = Callable[[int], Any]
"""Called with how much of the job is done, from its beginning."""


@dataclass(frozen=True)
class Job:
    """Something to be done, independent of all other jobs."""

    name: str
    """Unique among the jobs of a pool."""
    work: Callable[[Tell], Any]
    total: int = 1
    """What `tell` counts up to."""


@dataclass(frozen=True)
class Done:
    """What came of a job: its value, or the error it ended with."""

    name: str
    value: Any = None
    error: BaseException | None = None


class JobError(RuntimeError):
    """A job whose workers died again and again, or whose machine cannot do it."""


class Workers(ABC):
    """Takes jobs and gives back what comes of them, in the order in which they end."""

    capacity: int
    """Jobs that run at the same time."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job; it starts when a worker is free."""

    @abstractmethod
    def collect(self, seconds: float) -> list[Done]:
        """What ended since the last call, waiting for the first for at most so long."""

    @abstractmethod
    def progress(self) -> dict[str, int]:
        """How far the running jobs are, by name."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, whatever they are doing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def perform(job: Job, tell: Tell) -> Done:
    """Do a job where we are. An error that cannot travel is replaced by its text."""
    try:
        return Done(job.name, job.work(seldom(tell)))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = JobError("".join(traceback.format_exception(error)))
        error.add_note(f"in job {job.name!r} on {socket.gethostname()}")
        return Done(job.name, error=error)


def seldom(tell: Tell) -> Tell:
    """`tell`, called no more often than anybody looks."""
    last = 0.0

    def told(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            tell(done)

    return told


def lost(name: str, times: int, how: str) -> JobError:
    """The error of a job whose workers died."""
    return JobError(
        f"job {name!r} lost its worker {times} times ({how}). If memory is short, run fewer jobs at a time."
    )
