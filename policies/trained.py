"""A trained recurrent network as a `Policy`."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.recurrent import RecurrentPolicy


class TrainedPolicy:
    """The deterministic actions of an SB3 recurrent policy; its memory is the network's recurrent state.

    Entries that only the critic saw in training are missing here; the actor has no weights for them.
    """

    def __init__(self, network: RecurrentPolicy, name: str = "trained") -> None:
        self.name = name
        self._network = network
        shape = network.observation_space.shape
        assert shape is not None
        self._width = shape[0]

    def reset(self, n: int) -> Any:
        return None

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        starts = np.full(len(observation), state is None)
        full = np.zeros((len(observation), self._width), np.float32)
        full[:, : observation.shape[1]] = observation
        return self._network.predict(full, state, starts, deterministic=True)
