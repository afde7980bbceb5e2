"""What `neuralmm facts` and `neuralmm calibrate` are given, without any library, for quick help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

MARKET_HELP = (
    "a market by name (`neuralmm list markets`), MARKET:PRESET, module:name, JSON with `name` and "
    "parameters, or FILE.json:NAME of `neuralmm calibrate`"
)
"""How a simulated market is named on a command line."""


@dataclass(frozen=True)
class Facts:
    """Measure the stylised facts of markets, simulated and recorded, side by side."""

    sources: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="SOURCE...",
            help=f"Each a store, a tape.parquet, or {MARKET_HELP}.",
            help_behavior_hint="(one or more, required)",
        ),
    ]
    seconds: float = 1800.0
    """Length of each simulated path."""
    environments: int = 32
    """Number of simulated paths."""
    seed: int = 0
    """Path i has seed `seed` + i."""
    step_seconds: float = 0.1
    """Time between two decisions on a tape."""
    venue: str = "*"
    """Which venues of a store, as a glob pattern."""
    symbol: str = "*"
    """Which symbols of a store, as a glob pattern."""
    split: str = "all"
    """Part of the recorded time: train, validation, test or all."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of the recorded time for train, validation and test."""
    queue: str = "risk-adverse"
    """How cancels ahead of us move us up the queue of a tape; fifo: our exact place, where single orders were
    recorded. See docs/data.md."""
    lot: float = 1.0
    """Lots of the tapes in a lot of the simulated markets; 100 for `nasdaq-msft` beside a tape in shares."""
    repeats: int = 1
    """Above 1: simulate every market so often, with other seeds, and count the verdicts on each fact."""
    wide: bool = False
    """Print each table in one piece, however wide the terminal is."""
    output: Path | None = None
    """Where to draw the plots (.png, .pdf or .svg); none without it."""


@dataclass(frozen=True)
class Calibrate:
    """Measure markets and write them down as presets that gym.make takes."""

    source: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help=f"A store, a tape.parquet, or to check the method on: {MARKET_HELP}."),
    ]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("calibration.json")
    """Where the presets go. The page of plots lies beside it."""
    venue: str = "*"
    """Which venue of a store, as a pattern."""
    symbol: str = "*"
    """Which symbol of a store, as a pattern; exactly one must match. All its days are measured."""
    step_seconds: float = 0.1
    """Time between two decisions on a tape."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of the recorded time for train, validation and test."""
    split: str = "train"
    """Part of the recorded time that is measured: train, validation, test or all."""
    queue: str = "risk-adverse"
    """As of `neuralmm facts`."""
    evaluations: int = 400
    """Simulations that the search for a large-tick book may spend, about a second each."""
    seconds: float = 600.0
    """Length of each simulated path."""
    environments: int = 16
    """Number of simulated paths."""
    seed: int = 0
    """Path i has seed `seed` + i."""
