"""A GRU over packed sequences, compiled for the CPU, as a differentiable torch function.

    r, z = sigmoid(W_r x + U_r h + b_r), sigmoid(W_z x + U_z h + b_z)
    n = tanh(W_n x + a_n + r (U_n h + b_n)),    h = (1 - z) n + z h_before

Cho et al. (2014), the reset gate applied after the product, in `torch.nn.GRU`'s gate order r, z, n: on the
CPU torch has no kernel for a whole sequence of it. The two halves of n are columns of their own, so that one
product does both weights and the biases, as in `policies.network.packed_lstm`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from policies.network.compiled import (
    PANEL,
    F,
    compiled,
    compiled_lanes,
    matmul,
    pack,
    padded,
    sigmoid,
    tanh,
    weight_gradient,
)
from policies.network.packed_lstm import Piece, linear, lstm_weights, on_cpu, tanh_network, workspace
from policies.network.scan_cell import kept


@compiled_lanes
def _forward(x, panels, batch_sizes, before, inputs, gates, hidden):
    """Fill `hidden`, and `inputs` (N, input, 1, hidden state before, zeros) and `gates` (N, r, z, n and
    U_n h + b_n: what the backward pass needs), from inputs (N, F) and states before each sequence."""
    n, features = hidden.shape[1], x.shape[1]
    row, last = 0, before
    for b in batch_sizes:
        rows = inputs[row : row + b]
        for k in range(b):
            into, seen, remembered = rows[k], x[row + k], last[k]
            for j in prange(features):
                into[j] = seen[j]
            into[features] = F(1)
            for j in prange(n):
                into[features + 1 + j] = remembered[j]
            for j in range(features + 1 + n, into.size):
                into[j] = F(0)
        matmul(rows, panels, gates[row : row + b])
        for k in range(b):
            g, h_in, h_out = gates[row + k], last[k], hidden[row + k]
            for j in prange(n):
                r, z = sigmoid(g[j]), sigmoid(g[n + j])
                new = tanh(g[2 * n + j] + r * g[3 * n + j])
                g[j], g[n + j], g[2 * n + j] = r, z, new
                h_out[j] = new + z * (h_in[j] - new)
        last = hidden[row : row + b]
        row += b


@compiled_lanes
def _backward(d_hidden, panels, batch_sizes, before, hidden, gates):
    """Turn `gates` from activations into gradients of the four columns, in place."""
    n = hidden.shape[1]
    through_gates = np.zeros((batch_sizes[0], panels.shape[0] * panels.shape[2]), np.float32)
    through_memory = np.zeros((batch_sizes[0], n), np.float32)
    row = hidden.shape[0]
    for t in range(batch_sizes.size - 1, -1, -1):
        b = batch_sizes[t]
        row -= b
        last = before[:b] if t == 0 else hidden[row - batch_sizes[t - 1] : row - batch_sizes[t - 1] + b]
        for k in range(b):
            g, h_in, d_out, d_gates, d_kept = (
                gates[row + k], last[k], d_hidden[row + k], through_gates[k], through_memory[k],
            )  # fmt: skip
            for j in prange(n):
                r, z, new, recurrent = g[j], g[n + j], g[2 * n + j], g[3 * n + j]
                d = d_out[j] + d_gates[j] + d_kept[j]
                d_new = d * (F(1) - z) * (F(1) - new * new)
                g[j] = d_new * recurrent * r * (F(1) - r)
                g[n + j] = d * (h_in[j] - new) * z * (F(1) - z)
                g[2 * n + j] = d_new
                g[3 * n + j] = d_new * r
                d_kept[j] = d * z
        if t > 0:
            matmul(gates[row : row + b], panels, through_gates[:b])


@compiled
def _pack(w_ih, w_hh, b_ih, b_hh):
    """What `_forward` multiplies with: rows are input, 1, hidden state, columns r, z and the halves of n."""
    units, features = w_hh.shape[1], w_ih.shape[1]
    weights = np.zeros((features + 1 + units, 4 * units), np.float32)
    for i in range(3 * units):  # by number: numba compiles seconds for the check that slices agree
        of_memory = i if i < 2 * units else i + units
        for j in range(features):
            weights[j, i] = w_ih[i, j]
        weights[features, i] += b_ih[i]
        weights[features, of_memory] += b_hh[i]
        for j in range(units):
            weights[features + 1 + j, of_memory] = w_hh[i, j]
    return pack(weights)


@compiled
def _pack_backward(w_hh):
    """Of the hidden state alone, transposed: rows are the four columns of `_pack`."""
    units = w_hh.shape[1]
    weights = np.zeros((4 * units, units), np.float32)
    for i in range(3 * units):
        for j in range(units):
            weights[i if i < 2 * units else i + units, j] = w_hh[i, j]
    return pack(weights)


@compiled
def gru_step(x, starts, layers, hidden, cell, head, last):
    """One step of E sequences, then a tanh network, then a linear layer; as `packed_lstm.recurrent_step`."""
    _, n, units = hidden.shape
    one_step, new_hidden = np.array([n]), np.empty_like(hidden)
    x = x[:, : x.shape[1]]  # one type for all layers
    for layer in range(len(layers)):
        panels, before = layers[layer], kept(hidden[layer], starts)
        inputs = np.empty((n, panels.shape[1]), np.float32)
        gates = np.empty((n, panels.shape[0] * PANEL), np.float32)
        _forward(x, panels, one_step, before, inputs, gates, new_hidden[layer])
        x = new_hidden[layer][:, :units]
    latent = tanh_network(new_hidden[-1], *head)
    return new_hidden, cell, latent, linear(latent, *last)


class PackedGRU(torch.autograd.Function):
    """One layer. The states before the sequences are data: no gradient flows into them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        *weights, before, batch_sizes = arguments
        (n, features), units = x.shape, before.shape[1]
        inputs = workspace.take(n, padded(features + 1 + units))
        gates = workspace.take(n, padded(4 * units))
        hidden, start = np.empty((n, units), np.float32), before.contiguous().numpy()
        panels = _pack(*(weight.detach().numpy() for weight in weights))
        _forward(x.detach().numpy(), panels, batch_sizes, start, inputs, gates, hidden)
        ctx.save_for_backward(*weights[:2])
        ctx.work, ctx.batch_sizes = (inputs, gates, hidden, start), batch_sizes
        return torch.from_numpy(hidden)

    @staticmethod
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.work is None:
            raise RuntimeError("PackedGRU: backward ran twice on one graph; run the forward pass again.")
        (w_ih, w_hh), (inputs, gates, hidden, start) = ctx.saved_tensors, ctx.work
        ctx.work = None  # the gates are overwritten
        panels = _pack_backward(w_hh.detach().numpy())
        _backward(d_hidden.contiguous().numpy(), panels, ctx.batch_sizes, start, hidden, gates)
        features, units = w_ih.shape[1], w_hh.shape[1]
        found = torch.from_numpy(weight_gradient(gates, inputs, 4 * units, features + 1 + units))
        of_input = found[: 3 * units]
        of_memory = torch.cat([found[: 2 * units], found[3 * units :]])
        dx = torch.from_numpy(gates)[:, : 3 * units] @ w_ih if ctx.needs_input_grad[0] else None
        workspace.give(inputs, gates)
        return (
            dx,
            of_input[:, :features],
            of_memory[:, features + 1 :],
            of_input[:, features],
            of_memory[:, features],
            None,
            None,
        )


class GRU(nn.GRU):
    """`torch.nn.GRU` called like an LSTM: its state is (hidden, cell), and the cell passes through."""

    step: ClassVar[Any] = staticmethod(gru_step)

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels can run it."""
        plain = self.bias and not (self.bidirectional or self.dropout)
        return plain and on_cpu(self.weight_hh_l0)

    def packed_weights(self) -> tuple[np.ndarray, ...]:
        """The weights of each layer as `step` wants them."""
        layers = (lstm_weights(self, layer) for layer in range(self.num_layers))
        return tuple(_pack(*(weight.detach().numpy() for weight in layer)) for layer in layers)

    def forward(self, x: Any, state: Any) -> Any:  # type: ignore[override]
        output, hidden = super().forward(x, state[0])
        return output, (hidden, state[1])

    def run_packed(self, x: Tensor, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Tensor:
        """Output (N, H) over packed sequences, as `packed_lstm.run_packed`."""
        if not self.compiled:
            return self(PackedSequence(x, torch.from_numpy(batch_sizes)), state)[0].data
        for function, weights, data in self.packed_layers(state, batch_sizes):
            x = function.apply(x, *weights, *data)
        return x

    def packed_layers(self, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Iterator[Piece]:
        """The layers, as `packed_lstm.packed_layers`."""
        for layer in range(self.num_layers):
            yield PackedGRU, lstm_weights(self, layer), (state[0][layer], batch_sizes)
