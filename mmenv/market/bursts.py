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
from numba.np.numpy_support import carray

from mmenv.config import MarketStages, require_number
from mmenv.kernel import EMPTY, Call, aligned_zeros, lanes, over_lanes, stage
from mmenv.market import brownian, register
from mmenv.market.brownian import Brownian, trade
from mmenv.market.by_lane import at, with_family
from mmenv.rng import RESET_STEP, philox
from mmenv.venue.simulated import match
from mmenv.vmath import unit

F = np.float32
I = np.int32  # noqa: E741
U = np.uint32

STATE = np.dtype([lanes("burst", "i4"), lanes("deviation", "f4")], align=True)

PARAMS = np.dtype(
    [
        *((name, brownian.PARAMS[name]) for name in brownian.PARAMS.names or ()),
        ("begin", "f4"),  # chance per step that a burst begins, or ends
        ("end", "f4"),
        ("multiple", "f4"),
    ],
    align=True,
)

OWN = with_family(STATE, PARAMS)


@over_lanes
def change(s, w, p):  # type: ignore[no-untyped-def]
    """A step at the volatility of now, then the beginning or end of a burst."""
    deviations, multiples, begins, ends = p.deviation, p.multiple, p.begin, p.end
    for i in prange(s.count):
        w.deviation[i] = at(deviations, i) * (at(multiples, i) if w.burst[i] != 0 else F(1))
    trade(s, p.arrival, p.reach, w.deviation)
    for i in prange(s.count):
        word, _, _, _ = philox(U(s.age[i]), s.episode[i], U(1), U(0), s.key0[i], s.key1[i])
        before = w.burst[i]
        chance = at(ends, i) if before != 0 else at(begins, i)
        now = I(1) - before if unit(word) < chance else before
        w.burst[i] = now
        s.latent[i] = F(now)
        surprise = F(now) - (F(1) - chance if before != 0 else chance)
        s.latent_drift[i], s.latent_square_drift[i] = surprise, surprise


@over_lanes
def start(s, w, p, price):  # type: ignore[no-untyped-def]
    """Start at the same price; in a burst with its share of all time."""
    begins, ends = p.begin, p.end
    for i in prange(s.count):
        _, word, _, _ = philox(RESET_STEP, s.episode[i], U(0), U(0), s.key0[i], s.key1[i])
        begin, end = at(begins, i), at(ends, i)
        drawn = I(1) if unit(word) * (begin + end) < begin else I(0)
        now = drawn if s.done[i] != 0 else w.burst[i]
        w.burst[i] = now
        s.latent[i] = F(now)
        s.mid[i] = price if s.done[i] != 0 else s.mid[i]


@stage(STATE, PARAMS)
def step(core, own, params, out):  # type: ignore[no-untyped-def]
    change(carray(core, 1)[0], carray(own, 1)[0], carray(params, 1)[0])


@stage(OWN, PARAMS)
def step_by_lane(core, own, params, out):  # type: ignore[no-untyped-def]
    w = carray(own, 1)[0]
    change(carray(core, 1)[0], w.own, w.family)


@stage(STATE, PARAMS)
def reset(core, own, params, out):  # type: ignore[no-untyped-def]
    p = carray(params, 1)[0]
    start(carray(core, 1)[0], carray(own, 1)[0], p, p.start)


@stage(OWN, PARAMS)
def reset_by_lane(core, own, params, out):  # type: ignore[no-untyped-def]
    w = carray(own, 1)[0]
    start(carray(core, 1)[0], w.own, w.family, carray(params, 1)[0].start)


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

    def stages(self, blocks: int, by_lane: bool = False) -> MarketStages:
        params, own = self.compiled(), aligned_zeros(blocks, OWN if by_lane else STATE)
        return MarketStages(
            step=(
                Call(step_by_lane if by_lane else step, own, params),
                Call(match, np.zeros(1, EMPTY), params),
            ),
            reset=(Call(reset_by_lane if by_lane else reset, own, params),),
            family=own["family"] if by_lane else None,
        )
