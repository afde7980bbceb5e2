"""What a market is: parameters as a frozen dataclass, and compiled stages or a place outside the step."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from mmenv.checks import ConfigError, check_keys, python_numbers, require_number
from mmenv.engine.memory import aligned_zeros
from mmenv.engine.stage import Call, Stage
from mmenv.engine.state import EMPTY, by_lane
from mmenv.market.outside import ExternalMarket
from mmenv.market.together import Together
from mmenv.registry import PluginError, Registry
from mmenv.times import SECOND


@dataclass(frozen=True)
class MarketStages:
    """What a simulated market adds to a step, and to a reset of the lanes whose `done` is set."""

    step: list[Call]
    reset: list[Call]
    state: np.ndarray | None
    """All that changes from step to step, a record for each block; None where nothing does."""
    family: np.ndarray | None
    """The parameters of each block's lanes, for `mmenv.desk.family` to fill; None where all share them."""
    levels: np.ndarray | None = None
    """Where several orders a side stand in it: memory for the action's record of them, a part of `state`."""
    standing: np.ndarray | None = None
    """And those that are left after a step, `mmenv.engine.state.STANDING`, a part of `state` too."""


@dataclass(frozen=True, kw_only=True)
class Market:
    """Base of every market: its parameters as a frozen dataclass. Subclass in one file and register it.

    A subclass sets `name`. It is simulated by the stages `on_step` and `on_reset`, which read the parameters
    that `compiled` gives, or lives outside the step and gives what `attach` makes. The rest has defaults.
    """

    name: ClassVar[str] = ""
    on_ticks: ClassVar[bool] = False
    """Whether prices are ticks of a book: a side can then be left, and orders have places in queues."""
    knows_places = False
    """The market outside says where in the queue our orders are; see `mmenv.step.orders.follow_places`."""
    takes_market_orders: ClassVar[bool] = True
    """Whether market orders of ours, beside the quotes, are filled here; see `mmenv.step.taker`."""
    takes_levels: ClassVar[bool] = False
    """Whether several orders a side stand here, each with a place in its own queue."""
    hidden: ClassVar[tuple[str, ...]] = ("latent",)
    """Hidden states that the group `latent` shows to learners, in the order of its entries."""
    varied: ClassVar[tuple[str, ...]] = ()
    """Parameters that may differ between episodes; see `mmenv.desk.family`."""
    later: ClassVar[dict[str, Any]] = {}
    """Parameters that came later, with the value at which they change nothing: a configuration names them
    only where they differ, so that the schema ids of those made before stay what they were."""
    on_step: ClassVar[tuple[Stage, ...]] = ()
    """What happens between two decisions. The stages share one state; they read what `compiled` gives."""
    on_reset: ClassVar[tuple[Stage, ...]] = ()
    """The start of an episode in the lanes whose `done` is set."""
    on_reset_of_levels: ClassVar[tuple[Stage, ...]] = ()
    """`on_reset` where several orders a side stand in a simulated market."""

    step_seconds: float = 1.0
    """Time between two decisions, seconds."""

    def __post_init__(self) -> None:
        require_number(self, "step_seconds", 1e-3, 86_400.0)

    @property
    def step_ns(self) -> int:
        """Time between two decisions, nanoseconds."""
        return round(self.step_seconds * SECOND)

    @property
    def price_scale(self) -> int:
        """Half-ticks in a price unit. Continuous prices sit on a grid of 2^-11, so all money is exact."""
        return 4096

    @property
    def lot_scale(self) -> float:
        """Typical lots traded in a step: the scale of the volume in observations."""
        return 1.0

    @property
    def nearest_touch(self) -> float:
        """Least distance of the touch from the mid, price units; 0 where there is no book."""
        return 1 / self.price_scale if self.on_ticks else 0.0

    @property
    def noise_variance(self) -> float | None:
        """Variance of the mid's noise in a step, price units^2; None where it is not normal, or not
        independent of all else."""
        return None

    @property
    def assets(self) -> int:
        """How many assets can be observed beside the quoted one, at most `mmenv.engine.state.ASSETS`."""
        return 0

    @property
    def quoted(self) -> int:
        """How many assets are quoted; of more than one `mmenv.desk.basket` makes the environment."""
        return 1

    @property
    def lanes(self) -> Market:
        """Where several assets are quoted: the market of the lanes that environments are made of, each of
        which is one asset."""
        raise NotImplementedError(f"market {self.name!r} quotes one asset")

    @property
    def together(self) -> Together:
        """Where several assets are quoted: what they have together."""
        raise NotImplementedError(f"market {self.name!r} quotes one asset")

    @property
    def data(self) -> tuple[str, ...]:
        """The recorded data that environments of this market read: files or stores."""
        return ()

    def defaults(self) -> dict[str, Any]:
        """Environment settings that go with this market, used where the user says nothing."""
        return {}

    @property
    def sequence(self) -> tuple[Stage, ...]:
        """`on_step` as it runs between two decisions, where some of its stages run more than once."""
        return self.on_step

    @property
    def sequence_of_levels(self) -> tuple[Stage, ...]:
        """`sequence` where several orders a side stand in a simulated market. The state of its own stages has
        a field `ladder` for the action's record of them (`mmenv.actions.base.Further.levels`), `standing` for
        what is left of them (`mmenv.engine.state.STANDING`), and one of the kind of every other stage's
        state."""
        return ()

    def attach(self, n: int, horizon: int, position_limit: int) -> ExternalMarket | None:
        """The market outside the compiled step for n environments, or None for a simulated one.

        Episodes last `horizon` decisions; positions stay within `position_limit` lots.
        """
        return None

    def stages(self, blocks: int, lanes_differ: bool = False, levels: bool = False) -> MarketStages:
        """This market's stages over `blocks` blocks, whose parameters differ by lane if `lanes_differ`; with
        `levels` those of several orders a side, where it has them."""
        params = self.compiled()
        on_step, on_reset = self.sequence, self.on_reset
        if levels and self.takes_levels:
            on_step, on_reset = self.sequence_of_levels, self.on_reset_of_levels
        kind = _state_of((*on_step, *on_reset))
        if not lanes_differ:
            own = aligned_zeros(blocks, kind)
            step, reset = (
                [Call(stage, _part(own, stage), params) for stage in some] for some in (on_step, on_reset)
            )
            return MarketStages(step, reset, own if kind != EMPTY else None, None, *_levels_in(own))
        both = np.dtype([("own", kind), ("family", by_lane(params.dtype))], align=True)
        state = aligned_zeros(blocks, both)
        own, family = state["own"], state["family"]
        for name in params.dtype.names or ():
            family[name] = params[name][..., None]
        step, reset = (
            [Call(stage.by_lane, _part(own, stage), family) for stage in some] for some in (on_step, on_reset)
        )
        return MarketStages(step, reset, state, family, *_levels_in(own))

    def compiled(self) -> np.ndarray:
        """The parameters as the stages read them: one record of 4-byte numbers."""
        raise NotImplementedError(f"market {self.name!r} is not simulated by stages")


def _check(name: str, cls: Any) -> None:
    """Raise `PluginError` unless `cls` is a market that an environment can be built with."""
    frozen = isinstance(cls, type) and issubclass(cls, Market) and "__dataclass_params__" in vars(cls)
    if not (frozen and cls.__dataclass_params__.frozen):
        raise PluginError(
            f"market {name!r} = {cls!r} is not possible: it must be a frozen dataclass of Market."
        )
    if not (isinstance(cls.name, str) and cls.name):
        raise PluginError(f"market {name!r}: name = {cls.name!r} is not possible: it must be a name.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for parameter in cls.varied:
        if parameter not in fields:
            raise PluginError(
                f"market {name!r}: varied = {parameter!r} is not possible: it must be a parameter."
            )
    for parameter, field in fields.items():
        if isinstance(field.default, float) and _made(cls, **{parameter: math.nan}) is not None:
            raise PluginError(
                f"market {name!r} takes {parameter} = nan: check its parameters in __post_init__, as "
                "mmenv.checks.require_number does."
            )
    if cls.attach is Market.attach:
        _check_stages(name, cls)


def _check_stages(name: str, cls: type[Market]) -> None:
    """Raise `PluginError` where the stages of a simulated market do not fit each other or its parameters."""
    stages = (*cls.on_step, *cls.on_reset)
    if not (cls.on_step and cls.on_reset and all(isinstance(stage, Stage) for stage in stages)):
        raise PluginError(
            f"market {name!r} has no stages: give on_step and on_reset, functions decorated with "
            "mmenv.engine.stage, or attach for a market outside the compiled step."
        )
    market = _made(cls)
    params = market.compiled() if market is not None else None
    for stage in stages:
        what = f"market {name!r}, stage {stage.function.__name__!r}"
        if stage.own not in (EMPTY, _state_of(stages)):
            raise PluginError(f"{what}: its state is not that of the others: they share one record.")
        if params is not None and stage.params not in (EMPTY, params.dtype):
            raise PluginError(f"{what}: its parameters are not the record that compiled gives: they must be.")
    if params is None:
        return
    for field in params.dtype.names or ():
        if params.dtype[field].base.itemsize != 4:
            raise PluginError(
                f"market {name!r}: compiled gives {field!r} other than in 4 bytes: make it f4 or i4."
            )
        if not np.isfinite(params[field]).all():
            raise PluginError(
                f"market {name!r}: compiled gives {field} = {params[field]}: it must be finite."
            )


def _made(cls: type[Market], **parameters: Any) -> Market | None:
    """The market with these parameters, or None where they are refused."""
    try:
        return cls(**parameters)
    except (ConfigError, TypeError):  # a parameter without a default is missing
        return None


def _levels_in(state: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Where a state has room for an action's levels, and where it has their orders: `MarketStages`."""
    there = "ladder" in (state.dtype.names or ())
    return (state["ladder"], state["standing"]) if there else (None, None)


def _state_of(stages: Iterable[Stage]) -> np.dtype:
    """The record that stages keep their state in: the one that has those of the others as its parts."""
    kinds = (stage.own for stage in stages if stage.own != EMPTY)
    return max(kinds, key=lambda kind: kind.itemsize, default=EMPTY)


def _part(state: np.ndarray, stage: Stage) -> np.ndarray:
    """What of the state a stage works on: all, or the part that is of its kind."""
    parts = state.dtype.names or ()
    return next((state[name] for name in parts if state.dtype[name] == stage.own), state)


MARKETS: Registry[type[Market]] = Registry("market", "mmenv.market", _check)

START_PRICE = 10_000
"""Where the mid of a market without a price level of its own starts, price units."""

M = TypeVar("M", bound=type[Market])


def register(cls: M) -> M:
    """Class decorator: make the market known under its `name`."""
    MARKETS.register(cls.name, cls)
    return cls


def make_market(market: str | Mapping[str, Any] | Market) -> Market:
    """A market from its name (with a preset, `NAME:PRESET`, or `FILE.json:NAME` of a calibration), a dict of
    it and parameters, or itself.

    Raises `ConfigError` for what is not known or not possible, naming the file where it stands in one.
    """
    if isinstance(market, Market):
        return market
    if not isinstance(market, (str, Mapping)):
        raise ConfigError(
            f"market = {market!r} is not possible: it must be a name such as 'book', a dict with `name` and "
            "parameters, or a Market."
        )
    parameters = {"name": market} if isinstance(market, str) else dict(market)
    file = str(parameters["name"]) if ".json" in str(parameters.get("name")) else ""
    if file:
        del parameters["name"]
        parameters = {**_calibrated(file), **parameters}
    name = parameters.pop("name", None)
    if name is None:
        raise ConfigError(f"market = {market!r} is not possible: it lacks a `name`, such as 'book'.")
    head, preset = with_preset(str(name))
    if preset:
        name, parameters = head, {"preset": preset, **parameters}
    try:
        cls = MARKETS.find(name)
        check_keys(f"market {name!r}", parameters, [f.name for f in dataclasses.fields(cls)])
        return cls(**python_numbers(parameters))
    except ConfigError as error:
        raise (ConfigError(f"market = {file!r} cannot be: {error}") if file else error) from None


def with_preset(name: str) -> tuple[str, str]:
    """The registered market and the preset that NAME:PRESET names; any other name, such as module:Class, is
    given back without a preset, ""."""
    head, _, preset = name.partition(":")
    # A module may bear the name of the market that it has registered.
    if preset and head in MARKETS and not hasattr(sys.modules.get(head), preset):
        return head, preset
    return name, ""


def _calibrated(path: str) -> dict[str, Any]:
    """The preset that `neuralmm calibrate` wrote to a file, named as FILE.json:MARKET."""
    file, _, name = path.rpartition(":") if not path.endswith(".json") else (path, "", "brownian")
    try:
        stored = json.loads(Path(file).read_text())
        found = stored["presets"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"market = {path!r} is not readable ({error}); `neuralmm calibrate` writes it."
        ) from None
    if name not in found:
        reason = stored.get("left_out", {}).get(name)
        why = f" ({reason})" if reason else ""
        raise ConfigError(
            f"market = {path!r}: {file} has no preset {name!r}{why}. Allowed: {', '.join(found) or 'none'}."
        )
    parameters: dict[str, Any] = found[name]
    return {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
