"""A memory that scans: the minimal gated recurrent unit, in torch and compiled for the CPU.

    z = sigmoid(W_z x + b_z),    c = tanh(W_c x + b_c),    h = (1 - z) h_before + z c

minGRU of Feng et al. (2024), "Were RNNs All We Needed?", section 3.1, with a tanh around the candidate, so
that the memory stays within (-1, 1) whatever is observed. Gate and candidate do not read the memory: both are
one product over all steps at once, and what is left is linear in h (`policies.network.scan_cell`).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn

from policies.network.compiled import (
    PANEL,
    F,
    compiled,
    compiled_lanes,
    matmul,
    padded,
    sigmoid,
    tanh,
    weight_gradient,
)
from policies.network.packed_lstm import linear, tanh_network, workspace
from policies.network.scan_cell import ScanCell, kept, pack_affine, scan, with_one

LONGEST = 256
"""Steps that the slowest units remember at first."""


def gate_and_candidate(units: int, inputs: int, longest: float) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (2H, inputs) and bias (2H,) to begin with.

    The units forget at rates from 1 to 1 / `longest` a step, evenly on a logarithmic scale (after Tallec &
    Ollivier 2018, "Can recurrent neural networks warp time?"): the fastest see what is observed now, the
    slowest what most of an episode was like.
    """
    weight = torch.empty(2 * units, inputs)
    for part in weight.split(units):
        nn.init.xavier_uniform_(part)
    forget = torch.logspace(0, -math.log2(longest), units + 1, base=2.0)[1:]
    bias = torch.cat([torch.logit(forget), torch.zeros(units)])
    return nn.Parameter(weight), nn.Parameter(bias)


def min_gru(gates: Tensor, before: Tensor) -> Tensor:
    """The states (T, n, H) after each step, from gate and candidate (T, n, 2H) before their activations."""
    gate, candidate = gates.chunk(2, -1)
    gate = gate.sigmoid()
    return scan(1 - gate, gate * candidate.tanh(), before)


# Compiled ---------------------------------------------------------------------------------------------------


@compiled_lanes
def min_gru_forward(x, panels, batch_sizes, before, inputs, gates, hidden):
    """Fill `hidden`, and `inputs` and `gates` (what the backward pass needs), from inputs (N, F)."""
    n = hidden.shape[1]
    with_one(x, inputs)
    matmul(inputs, panels, gates)
    row, last = 0, before
    for b in batch_sizes:
        for k in range(b):
            g, h_in, h_out = gates[row + k], last[k], hidden[row + k]
            for j in prange(n):
                z, c = sigmoid(g[j]), tanh(g[n + j])
                g[j], g[n + j] = z, c
                h_out[j] = h_in[j] + z * (c - h_in[j])
        last = hidden[row : row + b]
        row += b


@compiled_lanes
def _backward(d_hidden, batch_sizes, before, hidden, gates):
    """Turn `gates` from activations into gradients of the pre-activations, in place."""
    n = hidden.shape[1]
    dh = np.zeros((batch_sizes[0], n), np.float32)
    row = hidden.shape[0]
    for t in range(batch_sizes.size - 1, -1, -1):
        b = batch_sizes[t]
        row -= b
        last = before[:b] if t == 0 else hidden[row - batch_sizes[t - 1] : row - batch_sizes[t - 1] + b]
        for k in range(b):
            g, h_in, d_out, d_after = gates[row + k], last[k], d_hidden[row + k], dh[k]
            for j in prange(n):
                z, c = g[j], g[n + j]
                d = d_out[j] + d_after[j]
                g[j] = d * (c - h_in[j]) * z * (F(1) - z)
                g[n + j] = d * z * (F(1) - c * c)
                d_after[j] = d * (F(1) - z)


@compiled
def min_gru_step(x, starts, layers, hidden, cell, head, last):
    """One step of E sequences, then a tanh network, then a linear layer; as `packed_lstm.recurrent_step`."""
    _, n, units = hidden.shape
    one_step, new_hidden = np.array([n]), np.empty_like(hidden)
    x = x[:, : x.shape[1]]  # one type for all layers
    for layer in range(len(layers)):
        panels, before = layers[layer], kept(hidden[layer], starts)
        inputs = np.empty((n, panels.shape[1]), np.float32)
        gates = np.empty((n, panels.shape[0] * PANEL), np.float32)
        min_gru_forward(x, panels, one_step, before, inputs, gates, new_hidden[layer])
        x = new_hidden[layer][:, :units]
    latent = tanh_network(new_hidden[-1], *head)
    return new_hidden, cell, latent, linear(latent, *last)


class PackedMinGRU(torch.autograd.Function):
    """One layer. The states before the sequences are data: no gradient flows into them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        weight, bias, before, batch_sizes = arguments
        (n, features), units = x.shape, before.shape[1]
        inputs = workspace.take(n, padded(features + 1))
        gates = workspace.take(n, padded(2 * units))
        hidden, start = np.empty((n, units), np.float32), before.contiguous().numpy()
        panels = pack_affine(weight.detach().numpy(), bias.detach().numpy())
        min_gru_forward(x.detach().numpy(), panels, batch_sizes, start, inputs, gates, hidden)
        ctx.save_for_backward(weight)
        ctx.work, ctx.batch_sizes = (inputs, gates, hidden, start), batch_sizes
        return torch.from_numpy(hidden)

    @staticmethod
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.work is None:
            raise RuntimeError("PackedMinGRU: backward ran twice on one graph; run the forward pass again.")
        (weight,), (inputs, gates, hidden, start) = ctx.saved_tensors, ctx.work
        ctx.work = None  # the gates are overwritten
        _backward(d_hidden.contiguous().numpy(), ctx.batch_sizes, start, hidden, gates)
        rows, features = weight.shape
        found = weight_gradient(gates, inputs, rows, features + 1)
        d_weight, d_bias = torch.from_numpy(found).split([features, 1], 1)
        dx = torch.from_numpy(gates)[:, :rows] @ weight if ctx.needs_input_grad[0] else None
        workspace.give(inputs, gates)
        return dx, d_weight, d_bias[:, 0], None, None


class MinGRU(ScanCell):
    """Layers of minimal gated recurrent units; the cell state passes through.

    Layer k has `weight_lk` (2H, inputs) and `bias_lk` (2H,): gate, then candidate; see `gate_and_candidate`.
    """

    step: ClassVar[Any] = staticmethod(min_gru_step)

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers)
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else hidden_size
            weight, bias = gate_and_candidate(hidden_size, inputs, LONGEST)
            self.register_parameter(f"weight_l{layer}", weight)
            self.register_parameter(f"bias_l{layer}", bias)

    def weights(self, layer: int) -> tuple[Any, Any]:
        """Weight and bias of a layer."""
        return getattr(self, f"weight_l{layer}"), getattr(self, f"bias_l{layer}")

    def packed_weights(self) -> tuple[np.ndarray, ...]:
        """See `ScanCell`."""
        layers = map(self.weights, range(self.num_layers))
        return tuple(pack_affine(*(w.detach().numpy() for w in layer)) for layer in layers)

    def scan_layer(self, layer: int, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """See `ScanCell`."""
        hidden = min_gru(nn.functional.linear(x, *self.weights(layer)), hidden)
        return hidden, cell.expand_as(hidden)

    def run_layer(
        self, layer: int, x: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: np.ndarray
    ) -> Tensor:
        """See `ScanCell`."""
        return PackedMinGRU.apply(x, *self.weights(layer), hidden, batch_sizes)
