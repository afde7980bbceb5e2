"""What a policy is worth under objectives other than the mean, from the rewards of episodes."""

from __future__ import annotations

import numpy as np


def certain(returns: np.ndarray, risk_aversion: float) -> np.ndarray:
    """Numbers whose mean is the certainty equivalent -log mean exp(-gamma R) / gamma of `returns` R, (E,).

    They are its influence function, so that their means, and the differences of these between policies, have
    the intervals of certainty equivalents.
    """
    least = returns.min()
    weights = np.exp(-risk_aversion * (returns - least))
    equivalent = least - np.log(weights.mean()) / risk_aversion
    return np.asarray(equivalent + (1 - weights / weights.mean()) / risk_aversion)


def worth(returns: np.ndarray, weight: float, level: float) -> np.ndarray:
    """Numbers whose mean is that of `returns`, (E,), less `weight` times the shortfall of the worst `level`.

    They are its influence function, so their means and paired differences have the intervals of that value.
    """
    threshold = quantile(returns, level)
    return np.asarray(returns + weight * (threshold - np.maximum(threshold - returns, 0) / level))


def quantile(returns: np.ndarray, level: float) -> float:
    """The least of `returns` that a share of at least `level` does not exceed."""
    return float(np.quantile(returns, level, method="inverted_cdf"))
