"""The inner loops of the networks, compiled for the CPU: small matrix products and tanh.

The libraries' matrix products are made for large matrices: at 8 to 64 rows, where a recurrent network lives,
they spend most of their time rearranging the weights. Here the weights are rearranged once (`pack`) and serve
every time step.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mmenv.engine.compiler import vector_extension
from mmenv.engine.stage import over_lanes_options

F = np.float32
# AVX-512 has vectors twice as long as AVX2 and twice as many registers for the sums.
WIDE = vector_extension()[0] == "avx512f"
LANES = 16 if WIDE else 8  # floats in a vector; LLVM splits it where the processor has shorter ones
PANEL = 2 * LANES  # columns of the weights that are multiplied at a time
TALL = 8 if WIDE else 4  # rows of the other factor that are multiplied at a time; 4 divides it
WORKSPACE = 32  # arrays that are kept for the next time
BLOCK = 64  # rows that are worked on at a time, so that they stay in the nearest caches
# error_model="numpy": Python's check for division by zero would keep LLVM from vectorising the loops.
compiled: Any = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
compiled_lanes: Any = numba.njit(nogil=True, fastmath=True, **over_lanes_options)
"""Compiles a function whose loops over `prange` do the same to every element (`mmenv.engine.marks`)."""


TOP = 7.9
"""The argument beyond which tanh is one, to float32."""


def _fit_tanh(above: int, below: int) -> tuple[tuple[np.float32, ...], tuple[np.float32, ...]]:
    """x P(x^2) / Q(x^2) next to tanh on [0, TOP], relative error: coefficients of P and Q, highest first.

    Least squares on Chebyshev nodes, reweighted by the last denominator (Sanathanan and Koerner 1963).
    """
    x = np.sin(np.pi / 2 * (np.arange(2000) + 0.5) / 2000)
    target, denominator = np.tanh(TOP * x), np.ones(2000)
    powers = np.vander(x**2, max(above, below) + 1, increasing=True)
    for _ in range(12):
        weight = 1 / (denominator * target)
        columns = np.hstack(
            [TOP * x[:, None] * powers[:, : above + 1], -target[:, None] * powers[:, 1 : below + 1]]
        )
        found = np.linalg.lstsq(columns * weight[:, None], target * weight, rcond=None)[0]
        p, q = found[: above + 1], np.append(1.0, found[above + 1 :])
        denominator = powers[:, : below + 1] @ q
    p, q = (c / TOP ** (2 * np.arange(len(c))) for c in (p, q))
    return tuple(F(c) for c in p[::-1]), tuple(F(c) for c in q[::-1])


(P5, P4, P3, P2, P1, P0), (Q4, Q3, Q2, Q1, Q0) = _fit_tanh(5, 4)


@compiled
def tanh(x: Any) -> Any:
    """Rational approximation, error below 3e-7."""
    x = min(max(x, F(-TOP)), F(TOP))
    y = x * x
    p = ((((P5 * y + P4) * y + P3) * y + P2) * y + P1) * y + P0
    q = (((Q4 * y + Q3) * y + Q2) * y + Q1) * y + Q0
    return x * p / q


@compiled
def sigmoid(x: Any) -> Any:
    return F(0.5) + F(0.5) * tanh(F(0.5) * x)


class Workspace:
    """Arrays that are used again and again, by any thread.

    The allocator gives megabytes back to the system when they are freed; taking them anew at every minibatch
    costs a page fault per 4 KiB, which can be a third of an update.
    """

    def __init__(self) -> None:
        self._free: list[Any] = []
        self._lock = threading.Lock()

    def take(self, *shape: int) -> np.ndarray:
        """An array (float32) with anything in it."""
        size = math.prod(shape)
        with self._lock:
            for i, flat in enumerate(self._free):
                if size <= flat.size <= 2 * size:
                    return self._free.pop(i)[:size].reshape(shape)
        return np.empty(size, np.float32).reshape(shape)

    def give(self, *arrays: np.ndarray) -> None:
        """Back what was taken, by its only owner."""
        with self._lock:
            self._free = [*(array.base for array in arrays), *self._free][:WORKSPACE]


def padded(columns: int) -> int:
    """Columns of a `matmul` result, rounded up to whole panels."""
    return -(-columns // PANEL) * PANEL


@compiled
def pack(weights: np.ndarray) -> np.ndarray:
    """Rearrange (K, M) weights for `matmul`: (panels, K, PANEL), zeros in the columns beyond M."""
    rows, columns = weights.shape
    panels = np.zeros((-(-columns // PANEL), rows, PANEL), np.float32)
    for p in range(panels.shape[0]):
        for k in range(rows):
            for j in range(min(PANEL, columns - p * PANEL)):
                panels[p, k, j] = weights[k, p * PANEL + j]
    return panels


def _tile(rows: int, accumulate: bool) -> Any:
    """Code for out[:rows, :PANEL] (+)= a[:rows, :k] @ b[:k, :PANEL] with all sums in registers.

    Arguments are the addresses of a, b and out, the number k, and strides in bytes: of a along rows and
    along k, of b along k, of out along rows.
    """

    @intrinsic
    def tile(
        _typing: Any, a: int, a_row: int, a_k: int, b: int, b_k: int, out: int, out_row: int, k: int
    ) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            a, a_row, a_k, b, b_k, out, out_row, k = arguments
            scalar, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)
            lane, fast = ir.IntType(32), ("fast",)
            first_lane = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
            unset = ir.Constant(vector, ir.Undefined)

            def number(value: Any) -> Any:
                return ir.Constant(ir.IntType(64), value) if isinstance(value, int) else value

            def pointer(kind: Any, base: Any, *steps: tuple[Any, Any]) -> Any:
                for index, stride in steps:
                    base = builder.add(base, builder.mul(number(index), number(stride)))
                return builder.inttoptr(base, kind.as_pointer())

            targets = [
                [pointer(vector, out, (r, out_row), (v, 4 * LANES)) for v in range(2)] for r in range(rows)
            ]
            zero = ir.Constant(vector, [0.0] * LANES)
            sums = [
                [
                    cgutils.alloca_once_value(builder, builder.load(t, align=4) if accumulate else zero)
                    for t in row
                ]
                for row in targets
            ]
            with cgutils.for_range(builder, k) as loop:
                vectors = [
                    builder.load(pointer(vector, b, (loop.index, b_k), (v, 4 * LANES)), align=4)
                    for v in range(2)
                ]
                for r in range(rows):
                    x = builder.load(pointer(scalar, a, (r, a_row), (loop.index, a_k)), align=4)
                    x = builder.insert_element(unset, x, ir.Constant(lane, 0))
                    x = builder.shuffle_vector(x, unset, first_lane)
                    for v, total in zip(vectors, sums[r], strict=True):
                        product = builder.fmul(x, v, flags=fast)
                        builder.store(builder.fadd(builder.load(total), product, flags=fast), total)
            for row, totals in zip(targets, sums, strict=True):
                for target, total in zip(row, totals, strict=True):
                    builder.store(builder.load(total), target, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), generate

    return tile


_tall, _four_rows, _two_rows, _one_row = (_tile(rows, accumulate=False) for rows in (TALL, 4, 2, 1))
_add_tall, _add_four_rows = (_tile(rows, accumulate=True) for rows in (TALL, 4))


@compiled
def matmul(a: np.ndarray, panels: np.ndarray, out: np.ndarray) -> None:
    """out[:, :padded(M)] = a[:, :K] @ weights, with panels = pack(weights); float32, rows contiguous."""
    rows, k = a.shape[0], panels.shape[1]
    a_row, out_row = a.strides[0], out.strides[0]
    tall, four, two = rows - rows % TALL, rows - rows % 4, rows - rows % 2
    source = a.ctypes.data
    for p in range(panels.shape[0]):
        panel = panels.ctypes.data + p * panels.strides[0]
        target = out.ctypes.data + p * PANEL * 4
        for i in range(0, tall, TALL):
            _tall(source + i * a_row, a_row, 4, panel, 4 * PANEL, target + i * out_row, out_row, k)
        for i in range(tall, four, 4):
            _four_rows(source + i * a_row, a_row, 4, panel, 4 * PANEL, target + i * out_row, out_row, k)
        for i in range(four, two, 2):
            _two_rows(source + i * a_row, a_row, 4, panel, 4 * PANEL, target + i * out_row, out_row, k)
        for i in range(two, rows):
            _one_row(source + i * a_row, a_row, 4, panel, 4 * PANEL, target + i * out_row, out_row, k)


@compiled
def add_transposed_matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out += a[:, :m].T @ b, the weight gradient; a (N, at least m), b (N, n), out (m, n).

    4 divides m and PANEL divides n.
    """
    m, n = out.shape
    a_row, b_row, out_row, tall = a.strides[0], b.strides[0], out.strides[0], m - m % TALL
    for first in range(0, a.shape[0], BLOCK):  # all of `out` takes its share of a block
        k = min(BLOCK, a.shape[0] - first)
        left, right = a.ctypes.data + first * a_row, b.ctypes.data + first * b_row
        for j in range(0, 4 * n, 4 * PANEL):
            target = out.ctypes.data + j
            for i in range(0, tall, TALL):
                _add_tall(left + i * 4, 4, a_row, right + j, b_row, target + i * out_row, out_row, k)
            for i in range(tall, m, 4):
                _add_four_rows(left + i * 4, 4, a_row, right + j, b_row, target + i * out_row, out_row, k)


def weight_gradient(gates: np.ndarray, inputs: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """gates[:, :rows].T @ inputs[:, :columns], (rows, columns), of arrays that are padded to whole panels.

    Made as its transpose: what is beside the inputs in their panels is then no part of the product.
    """
    found = np.zeros((-(-columns // 4) * 4, gates.shape[1]), np.float32)
    add_transposed_matmul(inputs, gates, found)
    return np.ascontiguousarray(found.T[:rows, :columns])
