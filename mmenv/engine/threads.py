"""A compiled step on several threads: each takes some of the blocks, so the bytes do not depend on how many.

Threads of the process wait for work in Python and do it without the interpreter lock. (Numba's own threads do
not survive a fork, which vector environments in processes need.)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np

Task = Callable[[int], int]
"""A compiled function that releases the interpreter lock, from the address of a plan to a status."""

TRIALS = 10


class Worker:
    """A thread that runs one task after the other."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[tuple[Task, int, SimpleQueue[int]]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="NeuralMM step").start()

    def _work(self) -> None:
        while True:
            task, plan, results = self.jobs.get()
            results.put(task(plan))


_workers: list[Worker] = []


def _forget_workers() -> None:
    """Threads do not survive a fork: the child starts its own."""
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def run(task: Task, plans: Sequence[int]) -> list[int]:
    """The task on each plan at the same time, the first one on this thread; their statuses."""
    while len(_workers) < len(plans) - 1:
        _workers.append(Worker())
    results: SimpleQueue[int] = SimpleQueue()
    for worker, plan in zip(_workers, plans[1:], strict=False):
        worker.jobs.put((task, plan, results))
    return [task(plans[0]), *(results.get() for _ in plans[1:])]


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Trial:
    """Finds the fastest of several numbers of threads by using each in turn for some steps."""

    def __init__(self, candidates: Sequence[int]) -> None:
        self._times: dict[int, list[float]] = {count: [] for count in candidates}
        self.best = candidates[0]

    def step(self, function: Callable[[int], int]) -> int:
        """Call `function` with the number of threads to use; its result."""
        count = min(self._times, key=lambda count: len(self._times[count]))
        start = time.perf_counter()
        status = function(count)
        self._times[count].append(time.perf_counter() - start)
        self.best = min(self._times, key=lambda count: float(np.min(self._times[count] or [np.inf])))
        return status

    @property
    def over(self) -> bool:
        return all(len(times) >= TRIALS for times in self._times.values())
