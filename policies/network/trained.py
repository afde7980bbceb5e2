"""A trained recurrent network as a `Policy`, and as the layers that run without torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import nn

from mmenv.checks import ConfigError
from policies.network.layers import ACTIVATIONS, Layer, Network
from policies.network.lru import LRU
from policies.network.min_gru import MinGRU
from policies.network.recurrent import RecurrentPolicy


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


MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
}
assert set(MODULES.values()) == set(ACTIVATIONS)


def actor_network(policy: RecurrentPolicy) -> Network:
    """The deterministic actor of an SB3 recurrent policy: memory, hidden layers, mean of the action."""
    layers = [
        *layers_of(policy.lstm_actor),
        *layers_of(policy.mlp_extractor.policy_net),
        *layers_of(policy.action_net),
    ]
    space: Any = policy.action_space
    return Network(layers[0].inputs, tuple(layers), bounds=(float(space.low[0]), float(space.high[0])))


def layers_of(module: nn.Module) -> list[Layer]:
    """The layers of a recurrent memory, a linear layer, or a sequence of these with activations and dropout.

    Raises `ConfigError` for a module that has no compiled counterpart.
    """
    if isinstance(module, nn.Sequential):
        found: list[Layer] = []
        for part in module:
            if isinstance(part, nn.Dropout):
                continue
            if type(part) in MODULES:
                if not found or found[-1].kind != "dense" or found[-1].activation != "identity":
                    raise ConfigError(f"{type(part).__name__} must come after a linear layer to be exported.")
                found[-1] = Layer("dense", found[-1].arrays, MODULES[type(part)])
            else:
                found += [_moved(layer, len(found)) for layer in layers_of(part)]
        return found
    if (
        isinstance(module, (nn.LSTM, nn.GRU))
        and module.bias
        and not (module.bidirectional or module.proj_size)
    ):
        kind = "lstm" if isinstance(module, nn.LSTM) else "gru"
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [
            Layer(kind, {name: _numbers(getattr(module, f"{name}_l{depth}")) for name in names})
            for depth in range(module.num_layers)
        ]
    if isinstance(module, MinGRU):
        pairs = (map(_numbers, module.weights(depth)) for depth in range(module.num_layers))
        return [Layer("mingru", {"weight": weight, "bias": bias}) for weight, bias in pairs]
    if isinstance(module, LRU):
        return [layer for depth in range(module.num_layers) for layer in _lru_layers(module, depth)]
    if isinstance(module, nn.Linear):
        bias = np.zeros(module.out_features, np.float32) if module.bias is None else _numbers(module.bias)
        return [Layer("dense", {"weight": _numbers(module.weight), "bias": bias})]
    raise ConfigError(
        f"{module} cannot be exported: LSTM, GRU (one direction, with bias), minGRU, LRU, linear layers, "
        f"{', '.join(ACTIVATIONS)} and dropout can."
    )


def _lru_layers(module: LRU, depth: int) -> list[Layer]:
    """Filters, and the minGRU that reads them and what they read."""
    weight, bias, rate = map(_numbers, module.filters(depth))
    filters = Layer("filters", {"weight": weight, "bias": bias, "rate": rate})
    weight, bias = map(_numbers, module.weights(depth))
    gates = Layer("mingru", {"weight": weight, "bias": bias}, reads=(2 * depth, 2 * depth - 1))
    return [filters, gates]


def _moved(layer: Layer, places: int) -> Layer:
    """The layer where so many stand before it."""
    if layer.reads is None:
        return layer
    return dataclasses.replace(layer, reads=tuple(place + places for place in layer.reads))


def _numbers(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32)
