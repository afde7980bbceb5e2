"""How imports are run: a folder each for its checkpoints, one after another or in processes, with bars."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from mmenv.data.rows import CaptureError
from mmenv.data.tape import TapeError
from mmenv.files import BusyError, alone, replacing
from mmenv.progress import progress_bar
from mmenv.registry import PluginError

LAYOUT: Final = 9
"""Of the checkpoint; another number for other fields of what is pickled: older ones then begin anew."""

Show = Callable[[str, str, int, int], None]
"""What is done, its unit, how much of it and of how much."""


class Options(Protocol):
    """What the command says about how to run imports."""

    @property
    def jobs(self) -> int:
        """How many at a time."""

    @property
    def progress(self) -> bool:
        """Whether to show how far they are."""


class Job(Protocol):
    """An import, which can be pickled."""

    def run(self, options: Any, folder: Path, show: Show) -> None:
        """Do what is left of it, in a folder of its own."""


Kind = TypeVar("Kind", bound=Job)


@contextmanager
def _bars(options: Options) -> Iterator[Show]:
    """One bar at a time, for imports one after another."""
    shown: list[Any] = []
    named: list[str] = []

    def show(name: str, unit: str, done: int, total: int) -> None:
        if named[-1:] != [name]:
            named.append(name)
            _close(shown)
            bar = progress_bar(
                total=total, desc=name, unit=unit, unit_scale=True, disable=not options.progress, leave=False
            )
            shown.append(bar)
        shown[-1].update(done - shown[-1].n)

    try:
        yield show
    finally:
        _close(shown)


def _close(bars: list[Any]) -> None:
    while bars:
        bars.pop().close()


def run_jobs(options: Options, folder: Path, jobs: Sequence[Kind]) -> list[Kind]:
    """Do all of the jobs, each in the folder of its number: in turn, or in processes of their own."""
    if options.jobs == 1 or len(jobs) == 1:
        with _bars(options) as show:
            for number, job in enumerate(jobs):
                job.run(options, folder / str(number), show)
        return list(jobs)
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    with (
        ProcessPoolExecutor(min(options.jobs, len(jobs)), context, _begin_worker, (told,)) as pool,
        progress_bar(total=2 * len(jobs), desc="imports", disable=not options.progress, leave=False) as bar,
    ):
        futures = [
            pool.submit(_run_job, number, job, options, folder / str(number))
            for number, job in enumerate(jobs)
        ]
        shares: dict[tuple[int, str], float] = {}
        while not all(future.done() for future in futures):
            with suppress(queue.Empty):
                number, name, share = told.get(timeout=0.2)
                shares[number, name] = share
                bar.update(sum(shares.values()) - bar.n)
            if any(future.done() and future.exception() for future in futures):
                pool.shutdown(cancel_futures=True)
        return [future.result() for future in futures]


_TOLD: list[Any] = []
"""Of a worker: where it tells how far it is."""


def _begin_worker(told: Any) -> None:
    told.cancel_join_thread()  # what nobody will read any more does not keep the process from ending
    _TOLD.append(told)


def _run_job(number: int, job: Kind, options: Options, folder: Path) -> Kind:
    """A job in a process of its own, from which the one of the parent continues."""

    def show(name: str, unit: str, done: int, total: int) -> None:
        _TOLD[0].put((number, name, done / max(total, 1)))

    job.run(options, folder, show)
    return job


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A folder of our own for as long as the import takes, kept if it is killed or interrupted."""
    folder.mkdir(exist_ok=True)
    try:
        with alone(folder):
            try:
                yield folder
            except (CaptureError, PluginError):
                shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except BusyError:
        raise TapeError(f"{folder.parent}: the same import is running already; wait for it to end") from None


def save(what: Any, folder: Path) -> None:
    """Write a checkpoint; the one before it stays until this one is whole."""
    with replacing(folder / "checkpoint") as temporary, temporary.open("wb") as file:
        pickle.dump((LAYOUT, what), file, pickle.HIGHEST_PROTOCOL)


def load(folder: Path) -> Any:
    """What a checkpoint holds; None where there is none, or one of another version."""
    try:
        layout, found = pickle.loads((folder / "checkpoint").read_bytes())
    except Exception:  # there is none, or one that was not written to the end
        return None
    return found if layout == LAYOUT else None
