"""What a policy is, how one is registered, and how observations are read back into market events.

A policy of your own is one file:

    from policies.base import QuotingPolicy, register

    @register
    class HalfATick(QuotingPolicy):
        \"\"\"Quotes half a price unit from the mid, always.\"\"\"

        name = "half-a-tick"

        def quotes(self, step, position):
            return 0.5, 0.5

Every command that takes a policy takes its name, "module:HalfATick" without registering it, and the name
under which a package offers it among its entry points of the group `neuralmm.policies`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from mmenv.actions.spread_skew import SpreadSkew
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, check_single
from mmenv.observation import action_entries, observation_names
from mmenv.registry import PluginError, Registry

State = Any


class Policy(Protocol):
    """Maps observations to actions for n environments at once; its memory is handed to it at each step.

    A class need not inherit from this one to be a policy.
    """

    name: str

    def reset(self, n: int) -> State:
        """Memory for n environments that have just been reset."""

    def act(self, observation: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Action after an observation, and the memory after it.

        Parameters
        ----------
        observation
            float32 (n, F), within the bounds of the observation space.
        state
            What `reset` gave, or the last call of this method.

        Returns
        -------
        tuple
            The action, float32 (n, A), each of its numbers in [-1, 1] (half-spread and skew, unless the
            configuration has another action); a row with one that is not finite quotes nothing. Then the
            memory.
        """


Factory = Callable[..., Policy]
"""What is registered: called with the configuration and, by name, with parameters."""


def check_factory(name: str, plugin: Any) -> None:
    """Raise `PluginError` for what is neither a factory of policies nor a policy that is ready to act."""
    if not callable(plugin) and not is_ready(plugin):
        raise PluginError(
            f"policy {name!r} = {plugin!r} is not possible: it must be a class or function that is called "
            "with the configuration, or an object with reset(n) and act(observation, state)."
        )


def is_ready(plugin: Any) -> bool:
    """Whether a plug-in is a policy itself and not what makes one."""
    return not inspect.isclass(plugin) and hasattr(plugin, "act")


POLICIES: Registry[Factory] = Registry("policy", "policies", check_factory, group="neuralmm.policies")

P = TypeVar("P", bound=type[Policy])


def register(cls: P) -> P:
    """Class decorator: make the policy known under its `name`."""
    POLICIES.register(cls.name, cls)
    return cls


def check_policy(name: str, policy: Any, config: EnvConfig) -> None:
    """Raise `PluginError` unless `policy` has the shape of a `Policy` and its actions those of `config`.

    The actions are seen on a copy, so that a policy which keeps its memory to itself is left as it is.
    """
    for method in ("reset", "act"):
        if not callable(getattr(policy, method, None)):
            raise PluginError(
                f"policy {name!r} has no method {method!r}: it needs reset(n) and act(observation, state), "
                "see policies.base.Policy."
            )
    observation = np.zeros((2, len(observation_names(config))), np.float32)
    try:
        tried = copy.deepcopy(policy)
        result = tried.act(observation, tried.reset(2))
    except Exception:  # zeros may be no market that it knows: what is wrong then shows when it plays
        return
    if not isinstance(result, tuple) or len(result) != 2:
        raise PluginError(
            f"policy {name!r}: act gave {type(result).__name__}, which is not possible: it must give the "
            "action and the memory after it."
        )
    action, entries = np.asarray(result[0]), action_entries(config)
    if action.shape != (2, len(entries)) or action.dtype.kind not in "fiu":
        raise PluginError(
            f"policy {name!r}: act gave {action.dtype} {action.shape} for 2 environments, which is not "
            f"possible: it must give {', '.join(entry.name for entry in entries)} of each, float32 "
            f"(2, {len(entries)})."
        )


class Tuning(NamedTuple):
    """The one parameter of a family of policies that is chosen by what its members earn."""

    parameter: str
    low: float
    high: float
    """Range in which the best is looked for where exact values are known; infinity stands for
    `SpreadSkew.max_distance`."""
    tried: tuple[float, ...]
    """What is tried where they are not, price units."""


def tuned_policies() -> dict[str, Tuning]:
    """The registered policies with a parameter to tune: the baselines of every evaluation, in order."""
    found = ((name, getattr(factory, "tuning", None)) for name, factory in POLICIES.registered.items())
    return {name: tuning for name, tuning in found if tuning is not None}


class Reading:
    """Reads position, time and the last step's market events back from observations of `config`."""

    def __init__(self, config: EnvConfig, *, events: bool = False) -> None:
        """Raises `ConfigError` where an entry is missing: of position and time, and with `events` of orders
        and moves, which group `tape` has, or else groups `order_flow` and `trade_book`.
        """
        check_single(config, "this policy")
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
        """Position in lots, int64 (n,), from the entry `inventory`."""
        return np.rint(self._value(observation, "inventory") * self._limit).astype(np.int64)

    def step(self, observation: np.ndarray) -> np.ndarray:
        """Decisions since the episode began, int64 (n,), from the entry `time_left`."""
        left = np.rint(self._value(observation, "time_left") * self._horizon)
        return self._horizon - left.astype(np.int64)

    def orders(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lots of buy and sell market orders in the last step, int64 (n,) each."""
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


def max_distance(config: EnvConfig) -> float:
    """The greatest distance from the mid, price units, that the action of `config` quotes, if it has one."""
    return float(getattr(config.quote, "max_distance", math.inf))


def spread_skew(config: EnvConfig, purpose: str) -> SpreadSkew:
    """The action of `config`; raises `ConfigError` where it is another than spread and skew."""
    action = config.quote
    if type(action) is not SpreadSkew:
        raise ConfigError(
            f"EnvConfig.quote = {action.name!r} is not possible: it must be {SpreadSkew.name!r} for "
            f"{purpose}."
        )
    return action


class QuotingPolicy:
    """Base of policies without memory: quotes that depend on time and position alone.

    A subclass gives `quotes`; where it has one parameter worth choosing, also `tuning`.
    """

    name = ""
    tuning: ClassVar[Tuning | None] = None
    reads: ClassVar[bool] = True
    """Whether `quotes` depend on anything; those that do not suit any number of assets."""

    def __init__(self, config: EnvConfig) -> None:
        """Raises `ConfigError` where the action of `config` counts from the touch."""
        if config.quote.from_touch:
            raise ConfigError(
                f"EnvConfig.quote = {config.quote.name!r} is not possible: {self.name!r} quotes "
                f"distances from the mid; take {SpreadSkew.name!r}."
            )
        self.config = config
        self._reading = Reading(config) if self.reads else None

    def quotes(self, step: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of ask and bid from the mid, price units, for step and position (broadcast); a number
        stands for all of them."""
        raise NotImplementedError

    def distances(self, step: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`quotes` within [0, max_distance], as they will stand in the market, float64 (broadcast)."""
        top = max_distance(self.config)
        ask, bid, _, _ = np.broadcast_arrays(*self.quotes(step, position), step, position)
        return np.clip(ask, 0.0, top), np.clip(bid, 0.0, top)

    def tabulate(self) -> tuple[np.ndarray, np.ndarray]:
        """`distances` at every step and position, float64 (horizon, 2 limit + 1) each."""
        limit = self.config.risk.position_limit
        return self.distances(*np.ogrid[0 : self.config.horizon, -limit : limit + 1])

    def reset(self, n: int) -> State:
        return None

    def act(self, observation: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        n = len(observation)
        if self._reading is None:
            step = position = np.zeros(n * self.config.market.quoted, np.int64)
        else:
            step, position = self._reading.step(observation), self._reading.position(observation)
        return self.config.quote.to_action(*self.distances(step, position)).reshape(n, -1), state
