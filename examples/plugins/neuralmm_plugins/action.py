"""An action: a single number, the half-spread on both sides of the mid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import prange

from mmenv.actions.base import Action, Entry, register
from mmenv.actions.spread_skew import outward
from mmenv.checks import require_number
from mmenv.engine.maths import F, I
from mmenv.engine.stage import stage

BOX = np.dtype([("half_range", "f4")])  # half-ticks


@stage(BOX)
def quote(s, w, p, x):
    """The same distance on both sides, up to the tick; an action that is not finite quotes nothing."""
    for i in prange(s.count):
        a0 = s.action[0, i]
        finite = abs(a0) < F(np.inf)
        a0 = min(max(a0, F(-1)), F(1)) if finite else F(1)
        half = (a0 + F(1)) * F(0.5) * w.half_range
        ask, bid = outward(half, s.mid[i], I(1)), outward(half, s.mid[i], I(-1))
        s.ask_distance[i] = ask + (I(2) if ask + bid == 0 else I(0))
        s.bid_distance[i] = bid
        s.ask_lots[i] = s.bid_lots[i] = p.order_lots if finite else I(0)


@register
@dataclass(frozen=True, kw_only=True)
class HalfSpread(Action):
    """The half-spread alone: ask = mid + h, bid = mid - h."""

    name = "half-spread"
    entries = (Entry("half_spread", "half-spread `h`, pu", "0", "`quote.max_half_spread`"),)
    stage = quote

    max_half_spread: float = 6.0
    """Half-spread at +1, price units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "max_half_spread", 1e-6, 1e4)

    def compiled(self, price_scale: int, on_ticks: bool) -> np.ndarray:
        return np.array([(self.max_half_spread * price_scale,)], BOX)

    def to_distances(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = (actions[:, 0] + 1) / 2 * self.max_half_spread
        return half, half

    def to_action(self, ask_distance: np.ndarray, bid_distance: np.ndarray) -> np.ndarray:
        half = (np.asarray(ask_distance, float) + bid_distance) / 2
        return np.clip(2 * half / self.max_half_spread - 1, -1.0, 1.0)[..., None].astype(np.float32)
