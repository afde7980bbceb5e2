"""What compiling has to say and to know: the notice that it takes a while, and the processor's vectors."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings

import numba
from llvmlite import binding
from numba.core import event


def vector_extension() -> tuple[str, int]:
    """The widest vector instructions of this processor, and how many 32-bit values they take."""
    features = binding.get_host_cpu_features()
    for name, lanes in (("avx512f", 16), ("avx2", 8), ("sse4.2", 4), ("neon", 4)):
        if features.get(name):
            return name, lanes
    return "scalar", 4


class Notice(event.Listener):
    """Says on stderr that code is being compiled, and later what it was and how long it took.

    It takes long enough to look like a hang. A value of the environment variable NEURALMM_QUIET silences it.
    """

    def __init__(self) -> None:
        self.depth, self.begun, self.seconds = 0, 0.0, 0.0
        self.compiled: list[str] = []
        self.last: threading.Timer | None = None

    def on_start(self, happened: event.Event) -> None:
        if happened.kind == "numba:compile":
            module = happened.data["dispatcher"].py_func.__module__
            if module.partition(".")[0] != "numba":  # its own, in ours
                self.compiling(module)
        else:
            self.enter()

    def on_end(self, happened: event.Event) -> None:
        if happened.kind != "numba:compile":
            self.leave()

    def enter(self) -> None:
        """Time runs until the matching `leave`."""
        self.depth += 1
        if self.depth == 1:
            self.begun = time.perf_counter()

    def leave(self) -> None:
        self.depth -= 1
        if self.depth == 0 and self.compiled:
            self.seconds += time.perf_counter() - self.begun
            if self.last is not None:
                self.last.cancel()
            self.last = threading.Timer(PAUSE, self.close)
            self.last.daemon = True
            self.last.start()

    def compiling(self, module: str) -> None:
        """A function of this module is compiled, where time runs."""
        if not self.compiled:
            _say(
                f"compiling {_part(module)} and what else is not in the cache, once after installation or a "
                "change; `neuralmm warm` does all of it beforehand. NEURALMM_QUIET=1 hides this line."
            )
        self.compiled.append(module)

    def close(self) -> None:
        """What was compiled, once nothing has been for a while."""
        if self.depth == 0 and self.compiled:
            parts = ", ".join(sorted(set(map(_part, self.compiled))))
            _say(f"compiled {len(self.compiled)} functions of {parts} in {self.seconds:.0f} s.")
            self.compiled, self.seconds = [], 0.0


PAUSE = 2.0
"""Seconds without compiling after which the notice says what there was."""

notice = Notice()


def watch() -> None:
    """Have numba tell the notice."""
    for kind in ("numba:compile", "numba:compiler_lock"):
        event.register(kind, notice)
    atexit.register(notice.close)


def _part(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _say(text: str) -> None:
    if not os.environ.get("NEURALMM_QUIET"):
        print(f"NeuralMM: {text}", file=sys.stderr, flush=True)


def warn_of_plain(reason: object) -> None:
    """Warn that loops are compiled without the marks of `mmenv.engine.marks`."""
    warnings.warn(
        f"numba {numba.__version__} does not take the marks that make the step fast ({reason}). "
        "The numbers are the same without them, but come more slowly: install numba 0.68, which takes them.",
        RuntimeWarning,
        stacklevel=2,
    )
