"""One family of networks for all signals: recurrent streams, a dense trunk, heads. For training, in torch.

    inputs -> standardise -> LSTM, LSTM, ... of each stream -+-> dense, dense, ... -> heads
                          -> inputs without memory ----------+

A trained network becomes a `policies.network.layers.Network` (`Net.compiled`), which runs without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmenv.checks import require
from mmenv.engine.products import product
from policies.network.layers import Layer, Network
from policies.network.packed_lstm import run_packed
from policies.network.trained import layers_of

KINDS = ("probability", "value", "bounded", "tanh")


@dataclass(frozen=True)
class Head:
    """One output of the network."""

    name: str
    kind: str
    """probability: a logistic, trained by log loss; the others by squared error. value: linear; bounded: a
    logistic stretched to [low, high]; tanh: in [-1, 1]."""
    meaning: str
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "Head", "kind", self.kind, f"one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Design:
    """The structure of a network over inputs that are listed stream by stream, then those without memory."""

    streams: tuple[int, ...]
    """Inputs of each recurrent stream."""
    plain: int
    """Inputs that pass no recurrent layer."""
    lstm: tuple[int, ...]
    """Units of the recurrent layers of each stream."""
    dense: tuple[int, ...]
    """Units of the dense layers, ReLU."""
    heads: tuple[Head, ...]
    shared: bool = False
    """All streams use the same weights."""
    dropout: float = 0.0

    @property
    def inputs(self) -> int:
        return sum(self.streams) + self.plain


class Net(nn.Module):
    """The network of a `Design`. Inputs are standardised by `mean` and `scale`, float32 (inputs,), which were
    fitted on the training part and are saved with the weights."""

    mean: Tensor
    scale: Tensor
    head_mean: Tensor
    head_scale: Tensor

    def __init__(
        self,
        design: Design,
        mean: np.ndarray,
        scale: np.ndarray,
        head_mean: Sequence[float] | None = None,
        head_scale: Sequence[float] | None = None,
    ) -> None:
        """`head_mean` and `head_scale`: what a "value" head puts out at 0 and adds for 1 (default: 0, 1)."""
        super().__init__()
        self.design = design
        heads = len(design.heads)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))
        self.register_buffer("head_mean", torch.tensor(head_mean or [0.0] * heads))
        self.register_buffer("head_scale", torch.tensor(head_scale or [1.0] * heads))
        alike = len(set(design.streams)) <= 1
        require(alike or not design.shared, "Design", "shared", True, "False for streams of different inputs")
        different = design.streams[:1] if design.shared else design.streams
        self.streams = nn.ModuleList(
            nn.ModuleList(
                nn.LSTM(before, after, batch_first=True)
                for before, after in zip((width, *design.lstm[:-1]), design.lstm, strict=True)
            )
            for width in different
        )
        for module in self.streams.modules():
            if isinstance(module, nn.LSTM):
                bias: Any = module.bias_ih_l0
                with torch.no_grad():  # gates i, f, g, o: remember at first (Jozefowicz et al. 2015)
                    bias[module.hidden_size : 2 * module.hidden_size] += 1.0
        self.dropout = nn.Dropout(design.dropout)
        width = (design.lstm[-1] * len(design.streams) if design.streams else 0) + design.plain
        layers: list[nn.Module] = []
        for units in design.dense:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(design.dropout)]
            width = units
        self.dense = nn.Sequential(*layers)
        self.heads = nn.Linear(width, heads)

    def stream(self, k: int) -> Any:
        return self.streams[0 if self.design.shared else k]

    def forward(self, x: Tensor) -> Tensor:
        """Heads before their last function, (B, T, heads), for inputs (B, T, inputs) from a fresh start."""
        b, t, _ = x.shape
        x = (x - self.mean) / self.scale
        parts, first = [], 0
        for k, width in enumerate(self.design.streams):
            memory = x[..., first : first + width].transpose(0, 1).reshape(t * b, width)
            for lstm in self.stream(k):
                zeros = x.new_zeros(1, b, lstm.hidden_size)
                memory = run_packed(lstm, memory, (zeros, zeros), np.full(t, b))
                memory = self.dropout(memory)
            parts.append(memory.reshape(t, b, -1).transpose(0, 1))
            first += width
        parts.append(x[..., first:])
        return self.heads(self.dense(torch.cat(parts, dim=-1)))

    def loss(self, z: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Mean loss of each head, (heads,); a target of NaN does not count.

        Squared errors are divided by the variance of the target (`weights` are its inverse), so that no head
        rules the others. `target` is in the units of the outputs.
        """
        losses = []
        for k, head in enumerate(self.design.heads):
            known = torch.isfinite(target[..., k])
            y, zk = target[..., k][known], z[..., k][known]
            if head.kind == "probability":
                each = nn.functional.binary_cross_entropy_with_logits(zk, y, reduction="none")
            else:
                each = (self._output(k, zk) - y).square() * weights[k]
            losses.append(each.sum() / max(len(y), 1))
        return torch.stack(losses)

    def outputs(self, z: Tensor) -> Tensor:
        """What the heads put out, in their units."""
        return torch.stack([self._output(k, z[..., k]) for k in range(len(self.design.heads))], dim=-1)

    def _output(self, k: int, z: Tensor) -> Tensor:
        head = self.design.heads[k]
        if head.kind == "value":
            return self.head_mean[k] + self.head_scale[k] * z
        if head.kind == "tanh":
            return torch.tanh(z)
        return head.low + (head.high - head.low) * torch.sigmoid(z)

    def compiled(self) -> Network:
        """The network as it runs: standardisation and units folded into the weights."""
        scale, mean = self.scale.cpu().numpy(), self.mean.cpu().numpy()
        inputs, layers, ends, first = self.design.inputs, [], [], 0

        def widen(weight: np.ndarray, bias: np.ndarray, at: slice) -> tuple[np.ndarray, np.ndarray]:
            """Weights on standardised inputs `at` as weights on all raw inputs."""
            wide = np.zeros((len(weight), inputs), np.float64)
            wide[:, at] = weight / scale[at].astype(np.float64)
            return wide.astype(np.float32), (bias - product(wide, mean)).astype(np.float32)

        for k, width in enumerate(self.design.streams):
            at = slice(first, first + width)
            for depth, lstm in enumerate(self.stream(k)):
                layer = layers_of(lstm)[0]
                if depth == 0:
                    arrays = dict(layer.arrays)
                    wide = widen(arrays["weight_ih"], arrays["bias_ih"], at)
                    arrays["weight_ih"], arrays["bias_ih"] = wide
                    layer = Layer("lstm", arrays, reads=(-1,))
                layers.append(layer)
            ends.append(len(layers) - 1)
            first += width
        remembered = len(ends) * (self.design.lstm[-1] if ends else 0)
        dense = layers_of(self.dense) if self.design.dense else []
        heads = layers_of(self.heads)[0].arrays
        for k, layer in enumerate(dense):
            if k == 0:
                layer = self._read_all(layer.arrays, layer.activation, remembered, tuple(ends), widen)
            layers.append(layer)
        outputs = []
        before = len(layers) - 1
        for k, head in enumerate(self.design.heads):
            arrays = {"weight": heads["weight"][k : k + 1], "bias": heads["bias"][k : k + 1]}
            activation = {"tanh": "tanh", "value": "identity"}.get(head.kind, "sigmoid")
            if dense:
                layers.append(Layer("dense", arrays, activation, reads=(before,)))
            else:
                layers.append(self._read_all(arrays, activation, remembered, tuple(ends), widen))
            low, high = (
                (float(self.head_mean[k]), float(self.head_mean[k] + self.head_scale[k]))
                if head.kind == "value"
                else (head.low, head.high)
            )
            if head.kind in ("value", "bounded"):
                stretch = {
                    "weight": np.full((1, 1), high - low, np.float32),
                    "bias": np.full(1, low, np.float32),
                }
                layers.append(Layer("dense", stretch))
            outputs.append(len(layers) - 1)
        return Network(inputs, tuple(layers), tuple(outputs))

    def _read_all(
        self, arrays: Any, activation: str, remembered: int, ends: tuple[int, ...], widen: Any
    ) -> Layer:
        """The first layer after the streams: it reads them and the plain inputs."""
        weight, bias = arrays["weight"], arrays["bias"]
        at = slice(self.design.inputs - self.design.plain, self.design.inputs)
        if not self.design.plain:
            return Layer("dense", dict(arrays), activation, reads=ends)
        wide, bias = widen(weight[:, remembered:], bias, at)
        joined = np.concatenate([weight[:, :remembered], wide], axis=1)
        return Layer("dense", {"weight": joined, "bias": bias}, activation, reads=(*ends, -1))
