"""`neuralmm replicate as2008`: the tables of a paper, computed here by its own scheme and in our environment.

Avellaneda and Stoikov (2008), "High-frequency trading in a limit order book", Quantitative Finance 8(3),
section 3.3: tables 1 to 3 compare the quotes that lean against the inventory with quotes of the same spread
around the mid-price. Gueant, Lehalle and Fernandez-Tapia (2013), "Dealing with the inventory risk",
section 4: the closed-form quotes beside the exact ones of the problem without an end. Other papers are in
`train.papers`.
"""

from __future__ import annotations

import numpy as np
from rich.console import Console
from scipy import linalg

from mmenv.config import EnvConfig, make_config
from mmenv.sheet import Sheet
from policies.analytic import GLFT, AvellanedaStoikov
from policies.base import Policy, QuotingPolicy
from train.options.replicate import Replicate
from train.papers.play import play

Array = np.ndarray

RATE, DECAY, VOLATILITY, STEPS, STEP = 140.0, 1.5, 2.0, 200, 0.005
"""A, k, sigma, T / dt and dt of Avellaneda and Stoikov's section 3.3; prices in their units."""

PAPER = {
    0.1: ((1.49, 65.0, 6.6, 0.08, 2.9), (1.49, 68.4, 12.7, 0.26, 8.4)),
    0.01: ((1.35, 68.6, 8.7, 0.12, 5.1), (1.35, 68.8, 12.8, 0.09, 8.7)),
    1.0: ((3.02, 31.4, 5.0, 0.02, 1.7), (3.02, 44.0, 11.0, 0.00, 5.1)),
}
"""Their tables 1 to 3 (pages 222 and 223) by gamma: inventory strategy, then symmetric: mean spread, profit,
its deviation, final inventory, its deviation; 1,000 simulations."""


def main(options: Replicate) -> None:
    """Run the command."""
    for sheet in sheets(options):
        sheet.print(Console())


def sheets(options: Replicate) -> list[Sheet]:
    """The tables of the paper that is asked for."""
    if options.paper == "as2008":
        return as2008(options.simulations)
    if options.paper == "glft2013":
        return [glft2013()]
    if options.paper == "cartea2015":
        from train.papers.cartea2015 import cartea2015

        return cartea2015(options.simulations)
    from train.papers.gasperov2022 import gasperov2022  # here: these import torch
    from train.papers.spooner2020 import spooner2020

    learned = {"spooner2020": spooner2020, "gasperov2022": gasperov2022}[options.paper]
    return learned(options.simulations, options.steps)


# Avellaneda and Stoikov (2008) ------------------------------------------------------------------------------


def as2008(simulations: int = 1000) -> list[Sheet]:
    """Tables 1 to 3: the paper's figures, its scheme run here, and our environment with our policy."""
    sheets = []
    for number, (gamma, printed) in enumerate(PAPER.items(), 1):
        rows: list[tuple[str, Array]] = []
        for symmetric, name in enumerate(("inventory", "symmetric")):
            rows += [
                (f"{name}, paper", np.array(printed[symmetric])),
                (f"{name}, its scheme", own_scheme(gamma, bool(symmetric), simulations)),
                (f"{name}, NeuralMM-v0", environment(gamma, bool(symmetric), simulations)),
            ]
        heads = ("mean spread", "profit", "std(profit)", "final q", "std(final q)")
        columns = {"strategy": [name for name, _ in rows]}
        columns |= {head: [f"{row[i]:.2f}" for _, row in rows] for i, head in enumerate(heads)}
        legend = [
            f"{simulations:,} simulations: a profit of standard deviation s has a standard error of "
            f"s/{simulations**0.5:.0f}.",
        ]
        if number == 3:
            legend.append(EXPLAINED)
        sheets.append(
            Sheet(f"Avellaneda and Stoikov (2008), table {number}: gamma = {gamma:g}", columns, legend)
        )
    return sheets


EXPLAINED = (
    "NeuralMM-v0 quotes on the right side of the mid only: a quote that would cross it stands at it. With "
    "gamma = 1 one lot is enough to cross at the beginning, and the scheme sells it at a loss."
)


def own_scheme(gamma: float, symmetric: bool, simulations: int) -> Array:
    """The paper's simulation: the mid moves by +-sigma sqrt(dt), a quote at distance d is filled with chance
    A exp(-k d) dt. Mean spread, profit, its deviation, final inventory, its deviation.
    """
    draw = np.random.default_rng(2008)
    mid, cash, held = np.full(simulations, 100.0), np.zeros(simulations), np.zeros(simulations)
    spreads = []
    for step in range(STEPS):
        risk = gamma * VOLATILITY**2 * (STEPS - step) * STEP
        half = (risk + 2 / gamma * np.log1p(gamma / DECAY)) / 2
        skew = np.zeros(simulations) if symmetric else held * risk
        ask, bid = half - skew, half + skew
        spreads.append(2 * half)
        sold, bought = (
            draw.random(simulations) < RATE * STEP * np.exp(-DECAY * distance) for distance in (ask, bid)
        )
        cash += sold * (mid + ask) - bought * (mid - bid)
        held += bought * 1.0 - sold
        mid += np.where(draw.random(simulations) < 0.5, 1, -1) * VOLATILITY * STEP**0.5
    profit = cash + held * mid
    return np.array([np.mean(spreads), profit.mean(), profit.std(), held.mean(), held.std()])


class Symmetric(QuotingPolicy):
    """The paper's benchmark: the spread of `AvellanedaStoikov`, around the mid-price."""

    name = "symmetric"

    def __init__(self, config: EnvConfig, gamma: float) -> None:
        super().__init__(config)
        self._leaning = AvellanedaStoikov(config, gamma)

    def quotes(self, step: Array, position: Array) -> tuple[Array, Array]:
        return self._leaning.quotes(step, np.zeros_like(position))


def paper_config() -> EnvConfig:
    """The paper's market as one of ours: the same chance of an order in a step, no limits that bind."""
    rate = -np.log1p(-RATE * STEP) / STEP
    market = {"name": "brownian", "arrival_rate": rate, "fill_decay": DECAY, "volatility": VOLATILITY}
    return make_config(
        {**market, "step_seconds": STEP},
        horizon=STEPS,
        quote={"max_half_spread": 40.0, "max_skew": 80.0, "max_distance": 40.0},
        risk={"position_limit": 100, "daily_loss_limit": 1e6},
        reward={"inventory_penalty": 0.0, "terminal_penalty": 0.0},
    )


def environment(gamma: float, symmetric: bool, simulations: int) -> Array:
    """The same five figures from `NeuralMM-v0`."""
    config = paper_config()
    policy: Policy = Symmetric(config, gamma) if symmetric else AvellanedaStoikov(config, gamma)
    found = play(policy, config, simulations)
    profit, final = found.profit, found.final
    return np.array([found.spread.mean(), profit.mean(), profit.std(), final.mean(), final.std()])


# Gueant, Lehalle and Fernandez-Tapia (2013) -----------------------------------------------------------------

GLFT_MARKET = {"arrival_rate": 0.9, "fill_decay": 0.3, "volatility": 0.3}
GLFT_AVERSION, GLFT_LIMIT = 0.01, 30
"""A, k, sigma, gamma and Q of the paper's figures: seconds and ticks."""


def glft2013() -> Sheet:
    """Asymptotic quotes of their section 4: the exact ones, and the closed form that approximates them."""
    rate, decay, volatility = (GLFT_MARKET[name] for name in ("arrival_rate", "fill_decay", "volatility"))
    gamma, limit = GLFT_AVERSION, GLFT_LIMIT
    # Their theorem 2: f0, the eigenvector of the smallest eigenvalue, gives the quotes far from the end.
    alpha = decay / 2 * gamma * volatility**2
    eta = rate * (1 + gamma / decay) ** -(1 + decay / gamma)
    positions = np.arange(-limit, limit + 1)
    found = linalg.eigh_tridiagonal(
        alpha * positions**2.0, np.full(2 * limit, -eta), select="i", select_range=(0, 0)
    )
    vector = np.abs(found[1][:, 0])
    exact = np.log(vector[:-1] / vector[1:]) / decay + np.log1p(gamma / decay) / gamma
    config = make_config(
        {"name": "brownian", **GLFT_MARKET},
        quote={"max_half_spread": 60.0, "max_skew": 60.0, "max_distance": 60.0},
        risk={"position_limit": limit, "daily_loss_limit": 1e6},
    )
    shown = np.array([-20, -10, -5, -2, 0, 2, 5, 10, 20])
    _, closed = GLFT(config, gamma=gamma).quotes(np.zeros_like(shown), shown)
    columns = {
        "inventory": [str(q) for q in shown],
        "bid distance,\nexact": [f"{exact[q + limit]:.3f}" for q in shown],
        "closed form": [f"{value:.3f}" for value in closed],
        "apart": [f"{value - exact[q + limit]:+.3f}" for q, value in zip(shown, closed, strict=True)],
    }
    legend = [
        f"The paper's market: A = {rate}/s, k = {decay}/tick, sigma = {volatility} tick/sqrt(s), "
        f"gamma = {gamma}/tick, Q = {limit}.",
        "The approximation is good where the inventory is small and worsens with it, as the paper says.",
    ]
    return Sheet(
        "Gueant, Lehalle and Fernandez-Tapia (2013), section 4: quotes far from the end", columns, legend
    )
