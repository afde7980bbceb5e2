"""A memory that scans: the minimal gated recurrent unit, in torch and compiled for the CPU.

    z = sigmoid(W_z x + b_z),    c = tanh(W_c x + b_c),    h = (1 - z) h_before + z c

minGRU of Feng et al. (2024), "Were RNNs All We Needed?", section 3.1, with a tanh around the candidate, so
that the memory stays within (-1, 1) whatever is observed. Gate and candidate do not read the memory: both are
one product over all steps at once, and what is left is linear in h. On the CPU that is a pass over time
without a product in it; elsewhere a scan in log2(T) passes over tensors.

Packed sequences are those of `policies.network.packed_lstm`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from policies.network.compiled import (
    PANEL,
    F,
    add_transposed_matmul,
    compiled,
    compiled_lanes,
    matmul,
    pack,
    padded,
    sigmoid,
    tanh,
)
from policies.network.packed_lstm import linear, on_cpu, tanh_network, workspace

LONGEST = 256
"""Steps that the slowest units remember at first."""


class MinGRU(nn.Module):
    """Called like an LSTM: its state is (hidden, cell), (layers, n, H) each, and the cell passes through.

    At first the units forget at rates from 1 to 1 / `LONGEST` a step, evenly on a logarithmic scale (after
    Tallec & Ollivier 2018, "Can recurrent neural networks warp time?"): the fastest see what is observed now,
    the slowest what most of an episode was like.

    Parameters
    ----------
    input_size, hidden_size, num_layers
        As in `torch.nn.GRU`. Layer k has `weight_lk` (2H, inputs) and `bias_lk` (2H,): gate, then candidate.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        forget = torch.logspace(0, -math.log2(LONGEST), hidden_size + 1, base=2.0)[1:]
        for layer in range(num_layers):
            weight = torch.empty(2 * hidden_size, input_size if layer == 0 else hidden_size)
            gate, candidate = weight.split(hidden_size)
            nn.init.xavier_uniform_(gate)
            nn.init.xavier_uniform_(candidate)
            bias = torch.cat([torch.logit(forget), torch.zeros(hidden_size)])
            self.register_parameter(f"weight_l{layer}", nn.Parameter(weight))
            self.register_parameter(f"bias_l{layer}", nn.Parameter(bias))

    def weights(self, layer: int) -> tuple[Any, Any]:
        """Weight and bias of a layer."""
        return getattr(self, f"weight_l{layer}"), getattr(self, f"bias_l{layer}")

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels can run it."""
        return bool(on_cpu(self.weights(0)[0]))

    def forward(self, x: Any, state: Any) -> Any:
        """Outputs and the state after; `x` (T, n, inputs) or packed, the outputs alike."""
        packed = isinstance(x, PackedSequence)
        steps, lengths = pad_packed_sequence(x) if packed else (x, torch.full((x.shape[1],), len(x)))
        last, sequences = (lengths - 1).to(steps.device), torch.arange(steps.shape[1], device=steps.device)
        hidden = []
        for layer, before in enumerate(state[0]):
            gate, candidate = nn.functional.linear(steps, *self.weights(layer)).chunk(2, -1)
            gate = gate.sigmoid()
            steps = scan(1 - gate, gate * candidate.tanh(), before)
            hidden.append(steps[last, sequences])
        if packed:
            steps = PackedSequence(pack_padded_sequence(steps, lengths).data, x.batch_sizes)
        return steps, (torch.stack(hidden), state[1])


def scan(keep: Tensor, add: Tensor, before: Tensor) -> Tensor:
    """h[t] = keep[t] h[t-1] + add[t] along the first axis, h[-1] = `before`: by doubling, after Hillis and
    Steele (1986)."""
    add = torch.cat([add[:1] + keep[:1] * before, add[1:]])
    reach = 1
    while reach < len(keep):
        add = torch.cat([add[:reach], add[reach:] + keep[reach:] * add[:-reach]])
        keep = torch.cat([keep[:reach], keep[reach:] * keep[:-reach]])
        reach *= 2
    return add


# Compiled ---------------------------------------------------------------------------------------------------


@compiled_lanes
def _forward(x, panels, batch_sizes, before, inputs, gates, hidden):
    """Fill `hidden`, and `inputs` and `gates` (what the backward pass needs), from inputs (N, F)."""
    features, n = x.shape[1], hidden.shape[1]
    for k in range(x.shape[0]):
        into, seen = inputs[k], x[k]
        for j in prange(features):
            into[j] = seen[j]
        into[features] = F(1)
        for j in range(features + 1, into.size):
            into[j] = F(0)
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
def _pack(weight, bias):
    weights = np.empty((weight.shape[1] + 1, len(bias)), np.float32)
    for i in range(len(bias)):
        for j in range(weight.shape[1]):
            weights[j, i] = weight[i, j]
        weights[-1, i] = bias[i]
    return pack(weights)


def pack_min_gru(rnn: MinGRU) -> tuple[np.ndarray, ...]:
    """The weights of its layers as `min_gru_step` wants them."""
    return tuple(_pack(*(w.detach().numpy() for w in rnn.weights(k))) for k in range(rnn.num_layers))


@compiled
def min_gru_step(x, starts, layers, hidden, cell, head, last):
    """One step of E sequences, then a tanh network, then a linear layer; as `packed_lstm.recurrent_step`."""
    _, n, units = hidden.shape
    one_step, new_hidden = np.array([n]), np.empty_like(hidden)
    x = x[:, : x.shape[1]]  # one type for all layers
    for layer in range(len(layers)):
        panels, before = layers[layer], np.empty_like(hidden[layer])
        for e in range(n):
            keep = F(0) if starts[e] else F(1)
            for j in range(units):
                before[e, j] = keep * hidden[layer, e, j]
        inputs = np.empty((n, panels.shape[1]), np.float32)
        gates = np.empty((n, panels.shape[0] * PANEL), np.float32)
        _forward(x, panels, one_step, before, inputs, gates, new_hidden[layer])
        x = new_hidden[layer][:, :units]
    latent = tanh_network(new_hidden[-1], *head)
    return new_hidden, cell, latent, linear(latent, *last)


class _PackedMinGRU(torch.autograd.Function):
    """One layer. The states before the sequences are data: no gradient flows into them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        weight, bias, before, batch_sizes = arguments
        (n, features), units = x.shape, before.shape[1]
        inputs = workspace.take(n, padded(features + 1))
        gates = workspace.take(n, padded(2 * units))
        hidden, start = np.empty((n, units), np.float32), before.contiguous().numpy()
        panels = _pack(weight.detach().numpy(), bias.detach().numpy())
        _forward(x.detach().numpy(), panels, batch_sizes, start, inputs, gates, hidden)
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
        found = np.zeros((gates.shape[1], inputs.shape[1]), np.float32)
        add_transposed_matmul(gates, inputs, found)
        d_weight, d_bias = torch.from_numpy(found)[:rows, : features + 1].split([features, 1], 1)
        dx = torch.from_numpy(gates)[:, :rows] @ weight if ctx.needs_input_grad[0] else None
        workspace.give(inputs, gates)
        return dx, d_weight, d_bias[:, 0], None, None


def run_packed(rnn: MinGRU, x: Tensor, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Tensor:
    """Output (N, H) over packed sequences, as `packed_lstm.run_packed`."""
    if not rnn.compiled:
        return rnn(PackedSequence(x, torch.from_numpy(batch_sizes)), state)[0].data
    for layer in range(rnn.num_layers):
        x = _PackedMinGRU.apply(x, *rnn.weights(layer), state[0][layer], batch_sizes)
    return x
