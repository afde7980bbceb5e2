"""Market parameters that differ by lane: one stage body, compiled for one value and for one value a lane.

A market's compiled parameters are a record of 4-byte numbers. Where episodes draw theirs (`mmenv.family`),
the market's state carries a `family` record too, each number an array over the lanes. A body reads a
parameter with `at(parameter, i)`, which is the number itself or the lane's entry: the compiler sees only one
of the two, so that fixed parameters cost what they always did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from mmenv.kernel import LANES


def at(parameter: Any, i: int) -> Any:
    """The parameter of lane i, in compiled code: an array's entry, or the number itself."""
    raise NotImplementedError("compiled code only")


@overload(at, inline="always")
def _at(parameter, i):  # type: ignore[no-untyped-def]
    if isinstance(parameter, types.Array):
        return lambda parameter, i: parameter[i]
    return lambda parameter, i: parameter


def with_family(own: np.dtype, params: np.dtype, by_lane: bool = True) -> np.dtype:
    """The state `own` with the parameters, `family`, behind it: each an array over the lanes if `by_lane`.

    `own` comes first, so that what is compiled for it alone also runs on this.
    """
    fields: list[Any] = [("own", own), ("family", params)]
    if by_lane:
        assert all(params[name].base.itemsize == 4 for name in params.names or ()), "copied as 4-byte words"
        arrays = [(name, params[name].base, (*params[name].shape, LANES)) for name in params.names or ()]
        fields[1] = ("family", np.dtype(arrays, align=True))
    return np.dtype(fields, align=True)
