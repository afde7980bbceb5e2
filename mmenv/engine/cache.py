"""Where compiled code is kept between runs."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile

import numba
from numba.core.caching import FunctionCache


def ensure_cache() -> None:
    """Let numba compile where nothing that it would keep code in can be written.

    Numba keeps code beside the source, or else in the user's cache folder, or in the one that NUMBA_CACHE_DIR
    names, and refuses to compile without any: a read-only installation without a home would not run. Then the
    code is kept for this process and its children alone, in a temporary folder.

    Raises
    ------
    OSError
        Not even a temporary folder can be written.
    """
    try:
        FunctionCache(ensure_cache)  # looks for a folder as it will for every function
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix="neuralmm-")
        atexit.register(_remove, folder, os.getpid())
        os.environ["NUMBA_CACHE_DIR"] = folder
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
        if not os.environ.get("NEURALMM_QUIET"):
            print(
                "NeuralMM: neither its own folder nor the user's can be written, so every process "
                "compiles anew. Set NUMBA_CACHE_DIR to a folder that can be written to keep compiled code; "
                "NEURALMM_QUIET=1 hides this line.",
                file=sys.stderr,
                flush=True,
            )


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a fork ends too
        shutil.rmtree(folder, ignore_errors=True)
