"""Compiling in another process what reads a capture, while this one begins to read it in Python.

What Python and compiled code read is the same; Python is slow at it, and compiling takes much longer than a
small file does.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from mmenv.engine.cache import kept

_HELPER: Final = """
import importlib, json, sys
path, module, name = json.loads(sys.stdin.readline())
sys.path[:] = path
getattr(importlib.import_module(module), name)()
"""
_lock: Final = threading.Lock()
_helpers: Final[dict[str, subprocess.Popen[str] | None]] = {}
"""By function that compiles; None where it is done, or this process has to do it."""


def ready(scan: Any, compile_scan: Callable[[], object]) -> bool:
    """Whether a compiled function may be called now; if not, another process compiles it meanwhile.

    Parameters
    ----------
    scan
        The compiled function.
    compile_scan
        A function of a module that has it compiled by calling it.
    """
    name = f"{compile_scan.__module__}.{compile_scan.__name__}"
    with _lock:  # of threads that read files
        if name not in _helpers:
            known = getattr(scan, "signatures", True) or kept(scan)
            alone = multiprocessing.parent_process() is not None or not sys.executable
            _helpers[name] = None if known or alone else _begin(compile_scan)
        helper = _helpers[name]
        if helper is not None and helper.poll() is None:
            return False
        _helpers[name] = None
    return True


def _begin(compile_scan: Callable[[], object]) -> subprocess.Popen[str] | None:
    """The process that compiles; None where there can be none."""
    if not _helpers:
        atexit.register(_end)
    try:
        helper = subprocess.Popen(
            [sys.executable, "-c", _HELPER],
            env={**os.environ, "NEURALMM_QUIET": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert helper.stdin is not None
        with helper.stdin:
            helper.stdin.write(json.dumps([sys.path, compile_scan.__module__, compile_scan.__name__]) + "\n")
    except OSError:
        return None
    return helper


def _end() -> None:
    """What nobody waits for any more is not compiled."""
    for helper in _helpers.values():
        if helper is not None and helper.poll() is None:
            helper.kill()
            helper.wait()
