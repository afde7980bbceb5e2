"""What the commands about policy bundles are given: `neuralmm export` and `neuralmm verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Export:
    """Write a trained model as one file that runs without torch."""

    model: tyro.conf.Positional[Path]
    """A saved model (.zip), or the folder of a run (its best model)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("policy.mmz")
    """The bundle."""
    format: Literal["float32", "float16", "int8", "onnx"] = "float32"
    """Format of the weights; onnx: float32 with an ONNX model beside them. int8 is calibrated on episodes of
    the market."""
    episodes: int = 4096
    """Episodes of the evaluation that the bundle carries; 0: none."""


@dataclass(frozen=True)
class Verify:
    """Compare a bundle with what it was made from, action by action and quote by quote."""

    bundle: tyro.conf.Positional[Path]
    against: Path | None = None
    """The model it was exported from, or another bundle; by default the actions recorded at export."""
    store: Path | None = None
    """Store of recorded tapes (`neuralmm import`) to compare on, with `--against`; by default the market that
    it was made on."""
    venue: str = "*"
    symbol: str = "*"
    day: str = "*"
    """Which tapes of the store: names or patterns."""
    fees: float | None = None
    """Maker fee on tapes, basis points, negative for a rebate; by default each tape's own."""
    episodes: int = 16
    """Episodes whose actions are compared, with `--against`."""
    value_episodes: int = 4096
    """Episodes of the comparison of values, with `--against`; 0: none."""
    engine: Literal["numba", "onnx"] = "numba"
