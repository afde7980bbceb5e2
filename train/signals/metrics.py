"""How good a forecast is, with intervals: area under the curve, log loss, Brier score, R2, calibration.

Rows of one sequence are not independent, so intervals come from a bootstrap over *clusters* of rows
(episodes, or stretches of a tape); forecasts of the same rows are compared by paired differences over the
same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from mmenv.engine.products import product
from train.simulate import Interval

Array = np.ndarray

DRAWS = 400
RANKS = 1000
"""Groups of about equal forecasts into which rows are put for the draws of an area under the curve."""
BINS = 10
TINY = 1e-6


def plain(found: Interval) -> list[float]:
    """The interval as a card keeps it."""
    return [round(x, 6) for x in found]


class Measure(Protocol):
    """A figure of a forecast on rows."""

    def exact(self) -> float:
        """The figure on all rows."""

    def drawn(self, member: Array, counts: Array) -> Array:
        """The figure on draws of clusters, (draws,): row r belongs to cluster member[r], which draw d has
        counts[d, member[r]] times."""


@dataclass(frozen=True)
class AUC:
    """Area under the receiver operating characteristic: the chance that a row where it happened is ranked
    above one where it did not, ties counting half (Mann and Whitney 1947)."""

    forecast: Array
    happened: Array

    def exact(self) -> float:
        group = rankdata(self.forecast, method="dense").astype(np.int64) - 1
        everything = np.ones((1, 1))
        return float(self._areas(group, np.zeros(len(group), np.int64), everything)[0])

    def drawn(self, member: Array, counts: Array) -> Array:
        edges = np.unique(np.quantile(self.forecast, np.linspace(0, 1, RANKS + 1)[1:-1]))
        return self._areas(np.searchsorted(edges, self.forecast, side="right"), member, counts)

    def _areas(self, group: Array, member: Array, counts: Array) -> Array:
        groups = int(group.max()) + 1
        cell, size = member * groups + group, counts.shape[1] * groups
        positive, negative = (
            product(counts, np.bincount(cell[chosen], minlength=size).reshape(-1, groups))
            for chosen in (self.happened, ~self.happened)
        )
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(1) * negative.sum(1)
        return (positive * (below + 0.5 * negative)).sum(1) / np.where(pairs > 0, pairs, np.nan)


@dataclass(frozen=True)
class Ratio:
    """1 - sum(above) / sum(below), or their plain ratio: of what rows add up."""

    above: Array
    below: Array
    missing: bool = False
    """Whether what is missing to 1 is the figure."""

    def exact(self) -> float:
        return float(self._of(self.above.sum(), self.below.sum()))

    def drawn(self, member: Array, counts: Array) -> Array:
        above, below = (
            product(counts, np.bincount(member, column, counts.shape[1]))
            for column in (self.above, self.below)
        )
        return np.asarray(self._of(above, below))

    def _of(self, above: Any, below: Any) -> Any:
        return 1 - above / below if self.missing else above / below


def log_loss(forecast: Array, happened: Array) -> Measure:
    """Mean log loss of a chance."""
    p = np.clip(forecast.astype(np.float64), TINY, 1 - TINY)
    return Ratio(-np.log(np.where(happened, p, 1 - p)), np.ones(len(p)))


def brier(forecast: Array, happened: Array) -> Measure:
    """Brier score: the mean squared error of a chance."""
    return Ratio((forecast - happened) ** 2, np.ones(len(forecast)))


def r2(forecast: Array, truth: Array, usual: float) -> Measure:
    """R2 out of sample: the squared error against that of always saying `usual`, the training mean."""
    return Ratio((forecast - truth) ** 2, (usual - truth) ** 2, missing=True)


class Bootstrap:
    """The same draws of clusters for every figure."""

    def __init__(self, clusters: Array, draws: int = DRAWS, seed: int = 0) -> None:
        """`clusters`: which cluster each row belongs to, (R,)."""
        _, self._member = np.unique(clusters, return_inverse=True)
        self.clusters = int(self._member.max()) + 1
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(self.clusters, np.full(self.clusters, 1 / self.clusters), size=draws)
        self._counts = drawn.astype(np.float64)

    def values(self, measure: Measure) -> Array:
        """The figure on all rows, then on each draw, (1 + draws,)."""
        return np.append(measure.exact(), measure.drawn(self._member, self._counts))

    @staticmethod
    def interval(values: Array) -> Interval:
        """The figure on all rows, with its 95% interval."""
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        return Interval(float(values[0]), float(low), float(high))


def calibration_figure(forecasts: dict[str, Array], happened: Array, title: str) -> Figure:
    """How often it happened beside how often it was said to, by decile of each forecast."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    low, high = 1.0, 0.0
    for name, forecast in forecasts.items():
        edges = np.unique(np.quantile(forecast, np.linspace(0, 1, BINS + 1)))
        which = np.clip(np.searchsorted(edges, forecast, side="right") - 1, 0, max(len(edges) - 2, 0))
        count = np.bincount(which)
        said = np.bincount(which, forecast)[count > 0] / count[count > 0]
        came = np.bincount(which, happened)[count > 0] / count[count > 0]
        error = 1.96 * np.sqrt(came * (1 - came) / count[count > 0])
        axes.errorbar(said, came, error, fmt="o-", markersize=4, capsize=2, label=name)
        low, high = min(low, said.min(), came.min()), max(high, said.max(), came.max())
    axes.plot([low, high], [low, high], "k--", linewidth=1, label="perfect")
    axes.set(xlabel="forecast chance", ylabel="how often it happened", title=title)
    axes.legend()
    return figure
