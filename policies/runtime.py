"""Networks one observation at a time, as a desk meets them: compiled, stateful, without torch.

A `Network` is a list of layers: LSTM, GRU and dense ones (identity, tanh, relu, sigmoid). Each reads the
layer before it, or those it names in `reads` (-1 is the observation), joined end to end, so branches, several
heads and inputs that skip the recurrent layers are all written the same way. Columns that a layer should not
read have zero weights. `policies.trained` makes layers from torch modules; everything else here needs numpy
and numba alone.

    network = Network(20, [lstm(128), lstm(64), dense, dense, head_a, head_b], outputs=(4, 5))
    stream = Stream(network)        # one stream; `stream.step(observation)` makes no array
    stream.state = saved            # bytes of the same network, from before the restart

Arithmetic is float32; `BatchPolicy` steps the rows of a batch with the very same code, so training tables,
backtest and live desk see the same bytes.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numba import njit, types
from numba.np.numpy_support import carray

from mmenv.config import ConfigError
from mmenv.kernel import address, array_at
from policies.compiled import sigmoid, tanh

F = np.float32

# Layers -----------------------------------------------------------------------------------------------------

GATES = {"dense": 1, "lstm": 4, "gru": 3}
ACTIVATIONS = ("identity", "tanh", "relu", "sigmoid")
WEIGHTS = {"dense": ("weight",), "lstm": ("weight_ih", "weight_hh"), "gru": ("weight_ih", "weight_hh")}
BIASES = {"dense": ("bias",), "lstm": ("bias_ih", "bias_hh"), "gru": ("bias_ih", "bias_hh")}


@dataclass(frozen=True)
class Layer:
    """One layer, its arrays named and laid out as in torch (gates i, f, g, o and r, z, n; rows are units).

    Weights may be int8, with `scale`, float32 (rows,): the real weight is weight x scale of its row.
    """

    kind: str
    """"dense", "lstm" or "gru"."""
    arrays: Mapping[str, np.ndarray]
    """dense: weight (units, inputs), bias (units,). lstm, gru: weight_ih (gates x units, inputs), weight_hh
    (gates x units, units), bias_ih and bias_hh (gates x units,)."""
    activation: str = "identity"
    """Of a dense layer."""
    reads: tuple[int, ...] | None = None
    """Indices of the layers it reads, -1 the observation; None: the one before."""

    def __post_init__(self) -> None:
        if self.kind not in GATES:
            raise ConfigError(
                f"Layer.kind = {self.kind!r} is not possible: choose one of {', '.join(GATES)}."
            )
        if self.activation not in ACTIVATIONS or (self.kind != "dense" and self.activation != "identity"):
            raise ConfigError(
                f"Layer.activation = {self.activation!r} is not possible on a {self.kind} layer: a dense one "
                f"has one of {', '.join(ACTIVATIONS)}, a recurrent one none."
            )
        expected = {*WEIGHTS[self.kind], *BIASES[self.kind]} | ({"scale"} if self.quantised else set())
        if set(self.arrays) != expected:
            raise ConfigError(
                f"Layer.arrays of a {self.kind} layer are {', '.join(sorted(expected))}; "
                f"given are {', '.join(sorted(self.arrays))}."
            )
        rows, (first, *recurrent) = GATES[self.kind] * self.units, WEIGHTS[self.kind]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(expected, (rows,))
        shapes |= {first: (rows, self.inputs)} | dict.fromkeys(recurrent, (rows, self.units))
        for name, array in self.arrays.items():
            if array.shape != shapes[name]:
                raise ConfigError(
                    f"Layer.arrays[{name!r}] has shape {array.shape}; it must be {shapes[name]}."
                )
            if not np.isfinite(array.astype(np.float32)).all():
                raise ConfigError(f"Layer.arrays[{name!r}] holds a number that is not finite.")

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
        return self.units * {"dense": 0, "lstm": 2, "gru": 1}[self.kind]

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
        if not self.layers:
            raise ConfigError("Network.layers is empty: give at least one layer.")
        for i, layer in enumerate(self.layers):
            widths = [self.width(j) for j in self.reads(i) if -1 <= j < i]
            if len(widths) != len(self.reads(i)) or sum(widths) != layer.inputs:
                raise ConfigError(
                    f"Network.layers[{i}] has weights for {layer.inputs} inputs, but reads {self.reads(i)}, "
                    f"which give {sum(widths)} (layers before it, or -1 for the observation)."
                )
        last = len(self.layers)
        if not self.outputs or any(not -last <= j < last for j in self.outputs):
            raise ConfigError(f"Network.outputs = {self.outputs} must name layers of {last}.")
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
        """Such as "18 -> lstm 64 -> dense 64 tanh -> dense 2"."""
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


# The compiled step ------------------------------------------------------------------------------------------
#
# A network becomes a list of operations over one piece of memory: what, its output (offset, size), its input
# (offset, size), and the address of its numbers or the kind of activation. Offsets are in floats.

START, PRODUCT, PRODUCT8, DOT, SCALE, ACTIVATE, LSTM, GRU, COPY = range(9)
NARROW = 8  # outputs, below which the sums run along the inputs
OPERATION = 6
MEMORY, OPERATIONS, INPUTS, STATE_AT, STATES, ACTION_AT, ACTIONS, BOUNDS, HEADER = range(9)

LARGEST = 1e6
"""An observation with a larger entry is as little to be trusted as one that is not finite."""

# Sums may be reordered, but what is not finite must stay so: nothing live may assume it away.
FAST = {"reassoc", "contract", "nsz", "arcp"}
compiled = njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")


@compiled
def _product(x, w, y):  # type: ignore[no-untyped-def]
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
def _dot(x, w, y):  # type: ignore[no-untyped-def]
    """y += w @ x, for few rows."""
    rows, columns = w.shape
    for j in range(rows):
        total = F(0)
        for k in range(columns):
            total += w[j, k] * x[k]
        y[j] += total


@compiled
def _activate(which, y):  # type: ignore[no-untyped-def]
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
def _lstm(gates, hidden, cell):  # type: ignore[no-untyped-def]
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000); gates i, f, g, o."""
    n = hidden.size
    for j in range(n):
        c = sigmoid(gates[n + j]) * cell[j] + sigmoid(gates[j]) * tanh(gates[2 * n + j])
        cell[j] = c
        hidden[j] = sigmoid(gates[3 * n + j]) * tanh(c)


@compiled
def _gru(gates, recurrent, hidden):  # type: ignore[no-untyped-def]
    """Cho et al. (2014), the reset gate applied after the product; gates r, z, n."""
    n = hidden.size
    for j in range(n):
        r = sigmoid(gates[j] + recurrent[j])
        z = sigmoid(gates[n + j] + recurrent[n + j])
        new = tanh(gates[2 * n + j] + r * recurrent[2 * n + j])
        hidden[j] = (F(1) - z) * new + z * hidden[j]


@compiled
def advance(program):  # type: ignore[no-untyped-def]
    """One step of the network of `program`, from its input and state to its action and state."""
    base = program[MEMORY]
    for k in range(program[OPERATIONS]):
        at = HEADER + k * OPERATION
        what, size, size_in, extra = program[at], program[at + 2], program[at + 4], program[at + 5]
        y = carray(array_at(base + 4 * program[at + 1], types.float32), (size,))
        x = carray(array_at(base + 4 * program[at + 3], types.float32), (size_in,))
        if what == START:
            values = carray(array_at(extra, types.float32), (size,))
            for j in range(size):
                y[j] = values[j]
        elif what == PRODUCT:
            _product(x, carray(array_at(extra, types.float32), (size_in, size)), y)
        elif what == PRODUCT8:
            _product(x, carray(array_at(extra, types.int8), (size_in, size)), y)
        elif what == DOT:
            _dot(x, carray(array_at(extra, types.float32), (size, size_in)), y)
        elif what == SCALE:
            values = carray(array_at(extra, types.float32), (size,))
            for j in range(size):
                y[j] *= values[j]
        elif what == ACTIVATE:
            _activate(extra, y)
        elif what == LSTM:
            _lstm(x, y[: size // 2], y[size // 2 :])
        elif what == GRU:
            _gru(x[: 3 * size], x[3 * size :], y)
        else:
            bounds = carray(array_at(program[BOUNDS], types.float32), (2,))
            for j in range(size):
                y[j] = min(max(x[j], bounds[0]), bounds[1])


@compiled
def _floats(program, slot):  # type: ignore[no-untyped-def]
    """The part of the memory whose offset and size stand at `slot`."""
    return carray(array_at(program[MEMORY] + 4 * program[slot], types.float32), (program[slot + 1],))


@compiled
def trusted(x):  # type: ignore[no-untyped-def]
    """Whether every entry is a number, and none larger than `LARGEST`."""
    good = True
    for j in range(x.size):
        good &= abs(x[j]) < F(LARGEST)
    return good


@compiled
def decide(program):  # type: ignore[no-untyped-def]
    """`advance` from an input that can be trusted; else no action, and no trace in the state."""
    x = carray(array_at(program[MEMORY], types.float32), (program[INPUTS],))
    if trusted(x):
        advance(program)
    else:
        _floats(program, ACTION_AT)[:] = F(np.nan)


# One signature, and the interpreter's lock kept: anything else costs a call a tenth of a microsecond.
@njit([types.void(types.int64[::1], types.float32[::1])], cache=True)
def _step(program, observation):  # type: ignore[no-untyped-def]
    """One observation in, the action in its place in the memory."""
    x = carray(array_at(program[MEMORY], types.float32), (program[INPUTS],))
    if observation.size != x.size:
        raise ValueError("the observation does not have as many entries as the policy reads")
    for j in range(x.size):
        x[j] = observation[j]
    decide(program)


@compiled
def step_rows(program, observations, states, actions):  # type: ignore[no-untyped-def]
    """`_step` for each row, with its own state."""
    state, action = _floats(program, STATE_AT), _floats(program, ACTION_AT)
    for i in range(observations.shape[0]):
        state[:] = states[i]
        _step(program, observations[i])
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


# What steps it ----------------------------------------------------------------------------------------------


class Stream:
    """One stream of observations through a network, with its memory: what a live desk holds."""

    engine = "numba"

    def __init__(self, network: Network) -> None:
        self.network = network
        self.program = Program(network)
        self._operations = self.program.operations
        self._action = self.program.action

    def step(self, observation: np.ndarray) -> np.ndarray:
        """The action, float32 (outputs,), after `observation`, float32 (inputs,).

        It is the same array at every step; copy it to keep it. An observation with an entry that is not
        finite (or beyond `LARGEST`) gives an action of NaN, which quotes nothing, and leaves the state alone.
        """
        try:
            _step(self._operations, observation)
        except TypeError:  # another type or layout, or read-only: copied
            _step(self._operations, np.array(observation, np.float32))
        return self._action

    def reset(self) -> None:
        """Start anew, without memory."""
        self.program.state[:] = 0

    @property
    def state(self) -> bytes:
        """The memory, to continue from after a restart."""
        return pack_state(self.network, self.program.state)

    @state.setter
    def state(self, saved: bytes) -> None:
        self.program.state[:] = unpack_state(self.network, saved)


def pack_state(network: Network, state: np.ndarray) -> bytes:
    """A state, float32 (S,), as bytes that say which network they belong to and whether they are whole."""
    head = bytes.fromhex(network.digest) + state.astype("<f4").tobytes()
    return head + hashlib.sha256(head).digest()[:8]


def unpack_state(network: Network, saved: bytes) -> np.ndarray:
    """The state, float32 (S,), that `pack_state` packed; raises `ConfigError` where it is another's."""
    whole = bytes(saved)
    body, check = whole[:-8], whole[-8:]
    if len(whole) < 24 or hashlib.sha256(body).digest()[:8] != check:
        raise ConfigError("The saved state of the policy is damaged; start without it.")
    if body[:16] != bytes.fromhex(network.digest):
        raise ConfigError("The saved state belongs to another policy; start without it, or load that policy.")
    return np.frombuffer(body[16:], "<f4").astype(np.float32)


class BatchPolicy:
    """A network as a `policies.base.Policy` of n environments; its memory is float32 (n, S)."""

    def __init__(self, network: Network, name: str = "bundle") -> None:
        self.network, self.name = network, name
        self._program = Program(network)

    def reset(self, n: int) -> np.ndarray:
        return np.zeros((n, self.network.state_size), np.float32)

    def act(self, observation: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        after = state.copy()
        actions = np.empty((len(observation), self.network.width_out), np.float32)
        step_rows(self._program.operations, np.ascontiguousarray(observation, np.float32), after, actions)
        return actions, after


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection inside: what exists is set aside, and nothing is looked for until the end."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
