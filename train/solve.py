"""`neuralmm solve`: the exact values of the solvable markets, and what is known of that of `book`."""

from __future__ import annotations

import functools
from collections.abc import Callable

from rich.console import Console

from mmenv.checks import require
from mmenv.config import EnvConfig, make_config
from mmenv.market.book import Book
from mmenv.market.book_presets import PRESETS
from mmenv.progress import progress_bar
from mmenv.sheet import Sheet
from policies.analytic import CarteaJaimungal
from policies.base import tuned_policies
from policies.book.ladder import CACHE, ladder
from policies.optimal import solve
from policies.solver.recursion import evaluate_tabular
from policies.tune import tune
from train.ladder import ladder_sheets
from train.options.solve import Solve


def main(options: Solve) -> None:
    """Run `neuralmm solve`."""
    if options.market not in ("", *SOLVED):
        print_ladder(options)
        return
    if options.risk_aversion:
        taken = options.market in ("", "brownian")
        require(taken, "solve", "risk_aversion", options.risk_aversion, f"0 for {options.market!r}")
    wanted = [options.market] if options.market else ["brownian"] if options.risk_aversion else list(SOLVED)
    jobs = [job for market in wanted for job in SOLVED[market][0](options)]
    rows: dict[str, list[Row]] = {}
    with progress_bar(jobs, unit=" rows", leave=False) as bar:
        for market, name, job in bar:
            bar.set_description(f"{market}: {name}")
            note, value = job()
            rows.setdefault(market, []).append((name, note, value))
    for market in wanted:
        SOLVED[market][1](rows[market], options).print(Console())


def print_ladder(options: Solve) -> None:
    """The ladder of values of a market `book`."""
    config = make_config({"name": "book", "preset": preset_of(options.market)})
    with progress_bar(bar_format="{desc}", leave=False) as bar:
        rows = ladder(
            config,
            options.paths,
            options.seed,
            bound_paths=options.bound_paths,
            cache=options.cache or CACHE,
            note=bar.set_description_str,
        )
    for sheet in ladder_sheets(options.market, rows):
        sheet.print(Console())


def preset_of(market: str) -> str:
    """The preset of `book` that "book", "book:PRESET" or "PRESET" names; `ConfigError` for another."""
    head, _, rest = market.partition(":")
    name = (rest or Book.preset) if head == "book" else market
    require(name in PRESETS, "solve", "market", market, "book, or one of its presets: " + ", ".join(PRESETS))
    return name


Row = tuple[str, str, float]
Job = tuple[str, str, Callable[[], tuple[str, float]]]


def _tuned(config: EnvConfig) -> list[Job]:
    def job(family: str) -> tuple[str, float]:
        found = tune(family, config)
        return f"{found.parameter} = {found.best:.4g}", found.value

    return [(config.market.name, f"{name}, tuned", functools.partial(job, name)) for name in tuned_policies()]


def _solved(config: EnvConfig, kind: str, options: Solve, resolution: int | None = None) -> Job:
    def job() -> tuple[str, float]:
        solution = solve(config, kind, resolution=resolution, cache=options.cache)
        return f"grid {solution.resolution}" if solution.resolution else "", solution.value

    return config.market.name, kind, job


def _brownian_jobs(options: Solve) -> list[Job]:
    config = make_config("brownian", reward={"risk_aversion": options.risk_aversion})

    def believed() -> tuple[str, float]:
        tables = CarteaJaimungal(config).tabulate()
        return "the reward's phi", float(evaluate_tabular(config, *tables)[config.risk.position_limit])

    return [
        _solved(config, "optimum", options),
        ("brownian", "cartea-jaimungal", believed),
        *_tuned(config),
        ("brownian", "no-trade", lambda: ("", 0.0)),
    ]


def _hidden_jobs(options: Solve) -> list[Job]:
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


def _brownian_sheet(rows: list[Row], options: Solve) -> Sheet:
    shown = [(name, note, f"{value:.3f}", f"{100 * value / rows[0][2]:.2f}") for name, note, value in rows]
    what = f"certainty equivalent at gamma = {options.risk_aversion:g}" if options.risk_aversion else "value"
    headings = "policy", "", what.partition(" at")[0], "% of optimum"
    return Sheet.of_rows(f"brownian: {what} from position 0", headings, shown)


def _hidden_sheet(rows: list[Row], options: Solve) -> Sheet:
    top = next(value for name, _, value in rows if name == "belief-optimal")
    floor = next(value for name, _, value in rows if name == "memoryless")
    shown = [
        (name, note, f"{value:.3f}", f"{100 * (value - floor) / (top - floor):.1f}")
        for name, note, value in rows
    ]
    legend = ["Memory gap: memoryless (no memory) is 0%, belief-optimal is 100%."]
    headings = "policy", "", "value", "% of memory gap"
    return Sheet.of_rows("hidden-regime: value from position 0", headings, shown, legend=legend)


SOLVED = {
    "brownian": (_brownian_jobs, _brownian_sheet),
    "hidden-regime": (_hidden_jobs, _hidden_sheet),
}
"""The markets whose optimum is known: what computes the rows, and how they are shown."""
