"""What a market is: parameters as a frozen dataclass, and either compiled stages or a place outside the step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from mmenv.checks import ConfigError, check_keys, require_number
from mmenv.engine.memory import aligned_zeros
from mmenv.engine.stage import Call, Stage
from mmenv.engine.state import EMPTY, by_lane
from mmenv.market.outside import ExternalMarket
from mmenv.registry import Registry
from mmenv.times import SECOND


@dataclass(frozen=True)
class MarketStages:
    """What a simulated market adds to a step, and to a reset of the lanes whose `done` is set."""

    step: tuple[Call, ...]
    reset: tuple[Call, ...]
    state: np.ndarray | None
    """All that changes from step to step, a record for each block; None where nothing does."""
    family: np.ndarray | None
    """The parameters of each block's lanes, for `mmenv.desk.family` to fill; None where all share them."""


@dataclass(frozen=True, kw_only=True)
class Market:
    """Base of every market: its parameters as a frozen dataclass. Subclass in one file and register it.

    A subclass sets `name`. It is simulated by the stages `on_step` and `on_reset`, which read the parameters
    that `compiled` gives, or lives outside the step and gives what `attach` makes. The rest has defaults.
    """

    name: ClassVar[str] = ""
    varied: ClassVar[tuple[str, ...]] = ()
    """Parameters that may differ between episodes; see `mmenv.desk.family`."""
    on_step: ClassVar[tuple[Stage, ...]] = ()
    """What happens between two decisions. The stages share one state; they read what `compiled` gives."""
    on_reset: ClassVar[tuple[Stage, ...]] = ()
    """The start of an episode in the lanes whose `done` is set."""

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
    def assets(self) -> int:
        """Number of assets that can be observed beside the quoted one, at most `mmenv.engine.state.ASSETS`."""
        return 0

    @property
    def data(self) -> tuple[str, ...]:
        """The recorded data that environments of this market read: files or stores."""
        return ()

    def defaults(self) -> dict[str, Any]:
        """Environment settings that go with this market, used where the user says nothing."""
        return {}

    def attach(self, n: int, horizon: int, position_limit: int) -> ExternalMarket | None:
        """The market outside the compiled step for n environments, or None for a simulated one.

        Episodes last `horizon` decisions; positions stay within `position_limit` lots.
        """
        return None

    def stages(self, blocks: int, lanes_differ: bool = False) -> MarketStages:
        """This market's stages over `blocks` blocks, whose parameters differ by lane if `lanes_differ`."""
        params = self.compiled()
        records = [stage.own for stage in (*self.on_step, *self.on_reset) if stage.own != EMPTY]
        own, state, family = np.zeros(1, EMPTY), None, None
        if lanes_differ:
            kinds = [("own", records[0] if records else EMPTY), ("family", by_lane(params.dtype))]
            state = aligned_zeros(blocks, np.dtype(kinds, align=True))
            own, params = state["own"], state["family"]
            family = params
        elif records:
            own = state = aligned_zeros(blocks, records[0])
        step, reset = (
            tuple(Call(stage.by_lane if lanes_differ else stage, own, params) for stage in stages)
            for stages in (self.on_step, self.on_reset)
        )
        return MarketStages(step, reset, state, family)

    def compiled(self) -> np.ndarray:
        """The parameters as the stages read them: one record of 4-byte numbers."""
        raise NotImplementedError(f"market {self.name!r} is not simulated by stages")


MARKETS: Registry[type[Market]] = Registry("market", "mmenv.market")

START_PRICE = 10_000
"""Where the mid of a market without a price level of its own starts, price units."""

M = TypeVar("M", bound=type[Market])


def register(cls: M) -> M:
    """Class decorator: make the market known under its `name`."""
    MARKETS.register(cls.name, cls)
    return cls


def make_market(market: str | Mapping[str, Any] | Market) -> Market:
    """A market from its name (or `FILE.json:NAME` of a calibration), a dict of it and parameters, or
    itself."""
    if isinstance(market, Market):
        return market
    parameters = {"name": market} if isinstance(market, str) else dict(market)
    if ".json" in str(parameters.get("name")):
        parameters = {**_calibrated(parameters.pop("name")), **parameters}
    name = parameters.pop("name", None)
    cls = MARKETS.find(name)
    check_keys(f"market {name!r}", parameters, [f.name for f in dataclasses.fields(cls)])
    return cls(**parameters)


def _calibrated(path: str) -> dict[str, Any]:
    """The preset that `neuralmm calibrate` wrote to a file, named as FILE.json:MARKET."""
    file, _, name = path.rpartition(":") if not path.endswith(".json") else (path, "", "brownian")
    try:
        found = json.loads(Path(file).read_text())["presets"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"market = {path!r} is not readable ({error}); `neuralmm calibrate` writes it."
        ) from None
    if name not in found:
        raise ConfigError(f"market = {path!r}: {file} has no preset {name!r}. Allowed: {', '.join(found)}.")
    parameters: dict[str, Any] = found[name]
    return {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
