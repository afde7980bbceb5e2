"""A market order beside the quotes: inventory can be shed, or taken, at once.

A third number chooses the lots of the market order, from `-taker_lots` (sell) to `taker_lots` (buy), each of
the 2 taker_lots + 1 choices by an equal part of [-1, 1]; 0 in the middle sends none. With a `taker_threshold`
the middle reaches that far and the others share the rest: a policy that explores by noise then sends few by
chance, each of which crosses a spread. `mmenv.step.taker` says how it is limited, filled and booked. The
quote that it would trade with is not made in that decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any, ClassVar, Self

import numpy as np
from numba import prange

from mmenv.actions.base import Action, Entry, Further, Taking, register
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.actions.touch import Touch
from mmenv.checks import require_number
from mmenv.engine.stage import stage

F = np.float32
I = np.int32  # noqa: E741

CHOICES = np.dtype(
    [
        ("most", "i4"),
        ("threshold", "f4"),  # 0: equal parts
        ("middle", "f4"),  # where the equal part in the middle ends
        ("stretch", "f4"),  # of what is beyond the threshold, to what is beyond that
    ]
)


@stage(CHOICES)
def take(s, w, p, x):
    """The market order from the third number; none, and no quotes, where it is not finite."""
    most, threshold, middle, stretch = w.most, w.threshold, w.middle, w.stretch
    half = F(2 * most + 1) * F(0.5)
    for i in prange(s.count):
        a2 = s.action[2, i]
        finite = (abs(a2) < F(np.inf)) & (abs(s.action[0, i]) < F(np.inf)) & (abs(s.action[1, i]) < F(np.inf))
        a2 = min(max(a2, F(-1)), F(1)) if finite else F(0)
        if threshold > F(0):
            beyond = max(abs(a2) - threshold, F(0)) * stretch
            a2 = math.copysign(middle + beyond, a2) if beyond > F(0) else F(0)
        s.taker_lots[i] = min(I((a2 + F(1)) * half), I(2 * most)) - most
        s.ask_lots[i] = s.ask_lots[i] if finite else I(0)
        s.bid_lots[i] = s.bid_lots[i] if finite else I(0)


MARKET_ORDER = Entry(
    "market_order", "market order, lots", "sell `quote.taker_lots`", "buy `quote.taker_lots`"
)


@dataclass(frozen=True, kw_only=True)
class MarketOrders(Action):
    """What an action of two numbers, `quotes`, becomes with a third one for a market order."""

    quotes: ClassVar[type[Action]]

    taker_lots: int = 1
    """The most lots of a market order."""
    taker_threshold: float | None = None
    """What the size of the third number has to pass for a market order; None: as its part is equal."""
    half_spread: float = 0.5
    """What a market order pays from the mid where the market has no book, price units."""
    taker_fee_bp: float = 0.0
    """Fee on fills of market orders, basis points of notional in hundredths."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "taker_lots", 1, 1_000_000, integer=True)
        if self.taker_threshold is not None:
            require_number(self, "taker_threshold", 0.01, 0.99)
        require_number(self, "half_spread", 0.0, 1e4)
        require_number(self, "taker_fee_bp", -100.0, 100.0)

    @property
    def _choices(self) -> np.ndarray:
        """CHOICES (1,)."""
        threshold, middle = self.taker_threshold or 0.0, 1 / (2 * self.taker_lots + 1)
        return np.array([(self.taker_lots, threshold, middle, (1 - middle) / (1 - threshold))], CHOICES)

    @property
    def taking(self) -> Taking:
        return Taking(self.half_spread, self.taker_fee_bp, self.taker_lots)

    def alone(self) -> Action:
        """The same action without market orders."""
        return self.quotes(**{each.name: getattr(self, each.name) for each in fields(self.quotes)})

    def in_new_lots(self, factor: Decimal) -> Self:
        if factor == 1:
            return self
        # More choices are narrower: none is sent where none was before.
        before = self.taker_threshold or max(1 / (2 * self.taker_lots + 1), 0.01)
        return replace(self, taker_lots=int(self.taker_lots * factor), taker_threshold=before)

    def further(self, price_scale: int, on_ticks: bool, blocks: int) -> Further:
        return Further([(take, self._choices)], [])

    def quoted(self, actions: np.ndarray, order_lots: int) -> np.ndarray:
        lots = self.to_lots(np.nan_to_num(actions))
        return super().quoted(actions, order_lots) & np.stack([lots <= 0, lots >= 0])

    def to_action(
        self, ask_distance: np.ndarray, bid_distance: np.ndarray, lots: np.ndarray | int = 0, **more: Any
    ) -> np.ndarray:
        """The action, float32 (..., 3), of these quotes and a market order of `lots`, above 0 to buy; more
        than `taker_lots` are cut to it."""
        quotes = super().to_action(ask_distance, bid_distance, **more)  # type: ignore[safe-super]
        asked = np.broadcast_to(np.asarray(lots), quotes.shape[:-1])
        cut = np.clip(asked, -self.taker_lots, self.taker_lots) * 2 / (2 * self.taker_lots + 1)
        if self.taker_threshold is not None:
            c = self._choices[0]
            cut = np.sign(cut) * (c["threshold"] + (abs(cut) - c["middle"]) / c["stretch"]) * (cut != 0)
        return np.concatenate([quotes, cut[..., None].astype(np.float32)], axis=-1)

    def to_lots(self, actions: np.ndarray) -> np.ndarray:
        """Lots of the market orders that actions, (n, A), ask for, above 0 to buy: int64 (n,)."""
        choices, asked = 2 * self.taker_lots + 1, np.clip(actions[:, 2], -1, 1).astype(np.float32)
        if self.taker_threshold is not None:
            c = self._choices[0]
            beyond = np.maximum(abs(asked) - c["threshold"], np.float32(0)) * c["stretch"]
            asked = np.sign(asked) * (c["middle"] + beyond) * (beyond > 0)
        chosen = (asked + np.float32(1)) * np.float32(choices / 2)
        return np.minimum(chosen.astype(np.int64), choices - 1) - self.taker_lots


@register
@dataclass(frozen=True, kw_only=True)
class Taker(MarketOrders, SpreadSkew):
    """`SpreadSkew` and a market order of up to `taker_lots` lots; see `mmenv.actions.taker`."""

    name = "taker"
    quotes = SpreadSkew
    entries = (*SpreadSkew.entries, MARKET_ORDER)


@register
@dataclass(frozen=True, kw_only=True)
class TouchTaker(MarketOrders, Touch):
    """`Touch` and a market order of up to `taker_lots` lots; see `mmenv.actions.taker`."""

    name = "touch-taker"
    quotes = Touch
    entries = (*Touch.entries, MARKET_ORDER)

    taker_threshold: float | None = 0.95
    """Never None: where a tick is large, market orders by chance cost more than quotes earn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "taker_threshold", 0.01, 0.99)
