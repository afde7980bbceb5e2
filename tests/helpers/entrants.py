"""Policies that backtests play in tests, the misbehaving ones too; they pickle into other processes."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np

from mmenv.backtest import Tabulated
from policies.make import make_policy

GLFT = {"gamma": 0.1, "arrival_rate": 0.5, "fill_decay": 3.0, "volatility": 1.0}


@dataclasses.dataclass(frozen=True)
class Make:
    """A source of policies for tests: `kind` is a registered name, or a class of this module."""

    name: str
    kind: str = "glft"
    parameters: tuple[tuple[str, float], ...] = tuple(GLFT.items())

    @property
    def key(self) -> str:
        return json.dumps([self.kind, self.parameters])

    def make(self, config):
        if self.kind in globals():
            bounds = dict(self.parameters)
            return globals()[self.kind](*(bounds[name] for name in ("low", "high") if name in bounds))
        policy = make_policy(self.kind, config, **dict(self.parameters))
        return Tabulated(policy) if hasattr(policy, "distances") else policy


class Wandering:
    """Random quotes close to the mid, some of them not finite: numbers of an action between two bounds."""

    def __init__(self, low=(-1, -0.1), high=(-0.6, 0.1)):
        self.low, self.high = low, high

    def reset(self, n):
        return np.random.default_rng(n)

    def act(self, observation, state):
        size = len(observation), len(self.low)
        actions = state.uniform(self.low, self.high, size).astype(np.float32)
        actions[state.random(len(actions)) < 0.05] = np.nan
        return actions, state


class Steady:
    """Random quotes that stand for a while: numbers of an action between two bounds, new at every seventh
    decision or so, the first ones of an action alike whatever numbers follow."""

    def __init__(self, low=(-1.0, -0.1), high=(-0.6, 0.1)):
        self.low, self.high = low, high

    def reset(self, n):
        return 0, np.zeros((n, len(self.low)), np.float32)

    def act(self, observation, state):
        count, last = state
        random = np.random.default_rng(count)
        if count == 0 or random.random() < 0.15:
            drawn = random.uniform(size=last.T.shape).T
            low, high = np.array(self.low), np.array(self.high)
            last = (low + (high - low) * drawn).astype(np.float32)
        return last, (count + 1, last)


class Raises(Wandering):
    def act(self, observation, state):
        raise KeyError("no such thing")


class Misshapen(Wandering):
    def act(self, observation, state):
        return np.zeros(2, np.float32), state


class Endless(Wandering):
    def act(self, observation, state):
        while True:
            time.sleep(0.01)
