"""Rules of thumb as tables: at the touch, at a distance from it or from the mid, GLFT on ticks, by imbalance.

Every family is searched on training paths; the searched grids reach well beyond where the best was found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from policies.book.orders import AT, BEHIND, INSIDE, LEAVE, LEVELS, PLACES, TOUCH
from policies.book.paths import Paths
from policies.book.play import play, value

BINS = 80
"""Bins of the imbalance, from -1 to 1."""
EDGE = 1e-5
"""Of a bin: so that an imbalance between two falls into the same one in float32."""
MIDDLES = (np.arange(BINS) + 0.5) * 2 / BINS - 1


class Look(NamedTuple):
    """What a quoter sees of the others at a decision; arrays of any one shape."""

    ask: np.ndarray
    """Best prices, ticks from anywhere."""
    bid: np.ndarray
    ask_queue: np.ndarray
    bid_queue: np.ndarray
    flow: np.ndarray
    """Lots bought less lots sold by market orders since the last decision, as the observation shows them."""

    @property
    def imbalance(self) -> np.ndarray:
        """(bid - ask) / (bid + ask) queue."""
        return (self.bid_queue - self.ask_queue) / (self.bid_queue + self.ask_queue)


MOST_VOLUME = 10
"""Typical lots of a decision above which the observation clips the volume."""


def look(paths: Paths) -> Look:
    """What is seen at every decision of the paths, (paths, horizon + 1)."""
    at, market = paths.decisions, paths.market
    parts = (len(at), paths.config.horizon, market.substeps)
    buy, sell = (paths.rows[side][:, :-1].reshape(parts).sum(axis=2) for side in ("buy", "sell"))
    shown = np.minimum(1.0, MOST_VOLUME * market.lot_scale / np.maximum(buy + sell, 1))
    flow = np.zeros(at.shape)
    flow[:, 1:] = (buy - sell) * shown
    return Look(at["ask"], at["bid"], at["ask_queue"].astype(float), at["bid_queue"].astype(float), flow)


def both_sides(index: Callable[[int], Any]) -> np.ndarray:
    """index(1) of the ask and index(-1) of the bid, int16 (..., 2)."""
    return np.ascontiguousarray(np.stack([index(1), index(-1)], axis=-1).astype(np.int16))


def imbalance_index(imbalance: np.ndarray) -> np.ndarray:
    """The bin of the imbalance as each side sees it: high where the price is likely to come for its order."""
    return both_sides(lambda side: np.clip((side * imbalance + 1) * BINS / 2 + EDGE, 0, BINS - 1))


def constant(distance: float, skew: float = 0.0) -> np.ndarray:
    """`distance` ticks behind the touch, a lot of position brings the side that sheds it `skew` ticks nearer.

    Rounded outward; not nearer than the touch, except that a distance of -1 without skew goes before it where
    there is room. With a skew this is the rule of Guéant, Lehalle and Fernandez-Tapia on ticks.
    """
    table = np.zeros((BINS, PLACES, 2 * LEVELS + 1), np.uint8)
    for level in range(-LEVELS, LEVELS + 1):
        behind = max(int(np.ceil(distance - skew * level - 1e-9)), 0)
        choice = BEHIND + min(behind, 9) if behind else TOUCH
        table[:, :, level + LEVELS] = INSIDE if distance == -1 and skew == 0 else choice
    return table


def fixed(distance: float) -> np.ndarray:
    """`distance` half-ticks from the mid, rounded outward, whatever the spread."""
    return np.full((BINS, PLACES, 2 * LEVELS + 1), AT + int(distance), np.uint8)


def by_imbalance(leave: float, rejoin: float, skew: float) -> np.ndarray:
    """At the touch; left where the imbalance stands against the side by more than `leave`, joined again below
    `rejoin`; a lot of position raises both by `skew` for the side that sheds it."""
    table = np.zeros((BINS, PLACES, 2 * LEVELS + 1), np.uint8)
    for level in range(-LEVELS, LEVELS + 1):
        shift = skew * level
        table[:, :, level + LEVELS] = np.where(leave + shift > MIDDLES, TOUCH, LEAVE)[:, None]
        table[:, 0, level + LEVELS] = np.where(rejoin + shift > MIDDLES, TOUCH, LEAVE)
    return table


@dataclass(frozen=True)
class Family:
    """Rules with some parameters, and the grid that is searched."""

    make: Callable[..., np.ndarray]
    grid: tuple[tuple[float, ...], ...]

    def members(self) -> Iterable[tuple[float, ...]]:
        return itertools.product(*self.grid)


FAMILIES = {
    "touch": Family(constant, ((0.0,),)),
    "constant": Family(constant, ((-1.0, 1.0, 2.0, 3.0),)),
    "fixed-spread": Family(fixed, ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 48.0, 96.0),)),
    "glft": Family(
        constant,
        ((-9.0, -6.0, -4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0), (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)),
    ),
    "imbalance-rule": Family(
        lambda leave, gap, skew: by_imbalance(leave, leave - gap, skew),
        (
            (-0.2, 0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0),
            (0.0, 0.1, 0.2, 0.4, 0.7, 1.0),
            (0.0, 0.03, 0.06, 0.1, 0.15, 0.25),
        ),
    ),
}
"""What is searched, by name: the parameters are (distance), of `fixed-spread` in half-ticks, (distance, skew)
and (leave, leave - rejoin, skew)."""


def search(name: str, paths: Paths, note: Callable[[], Any] = lambda: None) -> tuple[float, ...]:
    """The parameters of a family that earn most on the paths: all on a quarter of them, the best tenth on
    all."""
    family = FAMILIES[name]
    members = list(family.members())
    quarter = Paths(paths.config, paths.seeds[::4], paths.rows[::4])
    for tried in (quarter, paths):
        index = imbalance_index(look(tried).imbalance)
        earned = []
        for member in members:
            earned.append(value(tried, play(tried, index, family.make(*member), 1.0)).mean())
            note()
        order = np.argsort(earned)[::-1]
        members = [members[k] for k in order[: max(len(members) // 10, 1)]]
    return members[0]
