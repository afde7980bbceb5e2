"""A signal: the exponential average of the imbalance of market orders."""

from __future__ import annotations

import numpy as np

from mmenv.features.base import Feature
from mmenv.features.order_flow import FEATURES
from mmenv.signals import register


@register
class FlowAverage:
    """Forgets the share `FORGET` of what it knew at every decision."""

    FORGET = np.float32(0.1)

    name = "flow-average"
    groups = ("order_flow",)
    inputs = tuple(feature for feature in FEATURES if feature.name == "flow_imbalance")
    outputs = (Feature("flow_average", -1.0, 1.0, "exponential average of flow_imbalance"),)
    state_size = 1
    step_seconds = 1.0
    identity = "flow-average-0.1"
    source = "neuralmm_plugins.signal:FlowAverage"

    def step(self, inputs: np.ndarray, states: np.ndarray) -> np.ndarray:
        states += self.FORGET * (inputs - states)
        return states.copy()
