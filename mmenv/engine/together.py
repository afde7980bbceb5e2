"""Compiling on several processors: numba compiles one function at a time, so further processes help.

They fill the cache, from which this process then reads.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from mmenv.engine.cache import kept
from mmenv.engine.compiler import notice
from mmenv.engine.stage import Native
from mmenv.engine.threads import processors

MOST_HELPERS = 3
"""Each takes a second to start, and what a market needs takes about ten."""

WORTH_HELP = 3
"""Functions that are left to compile, from which on a helper is started."""

HELPER = """
import gc, json, sys
gc.disable()
sys.path[:] = json.loads(sys.stdin.readline())
from mmenv.engine.together import serve
serve()
"""


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away: it looks through all that numba keeps, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def compile_all(natives: Iterable[Native]) -> None:
    """Compile, or find in the cache, what is not ready; with further processes, if much is to be compiled."""
    missing = [native for native in dict.fromkeys(natives) if not native.ready]
    shared = deque(native for native in missing if native.place is not None)
    # At once where much is to be compiled: a helper needs a second before it begins.
    helpers = _helpers(shared) if sum(not kept(native.function) for native in shared) >= WORTH_HELP else []
    while shared:
        try:
            native = shared.popleft()
        except IndexError:  # a helper took the last one
            break
        native.address  # noqa: B018  (compiles)
        if not helpers and native.anew and len(shared) >= WORTH_HELP:  # its form for other types is kept
            helpers = _helpers(shared)
    notice.enter()
    for helper in helpers:
        helper.join()
    notice.leave()
    for native in missing:
        native.address  # noqa: B018  (reads what helpers have compiled, or compiles)


def _helpers(shared: deque[Native]) -> list[threading.Thread]:
    """Threads that have processes compile from the end of what is shared; none in a process that is one of
    several already."""
    if not sys.executable or multiprocessing.parent_process() is not None:
        return []
    count = min(processors() - 1, MOST_HELPERS)
    helpers = [threading.Thread(target=_help, args=(shared,), daemon=True) for _ in range(count)]
    for helper in helpers:
        helper.start()
    return helpers


def _help(shared: deque[Native]) -> None:
    """Hand functions to a process, one after the other; what it fails at, this process compiles later."""
    environment = {**os.environ, "NEURALMM_QUIET": "1"}
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    try:
        with subprocess.Popen([sys.executable, "-c", HELPER], env=environment, text=True, **pipes) as helper:
            assert helper.stdin is not None
            assert helper.stdout is not None
            _tell(helper.stdin, sys.path)
            while shared:
                native = shared.pop()
                _tell(helper.stdin, native.place)
                if not helper.stdout.readline():
                    return
                notice.compiling(native.function.__module__)
    except (IndexError, OSError):  # all is taken; no process may be started, or it has died
        return


def _tell(stream: IO[str], what: object) -> None:
    stream.write(json.dumps(what) + "\n")
    stream.flush()


def serve() -> None:
    """Compile what standard input names, line by line, and answer each with a line."""
    for line in sys.stdin:
        module, name, by_lane = json.loads(line)
        try:
            __import__(module)
            native = getattr(sys.modules[module], name)
            (native.by_lane if by_lane else native).address  # noqa: B018
        except Exception:  # whoever asked compiles it too, and shows the error
            pass
        print(flush=True)
