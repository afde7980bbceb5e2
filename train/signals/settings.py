"""What the commands of `neuralmm signals` are given, and the folder of a run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mmenv.checks import ConfigError
from mmenv.files import replacing


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a signal and print what it is worth beside simpler forecasts."""

    name: tyro.conf.Positional[
        Literal["order-flow", "fair-value", "adverse-selection", "multi-task", "cross-asset", "risk"]
    ]
    """The signal."""
    data: str = "hidden-regime"
    """A registered market or FILE.json:NAME of a calibration, the folder of a store of recorded tapes, or the
    folder of a recording."""
    set: tuple[str, ...] = ()
    """Environment settings as name=value, such as market.preset=binance-usdm-eth or horizon=1000."""
    symbol: str = "*"
    """Which symbols of a store."""
    sequences: int = 1500
    """Episodes to record of a simulated market."""
    distance: float | None = None
    """Distance of the recorded quotes, price units; by default 1 without a book, else at the touch."""
    horizons: tuple[float, ...] = ()
    """Horizons of the labels, seconds; by default those of the signal."""
    quantile: float = 2.33
    """Risk: the loss that counts, in standard deviations of the usual move over the horizon."""
    epochs: int = 8
    rows: int | None = None
    """Rows of a batch; by default 2,048, or 4,800 (16 sequences of 300) for a network with memory."""
    learning_rate: float = 3e-3
    """Learning rate at the start; it falls linearly to 0."""
    dropout: float = 0.1
    lstm: tuple[int, ...] = ()
    """Units of the recurrent layers of multi-task and cross-asset, in place of their own."""
    shared: bool = False
    """Cross-asset: one set of recurrent weights for all assets."""
    seed: int = 0
    device: str = "auto"
    logs: Path = Path("logs/signals")
    recordings: Path = Path("logs/recordings")
    """Recorded data are kept here and used again."""
    run: str | None = None
    """Folder of the run under `logs`; by default name, data and number."""
    resume: Path | None = None
    """Folder of an interrupted run to continue; all other settings then come from there."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Print what a saved signal is worth on the test part of some data."""

    signal: tyro.conf.Positional[Path]
    """A .mms file."""
    data: str | None = None
    """Data as in training; by default those it was trained on. On a simulated market all paths are new."""
    set: tuple[str, ...] = ()
    symbol: str = "*"
    sequences: int = 500
    seed: int = 1_000_000_000
    recordings: Path = Path("logs/recordings")


@dataclass(frozen=True, kw_only=True)
class List:
    """List the saved signals."""

    logs: tyro.conf.Positional[Path] = Path("logs/signals")


Chosen = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[List, tyro.conf.subcommand("list")]
)
"""What `neuralmm signals` is given."""


def plain_settings(options: Train) -> dict[str, Any]:
    """Settings as JSON; folders by their names alone."""
    plain = dataclasses.asdict(options)
    plain["data"] = Path(options.data).name if Path(options.data).is_dir() else options.data
    return {
        name: value for name, value in plain.items() if name not in ("logs", "recordings", "resume", "run")
    }


def new_folder(options: Train) -> Path:
    """The folder of a new run; it must not exist yet."""
    if options.run is not None:
        folder = options.logs / options.run
        if folder.exists():
            raise ConfigError(f"--run {options.run!r}: {folder} exists; choose another, or --resume it.")
        return folder
    number, stem = 1, f"{options.name}-{Path(options.data).name}"
    while (folder := options.logs / f"{stem}_{number}").exists():
        number += 1
    return folder


def write_settings(folder: Path, options: Train) -> None:
    """Write `settings.json` of the run: everything needed to continue it."""
    folder.mkdir(parents=True)
    with replacing(folder / "settings.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(options), default=str, indent=1))


def read_settings(folder: Path) -> Train:
    """The settings of an interrupted run."""
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"--resume {folder}: there is no {path.name}; name the folder of a run.")
    plain = json.loads(path.read_text())
    for name in ("set", "horizons", "lstm"):
        plain[name] = tuple(plain[name])
    for name in ("logs", "recordings"):
        plain[name] = Path(plain[name])
    return Train(**{**plain, "resume": None})
