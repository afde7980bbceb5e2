"""Statistics over the seeds of a study (Agarwal et al. 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from train.simulate import Interval


def interquartile(values: np.ndarray, axis: int = -1) -> Any:
    """The mean of the middle half of `values` along `axis`."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interquartile_mean(values: np.ndarray) -> Interval:
    """Interquartile mean of `values`, (seeds,), with its 95% bootstrap interval over seeds."""
    mean = float(interquartile(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (values,), interquartile, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def difference(values: np.ndarray, others: np.ndarray) -> Interval:
    """Interquartile mean of `values`, (seeds,), less that of `others`, with its 95% bootstrap interval."""
    generator = np.random.default_rng(0)
    ours, theirs = (
        interquartile(x[generator.integers(len(x), size=(2000, len(x)))], axis=1) for x in (values, others)
    )
    low, high = np.quantile(ours - theirs, [0.025, 0.975])
    return Interval(float(interquartile(values) - interquartile(others)), float(low), float(high))
