"""Functions that another process has compiled are the same, and one that fails leaves them to this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

MODULE = """
from numba import types
from mmenv.engine.stage import Native

def native(function):
    return Native(function, types.int64(types.int64))
""" + "".join(f"\n@native\ndef f{k}(x):\n    return x * {k}\n" for k in range(8))

PROGRAM = """
import ctypes, sys
from collections import deque
from mmenv.engine import together
import functions

together.processors = lambda: 2
sys.executable = sys.argv[1]
natives = [getattr(functions, f"f{k}") for k in range(8)]
if len(sys.argv) > 2:
    together._help(deque(natives))  # as if it were faster than this process
local = functions.native(lambda x: x + 1)  # no other process finds it
together.compile_all([local, *natives, *natives])
results = [ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(native.address)(7) for native in natives]
assert results == [7 * k for k in range(8)], results
assert local.place is None and local.ready
print(sum(native.anew for native in natives))
"""


@pytest.mark.parametrize("helper", [sys.executable, "/bin/false", "/nowhere/python"])
def test_helpers_fill_the_cache(tmp_path, helper):
    (tmp_path / "functions.py").write_text(MODULE)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "NUMBA_CACHE_DIR": str(tmp_path / "kept"),
    }

    def compiled_here(*words: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, helper, *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert compiled_here("all") == (0 if helper == sys.executable else 8)
    assert len(list((tmp_path / "kept").rglob("*.nbc"))) == 8
    assert compiled_here() == 0
