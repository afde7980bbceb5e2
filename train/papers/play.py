"""What a policy does in an environment, in the figures of papers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmenv.config import EnvConfig
from mmenv.engine.state import LEDGER
from mmenv.vector import NeuralMMVectorEnv
from policies.base import Policy
from train.simulate import EVALUATION_SEED


class Played(NamedTuple):
    """Of each simulation, float64 (simulations,)."""

    spread: np.ndarray
    """Mean distance between the quotes, price units."""
    profit: np.ndarray
    """Price units x lots; what is held at the end is worth the mid."""
    final: np.ndarray
    """Position at the end, lots."""
    held: np.ndarray
    """Mean absolute position, lots."""
    penalty: np.ndarray
    """Penalties of the inventory, price units x lots; a cost."""

    def sharpe(self) -> float:
        """Mean profit over its standard deviation, of simulations."""
        return float(self.profit.mean() / self.profit.std())


def play(policy: Policy, config: EnvConfig, simulations: int, seed: int = EVALUATION_SEED) -> Played:
    """Play `simulations` episodes, seeded seed, seed + 1, ..."""
    envs = NeuralMMVectorEnv(simulations, config=config, autoreset_mode="Disabled")
    observations, _ = envs.reset(seed=seed)
    state = policy.reset(simulations)
    spread, held, penalty = np.zeros((3, simulations))
    for _ in range(config.horizon):
        actions, state = policy.act(observations, state)
        spread += np.sum(config.quote.to_distances(actions), axis=0)
        observations, *_ = envs.step(actions)
        held += np.abs(envs.ledger[LEDGER.index("position")])
        penalty += envs.ledger[LEDGER.index("inventory_penalty")]
    profit, final = (envs.ledger[LEDGER.index(name)].copy() for name in ("wealth", "position"))
    envs.close()
    return Played(spread / config.horizon, profit, final, held / config.horizon, penalty)
