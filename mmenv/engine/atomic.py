"""Numbers that threads of compiled code share: int64 at an address, which all see change in one order.

What a thread wrote before it wrote such a number, another finds after it has read it.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ORDER = "seq_cst"


def _place(builder: Any, at: Any) -> Any:
    return builder.inttoptr(at, ir.IntType(64).as_pointer())


def _read(typing: Any, at: Any) -> Any:
    """The number at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, arguments[0]), ORDER, 8)

    return types.int64(types.int64), generate


def _write(typing: Any, at: Any, value: Any) -> Any:
    """Write the number at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _place(builder, arguments[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _swap(typing: Any, at: Any, value: Any) -> Any:
    """Write the number at an address; what was there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _place(builder, arguments[0]), arguments[1], ORDER)

    return types.int64(types.int64, types.int64), generate


def _claim(typing: Any, at: Any, expected: Any, value: Any) -> Any:
    """Write the number at an address where it is as expected; whether it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(builder, arguments[0])
        return builder.extract_value(builder.cmpxchg(place, *arguments[1:], ORDER, ORDER), 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


def _pause(typing: Any) -> Any:
    """Let a moment pass: on x86 some 40 to 140 turns of the clock, which others on the core can use."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


read: Any = intrinsic(_read)
write: Any = intrinsic(_write)
swap: Any = intrinsic(_swap)
claim: Any = intrinsic(_claim)
pause: Any = intrinsic(_pause)
