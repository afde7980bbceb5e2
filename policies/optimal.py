"""The exact optima of the solvable markets, as tables, as policies, and as the bar to measure against.

`brownian`: *optimum*, over time and position. `hidden-regime`, by what the policy may know of the market:
*oracle* (the regime itself, which nobody sees), *belief-optimal* (all that was ever seen: the bound for every
policy), *exponential-average* (an average of the signed flow), *memoryless* (the last step) and *blind*
(nothing). See `policies.solver` for how, and what "best" means where something is hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.actions.spread_skew import SpreadSkew
from mmenv.checks import require
from mmenv.config import EnvConfig
from mmenv.engine.products import product
from mmenv.market.base import Market
from mmenv.market.brownian import Brownian
from mmenv.market.bursts import Bursts
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.progress import progress_bar
from mmenv.run.provenance import digest
from policies.base import POLICIES, Policy, Reading
from policies.cache import read, write
from policies.solver.chain import Chain, belief_chain, brownian_chain, hidden_chain, oracle_chain
from policies.solver.orders import best_orders, orders_of
from policies.solver.outcomes import outcomes
from policies.solver.problem import make_problem, solved_market
from policies.solver.recursion import ascend, recursion_of
from policies.solver.views import Belief, Blind, FlowAverage, LastOutcome, View

Array = np.ndarray

TIME_CONSTANT = 18.0
"""Time constant of the exponential average, steps."""

SOLVER = 2
"""The version of the solver, part of every cache key: raise it when solutions change."""


@dataclass(frozen=True)
class Kind:
    """A kind of solution, and how it is found."""

    what: str
    markets: tuple[type[Market], ...]
    """The markets that have it; not those that inherit from them, whose equations may be others."""
    view: Callable[[Any, int], View]
    """What the policy remembers, from market and resolution."""
    chain: Callable[[Any, Any], Chain]
    """The chain, from market and view."""
    resolution: int = 0
    """Default resolution of the view's grid; 0 where there is none to choose."""


KINDS = {
    "optimum": Kind(
        "The exact optimum over time and position.",
        (Brownian, Bursts),
        lambda market, _: Blind(),
        lambda market, _: brownian_chain(market),
    ),
    "oracle": Kind(
        "The best of what sees the regime, which nobody does.",
        (HiddenRegime,),
        lambda market, _: Blind(),
        lambda market, _: oracle_chain(market),
    ),
    "belief-optimal": Kind(
        "The exact optimum of all that sees what a trader sees.", (HiddenRegime,), Belief, belief_chain, 40
    ),
    "exponential-average": Kind(
        "The best that remembers an average of the signed flow.",
        (HiddenRegime,),
        lambda market, count: FlowAverage(market, count, TIME_CONSTANT),
        hidden_chain,
        160,
    ),
    "memoryless": Kind(
        "The best that remembers the last step alone.",
        (HiddenRegime,),
        lambda market, _: LastOutcome(market),
        hidden_chain,
    ),
    "blind": Kind("The best that sees nothing.", (HiddenRegime,), lambda market, _: Blind(), hidden_chain),
}


@dataclass(frozen=True)
class Solution:
    """The best quotes of one kind, and what they are worth."""

    kind: str
    resolution: int
    ask: Array
    """Distance of the ask from the mid, price units, float32 (horizon, labels, 2 limit + 1).

    Labels are the grid of what the policy knows (`View.nodes`; the regimes -1, 0, 1 for the oracle).
    Entries of a side that the position limit forbids are `max_distance`.
    """
    bid: Array
    values: Array
    """Value of the episode from each starting position, float64 (2 limit + 1,)."""
    more: dict[str, Array] = field(default_factory=dict)
    """What `to_action` of the action takes beside the distances, by name: tables of the same shape, of
    integers (chosen at the nearest label) or not (interpolated)."""

    @property
    def value(self) -> float:
        """Value of the episode from position 0."""
        return float(self.values[len(self.values) // 2])


def solve(
    config: EnvConfig,
    kind: str,
    *,
    resolution: int | None = None,
    cache: Path | str | None = None,
    progress: bool = False,
) -> Solution:
    """The best policy of a kind for `config`. It assumes that the daily loss limit is never reached.

    Parameters
    ----------
    kind
        A key of `KINDS`.
    resolution
        Of the grid, an even number: intervals per edge for belief-optimal, nodes for exponential-average.
    cache
        Folder from which the solution is read if it is there, and where it is kept.
    progress
        Shows a bar.

    Raises
    ------
    ConfigError
        For what has no exact solution.
    """
    require(kind in KINDS, "solve", "kind", kind, f"one of {', '.join(KINDS)}")
    how = KINDS[kind]
    market = solved_market(config.market, how.markets)
    if how.resolution == 0:
        require(resolution is None, "solve", "resolution", resolution, f"left out: {kind!r} needs no grid")
    resolution = how.resolution if resolution is None else resolution
    require(
        resolution >= 0 and resolution % 2 == 0, "solve", "resolution", resolution, "an even number from 2"
    )
    path = Path(cache) / _file_name(config, kind, resolution) if cache is not None else None
    plain = type(config.quote) is SpreadSkew
    beside = () if plain else orders_of(config).arguments
    kept = read(path, "ask", "bid", "values", *beside)
    if kept is not None:
        more = {name: kept.pop(name) for name in beside}
        return Solution(kind, resolution, **kept, more=more)

    chain = how.chain(market, how.view(market, resolution))
    with progress_bar(desc=f"solving {kind}", unit=" steps", disable=not progress, leave=False) as bar:
        if plain:
            ask, bid, value = ascend(recursion_of(config, chain), progress=bar.update)
            values, more = product(chain.start, value), {}
        else:
            ask, bid, values, more = best_orders(config, bar.update)
    solution = Solution(kind, resolution, ask.astype(np.float32), bid.astype(np.float32), values, more)
    write(path, {"ask": solution.ask, "bid": solution.bid, "values": solution.values, **more})
    return solution


def _file_name(config: EnvConfig, kind: str, resolution: int) -> str:
    """The name of a solution's file: a hash of what the solution depends on, and of nothing else."""
    key = {
        "solver": SOLVER,
        "resolution": resolution,
        "problem": dataclasses.asdict(make_problem(config)),
        "market": config.to_dict()["market"],
    }
    if type(config.quote) is not SpreadSkew:
        key["orders"] = dataclasses.asdict(orders_of(config))
    return f"{config.market.name}-{kind}-{digest(key)}.npz"


class OptimalPolicy:
    """Quotes from a solution's tables, interpolated at the summary of what has been seen: its memory."""

    def __init__(self, config: EnvConfig, solution: Solution) -> None:
        require(
            solution.kind != "oracle", "OptimalPolicy", "kind", "oracle", "one that sees what a trader sees"
        )
        self.name = solution.kind
        self.config, self.solution = config, solution
        market = config.market
        self._view = KINDS[solution.kind].view(market, solution.resolution)
        self._seen = outcomes(market) if isinstance(market, HiddenRegime) else None
        self._reading = Reading(config, events=self._seen is not None)

    def reset(self, n: int) -> Array:
        return np.repeat(self._view.start, n, axis=0)

    def act(self, observation: Array, state: Array) -> tuple[Array, Array]:
        step, position = self._reading.step(observation), self._reading.position(observation)
        if self._seen:
            buy, sell = self._reading.orders(observation)
            outcome = self._seen.index(buy, sell, self._reading.move(observation))
            # At step 0 nothing has been seen, whatever an autoreset left in the memory.
            fresh = np.broadcast_to(self._view.start, state.shape)
            state = np.where(step[:, None] > 0, self._view.follow(state, outcome), fresh)
        nodes, weights = self._view.locate(state)
        last, limit = self.config.horizon - 1, self.config.risk.position_limit
        at = (np.minimum(step, last)[:, None], nodes, position[:, None] + limit)
        ask, bid = ((table[at] * weights).sum(axis=1) for table in (self.solution.ask, self.solution.bid))
        nearest = at[0][:, 0], nodes[np.arange(len(nodes)), weights.argmax(axis=1)], at[2][:, 0]
        more = {
            name: table[nearest] if table.dtype.kind == "i" else (table[at] * weights).sum(axis=1)
            for name, table in self.solution.more.items()
        }
        return self.config.quote.to_action(ask, bid, **more), state


def _register(kind: str) -> None:
    def make(
        config: EnvConfig,
        resolution: int | None = None,
        cache: Path | str | None = None,
        progress: bool = False,
    ) -> Policy:
        solution = solve(config, kind, resolution=resolution, cache=cache, progress=progress)
        return OptimalPolicy(config, solution)

    make.__doc__ = KINDS[kind].what
    POLICIES.register(kind, make)


for _kind in KINDS:
    if _kind != "oracle":
        _register(_kind)
