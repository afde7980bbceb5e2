"""What an environment is made of: frozen dataclasses, validated when they are built.

All money and distances here are in *price units* of the market (`Market.price_scale` ticks): 1.0 in the
solvable markets of the literature, one standard deviation of the mid per decision on recorded tapes, but
never below half a tick. So the same action box, the same observation scales and the same policy fit every
market.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmenv.actions.base import DEFAULT, Action, make_action
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.checks import (
    ConfigError,
    UnknownSettingError,
    build,
    check_keys,
    python_numbers,
    require,
    require_number,
)
from mmenv.engine.state import PARAMETERS
from mmenv.features.base import GROUPS, Feature, check_groups
from mmenv.market.base import Market, make_market
from mmenv.market.fills import match
from mmenv.market.varied import Distribution, distributions
from mmenv.rewards.settings import RewardConfig
from mmenv.signals import Signal, describe, load_signal, load_signals
from mmenv.step.risk import RiskConfig
from mmenv.step.sizing import ManagerConfig

DEFAULT_MARKET = "book"
"""The market of `NeuralMM-v0` where none is named."""


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
    quote: Action = field(default_factory=SpreadSkew)
    risk: RiskConfig = field(default_factory=RiskConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    features: tuple[str, ...] = ("order_flow", "trade_book", "inventory", "clock")
    """Feature groups, in the order of their observation entries; see `mmenv.features`."""
    signals: tuple[Signal, ...] = ()
    """Trained networks whose outputs follow the features in the observation; see `mmenv.signals`."""
    manager: ManagerConfig | None = None
    """A network that lowers the position limit when it sees danger, never raises it: `mmenv.step.sizing`."""
    randomise: tuple[Distribution, ...] = ()
    """Parameters that each episode draws, as {name: (low, high)} or {name: {kind: values}}; see
    `mmenv.desk.family`."""
    curriculum_episodes: int = 0
    """Episodes of each environment over which the ranges of `randomise` widen to their full width."""

    def __post_init__(self) -> None:
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
        require(
            self.market.on_ticks or not self.quote.from_touch, "EnvConfig", "quote", self.quote.name,
            f"one that counts from the mid, such as {DEFAULT!r}: market {self.market.name!r} has no book"
        )  # fmt: skip
        check_orders(self.market, self.quote)
        if self.market.quoted > 1:
            drawn = ", ".join(names)
            require(not drawn, "EnvConfig", "randomise", drawn, "empty where several assets are quoted")
            shown = ", ".join(signal.name for signal in self.networks)
            require(not shown, "EnvConfig", "signals", shown, "none, and no manager, for several assets")
        if self.networks:
            check_signals(self)

    @property
    def networks(self) -> tuple[Signal, ...]:
        """The signals, and that of the risk manager."""
        return (*self.signals, self.manager.signal) if self.manager is not None else self.signals

    @property
    def schema_id(self) -> str:
        """Hash of the whole configuration: an artefact made under another one refuses to load.

        Where the files of signals lie is no part of it.
        """
        return schema_of(self.to_dict(sources=False))

    def to_dict(self, *, sources: bool = True) -> dict[str, Any]:
        """The configuration as plain JSON types; `make_config(**config.to_dict())` gives it back.

        Without `sources` it does not say where signals come from, but what they are: so two configurations
        are compared.
        """
        shown = dataclasses.replace(self, signals=(), manager=None)
        plain = dataclasses.asdict(shown)
        del plain["signals"], plain["manager"]
        later = self.market.later
        told = {k: v for k, v in plain["market"].items() if k not in later or v != later[k]}
        plain["market"] = {"name": self.market.name, **told}
        # What an action was given later is named only where it is used.
        plain["quote"] = {
            k: v
            for k, v in plain["quote"].items()
            if v or k not in ("withdraw", "requote_ticks", "taker_threshold")
        }
        if self.quote.name != DEFAULT:
            plain["quote"] = {"name": self.quote.name, **plain["quote"]}
        terms = [{"name": term.name, **dataclasses.asdict(term)} for term in self.reward.terms]
        del plain["reward"]["terms"]
        if not self.reward.risk_aversion:
            del plain["reward"]["risk_aversion"]
        if not self.reward.shortfall_weight:
            del plain["reward"]["shortfall_weight"], plain["reward"]["shortfall_level"]
        if self.risk.taker_spacing == 1:
            del plain["risk"]["taker_spacing"]
        plain["reward"] |= {"terms": terms} if terms else {}
        plain["features"] = list(self.features)
        plain["randomise"] = {d.name: {d.kind: list(d.values)} for d in self.randomise}
        # Only where there are any, so that the schema ids of all others stay what they were.
        unsaid = {} if sources else {"source": None}
        if self.signals:
            plain["signals"] = [describe(signal) | unsaid for signal in self.signals]
        if self.manager is not None:
            plain["manager"] = {
                **{f.name: getattr(self.manager, f.name) for f in dataclasses.fields(self.manager)},
                "signal": describe(self.manager.signal) | unsaid,
            }
        return plain


def schema_of(plain: Mapping[str, Any]) -> str:
    """Hash of a configuration as `EnvConfig.to_dict` gives it."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def make_config(market: str | Mapping[str, Any] | Market = DEFAULT_MARKET, **settings: Any) -> EnvConfig:
    """The configuration for `market`, its defaults overlaid with `settings` (fields of `EnvConfig`).

    `market` is a registered name, a dict with `name` and parameters, or a `Market`. `quote`, `risk` and
    `reward` are dicts or the dataclasses. Raises `ConfigError` in a sentence for anything impossible.
    """
    made = make_market(market)
    names = [f.name for f in dataclasses.fields(EnvConfig)]
    try:
        check_keys("NeuralMM-v0", settings, names)
    except ConfigError as error:
        # In Python's words too: by them wrappers (TorchRL's) tell a keyword that they can leave out.
        unknown = next(key for key in settings if key not in names)
        raise UnknownSettingError(f"{str(error)[:-1]} (unexpected keyword argument {unknown!r}).") from None
    # A whole configuration, such as an artefact's, needs no defaults: those of a tape would need its data.
    whole = settings.keys() >= {*names} - {"market"}
    defaults = {} if whole else made.defaults()
    merged = {**defaults, **python_numbers(settings)}
    for name, cls in (("risk", RiskConfig), ("reward", RewardConfig)):
        merged[name] = build(cls, settings.get(name), defaults.get(name, {}))
    merged["quote"] = make_action(settings.get("quote"), defaults.get("quote", {}))
    if not whole:
        check_reach(made, merged["quote"])
    if "features" in merged:
        merged["features"] = check_groups(merged["features"])
    networks = _networks(merged)
    return EnvConfig(market=made, **merged, **networks)


def check_single(config: EnvConfig, purpose: str) -> None:
    """Raise `ConfigError` for a market that quotes several assets, which `purpose` does not know."""
    count = config.market.quoted
    require(
        count == 1, "EnvConfig", "market", config.market.name,
        f"one with a single quoted asset for {purpose}: this one quotes {count}, which environments, "
        "policies and training on a simulated market can"
    )  # fmt: skip


def check_orders(market: Market, quote: Action) -> None:
    """Raise `ConfigError` where a market does not take the orders that an action sends."""
    reaches = match in market.on_step or market.takes_levels or not quote.by_reach
    require(
        reaches, "EnvConfig", "quote", quote.name,
        f"one of a single order a side, such as {DEFAULT!r}: market {market.name!r} has no more"
    )  # fmt: skip
    filled = market.takes_market_orders or quote.taking is None
    require(
        filled, "EnvConfig", "quote", quote.name,
        f"one without market orders, such as {DEFAULT!r}: market {market.name!r} does not fill them"
    )  # fmt: skip


def check_reach(market: Market, quote: Action) -> None:
    """Raise `ConfigError` for a box whose far end is nearer to the mid than the touch ever is."""
    far = getattr(quote, "max_distance", math.inf)
    near = market.nearest_touch
    require(
        far >= near * (1 - 1e-6), "quote", "max_distance", far,
        f"at least {near:g}, the nearest that the touch of this market comes to its mid, price units"
    )  # fmt: skip


def _networks(merged: dict[str, Any]) -> dict[str, Any]:
    """Takes `signals` and `manager` out of the settings and gives them back with their files read."""
    signals, manager = load_signals(merged.pop("signals", ())), merged.pop("manager", None)
    if isinstance(manager, Mapping) and "signal" in manager:
        manager = {**manager, "signal": load_signal(manager["signal"])}
    elif manager is not None and not isinstance(manager, ManagerConfig):
        raise ConfigError(f"manager = {manager!r} is not possible: give a dict with a `signal`.")
    return {"signals": signals, "manager": manager and build(ManagerConfig, manager, {})}


def check_signals(config: EnvConfig) -> None:
    """Raise `ConfigError` where a signal was trained for other features or another pace than `config` has."""
    for signal in config.networks:
        if abs(signal.step_seconds - config.market.step_seconds) > 1e-9:
            raise ConfigError(
                f"signal {signal.name!r} was trained for a decision every {signal.step_seconds:g} s, but "
                f"{config.market.name!r} decides every {config.market.step_seconds:g} s: train it there."
            )
        known = [name for name in signal.groups if name in GROUPS]
        here = {feature.name: feature for name in known for feature in group_features(name, config)}
        for feature in signal.inputs:
            now = here.get(feature.name)
            if now != feature:
                raise ConfigError(
                    f"signal {signal.name!r} was trained on {feature}, which is {now} here: train it again."
                )


def group_features(name: str, config: EnvConfig) -> tuple[Feature, ...]:
    """The features of a group under `config`."""
    return GROUPS[name].entries(config.market, config.randomise, config.quote.side_orders)
