"""Ladders beside one order a side."""

from __future__ import annotations

import re

import numpy as np

from mmenv.config import EnvConfig
from mmenv.observation import observation_names


def as_of_one_order(config: EnvConfig, observations: np.ndarray) -> np.ndarray:
    """Observations, (n, F), without the entries of orders behind the nearest, all of which must be 0."""
    names = observation_names(config)
    further = np.array([re.match(r"(ask|bid)_\d_order", name) is not None for name in names])
    assert further.sum() == 8 * (config.quote.side_orders - 1)
    assert not observations[:, further].any()
    return observations[:, ~further]
