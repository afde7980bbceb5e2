"""The same networks through ONNX: a graph for other programs, and ONNX Runtime behind our interface.

The graph is built here, layer by layer, in standard operators (opset 17), so that it needs no torch and stays
the same whatever its exporters do. Inputs: `observation` (n, inputs) and, for each recurrent layer i,
`hidden_i` (1, n, units) and, for an LSTM, `cell_i`; outputs: `action` and the same states with `next_` before
their names. It needs the `deploy` extra.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from mmenv.checks import ConfigError
from policies.network.layers import STATES, Layer, Network
from policies.network.program import LARGEST, trusted
from policies.network.runtime import pack_state, unpack_state

# Gates in ONNX's order: i, o, f, g of i, f, g, o; z, r, n of r, z, n.
ORDER = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
OPERATORS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
OPSET, IR_VERSION = 17, 8


def need(module: str) -> Any:
    """`onnx` or `onnxruntime`; raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"{module} is not installed: `pip install 'neuralmm[deploy]'`, or use the numba engine."
        ) from None


def states(network: Network) -> list[tuple[str, int]]:
    """Name and size of each state, in the order of `Network.state_size`."""
    found = []
    for i, layer in enumerate(network.layers):
        found += [(f"{kind}_{i}", layer.units) for kind in ("hidden", "cell")[: STATES[layer.kind]]]
    return found


def to_onnx(network: Network) -> bytes:
    """The network as an ONNX model."""
    onnx = need("onnx")
    helper, graph = onnx.helper, _Graph(onnx)
    graph.constant("first_axis", np.array([0], np.int64))
    outputs = {-1: "observation"}
    for i, layer in enumerate(network.layers):
        x = graph.joined([outputs[j] for j in network.reads(i)], f"joined_{i}")
        kinds = {"dense": graph.dense, "mingru": graph.min_gru, "filters": graph.filters}
        kind = kinds.get(layer.kind, graph.recurrent)
        outputs[i] = kind(layer, i, x)
    last = len(network.layers)
    result = graph.joined([outputs[j % last] for j in network.outputs], "joined")
    low, high = network.bounds or (-np.inf, np.inf)
    limits = [graph.constant(name, np.array(v, np.float32)) for name, v in (("low", low), ("high", high))]
    graph.node("Clip", [result, *limits], ["action"])

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    memory = states(network)
    seen = [value("observation", "n", network.inputs), *(value(name, 1, "n", size) for name, size in memory)]
    given = [value("action", "n", network.width_out)]
    given += [value(f"next_{name}", 1, "n", size) for name, size in memory]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "policy", seen, given, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="neuralmm",
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants of a graph; every method gives the name of what it adds."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def joined(self, names: list[str], name: str) -> str:
        return names[0] if len(names) == 1 else self.node("Concat", names, [name], axis=1)

    def affine(self, layer: Layer, i: int, x: str) -> str:
        weights = [self.constant(f"{name}_{i}", layer.real(name)) for name in ("weight", "bias")]
        return self.node("Gemm", [x, *weights], [f"linear_{i}"], transB=1)

    def dense(self, layer: Layer, i: int, x: str) -> str:
        y = self.affine(layer, i, x)
        if layer.activation == "identity":
            return y
        return self.node(OPERATORS[layer.activation], [y], [f"active_{i}"])

    def min_gru(self, layer: Layer, i: int, x: str) -> str:
        """hidden + gate x (candidate - hidden)."""
        raw = [f"raw_gate_{i}", f"raw_candidate_{i}"]
        self.node("Split", [self.affine(layer, i, x)], raw, axis=1)
        return self.towards(i, raw[1], self.node("Sigmoid", raw[:1], [f"gate_{i}"]))

    def filters(self, layer: Layer, i: int, x: str) -> str:
        """hidden + rate x (tanh - hidden)."""
        return self.towards(i, self.affine(layer, i, x), self.constant(f"rate_{i}", layer.real("rate")))

    def towards(self, i: int, raw: str, gate: str) -> str:
        """The memory goes a share `gate` of the way to tanh(raw). ONNX gives it an axis of directions."""
        before = self.node("Squeeze", [f"hidden_{i}", "first_axis"], [f"before_{i}"])
        new = self.node("Sub", [self.node("Tanh", [raw], [f"candidate_{i}"]), before], [f"new_{i}"])
        memory = self.node("Add", [before, self.node("Mul", [gate, new], [f"step_{i}"])], [f"memory_{i}"])
        self.node("Unsqueeze", [memory, "first_axis"], [f"next_hidden_{i}"])
        return memory

    def recurrent(self, layer: Layer, i: int, x: str) -> str:
        sequence = self.node("Unsqueeze", [x, "first_axis"], [f"sequence_{i}"])
        kinds = ("hidden", "cell") if layer.kind == "lstm" else ("hidden",)
        weights = [self.constant(f"{name}_{i}", array) for name, array in _gates(layer).items()]
        self.node(
            layer.kind.upper(),
            [sequence, *weights, "", *(f"{kind}_{i}" for kind in kinds)],
            ["", *(f"next_{kind}_{i}" for kind in kinds)],
            hidden_size=layer.units,
            **({"linear_before_reset": 1} if layer.kind == "gru" else {}),
        )
        return self.node("Squeeze", [f"next_hidden_{i}", "first_axis"], [f"memory_{i}"])


def _gates(layer: Layer) -> dict[str, np.ndarray]:
    """Weights and bias of a recurrent layer in ONNX's order, with its axis of directions."""

    def ordered(array: np.ndarray) -> np.ndarray:
        gates = array.reshape(len(ORDER[layer.kind]), layer.units, -1)[ORDER[layer.kind]]
        return gates.reshape(array.shape)[None]

    bias = np.concatenate([ordered(layer.real(name)) for name in ("bias_ih", "bias_hh")], axis=1)
    return {"W": ordered(layer.real("weight_ih")), "R": ordered(layer.real("weight_hh")), "B": bias}


class OnnxPolicy:
    """An ONNX model of `network` as a `policies.base.Policy`; its memory is float32 (n, S)."""

    def __init__(self, network: Network, model: bytes, name: str = "bundle (ONNX)") -> None:
        self.network, self.name = network, name
        self._session = open_session(model)
        self._states = states(network)
        self._ends = np.cumsum([size for _, size in self._states])[:-1]

    def reset(self, n: int) -> np.ndarray:
        return np.zeros((n, self.network.state_size), np.float32)

    def act(self, observation: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        trusted = (np.abs(observation) < LARGEST).all(axis=1)
        feed = {"observation": np.where(trusted[:, None], observation, 0).astype(np.float32)}
        parts = np.split(state, self._ends, axis=1)
        feed |= {name: part[None] for (name, _), part in zip(self._states, parts, strict=False)}
        action, *after = self._session.run(None, feed)
        action[~trusted] = np.nan
        if not after:
            return action, state
        return action, np.where(trusted[:, None], np.concatenate(after, axis=2)[0], state)


class OnnxStream:
    """An ONNX model of `network` as one stream; used like `policies.network.runtime.Stream`."""

    engine = "onnx"

    def __init__(self, network: Network, model: bytes) -> None:
        self.network = network
        self._session = open_session(model)
        self._observation = np.zeros((1, network.inputs), np.float32)
        self._action = np.zeros((1, network.width_out), np.float32)
        self._row, self._result = self._observation[0], self._action[0]
        # What one step writes is what the next one reads: two memories take turns.
        self._memory = np.zeros((2, network.state_size), np.float32)
        self._bindings = [self._bind(now) for now in (0, 1)]
        self._now = 0

    def _bind(self, now: int) -> Any:
        binding = self._session.io_binding()
        binding.bind_cpu_input("observation", self._observation)
        arrays: dict[str, np.ndarray] = {"action": self._action}
        at = 0
        for name, size in states(self.network):
            before, after = (self._memory[i, at : at + size].reshape(1, 1, size) for i in (now, 1 - now))
            binding.bind_cpu_input(name, before)
            arrays[f"next_{name}"] = after
            at += size
        for name, array in arrays.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding

    def step(self, observation: np.ndarray) -> np.ndarray:
        """The action, as `policies.network.runtime.Stream.step` gives it."""
        if len(observation) != self.network.inputs:
            raise ValueError("the observation does not have as many entries as the policy reads")
        self._row[:] = observation
        if trusted(self._row):
            self._session.run_with_iobinding(self._bindings[self._now])
            self._now = 1 - self._now
        else:
            self._result[:] = np.nan
        return self._result

    def reset(self) -> None:
        """Start anew, without memory."""
        self._memory[:] = 0

    @property
    def state(self) -> bytes:
        """The memory, to continue from after a restart, by this engine or the other."""
        return pack_state(self.network, self._memory[self._now])

    @state.setter
    def state(self, saved: bytes) -> None:
        self._memory[self._now] = unpack_state(self.network, saved)


def open_session(model: bytes) -> Any:
    """ONNX Runtime on one thread."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
