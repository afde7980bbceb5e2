"""The multi-task network as a policy of its own, and as the start of a recurrent policy's memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmenv.config import ConfigError, EnvConfig, require
from mmenv.features import observation_names
from mmenv.quote import to_action
from policies.base import Reading, register
from policies.signals.signal import TrainedSignal, load

if TYPE_CHECKING:
    from policies.recurrent import RecurrentPolicy

Array = np.ndarray
OUTPUTS = ("multi_move", "multi_half_spread", "multi_position")


@register("multi-task")
class MultiTaskPolicy:
    """Quotes the half-spread that the network gives, skewed towards its forecast and its position.

        skew = follow x move + lean x half-spread x (position - q)

    with the position to hold and the inventory q as fractions of the limit. With the default lean of 4 (the
    best of a grid on `hidden-regime`) and no forecast, the quote on the side that leads to the position is at
    the mid when the inventory is a quarter of the limit away. Quotes go through `mmenv.quote` and the
    hard limits like those of any policy.
    """

    name = "multi-task"

    def __init__(
        self, config: EnvConfig, signal: TrainedSignal | str | Path, follow: float = 1.0, lean: float = 4.0
    ) -> None:
        """`signal`: the network or its file; `config` must observe its inputs, and the time left."""
        self.config, self.follow, self.lean = config, follow, lean
        self.signal = signal if isinstance(signal, TrainedSignal) else load(signal)
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
        move, half, position = outputs.T.astype(np.float64)
        skew = self.follow * move + self.lean * half * (position - observation[:, self._inventory])
        return to_action(self.config.quote, half + skew, half - skew), state


def warm_start(policy: RecurrentPolicy, signal: TrainedSignal, names: tuple[str, ...]) -> None:
    """Start the actor's memory of `policy`, whose observation has these `names`, as that of a trained signal.

    Inputs that the signal does not have start without influence. Raises `ConfigError` where the two memories
    have not the same shape.
    """
    import torch

    lstm: Any = policy.lstm_actor
    first = signal.network.layers[0]
    if first.kind != "lstm" or len(signal.network.layers) < 2 or signal.network.layers[1].kind == "lstm":
        raise ConfigError(f"signal {signal.name!r} has not one recurrent layer: train it with --lstm UNITS.")
    if not isinstance(lstm, torch.nn.LSTM) or lstm.num_layers > 1 or lstm.hidden_size != first.units:
        raise ConfigError(
            f"the policy's memory is {lstm}, that of signal {signal.name!r} one LSTM layer of {first.units} "
            "units: train one of them with the size of the other."
        )
    seen = names[: lstm.input_size]
    missing = [
        feature.name
        for k, feature in enumerate(signal.inputs)
        if np.any(first.arrays["weight_ih"][:, k]) and feature.name not in seen
    ]
    if missing:
        raise ConfigError(f"signal {signal.name!r} reads {missing[0]!r}, which the policy does not observe.")
    weights: dict[str, Any] = dict(lstm.named_parameters())
    with torch.no_grad():
        weights["weight_ih_l0"].zero_()
        for k, feature in enumerate(signal.inputs):
            if feature.name in seen:
                column = torch.from_numpy(first.arrays["weight_ih"][:, k].copy())
                weights["weight_ih_l0"][:, seen.index(feature.name)] = column
        for name in ("weight_hh", "bias_ih", "bias_hh"):
            weights[f"{name}_l0"].copy_(torch.from_numpy(first.arrays[name].copy()))
