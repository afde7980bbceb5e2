"""What a policy sees and gives: the spaces and the entries of a configuration's observation."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from mmenv.actions.base import Entry
from mmenv.config import EnvConfig, group_features
from mmenv.features.base import HIDDEN, SHARED, Feature

OF_THE_BASKET = (
    Feature("factor_move", -10, 10, "best estimate of the factor's last move, standard deviations"),
    Feature("factor_exposure", -1, 1, "what the factor moves the positions, over the most that limits allow"),
)
"""Entries that several quoted assets have together, after those of each and before what is hidden."""

TOGETHER = -1
"""In place of an asset's number: all of them."""


def observation_space(config: EnvConfig) -> spaces.Box:
    """Box of the features' bounds, float32 (F,)."""
    features = observation_features(config)
    low = np.array([f.low for f in features], np.float32)
    high = np.array([f.high for f in features], np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def action_space(config: EnvConfig) -> spaces.Box:
    """Box [-1, 1]^A of the action's numbers, float32 (A,)."""
    return spaces.Box(-1.0, 1.0, (len(action_entries(config)),), np.float32)


def action_entries(config: EnvConfig) -> tuple[Entry, ...]:
    """The numbers of an action, in order; of several quoted assets one asset's after another's."""
    entries = config.quote.entries
    if config.market.quoted == 1:
        return entries
    return tuple(
        entry._replace(name=f"asset_{k}_{entry.name}", meaning=f"{entry.meaning}, of asset {k}")
        for k in range(1, config.market.quoted + 1)
        for entry in entries
    )


def by_asset(config: EnvConfig, actions: np.ndarray) -> np.ndarray:
    """Actions, (n, A), as those of each quoted asset, (n x quoted, A / quoted)."""
    return actions.reshape(-1, len(config.quote.entries)) if config.market.quoted > 1 else actions


def observation_features(config: EnvConfig) -> tuple[Feature, ...]:
    """The features of the observation, in order."""
    if config.market.quoted > 1:
        return tuple(feature for feature, _, _ in basket_entries(config))
    features = tuple(feature for name in config.features for feature in group_features(name, config))
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
    return sum(len(group_features(name, config)) for name in groups)


def observation_names(config: EnvConfig) -> tuple[str, ...]:
    """The names of the observation's entries, in order."""
    return tuple(feature.name for feature in observation_features(config))


def basket_entries(config: EnvConfig) -> tuple[tuple[Feature, int, int], ...]:
    """The observation of several quoted assets: each entry, the number of its asset from 0 or `TOGETHER`, and
    its column among the entries of one asset (or of `OF_THE_BASKET`).

    Group by group, of each the entries of one asset after another's; groups that are the same for all assets
    (`SHARED`) once; what all have together before the groups that are hidden from a policy.
    """
    together = tuple((feature, TOGETHER, k) for k, feature in enumerate(OF_THE_BASKET))
    found: list[tuple[Feature, int, int]] = []
    hidden: list[tuple[Feature, int, int]] = []
    column = 0
    for name in config.features:
        entries = group_features(name, config)
        into = hidden if name in HIDDEN else found
        for asset in range(1 if name in SHARED else config.market.quoted):
            for k, feature in enumerate(entries):
                shown = feature if name in SHARED else of_asset(feature, asset)
                into.append((shown, asset, column + k))
        column += len(entries)
    return (*found, *together, *hidden)


def of_asset(feature: Feature, asset: int) -> Feature:
    """A feature under the name that it has where there are several assets, of which `asset` counts from 0."""
    name, meaning = f"asset_{asset + 1}_{feature.name}", f"{feature.meaning}, of asset {asset + 1}"
    return Feature(name, feature.low, feature.high, meaning)
