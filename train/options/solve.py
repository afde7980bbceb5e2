"""What `neuralmm solve` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Solve:
    """Print the exact values of the solvable markets at their defaults, or the ladder of values of `book`."""

    market: tyro.conf.Positional[str] = ""
    """`book`, one of its presets, or `book:PRESET`: the ladder of policies and an upper bound. `brownian` or
    `hidden-regime`: the exact optimum. `basket`: that of two assets, beside closed forms and each asset
    alone. By default the last three."""
    risk_aversion: float = 0.0
    """Of `brownian`: gamma of exponential utility; values are then certainty equivalents."""
    action: str = ""
    """`taker`, `size` or `ladder`; prints what it is worth beside spread and skew on `brownian`. On `book`:
    the ladder of values with that freedom."""
    taker_fee_bp: float = 0.0
    """Of market orders on `book`, basis points of notional."""
    paths: int = 1024
    """Of `book` and `basket`: episodes on which policies are compared."""
    bound_paths: int = 128
    """Of `book`: those on which the upper bound is computed; 0 leaves it out."""
    seed: int = 1_000_000_000
    """Of `book` and `basket`: seed of the first episode; by default those of `neuralmm evaluate`."""
    belief_resolution: int = 40
    """Intervals along each edge of the belief grid, a multiple of 4. Half as many are shown too."""
    average_nodes: int = 160
    """Nodes of the grid of the exponential average, a multiple of 4. Half as many are shown too."""
    cache: Path | None = None
    """Folder in which solutions are kept."""
