"""Position sizes from a budget of loss, and what a risk score takes off them.

    loss per lot   z x sigma x sqrt(h)                     price units: sigma per decision, h to get out
    base size      share x loss budget left / loss per lot   lots
    size           base size x max(0.1, 1 - score)

A position of the base size loses more than its share of the budget within h decisions about once in a
hundred times (z = 2.33, a normal quantile; the score is there for when moves are not normal). Units agree:
the budget is price units x lots. This is value at risk turned around, as in volatility targeting; with the
budget what is *left* of the daily loss limit, sizes fall towards zero as the limit comes near.

The size becomes the position limit where that is lower. `mmenv.step.risk` keeps the hard limits, whatever
comes from here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.checks import require_number
from mmenv.signals import Signal

Array = np.ndarray

FLOOR = 0.1
"""Part of the base size that is left at a score of 1."""


def loss_per_lot(volatility: Array, horizon: int, quantile: float) -> Array:
    """What a lot may lose over `horizon` decisions, price units, from the volatility per decision."""
    return quantile * volatility * np.sqrt(horizon)


def base_size(budget: Array, loss: Array) -> Array:
    """Lots that lose no more than `budget` (price units x lots) at `loss` a lot; infinite where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.maximum(budget, 0.0) / loss
    return np.where(loss > 0, size, np.inf)


def position_size(base: Array, score: Array) -> Array:
    """Lots at a risk score in [0, 1]: a score that is no number counts as 1."""
    return base * np.maximum(FLOOR, 1 - np.where(np.isnan(score), 1.0, np.clip(score, 0.0, 1.0)))


@dataclass(frozen=True, kw_only=True)
class ManagerConfig:
    """The neural risk manager: how much its score takes off the position limit; see `mmenv.step.sizing`."""

    signal: Signal
    """Reads the risk score, from 0 to 1, off its first output."""
    share: float = 0.1
    """Of what is left of the daily loss limit, what a full position may lose within `horizon`."""
    horizon: int = 60
    """Decisions it takes, at worst, to be rid of a position."""
    quantile: float = 2.33
    """Standard deviations of the move that the loss per lot counts with (2.33: one case in a hundred)."""

    def __post_init__(self) -> None:
        require_number(self, "share", 1e-6, 1.0)
        require_number(self, "horizon", 1, 1_000_000, integer=True)
        require_number(self, "quantile", 0.0, 100.0)
