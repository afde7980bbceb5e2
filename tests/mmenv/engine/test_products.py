"""Sums in an order of their own: right, and nowhere left to a BLAS."""

from __future__ import annotations

import ast
import functools
import itertools
import operator
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from mmenv.engine.products import (
    correlation_of,
    exponential,
    line,
    moments,
    product,
    solve_linear,
    whitened,
)

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)


def _plain(left: list[float], right: list[float]) -> float:
    """A sum of products, one after the other: Python's own `sum` makes up for rounding from 3.12 on."""
    return functools.reduce(operator.add, map(operator.mul, left, right), 0.0)


@pytest.mark.parametrize(
    ("left", "right"), [((7,), (7,)), ((130, 7), (7,)), ((7,), (7, 3)), ((130, 7), (7, 5))]
)
def test_a_product_is_that_of_the_plain_loop(left, right):
    a, b = RNG.normal(size=left).astype(np.float32), RNG.normal(size=right)
    rows, columns = np.atleast_2d(a).astype(float), b.reshape(7, -1)
    plain = [[_plain(row.tolist(), column.tolist()) for column in columns.T] for row in rows]
    found = product(a, b)
    assert np.shape(found) == (a @ b).shape
    assert np.array_equal(np.ravel(found), np.ravel(plain))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 78), (301, 17)])
def test_moments_are_the_bytes_of_products(shape, dtype):
    rng = np.random.default_rng(1)
    rows, values = rng.normal(size=shape).astype(dtype), rng.normal(size=shape[0]).astype(dtype)
    second, first = moments(rows, values)
    assert second.tobytes() == product(rows.T, rows).tobytes()
    assert first.tobytes() == product(rows.T, values).tobytes()
    with pytest.raises(ValueError, match="no moments"):
        moments(rows, np.zeros(shape[0] + 1))


def test_linear_algebra_is_lapacks():
    a, b = RNG.normal(size=(40, 40)), RNG.normal(size=(40, 2))
    a[0, 0] = 0.0
    np.testing.assert_allclose(solve_linear(a, b), np.linalg.solve(a, b), rtol=1e-9)
    positive = a @ a.T + np.eye(40)
    logarithm, white = whitened(positive, b)
    assert logarithm == pytest.approx(np.linalg.slogdet(positive)[1])
    np.testing.assert_allclose(white.T @ white, b.T @ np.linalg.solve(positive, b), rtol=1e-9)
    for refused in (lambda: solve_linear(np.zeros((2, 2)), np.ones(2)), lambda: whitened(-positive, b)):
        with pytest.raises(np.linalg.LinAlgError):
            refused()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_an_exponential_is_scipys(scale):
    generator = scale * (np.diag(-np.arange(30.0)) + np.eye(30, k=1) + np.eye(30, k=-1))
    np.testing.assert_allclose(exponential(generator), scipy.linalg.expm(generator), rtol=1e-8, atol=1e-12)


def test_a_line_and_a_correlation_are_numpys():
    x = RNG.normal(size=50)
    y = 3 - 2 * x + RNG.normal(size=50)
    np.testing.assert_allclose(line(x, y), np.polyfit(x, y, 1)[::-1], rtol=1e-9)
    assert correlation_of(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


LEFT = {
    # sparse matrices, whose products are loops of scipy's
    *(("policies/book/programme.py", name) for name in ("sparse.diags(", "moves @ values")),
    *(
        ("policies/solver/recursion.py", name)
        for name in ("self._forward @", "self._backward @", "total @ now")
    ),
    # torch on one thread
    ("policies/network/packed_lstm.py", "torch.from_numpy(work.gates)"),
    ("policies/network/min_gru.py", "torch.from_numpy(gates)"),
    ("policies/network/packed_gru.py", "torch.from_numpy(gates)"),
    ("policies/network/lru.py", "torch.from_numpy(driven)"),
    *(("train/learner/direct.py", name) for name in ("dy @ weight", "dy.t() @ x")),
    *(("train/learner/update.py", name) for name in ("statistics[-1]", "terms[:LOSSES]", "torch.")),
    # a few coefficients, rounded to float32
    ("policies/network/compiled.py", "np.linalg.lstsq("),
    ("policies/network/compiled.py", "powers[:, :below + 1] @ q"),
    # a tridiagonal matrix: LAPACK's loop, without a BLAS of several threads
    ("train/replicate.py", "linalg.eigh_tridiagonal("),
    # a Riccati equation of a few states
    ("policies/signals/exact.py", "scipy.linalg.solve_discrete_are("),
    # a matrix of a few assets
    ("policies/basket/closed_forms.py", "np.linalg.eigh("),
    # compared with 1, and printed with two digits
    ("train/papers/hawkes.py", "np.linalg.eigvals("),
    # no sums
    *(("mmenv/measure/intervals.py", f"linalg.{name}(") for name in ("toeplitz", "block_diag")),
}
"""Products that no BLAS of several threads makes: file, and how the code begins."""

SUMS = {"dot", "vdot", "inner", "matmul", "tensordot", "einsum_path", "cov", "corrcoef", "polyfit", "lstsq"}


def products_in(path: Path) -> list[str]:
    """Code in a file that a BLAS may run."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, ast.unparse(node.func.value)
            if (owner.endswith("linalg") and not name.endswith("Error")) or (owner == "np" and name in SUMS):
                found.append(ast.unparse(node))
    return found


def test_no_result_rests_on_the_order_of_a_blas():
    files = itertools.chain(*((ROOT / name).rglob("*.py") for name in ("mmenv", "policies", "train")))
    allowed: dict[str, list[str]] = {}
    for name, begin in LEFT:
        allowed.setdefault(name, []).append(begin)
    left = [
        f"{name}: {code}"
        for name, code in ((p.relative_to(ROOT).as_posix(), code) for p in files for code in products_in(p))
        if not any(code.startswith(begin.split("(")[0]) for begin in allowed.get(name, []))
    ]
    assert not left, "make these with mmenv.engine.products: " + "; ".join(left)
