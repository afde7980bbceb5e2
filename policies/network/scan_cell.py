"""What the memories that scan have in common: `policies.network.min_gru`, `policies.network.lru`.

Nothing that is multiplied by weights reads the memory of the same layer. So the products are over all steps
at once, and what is left of a layer is linear in its memory. On the CPU that is a pass over time without a
product in it; elsewhere a scan in log2(T) passes over tensors.

Packed sequences are those of `policies.network.packed_lstm`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numba import prange
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from policies.network.compiled import F, compiled, compiled_lanes, pack
from policies.network.packed_lstm import on_cpu


class ScanCell(nn.Module, ABC):
    """Called like an LSTM: its state is (hidden, cell), (layers, n, H) each.

    Parameters
    ----------
    input_size, hidden_size, num_layers
        As in `torch.nn.GRU`.
    """

    step: ClassVar[Callable[..., Any]]
    """One step of E sequences, compiled: arguments and results as `packed_lstm.recurrent_step`, the layers
    being those of `packed_weights`."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers

    @abstractmethod
    def packed_weights(self) -> tuple[Any, ...]:
        """The weights of each layer as `step` wants them."""

    @abstractmethod
    def scan_layer(self, layer: int, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden and cell states (T, n, H) of a layer over inputs (T, n, inputs), in torch's operations."""

    @abstractmethod
    def run_layer(
        self, layer: int, x: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: np.ndarray
    ) -> Tensor:
        """Hidden states (N, H) of a layer over packed inputs (N, inputs), in compiled kernels."""

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels can run it."""
        return on_cpu(next(self.parameters()))

    def forward(self, x: Any, state: Any) -> Any:
        """Outputs and the state after; `x` (T, n, inputs) or packed, the outputs alike."""
        packed = isinstance(x, PackedSequence)
        steps, lengths = pad_packed_sequence(x) if packed else (x, torch.full((x.shape[1],), len(x)))
        last, sequences = (lengths - 1).to(steps.device), torch.arange(steps.shape[1], device=steps.device)
        after = []
        for layer, before in enumerate(zip(*state, strict=True)):
            found = self.scan_layer(layer, steps, *before)
            steps = found[0]
            after.append([part[last, sequences] for part in found])
        if packed:
            steps = PackedSequence(pack_padded_sequence(steps, lengths).data, x.batch_sizes)
        return steps, tuple(torch.stack(part) for part in zip(*after, strict=True))

    def run_packed(self, x: Tensor, state: tuple[Tensor, ...], batch_sizes: np.ndarray) -> Tensor:
        """Output (N, H) over packed sequences, as `packed_lstm.run_packed`."""
        if not self.compiled:
            return self(PackedSequence(x, torch.from_numpy(batch_sizes)), state)[0].data
        for layer in range(self.num_layers):
            x = self.run_layer(layer, x, state[0][layer], state[1][layer], batch_sizes)
        return x


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


@compiled_lanes
def with_one(x, inputs):
    """Copy `x` (N, F) into `inputs` (N, at least F + 1), then a one for the bias, then zeros."""
    features = x.shape[1]
    for k in range(x.shape[0]):
        into, seen = inputs[k], x[k]
        for j in prange(features):
            into[j] = seen[j]
        into[features] = F(1)
        for j in range(features + 1, into.size):
            into[j] = F(0)


@compiled
def pack_affine(weight, bias):
    """Weight (M, F) and bias (M,) for `matmul` with what `with_one` makes."""
    weights = np.empty((weight.shape[1] + 1, len(bias)), np.float32)
    for i in range(len(bias)):
        for j in range(weight.shape[1]):
            weights[j, i] = weight[i, j]
        weights[-1, i] = bias[i]
    return pack(weights)


@compiled
def kept(state, starts):
    """The states (E, H) before a step: none where a sequence starts, (E,)."""
    before = np.empty_like(state)
    for e in range(state.shape[0]):
        keep = F(0) if starts[e] else F(1)
        for j in range(state.shape[1]):
            before[e, j] = keep * state[e, j]
    return before
