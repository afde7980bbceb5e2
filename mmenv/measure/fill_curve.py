"""The fill rate of a quote by its distance from the mid: A exp(-k d), with an atom at the touch.

The exponential is that of Avellaneda and Stoikov (2008); at the touch the queue decides, so that its fills
stand apart. It is fitted by Poisson regression, and its goodness of fit is tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from mmenv.engine.products import line, product, solve_linear
from mmenv.measure.intervals import Array, Estimate, jackknife, parts
from mmenv.measure.record import TICK, Record

DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Where quotes are measured: the touch, and so many steps further out. A step is a price unit, or a tick
where that is larger."""


def distances(touch: Record) -> list[int]:
    """Distances from the mid at which fills are measured, half-ticks: `DISTANCES` from the median touch on.

    `touch` is the market recorded with quotes at the touch; the first distance, 0, stands for that.
    """
    if not touch.has_book:
        return [round(m * touch.scale) for m in DISTANCES]
    spread = touch.blocks["spread"]
    nearest = int(np.median(spread[spread > 0])) // 2 - 1
    return [0, *(nearest + round(m * max(touch.scale, TICK)) for m in DISTANCES[1:])]


@dataclass(frozen=True)
class FillCurve:
    """Chance of a fill in a decision, P(d) = exp(-decay d) (1 - exp(-rate seconds)), d from the mid."""

    rate: Estimate
    """Market orders per second and side that would reach the mid (A)."""
    decay: Estimate
    """Decay of that rate per half-tick of distance (k)."""
    touch: Estimate
    """Fills at the touch over what the exponential says there: below one, a queue is ahead."""
    distance: list[float]
    """Distances of the quotes, half-ticks."""
    per_second: list[float]
    """Fills per second and side at each distance."""
    p_value: float
    """Chi-square test of the exponential's deviance beyond the touch, overdispersion taken out."""


def measure_fills(record: Callable[[int], Record]) -> tuple[Record, FillCurve]:
    """Record a source with quotes at the touch, and measure its fill curve.

    `record` gives the source as its desk saw it when it quoted so many half-ticks from the mid. Raises
    `ValueError` where nothing is filled.
    """
    touch = record(0)
    distance, counts = [], []
    for away in distances(touch):
        each = touch if away == 0 else record(away)
        mid, spread = each.blocks["mid"], each.blocks["spread"]
        # Where the quote really stood: at the touch or beyond, on a whole tick (an even price).
        distance.append(float(np.maximum(spread // 2, away + ((mid + away) & 1)).mean()))
        cells, decisions = parts((each.blocks["ask_fill"] + each.blocks["bid_fill"])[:, 1:])
        counts.append(cells)
    keep = np.concatenate([[0], 1 + np.flatnonzero(np.diff(distance) > 0.5)])
    found = np.stack(counts, axis=2)[:, :, keep]
    # Of a large tick hardly anything reaches behind the touch: then the touch is part of the curve.
    beyond = (found[:, :, 1:].sum(axis=(0, 1)) > 0).sum() >= 2
    fills = fill_curve(
        np.array(distance)[keep], found, decisions, touch.path, touch.seconds, touch=touch.has_book and beyond
    )
    return touch, fills


def fill_curve(
    distance: Array,
    fills: Array,
    decisions: NDArray[np.int64],
    path: NDArray[np.int64],
    seconds: float,
    touch: bool,
) -> FillCurve:
    """Fit the curve to fills in blocks of time, each in parts.

    Parameters
    ----------
    distance
        Distances of the quotes from the mid, (distances,), half-ticks.
    fills
        Fills of both sides, (blocks, parts, distances).
    decisions
        Decisions in each part, (parts,).
    path
        Path of each block, (blocks,), as in `jackknife`.
    seconds
        Time between two decisions.
    touch
        Whether the first distance is the touch and stands apart.
    """
    first = int(touch)
    cells = fills.reshape(-1, fills.shape[-1])
    trials = 2.0 * np.tile(decisions, len(fills))

    def fit(weights: Array) -> tuple[float, float, float]:
        total = product(weights, cells)[first:]
        return fit_exponential(distance[first:], total, np.full(len(total), product(weights, trials)))

    def parameters(weights: Array) -> Array:
        try:
            a, k, _ = fit(weights)
        except ValueError:
            return np.full(3, math.nan)
        expected = product(weights, trials) * math.exp(max(a - k * distance[0], -50))
        at_touch = product(weights, cells[:, 0]) / expected
        return np.array([-math.log1p(-min(math.exp(a), 1 - 1e-12)) / seconds, k, at_touch])

    _, _, deviance = fit(np.ones(len(cells)))  # or it raises
    rate, decay, atom = jackknife(np.repeat(path, fills.shape[1]), parameters)
    # Fills of one block come together: the variance of a block's count over its mean.
    counts = fills.sum(axis=1)[:, first:]
    spread = float(np.mean(counts.var(axis=0, ddof=1) / np.maximum(counts.mean(axis=0), 1e-9)))
    freedom = max(len(distance) - first - 2, 1)
    p_value = float(stats.chi2.sf(deviance / max(spread, 1.0), freedom))
    per_second = cells.sum(axis=0) / (trials.sum() * seconds)
    return FillCurve(rate, decay, atom, distance.tolist(), per_second.tolist(), p_value)


def fit_exponential(distance: Array, fills: Array, trials: Array) -> tuple[float, float, float]:
    """Fit fills ~ Poisson(trials x exp(a - k distance)) by maximum likelihood: a, k and the deviance.

    Distances must differ. With fills at one of them alone each has half a fill more (the prior of Jeffreys):
    the decay is then the least that explains the others' silence. Raises `ValueError` where there are none.
    """
    if not fills.any() or len(distance) < 2:
        raise ValueError("no fill of a lot at the touch, or behind it: measure for longer")
    if (fills > 0).sum() < 2:
        fills, trials = fills + 0.5, trials + 0.5
    scale = max(float(np.ptp(distance)), 1e-9)
    design = np.stack([np.ones_like(distance), -distance / scale], axis=1)
    theta = np.array(line(-distance / scale, np.log((fills + 0.5) / trials)))
    for _ in range(50):  # Newton's method; the likelihood is concave and the start is near
        mean = trials * np.exp(np.clip(product(design, theta), -50, 50))
        step = solve_linear(product(design.T, design * mean[:, None]), product(design.T, fills - mean))
        theta = theta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    mean = trials * np.exp(product(design, theta))
    return float(theta[0]), float(theta[1] / scale), float(2 * special.kl_div(fills, mean).sum())
