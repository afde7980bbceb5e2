"""What a policy is, how one is made by name, and how observations are read back into market events."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

import policies
from mmenv.config import ConfigError, EnvConfig
from mmenv.features import observation_names
from mmenv.quote import to_action

State = Any


class Policy(Protocol):
    """Maps observations to actions for n environments at once, carrying its own memory between steps."""

    name: str

    def reset(self, n: int) -> State:
        """Memory for n environments that have just been reset."""

    def act(self, observation: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Action, float32 (n, 2), for the observation, float32 (n, F), and the memory after it."""


F = TypeVar("F", bound=Callable[..., Policy])

POLICIES: dict[str, Callable[..., Policy]] = {}


def register(name: str) -> Callable[[F], F]:
    """Decorator: make a policy known under `name`, from `factory(config, **parameters) -> Policy`."""

    def note(factory: F) -> F:
        POLICIES[name] = factory
        return factory

    return note


def make_policy(name: str, config: EnvConfig, **parameters: Any) -> Policy:
    """The registered policy `name` for environments of `config`, or that of a bundle, `path/to/policy.mmz`.

    A bundle may come from another market, if all else that it reads and decides is the same. Any module of
    this package may register a policy. Modules are imported one after the other until the name is known, so
    that those with heavy dependencies are left alone where nobody asks for them.
    """
    if name.endswith(".mmz"):
        from policies.bundle import load

        return load(name, config, other_market=True).policy(**parameters)
    for module in pkgutil.iter_modules(policies.__path__):
        if name in POLICIES:
            break
        importlib.import_module(f"policies.{module.name}")
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"policy = {name!r} is not known.{hint} Allowed: {', '.join(sorted(POLICIES))}.")
    return POLICIES[name](config, **parameters)


class Reading:
    """Reads position, time and the last step's market events back from observations of `config`."""

    def __init__(self, config: EnvConfig, *, events: bool = False) -> None:
        """Raises `ConfigError` where an entry is missing: of position and time, and with `events` of orders
        and moves, which group `tape` has, or else groups `order_flow` and `trade_book`.
        """
        names = observation_names(config)
        self._tape = "buy_volume" in names
        needs = ["inventory", "time_left"]
        if events:
            needs += ["buy_volume", "move"] if self._tape else ["volume", "flow_imbalance", "return"]
        for need in needs:
            if need not in names:
                raise ConfigError(
                    f"EnvConfig.features = {config.features!r} is not possible: this policy reads {need!r}; "
                    "add the feature group that has it."
                )
        self._column = {name: column for column, name in enumerate(names)}
        self._horizon = config.horizon
        self._limit = config.risk.position_limit
        self._lots = config.market.lot_scale

    def _value(self, observation: np.ndarray, name: str) -> np.ndarray:
        return observation[:, self._column[name]].astype(np.float64)

    def position(self, observation: np.ndarray) -> np.ndarray:
        """Position in lots, int64 (n,). Entry `inventory`."""
        return np.rint(self._value(observation, "inventory") * self._limit).astype(np.int64)

    def step(self, observation: np.ndarray) -> np.ndarray:
        """Decisions since the episode began, int64 (n,). Entry `time_left`."""
        left = np.rint(self._value(observation, "time_left") * self._horizon)
        return self._horizon - left.astype(np.int64)

    def orders(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lots of buy and sell market orders in the last step, int64 (n,)."""
        if self._tape:
            sides = (self._value(observation, f"{side}_volume") * self._lots for side in ("buy", "sell"))
            buy, sell = (np.rint(lots).astype(np.int64) for lots in sides)
            return buy, sell
        volume = self._value(observation, "volume") * self._lots
        imbalance = self._value(observation, "flow_imbalance")
        buy, sell = (np.rint(volume * (1 + side * imbalance) / 2).astype(np.int64) for side in (1, -1))
        return buy, sell

    def move(self, observation: np.ndarray) -> np.ndarray:
        """Move of the mid in the last step, price units, float64 (n,)."""
        return self._value(observation, "move" if self._tape else "return")


class QuotingPolicy:
    """Base of policies without memory: quotes that depend on time and position alone."""

    name = ""

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self._reading = Reading(config)

    def quotes(self, step: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of ask and bid from the mid, price units, for step and position (broadcast)."""
        raise NotImplementedError

    def distances(self, step: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`quotes` within [0, max_distance], as they will stand in the market, float64 (broadcast)."""
        top = self.config.quote.max_distance
        ask, bid = np.broadcast_arrays(*self.quotes(step, position))
        return np.clip(ask, 0.0, top), np.clip(bid, 0.0, top)

    def tabulate(self) -> tuple[np.ndarray, np.ndarray]:
        """`distances` at every step and position, float64 (horizon, 2 limit + 1) each."""
        limit = self.config.risk.position_limit
        return self.distances(*np.ogrid[0 : self.config.horizon, -limit : limit + 1])

    def reset(self, n: int) -> State:
        return None

    def act(self, observation: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        step, position = self._reading.step(observation), self._reading.position(observation)
        return to_action(self.config.quote, *self.distances(step, position)), state
