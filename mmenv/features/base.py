"""What a feature group is: entries of the observation, and the stages that keep and show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from mmenv.checks import ConfigError
from mmenv.engine.stage import Stage
from mmenv.engine.state import EMPTY, per_lane
from mmenv.market.base import Market
from mmenv.market.varied import Distribution
from mmenv.registry import Registry


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

    @property
    def own(self) -> np.dtype:
        return self.update.own if self.update else EMPTY

    def entries(self, market: Market, randomise: tuple[Distribution, ...] = ()) -> tuple[Feature, ...]:
        """The group's entries on `market`, of which episodes draw `randomise`.

        Raises `ConfigError` where there are none to show.
        """
        if isinstance(self.features, tuple):
            return self.features
        return self.features(market, randomise)


GROUPS: Registry[Group] = Registry("feature group", "mmenv.features")


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
