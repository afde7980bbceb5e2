"""`live`: a market that happens now. A session (`mmenv.live.session`) feeds it; no environment can be reset
to it, so it only says what the desk must know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmenv.config import ConfigError, EnvConfig, Market, require, require_number
from mmenv.market import register
from mmenv.market.replay import begin, give_events, take_quotes

if TYPE_CHECKING:
    from mmenv.desk import Desk


@register
@dataclass(frozen=True, kw_only=True)
class Live(Market):
    """One symbol at a venue, live or paper."""

    name = "live"

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

    def attach(self, config: EnvConfig, n: int) -> Live.Link:
        if n != 1:
            raise ConfigError(f"a live market has one desk, not {n}; see `neuralmm paper`.")
        return Live.Link()

    class Link:
        """Carries quotes out of a desk and events into it, both given by the session."""

        def __init__(self) -> None:
            self.event = np.zeros((1, 20), np.int64)
            """Row of `mmenv.venue.replay.EVENT_FIELDS`: what the desk learns next."""
            self.window = np.zeros((1, 2), np.int64)
            self._quotes = np.zeros((1, 4), np.int64)

        def reset(self, desk: Desk, lanes: np.ndarray) -> None:
            begin(desk.core, 0, self.event[0])

        def advance(self, desk: Desk) -> None:
            raise ConfigError("a live market moves by itself; drive it with mmenv.live.session.Session.")

        def quotes(self, desk: Desk) -> NDArray[np.int64]:
            """Ask tick, lots, bid tick, lots, int64 (4,), that the desk decided on."""
            take_quotes(desk.core, self.window, self._quotes)
            return self._quotes[0].copy()

        def answer(self, desk: Desk) -> None:
            """Hand `event` to the desk."""
            give_events(desk.core, self.event)

        def close(self) -> None:
            pass
