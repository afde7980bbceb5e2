"""Memory that compiled code works on: where arrays lie, and arrays and records at an address."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

LINE = 64
"""Bytes of a cache line."""


def _array_at(typing: Any, address: Any, kind: Any, shape: Any) -> Any:
    """The array of `kind` at an address, rows contiguous; `shape` is a number or a tuple.

    Numba's own `carray` compiles two functions for each type and number of dimensions.
    """
    sizes = shape.types if isinstance(shape, (types.UniTuple, types.Tuple)) else (shape,)
    array = types.Array(kind.instance_type, len(sizes), "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = cgutils.unpack_tuple(builder, arguments[2]) if sizes != (shape,) else [arguments[2]]
        counts = [context.cast(builder, n, size, types.intp) for n, size in zip(given, sizes, strict=True)]
        strides = [context.get_constant(types.intp, arrayobj.get_itemsize(context, array))]
        for count in reversed(counts[1:]):
            strides.insert(0, builder.mul(strides[0], count))
        made = arrayobj.make_array(array)(context, builder)
        data = builder.inttoptr(arguments[0], context.get_data_type(array.dtype).as_pointer())
        arrayobj.populate_array(made, data, counts, strides, strides[-1], None)
        return made._getvalue()

    return array(types.int64, kind, shape), generate


array_at: Any = intrinsic(_array_at)


def _pointer_to(typing: Any, record: Any) -> Any:
    """A record as a pointer to itself, for `carray`."""
    pointer = types.CPointer(record)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(pointer))

    return pointer(record), generate


pointer_to: Any = intrinsic(_pointer_to)


def _fetch(typing: Any, address: Any) -> Any:
    """Have the processor fetch the cache line at an address, which is read and written soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, second_level, data = number(0), number(2), number(1)
        builder.call(function, [builder.inttoptr(arguments[0], byte), read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


fetch: Any = intrinsic(_fetch)


def aligned_zeros(shape: int | tuple[int, ...], kind: Any) -> np.ndarray:
    """Zeros that begin at a cache line."""
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(kind).itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -address(memory) % LINE
    return memory[start : start + size].view(kind).reshape(shape)


def fill(own: np.ndarray, value: np.ndarray) -> None:
    """Copy into an array what was saved of one of the same layout, be it as bytes.

    Raises `ValueError` where that is of another size.
    """
    own.reshape(-1).view(np.uint8)[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def address(array: np.ndarray) -> int:
    """Where the data of `array` begin."""
    return int(array.__array_interface__["data"][0])
