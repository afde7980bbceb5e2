"""What is known of the value of a `basket`, side by side: exact values of optimum and simpler rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from mmenv.config import EnvConfig
from policies.basket.exact import evaluate_basket
from policies.basket.policy import AssetsAlone, BasketOptimum, BasketPolicy, Bergault, ClosedForm, Gueant

CLOSED_FORMS: tuple[type[ClosedForm], ...] = (Gueant, Bergault)

RANGE = (0.1, 10.0)
"""Multiples of the reward's penalty among which that of a closed form is tuned."""


@dataclass(frozen=True)
class Rung:
    """A policy, what it was given, and its exact value from no position."""

    policy: BasketPolicy
    note: str
    value: float


def exact_value(policy: BasketPolicy) -> float:
    """The exact value of an episode from no position."""
    values = evaluate_basket(policy.config, policy.rule)
    return float(values[len(values) // 2])


def tuned(family: type[ClosedForm], config: EnvConfig) -> ClosedForm:
    """The closed form with the penalty phi under which its exact value is the highest."""

    def loss(log_phi: float) -> float:
        return -exact_value(family(config, phi=math.exp(log_phi)))

    base = max(config.reward.inventory_penalty, 1e-6)
    low, high = (math.log(base * multiple) for multiple in RANGE)
    grid = np.linspace(low, high, 9)
    best = int(np.argmin([loss(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-3})
    return family(config, phi=math.exp(float(found.x)))


def basket_ladder(
    config: EnvConfig, cache: Path | None = None, note: Callable[[str], Any] = lambda name: None
) -> list[Rung]:
    """The optimum first, each asset alone, and the closed forms as they are and tuned; `note(name)` hears of
    each before.

    Raises `ConfigError` where `config` has no exact optimum.
    """
    rungs: list[Rung] = []

    def add(policy: BasketPolicy, what: str) -> None:
        rungs.append(Rung(policy, what, exact_value(policy)))

    note(BasketOptimum.name)
    add(BasketOptimum(config, cache=cache), "over time and all positions")
    note(AssetsAlone.name)
    add(AssetsAlone(config, cache=cache), "the optimum of each, as if there were no other")
    for family in CLOSED_FORMS:
        note(family.name)
        add(family(config), f"phi = {config.reward.inventory_penalty:g}, the reward's")
        best = tuned(family, config)
        add(best, f"phi = {best.phi:.3g}, tuned")
    return rungs


def basket_policies(
    config: EnvConfig, cache: Path | None = None, note: Callable[[str], Any] = lambda name: None
) -> Iterator[BasketPolicy]:
    """The optimum, each asset alone, and the closed forms, tuned; `note(name)` hears of each before."""
    note(BasketOptimum.name)
    yield BasketOptimum(config, cache=cache)
    note(AssetsAlone.name)
    yield AssetsAlone(config, cache=cache)
    for family in CLOSED_FORMS:
        note(family.name)
        yield tuned(family, config)
