"""A reward term: gains of the position are damped, its losses are not.

Source: Spooner, Fearnley, Savani and Koukorinis (2018), "Market Making via Reinforcement Learning", equation
for the asymmetrically dampened profit and loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.maths import D
from mmenv.engine.stage import stage
from mmenv.rewards.base import VALUE, RewardTerm, register

WEIGHTS = np.dtype([("per_unit", "f8")])


@stage(VALUE, WEIGHTS)
def damp(s, w, p, x):
    """-eta max(0, position x move): the position after the fills, the move of the mid since the decision."""
    for i in prange(s.count):
        w.value[i] = -p.per_unit * max(D(s.position[i]) * D(s.move[i]), D(0))


@register
@dataclass(frozen=True, kw_only=True)
class Damping(RewardTerm):
    """Takes the share `eta` of what the position gains by the move of the mid."""

    name = "damping"
    stage = damp

    eta: float = 0.5
    """0 leaves the gain whole, 1 takes all of it."""

    def __post_init__(self) -> None:
        require_number(self, "eta", 0.0, 1.0)

    def compiled(self, price_scale: int, step_seconds: float) -> np.ndarray:
        return np.array([(self.eta / price_scale,)], WEIGHTS)
