"""Independent jobs on this machine's processors or on a Ray cluster; a worker that dies costs no result.

    with workers(2) as pool:                      # or workers(ray="auto"), workers(ray="host:6379")
        for done in run([Job("a", work_a, 100), Job("b", work_b, 100)], pool):
            print(done.name, done.value)

A job is a name, a function that pickles, and how much it has to do. The function is called with `tell`, by
which it may say how far it is; what it returns comes back. It must be possible to do it again from the start,
or to continue what lies on disk: if its worker dies (killed, out of memory, its machine gone), it is given to
another one. Results do not depend on where or in which order jobs run.

Jobs on other machines read and write the same paths, so folders and data are on storage that all share, and
the same code is installed everywhere; both are checked before a job starts.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context
from typing import Any, Protocol

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


class Workers(Protocol):
    """Takes jobs and gives back what comes of them, in the order in which they end."""

    capacity: int
    """Jobs that run at the same time."""

    def submit(self, job: Job) -> None:
        """Take a job; it starts when a worker is free."""

    def collect(self, seconds: float) -> list[Done]:
        """What ended since the last call, waiting for the first for at most so long."""

    def progress(self) -> dict[str, int]:
        """How far the running jobs are, by name."""

    def close(self) -> None:
        """End all workers, whatever they are doing."""

    def __enter__(self) -> Workers: ...

    def __exit__(self, *_: object) -> None: ...


def workers(count: int | None = None, ray: str | None = None) -> Workers:
    """A pool of `count` processes here (by default one for each processor), or a Ray cluster.

    :param ray: address of a cluster, "auto" for the one running on this machine, or "local" to start one here
        of `count` workers for as long as the pool is open.
    """
    if ray is not None:
        from mmenv.ray_jobs import RayWorkers

        return RayWorkers(ray, count)
    return Processes(count or os.cpu_count() or 1)


def run(
    jobs: Sequence[Job], pool: Workers, show: Callable[[dict[str, int]], Any] = lambda _: None
) -> Iterator[Done]:
    """What comes of the jobs, as it comes; the first error is raised.

    :param show: called about twice a second with how far the jobs are that run or have ended.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("two jobs have the same name; their progress could not be told apart.")
    totals = {job.name: job.total for job in jobs}
    ended: dict[str, int] = {}
    for job in jobs:
        pool.submit(job)
    while len(ended) < len(jobs):
        found = pool.collect(TELL_SECONDS)
        ended |= {done.name: totals[done.name] for done in found}
        show(pool.progress() | ended)
        for done in found:
            if done.error is not None:
                raise done.error
            yield done


# Processes on this machine ----------------------------------------------------------------------------------


class Processes:
    """`count` processes of this machine; each does one job after another."""

    def __init__(self, count: int, retries: int = RETRIES) -> None:
        self.capacity, self.retries = count, retries
        self._waiting: deque[tuple[Job, int]] = deque()  # with how many workers it has cost
        self._busy: dict[connection.Connection, tuple[Any, Job, int]] = {}
        self._idle: list[tuple[Any, connection.Connection]] = []
        self._told: dict[str, int] = {}
        self._context = get_context("spawn")

    def submit(self, job: Job) -> None:
        self._waiting.append((job, 0))
        self._fill()

    def collect(self, seconds: float) -> list[Done]:
        found: list[Done] = []
        until = time.monotonic() + seconds
        while not found and self._busy and (left := until - time.monotonic()) > 0:
            for ready in connection.wait(list(self._busy), left):
                found += self._hear(ready)  # type: ignore[arg-type]
            self._fill()
        return found

    def progress(self) -> dict[str, int]:
        return dict(self._told)

    def close(self) -> None:
        for process, _, _ in self._busy.values():
            process.terminate()
        for pipe in [*self._busy, *(pipe for _, pipe in self._idle)]:
            pipe.close()  # the end of an idle process
        for process in [p for p, _, _ in self._busy.values()] + [p for p, _ in self._idle]:
            process.join()
        self._waiting.clear()
        self._busy.clear()
        self._idle.clear()

    def _fill(self) -> None:
        while self._waiting and len(self._busy) < self.capacity:
            job, lost = self._waiting.popleft()
            process, pipe = self._idle.pop() if self._idle else self._start()
            self._busy[pipe] = (process, job, lost)
            self._told[job.name] = 0
            # A worker that died while idle is noticed as one that dies at work: its pipe ends.
            try:
                pipe.send_bytes(pickle.dumps(job))
            except OSError:
                continue

    def _start(self) -> tuple[Any, connection.Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,))
        process.start()
        theirs.close()
        return process, ours

    def _hear(self, pipe: connection.Connection) -> list[Done]:
        process, job, lost = self._busy[pipe]
        try:
            kind, content = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return self._bury(pipe, process, job, lost + 1)
        if kind == "tell":
            self._told[job.name] = content
            return []
        del self._busy[pipe], self._told[job.name]
        self._idle.append((process, pipe))
        return [content]

    def _bury(self, pipe: connection.Connection, process: Any, job: Job, lost: int) -> list[Done]:
        pipe.close()
        process.join()
        del self._busy[pipe], self._told[job.name]
        if lost <= self.retries:
            self._waiting.appendleft((job, lost))
            return []
        return [Done(job.name, error=_lost(job.name, lost, f"exit code {process.exitcode}"))]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: connection.Connection) -> None:
    """Life of a process: jobs come through the pipe, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us

    def send(kind: str, content: Any) -> None:
        try:
            pipe.send_bytes(pickle.dumps((kind, content)))
        except OSError:
            os._exit(1)  # the parent is gone, and with it everybody who would want this

    while True:
        try:
            job = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        send("done", perform(job, partial(send, "tell")))


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


def _lost(name: str, times: int, how: str) -> JobError:
    return JobError(
        f"job {name!r} lost its worker {times} times ({how}). If memory is short, run fewer jobs at a time."
    )
