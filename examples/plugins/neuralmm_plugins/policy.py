"""A policy: half a price unit from the mid on both sides, whatever happens."""

from __future__ import annotations

import numpy as np

from policies.base import QuotingPolicy, register


@register
class HalfAUnit(QuotingPolicy):
    """Quotes half a price unit from the mid, always."""

    name = "half-a-unit"

    def quotes(self, step: np.ndarray, position: np.ndarray) -> tuple[float, float]:
        return 0.5, 0.5
