"""What a learner is paid where a policy is worth its mean less w times its expected shortfall.

The mean of the worst share a of episodes is the largest value over thresholds z of E[z - (z - R)^+ / a], R
the reward of an episode; the best z is their quantile (Rockafellar and Uryasev 2000). So with z given, mean
less w times shortfall is an expected utility of R, concave and of two slopes:

    U(R) = R + w (z - (z - R)^+ / a)

Each step is paid what it adds to U(reward so far). That sums to U(R) - U(0), so without discount the gradient
is that of U; the threshold follows the quantile of recent episodes, more slowly than the policy learns
(Chow and Ghavamzadeh 2014). What is still to come is then worth more the lower the reward so far, so a critic
has to be shown that (`Shortfall.shown`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import erf

from mmenv.checks import require
from train.objective import quantile

Array = np.ndarray

SHOWN = 2
"""Entries that a critic is shown."""

FEWEST, MOST = 256, 4096
"""Episodes that the threshold is the quantile of: a quarter of those so far, within these bounds."""


class Shortfall:
    """Utility of episodes for a threshold that follows them. Amounts are price units x lots."""

    def __init__(self, weight: float, level: float, horizon: int, scale: float) -> None:
        """`scale`: size of an episode's rewards, until there are some."""
        require(0 < weight < np.inf, "Shortfall", "weight", weight, "a number above 0")
        require(0 < level <= 1, "Shortfall", "level", level, "above 0, at most 1")
        self.weight, self.level, self.horizon = weight, level, horizon
        self.threshold, self.mean, self.deviation = 0.0, 0.0, scale
        self._scale, self._ended, self._recent, self._steps = scale, 0, np.zeros(0), 0

    def utility(self, total: Array) -> Array:
        """U of rewards, less a constant and per 1 + w, so that a unit of reward is worth one on average."""
        below = np.minimum(total - self.threshold, 0.0)
        return np.asarray((total + self.weight / self.level * below) / (1 + self.weight))

    def paid(self, rewards: Array, total: Array) -> Array:
        """What steps are paid that earned `rewards` and brought the reward so far to `total`, (E,)."""
        return self.utility(total) - self.utility(total - rewards)

    def shown(self, total: Array, steps: Array) -> Array:
        """What a critic is shown of the reward so far after so many steps, float32 (E, `SHOWN`): how far it
        is above the threshold, in deviations of an episode, and twice the chance that the episode ends above
        it, less one, if the rest is normal and like that of others: on it depends what more reward adds."""
        above = (total - self.threshold) / self.deviation
        left = 1 - steps / self.horizon
        expected = above + left * (self.mean / self.deviation)
        chance = erf(expected / np.sqrt(2 * np.maximum(left, 0.1 / self.horizon)))
        return np.stack([np.clip(above, -100, 100), chance], axis=1).astype(np.float32)

    def follow(self, ended: Array) -> None:
        """Learn from the rewards of the episodes that ended in a step of all environments, (k,), if any.

        The threshold moves once in as many steps as an episode has: between rollouts, if they are as long.
        """
        self._steps += 1
        self._ended += len(ended)
        self._recent = np.concatenate([self._recent, ended])[-MOST:]
        if self._steps % self.horizon or not len(self._recent):
            return
        recent = self._recent[-max(FEWEST, self._ended // 4) :]
        self.threshold, self.mean = quantile(recent, self.level), float(recent.mean())
        self.deviation = float(recent.std()) or self._scale

    def get_state(self) -> dict[str, Any]:
        """All that changes."""
        return {name: value for name, value in vars(self).items() if name not in ("weight", "level")}

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
