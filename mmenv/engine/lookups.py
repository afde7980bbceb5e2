"""What numba looks up for every use of an operator, and writes out for every pass: once and kept, here.

Compiling the market `book` takes a fifth less, to the same code.
"""

from __future__ import annotations

import functools
from typing import Any

from numba.core import types

PLAIN = (types.Number, types.Boolean, types.Array, types.Tuple, types.UniTuple)
"""Types of arguments for which what is found depends on nothing else."""


def keep_lookups() -> None:
    """Have numba keep what it finds, or leave it as it is where its internals have changed."""
    found = getattr(types.BaseFunction, "get_call_type", None)
    if found is not None and not hasattr(found, "__wrapped__"):
        types.BaseFunction.get_call_type = _kept(found)  # type: ignore[method-assign]
        # Each pass over a function names the types of its arguments: a hundred fields of a record.
        types.Record.__repr__ = functools.cache(types.Record.__repr__)  # type: ignore[method-assign]


def _kept(look_up: Any) -> Any:
    """The method `get_call_type` of functions, which tries up to fifty templates, with what it has found.

    Not of functions that are themselves compiled for their arguments: how depends on flags too.
    """
    known: dict[Any, Any] = {}

    @functools.wraps(look_up)
    def get_call_type(self: Any, context: Any, args: Any, kws: Any) -> Any:
        if kws or not all(isinstance(kind, PLAIN) for kind in args):
            return look_up(self, context, args, kws)
        use = self, context, tuple(args)
        if use not in known:
            signature = look_up(self, context, args, kws)
            if signature is None or self.get_impl_key(signature) != self.typing_key:
                return signature
            known[use] = signature
        return known[use]

    return get_call_type
