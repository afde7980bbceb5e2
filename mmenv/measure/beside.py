"""A simulated large-tick market beside a tape: what is asked of it, and whether it is there.

Moments are asked to lie near the tape's; fills and mark-outs of a lot that rests at the touch, or a tick
behind it, in the tape's 95% interval by moving blocks of its time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mmenv.measure import large_tick, touch
from mmenv.measure.intervals import Estimate
from mmenv.measure.record import Record

BEHIND = 3
"""Half-ticks from the mid at which a quote rests one tick behind a touch that is a tick wide."""

SHARES = {"spread": 0.03, "auc, 1 s": 0.03, "auc, 5 s": 0.03}
"""Moments of `large_tick.moments` that may differ by so much."""

PARTS = {"volume": 0.03, "queue": 0.15, "move, 1 s": 0.1, "move, 10 s": 0.1}
"""Those that may differ by this part of the tape's."""

NAMES = {
    "spread": "time with a spread of one tick",
    "auc, 1 s": "AUC of the imbalance, 1 s",
    "auc, 5 s": "AUC of the imbalance, 5 s",
    "volume": "volume, lots a second",
    "queue": "mean queue, lots",
    "move, 1 s": "move over 1 s, ticks",
    "move, 10 s": "move over 10 s, ticks",
}
"""What these moments are called on the page."""


@dataclass(frozen=True)
class Quoted:
    """A market as two desks saw it: one quoted at the touch, one `BEHIND` half-ticks from the mid."""

    at: Record
    behind: Record


@dataclass(frozen=True)
class Asked:
    """One thing asked of a simulated market: the tape's value, and where the other is to lie."""

    name: str
    tape: float
    low: float
    """NaN, as `high`, where the tape is too short for an interval."""
    high: float
    value: float

    @property
    def verdict(self) -> str:
        """`yes`, `no`, or "-" where it is not known."""
        if math.isnan(self.value + self.low + self.high):
            return "-"
        return "yes" if self.low <= self.value <= self.high else "no"


def compare(tape: Quoted, market: Quoted, lot: float = 1.0) -> list[Asked]:
    """Everything that is asked of `market` beside `tape`; a lot of the market is `lot` lots of the tape."""
    wanted, found = large_tick.moments(tape.at), large_tick.moments(market.at)
    asked = []
    for key, allowed in {**SHARES, **PARTS}.items():
        unit = 1 / lot if key in large_tick.LOTS else 1.0
        value = wanted[key] * unit
        width = allowed if key in SHARES else allowed * value
        asked.append(Asked(NAMES[key], value, value - width, value + width, found[key]))
    return [*asked, *followed(tape, market)]


def followed(tape: Quoted, market: Quoted) -> Iterator[Asked]:
    """Fills a minute and mark-outs of a lot at the touch, one that waited there, and one a tick behind."""
    for where, number, of in (
        ("at the touch", 0, "at"),
        ("that waited there", -1, "at"),
        ("a tick behind", 0, "behind"),
    ):
        wanted, found = (touch.fills(getattr(each, of))[number] for each in (tape, market))
        yield Asked(f"fills a minute of a lot {where}", *wanted.rate, found.rate.value)
        for horizon, estimate in wanted.after.items():
            name = f"its mark-out after {horizon:g} s, half-ticks"
            yield Asked(name, *estimate, found.after.get(horizon, Estimate(math.nan)).value)
