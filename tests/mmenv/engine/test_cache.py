"""Compiled code is kept as long as nothing that it was made from has changed, and no longer."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
import pytest
from numba import from_dtype
from numba.core import caching

from mmenv.engine import plan
from mmenv.engine.cache import Stamp
from mmenv.engine.state import CORE, LANES

ROOT = Path(__file__).parents[3]

FILES = {
    "caller": """
from numba import njit
from mmenv.engine.stage import at
from demo import limits, plain
from demo.how import compiled
from demo.callee import doubled

@compiled
def answer(x):
    return later(x) + limits.LIMIT + at(plain.ONE, 0)

@compiled
def later(x):
    return doubled(x)
""",
    "callee": """
from numba import njit

@njit(cache=True)
def doubled(x):
    return 2 * x
""",
    "how": "from numba import njit\n\ncompiled = njit(cache=True, fastmath={'nnan', 'contract'})\n",
    "limits": "LIMIT, UNUSED = 100, 1\n",
    "plain": "ONE = 1000\n",
    "unrelated": "from demo.how import compiled\n\n@compiled\ndef other(x):\n    return x\n",
}

PROGRAM = """
from demo.caller import answer
import demo.unrelated
print(answer(7), sum(answer.stats.cache_misses.values()), sum(answer.stats.cache_hits.values()))
"""


@pytest.fixture
def answer(tmp_path):
    """Run the program in a process of its own: the answer, and whether it was compiled for that."""
    (tmp_path / "demo").mkdir()
    for name, text in {"__init__": "", **FILES}.items():
        (tmp_path / "demo" / f"{name}.py").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "NUMBA_CACHE_DIR": str(tmp_path / "kept"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(change: tuple[str, str, str] | None = None, processor: str | None = None) -> tuple[int, bool]:
        if change is not None:
            file, before, after = change
            path = tmp_path / "demo" / f"{file}.py"
            assert before in path.read_text()
            path.write_text(path.read_text().replace(before, after))
        here = environment if processor is None else {**environment, "NUMBA_CPU_NAME": processor}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=here, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        value, compiled, loaded = map(int, done.stdout.split())
        assert compiled + loaded == 1
        return value, compiled == 1

    return run


def test_what_is_called_or_read_is_compiled_anew_and_nothing_else(answer):
    """Functions, constants and compiler options of other modules, through a function below the caller too."""
    assert answer() == (1114, True)
    assert answer() == (1114, False)
    assert answer(("callee", "2 * x", "3 * x")) == (1121, True)
    assert answer(("limits", "100", "200")) == (1221, True)
    assert answer(("limits", "200, 1", "200, 2")) == (1221, False)
    assert answer(("how", "'contract'", "'contract', 'ninf'")) == (1221, True)
    assert answer(("unrelated", "return x", "return x + 1")) == (1221, False)
    assert answer(("plain", "ONE", "# a remark\nONE")) == (1221, False)


def test_a_cache_of_another_processor_is_no_cache(answer):
    """Its instructions may not exist here."""
    assert answer(processor="generic") == (1114, True)
    assert answer() == (1114, True)
    assert answer() == answer(processor="generic") == (1114, False)


def test_an_index_that_names_a_class_that_is_no_more_is_none(answer, tmp_path):
    assert answer() == (1114, True)
    [index] = (tmp_path / "kept").rglob("caller.answer-*.nbi")
    index.write_bytes(pickle.dumps(numba.__version__) + b"cdemo.how\nGone\n.")
    assert answer() == (1114, True)
    assert answer() == (1114, False)


def test_two_forms_that_are_compiled_at_once_are_not_taken_for_each_other(tmp_path, monkeypatch):
    stamp = Stamp(plan.step.function, None)
    one, other, later = (caching.IndexDataCacheFile(str(tmp_path), "f-1.py", stamp) for _ in range(3))
    write = one._save_data

    def write_last(name: str, data: str) -> None:
        other.save(("form", 2), "code of 2")
        write(name, data)

    monkeypatch.setattr(one, "_save_data", write_last)
    for files in (one, other):  # neither knows of the other
        monkeypatch.setattr(files, "_load_index", dict)
    one.save(("form", 1), "code of 1")
    assert later.load(("form", 1)) in (None, "code of 1")
    assert later.load(("form", 2)) in (None, "code of 2")
    assert len(list(tmp_path.glob("*.nbc"))) == 2


def test_a_field_in_the_middle_of_the_core_is_another_step(monkeypatch):
    """The layout is a constant of the step; a reset only hands pointers on."""
    functions = [plan.step.function, plan.reset.function]
    kept = [Stamp(function, None).digest for function in functions]
    fields = [(name, CORE[name]) for name in CORE.names or ()]
    middle = len(fields) // 2
    wider = np.dtype([*fields[:middle], ("new", "i8", (LANES,)), *fields[middle:]], align=True)
    monkeypatch.setattr(plan, "CORE_TYPE", from_dtype(wider))
    changed = [Stamp(function, None).digest for function in functions]
    assert [new != old for new, old in zip(changed, kept, strict=True)] == [True, False]


def test_a_stamp_is_of_all_that_the_function_reads():
    """Cells, defaults, arrays and compiled functions beside globals, whatever they are called."""

    def made(scale: object, default: object = 0) -> FunctionType:
        def function(x, y=default):
            return scale, x, y

        return function

    variants = [
        made(1),
        made(2),
        made(1.0),
        made(np.arange(2)),
        made(np.arange(3)),
        made(1, 1),
        made(plan.finite),
    ]
    assert len({Stamp(function, None).digest for function in variants}) == len(variants)
    assert Stamp(made(1), None).digest == Stamp(made(1), None).digest != Stamp(made(1), "edited").digest
