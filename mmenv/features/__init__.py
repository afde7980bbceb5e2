"""Feature groups: what a policy observes. One file each; `register` makes it known to `gym.make`.

Scales are fixed and physical (price units of the market, lots, fractions of a limit), so weights never drift
from a normaliser's statistics. A value is computed from events up to its own time, and clipped to its bounds.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from mmenv.config import ConfigError, EnvConfig
from mmenv.kernel import EMPTY, Stage


@dataclass(frozen=True)
class Feature:
    """One entry of the observation: its bounds, and what it means with its unit."""

    name: str
    low: float
    high: float
    meaning: str


@dataclass(frozen=True)
class Group:
    """Feature entries with the stages that keep and show them.

    `update` runs once a step and keeps the group's windows in its `own` state; `observe` writes one row of
    the tile for each feature and must show a fresh start where `age` is zero.
    """

    name: str
    features: tuple[Feature, ...] | Callable[[EnvConfig], tuple[Feature, ...]]
    """The entries, or, where their number depends on the configuration, what makes them of it."""
    observe: Stage
    update: Stage | None = None
    warm_up: int = 0
    """Steps until the longest window is full."""

    @property
    def own(self) -> np.dtype:
        return self.update.own if self.update else EMPTY

    def entries(self, config: EnvConfig) -> tuple[Feature, ...]:
        """The group's entries under `config`. Raises `ConfigError` where there are none to show."""
        if isinstance(self.features, tuple):
            return self.features
        return self.features(config)


GROUPS: dict[str, Group] = {}


def register(group: Group) -> Group:
    """Make a feature group known under its name."""
    GROUPS[group.name] = group
    return group


def check_groups(names: Iterable[str]) -> tuple[str, ...]:
    """The names of feature groups as a tuple, each known and named once."""
    chosen = (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        if name not in GROUPS:
            near = difflib.get_close_matches(str(name), GROUPS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"features names {name!r}, which is no group.{hint} Allowed: {', '.join(GROUPS)}."
            )
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(
            f"features = {chosen!r} is not possible: name at least one group, and each only once."
        )
    return chosen


HIDDEN = ("latent", "surprise")
"""Groups for learners alone: where they are the last, signals stand before them, with what a policy sees."""


def observation_features(config: EnvConfig) -> tuple[Feature, ...]:
    """The features of the observation, in order."""
    features = tuple(feature for name in config.features for feature in GROUPS[name].entries(config))
    at = before_signals(config)
    return (
        *features[:at],
        *(output for signal in config.signals for output in signal.outputs),
        *features[at:],
    )


def before_signals(config: EnvConfig) -> int:
    """So many entries of the observation stand before the outputs of signals."""
    groups = list(config.features)
    while groups and groups[-1] in HIDDEN:
        groups.pop()
    return sum(len(GROUPS[name].entries(config)) for name in groups)


def observation_names(config: EnvConfig) -> tuple[str, ...]:
    """The names of the observation's entries, in order."""
    return tuple(feature.name for feature in observation_features(config))


from mmenv.features import (  # noqa: E402, F401  (register)
    clock,
    inventory,
    latent,
    microstructure,
    observed,
    order_flow,
    parameters,
    risk_inputs,
    surprise,
    tape,
    trade_book,
)
