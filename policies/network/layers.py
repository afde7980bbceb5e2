"""Networks as lists of layers, without torch: recurrent and dense (identity, tanh, relu, sigmoid).

Recurrent are LSTM, GRU, minGRU and `filters`: exponential averages of tanh(W x + b), each unit with a rate of
its own. An LRU (`policies.network.lru`) is filters, and a minGRU that reads them and what they read.

Each layer reads the one before it, or those it names in `reads` (-1 is the observation), joined end to end,
so branches, several heads and inputs that skip the recurrent layers are all written the same way. Columns
that a layer should not read have zero weights. `policies.network.trained` makes layers from torch modules.

    network = Network(20, [lstm(128), lstm(64), dense, dense, head_a, head_b], outputs=(4, 5))
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mmenv.checks import require

GATES = {"dense": 1, "lstm": 4, "gru": 3, "mingru": 2, "filters": 1}
ACTIVATIONS = ("identity", "tanh", "relu", "sigmoid")
TWO_PRODUCTS, ONE_PRODUCT = ("lstm", "gru"), ("dense", "mingru", "filters")
WEIGHTS = dict.fromkeys(TWO_PRODUCTS, ("weight_ih", "weight_hh")) | dict.fromkeys(ONE_PRODUCT, ("weight",))
BIASES = dict.fromkeys(TWO_PRODUCTS, ("bias_ih", "bias_hh")) | dict.fromkeys(ONE_PRODUCT, ("bias",))
OTHERS = dict.fromkeys(GATES, ()) | {"filters": ("rate",)}
"""Arrays with a number for each unit that no input is multiplied with."""
STATES = {"dense": 0, "lstm": 2, "gru": 1, "mingru": 1, "filters": 1}
"""Floats of memory for each unit: hidden state, and the cell of an LSTM."""


@dataclass(frozen=True)
class Layer:
    """One layer, its arrays named and laid out as in torch (gates i, f, g, o and r, z, n; of a minGRU
    gate and candidate; rows are units).

    Weights may be int8, with `scale`, float32 (rows,): the real weight is weight x scale of its row.
    """

    kind: str
    """One of `GATES`."""
    arrays: Mapping[str, np.ndarray]
    """dense, mingru, filters: weight (gates x units, inputs), bias (gates x units,); filters also rate
    (units,), of 1 what a step lets in. lstm, gru: weight_ih (gates x units, inputs), weight_hh (gates x
    units, units), bias_ih and bias_hh (gates x units,)."""
    activation: str = "identity"
    """The function after a dense layer."""
    reads: tuple[int, ...] | None = None
    """Indices of the layers it reads, -1 the observation; None: the one before."""

    def __post_init__(self) -> None:
        require(self.kind in GATES, "Layer", "kind", self.kind, f"one of {', '.join(GATES)}")
        possible = ACTIVATIONS if self.kind == "dense" else ("identity",)
        allowed = f"one of {', '.join(possible)} on a {self.kind} layer"
        require(self.activation in possible, "Layer", "activation", self.activation, allowed)
        expected = {*WEIGHTS[self.kind], *BIASES[self.kind], *OTHERS[self.kind]}
        expected |= {"scale"} if self.quantised else set()
        allowed = f"{', '.join(sorted(expected))} of a {self.kind} layer"
        require(set(self.arrays) == expected, "Layer", "arrays", ", ".join(sorted(self.arrays)), allowed)
        rows, (first, *recurrent) = GATES[self.kind] * self.units, WEIGHTS[self.kind]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(expected, (rows,))
        shapes |= {first: (rows, self.inputs)} | dict.fromkeys(recurrent, (rows, self.units))
        for name, array in self.arrays.items():
            right = array.shape == shapes[name]
            require(right, "Layer", f"arrays[{name!r}].shape", array.shape, str(shapes[name]))
            largest = float(np.abs(array.astype(np.float32)).max(initial=0))
            require(math.isfinite(largest), "Layer", f"max(abs(arrays[{name!r}]))", largest, "finite")

    @property
    def quantised(self) -> bool:
        return any(self.arrays[name].dtype == np.int8 for name in WEIGHTS[self.kind] if name in self.arrays)

    @property
    def units(self) -> int:
        """Outputs."""
        return len(self.arrays[BIASES[self.kind][0]]) // GATES[self.kind]

    @property
    def inputs(self) -> int:
        return int(self.arrays[WEIGHTS[self.kind][0]].shape[-1])

    @property
    def state_size(self) -> int:
        """Floats of memory: hidden state, and the cell of an LSTM."""
        return self.units * STATES[self.kind]

    def real(self, name: str) -> np.ndarray:
        """The array in float32, int8 weights multiplied out."""
        array = self.arrays[name].astype(np.float32)
        return array * self.arrays["scale"][:, None] if self.arrays[name].dtype == np.int8 else array


@dataclass(frozen=True)
class Network:
    """Layers from an observation to outputs; see the module."""

    inputs: int
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...] = (-1,)
    """Indices of the layers whose outputs, joined, are the network's (-1: the last)."""
    bounds: tuple[float, float] | None = None
    """The outputs are clipped to these."""
    digest: str = field(init=False, repr=False)
    """Hash of structure and weights: a saved state fits this network alone."""

    def __post_init__(self) -> None:
        require(bool(self.layers), "Network", "layers", self.layers, "one layer at least")
        for i, layer in enumerate(self.layers):
            widths = [self.width(j) for j in self.reads(i) if -1 <= j < i]
            right = len(widths) == len(self.reads(i)) and sum(widths) == layer.inputs
            allowed = f"of {layer.inputs} inputs together, in layers before it or -1, the observation"
            require(right, "Network", f"layers[{i}].reads", self.reads(i), allowed)
        last = len(self.layers)
        named = bool(self.outputs) and all(-last <= j < last for j in self.outputs)
        require(named, "Network", "outputs", self.outputs, f"layers from 0 to {last - 1}")
        object.__setattr__(self, "digest", self._digest())

    def reads(self, layer: int) -> tuple[int, ...]:
        named = self.layers[layer].reads
        return (layer - 1,) if named is None else named

    def width(self, layer: int) -> int:
        """Outputs of a layer, -1 the observation."""
        return self.inputs if layer == -1 else self.layers[layer].units

    @property
    def width_out(self) -> int:
        return sum(self.layers[j].units for j in self.outputs)

    @property
    def state_size(self) -> int:
        """Floats of memory over all layers: for each recurrent one in order, hidden state, then cell."""
        return sum(layer.state_size for layer in self.layers)

    def describe(self) -> str:
        """The layers in words, such as "18 -> lstm 64 -> dense 64 tanh -> dense 2"."""
        parts = [f"{layer.kind} {layer.units} {layer.activation}" for layer in self.layers]
        return " -> ".join([str(self.inputs), *(part.removesuffix(" identity") for part in parts)])

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.inputs, self.outputs, self.bounds)).encode())
        for layer in self.layers:
            digest.update(repr((layer.kind, layer.activation, layer.reads)).encode())
            for name in sorted(layer.arrays):
                array = np.ascontiguousarray(layer.arrays[name])
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()[:32]
