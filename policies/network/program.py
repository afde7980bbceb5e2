"""The compiled step of a network, and the memory that it works on.

A network becomes a list of operations over one piece of memory: what, its output (offset, size), its input
(offset, size), and the address of its numbers or the kind of activation. Offsets are in floats. Arithmetic is
float32.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from mmenv.engine.memory import address, array_at
from policies.network.compiled import sigmoid, tanh
from policies.network.layers import ACTIVATIONS, GATES, Layer, Network

F = np.float32

START, PRODUCT, PRODUCT8, DOT, SCALE, ACTIVATE, LSTM, GRU, MINGRU, FILTERS, COPY = range(11)
NARROW = 8  # outputs, below which the sums run along the inputs
OPERATION = 6
MEMORY, OPERATIONS, INPUTS, STATE_AT, STATES, ACTION_AT, ACTIONS, BOUNDS, HEADER = range(9)

LARGEST = 1e6
"""An observation with a larger entry is as little to be trusted as one that is not finite."""

# Sums may be reordered, but what is not finite must stay so: nothing live may assume it away.
FAST = {"reassoc", "contract", "nsz", "arcp"}
compiled = njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")


@compiled
def _product(x, w, y):
    """y += x @ w, four rows of weights for each pass over y."""
    rows, columns = w.shape
    whole = rows - rows % 4
    for k in range(0, whole, 4):
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        for j in range(columns):
            y[j] += a * F(w[k, j]) + b * F(w[k + 1, j]) + c * F(w[k + 2, j]) + d * F(w[k + 3, j])
    for k in range(whole, rows):
        a = x[k]
        for j in range(columns):
            y[j] += a * F(w[k, j])


@compiled
def _dot(x, w, y):
    """y += w @ x, for few rows."""
    rows, columns = w.shape
    for j in range(rows):
        total = F(0)
        for k in range(columns):
            total += w[j, k] * x[k]
        y[j] += total


@compiled
def _activate(which, y):
    if which == 1:
        for j in range(y.size):
            y[j] = tanh(y[j])
    elif which == 2:
        for j in range(y.size):
            y[j] = max(y[j], F(0))
    elif which == 3:
        for j in range(y.size):
            y[j] = sigmoid(y[j])


@compiled
def _lstm(gates, hidden, cell):
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000); gates i, f, g, o."""
    n = hidden.size
    for j in range(n):
        c = sigmoid(gates[n + j]) * cell[j] + sigmoid(gates[j]) * tanh(gates[2 * n + j])
        cell[j] = c
        hidden[j] = sigmoid(gates[3 * n + j]) * tanh(c)


@compiled
def _gru(gates, recurrent, hidden):
    """Cho et al. (2014), the reset gate applied after the product; gates r, z, n."""
    n = hidden.size
    for j in range(n):
        r = sigmoid(gates[j] + recurrent[j])
        z = sigmoid(gates[n + j] + recurrent[n + j])
        new = tanh(gates[2 * n + j] + r * recurrent[2 * n + j])
        hidden[j] = (F(1) - z) * new + z * hidden[j]


@compiled
def _min_gru(gates, hidden):
    """`policies.network.min_gru`; gate, candidate."""
    n = hidden.size
    for j in range(n):
        z = sigmoid(gates[j])
        hidden[j] = (F(1) - z) * hidden[j] + z * tanh(gates[n + j])


@compiled
def _filters(driven, rate, averages):
    """`policies.network.lru`."""
    for j in range(averages.size):
        averages[j] += rate[j] * (tanh(driven[j]) - averages[j])


@compiled
def advance(program):
    """One step of the network of `program`, from its input and state to its action and state."""
    base = program[MEMORY]
    for k in range(program[OPERATIONS]):
        at = HEADER + k * OPERATION
        what, size, size_in, extra = program[at], program[at + 2], program[at + 4], program[at + 5]
        y = array_at(base + 4 * program[at + 1], types.float32, size)
        x = array_at(base + 4 * program[at + 3], types.float32, size_in)
        if what == START:
            values = array_at(extra, types.float32, size)
            for j in range(size):
                y[j] = values[j]
        elif what == PRODUCT:
            _product(x, array_at(extra, types.float32, (size_in, size)), y)
        elif what == PRODUCT8:
            _product(x, array_at(extra, types.int8, (size_in, size)), y)
        elif what == DOT:
            _dot(x, array_at(extra, types.float32, (size, size_in)), y)
        elif what == SCALE:
            values = array_at(extra, types.float32, size)
            for j in range(size):
                y[j] *= values[j]
        elif what == ACTIVATE:
            _activate(extra, y)
        elif what == LSTM:
            _lstm(x, y[: size // 2], y[size // 2 :])
        elif what == GRU:
            _gru(x[: 3 * size], x[3 * size :], y)
        elif what == MINGRU:
            _min_gru(x, y)
        elif what == FILTERS:
            _filters(x, array_at(extra, types.float32, size), y)
        else:
            bounds = array_at(program[BOUNDS], types.float32, 2)
            for j in range(size):
                y[j] = min(max(x[j], bounds[0]), bounds[1])


@compiled
def _floats(program, slot):
    """The part of the memory whose offset and size stand at `slot`."""
    return array_at(program[MEMORY] + 4 * program[slot], types.float32, program[slot + 1])


@compiled
def trusted(x):
    """Whether every entry is a number, and none larger than `LARGEST`."""
    good = True
    for j in range(x.size):
        good &= abs(x[j]) < F(LARGEST)
    return good


@compiled
def decide(program):
    """`advance` from an input that can be trusted; else no action, and no trace in the state."""
    x = array_at(program[MEMORY], types.float32, program[INPUTS])
    if trusted(x):
        advance(program)
    else:
        _floats(program, ACTION_AT)[:] = F(np.nan)


# One signature, and the interpreter's lock kept: anything else costs a call a tenth of a microsecond.
@njit([types.void(types.int64[::1], types.float32[::1])], cache=True)
def step(program, observation):
    """One observation in, the action in its place in the memory."""
    x = array_at(program[MEMORY], types.float32, program[INPUTS])
    if observation.size != x.size:
        raise ValueError("the observation does not have as many entries as the policy reads")
    for j in range(x.size):
        x[j] = observation[j]
    decide(program)


@compiled
def step_rows(program, observations, states, actions):
    """`step` for each row, with its own state."""
    state, action = _floats(program, STATE_AT), _floats(program, ACTION_AT)
    for i in range(observations.shape[0]):
        state[:] = states[i]
        step(program, observations[i])
        states[i] = state
        actions[i] = action


class Program:
    """The operations of a network with the memory they work on: a stream of its own."""

    def __init__(self, network: Network) -> None:
        self._size = network.inputs
        self._operations: list[tuple[int, ...]] = []
        self._kept: list[np.ndarray] = []  # the operations hold addresses of these
        state_at = self._take(network.state_size)
        self.places: dict[int, tuple[int, int]] = {-1: (0, network.inputs)}
        """Where each layer's output lies in the memory: offset and size; -1 is the observation."""
        at = state_at
        for i, layer in enumerate(network.layers):
            self.places[i] = self._add(layer, [self.places[j] for j in network.reads(i)], at)
            at += layer.state_size
        action_at = action_end = self._take(network.width_out)
        for j in network.outputs:
            source = self.places[j % len(network.layers)]
            self._operations.append((COPY, action_end, source[1], *source, 0))
            action_end += source[1]
        self.memory = aligned(np.zeros(self._size, np.float32))
        bounds = self._keep(np.array(network.bounds or (-np.inf, np.inf), np.float32))
        header = np.zeros(HEADER, np.int64)
        header[[MEMORY, OPERATIONS, INPUTS, STATE_AT, STATES, ACTION_AT, ACTIONS, BOUNDS]] = (
            address(self.memory), len(self._operations), network.inputs, state_at, network.state_size,
            action_at, network.width_out, bounds,
        )  # fmt: skip
        self.operations = np.concatenate([header, np.array(self._operations, np.int64).ravel()])
        self.state = self.memory[state_at : state_at + network.state_size]
        """The state itself, float32 (S,), in place."""
        self.action = self.memory[action_at : action_at + network.width_out]
        """The outputs of the last step, float32 (outputs,), in place."""

    def _add(self, layer: Layer, reads: list[tuple[int, int]], state_at: int) -> tuple[int, int]:
        """The operations of one layer; where its output lies."""
        units, rows = layer.units, layer.units * GATES[layer.kind]
        if layer.kind == "dense":
            y = self._affine(layer, self._take(units), [("weight", reads)], ("bias",))
            self._operations.append((ACTIVATE, y, units, 0, 0, ACTIVATIONS.index(layer.activation)))
            return y, units
        own = [(state_at, units)]
        gates = self._take(rows * (2 if layer.kind == "gru" else 1))
        if layer.kind == "lstm":
            self._affine(layer, gates, [("weight_ih", reads), ("weight_hh", own)], ("bias_ih", "bias_hh"))
            self._operations.append((LSTM, state_at, 2 * units, gates, rows, 0))
        elif layer.kind == "mingru":
            self._affine(layer, gates, [("weight", reads)], ("bias",))
            self._operations.append((MINGRU, state_at, units, gates, rows, 0))
        elif layer.kind == "filters":
            self._affine(layer, gates, [("weight", reads)], ("bias",))
            rate = self._keep(layer.real("rate"))
            self._operations.append((FILTERS, state_at, units, gates, rows, rate))
        else:
            self._affine(layer, gates, [("weight_ih", reads)], ("bias_ih",))
            self._affine(layer, gates + rows, [("weight_hh", own)], ("bias_hh",))
            self._operations.append((GRU, state_at, units, gates, 2 * rows, 0))
        return state_at, units

    def _affine(
        self,
        layer: Layer,
        y: int,
        products: list[tuple[str, list[tuple[int, int]]]],
        biases: tuple[str, ...],
    ) -> int:
        """Bias and products into y; int8 weights are summed first and scaled once."""
        bias: np.ndarray = sum((layer.real(name) for name in biases[1:]), layer.real(biases[0]))
        if layer.quantised:
            bias = bias / layer.arrays["scale"]
        rows = len(bias)
        self._operations.append((START, y, rows, 0, 0, self._keep(bias)))
        for name, parts in products:
            weight, first = layer.arrays[name], 0
            if weight.dtype == np.int8:
                kind = PRODUCT8
            else:
                kind, weight = DOT if rows < NARROW else PRODUCT, weight.astype(np.float32)
            for at, size in parts:
                part = weight[:, first : first + size]
                panel = self._keep(np.ascontiguousarray(part if kind == DOT else part.T))
                self._operations.append((kind, y, rows, at, size, panel))
                first += size
        if layer.quantised:
            self._operations.append((SCALE, y, rows, 0, 0, self._keep(layer.arrays["scale"])))
        return y

    def _take(self, size: int) -> int:
        """An offset with room for `size` floats, at the start of a cache line."""
        at = -(-self._size // 16) * 16
        self._size = at + size
        return at

    def _keep(self, array: np.ndarray) -> int:
        self._kept.append(aligned(array))
        return address(self._kept[-1])


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -address(memory) % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
