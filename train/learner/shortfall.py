"""What a learner is paid where a policy is worth its mean less w times its expected shortfall.

The mean of the worst share a of episodes is the largest value over thresholds z of E[z - (z - R)^+ / a], R
the reward of an episode; the best z is their quantile (Rockafellar and Uryasev 2000). So with z given, mean
less w times shortfall is an expected utility of R, concave and of two slopes:

    U(R) = R + w (z - (z - R)^+ / a)

Each step is paid what it adds to the mean of U(R) if the rest of the episode were normal and like that of
others, which has a closed form. That sums to U(R) less a constant, so without discount the gradient is that
of U (potential-based shaping: Ng, Harada and Russell 1999), and it is smooth, where U(reward so far) has a
corner through which noise goes back and forth: a critic has only to learn how far the rest is from that.
Normal noise in the rewards is integrated out exactly. The threshold follows the quantile of recent episodes,
more slowly than the policy learns (Chow and Ghavamzadeh 2014). What is still to come is worth more the lower
the reward so far, so a critic is shown that (`Shortfall.shown`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr

from mmenv.checks import require
from train.learner.control_variate import crossed
from train.objective import quantile

Array = np.ndarray

SHOWN = 3
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

    def expected(self, total: Array, steps: Array, variance: Array | float = 0.0) -> Array:
        """Mean of `utility` at the end, where the reward so far is `total` plus a normal number of this
        variance, and the rest is normal, independent, and like that of other episodes, (E,)."""
        above, deviation = self._ahead(total, steps, variance)
        place = above / deviation
        below = above * ndtr(-place) - deviation * np.exp(-0.5 * place**2) / np.sqrt(2 * np.pi)
        rest = self.mean * (1 - steps / self.horizon)
        return np.asarray((total + rest + self.weight / self.level * below) / (1 + self.weight))

    def _ahead(self, total: Array, steps: Array, variance: Array | float = 0.0) -> tuple[Array, Array]:
        """How far above the threshold an episode is expected to end, and the deviation of that."""
        left = 1 - steps / self.horizon
        above = total - self.threshold + left * self.mean
        return above, np.sqrt(np.maximum(left * self.deviation**2 + variance, 1e-12))

    def paid(
        self,
        rewards: Array,
        total: Array,
        steps: Array,
        noise: Array | float = 0.0,
        variance: Array | float = 0.0,
    ) -> Array:
        """What steps are paid that earned `rewards` and brought the reward so far to `total`, after so many
        steps of the episode, (E,): what they add to the expected utility. Of normal `noise` in the rewards,
        of this variance, it is the mean that is paid."""
        before = self.expected(total - rewards, steps - 1)
        return self.expected(total - noise, steps, variance) - before

    def shown(self, total: Array, steps: Array) -> Array:
        """What a critic is shown of the reward so far after so many steps, float32 (E, `SHOWN`): how far it
        is above the threshold, in deviations of an episode; twice the chance that the episode ends above it,
        less one, if the rest is normal and like that of others, on which depends what more reward adds; and
        how dense the threshold is, on which depends what more variance takes."""
        ahead, deviation = self._ahead(total, steps, self.deviation**2 * 0.1 / self.horizon)
        place = ahead / deviation
        above = np.clip((total - self.threshold) / self.deviation, -100, 100)
        dense = np.exp(-0.5 * place**2) * np.minimum(self.deviation / deviation, 10)
        return np.stack([above, 2 * ndtr(place) - 1, dense], axis=1).astype(np.float32)

    def terms(self, surprises: Array, observations: Array, actions: Array) -> Array:
        """Terms of `train.learner.control_variate.SurpriseControl`: as always, and times `slope`."""
        slope = self.slope(observations)[:, None].astype(np.float32)
        return crossed(np.concatenate([surprises, surprises * slope], axis=1), observations, actions)

    def slope(self, observations: Array) -> Array:
        """What one more of reward adds to the expected utility, by what a critic is shown, (...)."""
        chance = observations[..., 1 - SHOWN]
        return np.asarray((1 + self.weight / self.level * (1 - chance) / 2) / (1 + self.weight))

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
