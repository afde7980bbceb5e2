"""Signals: outputs of trained networks as further entries of the observation.

    import policies                                           # knows how to read .mms files
    env = gym.make("NeuralMM-v0", market="book", signals=["flow.mms"])
    env = gym.make("NeuralMM-v0", market="book", signals=[signal])      # or any object that is a `Signal`

A signal keeps a memory for each environment and takes one step at every decision, from features that the desk
computes for it whether or not the policy sees them. This package knows no networks: what reads a file is
registered from outside (`register_loader`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mmenv.config import ConfigError

if TYPE_CHECKING:
    from mmenv.config import EnvConfig
    from mmenv.features import Feature


@runtime_checkable
class Signal(Protocol):
    """What the desk asks of a signal. Immutable: memories are given to `step`."""

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Feature groups that have its inputs."""

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The entries it reads, in its order, as they were when it was trained."""

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """The entries it adds, named so that no other signal has them."""

    @property
    def state_size(self) -> int:
        """Floats of memory of one environment; all zero is a fresh start."""

    @property
    def step_seconds(self) -> float:
        """Time between two decisions that it was trained for."""

    @property
    def identity(self) -> str:
        """Hash of all that its outputs depend on."""

    @property
    def source(self) -> str | None:
        """The file it came from."""

    def step(self, inputs: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Outputs, float32 (n, outputs), of one decision in each of n environments.

        `inputs` is float32 (n, inputs); `states`, float32 (n, state_size), is brought forward in place.
        Row i depends on row i alone.
        """


Loader = Callable[[Path], Signal]

LOADERS: dict[str, Loader] = {}


def register_loader(suffix: str, loader: Loader) -> None:
    """Make files that end in `suffix` known as signals."""
    LOADERS[suffix] = loader


def load_signal(given: Any) -> Signal:
    """A signal from itself, from a file, or from what `describe` gives.

    As in `gym.make`, "module:path" imports the module first, which may register a loader. Raises
    `ConfigError` where the file cannot be read, or is another than the description says.
    """
    if isinstance(given, Mapping):
        if not given.get("source"):
            raise ConfigError(
                f"signal {given.get('name')!r} came from no file, so it cannot be loaded again: save it, and "
                "give the file to `signals`."
            )
        signal = load_signal(given["source"])
        if signal.identity != given["identity"]:
            raise ConfigError(
                f"{given['source']} is another signal than was used ({signal.identity}, not "
                f"{given['identity']}): put the right file in its place."
            )
        return signal
    if isinstance(given, (str, Path)):
        module, _, path = str(given).rpartition(":")
        if module:
            importlib.import_module(module)
        suffix = Path(path).suffix
        if suffix not in LOADERS:
            known = ", ".join(LOADERS) or "no kind of file (import policies first)"
            raise ConfigError(f"signals: {str(given)!r} cannot be read: known is {known}.")
        return LOADERS[suffix](Path(path))
    if isinstance(given, Signal):
        return given
    raise ConfigError(f"signals: {given!r} is no signal: give a file, or an object with step() and its kin.")


def load_signals(given: Iterable[Any]) -> tuple[Signal, ...]:
    """Signals from files or as they are; raises `ConfigError` where two have an output of the same name."""
    signals = tuple(load_signal(one) for one in ([given] if isinstance(given, (str, Path)) else given))
    names = [feature.name for signal in signals for feature in signal.outputs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"signals: two of them have the output {name!r}: leave one out, or rename it.")
    return signals


def describe(signal: Signal) -> dict[str, Any]:
    """A signal as plain JSON types, for schema ids and saved configurations."""
    return {"name": signal.name, "source": signal.source, "identity": signal.identity}


def check_signals(config: EnvConfig) -> None:
    """Raise `ConfigError` where a signal was trained for other features or another pace than `config` has."""
    for signal in config.networks:
        if abs(signal.step_seconds - config.market.step_seconds) > 1e-9:
            raise ConfigError(
                f"signal {signal.name!r} was trained for a decision every {signal.step_seconds:g} s, but "
                f"{config.market.name!r} decides every {config.market.step_seconds:g} s: train it there."
            )
        here = {feature.name: feature for name in signal.groups for feature in group_features(name, config)}
        for feature in signal.inputs:
            now = here.get(feature.name)
            if now != feature:
                raise ConfigError(
                    f"signal {signal.name!r} was trained on {feature}, which is {now} here: train it again."
                )


def group_features(name: str, config: EnvConfig) -> tuple[Feature, ...]:
    """The features of a group under `config`; none of a group that is not known."""
    from mmenv.features import GROUPS

    return GROUPS[name].entries(config) if name in GROUPS else ()
