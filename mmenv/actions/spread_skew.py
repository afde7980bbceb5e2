"""The default action: the half-spread and the skew of a two-sided quote.

    h = h_min + (a0 + 1) / 2 (h_max - h_min),   s = a1 s_max,   ask = mid + h + s,   bid = mid - h + s

Each distance is clipped to [0, d_max] and rounded outward to the tick; quotes are post-only, and the bid is
always below the ask. With `withdraw`, a side that asks for more than d_max is left instead. An action that is
not finite quotes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.actions.base import Action, Entry, register
from mmenv.checks import require, require_number
from mmenv.engine.stage import inlined, stage

F = np.float32
I = np.int32  # noqa: E741  (as in the kernels' arithmetic)

BOX = np.dtype(
    [
        ("half_low", "f4"),  # half-ticks
        ("half_range", "f4"),
        ("max_skew", "f4"),
        ("max_distance", "f4"),
        ("leave", "f4"),  # a side that asks for more than this is left
        ("slack", "f4"),
    ]
)


@inlined
def outward(distance, mid, side):
    """The distance, rounded up until mid + side x distance is a whole tick (an even price)."""
    floor = I(distance)
    ceiling = I(floor + (I(1) if F(floor) < distance else I(0)))
    return I(ceiling + ((mid + side * ceiling) & I(1)))


@stage(BOX)
def quote(s, w, p, x):
    """Distances of ask and bid from the action; 0 lots where a side is left or the action is not finite."""
    half_low, half_range, max_skew = w.half_low, w.half_range, w.max_skew
    max_distance, leave, slack, order_lots = w.max_distance, w.leave, w.slack, p.order_lots
    for i in prange(s.count):
        a0, a1 = s.action[0, i], s.action[1, i]
        finite = (abs(a0) < F(np.inf)) & (abs(a1) < F(np.inf))
        a0 = min(max(a0, F(-1)), F(1)) if finite else F(1)
        a1 = min(max(a1, F(-1)), F(1)) if finite else F(0)
        half = half_low + (a0 + F(1)) * F(0.5) * half_range
        skew = a1 * max_skew
        ask_asked, bid_asked = half + skew, half - skew
        # What is on the grid but for the noise of float32 must not be rounded outward by a whole tick.
        ask = max(min(max(ask_asked, F(0)), max_distance) - slack, F(0))
        bid = max(min(max(bid_asked, F(0)), max_distance) - slack, F(0))
        mid = s.mid[i]
        # Post-only: not closer than one tick from the other side's touch. No book, no touch.
        nearest = max(I(2) - (s.spread[i] >> 1), I(0)) if s.spread[i] > 0 else I(0)
        ask_distance = max(outward(ask, mid, I(1)), nearest)
        bid_distance = max(outward(bid, mid, I(-1)), nearest)
        s.ask_distance[i] = ask_distance + (I(2) if ask_distance + bid_distance == 0 else I(0))
        s.bid_distance[i] = bid_distance
        s.ask_lots[i] = order_lots if finite & (ask_asked <= leave) else I(0)
        s.bid_lots[i] = order_lots if finite & (bid_asked <= leave) else I(0)


@register
@dataclass(frozen=True, kw_only=True)
class SpreadSkew(Action):
    """The action box. `a0` sets the half-spread, `a1` the skew; see `mmenv.actions.spread_skew`."""

    name = "spread-skew"
    entries: ClassVar[tuple[Entry, ...]] = (
        Entry("half_spread", "half-spread `h`, pu", "`quote.min_half_spread`", "`quote.max_half_spread`"),
        Entry("skew", "skew `s`, pu", "`-quote.max_skew`", "`quote.max_skew`"),
    )
    stage = quote

    min_half_spread: float = 0.0
    """Half-spread at a0 = -1, price units."""
    max_half_spread: float = 6.0
    """Half-spread at a0 = +1, price units."""
    max_skew: float = 6.0
    """Skew at a1 = +1, price units. Equal to `max_half_spread`, every pair of distances is representable."""
    max_distance: float = 6.0
    """Each quote is clipped to this distance from the mid, price units."""
    withdraw: bool = False
    """Whether a side that asks for more than `max_distance` is left, not quoted there. Both can be left at
    once where `max_half_spread` is larger."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "max_distance", 1e-6, 1e4)
        require_number(self, "max_half_spread", 1e-6, 1e4)
        require_number(self, "min_half_spread", 0.0, self.max_half_spread)
        require_number(self, "max_skew", 0.0, 1e4)
        require(isinstance(self.withdraw, bool), "SpreadSkew", "withdraw", self.withdraw, "true or false")

    @property
    def leaves(self) -> bool:
        return self.withdraw

    def compiled(self, price_scale: int, on_ticks: bool) -> np.ndarray:
        box = np.zeros(1, BOX)
        box["half_low"] = self.min_half_spread * price_scale
        box["half_range"] = (self.max_half_spread - self.min_half_spread) * price_scale
        box["max_skew"] = self.max_skew * price_scale
        box["max_distance"] = self.max_distance * price_scale
        # float32 carries 24 bits: no box of a market on ticks is noisier than this.
        reach = (self.max_half_spread + self.max_skew) * price_scale
        box["slack"] = max(2.0**-6, reach * 2.0**-20) if on_ticks else 0.0
        box["leave"] = self.max_distance * price_scale + box["slack"] if self.withdraw else np.inf
        return box

    def to_distances(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = self.min_half_spread + (actions[:, 0] + 1) / 2 * (self.max_half_spread - self.min_half_spread)
        skew = actions[:, 1] * self.max_skew
        far = np.inf if self.withdraw else self.max_distance
        ask, bid = (
            np.where(d > self.max_distance, far, np.maximum(d, 0.0)) for d in (half + skew, half - skew)
        )
        return ask, bid

    def _reachable(self, distance: np.ndarray) -> np.ndarray:
        """The distance, clipped to what is quoted; where it is left instead, the far end of the box."""
        d = np.asarray(distance, float)
        far = max(self.max_half_spread, self.max_distance) if self.withdraw else self.max_distance
        return np.where(d > self.max_distance * (1 + 1e-9), far, np.clip(d, 0.0, self.max_distance))

    def to_action(self, ask_distance: np.ndarray, bid_distance: np.ndarray, **more: Any) -> np.ndarray:
        """The action, float32 (..., 2), that quotes these distances from the mid, price units.

        Exact where both lie in [0, max_distance], half-spread and skew in the action's range; else the
        nearest. An infinite distance leaves a side, where the action can.
        """
        ask, bid = (self._reachable(d) for d in (ask_distance, bid_distance))
        half = (ask + bid) / 2
        span = self.max_half_spread - self.min_half_spread
        a0 = 2 * (half - self.min_half_spread) / span - 1 if span > 0 else np.zeros_like(half)
        a1 = (ask - bid) / (2 * self.max_skew) if self.max_skew > 0 else np.zeros_like(half)
        return np.clip(np.stack([a0, a1], axis=-1), -1.0, 1.0).astype(np.float32)
