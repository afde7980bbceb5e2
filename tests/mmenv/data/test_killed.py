"""An import that is killed at any moment ends, when it is given again, in the bytes it would have had."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from mmenv.data.tape import Tape
from mmenv.progress import LogLines
from tests.helpers import feeds
from tests.helpers.imports import rows_of
from tests.mmenv.data.test_importer import FORMATS, capture, import_all, same, small_chunks

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked here"
)
KILLS = 4


def begun(kind: str, paths: list[Path], store: Path, jobs: int) -> int:
    """The number of a process of its own that imports."""
    number = os.fork()
    if not number:
        try:
            # The lock of bars is a semaphore that processes share: killed with it, this one would keep it.
            for bar in (tqdm, LogLines):
                bar.set_lock(threading.RLock())
            import_all(kind, paths, store, jobs)
        finally:
            os._exit(0)
    return number


@pytest.mark.parametrize("name", dict.fromkeys([*FORMATS, *feeds.VENUES]))
def test_no_moment_of_a_kill_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = random.Random(name)
    kind, paths = capture(name, tmp_path / "in")
    small_chunks(monkeypatch)  # many checkpoints
    import_all(kind, paths, tmp_path / "warm")
    begin = time.perf_counter()
    whole = import_all(kind, paths, tmp_path / "whole")
    length = time.perf_counter() - begin
    tapes, store = dict(list(whole.items())[:-1]), tmp_path / "killed"  # the last is the report
    for _ in range(KILLS):
        number = begun(kind, paths, store, moments.choice((1, 3)))
        time.sleep(moments.uniform(0, length))
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        found = {f"{tape.info}": rows_of(tape) for tape in map(Tape, sorted(store.glob("venue=*/*/*/*")))}
        assert set(found) <= set(tapes)
        if len(found) == len(tapes):  # the kill came when all was done
            same(found, tapes)
            return
    same(import_all(kind, paths, store, jobs=3), whole)
