"""Policies that quote several assets at once by time and positions: the optimum, each asset alone, closed
forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError, require
from mmenv.config import EnvConfig, make_config
from mmenv.market.brownian import Brownian
from mmenv.observation import observation_names
from policies.base import max_distance, register
from policies.basket.closed_forms import curvature, leaning_quotes
from policies.basket.exact import solve_basket
from policies.basket.problem import basket_of, make_basket_problem
from policies.optimal import solve
from policies.solver.problem import require_plain

Array = np.ndarray


class BasketPolicy:
    """Base of policies without memory on `basket`: a subclass gives `quotes`."""

    name = ""

    def __init__(self, config: EnvConfig) -> None:
        """Raises `ConfigError` for another market, another action, or an observation without positions."""
        self.config, self.market = config, basket_of(config, f"policy {self.name!r}")
        require(
            not config.quote.from_touch,
            "EnvConfig",
            "quote",
            config.quote.name,
            "one that counts from the mid",
        )
        names = observation_names(config)
        wanted = [f"asset_{k}_inventory" for k in range(1, self.market.count + 1)]
        for need in (*wanted, "time_left"):
            if need not in names:
                raise ConfigError(
                    f"EnvConfig.features = {config.features!r} is not possible: {self.name!r} reads "
                    f"{need!r}; add the feature group that has it."
                )
        self._columns = [names.index(name) for name in wanted]
        self._left = names.index("time_left")

    def quotes(self, step: Array, positions: Array) -> tuple[Array, Array]:
        """Distances of asks and bids from their mids, price units, (m, n) each, for steps, (m,), and
        positions, (m, n)."""
        raise NotImplementedError

    def rule(self, step: int, positions: Array) -> tuple[Array, Array]:
        """`quotes` at one step: what `policies.basket.exact.evaluate_basket` takes."""
        return self.quotes(np.full(len(positions), step), positions)

    def reset(self, n: int) -> Any:
        return None

    def act(self, observation: Array, state: Any) -> tuple[Array, Any]:
        horizon, limit = self.config.horizon, self.config.risk.position_limit
        step = horizon - np.rint(observation[:, self._left].astype(float) * horizon).astype(np.int64)
        positions = np.rint(observation[:, self._columns].astype(float) * limit).astype(np.int64)
        top = max_distance(self.config)
        ask, bid = (np.clip(side, 0.0, top) for side in self.quotes(step, positions))
        return self.config.quote.to_action(ask, bid).reshape(len(observation), -1), state


@register
class BasketOptimum(BasketPolicy):
    """The exact optimum over time and the positions of all assets."""

    name = "basket-optimum"

    def __init__(self, config: EnvConfig, cache: Path | str | None = None, progress: bool = False) -> None:
        """`cache`: folder in which the solution is kept."""
        super().__init__(config)
        self._problem = make_basket_problem(config)
        self.solution = solve_basket(config, cache=cache, progress=progress)

    def quotes(self, step: Array, positions: Array) -> tuple[Array, Array]:
        at = np.minimum(step, self.config.horizon - 1), self._problem.state(positions)
        return self.solution.ask[at], self.solution.bid[at]


@register
class AssetsAlone(BasketPolicy):
    """The exact optimum of each asset by itself: it knows nothing of the others, nor of correlation."""

    name = "assets-alone"

    def __init__(self, config: EnvConfig, cache: Path | str | None = None) -> None:
        """`cache`: folder in which the solutions are kept."""
        super().__init__(config)
        require_plain(config)
        self._solutions = [solve(alone, "optimum", cache=cache) for alone in self.alone()]

    def alone(self) -> list[EnvConfig]:
        """The configuration of each asset without the others."""
        market, reward = self.market, self.config.reward
        pace = market.step_seconds
        return [
            make_config(
                Brownian(arrival_rate=rate, fill_decay=decay, volatility=sigma, step_seconds=pace),
                horizon=self.config.horizon,
                quote=self.config.quote,
                risk=self.config.risk,
                reward={
                    "inventory_penalty": reward.inventory_penalty * sigma**2,
                    "terminal_penalty": reward.terminal_penalty * sigma**2,
                },
            )
            for rate, decay, sigma in zip(
                market.each("arrival_rates").tolist(),
                market.each("fill_decays").tolist(),
                market.each("volatilities").tolist(),
                strict=True,
            )
        ]  # fmt: skip

    def quotes(self, step: Array, positions: Array) -> tuple[Array, Array]:
        step, limit = np.minimum(step, self.config.horizon - 1), self.config.risk.position_limit
        ask, bid = (
            np.stack(
                [
                    getattr(one, side)[step, 0, positions[:, k] + limit]
                    for k, one in enumerate(self._solutions)
                ],
                axis=1,
            )
            for side in ("ask", "bid")
        )
        return ask, bid


class ClosedForm(BasketPolicy):
    """Base of the quotes in closed form, `policies.basket.closed_forms`."""

    def __init__(self, config: EnvConfig, phi: float | None = None) -> None:
        """`phi`: running penalty, by default the reward's."""
        super().__init__(config)
        self.phi = config.reward.inventory_penalty if phi is None else phi
        require(math.isfinite(self.phi) and self.phi >= 0, self.name, "phi", phi, "a finite number from 0")
        rates = self.market.each("arrival_rates")
        require(rates.min() > 0, "Basket", "arrival_rates", rates.tolist(), f"above 0 for {self.name!r}")
        self._curved = self.curved()

    def curved(self) -> Array:
        """A by decisions left, from 0, (horizon + 1, n, n)."""
        raise NotImplementedError

    def quotes(self, step: Array, positions: Array) -> tuple[Array, Array]:
        left = np.clip(self.config.horizon - step, 0, len(self._curved) - 1)
        return leaning_quotes(self.market, self._curved[left], positions)


@register
class Gueant(ClosedForm):
    """Gueant (2017), "Optimal market making": closed forms far from the end, the same at all times."""

    name = "gueant"

    def curved(self) -> Array:
        return curvature(self.market, self.phi, self.config.reward.terminal_penalty, np.array([np.inf]))


@register
class Bergault(ClosedForm):
    """Bergault, Evangelista, Gueant and Vieira (2021): closed forms with the time that is left."""

    name = "bergault"

    def curved(self) -> Array:
        left = np.arange(self.config.horizon + 1) * self.market.step_seconds
        return curvature(self.market, self.phi, self.config.reward.terminal_penalty, left)
