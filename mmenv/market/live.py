"""`live`: a market that happens now. A session (`mmenv.live.session`) feeds it; no environment can be reset
to it, so it only says what the desk must know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmenv.checks import ConfigError, require, require_number
from mmenv.market.base import Market, register
from mmenv.market.outside import (
    begin,
    give_outcomes,
    give_taken,
    take_levels,
    take_market_orders,
    take_quotes,
)
from mmenv.venue.outcome import OUTCOME, TAKEN

ONE = np.ones(1, np.int64)
"""Of the desk's ticks are the venue's."""


@register
@dataclass(frozen=True, kw_only=True)
class Live(Market):
    """One symbol at a venue, live or paper."""

    name = "live"
    on_ticks = True
    takes_levels = True

    step_seconds: float = 0.1
    venue: str = ""
    symbol: str = ""
    price_unit: int = 1
    """Half-ticks in a price unit: the standard deviation of the mid's move between two decisions."""
    lot_unit: float = 1.0
    """Lots in a volume unit: the mean volume between two decisions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("venue", "symbol"):
            require(bool(getattr(self, name)), "Live", name, getattr(self, name), "named")
        require_number(self, "price_unit", 1, 1_000_000_000, integer=True)
        require_number(self, "lot_unit", 1e-9, 1e12)

    @property
    def price_scale(self) -> int:
        return self.price_unit

    @property
    def lot_scale(self) -> float:
        return self.lot_unit

    def attach(self, n: int, horizon: int, position_limit: int) -> Live.Link:
        if n != 1:
            raise ConfigError(f"a live market has one desk, not {n}; see `neuralmm paper`.")
        return Live.Link()

    class Link:
        """Carries quotes out of a desk and outcomes into it, both given by the session."""

        def __init__(self) -> None:
            self.outcomes: NDArray[np.void] = np.zeros(1, OUTCOME)
            """OUTCOME (1,): what the desk learns next."""
            self.taken: NDArray[np.void] = np.zeros(1, TAKEN)
            """TAKEN (1,): of market orders, beside it."""
            self.window = np.zeros((1, 2), np.int64)
            self._quotes = np.zeros((1, 4), np.int64)
            self._levels: tuple[np.ndarray, np.ndarray] | None = None
            self._takers = np.zeros((0, 2), np.int64)

        def reset(self, core: np.ndarray, lanes: np.ndarray) -> None:
            begin(core, 0, self.outcomes[0])

        def advance(self, core: np.ndarray) -> None:
            raise ConfigError("a live market moves by itself; drive it with mmenv.live.session.Session.")

        def quotes(self, core: np.ndarray) -> NDArray[np.int64]:
            """Tick and lots of each ask, then of each bid, the nearest first, int64 (4 x orders a side,), by
            the decision of the desk."""
            if self._levels is None:
                take_quotes(core, self.window, self._quotes)
            else:
                take_levels(core, *self._levels, self.window, ONE, self._quotes)
            return self._quotes[0].copy()

        def market_order(self, core: np.ndarray) -> tuple[int, int]:
            """Worst tick, and lots above 0 to buy, of the market order that the desk decided on."""
            if not len(self._takers):
                return 0, 0
            take_market_orders(core, self._takers)
            return int(self._takers[0, 0]), int(self._takers[0, 1])

        def answer(self, core: np.ndarray) -> None:
            """Hand `outcomes` and `taken` to the desk whose core this is."""
            give_outcomes(core, self.outcomes)
            if len(self._takers):
                give_taken(core, self.taken)

        def take_market_orders(self) -> None:
            self._takers = np.zeros((1, 2), np.int64)

        def take_levels(self, levels: np.ndarray, orders: np.ndarray) -> None:
            self._levels = levels, orders
            self._quotes = np.zeros((1, 4 * int(orders["most"][0])), np.int64)

        def close(self) -> None:
            pass
