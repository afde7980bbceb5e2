"""What is solved on `basket`: parameters of assets, limits and penalty, in price units, lots and steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.checks import ConfigError, require
from mmenv.config import EnvConfig
from mmenv.market.basket import Basket
from policies.solver.problem import require_plain

Array = np.ndarray

MOST_GIGABYTES = 1.0
"""So much memory the tables of an exact optimum may take."""


@dataclass(frozen=True)
class BasketProblem:
    """The problem of a configuration with n assets."""

    horizon: int
    limit: int
    max_distance: float
    arrivals: Array
    """Chance of a market order per step and side, (n,)."""
    decays: Array
    """kappa, (n,)."""
    running: Array
    """What a step at positions q costs is q' running q: phi dt Sigma, (n, n)."""
    terminal: Array
    """And what the end costs, alpha Sigma."""

    @property
    def assets(self) -> int:
        return len(self.arrivals)

    @property
    def width(self) -> int:
        """Positions that one asset can have."""
        return 2 * self.limit + 1

    @property
    def states(self) -> int:
        """Positions that all assets together can have."""
        return int(self.width**self.assets)

    @property
    def positions(self) -> Array:
        """The positions of every state, int64 (states, n): the last asset's change fastest."""
        axes = [np.arange(-self.limit, self.limit + 1)] * self.assets
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.assets)

    def state(self, positions: Array) -> Array:
        """The states of positions (..., n), int64 (...)."""
        powers = self.width ** np.arange(self.assets)[::-1]
        return ((positions + self.limit) * powers).sum(axis=-1)

    def cost(self, weights: Array) -> Array:
        """q' weights q of every state, (states,)."""
        positions = self.positions.astype(float)
        return np.einsum("si,ij,sj->s", positions, weights, positions)


def basket_of(config: EnvConfig, purpose: str) -> Basket:
    """The market of `config`; raises `ConfigError` where it is no basket."""
    if not isinstance(config.market, Basket):
        raise ConfigError(
            f"EnvConfig.market = {config.market.name!r} is not possible: it must be 'basket' for {purpose}."
        )
    return config.market


def make_basket_problem(config: EnvConfig) -> BasketProblem:
    """The problem of `config`. Raises `ConfigError` in a sentence where no exact solution is implemented.

    The solutions assume that the daily loss limit of no asset is ever reached.
    """
    market = basket_of(config, "an exact optimum of several assets")
    if config.reward.risk_aversion:
        raise ConfigError(
            f"RewardConfig.risk_aversion = {config.reward.risk_aversion!r} is not possible: it must be 0 for "
            "an exact optimum of several assets."
        )
    weight = config.reward.shortfall_weight
    require(not weight, "RewardConfig", "shortfall_weight", weight, "0 for an optimum over time and position")
    box = require_plain(config)
    covariance = market.covariance
    problem = BasketProblem(
        horizon=config.horizon,
        limit=config.risk.position_limit,
        max_distance=float(box.max_distance),
        arrivals=-np.expm1(-market.each("arrival_rates") * market.step_seconds),
        decays=market.each("fill_decays"),
        running=config.reward.inventory_penalty * market.step_seconds * covariance,
        terminal=config.reward.terminal_penalty * covariance,
    )
    gigabytes = 8e-9 * problem.horizon * problem.states * problem.assets
    require(
        gigabytes <= MOST_GIGABYTES, "RiskConfig", "position_limit", problem.limit,
        f"less for an exact optimum of {problem.assets} assets, whose tables would take {gigabytes:.3g} GB"
    )  # fmt: skip
    return problem
