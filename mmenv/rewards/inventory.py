"""Inventory penalty: phi q^2 per second, and alpha q^2 at the end of the episode, q the position in lots.

Source: Cartea, Jaimungal and Penalva (2015), "Algorithmic and High-Frequency Trading", chapter 10.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.stage import stage
from mmenv.rewards.base import VALUE, RewardTerm, register

D = np.float64

WEIGHTS = np.dtype([("phi", "f8"), ("alpha", "f8")], align=True)  # per step, per episode; price units


@stage(VALUE, WEIGHTS)
def penalty(s, w, p, x):
    """What the position after the step costs."""
    phi, alpha = p.phi, p.alpha
    for i in prange(s.count):
        square = D(s.position[i]) * D(s.position[i])
        cost = phi * square + alpha * square * D(s.terminated[i])
        s.penalty[i] = cost
        w.value[i] = -cost


@register
@dataclass(frozen=True, kw_only=True)
class InventoryPenalty(RewardTerm):
    """Weights of the penalty on the square of the position, running and terminal."""

    name = "inventory-penalty"
    stage = penalty

    inventory_penalty: float = 0.01
    """phi: reward falls by phi x position^2 per second, price units."""
    terminal_penalty: float = 0.05
    """alpha: reward falls by alpha x position^2 at the end of the episode, price units."""

    def __post_init__(self) -> None:
        for name in ("inventory_penalty", "terminal_penalty"):
            require_number(self, name, 0.0, 1e6)

    def compiled(self, price_scale: int, step_seconds: float) -> np.ndarray:
        return np.array([(self.inventory_penalty * step_seconds, self.terminal_penalty)], WEIGHTS)
