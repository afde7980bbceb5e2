"""An LSTM over packed sequences and a tanh network, both compiled for the CPU, as differentiable torch
functions.

Packed means the layout of `torch.nn.utils.rnn.PackedSequence`: sequences sorted by falling length, all their
first steps, then all their second steps, and so on. Step t works on the first `batch_sizes[t]` sequences, so
sequences of any lengths run together and there is no padding anywhere.

Only what is worth it is compiled: one-directional LSTMs and tanh layers, on CPU in float32. The rest (GPU,
other activations) goes to torch's own kernels. The compiled loops release the GIL, so several threads
can work at once.

LSTM: Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), in `torch.nn.LSTM`'s gate
order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from policies.network.compiled import (
    BLOCK,
    PANEL,
    F,
    Workspace,
    add_transposed_matmul,
    compiled,
    compiled_lanes,
    matmul,
    pack,
    padded,
    sigmoid,
    tanh,
    weight_gradient,
)

workspace = Workspace()

Piece = tuple[Any, list[Tensor], tuple[Any, ...]]
"""A part of a network: an autograd function, the parameters that it takes after its input, and then data."""

# LSTM -------------------------------------------------------------------------------------------------------


class LSTMWork(NamedTuple):
    """What a forward pass of one layer over N steps leaves behind. F inputs, H units."""

    # Input, 1, previous hidden state, zeros to a whole panel: one product does both weights and the bias.
    inputs: np.ndarray  # (N, padded F + 1 + H)
    gates: np.ndarray  # (N, padded 4H): activations of i, f, g, o
    cell_before: np.ndarray  # (sequences, H)
    hidden: np.ndarray  # (N, H)
    cell: np.ndarray  # (N, H)
    tanh_cell: np.ndarray  # (N, H)


@compiled_lanes
def _lstm_forward(x, panels, batch_sizes, hidden_before, work):
    """Fill `work` from inputs (N, F) and the states before each sequence."""
    inputs, gates, cell_before, hidden, cell, tanh_cell = work
    n, features = hidden.shape[1], x.shape[1]
    row, last_hidden, last_cell = 0, hidden_before, cell_before
    for b in batch_sizes:
        rows = inputs[row : row + b]
        for k in range(b):
            into, seen, remembered = rows[k], x[row + k], last_hidden[k]
            for j in prange(features):
                into[j] = seen[j]
            into[features] = F(1)
            for j in prange(n):
                into[features + 1 + j] = remembered[j]
            for j in range(features + 1 + n, into.size):
                into[j] = F(0)
        matmul(rows, panels, gates[row : row + b])
        for k in range(b):
            g, c_in = gates[row + k], last_cell[k]
            h_out, c_out, tanh_out = hidden[row + k], cell[row + k], tanh_cell[row + k]
            for j in prange(n):
                i, f, u, o = sigmoid(g[j]), sigmoid(g[n + j]), tanh(g[2 * n + j]), sigmoid(g[3 * n + j])
                c = f * c_in[j] + i * u
                tanh_c = tanh(c)
                g[j], g[n + j], g[2 * n + j], g[3 * n + j] = i, f, u, o
                c_out[j], tanh_out[j], h_out[j] = c, tanh_c, o * tanh_c
        last_hidden, last_cell = hidden[row : row + b], cell[row : row + b]
        row += b


@compiled_lanes
def _lstm_backward(d_hidden, panels, batch_sizes, work):
    """Turn the gates of `work` from activations into gradients of the pre-activations, in place."""
    _, gates, cell_before, _, cell, tanh_cell = work
    n = cell.shape[1]
    dh = np.zeros((batch_sizes[0], panels.shape[0] * panels.shape[2]), np.float32)
    dc = np.zeros((batch_sizes[0], n), np.float32)
    row = gates.shape[0]
    for t in range(batch_sizes.size - 1, -1, -1):
        b = batch_sizes[t]
        row -= b
        last_cell = (
            cell_before[:b] if t == 0 else cell[row - batch_sizes[t - 1] : row - batch_sizes[t - 1] + b]
        )
        for k in range(b):
            g, c_in, tanh_c, dh_out, dhk, dck = (
                gates[row + k], last_cell[k], tanh_cell[row + k], d_hidden[row + k], dh[k], dc[k],
            )  # fmt: skip
            for j in prange(n):
                i, f, u, o = g[j], g[n + j], g[2 * n + j], g[3 * n + j]
                d = dh_out[j] + dhk[j]
                e = dck[j] + d * o * (F(1) - tanh_c[j] * tanh_c[j])
                g[j] = e * u * i * (F(1) - i)
                g[n + j] = e * c_in[j] * f * (F(1) - f)
                g[2 * n + j] = e * i * (F(1) - u * u)
                g[3 * n + j] = d * tanh_c[j] * o * (F(1) - o)
                dck[j] = e * f
        if t > 0:
            matmul(gates[row : row + b], panels, dh[:b])


@compiled
def _pack_lstm(w_ih, w_hh, b_ih, b_hh):
    features = w_ih.shape[1]
    weights = np.empty((len(w_ih), features + 1 + w_hh.shape[1]), np.float32)
    for i in range(len(weights)):  # by number: numba compiles seconds for the check that slices agree
        for j in range(features):
            weights[i, j] = w_ih[i, j]
        weights[i, features] = b_ih[i] + b_hh[i]
        for j in range(w_hh.shape[1]):
            weights[i, features + 1 + j] = w_hh[i, j]
    return pack(weights.T)


def pack_lstm(*weights: Tensor) -> np.ndarray:
    """Weights of one layer (w_ih, w_hh, b_ih, b_hh) as `lstm_forward` wants them."""
    return _pack_lstm(*(weight.detach().numpy() for weight in weights))


def lstm_forward(
    x: np.ndarray, hidden: np.ndarray, cell: np.ndarray, panels: np.ndarray, batch_sizes: np.ndarray
) -> LSTMWork:
    """One layer over packed steps.

    Parameters
    ----------
    x
        Inputs, (N, F).
    hidden, cell
        States before each sequence, (sequences, H), contiguous.
    panels
        What `pack_lstm` gave.
    batch_sizes
        How many sequences have a t-th step, int64, falling; it sums to N.
    """
    (n, features), units = x.shape, hidden.shape[1]
    work = LSTMWork(
        workspace.take(n, padded(features + 1 + units)),
        workspace.take(n, padded(4 * units)),
        cell,
        np.empty((n, units), np.float32),
        workspace.take(n, units),
        workspace.take(n, units),
    )
    _lstm_forward(x, panels, batch_sizes, hidden, work)
    return work


@compiled
def lstm_step(x, starts, layers, hidden, cell):
    """States (layers, E, H) of E sequences after one step.

    Parameters
    ----------
    x
        Inputs, (E, F).
    starts
        Whether the sequence starts here, (E,).
    layers
        A tuple of what `pack_lstm` gave for each layer.
    hidden, cell
        States before the step, (layers, E, H).
    """
    _, n, units = hidden.shape
    one_step = np.array([n])
    new_hidden, new_cell, tanh_cell = np.empty_like(hidden), np.empty_like(cell), np.empty_like(hidden[0])
    gates = np.empty((n, layers[0].shape[0] * PANEL), np.float32)
    x = x[:, : x.shape[1]]  # one type for all layers
    for layer in range(len(layers)):
        panels = layers[layer]
        inputs = np.empty((n, panels.shape[1]), np.float32)
        before = np.empty_like(hidden[layer])
        cell_before = np.empty_like(before)
        for e in range(n):
            keep = F(0) if starts[e] else F(1)
            for j in range(units):
                before[e, j], cell_before[e, j] = keep * hidden[layer, e, j], keep * cell[layer, e, j]
        work = LSTMWork(inputs, gates, cell_before, new_hidden[layer], new_cell[layer], tanh_cell)
        _lstm_forward(x, panels, one_step, before, work)
        x = new_hidden[layer][:, :units]
    return new_hidden, new_cell


class PackedLSTM(torch.autograd.Function):
    """One layer. The states before the sequences are data: no gradient flows into them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        *weights, hidden, cell, batch_sizes = arguments
        states = hidden.contiguous().numpy(), cell.contiguous().numpy()
        work = lstm_forward(x.detach().numpy(), *states, pack_lstm(*weights), batch_sizes)
        ctx.save_for_backward(*weights[:2])
        ctx.work, ctx.batch_sizes = work, batch_sizes
        return torch.from_numpy(work.hidden)

    @staticmethod
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.work is None:
            raise RuntimeError("PackedLSTM: backward ran twice on one graph; run the forward pass again.")
        (w_ih, w_hh), work = ctx.saved_tensors, ctx.work
        ctx.work = None  # the gates are overwritten
        panels = pack(w_hh.detach().numpy())
        _lstm_backward(d_hidden.contiguous().numpy(), panels, ctx.batch_sizes, work)
        features, units = w_ih.shape[1], w_hh.shape[1]
        weights = weight_gradient(work.gates, work.inputs, len(w_hh), features + 1 + units)
        dw_ih, db, dw_hh = torch.from_numpy(weights).split([features, 1, units], 1)
        dx = torch.from_numpy(work.gates)[:, : len(w_hh)] @ w_ih if ctx.needs_input_grad[0] else None
        workspace.give(work.inputs, work.gates, work.cell, work.tanh_cell)
        return dx, dw_ih, dw_hh, db[:, 0], db[:, 0], None, None, None


def lstm_weights(rnn: nn.RNNBase, layer: int) -> list[Tensor]:
    return [getattr(rnn, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def is_plain_lstm(rnn: nn.RNNBase) -> bool:
    """Whether the compiled kernel knows this layer."""
    plain = type(rnn) is nn.LSTM and rnn.bias and not (rnn.bidirectional or rnn.proj_size or rnn.dropout)
    return plain and on_cpu(rnn.weight_hh_l0)


def run_packed(rnn: nn.RNNBase, x: Tensor, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Tensor:
    """Output (N, H) of `rnn` over packed sequences.

    Parameters
    ----------
    rnn
        An LSTM, or a cell that is called like one.
    x
        Inputs, packed, (N, F).
    state
        Hidden and cell state before each sequence, (layers, sequences, H) each; constants.
    batch_sizes
        How many sequences have a t-th step, int64, falling; it sums to N.
    """
    if not is_plain_lstm(rnn):
        return rnn(PackedSequence(x, torch.from_numpy(batch_sizes)), state)[0].data
    for function, weights, data in packed_layers(rnn, state, batch_sizes):
        x = function.apply(x, *weights, *data)
    return x


def packed_layers(rnn: nn.RNNBase, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Iterator[Piece]:
    """The layers of a plain LSTM; arguments as `run_packed`."""
    for layer in range(rnn.num_layers):
        yield PackedLSTM, lstm_weights(rnn, layer), (state[0][layer], state[1][layer], batch_sizes)


HALF_LOG_TWO_PI = F(0.5 * np.log(2 * np.pi))

# Tanh network -----------------------------------------------------------------------------------------------


@compiled_lanes
def linear_tanh(x, panels, bias, y):
    """y = tanh(x @ weights + bias); y is (N, padded M)."""
    matmul(x, panels, y)
    for k in range(y.shape[0]):
        row = y[k]
        for j in prange(bias.size):
            row[j] = tanh(row[j] + bias[j])


@compiled
def tanh_network(x, panels, biases):
    """(n, M) of a network of tanh layers; `panels` and `biases`: a tuple with an entry per layer."""
    x = x[:, : x.shape[1]]  # one type for all layers
    for layer in range(len(panels)):
        y = np.empty((x.shape[0], panels[layer].shape[0] * PANEL), np.float32)
        linear_tanh(x, panels[layer], biases[layer], y)
        x = y[:, : biases[layer].size]
    return x


@compiled
def linear(x, panels, bias):
    """x @ weights + bias, (n, M)."""
    y = np.empty((x.shape[0], panels.shape[0] * PANEL), np.float32)
    matmul(x, panels, y)
    for k in range(y.shape[0]):
        for j in range(bias.size):
            y[k, j] += bias[j]
    return y[:, : bias.size]


@compiled
def recurrent_step(x, starts, layers, hidden, cell, head, last):
    """`lstm_step`, then a tanh network, then a linear layer.

    Parameters
    ----------
    head, last
        Arguments of `tanh_network` and of `linear` after the first.

    Returns
    -------
    tuple
        New hidden and cell states, the result of the tanh network, that of the linear layer.
    """
    hidden, cell = lstm_step(x, starts, layers, hidden, cell)
    latent = tanh_network(hidden[-1], *head)
    return hidden, cell, latent, linear(latent, *last)


@compiled
def network_step(x, memory, first, head, last):
    """A linear layer over `x` and `memory` side by side, then a tanh network, then a linear layer."""
    return linear(tanh_network(linear(np.concatenate((x, memory), axis=1), *first), *head), *last)


@compiled
def draw(mean, log_std, noise):
    """A Gaussian with diagonal covariance: mean + std x noise, (n, A), and its log-density, (n,)."""
    values, log_density = np.empty_like(noise), np.empty(len(noise), np.float32)
    for k in range(values.shape[0]):
        total = F(0)
        for j in range(values.shape[1]):
            values[k, j] = mean[k, j] + np.exp(log_std[j]) * noise[k, j]
            total += F(0.5) * noise[k, j] * noise[k, j] + log_std[j] + HALF_LOG_TWO_PI
        log_density[k] = -total
    return values, log_density


@compiled
def _network_forward(x, panels, biases, outputs):
    for first in range(0, x.shape[0], BLOCK):
        block = x[first : first + BLOCK]
        for layer in range(len(panels)):
            y = outputs[layer][first : first + BLOCK]
            linear_tanh(block, panels[layer], biases[layer], y)
            block = y


@compiled_lanes
def _network_backward(x, outputs, dy, panels, d_weights, d_biases, dx):
    """Add to `d_weights` and `d_biases`, and write `dx` unless it is empty.

    `panels` are the packed transposes of the weights: (M, K), packed.
    """
    width = 0
    for layer in range(len(outputs)):
        width = max(width, outputs[layer].shape[1])
    dz, dy_inside = np.zeros((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    for first in range(0, x.shape[0], BLOCK):
        n = min(BLOCK, x.shape[0] - first)
        dy_out = dy[first : first + n]
        for layer in range(len(outputs) - 1, -1, -1):
            y, d_bias = outputs[layer][first : first + n], d_biases[layer]
            for k in range(n):
                for j in prange(d_bias.size):
                    dz[k, j] = dy_out[k, j] * (F(1) - y[k, j] * y[k, j])
                    d_bias[j] += dz[k, j]
                dz[k, d_bias.size : y.shape[1]] = F(0)
            inputs = x[first : first + n] if layer == 0 else outputs[layer - 1][first : first + n]
            add_transposed_matmul(dz[:n], inputs, d_weights[layer])
            if layer > 0:
                matmul(dz[:n], panels[layer], dy_inside)
                dy_out = dy_inside[:n]
            elif dx.size > 0:
                matmul(dz[:n], panels[0], dx[first : first + n])


class TanhNetwork(torch.autograd.Function):
    """Layers of tanh(x @ weight.T + bias), `BLOCK` rows through all of them at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        weights, biases = layers[::2], layers[1::2]
        inputs = np.ascontiguousarray(x.detach().numpy())
        if inputs.shape[1] % PANEL:
            inputs = np.pad(inputs, ((0, 0), (0, padded(inputs.shape[1]) - inputs.shape[1])))
        sizes = [(len(x), padded(len(weight))) for weight in weights]
        outputs = (*(workspace.take(*size) for size in sizes[:-1]), np.empty(sizes[-1], np.float32))
        panels = tuple(pack(weight.detach().t().numpy()) for weight in weights)
        _network_forward(inputs, panels, tuple(bias.detach().numpy() for bias in biases), outputs)
        ctx.save_for_backward(*weights)
        ctx.inputs, ctx.outputs = inputs, outputs
        return torch.from_numpy(outputs[-1])[:, : len(weights[-1])]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.outputs is None:
            raise RuntimeError("TanhNetwork: backward ran twice on one graph; run the forward pass again.")
        weights, columns, outputs = ctx.saved_tensors, ctx.inputs.shape[1], ctx.outputs
        ctx.outputs = None  # others may overwrite them now
        d_weights = tuple(
            np.zeros((y.shape[1], x.shape[1]), np.float32)
            for x, y in zip((ctx.inputs, *outputs), outputs, strict=False)
        )
        d_biases = tuple(np.zeros(len(weight), np.float32) for weight in weights)
        dx = np.empty((len(dy), columns if ctx.needs_input_grad[0] else 0), np.float32)
        panels = tuple(pack(weight.detach().numpy()) for weight in weights)
        _network_backward(ctx.inputs, outputs, dy.contiguous().numpy(), panels, d_weights, d_biases, dx)
        workspace.give(*outputs[:-1])
        gradients: list[Tensor | None] = [None]
        if dx.size:
            gradients = [torch.from_numpy(dx)[:, : weights[0].shape[1]]]
        for weight, d_weight, d_bias in zip(weights, d_weights, d_biases, strict=True):
            gradients.append(torch.from_numpy(d_weight)[: len(weight), : weight.shape[1]])
            gradients.append(torch.from_numpy(d_bias))
        return tuple(gradients)


def tanh_layers(network: nn.Sequential) -> list[nn.Linear] | None:
    """The linear layers of a network that is linear, tanh, linear, tanh, ... on CPU; None for any other."""
    layers: list[Any] = list(network)
    linear, rest = layers[::2], layers[1::2]
    alternating = len(linear) == len(rest) and all(type(m) is nn.Tanh for m in rest)
    if alternating and all(type(m) is nn.Linear and m.bias is not None and on_cpu(m.weight) for m in linear):
        return linear
    return None


def run_network(network: nn.Sequential, x: Tensor) -> Tensor:
    """`network(x)`, compiled if it is a tanh network."""
    layers = tanh_layers(network)
    if not layers:
        return network(x)
    return TanhNetwork.apply(x, *weights_and_biases(layers))


def weights_and_biases(layers: list[nn.Linear]) -> list[Tensor]:
    """Of each layer in turn."""
    return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]


def on_cpu(weight: Any) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
