"""Every order that a desk quotes where its action has several a side, for those who show or keep them.

The core has one order a side: the nearest, with the lots of all. What stands behind it is in the record of
the action (`mmenv.actions.base.Further.levels`), and where our orders wait in queues in that of the market:
`book` has one of its own, a market outside that of `mmenv.step.levels`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.actions.ladder import between
from mmenv.desk.desk import Desk
from mmenv.engine.state import LANES
from mmenv.step.levels import AHEAD, LEFT

ASK, BID = 0, 1
"""The sides, in the order of `QuotedLevels.read`."""

DISTANCE, LOTS, PLACE = range(3)
"""Fields of an order there."""

NO_PLACE: Final = -1


class QuotedLevels:
    """Reads the orders that the last decision of a desk asked for, one by one."""

    def __init__(self, desk: Desk) -> None:
        """Raises `ValueError` for a desk whose action has one order a side: its core says it all."""
        record = desk.stages.ladder
        if record is None:
            raise ValueError(f"action {desk.config.quote.name!r} has one order a side: it is in the core.")
        self._core, self._record = desk.core, record
        self._orders = None if desk.stages.levels is None else desk.stages.levels[1]
        none, standing = np.zeros((0, *record["ask_distance"].shape), np.int32), desk.stages.standing
        self._standing = (
            (none, none, none)
            if standing is None
            else (standing["price"], standing["lots"], standing["ahead"])
        )
        self.orders = np.zeros((desk.n, 2, desk.config.quote.side_orders, 3), np.int32)
        """What `read` gives."""

    def read(self) -> NDArray[np.int32]:
        """The orders of each environment after a step, int32 (n, 2, levels, 3): side, asks first; order, the
        nearest first; distance from the mid at the decision in half-ticks, lots, and lots ahead of it by now
        (`NO_PLACE`: not known, or nothing of it stands). What is left over has no lots. Overwritten by the
        next call.

        Levels at one price are one order. Of a market outside this is what was sent, in its own ticks.
        """
        if self._orders is not None:
            _read_outside(self._core, self._orders["asked"], self._orders["orders"], self.orders)
        else:
            distances = self._record["ask_distance"], self._record["bid_distance"]
            _read_simulated(self._core, distances, self._record["before"], self._standing, self.orders)
        return self.orders


@njit(cache=True)
def _read_outside(core, asked, orders, found):
    for lane in range(len(found)):
        block, i = lane // LANES, lane % LANES
        decided = core[block].mid[i] - core[block].move[i]
        for side in range(2):
            direction = 1 if side == ASK else -1
            for k in range(found.shape[2]):
                order, lots = found[lane, side, k], asked[block, 1, side, k, i]
                order[DISTANCE] = direction * (asked[block, 0, side, k, i] - decided) if lots > 0 else 0
                order[LOTS] = lots
                stands = lots > 0 and orders[block, LEFT, side, k, i] > 0
                order[PLACE] = orders[block, AHEAD, side, k, i] if stands else NO_PLACE


@njit(cache=True)
def _read_simulated(core, distances, before, standing, found):
    price, left, ahead = standing
    for lane in range(len(found)):
        block, i = lane // LANES, lane % LANES
        s = core[block]
        decided = s.mid[i] - s.move[i]
        for side in range(2):
            distance, quoted = distances[side], s.ask_lots[i] if side == ASK else s.bid_lots[i]
            count, orders = 0, found[lane, side]
            orders[:, DISTANCE], orders[:, LOTS], orders[:, PLACE] = 0, 0, NO_PLACE
            for k in range(len(orders)):
                lots = between(before[block, k, i], before[block, k + 1, i], quoted)
                if lots == 0:
                    continue
                if count == 0 or orders[count - 1, DISTANCE] != distance[block, k, i]:
                    count += 1
                orders[count - 1, DISTANCE] = distance[block, k, i]
                orders[count - 1, LOTS] += lots
            if len(price) == 0:
                continue
            direction = 1 if side == ASK else -1
            for k in range(count):
                on_tick = (decided + direction * orders[k, DISTANCE]) >> 1 << 1
                for j in range(len(orders)):
                    if left[block, side, j, i] > 0 and price[block, side, j, i] == on_tick:
                        orders[k, PLACE] = ahead[block, side, j, i]
