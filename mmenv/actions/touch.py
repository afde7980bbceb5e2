"""Where in the book to stand, side by side: the action of a maker in a market of large ticks.

| a < -1/2 | -1/2 <= a < 0 | 0 <= a < 1/2 | 1/2 <= a |
|----------|---------------|--------------|----------|
| leave the side | a tick behind the touch | join the touch | a tick before it, where there is room |

The order of the four is one of aggressiveness, so that a policy near a boundary is near it in what it does.
It needs a market with a book.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import prange

from mmenv.actions.base import Action, Entry, register
from mmenv.checks import require_number
from mmenv.engine.stage import stage

F = np.float32
I = np.int32  # noqa: E741

UNIT = np.dtype([("max_distance", "i4")])

LEAVE, BEHIND, JOIN, IMPROVE = -0.75, -0.25, 0.25, 0.75
"""The middle of each choice."""


@stage(UNIT)
def quote(s, w, p, x):
    """Distances from the touch that each side's number stands for; 0 lots where a side is left."""
    farthest = w.max_distance
    order_lots = p.order_lots
    for i in prange(s.count):
        a0, a1 = s.action[0, i], s.action[1, i]
        touch = I(s.spread[i] >> I(1))
        room = I(2) if s.spread[i] > I(2) else I(0)
        ask_step = (I(2) if a0 < F(0) else I(0)) - (room if a0 >= F(0.5) else I(0))
        bid_step = (I(2) if a1 < F(0) else I(0)) - (room if a1 >= F(0.5) else I(0))
        ask, bid = I(touch + ask_step), I(touch + bid_step)
        # Both may not step into a spread of two ticks.
        s.ask_distance[i] = max(ask, I(2) - bid)
        s.bid_distance[i] = bid
        s.ask_lots[i] = order_lots if (a0 >= F(-0.5)) & (a0 < F(np.inf)) & (ask <= farthest) else I(0)
        s.bid_lots[i] = order_lots if (a1 >= F(-0.5)) & (a1 < F(np.inf)) & (bid <= farthest) else I(0)


@register
@dataclass(frozen=True, kw_only=True)
class Touch(Action):
    """Per side: leave it, one tick behind the touch, join the touch, one tick before it."""

    name = "touch"
    from_touch = True
    entries: ClassVar[tuple[Entry, ...]] = (
        Entry("ask", "ask: leave, behind, join, improve", "leave", "improve"),
        Entry("bid", "bid: leave, behind, join, improve", "leave", "improve"),
    )
    distances_are = "ticks behind the touch"
    stage = quote

    max_distance: float = 100.0
    """A touch farther from the mid than this, price units, is left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "max_distance", 1e-6, 1e4)

    @property
    def leaves(self) -> bool:
        return True

    def compiled(self, price_scale: int, on_ticks: bool) -> np.ndarray:
        return np.array([(min(round(self.max_distance * price_scale), 2**30),)], UNIT)

    def to_distances(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ticks behind the touch: 0 at it, 1 behind, -1 before it, infinite where a side is left."""
        ticks = np.select([actions < -0.5, actions < 0, actions < 0.5], [np.inf, 1.0, 0.0], -1.0)
        return ticks[:, 0], ticks[:, 1]

    def to_action(self, ask_distance: np.ndarray, bid_distance: np.ndarray, **more: Any) -> np.ndarray:
        """The action, float32 (..., 2), of so many ticks behind the touch; more than one is one."""
        ticks = np.stack([ask_distance, bid_distance], axis=-1)
        choices = np.select([np.isinf(ticks), ticks > 0, ticks == 0], [LEAVE, BEHIND, JOIN], IMPROVE)
        return choices.astype(np.float32)
