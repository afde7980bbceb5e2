"""Price and volume units of recorded markets, and one desk's common ones for symbols of different units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmenv.checks import ConfigError

Symbol = tuple[str, str]
"""Venue and symbol."""


class Multiples(NamedTuple):
    """How many of the desk's integers are one of a tape's."""

    price: int
    """Multiple of a half-tick."""
    volume: int
    """Multiple of a lot traded by others or resting in the book."""


@dataclass(frozen=True)
class Measured:
    """What the training split of the tapes says."""

    price_scale: int
    """The desk's half-ticks in a price unit: see `price_unit`."""
    lot_scale: float
    """The desk's lots that others trade between two decisions, in the mean."""
    maker_fees_bp: dict[str, float]
    """The fee of each tape's venue and symbol."""
    multiples: dict[Symbol, Multiples]
    touch: tuple[float, float]
    """Distance of the touch from the mid, price units: the least, and the one exceeded 1% of the time."""


COVERED = 99.0
"""Percentage of the times at which a default action box reaches the touch."""


def price_unit(*moves: np.ndarray) -> int:
    """A price unit in half-ticks: a standard deviation of the mid's moves, never below half a tick.

    `moves` are those between two decisions, half-ticks, in arrays of any shape.
    """
    return max(round(float(np.std(np.concatenate([each.ravel() for each in moves])))), 1)


def touch_distances(*runs: np.ndarray) -> tuple[float, float]:
    """Distance of the touch from the mid in runs of OUTCOME (n,), half-ticks: the least, and `COVERED`."""
    half = np.concatenate([run["best_ask_ticks"] - run["best_bid_ticks"] for run in runs])
    return float(max(half.min(), 1)), float(max(np.percentile(half, COVERED), 1))


def units(*runs: np.ndarray) -> tuple[int, float]:
    """Half-ticks in a price unit and lots in a volume unit, from runs of OUTCOME (decisions,)."""
    moves = [np.diff(run["best_bid_ticks"] + run["best_ask_ticks"]) for run in runs]
    volume = float(np.concatenate([run["buy_lots"] + run["sell_lots"] for run in runs]).mean())
    return price_unit(*moves), max(volume, 1.0)


MOST_VOLUME = 1 << 17
"""Largest volume unit, so that volumes of thousands of units are 32-bit numbers."""


def common_unit(scales: Sequence[float], room: Sequence[int]) -> tuple[float, list[int]]:
    """A unit and whole multiples of `scales` that meet it: to within 1%, or as near as `room` allows.

    Parameters
    ----------
    scales
        The unit of each symbol in its own integers.
    room
        The largest multiple of each.

    Raises
    ------
    ConfigError
        The scales are so far apart that not even the largest fits.
    """
    size = np.array(scales, np.float64)
    best: tuple[float, float, list[int]] | None = None
    for k in range(1, 101):
        unit = k * float(size.max())
        multiples = np.maximum(np.rint(unit / size), 1).astype(np.int64)
        error = float(np.abs(multiples * size / unit - 1).max())
        if (multiples <= np.array(room)).all() and (best is None or error < best[0]):
            best = error, unit, multiples.tolist()
            if error <= 0.01:
                break
    if best is None:
        raise ConfigError(
            f"the symbols' units, {', '.join(f'{scale:g}' for scale in scales)} half-ticks or lots, are too "
            "far apart for one desk: choose fewer with market.symbol."
        )
    return best[1], best[2]


def in_desk_units(outcomes: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """OUTCOME or TAKEN [n] of tapes with `multiples` [n, (price, volume)], in the desk's integers; a copy."""
    scaled = outcomes.copy()
    price, volume = multiples[:, 0], multiples[:, 1]
    for factor, names in (
        (price, ("best_bid_ticks", "best_ask_ticks", "ask_fill_notional", "bid_fill_notional")),
        (volume, ("best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots")),
        (volume, ("max_trade_lots", "last_trade_lots")),
        (price * volume, ("buy_notional", "sell_notional")),
        (price, ("sold_notional", "bought_notional")),
    ):
        for name in names:
            if name in scaled.dtype.names:
                scaled[name] *= factor
    return scaled
