"""A control variate from what an environment knows to be surprise: the policy gradient keeps its mean and
loses most of its variance.

A *surprise* is what happened in a step (a fill, a market order, a change of the hidden state) less its mean
given state and action. It moves the TD residual by about what the event is worth, and that worth, a function
of state and action, is learned: a linear regression of the residuals on surprise x (1, action, observation).
The weights come from earlier rollouts alone, so what is taken off has mean zero exactly, for actor and
critic, whatever the weights are (martingale control variates: Glynn and Szechtman 2002).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmenv.engine.products import moments, product, solve_linear

Terms = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Of surprises (N, K), observations (N, F) and actions (N, A), all before a step's end: terms (N, M), each of
mean zero given observation and action."""


def crossed(surprises: np.ndarray, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Each surprise times 1, the numbers of the action and the entries of the observation."""
    known = np.concatenate([np.ones((len(actions), 1), np.float32), actions, observations], axis=1)
    return (surprises[:, :, None] * known[:, None, :]).reshape(len(known), -1)


class SurpriseControl:
    """Linear control variates of TD residuals, learned from rollout to rollout."""

    terms: Terms = staticmethod(crossed)

    def __init__(self, memory: float = 0.9, ridge: float = 1e-3, terms: Terms | None = None) -> None:
        """`memory` is the weight that the past keeps with each rollout, `ridge` is relative; `terms` makes
        what residuals are regressed on, by default `crossed`."""
        if terms is not None:
            self.terms = terms
        self.memory, self.ridge = memory, ridge
        self.variance_left = 1.0
        """Share of the variance of the last rollout's residuals that the surprises did not explain."""
        self._weights: np.ndarray | None = None
        self._gram: np.ndarray | float = 0.0
        self._moment: np.ndarray | float = 0.0

    def __call__(
        self, surprises: np.ndarray, observations: np.ndarray, actions: np.ndarray, residuals: np.ndarray
    ) -> np.ndarray:
        """What the surprises are expected to have done to each residual, float32 (N,); then learn from these.

        Parameters
        ----------
        surprises
            Float32 (N, K), one for each event of a step.
        observations, actions
            Those before the surprises, (N, F) and (N, A).
        residuals
            Of the temporal differences, (N,).
        """
        terms = self.terms(surprises, observations, actions)
        explained = np.zeros_like(residuals)
        if self._weights is not None:
            explained = product(terms, self._weights).astype(residuals.dtype)
        self.variance_left = float(np.var(residuals - explained) / max(np.var(residuals), 1e-12))
        self._learn(terms, residuals)
        return explained

    def _learn(self, terms: np.ndarray, residuals: np.ndarray) -> None:
        gram, moment = self._sums(terms, residuals)
        self._gram = self.memory * self._gram + gram
        self._moment = self.memory * self._moment + moment
        size = np.diag(self._gram) + 1e-12  # a term that never was gets no weight
        weights = solve_linear(self._gram + np.diag(self.ridge * size), self._moment)
        self._weights = weights.astype(np.float32)

    def _sums(self, terms: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is learned from: products of the terms with themselves (M, M) and residuals (M,), float64."""
        return moments(terms, residuals)
