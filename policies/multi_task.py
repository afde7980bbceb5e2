"""The multi-task network as a policy of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmenv.checks import ConfigError, require
from mmenv.config import EnvConfig
from mmenv.observation import observation_names
from policies.base import Reading, register
from policies.signals.signal import TrainedSignal, load

Array = np.ndarray
OUTPUTS = ("multi_move", "multi_half_spread", "multi_position")


@register
class MultiTaskPolicy:
    """The multi-task signal as a policy: a half-spread, skewed by its forecast and towards its position.

        skew = follow x move + lean x half-spread x (position - q)

    with the position to hold and the inventory q as fractions of the limit. With the default lean of 4 (the
    best of a grid on `hidden-regime`) and no forecast, the quote on the side that leads to the position is at
    the mid when the inventory is a quarter of the limit away. Quotes go through `mmenv.actions` and the
    hard limits like those of any policy.

    The half-spread is the mean of the labels that the network was trained on: its forecast of it explains
    nothing out of sample, and to quote that costs value (docs/signals.md).
    """

    name = "multi-task"

    def __init__(
        self,
        config: EnvConfig,
        signal: TrainedSignal | str | Path,
        follow: float = 1.0,
        lean: float = 4.0,
        half_spread: float | None = None,
    ) -> None:
        """`signal`: the network or its file; `config` must observe its inputs, and the time left.

        `half_spread`, price units: by default that of the signal's card, and of the network where a file of
        older versions names none.
        """
        self.config, self.follow, self.lean = config, follow, lean
        self.signal = signal if isinstance(signal, TrainedSignal) else load(signal)
        means = self.signal.card.get("label means", {})
        self.half_spread = means.get(OUTPUTS[1]) if half_spread is None else half_spread
        names = tuple(feature.name for feature in self.signal.outputs)
        require(names == OUTPUTS, "MultiTaskPolicy", "signal", names, f"one with the outputs {OUTPUTS}")
        inputs = [feature.name for feature in self.signal.inputs]
        self._reading = Reading(config)
        known = observation_names(config)
        for need in inputs:
            if need not in known:
                raise ConfigError(
                    f"EnvConfig.features = {config.features!r} is not possible: the network reads {need!r}; "
                    f"its groups are {', '.join(self.signal.groups)}."
                )
        self._columns = np.array([known.index(name) for name in inputs])
        self._inventory = known.index("inventory")

    def reset(self, n: int) -> Array:
        return np.zeros((n, self.signal.state_size), np.float32)

    def act(self, observation: Array, state: Array) -> tuple[Array, Array]:
        # At step 0 nothing has been seen, whatever an autoreset left in the memory.
        fresh = self._reading.step(observation) == 0
        state = np.where(fresh[:, None], np.float32(0), state)
        outputs = self.signal.step(np.ascontiguousarray(observation[:, self._columns]), state)
        move, forecast, position = outputs.T.astype(np.float64)
        half = forecast if self.half_spread is None else np.full(len(outputs), self.half_spread)
        skew = self.follow * move + self.lean * half * (position - observation[:, self._inventory])
        return self.config.quote.to_action(half + skew, half - skew), state
