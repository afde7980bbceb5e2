"""Signals: outputs of trained networks, or of anything else that forecasts, as entries of the observation.

    import policies                                           # knows how to read .mms files
    env = gym.make("NeuralMM-v0", market="book", signals=["flow.mms"])
    env = gym.make("NeuralMM-v0", market="book", signals=["my_package:Momentum"])
    env = gym.make("NeuralMM-v0", market="book", signals=[signal])      # or any object that is a `Signal`

A signal keeps a memory for each environment and takes one step at every decision, from features that the desk
computes for it whether or not the policy sees them. This package knows no networks: what reads a file is
registered from outside (`register_loader`).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mmenv.checks import ConfigError
from mmenv.features.base import GROUPS, Feature
from mmenv.registry import PluginError, Registry


@runtime_checkable
class Signal(Protocol):
    """What the desk asks of a signal, which never changes: memories are given to `step`.

    A class need not inherit from this one to be a signal.
    """

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Feature groups that have its inputs."""

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The entries it reads, in its order, as they were when it was trained."""

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """The entries it adds, with their bounds, named so that no other signal has them."""

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
        """What `load_signal` makes the same signal of, such as its file; None where nothing does."""

    def step(self, inputs: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Outputs of one decision in each of n environments.

        Parameters
        ----------
        inputs
            float32 (n, inputs).
        states
            float32 (n, state_size), brought forward in place.

        Returns
        -------
        numpy.ndarray
            Finite float32 (n, outputs). Row i depends on row i alone.
        """


SIGNALS: Registry[Any] = Registry("signal", None)
"""Signals by name: each a `Signal`, or what gives one when it is called."""

S = TypeVar("S")


def register(plugin: S) -> S:
    """Decorator: make a signal, or the class of one that is made without arguments, known as its `name`."""
    SIGNALS.register(plugin.name, plugin)  # type: ignore[attr-defined]
    return plugin


Loader = Callable[[Path], Signal]

LOADERS: dict[str, Loader] = {}


def register_loader(suffix: str, loader: Loader) -> None:
    """Make files that end in `suffix` known as signals."""
    LOADERS[suffix] = loader


def load_signal(given: Any) -> Signal:
    """A signal from itself, a file, a registered name, "module:name", or from what `describe` gives.

    As in `gym.make`, "module:path" of a file imports the module first, which may register a loader. Raises
    `ConfigError` where the file cannot be read, or is another than the description says, and for an object
    that has not the shape of a signal.
    """
    if isinstance(given, Mapping):
        return _described(given)
    if not isinstance(given, (str, Path)):
        return check_signal(given)
    module, _, path = str(given).rpartition(":")
    if module:
        SIGNALS.load(f"signals: {module!r}", lambda: importlib.import_module(module))
    suffix = Path(path).suffix
    if suffix in LOADERS:
        return LOADERS[suffix](Path(path))
    if module or path in SIGNALS:
        plugin = SIGNALS.find(str(given), "signals")
        return check_signal(SIGNALS.load(f"signal {str(given)!r}", plugin) if callable(plugin) else plugin)
    known = ", ".join([*LOADERS, *SIGNALS]) or "nothing before `import policies`"
    raise ConfigError(f"signals: {str(given)!r} cannot be read: known is {known}.")


def _described(given: Mapping[str, Any]) -> Signal:
    """The signal that `describe` described."""
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


def check_signal(signal: Any) -> Signal:
    """`signal` itself; raises `ConfigError` where the desk could not use it."""
    if not isinstance(signal, Signal):
        raise PluginError(
            f"signals: {signal!r} is no signal: give a file, or an object with step() and its kin."
        )

    def need(good: bool, field: str, value: object, allowed: str) -> None:
        if not good:
            raise PluginError(
                f"signal {signal.name!r}: {field} = {value!r} is not possible: it must be {allowed}."
            )

    need(bool(signal.outputs), "outputs", signal.outputs, "one entry at least")
    for feature in (*signal.inputs, *signal.outputs):
        bounded = -math.inf < feature.low < feature.high < math.inf
        need(bounded, feature.name, (feature.low, feature.high), "bounded, the first bound below the second")
    for group in signal.groups:
        GROUPS.find(group, f"signal {signal.name!r}: groups")
    size, seconds = signal.state_size, signal.step_seconds
    need(isinstance(size, int) and size >= 0, "state_size", size, "a whole number of floats")
    need(0 < seconds < math.inf, "step_seconds", seconds, "a finite number of seconds above 0")
    inputs = np.zeros((2, len(signal.inputs)), np.float32)
    outputs = np.asarray(signal.step(inputs, np.zeros((2, size), np.float32)))
    shape = (2, len(signal.outputs))
    need(outputs.shape == shape, "step(...).shape", outputs.shape, f"{shape}, a column for each output")
    need(bool(np.isfinite(outputs).all()), "step(...)", outputs.tolist(), "finite numbers")
    return signal


def load_signals(given: Iterable[Any]) -> tuple[Signal, ...]:
    """Signals from what `load_signal` takes; raises `ConfigError` where two have an output of one name."""
    signals = tuple(load_signal(one) for one in ([given] if isinstance(given, (str, Path)) else given))
    names = [feature.name for signal in signals for feature in signal.outputs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"signals: two of them have the output {name!r}: leave one out, or rename it.")
    return signals


def describe(signal: Signal) -> dict[str, Any]:
    """A signal as plain JSON types, for schema ids and saved configurations."""
    return {"name": signal.name, "source": signal.source, "identity": signal.identity}
