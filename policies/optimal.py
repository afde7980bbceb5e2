"""The exact optima of the solvable markets, as tables, as policies, and as the bar to measure against.

`brownian`: *optimum*, over time and position. `hidden-regime`, by what the policy may know of the market:
*oracle* (the regime itself, which nobody sees), *belief-optimal* (all that was ever seen: the bound for every
policy), *exponential-average* (an average of the signed flow), *memoryless* (the last step) and *blind*
(nothing). See `policies.chain` for how, and what "best" means where something is hidden.

Run as a script, prints the tables of all of them and of the tuned analytic policies.
"""

from __future__ import annotations

import dataclasses
import logging
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from mmenv.config import ConfigError, EnvConfig, Market, make_config, require
from mmenv.files import replacing
from mmenv.market.brownian import Brownian
from mmenv.market.hidden_regime import HiddenRegime
from mmenv.provenance import digest
from mmenv.quote import to_action
from policies import chain
from policies.analytic import TUNABLE, CarteaJaimungal, tune
from policies.base import Policy, Reading, register
from policies.chain import Array, Belief, Blind, Chain, FlowAverage, LastOutcome, View

TIME_CONSTANT = 18.0
"""Of the exponential average, in steps."""

SOLVER = 1
"""Part of every cache key: raise it when solutions change."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """How the solution of one kind is found."""

    market: type[Market]
    view: Callable[[Any, int], View]
    """What the policy remembers, from market and resolution."""
    chain: Callable[[Any, Any], Chain]
    """From market and view."""
    resolution: int = 0
    """Default resolution of the view's grid; 0 where there is none to choose."""


KINDS = {
    "optimum": Kind(Brownian, lambda market, _: Blind(), lambda market, _: chain.brownian_chain(market)),
    "oracle": Kind(HiddenRegime, lambda market, _: Blind(), lambda market, _: chain.oracle_chain(market)),
    "belief-optimal": Kind(HiddenRegime, Belief, chain.belief_chain, 40),
    "exponential-average": Kind(
        HiddenRegime, lambda market, count: FlowAverage(market, count, TIME_CONSTANT), chain.hidden_chain, 160
    ),
    "memoryless": Kind(HiddenRegime, lambda market, _: LastOutcome(market), chain.hidden_chain),
    "blind": Kind(HiddenRegime, lambda market, _: Blind(), chain.hidden_chain),
}


@dataclass(frozen=True)
class Solution:
    """The best quotes of one kind, and what they are worth."""

    kind: str
    resolution: int
    ask: Array
    """Distance of the ask from the mid, price units, float32 (horizon, labels, 2 limit + 1).

    Labels are the grid of what the policy knows (`chain.View.nodes`; the regimes -1, 0, 1 for the oracle).
    Entries of a side that the position limit forbids are `max_distance`.
    """
    bid: Array
    values: Array
    """Value of the episode from each starting position, float64 (2 limit + 1,)."""

    @property
    def value(self) -> float:
        """From position 0."""
        return float(self.values[len(self.values) // 2])


def solve(
    config: EnvConfig,
    kind: str,
    *,
    resolution: int | None = None,
    cache: Path | str | None = None,
    progress: bool = False,
) -> Solution:
    """The best policy of `kind` (see the module) for `config`, read from folder `cache` if it is there.

    `resolution` of the grid: intervals per edge for belief-optimal, nodes for
    exponential-average; even.
    `progress` shows a bar. Raises `ConfigError` for what has no exact solution. The optima assume that the
    daily loss limit is never reached.
    """
    require(kind in KINDS, "solve", "kind", kind, f"one of {', '.join(KINDS)}")
    how = KINDS[kind]
    if not isinstance(config.market, how.market):
        raise ConfigError(f"{kind!r} is solved on market {how.market.name!r}, not on {config.market.name!r}.")
    if how.resolution == 0:
        require(resolution is None, "solve", "resolution", resolution, f"left out: {kind!r} needs no grid")
    resolution = how.resolution if resolution is None else resolution
    require(
        resolution >= 0 and resolution % 2 == 0, "solve", "resolution", resolution, "an even number from 2"
    )
    problem = chain.make_problem(config)
    path = Path(cache) / _file_name(config, kind, resolution) if cache is not None else None
    found = _read(path, kind, resolution) if path and path.exists() else None
    if found:
        return found

    view = how.view(config.market, resolution)
    recursion = chain.Recursion(how.chain(config.market, view), problem)
    with tqdm(desc=f"solving {kind}", unit=" steps", disable=not progress, leave=False) as bar:
        ask, bid, value = chain.ascend(recursion, progress=bar.update)
    values = recursion.chain.start @ value
    solution = Solution(kind, resolution, ask.astype(np.float32), bid.astype(np.float32), values)
    if path:
        _write(path, solution)
    return solution


def _file_name(config: EnvConfig, kind: str, resolution: int) -> str:
    """Names what the solution depends on, in a hash, and nothing else."""
    key = {
        "solver": SOLVER,
        "resolution": resolution,
        "problem": dataclasses.asdict(chain.make_problem(config)),
        "market": config.to_dict()["market"],
    }
    return f"{config.market.name}-{kind}-{digest(key)}.npz"


def _read(path: Path, kind: str, resolution: int) -> Solution | None:
    """The cached solution, or None (and a warning) if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Solution(kind, resolution, file["ask"], file["bid"], file["values"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s): solving again.", path, error)
        return None


def _write(path: Path, solution: Solution) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, ask=solution.ask, bid=solution.bid, values=solution.values)


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
        self._seen = chain.outcomes(market) if isinstance(market, HiddenRegime) else None
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
        return to_action(self.config.quote, ask, bid), state


def _register(kind: str) -> None:
    @register(kind)
    def make(config: EnvConfig, **options: Any) -> Policy:
        """The policy of `solve(config, kind, **options)`."""
        return OptimalPolicy(config, solve(config, kind, **options))


for _kind in KINDS:
    if _kind != "oracle":
        _register(_kind)


# --- The tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Print the exact values of the solvable markets, at their defaults."""

    belief_resolution: int = KINDS["belief-optimal"].resolution
    """Intervals along each edge of the belief grid, a multiple of 4. Half as many are shown too."""
    average_nodes: int = KINDS["exponential-average"].resolution
    """Nodes of the grid of the exponential average, a multiple of 4. Half as many are shown too."""
    cache: Path | None = None
    """Folder in which solutions are kept."""


def main() -> None:
    """Command line: see `Options`."""
    options = tyro.cli(Options, description=Options.__doc__)
    jobs = [*_brownian_jobs(options), *_hidden_jobs(options)]
    rows: dict[str, list[tuple[str, str, float]]] = {}
    with tqdm(jobs, unit=" rows", leave=False) as bar:
        for market, name, job in bar:
            bar.set_description(f"{market}: {name}")
            note, value = job()
            rows.setdefault(market, []).append((name, note, value))
    console = Console()
    console.print(_brownian_table(rows["brownian"]))
    console.print(_hidden_table(rows["hidden-regime"]))


Job = tuple[str, str, Callable[[], tuple[str, float]]]


def _tuned(config: EnvConfig) -> list[Job]:
    def job(family: str) -> tuple[str, float]:
        found = tune(family, config)
        return f"{found.parameter} = {found.best:.4g}", found.value

    return [(config.market.name, f"{name}, tuned", lambda name=name: job(name)) for name in TUNABLE]  # type: ignore[misc]


def _solved(config: EnvConfig, kind: str, options: Options, resolution: int | None = None) -> Job:
    def job() -> tuple[str, float]:
        solution = solve(config, kind, resolution=resolution, cache=options.cache)
        return f"grid {solution.resolution}" if solution.resolution else "", solution.value

    return config.market.name, kind, job


def _brownian_jobs(options: Options) -> list[Job]:
    config = make_config("brownian")

    def believed() -> tuple[str, float]:
        tables = CarteaJaimungal(config).tabulate()
        return "the reward's phi", float(chain.evaluate_tabular(config, *tables)[config.risk.position_limit])

    return [
        _solved(config, "optimum", options),
        ("brownian", "cartea-jaimungal", believed),
        *_tuned(config),
        ("brownian", "no-trade", lambda: ("", 0.0)),
    ]


def _hidden_jobs(options: Options) -> list[Job]:
    config = make_config("hidden-regime")
    belief, average = options.belief_resolution, options.average_nodes
    return [
        _solved(config, "oracle", options),
        _solved(config, "belief-optimal", options, belief),
        _solved(config, "belief-optimal", options, belief // 2),
        _solved(config, "exponential-average", options, average),
        _solved(config, "exponential-average", options, average // 2),
        _solved(config, "memoryless", options),
        _solved(config, "blind", options),
        *_tuned(config),
        ("hidden-regime", "no-trade", lambda: ("", 0.0)),
    ]


def _brownian_table(rows: list[tuple[str, str, float]]) -> Table:
    table = Table("policy", "", "value", "% of optimum", title="brownian: value from position 0")
    for name, note, value in rows:
        table.add_row(name, note, f"{value:.3f}", f"{100 * value / rows[0][2]:.2f}")
    return table


def _hidden_table(rows: list[tuple[str, str, float]]) -> Table:
    table = Table("policy", "", "value", "gap closed %", title="hidden-regime: value from position 0")
    top = next(value for name, _, value in rows if name == "belief-optimal")
    floor = next(value for name, _, value in rows if name == "memoryless")
    for name, note, value in rows:
        table.add_row(name, note, f"{value:.3f}", f"{100 * (value - floor) / (top - floor):.1f}")
    return table


if __name__ == "__main__":
    main()
