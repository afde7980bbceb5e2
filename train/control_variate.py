"""A control variate from what the environment knows to be surprise: the policy gradient keeps its mean and
loses most of its variance.

An environment may publish K *surprises* a step: what happened (a fill, a market order, a change of the hidden
state) less its mean given state and action. Each changes the TD residual by about what the event is worth,
and that worth, a function of state and action, is learned: a linear regression of the residuals on
surprise x (1, action, critic's observation). The weights come from earlier rollouts alone, so what is
subtracted has mean zero exactly, for actor and critic, whatever the weights (Glynn and Szechtman 2002:
martingale control variates).
"""

from __future__ import annotations

import numpy as np


class SurpriseControl:
    """Linear control variates of TD residuals."""

    def __init__(self, memory: float = 0.9, ridge: float = 1e-3) -> None:
        """`memory` is the weight that the past keeps with each rollout."""
        self.memory, self.ridge = memory, ridge
        self._gram = np.zeros((0, 0))
        self._moment = np.zeros(0)
        self.weights = np.zeros(0)

    def terms(self, surprises: np.ndarray, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Regressors, float32 (N, K (1 + A + F)), from surprises (N, K), observations (N, F), actions (N, A)."""
        known = np.concatenate([np.ones((len(actions), 1), np.float32), actions, observations], axis=1)
        return (surprises[:, :, None] * known[:, None, :]).reshape(len(known), -1)

    def explained(self, terms: np.ndarray) -> np.ndarray:
        """What the surprises are expected to have done to each residual, (N,): zero before anything is learned."""
        return terms @ self.weights.astype(np.float32) if len(self.weights) else np.zeros(len(terms), np.float32)

    def learn(self, terms: np.ndarray, residuals: np.ndarray) -> None:
        """Fit the weights for the rollouts to come."""
        if not len(self.weights):
            self._gram, self._moment = np.zeros((terms.shape[1],) * 2), np.zeros(terms.shape[1])
        self._gram = self.memory * self._gram + terms.T @ terms
        self._moment = self.memory * self._moment + terms.T @ residuals
        size = np.diag(self._gram).copy()
        size[size == 0] = 1.0
        self.weights = np.linalg.solve(self._gram + np.diag(self.ridge * size), self._moment)
