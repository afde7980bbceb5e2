"""A trained signal: a compiled network with the names of what goes in and out, and its card.

signal = load("logs/signals/order-flow_1/signal.mms")
states = np.zeros((n, signal.state_size), np.float32)
outputs = signal.step(inputs, states)          # one decision in each of n streams of market data

env = gym.make("NeuralMM-v0", market="book", signals=[signal])
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError
from mmenv.features.base import Feature
from mmenv.files import replacing
from policies.archive import archive_bytes, read_archive
from policies.network.layers import Network
from policies.network.runtime import BatchPolicy

SUFFIX = ".mms"


@dataclass(frozen=True)
class TrainedSignal:
    """See `mmenv.signals.Signal` for what the desk uses."""

    name: str
    network: Network
    groups: tuple[str, ...]
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    step_seconds: float
    card: Mapping[str, Any] = field(default_factory=dict)
    """data: what it was trained on; horizons: of its labels; figures: out-of-sample, beside its rivals;
    limits: of its use."""
    source: str | None = None

    def __post_init__(self) -> None:
        if self.network.inputs != len(self.inputs) or self.network.width_out != len(self.outputs):
            raise ConfigError(
                f"signal {self.name!r}: its network has {self.network.inputs} inputs and "
                f"{self.network.width_out} outputs, named are {len(self.inputs)} and {len(self.outputs)}."
            )
        object.__setattr__(self, "_stepper", BatchPolicy(self.network))

    @property
    def state_size(self) -> int:
        return self.network.state_size

    @property
    def identity(self) -> str:
        whole = repr((self.network.digest, self.groups, self.inputs, self.outputs, self.step_seconds))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def step(self, inputs: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Outputs, float32 (n, outputs), for inputs (n, inputs); `states` (n, state_size) go forward."""
        stepper: BatchPolicy = self._stepper  # type: ignore[attr-defined]
        outputs, after = stepper.act(inputs, states)
        states[...] = after
        return outputs

    def run(self, inputs: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Outputs, float32 (R, outputs), over sequences of rows, (R, inputs), each from a fresh start.

        Sequence i has the rows first[i] ... first[i + 1] - 1.
        """
        outputs = np.empty((len(inputs), len(self.outputs)), np.float32)
        lengths = np.diff(first)
        states = np.zeros((len(lengths), self.state_size), np.float32)
        order = np.argsort(-lengths, kind="stable")
        for t in range(int(lengths.max(initial=0))):
            alive = int(np.searchsorted(-lengths[order], -t, side="left"))
            rows = first[:-1][order[:alive]] + t
            outputs[rows] = self.step(np.ascontiguousarray(inputs[rows], np.float32), states[:alive])
        return outputs

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self.name, self.network, self.groups, self.inputs, self.outputs, self.step_seconds)
        return TrainedSignal, (*given, self.card, self.source)


def save(signal: TrainedSignal, path: str | Path) -> None:
    """Write a signal, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(signal))


def to_bytes(signal: TrainedSignal) -> bytes:
    """The file of a signal: weights with their scaling, names, schema id, card; not where it came from."""
    return archive_bytes(
        {
            "kind": "signal",
            "name": signal.name,
            "groups": signal.groups,
            "inputs": [_plain(feature) for feature in signal.inputs],
            "outputs": [_plain(feature) for feature in signal.outputs],
            "step_seconds": signal.step_seconds,
            "schema_id": signal.identity,
            "card": dict(signal.card),
        },
        signal.network,
    )


def load(path: str | Path) -> TrainedSignal:
    """The signal in a file, or within a bundle: "policy.mmz/signals/a.mms".

    Raises `FileNotFoundError`, or `ConfigError` where it is damaged or newer than this program. Whether its
    features are those of an environment is checked where it is used.
    """
    path = Path(path)
    try:
        manifest, network, _ = read_archive(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: there is no such signal; `neuralmm signals train` makes one."
        ) from error
    if manifest.get("kind") != "signal":
        raise ConfigError(f"{path} is no signal but a policy; give it where policies are asked for.")
    inputs, outputs = (tuple(Feature(**entry) for entry in manifest[side]) for side in ("inputs", "outputs"))
    signal = TrainedSignal(
        manifest["name"],
        network,
        tuple(manifest["groups"]),
        inputs,
        outputs,
        manifest["step_seconds"],
        manifest["card"],
        str(path),
    )
    if signal.identity != manifest["schema_id"]:
        raise ConfigError(f"{path} does not fit its own schema id; copy it anew.")
    return signal


def _plain(feature: Feature) -> dict[str, Any]:
    return {"name": feature.name, "low": feature.low, "high": feature.high, "meaning": feature.meaning}
