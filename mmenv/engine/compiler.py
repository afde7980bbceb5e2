"""What compiling has to say and to know: the notice that it takes a while, and the processor's vectors."""

from __future__ import annotations

import functools
import os
import sys
import warnings

import numba
from llvmlite import binding


def vector_extension() -> tuple[str, int]:
    """The widest vector instructions of this processor, and how many 32-bit values they take."""
    features = binding.get_host_cpu_features()
    for name, lanes in (("avx512f", 16), ("avx2", 8), ("sse4.2", 4), ("neon", 4)):
        if features.get(name):
            return name, lanes
    return "scalar", 4


@functools.cache
def announce() -> None:
    """Say once, on stderr, that code is being compiled: it takes long enough to look like a hang.

    A value of the environment variable NEURALMM_QUIET silences it.
    """
    if not os.environ.get("NEURALMM_QUIET"):
        print(
            "NeuralMM: compiling what is not in the cache yet, about 15 s for a market. "
            "NEURALMM_QUIET=1 hides this line.",
            file=sys.stderr,
            flush=True,
        )


def warn_of_plain(reason: object) -> None:
    """Warn that loops are compiled without the marks of `mmenv.engine.marks`."""
    warnings.warn(
        f"numba {numba.__version__} does not take the marks that make the step fast ({reason}). "
        "The numbers are the same without them, but come more slowly: install numba 0.68, which takes them.",
        RuntimeWarning,
        stacklevel=2,
    )
