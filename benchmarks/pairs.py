"""Every pair of policies of a backtest, compared: `python -m benchmarks.pairs FOLDER...`

Differences on the same intervals of time, with the 95% interval by blocks of them, of the profit and of what
is left of it without the carry: what the mid does while a position is held has a mean near zero and hides
all else in half an hour. A pair is decided where its interval leaves out 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from mmenv.backtest import Result
from mmenv.measure.intervals import Array, bootstrap
from mmenv.report.words import show
from mmenv.sheet import Sheet


@dataclass(frozen=True)
class Options:
    """Compare the policies of each backtest in pairs."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    unit: float = 1.0
    """Money in what is printed, such as half a tick times the size of a lot."""
    seconds: float = 300.0
    """Money is that of so much time."""


def main(options: Options) -> None:
    """Print a table for each backtest."""
    for folder in options.folders:
        rows = list(compared(Result(folder), options))
        legend = (
            f"Money in {options.unit:g}, in {options.seconds:g} s. *: decided, the interval leaves out 0.",
        )
        Sheet.of_rows(str(folder), ("", "profit", "without carry"), rows, legend=legend).print(Console())


def compared(result: Result, options: Options) -> Iterator[tuple[str, str, str]]:
    """A row for each policy, numbered, and one for each pair: the first less the second."""
    scale = options.seconds / (result.interval * options.unit)
    series: list[tuple[Array, Array]] = []
    for number, (name, samples) in enumerate(result.samples.items(), 1):
        profit = scale * samples.sums["profit"]
        series.append((profit, profit - scale * samples.sums["carry"]))
        yield f"{number}: {name}", *map(shown, series[-1])
    for (i, first), (j, second) in itertools.combinations(enumerate(series, 1), 2):
        yield f"{i} - {j}", *(shown(a - b) for a, b in zip(first, second, strict=True))


def shown(values: Array) -> str:
    """Mean of values in consecutive intervals, (n,), with its 95% interval."""
    found = bootstrap(lambda x: np.mean(x, axis=-1), [values])
    return show(found, "") + ("*" if found.low > 0 or found.high < 0 else "")


if __name__ == "__main__":
    main(tyro.cli(Options))
