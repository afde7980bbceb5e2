"""Numba's internals may change: all is then compiled without marks, to the same bytes, and with a warning."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit, prange
from numba.core import compiler, lowering

from mmenv.engine import marks, transpose
from mmenv.engine.memory import address


def blend(narrow: np.ndarray, wide: np.ndarray) -> None:
    for i in prange(len(narrow)):
        wide[i] = wide[i] * np.float32(0.1) + narrow[i]


def blended(made: Callable[..., Any]) -> bytes:
    narrow, wide = np.arange(100, dtype=np.float32), np.linspace(0, 1, 100)
    made(narrow, wide)
    return wide.tobytes()


PLAIN = blended(njit(error_model="numpy")(blend))


def compiled_anew() -> bytes:
    return blended(njit(error_model="numpy", pipeline_class=marks.LaneCompiler)(blend))


@pytest.fixture(autouse=True)
def _not_tried_before():
    marks.works.cache_clear()
    yield
    marks.works.cache_clear()


def test_marks_change_no_byte():
    before = marks.LaneLower.marked
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert compiled_anew() == PLAIN
    assert marks.LaneLower.marked == before + 2  # the one that is tried, and ours


def _raises(*_: Any, **__: Any) -> None:
    raise AttributeError("not what it was")


def _without_hook(self: Any) -> Any:
    """A lowering of the body that no longer calls `post_lower`."""
    self.post_lower = lambda: lowering.Lower.post_lower(self)
    return LOWER_BODY(self)


LOWER_BODY = lowering.Lower.lower_function_body

BROKEN = {
    "a function is gone": (marks, "compute_cfg_from_blocks", _raises),
    "a function gives something else": (marks, "compute_cfg_from_blocks", dict),
    "a hook is no longer called": (lowering.Lower, "lower_function_body", _without_hook),
    "a pass has another name": (marks, "NativeLowering", object),
    "the compiler refuses the marks": (marks.Distinct, "descr", lambda self, buf: buf.append("unknown\n")),
    "there is no such flag": (compiler.Flags, "noalias", property(lambda self: False, _raises)),
}


@pytest.mark.parametrize("change", BROKEN)
def test_other_internals_give_the_same_bytes_and_a_warning(monkeypatch, change):
    monkeypatch.setattr(*BROKEN[change])
    with pytest.warns(RuntimeWarning, match=r"numba .* does not take the marks"):
        assert compiled_anew() == PLAIN


def test_without_what_is_imported():
    """In a process of its own: the step is compiled without marks."""
    code = (
        "import warnings, numba.core.typed_passes as passes; del passes.BaseNativeLowering\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n"
        "    from mmenv.engine.stage import over_lanes_options as options\n"
        "print('pipeline_class' in options, *(str(warning.message) for warning in found))\n"
    )
    path = os.pathsep.join(sys.path)
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert shown.stdout.startswith("False numba"), shown.stderr
    assert "does not take the marks" in shown.stdout


@pytest.mark.parametrize("broken", [False, True])
def test_transposition(monkeypatch, broken, recwarn):
    """In registers, and one number at a time where that cannot be built."""
    if broken:
        monkeypatch.setattr(ir.IRBuilder, "shuffle_vector", _raises)

    @njit
    def move(source, source_row, target, target_row):
        transpose.transpose(source, source_row, target, target_row)

    given, rows = np.random.default_rng(0).random((8, 11), np.float32), np.zeros((10, 9), np.float32)
    move(address(given), 4 * 11, address(rows), 4 * 9)
    assert (rows[:8, :8] == given[:, :8].T).all()
    assert not rows[8:].any()
    assert not rows[:, 8:].any()
    assert bool(recwarn.list) == broken
