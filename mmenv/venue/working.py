"""Our working orders, and the one rule that keeps, cancels or sends them.

Paper and live desks share it, and `mmenv.venue.hft` follows it: a quote whose price and lots are those of
an order of its side, or whose lots are what is left of it, keeps that order and its place in the queue. An
order that no quote asks for is cancelled, as soon as the exchange has acknowledged it, and for a quote
without one a new order is sent at once unless the fills of all that may still be open could take the position
past its limit. Of several quotes a side, the nearest have what room there is.

A market order follows the quotes of its decision, cut to what the limit leaves beside all that may still be
open. It is not sent where it could meet an order of ours whose cancel is not on its way before it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import BUY, SELL
from mmenv.venue.outcome import ASK, BID

SLOT: Final = np.dtype(
    [
        ("id", "i8"),  # 0: free
        ("tick", "i8"),
        ("lots", "i8"),
        ("filled", "i8"),  # lots that we know to be filled
        ("unwanted", "i8"),
        ("cancelled", "i8"),  # the cancel is on its way or has arrived
        ("acknowledged", "i8"),
        ("arrives_ns", "i8"),  # when the order reaches a simulated exchange; 0: it has
        ("cancel_ns", "i8"),  # when its cancel does
        ("market", "i8"),  # a market order, which is neither kept nor cancelled
    ]
)
"""An order of ours as we know it."""

COMMAND: Final = np.dtype(
    [("time_ns", "<i8"), ("id", "<i8"), ("side", "<i8"), ("tick", "<i8"), ("lots", "<i8")]
)
"""An order to send, or with lots 0 one to cancel; `time_ns` is local."""

FILL: Final = np.dtype([("time_ns", "<i8"), ("id", "<i8"), ("side", "<i8"), ("tick", "<i8"), ("lots", "<i8")])
"""Lots of an order of ours that filled at its tick; `time_ns` is the exchange's."""


def slots(trips: int, takes: bool, levels: int = 1) -> int:
    """How many orders a side may have open at once, those being cancelled included, where a round trip takes
    so many decisions and each quotes so many `levels`; with `takes` also market orders, one a decision."""
    return levels * (3 + 2 * trips) + (1 + trips if takes else 0)


class Working:
    """The working orders of one symbol.

    Parameters
    ----------
    slots
        How many orders a side may have open at once, those being cancelled included.
    position_limit
        No combination of fills can take the position past so many lots.
    position
        Lots held at the start.
    next_id
        Number of the first order.
    """

    def __init__(self, slots: int, position_limit: int, position: int = 0, next_id: int = 1) -> None:
        self.slots = np.zeros((2, slots), SLOT)
        """SLOT (2, slots): asks, then bids."""
        self.position_limit = position_limit
        self.position, self.next_id = position, next_id
        self._commands = np.zeros(4 * slots, COMMAND)  # every order cancelled, and as many sent

    def requote(self, quotes: NDArray[np.int64], time_ns: int) -> NDArray[np.void]:
        """What to send so that `quotes` stand (tick and lots of each ask, then of each bid, the nearest
        first), as COMMAND [k], cancels first on each side."""
        count, self.next_id = _requote(
            self.slots, quotes, self.position, self.position_limit, self.next_id, time_ns, self._commands
        )
        return self._commands[:count].copy()

    def take(self, tick: int, lots: int, time_ns: int) -> NDArray[np.void]:
        """What to send for a market order of so many lots, above 0 to buy, that pays `tick` at worst, as
        COMMAND [k]; after `requote`."""
        count, self.next_id = _take(
            self.slots, tick, lots, self.position, self.position_limit, self.next_id, time_ns, self._commands
        )
        return self._commands[:count].copy()

    def find(self, number: int) -> np.void | None:
        """The slot of an order, to be written to, or None if it is not open as far as we know."""
        if number < 1:
            return None
        found = np.argwhere(self.slots["id"] == number)
        return self.slots[tuple(found[0])] if len(found) else None

    def open_lots(self) -> NDArray[np.int64]:
        """Lots that could still fill of all our orders, int64 (2,): asks, then bids."""
        left = np.where(self.slots["id"] > 0, self.slots["lots"] - self.slots["filled"], 0)
        return left.sum(axis=1)


@njit(inline="always")  # else numba warns that one caller's kind of order begins like the other's
def stands_for(order, tick, lots):
    """Whether an order is what this quote asks for: its price, and its lots or what is left of them."""
    return lots > 0 and order.tick == tick and (lots == order.lots or lots == order.lots - order.filled)


@njit(inline="always")
def level_of(order, asked, kept):
    """Which of the quotes of a side, (tick, lots) one after another, an order is wanted for: the first that
    is not in the set of bits `kept`, -1 where there is none."""
    if order.unwanted == 0:
        for level in range(len(asked) // 2):
            if not kept >> level & 1 and stands_for(order, asked[2 * level], asked[2 * level + 1]):
                return level
    return -1


@njit(inline="always")
def next_free(orders, before):
    """The last free place of those `before` one, -1 where there is none."""
    place = before - 1
    while place >= 0 and orders[place].id != 0:
        place -= 1
    return place


@njit(cache=True)
def _requote(slots, quotes, position, limit, next_id, time_ns, commands):
    count, half = 0, len(quotes) // 2
    for side in (ASK, BID):
        asked = quotes[half * side : half * (side + 1)]
        kept, open_lots = 0, 0
        for place in range(slots.shape[1]):
            slot = slots[side, place]
            if slot.id == 0:
                continue
            open_lots += slot.lots - slot.filled
            level = level_of(slot, asked, kept)
            if level >= 0:
                kept |= 1 << level
            else:
                slot.unwanted = 1
            if slot.unwanted != 0 and slot.cancelled == 0 and slot.acknowledged != 0:
                slot.cancelled = 1
                _command(commands, count, time_ns, slot.id, side, slot.tick, 0)
                count += 1
        held, free = position if side == BID else -position, slots.shape[1]
        for level in range(half // 2):
            tick, lots = asked[2 * level], asked[2 * level + 1]
            if kept >> level & 1 or lots == 0 or held + open_lots + lots > limit:
                continue
            free = next_free(slots[side], free)
            if free < 0:
                break
            slot = slots[side, free]
            slot.id, slot.tick, slot.lots = next_id, tick, lots
            slot.filled = slot.unwanted = slot.cancelled = slot.acknowledged = 0
            slot.arrives_ns = slot.cancel_ns = slot.market = 0
            _command(commands, count, time_ns, next_id, side, tick, lots)
            open_lots += lots
            count += 1
            next_id += 1
    return count, next_id


@njit(inline="always")
def room_to_take(orders, position, limit, tick, lots):
    """Side and free slot of a market order among our `orders` (2, slots), and the lots that it may have: 0
    where it cannot be sent."""
    side = BID if lots > 0 else ASK
    direction = 1 if lots > 0 else -1
    free, room = -1, limit - direction * position
    for place in range(orders.shape[1]):
        order, other = orders[side, place], orders[1 - side, place]
        if order.id == 0:
            free = place
        else:
            room -= order.lots - order.filled
        if other.id != 0 and other.cancelled == 0 and (tick - other.tick) * direction >= 0:
            room = 0
    allowed = min(abs(lots), max(room, 0)) if free >= 0 else 0
    return side, free, allowed


@njit(cache=True)
def _take(slots, tick, asked, position, limit, next_id, time_ns, commands):
    side, free, lots = room_to_take(slots, position, limit, tick, asked)
    if lots == 0:
        return 0, next_id
    slot = slots[side, free]
    slot.id, slot.tick, slot.lots, slot.market = next_id, tick, lots, 1
    slot.unwanted = slot.cancelled = 1
    slot.filled = slot.acknowledged = slot.arrives_ns = slot.cancel_ns = 0
    _command(commands, 0, time_ns, next_id, side, tick, lots)
    return 1, next_id + 1


@njit(cache=True)
def _command(commands, at, time_ns, number, side, tick, lots):
    commands[at].time_ns, commands[at].id = time_ns, number
    commands[at].side = SELL if side == ASK else BUY
    commands[at].tick, commands[at].lots = tick, lots
