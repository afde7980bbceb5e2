"""Quotes of several assets in closed form, from a quadratic approximation of the value.

In continuous time, under the penalty phi q' Sigma q per second and alpha q' Sigma q at the end, the value is
approximated by -q' A(t) q plus what does not depend on q. With the Hamiltonian of exponential fill rates,
H(p) = lambda / kappa exp(-1 - kappa p), replaced by its second-order expansion at 0, A solves the Riccati
equation

    A' = 4 A D A - phi Sigma,   A(T) = alpha Sigma,   D = diag(lambda_i kappa_i / e)

and the best quotes for that value are

    bid_i = 1 / kappa_i + 2 (A q)_i + A_ii,     ask_i = 1 / kappa_i - 2 (A q)_i + A_ii.

Both boundary and source are multiples of Sigma, so D^1/2 A D^1/2 has the eigenvectors of D^1/2 Sigma D^1/2 at
all times, and each eigenvalue its own scalar equation x' = 4 x^2 - phi s, whose solution is a hyperbolic
tangent (`curvature`).

Sources: Bergault, Evangelista, Gueant and Vieira (2021), "Closed-form approximations in multi-asset market
making", with the time that is left; Gueant (2017), "Optimal market making", section 5, far from the end:
A = D^-1/2 (phi D^1/2 Sigma D^1/2)^1/2 D^-1/2 / 2, of one asset the formula of GLFT without risk aversion in
the fills.
"""

from __future__ import annotations

import numpy as np

from mmenv.market.basket import Basket

Array = np.ndarray


def curvature(market: Basket, phi: float, alpha: float, left: Array) -> Array:
    """A with so many seconds `left`, (m,), inf for the limit far from the end: float64 (m, n, n), price
    units per lot^2.

    Every asset must have some market orders.
    """
    root = np.sqrt(market.each("arrival_rates") * market.each("fill_decays") / np.e)
    scales, vectors = np.linalg.eigh(root[:, None] * market.covariance * root)
    scales = np.maximum(scales, 0.0)  # one of a covariance without full rank may be below by rounding
    far = np.maximum(np.sqrt(phi * scales) / 2, 1e-12)
    way = np.tanh(4 * far * left[:, None])
    reached = far * (alpha * scales + far * way) / (far + alpha * scales * way)
    return np.einsum("ik,mk,jk->mij", vectors / root[:, None], reached, vectors / root[:, None])


def leaning_quotes(market: Basket, curved: Array, positions: Array) -> tuple[Array, Array]:
    """Distances of ask and bid, (m, n) each, for A, (m, n, n), and positions, (m, n)."""
    spread = 1 / market.each("fill_decays") + np.diagonal(curved, axis1=1, axis2=2)
    lean = 2 * np.einsum("mij,mj->mi", curved, positions.astype(float))
    return spread - lean, spread + lean
