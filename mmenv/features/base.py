"""What a feature group is: entries of the observation, and the stages that keep and show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmenv.checks import ConfigError
from mmenv.engine.stage import Stage
from mmenv.engine.state import EMPTY, per_lane
from mmenv.market.base import Market
from mmenv.market.varied import Distribution
from mmenv.registry import PluginError, Registry


@dataclass(frozen=True)
class Feature:
    """One entry of the observation: its bounds, and what it means with its unit."""

    name: str
    low: float
    high: float
    meaning: str


def rows(features: Iterable[Feature]) -> np.dtype:
    """The rows of the observation tile that these features fill, under their names: `x` of a stage."""
    return np.dtype([per_lane(feature.name, "f4") for feature in features])


@dataclass(frozen=True)
class Group:
    """Feature entries with the stages that keep and show them.

    `update` runs once a step and keeps the group's windows in its `own` state; `observe` writes one row of
    the tile for each feature and must show a fresh start where `age` is zero.
    """

    name: str
    features: tuple[Feature, ...] | Callable[[Market, tuple[Distribution, ...]], tuple[Feature, ...]]
    """The entries, or what makes them of the market and of what episodes draw, where their number depends on
    these."""
    observe: Stage
    update: Stage | None = None
    warm_up: int = 0
    """Steps until the longest window is full."""
    further: Callable[[int], tuple[Feature, ...]] | None = None
    """Where an action has several orders a side: entries of the k-th of each, k from 2, after the others."""
    observe_further: Stage | None = None
    """Writes those of all k, from `mmenv.engine.state.STANDING`; where a market has no such orders they stay
    0."""

    @property
    def own(self) -> np.dtype:
        return self.update.own if self.update else EMPTY

    @property
    def origin(self) -> str:
        """Where it was made, module and name: its stage tells, for all groups are of this one class."""
        function = self.observe.function
        return f"{function.__module__}.{function.__qualname__}"

    def entries(
        self, market: Market, randomise: tuple[Distribution, ...] = (), orders: int = 1
    ) -> tuple[Feature, ...]:
        """The group's entries on `market`, of which episodes draw `randomise`, with so many `orders` a side.

        Raises `ConfigError` where there are none to show.
        """
        made = self.features
        if not isinstance(made, tuple):
            made = made(market, randomise)
            _check_features(self.name, made)
        if self.further is None:
            return made
        return (*made, *(feature for k in range(2, orders + 1) for feature in self.further(k)))


def _check(name: str, group: Any) -> None:
    """Raise `PluginError` unless `group` is a feature group that an observation can be made of."""
    if not isinstance(group, Group) or not isinstance(group.observe, Stage):
        raise PluginError(
            f"feature group {name!r} = {group!r} is not possible: it must be a Group with stages."
        )
    if not (isinstance(group.name, str) and group.name):
        raise PluginError(
            f"feature group {name!r}: name = {group.name!r} is not possible: it must be a name."
        )
    if group.update is not None and group.update.own != group.observe.own != EMPTY:
        raise PluginError(f"feature group {name!r}: update and observe keep different states: share one.")
    if not isinstance(group.features, tuple):
        return
    _check_features(name, group.features)
    if group.observe.out != rows(group.features):
        raise PluginError(
            f"feature group {name!r} observes other rows than its features: decorate observe with "
            "stage(out=rows(FEATURES))."
        )
    code = group.observe.function.__code__
    for feature in group.features:
        if feature.name not in (*code.co_names, *code.co_consts):
            raise PluginError(f"feature group {name!r} never sets {feature.name!r}: set x.{feature.name}[i].")


def _check_features(name: str, features: tuple[Feature, ...]) -> None:
    """Raise `PluginError` for entries without a name of their own, a meaning, or bounds."""
    names = [feature.name for feature in features]
    if not names or len(set(names)) != len(names):
        raise PluginError(
            f"feature group {name!r}: features = {names!r} is not possible: name each one once."
        )
    for feature in features:
        if not (feature.name and feature.meaning):
            raise PluginError(f"feature group {name!r}: {feature!r} is not possible: give name and meaning.")
        if not (math.isfinite(feature.low) and math.isfinite(feature.high) and feature.low < feature.high):
            raise PluginError(
                f"feature group {name!r}: {feature.name} has bounds {feature.low!r}, {feature.high!r}: they "
                "must be finite, the lower one first."
            )


GROUPS: Registry[Group] = Registry("feature group", "mmenv.features", _check)


def register(group: Group) -> Group:
    """Make a feature group known under its name."""
    return GROUPS.register(group.name, group)


def check_groups(names: Iterable[str]) -> tuple[str, ...]:
    """The names of feature groups as a tuple, each known and named once."""
    chosen = (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        GROUPS.find(name, "features")
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(
            f"features = {chosen!r} is not possible: name at least one group, and each only once."
        )
    return chosen


HIDDEN = ("latent", "surprise")
"""Groups for learners alone: where they are the last, signals stand before them, with what a policy sees."""

SHARED = ("clock",)
"""Groups whose entries are the same for all assets of an environment that quotes several: shown once."""
