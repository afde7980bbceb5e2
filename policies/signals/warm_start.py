"""A trained signal as the start of a recurrent policy's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmenv.checks import ConfigError
from policies.network.recurrent import RecurrentPolicy
from policies.signals.signal import TrainedSignal


def warm_start(policy: RecurrentPolicy, signal: TrainedSignal, names: tuple[str, ...]) -> None:
    """Start the actor's memory of `policy`, whose observation has these `names`, as that of a trained signal.

    Inputs that the signal does not have start without influence. Raises `ConfigError` where the two memories
    have not the same shape.
    """
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
