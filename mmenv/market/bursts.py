"""`bursts`: the market of `brownian`, whose volatility now and then multiplies for a while.

Orders do not depend on the burst and the mid stays a martingale, so the exact optimum of the mean reward is
that of `brownian`, whatever the bursts; what they change is the spread of outcomes. A policy that knows only
the mean has a much worse worst percent here, and one that keeps its position small while the mid is wild can
do better there at little cost: the market for risk managers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import prange

from mmenv.checks import require_number
from mmenv.engine.maths import F, I, U, unit
from mmenv.engine.rng import RESET_STEP, philox
from mmenv.engine.stage import Stage, at, stage
from mmenv.engine.state import per_lane
from mmenv.market import brownian
from mmenv.market.base import register
from mmenv.market.brownian import Brownian, trade
from mmenv.market.fills import match

STATE = np.dtype([per_lane("burst", "i4"), per_lane("deviation", "f4")], align=True)

PARAMS = np.dtype(
    [
        *((name, brownian.PARAMS[name]) for name in brownian.PARAMS.names or ()),
        ("begin", "f4"),  # chance per step that a burst begins, or ends
        ("end", "f4"),
        ("multiple", "f4"),
    ],
    align=True,
)


@stage(STATE, PARAMS)
def step(s, w, p, x):
    """A step at the volatility of now, then the beginning or end of a burst."""
    for i in prange(s.count):
        multiple = at(p.multiple, i)
        w.deviation[i] = at(p.deviation, i) * (multiple if w.burst[i] != 0 else F(1))
    trade(s, p.arrival, p.reach, w.deviation)
    for i in prange(s.count):
        word, _, _, _ = philox(U(s.age[i]), s.episode[i], U(1), U(0), s.key0[i], s.key1[i])
        before, begin, end = w.burst[i], at(p.begin, i), at(p.end, i)
        chance = end if before != 0 else begin
        now = I(1) - before if unit(word) < chance else before
        w.burst[i] = now
        s.latent[i] = F(now)
        surprise = F(now) - (F(1) - chance if before != 0 else chance)
        s.latent_drift[i], s.latent_square_drift[i] = surprise, surprise


@stage(STATE, PARAMS)
def reset(s, w, p, x):
    """Start at the same price; in a burst with its share of all time."""
    for i in prange(s.count):
        _, word, _, _ = philox(RESET_STEP, s.episode[i], U(0), U(0), s.key0[i], s.key1[i])
        begin, end = at(p.begin, i), at(p.end, i)
        drawn = I(1) if unit(word) * (begin + end) < begin else I(0)
        now = drawn if s.done[i] != 0 else w.burst[i]
        w.burst[i] = now
        s.latent[i] = F(now)
        s.mid[i] = at(p.start, i) if s.done[i] != 0 else s.mid[i]


@register
@dataclass(frozen=True, kw_only=True)
class Bursts(Brownian):
    """As `Brownian`, but `volatility` holds in calm times; a burst multiplies it.

    Bursts begin and end by chance, whatever happened before: their lengths, and those of the calm between
    them, are geometric.
    """

    name = "bursts"
    varied: ClassVar[tuple[str, ...]] = (
        *Brownian.varied,
        "calm_seconds",
        "burst_seconds",
        "burst_volatility",
    )
    on_step: ClassVar[tuple[Stage, ...]] = (step, match)
    on_reset: ClassVar[tuple[Stage, ...]] = (reset,)

    calm_seconds: float = 600.0
    """Mean length of the calm between two bursts."""
    burst_seconds: float = 20.0
    """Mean length of a burst."""
    burst_volatility: float = 6.0
    """What a burst multiplies the volatility by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "calm_seconds", self.step_seconds, 1e9)
        require_number(self, "burst_seconds", self.step_seconds, 1e9)
        require_number(self, "burst_volatility", 0.0, 1e2)

    def compiled(self) -> np.ndarray:
        params = np.zeros(1, PARAMS)
        plain = super().compiled()
        for name in plain.dtype.names or ():
            params[name] = plain[name]
        params["begin"] = self.step_seconds / self.calm_seconds
        params["end"] = self.step_seconds / self.burst_seconds
        params["multiple"] = self.burst_volatility
        return params
