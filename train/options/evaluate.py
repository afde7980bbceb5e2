"""What `neuralmm evaluate` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Evaluate:
    """Print the table of a policy, the optimum and the baselines, all on the same market paths."""

    model: tyro.conf.Positional[Path]
    """A saved model (.zip), the folder of a run (its best model), a bundle (.mmz), or, with --market, any
    other model of Stable-Baselines3 (its zip), the name of a policy such as glft:gamma=0.1, or glft, which is
    then tuned (`neuralmm list policies`), or module:name."""
    market: str | None = None
    """Market of a policy that does not bring its own, as a model of `neuralmm train` and a bundle do."""
    episodes: int = 4096
    """Simulated episodes."""
    store: Path | None = None
    """Store of recorded tapes (`neuralmm import`): the same policies on its test split."""
    venue: str = "*"
    symbol: str = "*"
    day: str = "*"
    """Which tapes of the store: names or patterns. Each symbol has a table of its own."""
    fees: float | None = None
    """Maker fee on tapes, basis points, negative for a rebate; by default each tape's own."""
    step: float | None = None
    """Time between two decisions on tapes, seconds; by default that of the market the policy is from."""
    tape_episodes: int = 64
    """Recorded episodes."""
    calibration: Path | None = None
    """What `neuralmm calibrate` wrote of this symbol: analytic policies on tapes are fed from it."""
    baselines: bool = True
    """Compare with optimum and baselines."""
    wide: bool = False
    """Print each table in one piece, however wide the terminal is."""
    out: Path | None = None
    """Folder for evaluation.md and evaluation.csv; by default a run's own, and none for other policies."""
