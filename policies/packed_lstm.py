"""An LSTM over packed sequences, and a tanh, that are fast on a CPU.

Packed means the layout of `torch.nn.utils.rnn.PackedSequence`: sequences sorted by falling length, all their first
steps, then all their second steps, and so on. Step t works on the first `batch_sizes[t]` sequences, so sequences of
any lengths run together and there is no padding anywhere.

On CPU in float32 the recurrence is compiled by numba: one small matrix product a step and one fused pass over the
gates, with the GIL released so that several threads can each run their own sequences. The big products (inputs, weight
gradients) are torch's. Everything else (GPU, GRU, dropout, projections) goes to torch's own packed kernels.

Equations: Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), in `torch.nn.LSTM`'s gate order
i, f, g, o. tanh is the rational minimax approximation of the Eigen library (error below 3e-7).
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

F = np.float32
# error_model="numpy": Python's check for division by zero would keep LLVM from vectorising the loops.
compiled = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@compiled
def _tanh(x):
    x = min(max(x, F(-7.9053111)), F(7.9053111))
    y = x * x
    p = y * F(-2.76076848e-16) + F(2.00018790e-13)
    p = y * p + F(-8.60467152e-11)
    p = y * p + F(5.12229710e-08)
    p = y * p + F(1.48572236e-05)
    p = y * p + F(6.37261929e-04)
    p = y * p + F(4.89352456e-03)
    q = y * F(1.19825840e-06) + F(1.18534706e-04)
    q = y * q + F(2.26843463e-03)
    q = y * q + F(4.89352519e-03)
    return x * p / q


@compiled
def _tanh_forward(x, y):
    for k in range(x.size):
        y[k] = _tanh(x[k])


@compiled
def _tanh_backward(y, dy, dx):
    for k in range(y.size):
        dx[k] = dy[k] * (F(1) - y[k] * y[k])


@compiled
def _lstm_forward(gates, w_hh_t, h0, c0, batch_sizes, h_prev, h, c, tanh_c):
    """Fill h_prev, h, c, tanh_c (N, H); gates (N, 4H) enter as input projections and leave as activations."""
    n = h.shape[1]
    recurrent = np.empty((h0.shape[0], 4 * n), np.float32)
    row, last_h, last_c = 0, h0, c0
    for b in batch_sizes:
        h_prev[row : row + b] = last_h[:b]
        np.dot(h_prev[row : row + b], w_hh_t, recurrent[:b])
        for k in range(b):
            g, r, c_in, c_out = gates[row + k], recurrent[k], last_c[k], c[row + k]
            tanh_out, h_out = tanh_c[row + k], h[row + k]
            for j in range(2 * n):
                g[j] = F(0.5) + F(0.5) * _tanh(F(0.5) * (g[j] + r[j]))
            for j in range(2 * n, 3 * n):
                g[j] = _tanh(g[j] + r[j])
            for j in range(3 * n, 4 * n):
                g[j] = F(0.5) + F(0.5) * _tanh(F(0.5) * (g[j] + r[j]))
            for j in range(n):
                c_out[j] = g[n + j] * c_in[j] + g[j] * g[2 * n + j]
            for j in range(n):
                tanh_out[j] = _tanh(c_out[j])
            for j in range(n):
                h_out[j] = g[3 * n + j] * tanh_out[j]
        last_h, last_c = h[row : row + b], c[row : row + b]
        row += b


@compiled
def _lstm_backward(gates, w_hh, c0, batch_sizes, c, tanh_c, dh_out):
    """Turn gates (N, 4H) from activations into the gradients of the pre-activations, in place."""
    n = c.shape[1]
    dh = np.zeros((batch_sizes[0], n), np.float32)
    dc = np.zeros((batch_sizes[0], n), np.float32)
    row = gates.shape[0]
    for t in range(batch_sizes.size - 1, -1, -1):
        b = batch_sizes[t]
        row -= b
        last_c = c0[:b] if t == 0 else c[row - batch_sizes[t - 1] : row - batch_sizes[t - 1] + b]
        for k in range(b):
            g, tc, dout, c_in, dhk, dck = gates[row + k], tanh_c[row + k], dh_out[row + k], last_c[k], dh[k], dc[k]
            for j in range(n):
                i, f, u, o = g[j], g[n + j], g[2 * n + j], g[3 * n + j]
                d = dout[j] + dhk[j]
                e = dck[j] + d * o * (F(1) - tc[j] * tc[j])
                g[j] = e * u * i * (F(1) - i)
                g[n + j] = e * c_in[j] * f * (F(1) - f)
                g[2 * n + j] = e * i * (F(1) - u * u)
                g[3 * n + j] = d * tc[j] * o * (F(1) - o)
                dck[j] = e * f
        np.dot(gates[row : row + b], w_hh, dh[:b])


class _PackedLSTM(torch.autograd.Function):
    """One layer. The states at the start (h0, c0) are data: no gradient flows into them."""

    @staticmethod
    def forward(ctx, x, w_ih, w_hh, b_ih, b_hh, h0, c0, batch_sizes):
        n, hidden = x.shape[0], w_hh.shape[1]
        gates = torch.addmm(b_ih + b_hh, x, w_ih.t())
        h_prev, h, c, tanh_c = (torch.empty(n, hidden) for _ in range(4))
        w_hh_t = w_hh.t().contiguous()
        tensors = (gates, w_hh_t, h0.contiguous(), c0.contiguous())
        _lstm_forward(*(v.numpy() for v in tensors), batch_sizes, *(v.numpy() for v in (h_prev, h, c, tanh_c)))
        ctx.save_for_backward(x, w_ih, w_hh)
        ctx.work = (gates, c0, batch_sizes, h_prev, c, tanh_c)
        ctx.mark_non_differentiable(c)
        return h, c

    @staticmethod
    def backward(ctx, dh, _dc):
        if ctx.work is None:
            raise RuntimeError("PackedLSTM: backward ran twice on one graph; call the forward pass again.")
        x, w_ih, w_hh = ctx.saved_tensors
        gates, c0, batch_sizes, h_prev, c, tanh_c = ctx.work
        ctx.work = None  # the gates are overwritten below
        arrays = (v.contiguous().numpy() for v in (c, tanh_c, dh))
        _lstm_backward(gates.numpy(), w_hh.detach().numpy(), c0.contiguous().numpy(), batch_sizes, *arrays)
        db = gates.sum(0)
        dx = gates @ w_ih if ctx.needs_input_grad[0] else None
        return dx, gates.t() @ x, gates.t() @ h_prev, db, db, None, None, None


def run_packed(rnn: nn.RNNBase, x: Tensor, state: tuple[Tensor, Tensor], batch_sizes: np.ndarray) -> tuple[Tensor, ...]:
    """Run `rnn` over packed sequences.

    :param rnn: LSTM, or a cell with the same call signature.
    :param x: inputs, packed, shape (N, features).
    :param state: hidden and cell state before each sequence, each (layers, batch_sizes[0], H). Treated as constants.
    :param batch_sizes: int64, falling: how many sequences have a t-th step; its sum is N.
    :return: output, packed, (N, H); then hidden and cell state (layers, batch_sizes[0], H) after the last step of each.
        The states are exact only where all sequences have one step, as in a rollout; else they are None.
    """
    if not _supported(rnn, x):
        output, last = rnn(PackedSequence(x, torch.from_numpy(batch_sizes)), state)
        return output.data, *last
    single_step = len(batch_sizes) == 1
    last = []
    for layer in range(rnn.num_layers):
        weights = [getattr(rnn, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        x, c = _PackedLSTM.apply(x, *weights, state[0][layer], state[1][layer], batch_sizes)
        last.append((x, c))
    if not single_step:
        return x, None, None
    return x, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])


def _supported(rnn: nn.RNNBase, x: Tensor) -> bool:
    plain = type(rnn) is nn.LSTM and rnn.bias and not (rnn.bidirectional or rnn.proj_size or rnn.dropout)
    return plain and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _FastTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        _tanh_forward(x.view(-1).numpy(), y.view(-1).numpy())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx = torch.empty_like(y)
        _tanh_backward(y.view(-1).numpy(), dy.contiguous().view(-1).numpy(), dx.view(-1).numpy())
        return dx


class Tanh(nn.Tanh):
    """`torch.nn.Tanh`, about ten times as fast on a CPU in float32 (where torch's is scalar code)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32:
            return _FastTanh.apply(x)
        return super().forward(x)
