"""What can be seen of one step of the market `hidden-regime`, and how likely it is in each regime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.market.hidden_regime import HiddenRegime
from policies.solver.problem import solved_market

Array = np.ndarray

REGIMES = np.array([-1, 0, 1])


@dataclass(frozen=True)
class Outcomes:
    """The 27 things that can be seen of one step of `hidden-regime`, and their chances in each regime."""

    buy: Array
    """Lots of buy market orders, int (27,): 0, 1 or 2."""
    sell: Array
    jump: Array
    """Move of the mid besides its impact part, int (27,): -1, 0 or 1."""
    move: Array
    """Move of the mid, price units, float (27,)."""
    chance: Array
    """Given the regime, float (3, 27): rows -1, 0, +1."""
    transition: Array
    """Regime to next regime, float (3, 3)."""
    stationary: Array
    """Distribution of the first regime, float (3,)."""
    impact: float
    """Move of the mid with a buy."""

    @property
    def order_class(self) -> Array:
        return (self.buy > 0) + 2 * (self.sell > 0)

    def index(self, buy: Array, sell: Array, move: Array) -> Array:
        """Which outcome was seen, int (n,), from lots bought and sold and the move of the mid."""
        jump = np.rint(move - self.impact * (np.sign(buy) - np.sign(sell)))
        buy, sell, jump = np.clip(buy, 0, 2), np.clip(sell, 0, 2), np.clip(jump, -1, 1)
        return ((buy * 3 + sell) * 3 + jump + 1).astype(np.int64)


def outcomes(market: HiddenRegime) -> Outcomes:
    """The outcomes of one step, as the market's definition gives them."""
    market = solved_market(market, (HiddenRegime,))
    buy, sell, jump = (axis.ravel() for axis in np.meshgrid([0, 1, 2], [0, 1, 2], [-1, 0, 1], indexing="ij"))

    def lots_chance(lots: Array, toward: Array) -> Array:
        """P(lots | regime): the orders of one side, which is the informed one where `toward` is +1."""
        arrives = market.arrival + toward * market.tilt
        large = np.where(toward > 0, market.large_informed, market.large)
        return np.stack([1 - arrives, arrives * (1 - large), arrives * large])[lots]

    chance = np.empty((3, 27))
    for row, regime in enumerate(REGIMES):
        up, down = (market.jump * (1 + side * regime * market.drift) for side in (1, -1))
        moves = np.array([down, 1 - up - down, up])[jump + 1]
        chance[row] = lots_chance(buy, regime) * lots_chance(sell, -regime) * moves
    leave = 1 / market.mean_stay
    transition = np.array(
        [[1 - leave, leave, 0.0], [leave / 2, 1 - leave, leave / 2], [0.0, leave, 1 - leave]]
    )
    move = jump + market.impact * (np.sign(buy) - np.sign(sell))
    return Outcomes(buy, sell, jump, move, chance, transition, np.array([0.25, 0.5, 0.25]), market.impact)
