"""Gasperov and Kostanjcar (2022), "Deep reinforcement learning for market making under a Hawkes process-based
limit order book model" (IEEE Control Systems Letters 6, 2485-2490).

A market maker that was learned where events excite each other, beside quotes at a fixed distance with a limit
on the inventory, quotes that lean linearly against the inventory, and random ones; without and with a fee.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from mmenv.config import EnvConfig, make_config
from mmenv.market.base import START_PRICE
from mmenv.sheet import Sheet
from policies.base import Policy, QuotingPolicy
from train.papers.hawkes import Hawkes
from train.papers.learned import learn
from train.papers.play import Played, play
from train.settings import Settings
from train.simulate import simulate

Array = np.ndarray

LIMIT = 10
FEES = (0.0, 0.1)
"""Price units a lot; the edge of a fill is some 0.7."""
SETTINGS = Settings(
    market="brownian",
    n_steps=250,
    gamma=0.99,
    gae_lambda=0.8,
    learning_rate=3e-3,
    log_std_init=-1.5,
    surprise_control=False,
)
TUNING_SEED, TUNING_EPISODES = 2_000_000_000, 128
HALF_SPREADS = (0.6, 0.8, 1.0, 1.2, 1.5)
SLOPES = (0.05, 0.1, 0.2, 0.3)
"""Price units, and price units a lot: what is tried on other paths than those that are judged."""


class Linear(QuotingPolicy):
    """Both quotes move by `slope` price units for each lot held, against the inventory."""

    name = "linear"

    def __init__(self, config: EnvConfig, half_spread: float, slope: float = 0.0) -> None:
        super().__init__(config)
        self.half_spread, self.slope = half_spread, slope

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        return self.half_spread - self.slope * position, self.half_spread + self.slope * position


class Random:
    """Uniform actions."""

    name = "random"

    def reset(self, n: int) -> np.random.Generator:
        return np.random.default_rng(2022)

    def act(self, observation: Array, state: np.random.Generator) -> tuple[Array, np.random.Generator]:
        return state.uniform(-1, 1, (len(observation), 2)).astype(np.float32), state


def market(fee: float) -> EnvConfig:
    """The market with a fee a lot, price units; positions within `LIMIT`."""
    config = make_config(Hawkes(), risk={"position_limit": LIMIT, "daily_loss_limit": 1e6})
    # A fee is a share of the price, which stays near where it starts.
    return dataclasses.replace(config, maker_fee_bp=1e4 * fee / START_PRICE)


def best(config: EnvConfig, slopes: tuple[float, ...]) -> Linear:
    """The linear quotes that earn the most reward on the tuning paths."""
    tried = [Linear(config, *given) for given in itertools.product(HALF_SPREADS, slopes)]
    return max(
        tried, key=lambda one: simulate(one, config, TUNING_EPISODES, seed=TUNING_SEED).controlled.mean()
    )


def gasperov2022(simulations: int = 1000, steps: int = 1_000_000) -> list[Sheet]:
    """A table for each fee."""
    sheets = []
    for fee in FEES:
        config = market(fee)
        fixed, linear = best(config, (0.0,)), best(config, SLOPES)
        learned = learn(config, dataclasses.replace(SETTINGS, steps=steps), f"at a fee of {fee:g}")
        makers: dict[str, Policy] = {
            "learned": learned,
            f"linear in inventory ({linear.half_spread:g}, {linear.slope:g})": linear,
            f"fixed distance ({fixed.half_spread:g})": fixed,
            "random": Random(),
        }
        rows = {name: play(policy, config, simulations) for name, policy in makers.items()}
        sheets.append(sheet(fee, rows, simulations))
    return sheets


def sheet(fee: float, rows: dict[str, Played], simulations: int) -> Sheet:
    """A row for each market maker."""
    columns = {
        "market maker": [*rows],
        "profit": [f"{row.profit.mean():.1f}" for row in rows.values()],
        "std(profit)": [f"{row.profit.std():.1f}" for row in rows.values()],
        "Sharpe": [f"{row.sharpe():.2f}" for row in rows.values()],
        "mean |q|": [f"{row.held.mean():.2f}" for row in rows.values()],
        "mean\nspread": [f"{row.spread.mean():.2f}" for row in rows.values()],
    }
    legend = [
        f"{simulations:,} simulations; Sharpe ratio: mean profit over its deviation, of simulations.",
        "In brackets half-spread and lean a lot, the best on other paths.",
    ]
    return Sheet(f"Gasperov and Kostanjcar (2022): market makers at a fee of {fee:g}", columns, legend)
