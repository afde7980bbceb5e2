"""What is solved besides the market's chain: limits and reward, and for which configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mmenv.actions.ladder import Ladder
from mmenv.actions.size import Size
from mmenv.actions.spread_skew import SpreadSkew
from mmenv.actions.taker import Taker
from mmenv.checks import ConfigError, require
from mmenv.config import EnvConfig
from mmenv.market.base import Market
from mmenv.market.brownian import Brownian
from mmenv.market.bursts import Bursts
from mmenv.market.hidden_regime import HiddenRegime
from policies.base import spread_skew

Array = np.ndarray

Progress = Callable[[], object]
"""What is called after every step of a backward pass."""

M = TypeVar("M", bound=Market)

SOLVED = (Brownian, Bursts, HiddenRegime)
"""The markets whose equations are solved. Their subclasses are not among them: they may have others."""


@dataclass(frozen=True)
class Problem:
    """What is solved besides the chain: limits and reward, in price units, lots and steps."""

    horizon: int
    limit: int
    fill_decay: float
    max_distance: float
    phi: float
    """Penalty per step and squared lot: phi x dt."""
    alpha: float
    risk_aversion: float
    """gamma of exponential utility, per price unit x lot; 0: the mean is what counts."""

    @property
    def positions(self) -> Array:
        """Positions -limit ... limit, int (2 limit + 1,): the last axis of every table."""
        return np.arange(-self.limit, self.limit + 1)


def solved_market(market: Market, solved: tuple[type[M], ...]) -> M:
    """`market` itself; raises `ConfigError` unless its class is one of those that are `solved`."""
    if type(market) in solved:
        return market  # type: ignore[return-value]
    named = " or ".join(repr(cls.name) for cls in solved)
    parents = [cls for cls in solved if isinstance(market, cls)]
    why = f" ({type(market).__name__} inherits from it, but may follow other equations)" if parents else ""
    raise ConfigError(
        f"EnvConfig.market = {market.name!r} is not possible: it must be {named} itself{why} for an exact "
        "solution."
    )


def _box(config: EnvConfig) -> SpreadSkew:
    """The distances that the action of `config` may quote; `ConfigError` for one that is not solved."""
    if type(config.quote) is Taker:
        fee, spacing = config.quote.taker_fee_bp, config.risk.taker_spacing
        require(fee == 0, "Taker", "taker_fee_bp", fee, "0 for an exact optimum")
        require(spacing == 1, "RiskConfig", "taker_spacing", spacing, "1 for an exact optimum")
        return config.quote
    if type(config.quote) is Size:
        return config.quote
    if type(config.quote) is Ladder:
        ladder, lots = config.quote, config.risk.order_lots
        require(ladder.levels == 2, "Ladder", "levels", ladder.levels, "2 for an exact optimum")
        require(lots == 2, "RiskConfig", "order_lots", lots, "2, one a level, for an exact optimum")
        step, top = ladder.max_step, ladder.max_distance
        require(
            step >= top, "Ladder", "max_step", step, f"at least {top:g}, max_distance, for an exact optimum"
        )
        return ladder
    return spread_skew(config, "an exact optimum")


def require_plain(config: EnvConfig) -> SpreadSkew:
    """The action of `config`: spread and skew of one lot. Raises `ConfigError` where it is another, and for
    whatever else no exact solution knows of."""
    lots = config.risk.order_lots
    require(lots == 1, "RiskConfig", "order_lots", lots, "1 for an exact optimum")
    box = spread_skew(config, "an exact optimum")
    _require_known(config, box)
    return box


def _require_known(config: EnvConfig, box: SpreadSkew) -> None:
    """Raise `ConfigError` for what no exact solution knows of, or a box without every pair of distances."""
    reward = config.reward
    drawn = ", ".join(d.name for d in config.randomise)
    require(not drawn, "EnvConfig", "randomise", drawn, "empty for an exact optimum: solve a single member")
    for name in ("spread_capture", "adverse_selection", "carry", "fees"):
        weight = getattr(reward, name)
        require(weight == 1.0, "RewardConfig", name, weight, "1.0 for an exact optimum")
    terms = ", ".join(term.name for term in reward.terms)
    require(not terms, "RewardConfig", "terms", terms, "empty for an exact optimum")
    require(
        config.maker_fee_bp == 0.0, "EnvConfig", "maker_fee_bp", config.maker_fee_bp, "0 for an exact optimum"
    )
    every_pair = "for an exact optimum, which may quote any pair of distances up to max_distance"
    top = box.max_distance
    low, high, skew = box.min_half_spread, box.max_half_spread, box.max_skew
    require(low == 0.0, "SpreadSkew", "min_half_spread", low, f"0 {every_pair}")
    require(high >= top, "SpreadSkew", "max_half_spread", high, f"at least {top:g} {every_pair}")
    require(skew >= top / 2, "SpreadSkew", "max_skew", skew, f"at least {top / 2:g} {every_pair}")


def make_problem(config: EnvConfig) -> Problem:
    """The problem of `config`. Raises `ConfigError` in a sentence where no exact solution is implemented.

    The solutions assume that the daily loss limit is never reached.
    """
    risk, reward = config.risk, config.reward
    box, plain = _box(config), type(config.quote) is SpreadSkew
    solved = SOLVED if plain else (Brownian, Bursts)
    market: Any = solved_market(config.market, (Brownian,) if reward.risk_aversion else solved)
    one_lot = risk.order_lots == 1 or not plain
    require(one_lot, "RiskConfig", "order_lots", risk.order_lots, "1 for an exact optimum")
    gamma = reward.risk_aversion
    require(
        plain or not gamma,
        "RewardConfig",
        "risk_aversion",
        gamma,
        f"0 for the optimum of {config.quote.name!r}",
    )
    weight = reward.shortfall_weight
    require(not weight, "RewardConfig", "shortfall_weight", weight, "0 for an optimum over time and position")
    _require_known(config, box)
    return Problem(
        horizon=config.horizon,
        limit=risk.position_limit,
        fill_decay=market.fill_decay,
        max_distance=box.max_distance,
        phi=reward.inventory_penalty * market.step_seconds,
        alpha=reward.terminal_penalty,
        risk_aversion=reward.risk_aversion,
    )


def mean_of(config: EnvConfig) -> EnvConfig:
    """`config` with the mean as its objective."""
    reward = dataclasses.replace(config.reward, risk_aversion=0.0, shortfall_weight=0.0)
    return dataclasses.replace(config, reward=reward)
