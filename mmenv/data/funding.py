"""Rates of funding of perpetual contracts, read from a file as venues and vendors give them.

A CSV with a header, whose columns are known by their names:

| what | Binance's archive | Binance's API | Tardis `derivative_ticker` |
|---|---|---|---|
| when it is paid | `calc_time` | `fundingTime` | `funding_timestamp` |
| part of the notional that longs pay shorts | `last_funding_rate` | `fundingRate` | `funding_rate` |
| price that the notional is counted at, if there | | `markPrice` | `mark_price` |
| symbol, if there are several | | `symbol` | `symbol` |

`time`, `rate`, `mark` and `symbol` do, too. Times are ISO text (UTC), or whole numbers of milliseconds,
microseconds or nanoseconds since 1970. Of a feed that tells the next payment again and again, as Tardis's,
the last word before it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from mmenv.checks import ConfigError

TIME: Final = ("funding_timestamp", "calc_time", "fundingTime", "funding_time", "time")
RATE: Final = ("last_funding_rate", "fundingRate", "funding_rate", "rate")
MARK: Final = ("markPrice", "mark_price", "mark")
TOLD: Final = ("local_timestamp", "timestamp")
"""When a row of a feed was told."""
LARGEST_RATE: Final = 0.5
"""A payment of more than this part of the notional is none: the file means percents, or something else."""
UNITS: Final = ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000))
"""Whole numbers from the first on are in units of so many nanoseconds."""


@dataclass(frozen=True)
class FundingRates:
    """Payments of one symbol, oldest first: times, rates, and prices that they are counted at (or NaN)."""

    times_ns: np.ndarray
    rates: np.ndarray
    marks: np.ndarray


def read_funding(path: Path, symbol: str) -> FundingRates:
    """Read the payments of a symbol.

    Raises `ConfigError` where the file cannot be read, a column is missing, a time or rate makes no sense,
    or none is of the symbol.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"funding = {str(path)!r} cannot be read as CSV: {error}") from None
    times, rates = (_column(table, names, path) for names in (TIME, RATE))
    if "symbol" in table:
        table = table[table["symbol"].astype(str) == symbol]
        if not len(table):
            raise ConfigError(f"funding = {str(path)!r} has no row of symbol {symbol!r}.")
    table = table[table[times].notna() & table[rates].notna()]
    if told := next((name for name in TOLD if name in table), None):
        table = table.sort_values(told, kind="stable").drop_duplicates(times, keep="last")
    found = pd.DataFrame({"at": _nanoseconds(table[times], path), "rate": table[rates]})
    mark = next((name for name in MARK if name in table), None)
    found["mark"] = np.nan if mark is None else table[mark]
    found = found.sort_values("at", kind="stable")
    if found["at"].duplicated().any():
        raise ConfigError(f"funding = {str(path)!r} has two payments at one time; give one symbol's.")
    values = found["rate"].to_numpy(float)
    if not (np.abs(values) <= LARGEST_RATE).all():
        raise ConfigError(
            f"funding = {str(path)!r} has a rate of {values[np.abs(values).argmax()]:g}: it must be a part "
            f"of the notional, at most {LARGEST_RATE:g}."
        )
    return FundingRates(found["at"].to_numpy(np.int64), values, found["mark"].to_numpy(float))


def _column(table: pd.DataFrame, names: tuple[str, ...], path: Path) -> str:
    found = next((name for name in names if name in table), None)
    if found is None:
        there = ", ".join(map(str, table.columns))
        raise ConfigError(f"funding = {str(path)!r} has no column {' or '.join(names)}; it has {there}.")
    return found


def _nanoseconds(times: pd.Series, path: Path) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(times):
        whole = times.to_numpy(np.int64)
        smallest = float(whole.min(initial=np.iinfo(np.int64).max))
        unit = next((unit for least, unit in UNITS if smallest >= least), None)
        if unit is None:
            raise ConfigError(f"funding = {str(path)!r} has a time {int(smallest)}, which is before 1975.")
        return whole * unit
    try:
        found = pd.to_datetime(times, utc=True, format="ISO8601").astype("datetime64[ns, UTC]")
    except (ValueError, TypeError) as error:
        raise ConfigError(f"funding = {str(path)!r} has a time that cannot be read: {error}") from None
    return found.astype(np.int64).to_numpy()
