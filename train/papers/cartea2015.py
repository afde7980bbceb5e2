"""Cartea, Jaimungal and Penalva (2015), "Algorithmic and High-Frequency Trading", section 10.2.

A market maker with a running and a terminal penalty on the inventory: its depths by inventory and time left,
and what the penalty costs and saves. The chapter shows both as figures. What they are drawn from is an
equation that can be solved exactly, so its numbers stand here beside those of the environment, which decides
at times a step apart where the book decides always.
"""

from __future__ import annotations

import numpy as np

from mmenv.config import EnvConfig, make_config
from mmenv.engine.products import exponential, product
from mmenv.sheet import Sheet
from policies.analytic import CarteaJaimungal
from policies.optimal import OptimalPolicy, solve
from train.papers.play import Played, play

Array = np.ndarray

RATE, DECAY, VOLATILITY, SECONDS, LIMIT, TERMINAL = 1.0, 1.0, 1.0, 30.0, 3, 0.01
"""lambda, kappa, sigma, T, the largest inventory and alpha of the chapter's figures, in seconds and cents,
where it has dollars: a kappa of 100, a sigma of 0.01 and an alpha of 0.0001."""
STEP = 0.05
"""Seconds between decisions of the environment."""
RUNNING = (0.0, 0.001, 0.01, 0.03, 0.1)
"""phi, cents: from no penalty to one under which the book quotes on the wrong side of the mid."""
SHOWN, LEFT = 0.01, (30.0, 1.0)
"""phi of the table of depths, and the seconds left that it shows."""


def market(running: float, step: float = STEP) -> EnvConfig:
    """The chapter's market with a running penalty, decisions `step` seconds apart."""
    return make_config(
        {
            "name": "brownian",
            "arrival_rate": float(-np.log1p(-RATE * step) / step),  # a chance of RATE x step in a step
            "fill_decay": DECAY,
            "volatility": VOLATILITY,
            "step_seconds": step,
        },
        horizon=round(SECONDS / step),
        quote={"max_half_spread": 10.0, "max_skew": 10.0, "max_distance": 10.0},
        risk={"position_limit": LIMIT, "daily_loss_limit": 1e6},
        reward={"inventory_penalty": running, "terminal_penalty": TERMINAL},
    )


def book(running: float, left: float) -> Array:
    """h(q) of the book with `left` seconds left, cents, q from -LIMIT to LIMIT: (2 LIMIT + 1,).

    It is what the market maker will still earn, less penalties; its proposition is that exp(kappa h) follows
    a linear equation.
    """
    held = np.arange(-LIMIT, LIMIT + 1.0)
    matrix = np.diag(-running * DECAY * held**2)
    matrix += (np.eye(len(held), k=1) + np.eye(len(held), k=-1)) * RATE / np.e
    omega: Array = product(exponential(matrix * left), np.exp(-TERMINAL * DECAY * held**2))
    return np.log(omega) / DECAY


def earned(found: Played) -> Array:
    """What the market maker maximises: profit less penalties, cents, (simulations,)."""
    return found.profit - found.penalty


def cartea2015(simulations: int = 1000) -> list[Sheet]:
    """Depths, and results by penalty."""
    return [depths(), results(simulations)]


def depths() -> Sheet:
    """Depth of the ask by inventory: the book's, our policy's, the optimum of the environment."""
    config, held = market(SHOWN), np.arange(LIMIT, -LIMIT, -1)
    policy, solution = CarteaJaimungal(config, arrival_rate=RATE), solve(config, "optimum")
    columns = {"inventory": [str(q) for q in held]}
    for left in LEFT:
        step = config.horizon - round(left / STEP)
        exact = 1 / DECAY + np.diff(book(SHOWN, left))[held + LIMIT - 1]
        ours, _ = policy.quotes(np.full(len(held), step), held)
        best = solution.ask[step, 0, held + LIMIT]
        for name, values in (("book", exact), ("policy", ours), ("optimum", best)):
            columns[f"{left:g} s left,\n{name}"] = [f"{value:.3f}" for value in values]
    legend = [
        f"Distance of the ask from the mid, cents; the bid's is that of the opposite inventory. "
        f"phi = {SHOWN:g}.",
        "Policy: `cartea-jaimungal`. Optimum: the exact one of the environment, whose decisions are "
        f"{STEP:g} s apart.",
    ]
    return Sheet("Cartea, Jaimungal and Penalva (2015), section 10.2: depths", columns, legend)


def results(simulations: int) -> Sheet:
    """What is earned under penalties, by the book's formula, exactly in our environment, and played there."""
    rows = []
    for running in RUNNING:
        config = market(running)
        solution = solve(config, "optimum")
        found = play(OptimalPolicy(config, solution), config, simulations)
        rows.append(
            (
                f"{running:g}",
                f"{book(running, SECONDS)[LIMIT]:.2f}",
                f"{solution.value:.2f}",
                f"{earned(found).mean():.2f}",
                f"{found.profit.mean():.2f}",
                f"{found.profit.std():.2f}",
                f"{found.held.mean():.2f}",
            )
        )
    heads = ("phi", "value, book", "value, exact\nin steps", "played", "profit", "std(profit)", "mean |q|")
    legend = [
        "Value: profit less penalties, cents; book: h at the beginning. "
        f"{simulations:,} simulations of {SECONDS:g} s, whose standard error is std/{simulations**0.5:.0f}.",
        f"Steps of {STEP:g} s, in which an order of each side comes with a chance of {RATE * STEP:g}. "
        "With phi = 0.1 the book quotes on the wrong side of the mid to be rid of a lot; the environment, "
        "at the mid.",
    ]
    return Sheet(
        "Cartea, Jaimungal and Penalva (2015), section 10.2: what the penalty costs and saves",
        dict(zip(heads, map(list, zip(*rows, strict=True)), strict=True)),
        legend,
    )
