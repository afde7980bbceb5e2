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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmenv.run.job import TELL_SECONDS, Done, Job, Workers
from mmenv.run.processes import Processes


def workers(count: int | None = None, ray: str | None = None) -> Workers:
    """A pool of processes here, or a Ray cluster.

    Parameters
    ----------
    count
        How many; by default one for each processor.
    ray
        Address of a cluster, "auto" for the one running on this machine, or "local" to start one here of
        `count` workers for as long as the pool is open.
    """
    if ray is not None:
        # Ray is an extra, and takes a second to import.
        from mmenv.run.ray_cluster import RayWorkers

        return RayWorkers(ray, count)
    return Processes(count or os.cpu_count() or 1)


def run(
    jobs: Sequence[Job], pool: Workers, show: Callable[[dict[str, int]], Any] = lambda _: None
) -> Iterator[Done]:
    """What comes of the jobs, as it comes; the first error is raised.

    Parameters
    ----------
    jobs
        Jobs of different names.
    pool
        What does them.
    show
        Called about twice a second with how far the jobs are that run or have ended.
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
