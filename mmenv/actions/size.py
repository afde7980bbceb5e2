"""Spread and skew, and the lots of either side: how much to quote, not only where.

A third and a fourth number choose the lots of ask and bid, from none at -1 to `risk.order_lots` at +1,
rounded to whole lots; a side of 0 lots is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange

from mmenv.actions.base import Entry, Further, register
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.engine.stage import inlined, stage
from mmenv.engine.state import EMPTY

F = np.float32
I = np.int32  # noqa: E741


@inlined
def share(number, lots):
    """The lots that a number in [-1, 1] stands for, of at most `lots`."""
    return I((min(max(number, F(-1)), F(1)) + F(1)) * F(0.5) * F(lots) + F(0.5))


@stage()
def resize(s, w, p, x):
    """Lots from the last two numbers; none where one is not finite, or where a side is left already."""
    order_lots = p.order_lots
    for i in prange(s.count):
        a2, a3 = s.action[2, i], s.action[3, i]
        finite = (abs(a2) < F(np.inf)) & (abs(a3) < F(np.inf))
        a2, a3 = a2 if finite else F(-1), a3 if finite else F(-1)
        ask, bid = share(a2, order_lots), share(a3, order_lots)
        s.ask_lots[i] = ask if s.ask_lots[i] > 0 else I(0)
        s.bid_lots[i] = bid if s.bid_lots[i] > 0 else I(0)


@register
@dataclass(frozen=True, kw_only=True)
class Size(SpreadSkew):
    """`SpreadSkew` with the lots of either side; see `mmenv.actions.size`."""

    name = "size"
    entries = (
        *SpreadSkew.entries,
        Entry("ask_size", "lots of the ask", "0", "`risk.order_lots`"),
        Entry("bid_size", "lots of the bid", "0", "`risk.order_lots`"),
    )

    @property
    def leaves(self) -> bool:
        return True

    def further(self, price_scale: int, on_ticks: bool, blocks: int) -> Further:
        return Further([(resize, np.zeros(1, EMPTY))], [])

    def quoted(self, actions: np.ndarray, order_lots: int) -> np.ndarray:
        lots = np.stack(self.to_shares(np.nan_to_num(actions))) * order_lots
        return super().quoted(actions, order_lots) & (lots >= 0.5)

    def to_action(
        self,
        ask_distance: np.ndarray,
        bid_distance: np.ndarray,
        ask_share: np.ndarray | float = 1.0,
        bid_share: np.ndarray | float = 1.0,
        **more: Any,
    ) -> np.ndarray:
        """The action, float32 (..., 4), of these quotes (see `SpreadSkew.to_action`) with shares, from 0 to
        1, of the order size; all of it by default, none of a side whose distance is infinite."""
        quotes = super().to_action(ask_distance, bid_distance, **more)
        sides = (ask_distance, ask_share), (bid_distance, bid_share)
        lots = [np.where(np.isinf(d), 0.0, np.clip(part, 0.0, 1.0)) * 2 - 1 for d, part in sides]
        shares = [np.broadcast_to(side, quotes.shape[:-1]).astype(np.float32) for side in lots]
        return np.concatenate([quotes, np.stack(shares, axis=-1)], axis=-1)

    def to_shares(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the order size that actions, (n, A), ask for, ask and bid, before rounding: (n,) each."""
        ask, bid = (np.clip(actions[:, column], -1, 1) / 2 + 0.5 for column in (2, 3))
        return ask, bid
