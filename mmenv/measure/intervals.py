"""Estimates with intervals that hold for dependent samples: block jackknife and block bootstrap."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, stats

from mmenv.engine.products import whitened

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure with its 95% interval; the bounds are NaN where there is too little data for one."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        bounds = "" if math.isnan(self.low) else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{bounds}"


# Recordings of a market whose activity wanders: the block jackknife.

PARTS = 10
"""Parts of a block of a record, each a cell of `jackknife`: shorter cells say more of what lasts."""

MOST_CELLS = 100
"""In longer recordings neighbouring cells are taken together, to about this many."""

FARTHEST = math.log(100.0)
"""An interval of a rate from a hundredth of its value to a hundred times, or wider, says nothing."""

MEMORY = 0.47
"""Order d of the long memory of a market's level: near that of 1/f noise, 0.5. About 0.4 is found for
volatility (Andersen, Bollerslev, Diebold and Labys 2003); the mean of levels that are skewed asks for more.
`benchmarks.calibration` checks it on `book`."""

SHARES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0])
"""Shares of the variance of cells that long memory may cause; a priori 0 is as likely as all others."""


def parts(values: NDArray[Any]) -> tuple[Array, NDArray[np.int64]]:
    """Cut values (blocks, times) into `PARTS` parts: their sums, (blocks, parts), and the times in each."""
    split = np.array_split(values, min(PARTS, values.shape[1]), axis=1)
    sums = np.stack([each.sum(axis=1) for each in split], axis=1).astype(float)
    return sums, np.array([each.shape[1] for each in split])


def jackknife(
    path: NDArray[np.int64], statistic: Callable[[Array], Array], logarithms: bool = True
) -> list[Estimate]:
    """Estimate a statistic of cells of time, with 95% intervals for the market, not only for those minutes.

    Activity wanders over hours. A short recording shows one level of it, and resampled blocks all have that
    level: such intervals are up to four times too narrow. Here the influence of each cell, which is what the
    statistic changes without it (block jackknife; Künsch 1989), is a series with long memory (`half_width`).

    Parameters
    ----------
    path
        Number of the path of each cell, (cells,): cells of one path follow each other in time, and different
        paths are independent.
    statistic
        Gives an array for weights of the cells, (cells,).
    logarithms
        Whether an element that is positive is studied as its logarithm, as suits a rate; not a correlation.

    Returns
    -------
    list of Estimate
        One for each element of the statistic, without an interval where it is not defined without a cell, or
        where that is wider than `FARTHEST`.
    """
    together = math.ceil(len(path) / MOST_CELLS)
    cells = [np.flatnonzero(path == number) for number in np.unique(path)]
    groups = [np.array_split(each, math.ceil(len(each) / together)) for each in cells]
    found: list[Estimate] = []
    value, without, rest = statistic(np.ones(len(path))), [], []
    for group in itertools.chain(*groups):
        weights = np.ones(len(path))
        weights[group] = 0.0
        without.append(statistic(weights))
        rest.append(len(path) / len(group) - 1)
    for center, others in zip(value, np.transpose(without), strict=True):
        logarithm = logarithms and center > 0 and (others > 0).all()
        influence = np.log(center / others) if logarithm else center - others
        width = half_width(rest * influence, [len(each) for each in groups])
        if logarithm and width > FARTHEST:
            found.append(TooShort(float(center)))
            continue
        low, high = center * np.exp([-width, width]) if logarithm else center + np.array([-width, width])
        found.append(Estimate(float(center), float(low), float(high)))
    return found


def half_width(series: Array, lengths: Sequence[int]) -> float:
    """Bound how far the mean of a series may be from its expectation, at 95%.

    The series is white noise and, for a share of its variance, fractional Gaussian noise of order `MEMORY`. A
    short series hardly tells the share: the quantile is that of a mixture of Student's t distributions, one
    for each of `SHARES`, weighted by prior and restricted likelihood (as Müller and Watson 2016 do with d).
    For a series without memory it is two to three times Student's alone, since a short one cannot rule memory
    out.

    Parameters
    ----------
    series
        Values (n,); the bound is NaN where one of them is not finite.
    lengths
        Lengths of the independent stretches that make up the series; they add up to n.
    """
    count, freedom = len(series), len(series) - 1
    if freedom < 1 or not np.isfinite(series).all():
        return math.nan
    power = 2 * MEMORY + 1
    lags = [np.arange(float(length)) for length in lengths]
    noise = [linalg.toeplitz((np.abs(h - 1) ** power + (h + 1) ** power - 2 * h**power) / 2) for h in lags]
    covariance = linalg.block_diag(*noise)
    pair = np.stack([np.ones(count), series - series.mean()], axis=1)
    determinants, squares = np.empty((2, len(SHARES)))
    for k, share in enumerate(SHARES):  # restricted to what the mean says nothing of (Harville 1974)
        logarithm, white = whitened(share * covariance + (1 - share) * np.eye(count), pair)
        ones, both, own = (white[:, 0] ** 2).sum(), white.prod(axis=1).sum(), (white[:, 1] ** 2).sum()
        determinants[k] = logarithm + math.log(ones / count)
        squares[k] = own - both**2 / ones
    if squares[0] < 1e-24:
        return 0.0
    prior = np.where(SHARES > 0, 1 / (len(SHARES) - 1), 1.0)
    likelihood = -(determinants + freedom * np.log(squares)) / 2
    weight = prior * np.exp(likelihood - likelihood.max())
    of_mean = SHARES * covariance.mean() + (1 - SHARES) / count
    deviation = np.sqrt(of_mean * squares / freedom)
    bounds = stats.t.ppf(0.975, freedom) * deviation

    def excess(width: float) -> float:
        return float(np.average(stats.t.cdf(width / deviation, freedom), weights=weight)) - 0.975

    return float(optimize.brentq(excess, 0.99 * bounds.min(), 1.01 * bounds.max()))


# Series of profits: the circular block bootstrap.

FEWEST_BLOCKS = 30
"""With fewer blocks there is no interval, nor a figure that rests on how profits vary."""

FEWEST_EVENTS = 10
"""With fewer intervals in which anything happened there is none either. Of a ratio of sums over independent
events that come five times in a record, 82 of 100 bootstrap intervals hold the truth, of two times 46; ten
times 93."""


RATIO_SECONDS = 3600.0
"""A shorter record has no interval of a mean over a deviation. It shows one level of activity, and the
deviation of a market whose activity wanders is made by its busiest times: in ten minutes of `book` the ratio
is half as large again as the market's, and 86 of 100 bootstrap intervals hold that one (studentised 88; by
`jackknife` 99, at more than twice the width). `benchmarks.coverage` measures it."""


class TooShort(Estimate):
    """What a series that bears no interval says: its value, or NaN for what rests on more."""

    def __str__(self) -> str:
        return "too short" if math.isnan(self.value) else f"{self.value:.4g} (too short)"


def block_length(series: Array) -> int:
    """Length of the blocks of a circular bootstrap of a series (n,), by its autocovariances.

    b = (2 G^2 / D)^(1/3) n^(1/3) with G = sum lambda(k/M) |k| R(k), D = 4/3 (sum lambda(k/M) R(k))^2, the
    flat-top window lambda, and M twice the lag from which on `max(5, log10 n)` correlations in a row are
    within 2 sqrt(log10(n) / n); at most min(3 sqrt n, n / 3). Source: Politis and White (2004), "Automatic
    block-length selection for the dependent bootstrap", with the correction of Patton, Politis and White
    (2009).
    """
    n = len(series)
    if n < 3 or not np.ptp(series):
        return 1
    away = np.asarray(series, float) - np.mean(series)
    together = max(5, math.floor(math.log10(n)))
    most = min(math.ceil(math.sqrt(n)) + together, n - 2)
    products = np.array([(away[: n - k] * away[k:]).sum() for k in range(most + 1)])
    squares = np.cumsum(away**2)
    own = [squares[n - 1 - k] * (squares[-1] - squares[k - 1]) for k in range(1, most + 1)]
    small = np.abs(products[1:]) < 2 * math.sqrt(math.log10(n) / n) * np.sqrt(own)
    first = next((k + 1 for k in range(most - together + 1) if small[k : k + together].all()), most)
    width, covariances = min(2 * first, most), products / n
    lags = np.arange(1, width + 1)
    window = np.minimum(1.0, 2 * (1 - lags / width))
    smooth = covariances[0] + 2 * (window * covariances[1 : width + 1]).sum()
    bend = 2 * (window * lags * covariances[1 : width + 1]).sum()
    if smooth <= 0:
        return 1
    length = (1.5 * bend**2 / smooth**2 * n) ** (1 / 3)
    return max(math.ceil(min(length, math.ceil(min(3 * math.sqrt(n), n / 3))) - 1e-9), 1)


@functools.lru_cache(maxsize=8)
def block_indices(n: int, length: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw the indices of `resamples` resamples of n consecutive samples in blocks, (resamples, n).

    Blocks of `length` keep the dependence between neighbours; the series is closed to a circle, so that all
    samples are as likely. Source: Politis and Romano (1992), "A circular block-resampling procedure".
    """
    starts = np.random.default_rng(seed).integers(0, n, (resamples, math.ceil(n / length)))
    return ((starts[..., None] + np.arange(length)) % n).reshape(resamples, -1)[:, :n]


def bootstrap(
    statistic: Callable[..., Any],
    samples: Sequence[Array],
    *,
    lead: Array | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate `statistic(*samples)` with its 95% interval by blocks of `block_length`.

    Symmetric: 95% of the resamples are no farther from the value (Hall 1988, "On symmetric bootstrap
    confidence intervals": under heavy tails it holds the truth more often than percentiles do), widened by as
    much as Student's quantile for so many blocks is above the normal one, and by what their mean takes off
    their variance. `benchmarks.coverage` measures it.

    Parameters
    ----------
    statistic
        A function of arrays, vectorised along the last axis.
    samples
        Arrays over the same n intervals, (n,) each; they are resampled together, so that pairs stay pairs.
    lead
        The series that sets the length of blocks, (n,); by default the first of `samples`.

    Returns
    -------
    Estimate
        `TooShort` for fewer than `FEWEST_BLOCKS` blocks, and where one of the samples differs from zero in
        fewer than `FEWEST_EVENTS` intervals, but in some; without bounds where half of the resamples give no
        finite value.
    """
    n = len(samples[0])
    if not n:
        return Estimate(math.nan)
    value = float(statistic(*samples))
    length = block_length(samples[0] if lead is None else lead)
    if n < FEWEST_BLOCKS * length or any(0 < np.count_nonzero(each) < FEWEST_EVENTS for each in samples):
        return TooShort(value)
    if math.isnan(value):
        return Estimate(value)
    index = block_indices(n, length, resamples, seed)
    drawn = np.asarray(statistic(*(np.asarray(sample)[index] for sample in samples)))
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < resamples / 2:
        return Estimate(value)
    blocks = n / length
    wider = stats.t.ppf(0.975, blocks - 1) / stats.norm.ppf(0.975) * math.sqrt(blocks / (blocks - 1))
    half = float(wider * np.quantile(np.abs(drawn - value), 0.95))
    return Estimate(value, value - half, value + half)


def bootstrap_ratio(
    statistic: Callable[..., Any], samples: Sequence[Array], seconds: float, *, lead: Array | None = None
) -> Estimate:
    """`bootstrap` of a mean over a deviation, as the Sharpe ratio; `TooShort` below `RATIO_SECONDS`.

    `seconds` is the length of an interval; the rest as there.
    """
    if len(samples[0]) * seconds < RATIO_SECONDS:
        return TooShort(float(statistic(*samples)) if len(samples[0]) else math.nan)
    return bootstrap(statistic, samples, lead=lead)
