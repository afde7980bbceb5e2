"""A memory that scans: a diagonal linear recurrence, read out through gates that read it.

    u = tanh(V x + a),                  f = f_before + r (u - f_before)            filters
    z = sigmoid(W_z [f, x] + b_z),      c = tanh(W_c [f, x] + b_c),
    h = h_before + z (c - h_before)                                                what is read out

The filters are a linear recurrent unit (Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long
Sequences"), real and diagonal: exponential averages, each with a rate r of its own that is learned. What a
hidden state with long stays is estimated by are such averages; but the estimate is no linear function of
them, and who acts on it must know what is seen now. So filters and input go through the gates of a minGRU
(`policies.network.min_gru`), whose fast units show a function of both and whose slow ones remember it: a
second recurrence whose rates depend on the first one's memory. Both stay within (-1, 1) whatever is observed,
and both scan (`policies.network.scan_cell`).
"""

from __future__ import annotations

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
    tanh,
    weight_gradient,
)
from policies.network.min_gru import PackedMinGRU, gate_and_candidate, min_gru, min_gru_forward
from policies.network.packed_lstm import linear, tanh_network, workspace
from policies.network.scan_cell import ScanCell, kept, pack_affine, scan, with_one

SHORTEST, LONGEST = 2.0, 500.0
"""Time constants of the filters at first, steps: from the fastest to the slowest."""
SLOWEST_GATE = 64
"""Steps that the slowest units of the read-out remember at first."""


@compiled_lanes
def filters_forward(x, panels, rate, batch_sizes, before, inputs, driven, filtered):
    """Fill `filtered`, and `inputs` and `driven` (u, what the backward pass needs), from inputs (N, F)."""
    n = filtered.shape[1]
    with_one(x, inputs)
    matmul(inputs, panels, driven)
    row, last = 0, before
    for b in batch_sizes:
        for k in range(b):
            u, f_in, f_out = driven[row + k], last[k], filtered[row + k]
            for j in prange(n):
                u[j] = tanh(u[j])
                f_out[j] = f_in[j] + rate[j] * (u[j] - f_in[j])
        last = filtered[row : row + b]
        row += b


@compiled_lanes
def _filters_backward(d_filtered, rate, batch_sizes, before, filtered, driven, d_rate):
    """Turn `driven` into gradients of the pre-activations, in place; add to `d_rate`, (H,)."""
    n = filtered.shape[1]
    df = np.zeros((batch_sizes[0], n), np.float32)
    row = filtered.shape[0]
    for t in range(batch_sizes.size - 1, -1, -1):
        b = batch_sizes[t]
        row -= b
        last = before[:b] if t == 0 else filtered[row - batch_sizes[t - 1] : row - batch_sizes[t - 1] + b]
        for k in range(b):
            u, f_in, d_out, d_after = driven[row + k], last[k], d_filtered[row + k], df[k]
            for j in prange(n):
                d = d_out[j] + d_after[j]
                d_rate[j] += d * (u[j] - f_in[j])
                d_after[j] = d * (F(1) - rate[j])
                u[j] = d * rate[j] * (F(1) - u[j] * u[j])


@compiled
def lru_step(x, starts, layers, hidden, cell, head, last):
    """One step of E sequences, then a tanh network, then a linear layer; as `packed_lstm.recurrent_step`."""
    _, n, units = hidden.shape
    one_step = np.array([n])
    new_hidden, new_cell = np.empty_like(hidden), np.empty_like(cell)
    x = x[:, : x.shape[1]]  # one type for all layers
    for layer in range(len(layers)):
        filters, rate, panels = layers[layer]
        inputs = np.empty((n, filters.shape[1]), np.float32)
        driven = np.empty((n, filters.shape[0] * PANEL), np.float32)
        before = kept(cell[layer], starts)
        filters_forward(x, filters, rate, one_step, before, inputs, driven, new_cell[layer])
        joined = np.concatenate((new_cell[layer], x), axis=1)
        inputs = np.empty((n, panels.shape[1]), np.float32)
        gates = np.empty((n, panels.shape[0] * PANEL), np.float32)
        before = kept(hidden[layer], starts)
        min_gru_forward(joined, panels, one_step, before, inputs, gates, new_hidden[layer])
        x = new_hidden[layer][:, :units]
    latent = tanh_network(new_hidden[-1], *head)
    return new_hidden, new_cell, latent, linear(latent, *last)


class _PackedFilters(torch.autograd.Function):
    """The filters of one layer. The states before the sequences are data: no gradient flows into them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        weight, bias, rate, before, batch_sizes = arguments
        (n, features), units = x.shape, before.shape[1]
        inputs = workspace.take(n, padded(features + 1))
        driven = workspace.take(n, padded(units))
        filtered, start = np.empty((n, units), np.float32), before.contiguous().numpy()
        panels, rates = pack_affine(weight.detach().numpy(), bias.detach().numpy()), rate.detach().numpy()
        filters_forward(x.detach().numpy(), panels, rates, batch_sizes, start, inputs, driven, filtered)
        ctx.save_for_backward(weight)
        ctx.work, ctx.batch_sizes = (inputs, driven, filtered, start, rates), batch_sizes
        return torch.from_numpy(filtered)

    @staticmethod
    def backward(ctx: Any, d_filtered: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.work is None:
            raise RuntimeError("PackedFilters: backward ran twice on one graph; run the forward pass again.")
        (weight,), (inputs, driven, filtered, start, rates) = ctx.saved_tensors, ctx.work
        ctx.work = None  # `driven` is overwritten
        d_rate = np.zeros_like(rates)
        _filters_backward(
            d_filtered.contiguous().numpy(), rates, ctx.batch_sizes, start, filtered, driven, d_rate
        )
        rows, features = weight.shape
        found = weight_gradient(driven, inputs, rows, features + 1)
        d_weight, d_bias = torch.from_numpy(found).split([features, 1], 1)
        dx = torch.from_numpy(driven)[:, :rows] @ weight if ctx.needs_input_grad[0] else None
        workspace.give(inputs, driven)
        return dx, d_weight, d_bias[:, 0], torch.from_numpy(d_rate), None, None


class LRU(ScanCell):
    """Layers of filters and gates: the hidden state is what is read out, the cell state the filters.

    Layer k has `filter_weight_lk` (H, inputs), `filter_bias_lk` (H,) and `filter_rate_lk` (H,), of which the
    sigmoid is the rate; `weight_lk` (2H, H + inputs) and `bias_lk` (2H,) are gate, then candidate, of filters
    and input side by side. At first the filters' time constants are `SHORTEST` to `LONGEST` steps, evenly on
    a logarithmic scale.
    """

    step: ClassVar[Any] = staticmethod(lru_step)

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers)
        constants = torch.logspace(np.log2(SHORTEST), np.log2(LONGEST), hidden_size, base=2.0)
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else hidden_size
            weight = nn.init.xavier_uniform_(torch.empty(hidden_size, inputs))
            self.register_parameter(f"filter_weight_l{layer}", nn.Parameter(weight))
            self.register_parameter(f"filter_bias_l{layer}", nn.Parameter(torch.zeros(hidden_size)))
            rate = torch.logit(-torch.expm1(-1 / constants))
            self.register_parameter(f"filter_rate_l{layer}", nn.Parameter(rate))
            weight, bias = gate_and_candidate(hidden_size, hidden_size + inputs, SLOWEST_GATE)
            self.register_parameter(f"weight_l{layer}", weight)
            self.register_parameter(f"bias_l{layer}", bias)

    def filters(self, layer: int) -> tuple[Any, Any, Tensor]:
        """Weight, bias and rate (H,) of a layer's filters."""
        weight, bias, rate = (getattr(self, f"filter_{name}_l{layer}") for name in ("weight", "bias", "rate"))
        return weight, bias, rate.sigmoid()

    def weights(self, layer: int) -> tuple[Any, Any]:
        """Weight and bias of a layer's gates and candidates."""
        return getattr(self, f"weight_l{layer}"), getattr(self, f"bias_l{layer}")

    def packed_weights(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """See `ScanCell`."""
        packed = []
        for layer in range(self.num_layers):
            weight, bias, rate, *gates = (
                w.detach().numpy() for w in (*self.filters(layer), *self.weights(layer))
            )
            packed.append((pack_affine(weight, bias), rate, pack_affine(*gates)))
        return tuple(packed)

    def scan_layer(self, layer: int, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """See `ScanCell`."""
        weight, bias, rate = self.filters(layer)
        driven = nn.functional.linear(x, weight, bias).tanh()
        filtered = scan((1 - rate).expand_as(driven), rate * driven, cell)
        gates = nn.functional.linear(torch.cat([filtered, x], -1), *self.weights(layer))
        return min_gru(gates, hidden), filtered

    def run_layer(
        self, layer: int, x: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: np.ndarray
    ) -> Tensor:
        """See `ScanCell`."""
        filtered = _PackedFilters.apply(x, *self.filters(layer), cell, batch_sizes)
        return PackedMinGRU.apply(torch.cat([filtered, x], 1), *self.weights(layer), hidden, batch_sizes)
