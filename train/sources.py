"""Where the policies of a backtest come from: models, bundles, registered names and a user's own objects.

A source is small, names its policy, and pickles: it is sent to the processes that play.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmenv.backtest import Player, Source, Tabulated
from mmenv.config import EnvConfig
from mmenv.registry import PluginError
from policies.base import POLICIES, QuotingPolicy, tuned_policies
from policies.bundle import SUFFIX
from policies.bundle import load as load_bundle
from policies.make import make_policy, read_parameters
from policies.sb3 import OTHER_FRAMEWORK, is_ours, load_model, model_file, there
from train.baselines import best_parameters, solvable


@dataclass(frozen=True)
class Fixed:
    """A policy that is already made."""

    name: str
    policy: Any

    @cached_property
    def key(self) -> str:
        # Kept, and so sent along: what was unpickled in another process need not pickle to the same bytes.
        return hashlib.sha256(pickle.dumps(self.policy)).hexdigest()

    def make(self, config: EnvConfig) -> Player | Tabulated:
        return tabulated(self.policy)


@dataclass(frozen=True)
class Named:
    """A registered policy with its parameters."""

    name: str
    family: str
    parameters: tuple[tuple[str, float], ...]

    @property
    def key(self) -> str:
        return json.dumps([self.family, self.parameters])

    def make(self, config: EnvConfig) -> Player | Tabulated:
        return tabulated(make_policy(self.family, config, **dict(self.parameters)))


@dataclass(frozen=True)
class File:
    """A trained model or a bundle."""

    name: str
    path: Path

    @property
    def key(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def make(self, config: EnvConfig) -> Player | Tabulated:
        if self.path.suffix == SUFFIX:
            return load_bundle(self.path).policy()
        if not is_ours(self.path):
            return load_model(self.path).policy(config, self.name)
        # Here, for torch takes seconds to import.
        from policies.network.trained import TrainedPolicy
        from train.evaluate import load

        return TrainedPolicy(load(self.path)[0].policy, self.name)


@dataclass(frozen=True)
class Object:
    """A user's Python object, module:attribute."""

    name: str
    path: str

    @property
    def key(self) -> str:
        POLICIES.find(self.path)
        file = getattr(sys.modules[self.path.partition(":")[0]], "__file__", None)
        return self.path if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def make(self, config: EnvConfig) -> Player | Tabulated:
        return tabulated(make_policy(self.path, config))


def tabulated(policy: Any) -> Player | Tabulated:
    """Give the policy, as a table where its quotes depend on time and position alone."""
    plain = isinstance(policy, QuotingPolicy) and type(policy).act is QuotingPolicy.act
    return Tabulated(policy) if plain else policy


def is_model(text: str) -> bool:
    """Whether a word of the command line is a trained model (its folder or .zip) or a bundle."""
    path = Path(text)
    return path.suffix in (".zip", SUFFIX) or path.is_dir() or ("/" in text and ":" not in text)


def model_config(text: str) -> EnvConfig | None:
    """Read the configuration that a model or bundle was made under; None for other policies."""
    if Path(text).suffix == SUFFIX:
        return load_bundle(Path(text)).config
    if not is_model(text) or not Path(text).exists():
        return None
    file = model_file(text)
    if file is not None and file.exists() and not is_ours(file):
        return load_model(file).env_config
    from train.evaluate import load  # here, for torch takes seconds to import

    return load(Path(text))[1]


def make_source(
    text: str, label: str, config: EnvConfig, calibration: Path | None = None
) -> tuple[Source, int]:
    """Find where the policy `text` comes from, and how many configurations were tried to choose it.

    Raises
    ------
    ConfigError
        For a policy that is not known, with the nearest one, or whose parameters are not possible.
    FileNotFoundError
        For a model that is not there.
    """
    name, _, rest = text.partition(":")
    if is_model(text):
        file = File(label, model_file(text) or Path(text))
        there(file.path)
        if file.path.suffix != SUFFIX and not is_ours(file.path):
            file.make(config)  # says at once where it does not fit
        return file, 0
    if name in tuned_policies() and not rest:
        best = best_parameters(name, config, calibration)
        tried = 0 if solvable(config) else len(tuned_policies()[name].tried) - 1
        return Named(label, name, tuple(best.items())), tried
    if name in POLICIES:
        source = Named(label, name, read_parameters(rest))
        source.make(config)  # says at once what is wrong with them
        return source, 0
    try:
        POLICIES.find(text)
    except PluginError as error:
        raise PluginError(
            f"{error} Or give the folder or .zip of a model of Stable-Baselines3, or a bundle (.mmz). "
            f"{OTHER_FRAMEWORK}"
        ) from None
    return Object(label, text), 0


def short_names(texts: list[str]) -> dict[str, str]:
    """Name the policies without parameters or folder where that tells them apart."""

    def short(text: str) -> str:
        if is_model(text):
            return Path(text).name if Path(text).is_dir() else Path(text).stem
        name, _, rest = text.partition(":")
        return name if name in POLICIES else rest or text

    names = [short(text) for text in texts]
    return {t: name if names.count(name) == 1 else t for t, name in zip(texts, names, strict=True)}
