"""What `neuralmm reproduce` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Reproduce:
    """Run again what made a result, and compare."""

    result: tyro.conf.Positional[Path]
    """Folder of a run, study, sweep, population or backtest, or a file in one."""
    out: Path | None = None
    """Keep what was made again here; by default it is deleted."""
