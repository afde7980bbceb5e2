"""Where compiled code is kept between runs, and what tells whether it still holds.

Numba looks only at the file of a function before it takes what it has kept of it. Here everything counts that
reached the compiled code: the files of the functions that it calls, and the constants that it reads.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import caching

PACKAGES = ("mmenv", "policies", "train")
"""Packages whose functions, and those of modules that import from them, are kept by a `Stamp`."""

HOW = ("marks.py", "stage.py")
"""Files of this folder that say how all is compiled."""

FOREIGN = {"numba", "numpy", "llvmlite", "builtins", *sys.stdlib_module_names}
"""Packages whose functions are not followed: their versions are not ours to watch."""


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
        caching.FunctionCache(ensure_cache)  # looks for a folder as it will for every function
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


def stamp_sources() -> None:
    """Have numba keep compiled functions of ours by a `Stamp` in place of the text of their file."""
    for file in Path(__file__).parent.glob("*.py"):
        _text(str(file))
    # The name of the class has changed; without either, numba's own rule stays.
    kinds = getattr(caching, "CacheImpl", getattr(caching, "_CacheImpl", None))
    if (places := getattr(kinds, "_locator_classes", None)) and places[0] is not _Stamped:
        _Stamped.places = tuple(places)
        places.insert(0, _Stamped)
    if all(hasattr(_FILES, name) for name in ("_load_index", "_save_index", "_save_data", "_data_name")):
        caching.IndexDataCacheFile = _Files  # type: ignore[misc]


def kept(function: Any) -> bool:
    """Whether code of a function, compiled or Python's own, is in the cache and holds; True where numba does
    not tell."""
    try:
        cache = getattr(function, "_cache", None) or caching.FunctionCache(function)
        return bool(cache._cache_file._load_index())
    except Exception:  # numba's internals, or a damaged file: it is then compiled when it is called
        return True


_FILES: Any = getattr(caching, "IndexDataCacheFile", None)
"""Numba's class of the files of one function: an index and, for each of its forms, what was compiled."""


class _Files(_FILES or object):  # type: ignore[misc]
    """The same for code kept by a `Stamp`, whatever else writes or has written there.

    An index may name a class that is no more: it is then one of another version. And numba numbers the files
    of a function's forms in their order, so that two processes that compile two forms at once would write
    both to one file, and one form be taken for the other; here a form has a name of its own.
    """

    def _load_index(self) -> dict[Any, str]:
        try:
            return dict(super()._load_index())
        except Exception:
            if isinstance(self._source_stamp, Stamp):
                return {}
            raise

    def save(self, key: Any, data: Any) -> None:
        if not isinstance(self._source_stamp, Stamp):
            super().save(key, data)
            return
        name = self._data_name(int(hashlib.sha256(repr(key).encode()).hexdigest()[:16], 16))
        # What the index names is there.
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


class _Stamped:
    """What numba asks first where to keep compiled code: where its own classes say, with a `Stamp`."""

    places: tuple[Any, ...] = ()

    @classmethod
    def from_function(cls, function: FunctionType, file: str) -> Any:
        if not any(_package(value) in PACKAGES for value in (function, *function.__globals__.values())):
            return None
        _text(file)  # now, as it was imported: it may be edited before the function is compiled
        found = (place.from_function(function, file) for place in cls.places)
        place = next((place for place in found if place is not None), None)
        if place is not None:
            stamp = Stamp(function, place.get_source_stamp())
            place.get_source_stamp = lambda: stamp
        return place


class Stamp:
    """What a function is compiled from: pickled as, and equal to, the digest of it.

    It is made when numba first asks, since a function may call what its module defines below it.

    Parameters
    ----------
    function
        The Python function that is compiled.
    own
        Numba's stamp of its source, which need not be a file: a notebook's cell is none.
    """

    def __init__(self, function: FunctionType, own: object) -> None:
        self.function, self.own = function, own

    @functools.cached_property
    def digest(self) -> str:
        """Of all files and constants that reach the function, whatever the order in which they are met."""
        folder = Path(__file__).parent
        facts = {repr(self.own), *(_text(str(folder / name)) for name in HOW)}
        waiting, seen = [self.function], {self.function}
        while waiting:
            function = waiting.pop()
            facts.add(_text(function.__code__.co_filename))
            facts.add(_options(function))
            for name, value in _read_by(function):
                called = _function(value)
                if called is None:
                    facts.add(f"{name} = {_constant(value)}")
                elif called not in seen and _package(called) not in FOREIGN:
                    seen.add(called)
                    waiting.append(called)
        return hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == (other.digest if isinstance(other, Stamp) else other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, (self.digest,)


def _read_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What the code of a function reads from outside: globals, attributes of our modules, cells, defaults."""
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield name, value
        elif _package(value) not in FOREIGN:
            yield from ((f"{name}.{key}", vars(value)[key]) for key in names & vars(value).keys())
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents
    yield "defaults", function.__defaults__


def _options(function: FunctionType) -> str:
    """What the decorator of a function asks of the compiler: it may come from another file."""
    asked = getattr(function.__globals__.get(function.__name__), "targetoptions", {})
    return _constant([(name, asked[name]) for name in sorted(asked)])


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _function(value: Any) -> FunctionType | None:
    """The Python function of a compiled function or of what numba knows how to compile."""
    for name in ("py_func", "__wrapped__"):
        value = getattr(value, name, value)
    return value if isinstance(value, FunctionType) else None


def _constant(value: Any) -> str:
    """A value as compiled code holds it, or the file of its class."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_constant, value))})"
    if isinstance(value, (set, frozenset)):
        return _constant(sorted(value, key=str))
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if value is None or isinstance(
        value, (int, float, complex, str, bytes, np.generic, np.dtype, types.Type)
    ):
        return f"{type(value).__name__} {value!r}"
    kind = value if isinstance(value, type) else type(value)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{kind.__qualname__} {_text(file) if file and _package(kind) not in FOREIGN else ''}"


def _package(value: Any) -> str:
    """The package of a module, a class or a function."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) else ""


@functools.cache
def _text(file: str) -> str:
    """Digest of a file as this process first read it; of none where there is no such file."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""
