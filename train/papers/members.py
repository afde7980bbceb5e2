"""Training on a family of `brownian` markets of which somebody chooses the member, before each rollout.

The policy sees time and position alone, so what it quotes is a table whose value in every member is exact
(`policies.solver.blind_family`), and an adversary who sees that policy need not estimate how it does. He
plays Hedge, as there; what a policy scored counts less with each rollout since, for it has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numba import prange
from stable_baselines3.common.callbacks import BaseCallback

from mmenv.config import EnvConfig
from mmenv.engine.maths import F
from mmenv.engine.stage import stage
from mmenv.features.base import Feature, Group, register, rows
from policies.base import Policy
from policies.network.trained import TrainedPolicy
from policies.solver.blind_family import BlindFamily, Quotes
from train.learner.vec_env import NeuralMMVecEnv

Array = np.ndarray

MEMORY = 0.98
"""What a score counts one rollout later."""

FEATURES = (Feature("position", -1, 1, "position / position limit"),)


@stage(out=rows(FEATURES))
def observe(s, w, p, x):
    """The position alone: the rest of group `inventory` depends on the way there."""
    for i in prange(s.count):
        x.position[i] = F(s.position[i]) / F(p.position_limit)


register(Group(name="position", features=FEATURES, observe=observe))

OBSERVED = ("position", "clock")
"""Feature groups of the policies here."""


def quotes_of(policy: Policy, config: EnvConfig) -> Quotes:
    """What a policy without memory that sees `OBSERVED` quotes, by time and position."""
    limit, horizon = config.risk.position_limit, config.horizon
    left, position = np.meshgrid(
        np.arange(horizon, 0, -1) / horizon, np.arange(-limit, limit + 1) / limit, indexing="ij"
    )
    seen = np.stack([position.ravel(), left.ravel()], axis=1).astype(np.float32)
    actions, _ = policy.act(seen, policy.reset(len(seen)))
    ask, bid = (side.reshape(left.shape).astype(float) for side in config.quote.to_distances(actions))
    return Quotes(ask, bid)


class Chooser(BaseCallback):
    """Says before each rollout how often the episodes that begin draw each member.

    What is learned for is the mean score, weighted evenly or, where `hostile`, by Hedge. A score is the value
    in a member over its `scale`, so a member is drawn in proportion to its weight over that.
    """

    def __init__(
        self,
        config: EnvConfig,
        members: Sequence[Mapping[str, float]],
        family: BlindFamily,
        scale: Array,
        hostile: bool,
    ) -> None:
        """`members`: the parameters of those of `family`; `scale`: (members,)."""
        super().__init__()
        self.config, self.members, self.family = config, members, family
        self.scale, self.hostile = scale, hostile
        self.sums = np.zeros(family.size)
        # The rate of Hedge for as many rounds as are remembered.
        self.rate = math.sqrt(8 * math.log(max(family.size, 2)) * (1 - MEMORY))

    def weights(self) -> Array:
        """Of the members in the mean of the scores, (members,)."""
        return np.asarray(np.exp(-self.rate * (self.sums - self.sums.min())))

    def _on_rollout_start(self) -> None:
        env = self.training_env
        assert isinstance(env, NeuralMMVecEnv)
        if self.hostile:
            quotes = quotes_of(TrainedPolicy(self.model.policy), self.config)  # type: ignore[arg-type]
            scores = self.family.values(quotes) / self.scale
            self.sums = MEMORY * self.sums + np.clip(scores, 0.0, 1.0)
        env.envs.weigh_members(self.members, self.weights() / self.scale)

    def _on_step(self) -> bool:
        return True
