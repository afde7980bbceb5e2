"""A stage: one function over a block of environments, compiled to code that is called by its address."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cfunc, from_dtype, njit, types
from numba.extending import overload

from mmenv.engine.compiler import warn_of_plain
from mmenv.engine.state import CORE, EMPTY, PARAMS, Record, by_lane

# error_model: Python's check for division by zero would be a branch in the loops.
over_lanes_options: dict[str, Any] = {"cache": True, "error_model": "numpy"}
"""Numba's options for functions that loop over lanes, with `prange`."""
try:
    from mmenv.engine.marks import LaneCompiler
except Exception as error:  # numba's internals, which it rests on, have changed
    warn_of_plain(error)
else:
    over_lanes_options["pipeline_class"] = LaneCompiler

inner_options: dict[str, Any] = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Numba's options for what only compiled code calls: not from Python, and kept as a part of its callers."""

inner = njit(**inner_options)
"""For helpers of compiled functions."""

inlined = njit(**inner_options | {"forceinline": True, "error_model": "numpy"})
"""For short helpers without loops over lanes, which their callers' loops take in. The compiler of machine
code does so; numba's own `inline="always"` types and translates a copy for each call, which takes longer than
all the rest."""

over_lanes = njit(**over_lanes_options | inner_options | {"cache": False})
"""For helpers of compiled functions that loop over lanes, with `prange`."""


class Native:
    """A function compiled to code that is called by its address: on first use, and kept on disk.

    Parameters
    ----------
    function
        What is compiled. Other processes find it where its module has the `Native` under its name.
    signature
        Numba's types of its arguments and result.
    """

    def __init__(self, function: Callable[..., Any], signature: Any = None) -> None:
        self.function, self._signature = function, signature
        self._compiled: Any = None

    @property
    def signature(self) -> Any:
        """Numba's types of arguments and result."""
        return self._signature

    @property
    def place(self) -> tuple[str, str, bool] | None:
        """Module, name, and whether it is the form `by_lane` of what stands there; None where it is not."""
        module, name = self.function.__module__, self.function.__name__
        found = getattr(sys.modules.get(module), name, None)
        if module == "__main__" or not isinstance(found, Native):
            return None
        return (module, name, found is not self) if self in (found, found.__dict__.get("by_lane")) else None

    @property
    def ready(self) -> bool:
        """Whether the address is known already."""
        return self._compiled is not None

    @property
    def anew(self) -> bool:
        """Whether it was compiled by this process."""
        return self.ready and self._compiled.cache_hits == 0

    @property
    def address(self) -> int:
        """Address of the compiled function; compiles it (or reads the cache) when first asked."""
        if self._compiled is None:
            self._compiled = self.compile(cache=cacheable(self.function))
        return int(self._compiled.address)

    def compile(self, cache: bool) -> Any:
        """The function compiled by numba, anew where not `cache`."""
        return cfunc(self.signature, **over_lanes_options | {"cache": cache})(self.function)


class Stage(Native):
    """A function over one block. Build it with `stage`.

    Parameters
    ----------
    function
        `f(s, w, p, x)` gets four records, whose fields are arrays over the lanes (lane last): `s` the desk's
        core, `w` the stage's own state, `p` its parameters and `x` its rows of the observation tile.
    own, params, out
        Types of `w`, `p` and `x`.
    """

    def __init__(self, function: Callable[..., None], own: Record, params: Record, out: Record) -> None:
        super().__init__(function)
        self.own, self.params, self.out = own, params, out

    @property
    def signature(self) -> Any:
        # To compiled code a record is a pointer to it: what the plan holds.
        return types.void(*(from_dtype(record) for record in (CORE, self.own, self.params, self.out)))

    @functools.cached_property
    def by_lane(self) -> Stage:
        """The same function for parameters that differ by lane; it reads them with `at`."""
        return (
            self if self.params == EMPTY else Stage(self.function, self.own, by_lane(self.params), self.out)
        )


def cacheable(function: Callable[..., None]) -> bool:
    """Whether the compiled code can be cached: not for functions typed into a prompt."""
    return function.__code__.co_filename.endswith(".py")


def stage(
    own: Record = EMPTY, params: Record = PARAMS, out: Record = EMPTY
) -> Callable[[Callable[..., None]], Stage]:
    """Decorator: make a function over one block, `f(s, w, p, x)`, a `Stage` with these types of records."""
    return lambda function: Stage(function, own, params, out)


def at(parameter: Any, i: int) -> Any:
    """A parameter's value for lane i, in compiled code: its entry, or itself where all lanes share it.

    The compiler sees only one of the two, so what is shared costs nothing more.
    """
    raise NotImplementedError("compiled code only")


@overload(at)
def _at(parameter, i):
    if isinstance(parameter, types.Array):
        return lambda parameter, i: parameter[i]
    return lambda parameter, i: parameter


@dataclass(frozen=True)
class Call:
    """A stage bound to its state, its parameters and its first row of the observation tile."""

    stage: Stage
    own: np.ndarray
    params: np.ndarray
    row: int = 0
