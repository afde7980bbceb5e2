"""Products of matrices, each sum in the order of its index: the same bytes on every machine.

A BLAS sums in an order that depends on its threads and on the processor's vector instructions, so that a
result that a sum reaches would too. Here rounding is that of the plain loop. Matrices that matter for speed
have compiled products of their own (`policies.network.compiled`); those of torch run on one thread.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from mmenv.engine.stage import over_lanes_options

Array = NDArray[np.float64]

ROWS = 64
"""Rows of the result that are worked on at a time, so that they stay in the nearest caches."""
STRIP = 16
"""Columns by which sums are made: whole vectors, whatever their length."""


def on_first_call(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: compiled for these types when it is first called, so that an import compiles nothing."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def compiled() -> Callable[..., Any]:
            called: Callable[..., Any] = njit(signature, cache=True, nogil=True)(function)
            return called

        return functools.wraps(function)(lambda *arguments: compiled()(*arguments))

    return decorated


def product(a: Any, b: Any) -> Any:
    """a @ b of vectors and matrices, float64: a number, (n,) or (n, m)."""
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    rows, columns = np.atleast_2d(left), right.reshape(len(right), -1)
    if rows.shape[1] != len(columns):
        raise ValueError(f"shapes {left.shape} and {right.shape} have no product.")
    out = np.zeros((len(rows), columns.shape[1]))
    _add_product(rows, np.ascontiguousarray(columns), out)
    return out.reshape(left.shape[:-1] + right.shape[1:])[()]


def moments(rows: Any, values: Any) -> tuple[Array, Array]:
    """rows' rows, (m, m), and rows' values, (m,), of rows (n, m) and values (n,).

    The bytes that `product` gives, in a fraction of the time.
    """
    rows, values = np.ascontiguousarray(rows), np.ascontiguousarray(values)
    if values.shape != rows.shape[:1]:
        raise ValueError(f"shapes {rows.shape} and {values.shape} have no moments.")
    m = rows.shape[1]
    sums = np.zeros((m, STRIP * (m // STRIP + 1)))
    _add_moments(rows, values, sums)
    second = np.triu(sums[:, :m])
    return second + np.triu(second, 1).T, sums[:, m].copy()


def solve_linear(a: Any, b: Any) -> Array:
    """x of a x = b, float64: a (n, n), b (n,) or (n, m), by elimination with row pivots.

    Raises `numpy.linalg.LinAlgError` where `a` is singular.
    """
    left, right = np.array(a, np.float64, order="C"), np.array(b, np.float64, order="C")
    columns = right.reshape(len(left), -1)
    if not _eliminate(left, columns):
        raise np.linalg.LinAlgError("the matrix is singular.")
    return columns.reshape(right.shape)


def whitened(a: Any, b: Any) -> tuple[float, Array]:
    """log det a and L^-1 b, for a positive definite a = L L', (n, n), and b, (n, m): by Cholesky's factors.

    Raises `numpy.linalg.LinAlgError` where `a` is not positive definite.
    """
    left, right = np.array(a, np.float64, order="C"), np.array(b, np.float64, order="C")
    determinant = _whiten(left, right)
    if math.isnan(determinant):
        raise np.linalg.LinAlgError("the matrix is not positive definite.")
    return determinant, right


def exponential(a: Any) -> Array:
    """exp(a) of a matrix (n, n) whose entries beside the diagonal are not negative.

    With the smallest entry of the diagonal, c, taken out, all terms of the series of exp((a - c) / 2^s) are
    positive, so each entry of the result has a small relative error; it is squared s times (Moler and Van
    Loan 2003, methods 1 and 3).
    """
    lowest = float(np.diag(a).min())
    positive = np.asarray(a, np.float64) - lowest * np.eye(len(a))
    halvings = max(math.ceil(math.log2(max(float(positive.sum(axis=1).max()), 1e-300))) + 1, 0)
    term = result = np.eye(len(a))
    for k in range(1, 18):  # 2^-18 / 18! is below the rounding
        term = product(term, positive) / (k * 2.0**halvings)
        result = result + term
    result = result * math.exp(lowest / 2.0**halvings)
    for _ in range(halvings):
        result = product(result, result)
    return np.asarray(result)


def correlation_of(x: Array, y: Array) -> float:
    """Pearson's correlation of two series."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of the least-squares line through points."""
    away = x - x.mean()
    slope = float((away * y).sum() / (away * away).sum())
    return float(y.mean()) - slope * float(x.mean()), slope


@on_first_call("void(float64[:, :], float64[:, ::1], float64[:, ::1])")
def _add_product(a, b, out):
    """out += a @ b."""
    for first in range(0, out.shape[0], ROWS):
        last = min(first + ROWS, out.shape[0])
        for k in range(b.shape[0]):
            for i in range(first, last):
                x = a[i, k]
                for j in range(b.shape[1]):
                    out[i, j] += x * b[k, j]


@njit(nogil=True, **over_lanes_options)
def _add_moments(rows, values, sums):
    """sums[:, :m] += rows.T @ rows, from the diagonal on, and sums[:, m] += rows.T @ values; the rest is any.

    Four rows for each pass over the sums, added one after another: the order, so the bytes, of single rows.
    """
    n, m = rows.shape
    four = np.zeros((4, sums.shape[1]))
    a, b, c, d = four[0], four[1], four[2], four[3]
    for k in range(0, n, 4):
        for row in range(4):
            for i in range(m):
                four[row, i] = rows[k + row, i] if k + row < n else 0.0
            four[row, m] = values[k + row] if k + row < n else 0.0
        for i in range(m):
            x, y, z, w = a[i], b[i], c[i], d[i]
            strip = i - i % STRIP
            into, e, f, g, h = sums[i, strip:], a[strip:], b[strip:], c[strip:], d[strip:]
            for j in prange(into.size):
                into[j] = (((into[j] + x * e[j]) + y * f[j]) + z * g[j]) + w * h[j]


@on_first_call("boolean(float64[:, ::1], float64[:, ::1])")
def _eliminate(a, b):
    """Turn b into the solution; whether there is one."""
    n = len(a)
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(a[i, k]) > abs(a[pivot, k]):
                pivot = i
        if a[pivot, k] == 0.0:
            return False
        if pivot != k:
            for j in range(n):
                a[k, j], a[pivot, j] = a[pivot, j], a[k, j]
            for j in range(b.shape[1]):
                b[k, j], b[pivot, j] = b[pivot, j], b[k, j]
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            if factor != 0.0:
                for j in range(k + 1, n):
                    a[i, j] -= factor * a[k, j]
                for j in range(b.shape[1]):
                    b[i, j] -= factor * b[k, j]
    for k in range(n - 1, -1, -1):
        for j in range(b.shape[1]):
            for i in range(k + 1, n):
                b[k, j] -= a[k, i] * b[i, j]
            b[k, j] /= a[k, k]
    return True


@on_first_call("float64(float64[:, ::1], float64[:, ::1])")
def _whiten(a, b):
    """Turn b into L^-1 b; log det a, NaN where a is not positive definite."""
    n, total = len(a), 0.0
    for k in range(n):
        if not a[k, k] > 0.0:
            return math.nan
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            for j in range(k + 1, n):
                a[i, j] -= factor * a[k, j]
            for j in range(b.shape[1]):
                b[i, j] -= factor * b[k, j]
    for k in range(n):
        total += math.log(a[k, k])
        for j in range(b.shape[1]):
            b[k, j] /= math.sqrt(a[k, k])
    return total
