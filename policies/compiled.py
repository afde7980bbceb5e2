"""The two inner loops of the networks, compiled for the CPU: a small matrix product and tanh.

The libraries' matrix products are made for large matrices: at 8 to 64 rows, where a recurrent network lives, they spend
most of their time rearranging the weights. Here the weights are rearranged once (`pack`) and serve every time step.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F = np.float32
LANES = 8  # floats in a vector; LLVM splits it where the processor has shorter ones
PANEL = 2 * LANES  # columns of the weights that are multiplied at a time
# error_model="numpy": Python's check for division by zero would keep LLVM from vectorising the loops.
compiled = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@compiled
def tanh(x):
    """Rational minimax approximation (from the Eigen library), error below 3e-7."""
    x = min(max(x, F(-7.9053111)), F(7.9053111))
    y = x * x
    p = y * F(-2.76076848e-16) + F(2.00018790e-13)
    p = y * p + F(-8.60467152e-11)
    p = y * p + F(5.12229710e-08)
    p = y * p + F(1.48572236e-05)
    p = y * p + F(6.37261929e-04)
    p = y * p + F(4.89352456e-03)
    q = y * F(1.19825840e-06) + F(1.18534706e-04)
    q = y * q + F(2.26843463e-03)
    q = y * q + F(4.89352519e-03)
    return x * p / q


@compiled
def sigmoid(x):
    return F(0.5) + F(0.5) * tanh(F(0.5) * x)


def padded(columns: int) -> int:
    """Columns of a `matmul` result, rounded up to whole panels."""
    return -(-columns // PANEL) * PANEL


def pack(weights: np.ndarray) -> np.ndarray:
    """Rearrange (K, M) weights for `matmul`: (panels, K, PANEL), zeros in the columns beyond M."""
    k, m = weights.shape
    panels = np.zeros((k, padded(m)), np.float32)
    panels[:, :m] = weights
    return np.ascontiguousarray(panels.reshape(k, -1, PANEL).swapaxes(0, 1))


def _tile(rows: int):
    """Code for out[:rows, :PANEL] = a[:rows] @ panel with all sums in registers; arguments are addresses and bytes."""

    @intrinsic
    def tile(_typing, a, row_bytes, panel, k, out, out_row_bytes):
        def generate(context, builder, _signature, arguments):
            a, row_bytes, panel, k, out, out_row_bytes = arguments
            scalar, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)
            lane = ir.IntType(32)
            first_lane = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
            unset = ir.Constant(vector, ir.Undefined)
            fast = ("fast",)

            def at(base, index, size, kind):
                size = ir.Constant(ir.IntType(64), size) if isinstance(size, int) else size
                index = ir.Constant(ir.IntType(64), index) if isinstance(index, int) else index
                return builder.inttoptr(builder.add(base, builder.mul(index, size)), kind.as_pointer())

            def address(base, index, size):
                return builder.add(base, builder.mul(ir.Constant(ir.IntType(64), index), size))

            zero = ir.Constant(vector, [0.0] * LANES)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(rows)]
            with cgutils.for_range(builder, k) as loop:
                weights = []
                for half in range(2):
                    base = builder.add(panel, ir.Constant(ir.IntType(64), 4 * LANES * half))
                    weights.append(builder.load(at(base, loop.index, 4 * PANEL, vector), align=4))
                for row in range(rows):
                    x = builder.load(at(address(a, row, row_bytes), loop.index, 4, scalar), align=4)
                    x = builder.insert_element(unset, x, ir.Constant(lane, 0))
                    x = builder.shuffle_vector(x, unset, first_lane)
                    for half in range(2):
                        product = builder.fmul(x, weights[half], flags=fast)
                        builder.store(builder.fadd(builder.load(sums[row][half]), product, flags=fast), sums[row][half])
            for row in range(rows):
                for half in range(2):
                    target = at(address(out, row, out_row_bytes), half, 4 * LANES, vector)
                    builder.store(builder.load(sums[row][half]), target, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return tile


_four_rows, _one_row = _tile(4), _tile(1)


@compiled
def matmul(a, panels, out):
    """out[:, :padded(M)] = a[:, :K] @ weights for `panels = pack(weights)`; a and out are float32 with unit stride."""
    rows, k = a.shape[0], panels.shape[1]
    a_row, out_row = a.strides[0], out.strides[0]
    whole = rows - rows % 4
    for p in range(panels.shape[0]):
        panel = panels.ctypes.data + p * panels.strides[0]
        target = out.ctypes.data + p * PANEL * 4
        for i in range(0, whole, 4):
            _four_rows(a.ctypes.data + i * a_row, a_row, panel, k, target + i * out_row, out_row)
        for i in range(whole, rows):
            _one_row(a.ctypes.data + i * a_row, a_row, panel, k, target + i * out_row, out_row)
