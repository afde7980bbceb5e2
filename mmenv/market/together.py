"""What several quoted assets have together: covariance, factor, and what each is worth in money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.engine.products import product

Array = np.ndarray


@dataclass(frozen=True)
class Together:
    """n assets in the money of the whole, price units x lots: of simulated assets everyone's own, of tapes
    that of the first."""

    covariance: Array
    """Sigma: of what a lot of each moves in a second, (n, n), money^2."""
    exposures: Array
    """beta: what one standard deviation of the factor moves a lot of each, (n,), money per square root of a
    second."""
    factor_weights: Array
    """What to weigh the moves of the mids in a second with for the best estimate of the factor's, (n,), per
    price unit of each."""
    worths: Array
    """Money in a price unit x lot of each, (n,)."""


TURNS = 1000
"""Turns of the power iteration after which it is near enough."""


def measured_together(moves: Array, step_seconds: float, worths: Array) -> Together:
    """From moves of the mids between decisions, price units, (decisions, n), none of which is always 0.

    The factor is the first principal component of the moves in standard deviations; most assets move up with
    it. Products are not those of a BLAS, so that bytes are the same everywhere.
    """
    covariance = product(moves.T, moves) / (len(moves) * step_seconds)
    deviations = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviations, deviations)
    direction = np.ones(len(correlation)) + 0.1 * np.arange(len(correlation))
    for _ in range(TURNS):
        direction = product(correlation, direction)
        direction = direction / np.sqrt((direction * direction).sum())
    direction = direction * (1.0 if direction.sum() >= 0 else -1.0)
    explained = float((direction * product(correlation, direction)).sum())
    return Together(
        covariance=covariance * np.outer(worths, worths),
        exposures=np.sqrt(explained) * direction * deviations * worths,
        factor_weights=direction / (np.sqrt(explained) * deviations),
        worths=worths,
    )
