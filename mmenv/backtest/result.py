"""What a backtest left behind, read back and measured; the formulas are in `mmenv.measure.metrics`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mmenv.backtest.tables import FUNDING, PARTS, horizons
from mmenv.checks import ConfigError
from mmenv.data.currency import Rate
from mmenv.measure import intervals, metrics
from mmenv.measure.intervals import Estimate, TooShort
from mmenv.times import SECOND

REGIMES = ("low", "normal", "high")
"""Thirds of the fills by the volatility of the minute before."""

FIGURES: dict[str, tuple[str, str, str]] = {
    "profit": ("Profit", "money", "after fees, open positions marked at the mid"),
    "total_return": ("Total return", "%", "profit over capital"),
    "spread_capture": ("Spread capture", "money", "distance of fills from the mid"),
    "adverse_selection": (
        "Adverse selection",
        "money",
        "move of the mid on lots filled in the same decision",
    ),
    "carry": ("Carry", "money", "move of the mid on lots held before"),
    "fees": ("Fees", "money", "paid; negative is a rebate"),
    "sharpe": ("Sharpe ratio", "", "mean over deviation of an interval's profit"),
    "sharpe_annual": ("Sharpe ratio, annualised", "", "times the root of intervals in a year"),
    "sortino": ("Sortino ratio", "", "mean over downside deviation of an interval's profit"),
    "deflated_sharpe": ("Deflated Sharpe ratio", "%", "probability that the true ratio is above 0"),
    "max_drawdown": ("Maximum drawdown", "money", "deepest fall below the highest profit"),
    "max_drawdown_fraction": ("Maximum drawdown", "% of capital", "of capital and profit"),
    "value_at_risk": ("Value at risk, 95%", "money", "an interval in twenty loses more"),
    "expected_shortfall": ("Expected shortfall, 95%", "money", "mean loss of the worst intervals in twenty"),
    "win_rate": ("Win rate", "%", "round trips that earned after fees"),
    "trips": ("Round trips", "", "from flat to flat or through zero"),
    "trip_seconds": ("Median round trip", "s", "from first fill to last"),
    "fills": ("Fills", "", "decisions and sides in which we were filled"),
    "turnover": ("Turnover", "money", "money traded"),
    "profit_bp": ("Profit per turnover", "bp", "after fees"),
    "captured_bp": ("Average spread captured", "bp", "per turnover, one side"),
    "fill_ratio": ("Fill ratio", "%", "lots filled of lots ordered"),
    "quoted_both": ("Time quoting both sides", "%", "of decisions"),
    "no_bid": ("Time without a bid", "%", "of decisions: left by the policy, or not allowed by a limit"),
    "no_ask": ("Time without an ask", "%", "of decisions: left by the policy, or not allowed by a limit"),
    "touch_bid": ("Bid at the touch", "%", "of decisions with a book"),
    "touch_ask": ("Ask at the touch", "%", "of decisions with a book"),
    "touch_both": ("Both at the touch", "%", "spread presence, of decisions with a book"),
    "mean_inventory": ("Mean absolute position", "lots", "after each decision"),
    "half_life": ("Half-life of the position", "s", "time in which it is expected to halve"),
    "profit_to_inventory": ("Profit to inventory", "money per lot", "profit over mean absolute position"),
    "participation": ("Share of market volume", "%", "our lots of all lots traded"),
    "active": ("Active", "%", "risk state, of decisions"),
    "reducing": ("Reducing", "%", "risk state, of decisions"),
    "halted": ("Halted", "%", "risk state, of decisions"),
}
"""Every figure of a run: its title, its unit (a value in "%" is a fraction) and its meaning."""

TITLES = FIGURES | {FUNDING: ("Funding", "money", "received less paid for what was held or borrowed")}
"""The same, with the figure that only those have that count funding."""


@dataclass(frozen=True)
class Samples:
    """Sums over consecutive intervals of equal length."""

    seconds: float
    """Length of an interval."""
    times_ns: np.ndarray
    """Ends of the intervals, (n,); those without data are left out."""
    sums: dict[str, np.ndarray]
    """What was earned, lost and traded in each interval, money, (n,), by the names of `Run.sums`."""


class Run:
    """One policy of a backtest."""

    def __init__(self, folder: Path, name: str, units: list[dict[str, Any]], files: list[str]) -> None:
        self.folder, self.name, self.units, self._files = folder, name, units, files

    def table(self, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Read the table `kind` ("states", "fills", "orders", "equity") of all units one after another.

        Its column `unit` numbers the units; paths are numbered through.
        """
        parts, base = [], 0
        for number, file in enumerate(self._files):
            part = self._read(kind, file, columns)
            part["unit"] = np.int32(number)
            if "path" in part:
                part["path"] += base
            base += self.paths[number]
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def states(self, unit: int, columns: list[str] | None = None) -> pd.DataFrame:
        """Read the decisions of one unit."""
        return self._read("states", self._files[unit], columns)

    def _read(self, kind: str, file: str, columns: list[str] | None) -> pd.DataFrame:
        """Read one file."""
        return pq.read_table(self.folder / kind / f"{file}.parquet", columns=columns).to_pandas()

    @cached_property
    def rates(self) -> np.ndarray:
        """What the money of each unit is worth in the result's currency, (units,)."""
        return np.array([float(unit["rate"]) for unit in self.units])

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Parts of its profit: funding where it is counted."""
        return (*PARTS, FUNDING) if any(FUNDING in unit["totals"] for unit in self.units) else PARTS

    @cached_property
    def sums(self) -> tuple[str, ...]:
        """Running totals of its equity."""
        return ("profit", *self.parts, "turnover")

    @cached_property
    def paths(self) -> list[int]:
        """Number of paths of each unit."""
        return [int(unit["paths"]) for unit in self.units]

    @property
    def levels(self) -> int:
        """Most orders of a side; where there are several, the states have columns for each."""
        return max(int(unit.get("levels", 1)) for unit in self.units)

    @cached_property
    def fills(self) -> pd.DataFrame:
        """One row for each fill; see `mmenv.backtest.tables.fills_of`."""
        return self.table("fills")

    @cached_property
    def money_fills(self) -> pd.DataFrame:
        """The fills with fees and prices in the result's money: those of an inverse contract by
        `metrics.coin_prices`."""
        fills = self.fills
        inverse = np.array([bool(unit["scale"]["inverse"]) for unit in self.units])
        if not len(fills) or not (inverse.any() or (self.rates != 1).any()):
            return fills
        unit = fills["unit"].to_numpy()
        rows, rates = inverse[unit], self.rates[unit]
        fills = fills.copy()
        for name in ("price", *(str(name) for name in fills if str(name).startswith("mid"))):
            values = fills[name].to_numpy(copy=True)
            values[rows] = metrics.coin_prices(values[rows])
            fills[name] = values * rates
        fills["fee"] *= rates
        return fills

    @cached_property
    def equity(self) -> pd.DataFrame:
        """Running totals of each unit in the result's money; see `mmenv.backtest.tables.equity_of`."""
        equity = self.table("equity")
        if (self.rates != 1).any():
            rates = self.rates[equity["unit"].to_numpy()]
            for name in self.sums:
                equity[name] *= rates
        return equity

    @cached_property
    def counts(self) -> dict[str, Any]:
        """Counts of all units added up."""
        total: dict[str, Any] = {}
        for unit in self.units:
            for name, value in unit["counts"].items():
                total[name] = _add(total[name], value) if name in total else value
        return total

    @property
    def seconds(self) -> float:
        """Length of the market it was played on."""
        return sum((unit["last_ns"] - unit["first_ns"]) / SECOND for unit in self.units)

    @cached_property
    def trips(self) -> metrics.Trips:
        """Round trips, from flat to flat or through zero."""
        fills = self.money_fills
        return metrics.round_trips({name: fills[name].to_numpy() for name in fills})

    def samples(self, seconds: float) -> Samples:
        """Sum what the running totals gained over intervals of `seconds`, over all symbols."""
        equity = self.equity
        cell = interval_of(equity["time_ns"].to_numpy(), seconds)
        starts = np.flatnonzero(np.diff(equity["unit"], prepend=-1))
        cells, place = np.unique(cell, return_inverse=True)
        sums = {}
        for name in self.sums:
            values = equity[name].to_numpy()
            steps = np.diff(values, prepend=0.0)
            steps[starts] = values[starts]
            sums[name] = np.bincount(place, steps, len(cells))
        return Samples(seconds, (cells + 1) * round(seconds * SECOND), sums)

    def markouts(
        self, horizon: float, side: int | None = None, regime: str | None = None
    ) -> tuple[Any, Any, Any]:
        """Time, size x price and mark-out, basis points, of the fills whose mark is known, (k,) each.

        They are those of one `side` (1 bought, -1 sold) or of both, in one of `REGIMES` or in all.
        """
        fills = self.money_fills
        known = fills[f"mid_after_{horizon:g}s"].notna().to_numpy(copy=True)
        if side is not None:
            known &= fills["side"].to_numpy() == side
        if regime is not None:
            known &= self.regimes == REGIMES.index(regime)
        some = fills[known]
        marks = metrics.markouts(some, some[f"mid_after_{horizon:g}s"].to_numpy())
        return some["time_ns"].to_numpy(), (some["size"] * some["price"].abs()).to_numpy(), marks

    @cached_property
    def regimes(self) -> np.ndarray:
        """Index into `REGIMES` of each fill, -1 where volatility is not known."""
        volatility = self.fills["volatility_bp"].to_numpy()
        known = np.isfinite(volatility)
        if not known.any():
            return np.full(len(volatility), -1)
        bounds = np.quantile(volatility[known], (1 / 3, 2 / 3))
        return np.where(known, np.searchsorted(bounds, volatility, side="left"), -1)


def _add(a: Any, b: Any) -> Any:
    """Add numbers, and lists and dicts of them element by element."""
    if isinstance(a, dict):
        return {name: _add(a[name], b[name]) for name in a}
    if isinstance(a, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    return a + b


class Result:
    """A finished backtest, or its part in one currency, read from its folder.

    Money of several currencies is never added. Where a backtest made profits in several and no rates were
    given, `currencies` names them, `by_currency` gives the part in each, and the figures of the whole raise
    `ConfigError`.
    """

    def __init__(self, folder: Path | str, currency: str | None = None) -> None:
        """Raises `ConfigError` where there is no backtest, an unfinished one, or none in `currency`."""
        self.folder = Path(folder)
        try:
            self.plan: dict[str, Any] = json.loads((self.folder / "plan.json").read_text())
        except (OSError, ValueError):
            raise ConfigError(
                f"{self.folder} holds no finished backtest: run `neuralmm backtest` to its end."
            ) from None
        self.rates = [Rate(**rate) for rate in self.plan.get("rates", [])]
        """By which money was brought into one currency."""
        self._units: dict[str, dict[str, Any]] = {}
        for name in self.plan["units"]:
            unit = json.loads((self.folder / "units" / f"{name}.json").read_text())
            exchange(unit, self.rates)
            if currency in (None, unit["scale"]["currency"]):
                self._units[name] = unit
        if not self._units:
            raise ConfigError(f"currency = {currency!r} is not possible: {self.folder} has no profit in it.")
        self.currencies = sorted({unit["scale"]["currency"] for unit in self._units.values()})
        """What money is counted in."""

    def by_currency(self) -> list[Result]:
        """The part of the result in each of its currencies."""
        if len(self.currencies) == 1:
            return [self]
        return [Result(self.folder, currency) for currency in self.currencies]

    @property
    def currency(self) -> str:
        """What money is counted in. Raises `ConfigError` where that is more than one currency."""
        if len(self.currencies) > 1:
            raise ConfigError(
                f"{self.folder} has profits in {', '.join(self.currencies)}, which do not add: take them one "
                "by one (by_currency), or give rates."
            )
        return self.currencies[0]

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The policies by name, in one currency."""
        assert self.currency
        kept: dict[str, list[str]] = {}
        for name, unit in self._units.items():
            if "counts" in unit:
                kept.setdefault(unit["labels"]["policy"], []).append(name)
        return {
            policy: Run(self.folder, policy, [self._units[name] for name in files], files)
            for policy, files in kept.items()
        }

    @cached_property
    def scenario_runs(self) -> dict[tuple[str, float, str], Run]:
        """The same policies under other latencies and queue models: by name, milliseconds and model."""
        kept: dict[tuple[str, float, str], list[str]] = {}
        for name, unit in self._units.items():
            labels = unit["labels"]
            if "counts" not in unit:
                kept.setdefault((labels["policy"], labels["latency_ms"], labels["queue"]), []).append(name)
        return {
            key: Run(self.folder, key[0], [self._units[name] for name in files], files)
            for key, files in kept.items()
        }

    @property
    def scenarios(self) -> list[dict[str, Any]]:
        """The units of which only totals are kept, in one currency."""
        assert self.currency
        return [unit for unit in self._units.values() if "counts" not in unit]

    @property
    def settings(self) -> dict[str, Any]:
        """The `Settings` it was run with, as a dict."""
        return self.plan["settings"]

    @property
    def first(self) -> Run:
        """The policy that the others are compared with."""
        return next(iter(self.runs.values()))

    @property
    def recorded(self) -> bool:
        """Whether it was played on tapes."""
        return self.plan["policies"][0]["config"]["market"]["name"] == "replay"

    @property
    def capital(self) -> float:
        """Money that profits are related to: as set, or positions at their limits at the start."""
        if self.settings["capital"] is not None:
            return float(self.settings["capital"])
        symbols: dict[tuple[str, str], float] = {}
        for unit in self.first.units:
            price = unit["first_mid"]
            price = abs(metrics.coin_prices(price)) if unit["scale"]["inverse"] else price
            value = unit["position_limit"] * unit["scale"]["lot"] * price * unit["rate"]
            symbols.setdefault((unit["labels"]["venue"], unit["labels"]["symbol"]), value)
        return sum(symbols.values())

    @cached_property
    def interval(self) -> float:
        """The sampling interval of all sampled figures, seconds."""
        step = self.first.units[0]["step_seconds"]
        base = max(step, 1.0)  # of the equity table; symbols side by side count once
        cells = np.unique(interval_of(self.first.equity["time_ns"].to_numpy(), base))
        return metrics.sampling_seconds(len(cells) * base, step)

    @property
    def horizons(self) -> tuple[float, ...]:
        """Times after a fill at which it is marked, seconds."""
        return horizons(self.first.units[0]["step_seconds"])

    @cached_property
    def samples(self) -> dict[str, Samples]:
        """Sums over the sampling interval, by policy."""
        return {name: run.samples(self.interval) for name, run in self.runs.items()}

    @cached_property
    def figures(self) -> dict[str, dict[str, Estimate]]:
        """Every figure of `FIGURES` of every policy, with its interval where it has one."""
        return {name: self._figures(run) for name, run in self.runs.items()}

    def _figures(self, run: Run) -> dict[str, Estimate]:
        """Measure one policy."""
        samples, counts, capital = self.samples[run.name], run.counts, self.capital
        fills = run.money_fills
        profits = samples.sums["profit"]
        equity = np.cumsum(profits)
        profit, trips, decisions = float(equity[-1]), run.trips, counts["decisions"]
        funding = float(samples.sums[FUNDING].sum()) if FUNDING in run.parts else 0.0
        parts = metrics.attribution(fills, profit - funding)
        if FUNDING in run.parts:
            parts[FUNDING] = funding
        annual = metrics.annual_factor(self.interval)
        totals = {name: intervals.bootstrap(_total, [samples.sums[name]]) for name in ("profit", *run.parts)}
        sharpe = intervals.bootstrap_ratio(metrics.sharpe, [profits], self.interval)
        short = isinstance(totals["profit"], TooShort)  # then no figure may rest on how profits vary
        no_ratio = isinstance(sharpe, TooShort)

        def lasting(estimate: Estimate | float) -> Estimate | float:
            return TooShort(math.nan) if short else estimate

        mean_inventory = metrics.ratio(counts["absolute_position"], decisions)
        found: dict[str, float | Estimate] = {
            **{name: totals[name]._replace(value=value) for name, value in parts.items()},
            "profit": totals["profit"],
            "total_return": scaled(totals["profit"], 1 / capital),  # profit is not reinvested
            "sharpe": sharpe,
            "sharpe_annual": TooShort(math.nan) if no_ratio else scaled(sharpe, annual),
            "sortino": intervals.bootstrap_ratio(metrics.sortino, [profits], self.interval),
            "deflated_sharpe": (
                TooShort(math.nan) if no_ratio else metrics.deflated_sharpe(profits, self.tries)
            ),
            "max_drawdown": metrics.max_drawdown(equity),
            "max_drawdown_fraction": metrics.max_drawdown_fraction(equity, capital),
            "value_at_risk": lasting(intervals.bootstrap(metrics.value_at_risk, [profits])),
            "expected_shortfall": lasting(intervals.bootstrap(metrics.expected_shortfall, [profits])),
            "win_rate": share(intervals.bootstrap(metrics.win_rate, [trips.profits])),
            "trips": len(trips.profits),
            "trip_seconds": float(np.median(trips.seconds)) if len(trips.seconds) else math.nan,
            "fills": len(fills),
            "turnover": metrics.turnover(fills),
            "profit_bp": self._per_turnover(samples, "profit"),
            "captured_bp": self._per_turnover(samples, "spread_capture"),
            "fill_ratio": metrics.ratio(float(fills["lots"].sum()), counts["ordered_lots"]),
            "quoted_both": metrics.ratio(counts["quoted_both"], decisions),
            "no_bid": 1 - metrics.ratio(counts["quoted_bid"], decisions),
            "no_ask": 1 - metrics.ratio(counts["quoted_ask"], decisions),
            **{
                name: metrics.ratio(counts[name], counts["book"])
                for name in ("touch_bid", "touch_ask", "touch_both")
            },
            "mean_inventory": mean_inventory,
            "half_life": self._half_life(run),
            "profit_to_inventory": metrics.profit_to_inventory(profit, mean_inventory),
            "participation": metrics.ratio(float(fills["lots"].sum()), counts["market_lots"]),
            **{name: metrics.ratio(counts[name], decisions) for name in ("active", "reducing", "halted")},
        }
        as_estimates = {k: v if isinstance(v, Estimate) else Estimate(float(v)) for k, v in found.items()}
        return {name: as_estimates[name] for name in TITLES if name in as_estimates}

    def _per_turnover(self, samples: Samples, name: str) -> Estimate:
        """One of the sums per money traded, basis points."""
        pair = [samples.sums[name], samples.sums["turnover"]]
        return intervals.bootstrap(lambda a, b: metrics.basis_points(_total(a), _total(b)), pair)

    def gross_bp(self, run: Run) -> Estimate:
        """Profit before fees per money traded, basis points, of a run or a scenario."""
        samples = run.samples(self.interval)
        samples.sums["gross"] = samples.sums["profit"] + samples.sums["fees"]
        return self._per_turnover(samples, "gross")

    def _half_life(self, run: Run) -> float:
        """Half-life of the longest path's position, at the resolution of the equity table, seconds."""
        equity = run.equity
        longest = equity["path"].value_counts(sort=True).index[0]
        some = equity[equity["path"] == longest]
        seconds = float(np.median(np.diff(some["time_ns"]))) / SECOND if len(some) > 1 else 1.0
        return metrics.half_life(some["position_lots"].to_numpy(float), seconds)

    @property
    def tries(self) -> int:
        """Number of configurations looked at: those said, and at least the policies shown."""
        return max(int(self.settings["tries"]), len(self.runs))

    def difference(self, name: str) -> dict[str, Estimate]:
        """Compare policy `name` with the first on the same intervals: sums, Sharpe ratio, basis points."""
        ours, theirs = self.samples[name], self.samples[self.first.name]
        _, i, j = np.intersect1d(ours.times_ns, theirs.times_ns, return_indices=True)
        pairs = {part: [ours.sums[part][i], theirs.sums[part][j]] for part in self.first.sums}
        lead = pairs["profit"][0] - pairs["profit"][1]
        found = {
            "profit": intervals.bootstrap(_total, [lead]),
            "sharpe": intervals.bootstrap_ratio(
                lambda a, b: metrics.sharpe(a) - metrics.sharpe(b), pairs["profit"], self.interval, lead=lead
            ),
            "profit_bp": intervals.bootstrap(
                lambda a, b, c, d: (
                    metrics.basis_points(_total(a), _total(c)) - metrics.basis_points(_total(b), _total(d))
                ),
                [*pairs["profit"], *pairs["turnover"]],
                lead=lead,
            ),
        }
        for part in self.first.parts:
            found[part] = intervals.bootstrap(_total, [pairs[part][0] - pairs[part][1]])
        return found

    def markout_curve(self, run: Run, side: int | None = None, regime: str | None = None) -> list[Estimate]:
        """Mean mark-out, basis points weighted by money, at each of `horizons`; see `Run.markouts`."""
        return [self.markout(run, horizon, side, regime) for horizon in self.horizons]

    def markout(
        self, run: Run, horizon: float, side: int | None = None, regime: str | None = None
    ) -> Estimate:
        """Mean mark-out so many seconds after a fill, with an interval by blocks of time."""
        times, money, marks = run.markouts(horizon, side, regime)
        if not len(times):
            return Estimate(math.nan)
        cell = np.unique(interval_of(times, self.interval), return_inverse=True)[1]
        return intervals.bootstrap(
            lambda a, b: _total(a) / _total(b),
            [np.bincount(cell, w).astype(float) for w in (money * marks, money)],
        )

    def summary(self) -> dict[str, Any]:
        """Write all figures as JSON types: those of each policy, and its differences to the first one.

        In several currencies, a summary of each under `by_currency`.
        """
        if len(self.currencies) > 1:
            return {"by_currency": {part.currency: part.summary() for part in self.by_currency()}}
        return {
            "provenance": self.plan["provenance"],
            "sampling_seconds": self.interval,
            "currency": self.currency,
            "rates": [str(rate) for rate in self.rates],
            "capital": self.capital,
            "tries": self.tries,
            "decisions": {name: run.counts["decisions"] for name, run in self.runs.items()},
            "figures": {
                name: {figure: plain(estimate) for figure, estimate in figures.items()}
                for name, figures in self.figures.items()
            },
            "differences": {
                name: {figure: plain(e) for figure, e in self.difference(name).items()}
                for name in list(self.runs)[1:]
            },
        }


def exchange(unit: dict[str, Any], rates: Sequence[Rate]) -> None:
    """Bring a unit's totals into the currency that a rate leads to, in place; `rate` is what it is worth."""
    scale = unit["scale"]
    found = next((rate for rate in rates if rate.base == scale["currency"]), None)
    unit["rate"] = 1.0 if found is None else found.price
    if found is not None:
        scale["currency"] = found.quote
        unit["totals"] = {name: value * found.price for name, value in unit["totals"].items()}


def interval_of(ends_ns: np.ndarray, seconds: float) -> np.ndarray:
    """Number of the interval of `seconds` in which something ended, counted from 1970."""
    return (ends_ns - 1) // round(seconds * SECOND)


def _total(values: np.ndarray) -> Any:
    """Sum along the last axis."""
    return values.sum(axis=-1)


def plain(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as JSON types, which have no NaN."""
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}


def share(estimate: Estimate) -> Estimate:
    """An estimate of what lies between 0 and 1."""
    return estimate._replace(low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate in another unit."""
    return type(estimate)(*(factor * value for value in estimate))
