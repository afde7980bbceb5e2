"""What no signal can beat on `hidden-regime`: exact chances from the Bayesian filter.

The filter (`policies.chain.Belief`) holds the chances of the regimes given everything seen. Given a regime,
the moves of the next h steps have a known distribution; a chance under the belief is the mean of those given
each regime. It knows the market's parameters, which a network has to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mmenv.market.hidden_regime import HiddenRegime
from policies.chain import Belief, outcomes

Array = np.ndarray
Event = Callable[[Array], Array]
"""Whether a move of the mid, half-ticks, (k,), counts: bool (k,)."""


class Filter:
    """Beliefs along recorded sequences, and chances of what comes next."""

    def __init__(self, market: HiddenRegime) -> None:
        self._seen = outcomes(market)
        self._view = Belief(market, 2)
        scale = market.price_scale
        impact = round(scale * market.impact)
        side = np.sign(self._seen.buy) - np.sign(self._seen.sell)
        self._moves = (self._seen.jump * scale + side * impact).astype(np.int64)
        self._scale = scale
        self._unit = math.gcd(*(abs(int(move)) for move in self._moves)) or 1

    def beliefs(self, mid: Array, buy: Array, sell: Array, first: Array) -> Array:
        """Chances of the regimes -1, 0, +1 at each row, float64 (R, 3), sequences from `first`, (S + 1,)."""
        result = np.empty((len(mid), 3))
        lengths = np.diff(first)
        belief = np.repeat(self._view.start, len(lengths), axis=0)
        for t in range(int(lengths.max())):
            alive = np.flatnonzero(lengths > t)
            rows = first[:-1][alive] + t
            if t > 0:
                move = (mid[rows].astype(np.int64) - mid[rows - 1]) / self._scale
                outcome = self._seen.index(buy[rows], sell[rows], move)
                belief[alive] = self._view.follow(belief[alive], outcome)
            result[rows] = belief[alive]
        return result

    def direction(self, beliefs: Array, horizon: int) -> Array:
        """Chance that the mid is higher in `horizon` steps, given that it is not the same, float64 (R,)."""
        up = beliefs @ self._chances(horizon, lambda move: move > 0)
        down = beliefs @ self._chances(horizon, lambda move: move < 0)
        return up / (up + down)

    def adverse(self, beliefs: Array, horizon: int, distance: int, side: int) -> Array:
        """Chance that a fill in the next step is adverse after `horizon` steps, given it, float64 (R,).

        Our ask (`side` +1) or bid (-1), `distance` half-ticks from the mid; adverse is a mid beyond our
        price. How far an order reaches is independent of the regime, so a fill says what the order says.
        """
        filled = self._seen.buy > 0 if side > 0 else self._seen.sell > 0
        chance = beliefs @ (self._seen.chance @ filled)
        joint = beliefs @ self._chances(horizon, lambda move: side * move > distance, filled)
        return joint / chance

    def _chances(self, horizon: int, event: Event, first: Array | None = None) -> Array:
        """Chance in each regime, (3,), that the move over `horizon` steps is in `event`.

        With `first`, bool (outcomes,), jointly with the first step's outcome being one of these.
        """
        chance, transition = self._seen.chance, self._seen.transition
        units = self._moves // self._unit
        reach = int(np.abs(units).max())
        # later[z, k]: chance, from regime z on, of a move of (k - centre) units.
        later = np.ones((3, 1))
        for left in range(horizon):
            step = chance if first is None or left < horizon - 1 else chance * first
            after = transition @ later
            wider = np.zeros((3, after.shape[1] + 2 * reach))
            for k, unit in enumerate(units):
                at = reach + int(unit)
                wider[:, at : at + after.shape[1]] += step[:, k, None] * after
            later = wider
        centre = later.shape[1] // 2
        return later @ event((np.arange(later.shape[1]) - centre) * self._unit)
