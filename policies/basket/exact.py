"""The exact optimum of `basket`, over time and the positions of all assets, by dynamic programming.

With V the value of what is still to come and g(q) = V(q, next step) - q' running q, quoting distances a_i and
b_i at positions q is worth

    sum over i of (u_i a_i + v_i b_i) + E g(q + e),  u_i = p_i exp(-kappa_i a_i), v_i = p_i exp(-kappa_i b_i)

where e_i is -1 with chance u_i (1 - v_i), 1 with chance v_i (1 - u_i), else 0, independently. The mids are a
martingale that no order moves, so they drop out. Given the quotes of all other assets, those of one asset are
the problem of `policies.solver.best_pair`, solved exactly; assets take turns until none moves. Each turn
raises the value, so the end is a maximum in each asset's quotes; that it is the greatest of all is tested
from other starts (tests/policies/test_basket.py).

What a step rounds to the grid of prices, 1/4096 of a price unit, is left out, as in `brownian`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from mmenv.config import EnvConfig
from mmenv.progress import progress_bar
from mmenv.run.provenance import digest
from policies.basket.problem import BasketProblem, make_basket_problem
from policies.cache import read, write
from policies.solver.best_pair import best_pair

Array = np.ndarray

Rule = Callable[[int, Array], tuple[Array, Array]]
"""Quotes by step and positions, (states, n): distances of ask and bid, price units, (states, n) each."""

SOLVER = 1
"""The version of the solver, part of every cache key: raise it when solutions change."""

TURNS = 1000
"""Turns of the assets after which the search of a state ends, settled or not."""


@njit(cache=True)
def _chances(ask: float, bid: float, arrival: float, kappa: float, low: bool, high: bool, out: Array) -> None:
    """Chances that the position falls, stays and rises; `low` and `high`: it is at a limit."""
    u = 0.0 if low else arrival * math.exp(-kappa * ask)
    v = 0.0 if high else arrival * math.exp(-kappa * bid)
    out[0], out[2] = u * (1 - v), v * (1 - u)
    out[1] = 1 - out[0] - out[2]


@njit(cache=True)
def _captured(ask: float, bid: float, arrival: float, kappa: float, low: bool, high: bool) -> float:
    """Mean spread capture of a step."""
    sold = 0.0 if low else ask * math.exp(-kappa * ask)
    bought = 0.0 if high else bid * math.exp(-kappa * bid)
    return arrival * (sold + bought)


@njit(cache=True)
def step_back(
    g: Array, positions: Array, limit: int, asks: Array, bids: Array, fixed: bool,
    arrivals: Array, decays: Array, top: float,
) -> Array:  # fmt: skip
    """Values one step earlier, (states,); unless `fixed`, the best quotes go into asks, bids, (states, n).

    `g` is what it is worth to end the step in each state. The search starts from what asks and bids hold.
    """
    states, assets = positions.shape
    strides = np.ones(assets, np.int64)
    for i in range(assets - 2, -1, -1):
        strides[i] = strides[i + 1] * (2 * limit + 1)
    count = 3**assets
    moves = np.empty((count, assets), np.int64)  # outcomes of a step: 0 the position falls, 1 stays, 2 rises
    for k in range(count):
        rest = k
        for i in range(assets):
            moves[k, i] = rest % 3
            rest //= 3
    value, after, chance = np.empty(states), np.zeros(count), np.zeros((assets, 3))
    following = np.zeros(3)
    for s in range(states):
        for k in range(count):
            at, inside = s, True
            for i in range(assets):
                change = moves[k, i] - 1
                inside = inside and abs(positions[s, i] + change) <= limit
                at += change * strides[i]
            after[k] = g[at] if inside else 0.0
        for i in range(assets):
            low, high = positions[s, i] == -limit, positions[s, i] == limit
            _chances(asks[s, i], bids[s, i], arrivals[i], decays[i], low, high, chance[i])
        for _ in range(0 if fixed else TURNS):
            moved = 0.0
            for i in range(assets):
                following[:] = 0.0
                for k in range(count):
                    weight = 1.0
                    for j in range(assets):
                        if j != i:
                            weight *= chance[j, moves[k, j]]
                    following[moves[k, i]] += weight * after[k]
                p = arrivals[i]
                low, high = positions[s, i] == -limit, positions[s, i] == limit
                sold = 0.0 if low else p * (following[0] - following[1])
                bought = 0.0 if high else p * (following[2] - following[1])
                both = 0.0 if low or high else -p * (sold + bought)
                ask, bid, _ = best_pair(
                    0.0 if low else p, sold, 0.0 if high else p, bought, both, decays[i], top
                )
                moved += abs(ask - asks[s, i]) + abs(bid - bids[s, i])
                asks[s, i], bids[s, i] = ask, bid
                _chances(ask, bid, p, decays[i], low, high, chance[i])
            if moved < 1e-11:
                break
        total = 0.0
        for k in range(count):
            weight = 1.0
            for i in range(assets):
                weight *= chance[i, moves[k, i]]
            total += weight * after[k]
        for i in range(assets):
            low, high = positions[s, i] == -limit, positions[s, i] == limit
            total += _captured(asks[s, i], bids[s, i], arrivals[i], decays[i], low, high)
        value[s] = total
    return value


@dataclass(frozen=True)
class BasketSolution:
    """The best quotes of several assets, and what they are worth."""

    ask: Array
    """Distance of the asks from their mids, price units, float32 (horizon, states, n); entries of sides that
    the position limit forbids are `max_distance`."""
    bid: Array
    values: Array
    """Value of the episode from each state, float64 (states,)."""

    @property
    def value(self) -> float:
        """Value of the episode from no position."""
        return float(self.values[len(self.values) // 2])


def solve_basket(
    config: EnvConfig, *, cache: Path | str | None = None, progress: bool = False
) -> BasketSolution:
    """The exact optimum of `config`, a market `basket`; `cache` is the folder in which it is kept.

    Raises `ConfigError` for what has no exact solution, or one that takes too much memory.
    """
    problem = make_basket_problem(config)
    path = None
    if cache is not None:
        path = Path(cache) / f"basket-{digest({'solver': SOLVER, 'problem': _plain(problem)})}.npz"
    kept = read(path, "ask", "bid", "values")
    if kept is not None:
        return BasketSolution(**kept)
    ask = np.empty((problem.horizon, problem.states, problem.assets), np.float32)
    bid = np.empty_like(ask)
    asks, bids = np.full((2, problem.states, problem.assets), problem.max_distance)
    value = -problem.cost(problem.terminal)
    now, positions = problem.cost(problem.running), problem.positions
    with progress_bar(
        total=problem.horizon, desc="solving", unit=" steps", disable=not progress, leave=False
    ) as bar:
        for step in reversed(range(problem.horizon)):
            value = step_back(
                value - now, positions, problem.limit, asks, bids, False,
                problem.arrivals, problem.decays, problem.max_distance,
            )  # fmt: skip
            ask[step], bid[step] = asks, bids
            bar.update()
    write(path, {"ask": ask, "bid": bid, "values": value})
    return BasketSolution(ask, bid, value)


def evaluate_basket(config: EnvConfig, rule: Rule) -> Array:
    """Exact value of quotes by time and positions, from each state, float64 (states,).

    Distances are clipped to [0, max_distance], as the desk does.
    """
    problem = make_basket_problem(config)
    value, now, positions = -problem.cost(problem.terminal), problem.cost(problem.running), problem.positions
    for step in reversed(range(problem.horizon)):
        asks, bids = (
            np.ascontiguousarray(np.clip(side, 0.0, problem.max_distance), float)
            for side in rule(step, positions)
        )
        value = step_back(
            value - now, positions, problem.limit, asks, bids, True,
            problem.arrivals, problem.decays, problem.max_distance,
        )  # fmt: skip
    return value


def _plain(problem: BasketProblem) -> dict[str, object]:
    """The problem as JSON types."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in dataclasses.asdict(problem).items()
    }
