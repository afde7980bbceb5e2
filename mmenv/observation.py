"""What a policy sees and gives: the spaces and the entries of a configuration's observation."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from mmenv.config import EnvConfig
from mmenv.features.base import GROUPS, HIDDEN, Feature


def observation_space(config: EnvConfig) -> spaces.Box:
    """Box of the features' bounds, float32 (F,)."""
    features = observation_features(config)
    low = np.array([f.low for f in features], np.float32)
    high = np.array([f.high for f in features], np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def action_space(config: EnvConfig) -> spaces.Box:
    """Box [-1, 1]^A of the action's numbers, float32 (A,)."""
    return spaces.Box(-1.0, 1.0, (len(config.quote.entries),), np.float32)


def observation_features(config: EnvConfig) -> tuple[Feature, ...]:
    """The features of the observation, in order."""
    features = tuple(
        feature
        for name in config.features
        for feature in GROUPS[name].entries(config.market, config.randomise)
    )
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
    return sum(len(GROUPS[name].entries(config.market, config.randomise)) for name in groups)


def observation_names(config: EnvConfig) -> tuple[str, ...]:
    """The names of the observation's entries, in order."""
    return tuple(feature.name for feature in observation_features(config))
