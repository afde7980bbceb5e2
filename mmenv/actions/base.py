"""What an action is: a box of numbers, a compiled stage that turns them into quotes, and its inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from mmenv.checks import ConfigError, build, require_number
from mmenv.engine.stage import Stage
from mmenv.engine.state import ACTIONS
from mmenv.registry import PluginError, Registry


class Entry(NamedTuple):
    """One number of an action: its name, its meaning with its unit, and what -1 and +1 stand for."""

    name: str
    meaning: str
    low: str
    high: str


class Taking(NamedTuple):
    """What a market order costs; see `mmenv.step.taker`."""

    half_spread: float
    """What it pays from the mid where there is no book, price units."""
    fee_bp: float
    """Fee on its fills, basis points of notional."""
    lots: int
    """The most that it may be of."""


class Further(NamedTuple):
    """Stages of an action beside the first, each with its own record."""

    decide: list[tuple[Stage, np.ndarray]]
    """They follow `Action.stage`."""
    fill: list[tuple[Stage, np.ndarray]]
    """They follow those of a simulated market, where its fills are not all there is to it."""
    surprise: Sequence[tuple[Stage, np.ndarray]] = ()
    """They follow `fill` where features show surprises of fills: for more than one quote a side."""
    levels: np.ndarray | None = None
    """Where it quotes several orders a side: the record, among the above, that has `ask_distance` and
    `bid_distance` of each level, (LEVELS, LANES) half-ticks from the mid, and `before`, (LEVELS + 1, LANES),
    the lots of a side that stand on the levels before it."""

    def on(self, levels: np.ndarray) -> Further:
        """The same with the record of `levels` in other memory, of the same type."""
        assert self.levels is not None
        levels[...] = self.levels

        def moved(calls: Sequence[tuple[Stage, np.ndarray]]) -> list[tuple[Stage, np.ndarray]]:
            return [(stage, levels if own is self.levels else own) for stage, own in calls]

        return Further(moved(self.decide), moved(self.fill), moved(self.surprise), levels)


@dataclass(frozen=True, kw_only=True)
class Action(ABC):
    """Base of every action: its settings as a frozen dataclass. Subclass in one file and register it.

    The numbers of an action lie in [-1, 1]; what lies outside is clipped. `quote` of a configuration is one
    of these, or a dict of its settings, with `name` where it is not the default.
    """

    name: ClassVar[str] = ""
    entries: ClassVar[tuple[Entry, ...]] = ()
    """The numbers of the action, in order."""
    distances_are: ClassVar[str] = "distance from the mid, price units"
    """What the numbers of `to_distances` are."""
    stage: ClassVar[Stage]
    """Sets `ask_distance`, `bid_distance` (half-ticks), `ask_lots`, `bid_lots` from `action`, (A, LANES)."""

    by_reach: ClassVar[bool] = False
    """Whether it needs a market whose orders reach so far beyond the mid (`mmenv.market.fills`), or one that
    takes several orders a side."""
    from_touch: ClassVar[bool] = False
    """Whether `to_action` and `to_distances` count ticks behind the touch, not price units from the mid."""

    requote_ticks: int = 0
    """An order stays where it is while the price asked for is no farther from it than this, and keeps its
    place in the queue; 0 moves it whenever another price is asked for."""

    def __post_init__(self) -> None:
        require_number(self, "requote_ticks", 0, 1_000_000, integer=True)

    @property
    def side_orders(self) -> int:
        """How many orders a side may have at once; more than one are in `Further.levels`."""
        return 1

    @property
    def leaves(self) -> bool:
        """Whether a side can be left, not quoted at all."""
        return False

    def quoted(self, actions: np.ndarray, order_lots: int) -> np.ndarray:
        """Whether actions, (n, A), quote ask and bid or leave them, before any limits: bool (2, n). A number
        that is not finite quotes nothing."""
        distances = np.stack(self.to_distances(actions))
        return np.isfinite(distances) & np.isfinite(actions).all(axis=1)

    @property
    def taking(self) -> Taking | None:
        """The terms of its market orders, where it sends any: its stages then set `taker_lots`, too."""
        return None

    def in_new_lots(self, factor: Decimal) -> Action:
        """The same where so many lots are what one was: sizes among its settings keep their worth, rounded
        down. Raises `ConfigError` where one comes to nothing."""
        return self

    def further(self, price_scale: int, on_ticks: bool, blocks: int) -> Further:
        """Stages beside `stage`, each with the record that it reads as its `own`: one for all environments,
        or one for each of the `blocks`."""
        return Further([], [])

    @abstractmethod
    def compiled(self, price_scale: int, on_ticks: bool) -> np.ndarray:
        """The settings as one record of the stage's `own` type; a price unit has `price_scale` half-ticks.

        `on_ticks` says whether prices are those of a book, not of a formula.
        """

    @abstractmethod
    def to_action(self, ask_distance: np.ndarray, bid_distance: np.ndarray, **more: Any) -> np.ndarray:
        """The action, float32 (..., A), that quotes these distances from the mid, price units (see
        `from_touch`); infinite: the side is left, where it can be.

        The nearest one where none does exactly. What else an action decides are arguments by name, with
        defaults.
        """

    @abstractmethod
    def to_distances(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of ask and bid that actions, (n, A), ask for, price units (see `from_touch`), before
        rounding: (n,) each."""


A = TypeVar("A", bound=type[Action])

DEFAULT = "spread-skew"


def _check(name: str, cls: Any) -> None:
    """Raise `PluginError` unless `cls` is an action that an environment can be built with."""
    if not (isinstance(cls, type) and issubclass(cls, Action) and is_dataclass(cls)):
        raise PluginError(
            f"action {name!r} = {cls!r} is not possible: it must be a frozen dataclass of Action."
        )
    if not 1 <= len(cls.entries) <= ACTIONS:
        raise PluginError(
            f"action {name!r}: entries = {cls.entries!r} is not possible: name 1 to {ACTIONS} numbers."
        )
    if not isinstance(getattr(cls, "stage", None), Stage):
        raise PluginError(
            f"action {name!r} has no stage: decorate its compiled body with mmenv.engine.stage."
        )


REGISTRY: Registry[type[Action]] = Registry("action", "mmenv.actions", _check)


def register(cls: A) -> A:
    """Class decorator: make the action known under its `name`."""
    REGISTRY.register(cls.name, cls)
    return cls


def make_action(given: Action | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> Action:
    """An action from itself, or from a dict of settings laid over `defaults`, which are of `DEFAULT`."""
    if isinstance(given, Action):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"quote = {given!r} is not possible: give an Action or a dict of its settings.")
    settings = dict(given or {})
    name = settings.pop("name", DEFAULT)
    cls = REGISTRY.find(name, "quote.name")
    known = {f.name for f in fields(cls)}
    return build(cls, settings, {k: v for k, v in defaults.items() if k in known})
