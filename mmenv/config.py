"""What an environment is made of: frozen dataclasses, validated when they are built.

All money and distances here are in *price units* of the market (`Market.price_scale` ticks): 1.0 in the
solvable markets of the literature, one standard deviation of the mid per decision on recorded tapes. So the
same action box, the same observation scales and the same policy fit every market.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from mmenv.desk import ExternalMarket
    from mmenv.features.signals import Signal
    from mmenv.kernel import Call

T = TypeVar("T")

DEFAULT_MARKET = "book"
"""The market of `NeuralMM-v0` where none is named."""


class ConfigError(ValueError):
    """A configuration that cannot be: the message names the field, its value and what is allowed."""


def require(condition: bool, owner: str, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` naming `owner.name`, its `value` and what is `allowed`, unless `condition`."""
    if not condition:
        raise ConfigError(f"{owner}.{name} = {value!r} is not possible: it must be {allowed}.")


def require_number(owner: object, name: str, low: float, high: float, *, integer: bool = False) -> None:
    """Require a finite number in [low, high] (an int where `integer`) in field `name` of `owner`."""
    value = getattr(owner, name)
    kind = "an integer" if integer else "a finite number"
    right_type = isinstance(value, int) if integer else isinstance(value, (int, float))
    good = right_type and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    require(good, type(owner).__name__, name, value, f"{kind} from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class QuoteConfig:
    """The action box. `a0` sets the half-spread, `a1` the skew; see `mmenv.quote`."""

    min_half_spread: float = 0.0
    """Half-spread at a0 = -1, price units."""
    max_half_spread: float = 6.0
    """Half-spread at a0 = +1, price units."""
    max_skew: float = 6.0
    """Skew at a1 = +1, price units. Equal to `max_half_spread`, every pair of distances is representable."""
    max_distance: float = 6.0
    """Each quote is clipped to this distance from the mid, price units."""

    def __post_init__(self) -> None:
        require_number(self, "max_distance", 1e-6, 1e4)
        require_number(self, "max_half_spread", 1e-6, 1e4)
        require_number(self, "min_half_spread", 0.0, self.max_half_spread)
        require_number(self, "max_skew", 0.0, 1e4)


@dataclass(frozen=True, kw_only=True)
class RiskConfig:
    """Hard limits. They hold whatever the policy outputs; see `mmenv.risk`."""

    position_limit: int = 10
    """Largest absolute position, lots. A side that could exceed it is not quoted."""
    order_lots: int = 1
    """Size of each quote, lots."""
    daily_loss_limit: float = 500.0
    """HALTED (no quotes until reset) once this much wealth is lost since reset, price units x lots."""
    reducing_at: float = 0.8
    """REDUCING (only the side that shrinks the position is quoted) from this fraction of the loss limit."""

    def __post_init__(self) -> None:
        require_number(self, "position_limit", 1, 1_000_000, integer=True)
        require_number(self, "order_lots", 1, self.position_limit, integer=True)
        require_number(self, "daily_loss_limit", 1e-6, 1e12)
        require_number(self, "reducing_at", 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weights of the profit-and-loss identity, and the penalties; see `mmenv.ledger`."""

    spread_capture: float = 1.0
    adverse_selection: float = 1.0
    carry: float = 1.0
    fees: float = 1.0
    inventory_penalty: float = 0.01
    """phi: reward falls by phi x position^2 per second, price units."""
    terminal_penalty: float = 0.05
    """alpha: reward falls by alpha x position^2 at the end of the episode, price units."""

    def __post_init__(self) -> None:
        for name in ("spread_capture", "adverse_selection", "carry", "fees"):
            require_number(self, name, -1e3, 1e3)
        for name in ("inventory_penalty", "terminal_penalty"):
            require_number(self, name, 0.0, 1e6)


@dataclass(frozen=True)
class Distribution:
    """What an episode draws one parameter from; see `mmenv.family`."""

    name: str
    """A parameter that the market can vary, or maker_fee_bp."""
    kind: str
    """"uniform" or "log-uniform" on [low, high], or "choice" of the values with equal chance."""
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "randomise", self.name, self.kind, f"one of {', '.join(KINDS)}")
        shown = {self.kind: list(self.values)}
        good = all(isinstance(v, int | float) and math.isfinite(v) for v in self.values)
        if self.kind == "choice":
            good = good and len(self.values) >= 1
            require(good, "randomise", self.name, shown, "a choice of at least one finite number")
            return
        good = good and len(self.values) == 2 and self.values[0] < self.values[1]
        require(good, "randomise", self.name, shown, "two finite numbers, the lower one first")
        if self.kind == "log-uniform":
            require(self.values[0] > 0, "randomise", self.name, shown, "above 0 where it is log-uniform")

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def draw(self, uniform: float) -> float:
        """The value at `uniform` in [0, 1)."""
        if self.kind == "choice":
            return self.values[int(uniform * len(self.values))]
        if self.kind == "uniform":
            return self.low + uniform * (self.high - self.low)
        return self.low * (self.high / self.low) ** uniform

    def mark(self, value: float) -> float:
        """Where `value` lies: -1 at the low end, 1 at the high one, outside beyond."""
        if self.low == self.high:
            return 0.0
        low, high = self.low, self.high
        if self.kind == "log-uniform":
            low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return 2 * (value - low) / (high - low) - 1

    def shrunk(self, base: float, share: float) -> Distribution:
        """A share of the range, around `base`, on the same scale; a choice stays what it is."""
        if self.kind == "choice" or share == 1:
            return self
        if self.kind == "uniform":
            ends = [base + share * (end - base) for end in self.values]
        else:
            base = base if base > 0 else self.low
            ends = [base * (end / base) ** share for end in self.values]
        return Distribution(self.name, self.kind, (ends[0], ends[1]))


KINDS = ("uniform", "log-uniform", "choice")


def distributions(given: Any) -> tuple[Distribution, ...]:
    """Distributions from {name: (low, high) or {kind: values}}, or as they are."""
    if isinstance(given, tuple) and all(isinstance(d, Distribution) for d in given):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"randomise = {given!r} is not possible: give a dict such as {{'volatility': (0.5, 2.0)}}."
        )
    found = []
    for name, spec in given.items():
        given_kind = isinstance(spec, Mapping) and len(spec) == 1
        kind, values = next(iter(spec.items())) if given_kind else ("uniform", spec)
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        allowed = "(low, high), {'uniform': [low, high]}, {'log-uniform': [low, high]} or {'choice': [...]}"
        require(listed, "randomise", str(name), spec, allowed)
        found.append(Distribution(str(name), str(kind), tuple(values)))
    return tuple(found)


@dataclass(frozen=True)
class MarketStages:
    """What a simulated market adds to a step, and to a reset of the lanes whose `done` is set."""

    step: tuple[Call, ...]
    reset: tuple[Call, ...]
    family: np.ndarray | None = None
    """The `family` records of the blocks, where parameters differ by lane (see `mmenv.market.by_lane`)."""


@dataclass(frozen=True, kw_only=True)
class Market:
    """Base of every market: its parameters as a frozen dataclass. Subclass in one file and register it.

    A subclass sets `name`, gives `stages()` if it is simulated in compiled code, and may override the class
    attributes and properties below.
    """

    name: ClassVar[str] = ""
    varied: ClassVar[tuple[str, ...]] = ()
    """Parameters that may differ between episodes; see `mmenv.family`."""

    step_seconds: float = 1.0
    """Time between two decisions, seconds."""

    def __post_init__(self) -> None:
        require_number(self, "step_seconds", 1e-3, 86_400.0)

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
        """Number of assets that can be observed beside the quoted one, at most `mmenv.kernel.ASSETS`."""
        return 0

    def defaults(self) -> dict[str, Any]:
        """Environment settings that go with this market, used where the user says nothing."""
        return {}

    def attach(self, config: EnvConfig, n: int) -> ExternalMarket | None:
        """The market outside the compiled step for n environments, or None for a simulated one."""
        return None

    def stages(self, blocks: int, by_lane: bool = False) -> MarketStages:
        """This market's compiled stages over `blocks` blocks, reading the parameters in `varied` lane by lane
        where `by_lane`."""
        raise NotImplementedError(f"market {self.name!r} is not simulated by stages")

    def compiled(self) -> np.ndarray:
        """The parameters as the stages read them: one record of 4-byte numbers."""
        raise NotImplementedError(f"market {self.name!r} is not simulated by stages")


@dataclass(frozen=True, kw_only=True)
class ManagerConfig:
    """The neural risk manager: how much its score takes off the position limit; see `mmenv.sizing`."""

    signal: Signal
    """Reads the risk score, from 0 to 1, off its first output."""
    share: float = 0.1
    """Of what is left of the daily loss limit, what a full position may lose within `horizon`."""
    horizon: int = 60
    """Decisions it takes, at worst, to be rid of a position."""
    quantile: float = 2.33
    """Standard deviations of the move that the loss per lot counts with (2.33: one case in a hundred)."""

    def __post_init__(self) -> None:
        require_number(self, "share", 1e-6, 1.0)
        require_number(self, "horizon", 1, 1_000_000, integer=True)
        require_number(self, "quantile", 0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Everything that makes one NeuralMM environment. Build it with `make_config`."""

    market: Market
    horizon: int = 300
    """Decisions in an episode."""
    start_inventory: int = 0
    """Each episode starts with a position drawn uniformly from [-start_inventory, start_inventory], lots."""
    maker_fee_bp: float = 0.0
    """Fee on our fills, basis points of notional in hundredths; negative is a rebate."""
    quote: QuoteConfig = field(default_factory=QuoteConfig)
    risk: RiskConfig = field(default_factory=RiskConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    features: tuple[str, ...] = ("order_flow", "trade_book", "inventory", "clock")
    """Feature groups, in the order of their observation entries; see `mmenv.features`."""
    signals: tuple[Signal, ...] = ()
    """Trained networks whose outputs follow the features in the observation; see `mmenv.features.signals`."""
    manager: ManagerConfig | None = None
    """A network that lowers the position limit when it sees danger, never raises it; see `mmenv.sizing`."""
    randomise: tuple[Distribution, ...] = ()
    """Parameters that each episode draws, as {name: (low, high)} or {name: {kind: values}}; see
    `mmenv.family`."""
    curriculum_episodes: int = 0
    """Episodes of each environment over which the ranges of `randomise` widen to their full width."""

    def __post_init__(self) -> None:
        from mmenv.kernel import PARAMETERS

        require_number(self, "horizon", 1, 100_000_000, integer=True)
        require_number(self, "start_inventory", 0, self.risk.position_limit, integer=True)
        require_number(self, "maker_fee_bp", -100.0, 100.0)
        object.__setattr__(self, "randomise", distributions(self.randomise))
        names = [d.name for d in self.randomise]
        check_keys("randomise", dict.fromkeys(names), [*self.market.varied, "maker_fee_bp"])
        require(len(names) <= PARAMETERS, "EnvConfig", "randomise", names, f"at most {PARAMETERS} parameters")
        require_number(self, "curriculum_episodes", 0, 1_000_000_000, integer=True)
        require(
            bool(names) or not self.curriculum_episodes, "EnvConfig", "curriculum_episodes",
            self.curriculum_episodes, "0 where nothing is randomised"
        )  # fmt: skip
        if self.networks:
            from mmenv.features.signals import check_signals

            check_signals(self)

    @property
    def networks(self) -> tuple[Signal, ...]:
        """The signals, and that of the risk manager."""
        return (*self.signals, self.manager.signal) if self.manager is not None else self.signals

    @property
    def schema_id(self) -> str:
        """Hash of the whole configuration: an artefact made under another one refuses to load."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON types; `make_config(**config.to_dict())` gives it back."""
        from mmenv.features.signals import describe

        shown = dataclasses.replace(self, signals=(), manager=None)
        plain = dataclasses.asdict(shown)
        del plain["signals"], plain["manager"]
        plain["market"] = {"name": self.market.name, **plain["market"]}
        plain["features"] = list(self.features)
        plain["randomise"] = {d.name: {d.kind: list(d.values)} for d in self.randomise}
        # Only where there are any, so that the schema ids of all others stay what they were.
        if self.signals:
            plain["signals"] = [describe(signal) for signal in self.signals]
        if self.manager is not None:
            plain["manager"] = {
                **{f.name: getattr(self.manager, f.name) for f in dataclasses.fields(self.manager)},
                "signal": describe(self.manager.signal),
            }
        return plain


def build(cls: type[T], given: T | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> T:
    """An instance of dataclass `cls` from an instance, or a mapping laid over `defaults`."""
    if isinstance(given, cls):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{cls.__name__} = {given!r} is not possible: give a {cls.__name__} or a dict.")
    check_keys(cls.__name__, given or {}, [f.name for f in dataclasses.fields(cls)])  # type: ignore[arg-type]
    return cls(**{**defaults, **(given or {})})


def check_keys(owner: str, given: Mapping[str, Any], allowed: list[str]) -> None:
    """Raise `ConfigError` for a key of `given` that is not allowed, suggesting the nearest one that is."""
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{owner} has no setting {key!r}.{hint} Allowed: {', '.join(allowed)}.")


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two configurations (as `to_dict` gives them) differ, as 'name: a, not b'."""
    found: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r}, not {b!r}")
    return found


def make_config(market: str | Mapping[str, Any] | Market = DEFAULT_MARKET, **settings: Any) -> EnvConfig:
    """The configuration for `market`, its defaults overlaid with `settings` (fields of `EnvConfig`).

    `market` is a registered name, a dict with `name` and parameters, or a `Market`. `quote`, `risk` and
    `reward` are dicts or the dataclasses. Raises `ConfigError` in a sentence for anything impossible.
    """
    from mmenv.market import make_market

    made = make_market(market)
    names = [f.name for f in dataclasses.fields(EnvConfig)]
    check_keys("NeuralMM-v0", settings, names)
    # A whole configuration, such as an artefact's, needs no defaults: those of a tape would need its data.
    whole = settings.keys() >= {*names} - {"market"}
    defaults = {} if whole else made.defaults()
    merged = {**defaults, **settings}
    for name, cls in (("quote", QuoteConfig), ("risk", RiskConfig), ("reward", RewardConfig)):
        merged[name] = build(cls, settings.get(name), defaults.get(name, {}))
    if "features" in merged:
        from mmenv.features import check_groups

        merged["features"] = check_groups(merged["features"])
    networks = _networks(merged)
    return EnvConfig(market=made, **merged, **networks)


def _networks(merged: dict[str, Any]) -> dict[str, Any]:
    """Takes `signals` and `manager` out of the settings and gives them back with their files read."""
    from mmenv.features.signals import load_signal, load_signals

    signals, manager = load_signals(merged.pop("signals", ())), merged.pop("manager", None)
    if isinstance(manager, Mapping) and "signal" in manager:
        manager = {**manager, "signal": load_signal(manager["signal"])}
    elif manager is not None and not isinstance(manager, ManagerConfig):
        raise ConfigError(f"manager = {manager!r} is not possible: give a dict with a `signal`.")
    return {"signals": signals, "manager": manager and build(ManagerConfig, manager, {})}
