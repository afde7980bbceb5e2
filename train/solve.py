"""`neuralmm solve`: the exact values of the solvable markets, and what is known of that of `book`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rich.console import Console

from mmenv.checks import require
from mmenv.config import EnvConfig, make_config
from mmenv.market.book import Book
from mmenv.market.book_presets import PRESETS
from mmenv.progress import progress_bar
from mmenv.sheet import Sheet
from policies.analytic import CarteaJaimungal
from policies.base import tuned_policies
from policies.basket.ladder import basket_ladder
from policies.book.ladder import CACHE, ladder
from policies.optimal import solve
from policies.solver.orders import Orders, OrdersRecursion
from policies.solver.recursion import evaluate_tabular
from policies.tune import tune
from train.baselines import Scale
from train.ladder import ladder_sheets
from train.options.solve import Solve
from train.simulate import simulate


def main(options: Solve) -> None:
    """Run `neuralmm solve`."""
    on_book, fee = options.market not in ("", "basket", *SOLVED), options.taker_fee_bp
    pays = on_book and options.action == "taker"
    require(pays or fee == 0, "solve", "taker_fee_bp", fee, "0 but with --action taker on a market `book`")
    if on_book:
        print_ladder(options)
        return
    if options.action:
        print_freedom(options)
        return
    if options.risk_aversion:
        taken = options.market in ("", "brownian")
        require(taken, "solve", "risk_aversion", options.risk_aversion, f"0 for {options.market!r}")
    every = ["brownian"] if options.risk_aversion else [*SOLVED, "basket"]
    wanted = [options.market] if options.market else every
    solved = [market for market in wanted if market in SOLVED]
    jobs = [job for market in solved for job in SOLVED[market][0](options)]
    rows: dict[str, list[Row]] = {}
    with progress_bar(jobs, unit=" rows", leave=False) as bar:
        for market, name, job in bar:
            bar.set_description(f"{market}: {name}")
            note, value = job()
            rows.setdefault(market, []).append((name, note, value))
    for market in solved:
        SOLVED[market][1](rows[market], options).print(Console())
    if "basket" in wanted:
        basket_sheet(make_config("basket"), options).print(Console())


def print_ladder(options: Solve) -> None:
    """The ladder of values of a market `book`."""
    market, action = {"name": "book", "preset": preset_of(options.market)}, options.action
    require(action in ("", *FREEDOMS), "solve", "action", action, "one of " + ", ".join(FREEDOMS))
    quote: dict[str, Any] | None = {"name": action} if action else None
    if quote and action == "taker":
        quote |= {"taker_fee_bp": options.taker_fee_bp}
    config = make_config(market, quote=quote, risk={"order_lots": BOOK_LOTS.get(action, 1)})
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


HALF_SPREADS = 0.0, 0.25, 0.5, 1.0
"""What a market order is tried to pay, price units."""
LOTS = 1, 2, 5
"""Sizes that are tried: of a market order, or of the orders of a side."""
PENALTIES = 0.01, 0.1, 1.0
"""Inventory penalties under which the choice of sizes is tried."""
BOOK_LOTS = {"size": 5, "ladder": 2}
"""Lots of a side of `book` where an action has several; as many orders where it has those."""


def print_freedom(options: Solve) -> None:
    """What an action is worth on `brownian` beside that of spread and skew, exactly."""
    market = options.market or "brownian"
    require(market == "brownian", "solve", "market", market, "'brownian' or `book` where there is an action")
    require(options.action in FREEDOMS, "solve", "action", options.action, "one of " + ", ".join(FREEDOMS))
    require(not options.risk_aversion, "solve", "risk_aversion", options.risk_aversion, "0 with an action")
    require(options.cache is None, "solve", "cache", options.cache, "left out with an action: it is solved")
    FREEDOMS[options.action]().print(Console())


def _best(orders: Orders, **settings: Any) -> float:
    """Exact value from position 0 on `brownian` of what may choose from `orders`."""
    config = make_config("brownian", **settings)
    return float(OrdersRecursion.of(config, orders).optimise()[1][config.risk.position_limit])


def _taker_sheet() -> Sheet:
    plain = _best(Orders(((1,),)))
    rows = [("none", "", f"{plain:.3f}", "")]
    for cost in HALF_SPREADS:
        for lots in LOTS:
            value = _best(Orders(((1,),), lots, cost))
            rows.append((f"{cost:g}", f"{lots}", f"{value:.3f}", f"{100 * (value / plain - 1):+.3f}"))
    headings = "half-spread paid", "most lots", "value", "% over none"
    return Sheet.of_rows("brownian: what a market order beside the quotes is worth", headings, rows)


def _size_sheet() -> Sheet:
    rows = []
    for penalty in PENALTIES:
        for lots in LOTS[1:]:
            settings = {"reward": {"inventory_penalty": penalty, "terminal_penalty": 10 * penalty}}
            one, all_ = (_best(Orders(((some,),)), **settings) for some in (1, lots))
            chosen = _best(Orders(tuple((k,) for k in range(lots + 1))), **settings)
            over = 100 * (chosen / max(one, all_) - 1)
            values = (f"{value:.3f}" for value in (one, all_, chosen))
            rows.append((f"{penalty:g}", f"{lots}", *values, f"{over:+.3f}"))
    headings = "penalty", "most lots", "always 1", "always all", "chosen", "% over the better"
    return Sheet.of_rows("brownian: what it is worth to choose sizes", headings, rows)


def _ladder_sheet() -> Sheet:
    rows = []
    for penalty in PENALTIES:
        settings = {"reward": {"inventory_penalty": penalty, "terminal_penalty": 10 * penalty}}
        one, pair, ladder = (_best(Orders((some,)), **settings) for some in ((1,), (2,), (1, 1)))
        over = 100 * (ladder / max(one, pair) - 1)
        values = (f"{value:.3f}" for value in (one, pair, ladder))
        rows.append((f"{penalty:g}", *values, f"{over:+.3f}"))
    headings = "penalty", "one lot", "two at one price", "two levels of one", "% over the better"
    return Sheet.of_rows("brownian: what a second level is worth", headings, rows)


FREEDOMS: dict[str, Callable[[], Sheet]] = {
    "taker": _taker_sheet,
    "size": _size_sheet,
    "ladder": _ladder_sheet,
}
"""The actions beside spread and skew whose optimum is known on `brownian`, and the table of each."""


def basket_sheet(config: EnvConfig, options: Solve) -> Sheet:
    """What is known of a `basket`: exact values, and those of simulated episodes, the same for all."""
    with progress_bar(bar_format="{desc}", leave=False) as bar:
        rungs = basket_ladder(config, options.cache, bar.set_description_str)
        exact = rungs[0].value
        measure = Scale("% of optimum", 0.0, exact, top=rungs[0].policy.name)
        outcomes = []
        for rung in rungs:
            bar.set_description_str(f"playing {rung.policy.name}")
            outcomes.append(simulate(rung.policy, config, options.paths, seed=options.seed))
    rows = [
        (
            rung.policy.name,
            rung.note,
            f"{rung.value:.3f}",
            f"{measure.percent(rung.value):.2f}",
            outcome.value().text(".2f"),
            measure.paired(outcome, outcomes[0]).text(".2f"),
        )
        for rung, outcome in zip(rungs, outcomes, strict=True)
    ]
    rows.append(("no-trade", "", "0.000", "0.00", "", ""))
    headings = (
        *("policy", "", "exact\nvalue", "% of\noptimum"),
        *("simulated\n[95%]", "% of optimum, simulated\n[paired, 95%]"),
    )
    legend = [
        f"Value from no position, price units x lots; {options.paths:,} simulated episodes, the same for all."
    ]
    return Sheet.of_rows(
        f"basket of {config.market.quoted} assets", headings, rows, legend=legend, left=frozenset({""})
    )


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
"""The markets of one asset whose optimum is known: what computes the rows, and how they are shown."""
