"""`adversarial`: the market `brownian` in which somebody moves the mid against whoever holds a position.

Source: Spooner and Savani (2020), "Robust market making via adversarial reinforcement learning": a zero-sum
game in which the adversary chooses the drift of the mid within bounds. What it can take from a position is
the drift times the position, and no fill depends on the drift, so its best answer to every market maker is
the whole drift against the position: the market is that answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.maths import I
from mmenv.engine.stage import Stage, at, stage
from mmenv.engine.state import EMPTY
from mmenv.market import brownian
from mmenv.market.base import register
from mmenv.market.brownian import Brownian, trade
from mmenv.market.fills import match

PARAMS = np.dtype(
    [*((name, brownian.PARAMS[name]) for name in brownian.PARAMS.names or ()), ("against", "i4")], align=True
)
"""Those of `brownian`, and half-ticks that the mid moves against a position in a step."""


@stage(EMPTY, PARAMS)
def step(s, w, p, x):
    """Market orders and the move of the mid, then the adversary's part of it."""
    trade(s, p.arrival, p.reach, p.deviation)
    for i in prange(s.count):
        held = s.position[i]
        pushed = at(p.against, i) * ((I(1) if held < 0 else I(0)) - (I(1) if held > 0 else I(0)))
        s.move[i] += pushed
        s.mid[i] += pushed


@stage(EMPTY, PARAMS)
def reset(s, w, p, x):
    """Start at the same price."""
    for i in prange(s.count):
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


@register
@dataclass(frozen=True, kw_only=True)
class Adversarial(Brownian):
    """`brownian`, and the mid falls by `drift` x step_seconds where a position is long, rises where short."""

    name = "adversarial"
    varied: ClassVar[tuple[str, ...]] = (*Brownian.varied, "drift")
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    drift: float = 5.0
    """The most that the adversary can choose, price units a second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "drift", 0.0, 1e3)

    def compiled(self) -> np.ndarray:
        params, base = np.zeros(1, PARAMS), super().compiled()
        for name in base.dtype.names or ():
            params[name] = base[name]
        params["against"] = self.against
        return params

    @property
    def against(self) -> int:
        """Half-ticks that the mid moves in a step: whole ones, so `drift` to within half of one."""
        return round(self.drift * self.step_seconds * self.price_scale)
