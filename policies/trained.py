"""A trained recurrent network as a `Policy`."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.recurrent import RecurrentPolicy


class TrainedPolicy:
    """The deterministic actions of an SB3 recurrent policy; its memory is the network's recurrent state."""

    def __init__(self, network: RecurrentPolicy, name: str = "trained") -> None:
        self.name = name
        self._network = network

    def reset(self, n: int) -> Any:
        return None

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        starts = np.full(len(observation), state is None)
        return self._network.predict(observation, state, starts, deterministic=True)
