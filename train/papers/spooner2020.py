"""Spooner and Savani (2020), "Robust market making via adversarial reinforcement learning" (IJCAI).

The market of Avellaneda and Stoikov (2008) as a zero-sum game: an adversary chooses the drift of the mid,
from -5 to 5 a second, to take as much from the market maker as it can. Positions stay within 50 lots, and
there are no penalties. The parameters are those of the code that the authors published.

Here the game is solved exactly, and both market makers are also learned as anybody else would learn them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mmenv.config import EnvConfig, make_config
from mmenv.sheet import Sheet
from policies.analytic import AvellanedaStoikov, FixedSpread
from policies.base import Policy, QuotingPolicy
from train.papers.adversary import Adversarial
from train.papers.learned import learn
from train.papers.play import Played, play
from train.settings import Settings

Array = np.ndarray

RATE, DECAY, VOLATILITY, STEPS, STEP = 140.0, 1.5, 2.0, 200, 0.005
DRIFT, LIMIT = 5.0, 50
DYNAMICS = {
    "arrival_rate": float(-np.log1p(-RATE * STEP) / STEP),  # the same chance of an order in a step
    "fill_decay": DECAY,
    "volatility": VOLATILITY,
}
SETTINGS = Settings(
    market="brownian",
    n_steps=STEPS,
    gamma=1.0,
    gae_lambda=0.9,
    learning_rate=3e-3,
    log_std_init=-1.5,
    reward_scale=1.0,
    cell="none",
)
"""Of both learners: a feed-forward policy, for all that counts is time and position."""


def market(drift: float) -> EnvConfig:
    """The game's market against an adversary that moves the mid by up to `drift` a second; 0: nobody does."""
    return make_config(
        Adversarial(**DYNAMICS, step_seconds=STEP, drift=drift),
        horizon=STEPS,
        quote={"max_half_spread": 2.0, "max_skew": 2.0, "max_distance": 4.0},
        risk={"position_limit": LIMIT, "daily_loss_limit": 1e6},
        reward={"inventory_penalty": 0.0, "terminal_penalty": 0.0},
    )


class Equilibrium(QuotingPolicy):
    """The best quotes against the adversary's best answer, by dynamic programming over time and position."""

    name = "equilibrium"

    def __init__(self, config: EnvConfig) -> None:
        super().__init__(config)
        self.ask, self.bid, self.value = solve(config)

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        at = np.minimum(step, len(self.ask) - 1), position + self.config.risk.position_limit
        return self.ask[at], self.bid[at]


def solve(config: EnvConfig) -> tuple[Array, Array, float]:
    """The game of `market`, exactly.

    Returns
    -------
    tuple
        Distances of ask and bid from the mid by step and position, float64 (horizon, 2 limit + 1), and what
        the market maker earns from no position on: no more against this adversary, no less against another.
    """
    assert isinstance(config.market, Adversarial)
    limit, market = config.risk.position_limit, config.market
    chance = -np.expm1(-market.arrival_rate * market.step_seconds)
    held = np.arange(-limit, limit + 1)
    lost = np.sign(held) * market.against / market.price_scale  # of each lot held at the end of the step
    may_sell, may_buy = held > -limit, held < limit
    value, quotes = np.zeros(len(held)), []
    for _ in range(config.horizon):
        fewer, more = np.roll(value, 1), np.roll(value, -1)
        sold: Array = np.zeros(len(held))
        bought: Array = np.zeros(len(held))
        for _ in range(200):  # the best distance of a side depends on the chance of a fill at the other
            gain_sold = lost + (1 - bought) * (fewer - value) + bought * (value - more)
            gain_bought = -lost + (1 - sold) * (more - value) + sold * (value - fewer)
            ask, bid = (np.maximum(1 / market.fill_decay - gain, 0.0) for gain in (gain_sold, gain_bought))
            before = sold
            sold = np.where(may_sell, chance * np.exp(-market.fill_decay * ask), 0.0)
            bought = np.where(may_buy, chance * np.exp(-market.fill_decay * bid), 0.0)
            if np.abs(sold - before).max() < 1e-13:
                break
        value = (
            sold * ask + bought * bid - lost * (held - sold + bought)
            + sold * (1 - bought) * fewer + bought * (1 - sold) * more
            + (sold * bought + (1 - sold) * (1 - bought)) * value
        )  # fmt: skip
        quotes.append((ask, bid))
    asks, bids = np.swapaxes(np.array(quotes[::-1]), 0, 1)
    return asks, bids, float(value[limit])


def spooner2020(simulations: int = 1000, steps: int = 1_000_000) -> list[Sheet]:
    """Market makers for the fixed market and for the game, played in both."""
    fixed, game = market(0.0), market(DRIFT)
    equilibrium = Equilibrium(game)
    settings = dataclasses.replace(SETTINGS, steps=steps)
    makers: list[tuple[str, Policy]] = [
        ("1/k, optimal in the fixed market", FixedSpread(fixed, 1 / DECAY)),
        ("Avellaneda-Stoikov, gamma = 0.1", AvellanedaStoikov(fixed, 0.1, **DYNAMICS)),
        ("equilibrium of the game", equilibrium),
        ("learned in the fixed market", learn(fixed, settings, "in the fixed market")),
        ("learned against the adversary", learn(game, settings, "against the adversary")),
    ]
    sheets = []
    for title, config in (("fixed market", fixed), ("against the adversary", game)):
        rows = [play(policy, config, simulations) for _, policy in makers]
        legend = [
            f"{simulations:,} simulations; Sharpe ratio: mean profit over its deviation, of simulations."
        ]
        if config is game:
            legend.append(
                f"Exactly, the equilibrium earns {equilibrium.value:.2f} here, and no policy earns more."
            )
        sheets.append(
            sheet(f"Spooner and Savani (2020): {title}", [name for name, _ in makers], rows, legend)
        )
    return sheets


def sheet(title: str, names: list[str], rows: list[Played], legend: list[str]) -> Sheet:
    """A row for each market maker."""
    columns = {
        "market maker": names,
        "mean\nspread": [f"{row.spread.mean():.2f}" for row in rows],
        "profit": [f"{row.profit.mean():.1f}" for row in rows],
        "std(profit)": [f"{row.profit.std():.1f}" for row in rows],
        "Sharpe": [f"{row.sharpe():.2f}" for row in rows],
        "std(final q)": [f"{row.final.std():.1f}" for row in rows],
        "mean |q|": [f"{row.held.mean():.1f}" for row in rows],
    }
    return Sheet(title, columns, legend)
