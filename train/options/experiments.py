"""What the commands that train many policies are given: `study`, `population`, `sweep`, `members`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from mmenv.checks import ConfigError, require_number

FILES = Path(__file__).parents[1] / "experiments"
"""Folder of the studies and populations that come with the package."""


@dataclass(frozen=True)
class Study:
    """Train several seeds of several configurations and compare them."""

    kind: ClassVar[str] = "study"
    known: ClassVar[Path] = FILES / "studies"
    tables: ClassVar[tuple[str, ...]] = ("base", "variants")
    """What its file may hold."""

    name: tyro.conf.Positional[str]
    """A TOML file, or the name of one in train/experiments/studies."""
    seeds: int = 5
    jobs: int = 1
    """Runs at the same time. Wall times are those of a machine shared by so many."""
    ray: str | None = None
    """Run on a Ray cluster: its address, "auto" for the one running here, "local" to start one for this."""
    threads: int = 1
    """CPU threads of each run's update."""
    steps: int | None = None
    """Steps of each run, instead of what the study says."""
    episodes: int = 4096
    """Episodes of the evaluation of each trained policy, on paths that no run has seen."""
    wide: bool = False
    """Print each table in one piece, however wide the terminal is."""
    logs: Path = Path("logs/studies")

    @property
    def file(self) -> Path:
        """The file that describes it; raises `ConfigError` where there is none."""
        path = Path(self.name)
        path = path if path.suffix == ".toml" else self.known / f"{self.name}.toml"
        if not path.exists():
            known = ", ".join(sorted(file.stem for file in self.known.glob("*.toml")))
            raise ConfigError(f"{self.kind} {self.name!r}: there is no {path}. Known: {known}.")
        return path

    @property
    def folder(self) -> Path:
        return self.logs / self.file.stem


@dataclass(frozen=True)
class Population(Study):
    """Train policies on families of markets and keep the best by members that none was trained on."""

    kind: ClassVar[str] = "population"
    known: ClassVar[Path] = FILES / "populations"
    tables: ClassVar[tuple[str, ...]] = (*Study.tables, "members")

    name: tyro.conf.Positional[str]
    """A TOML file, or the name of one in train/experiments/populations."""
    seeds: int = 3
    episodes: int = 4096
    """Episodes of each policy on each member."""
    logs: Path = Path("logs/populations")


@dataclass(frozen=True)
class Sweep:
    """Search settings and rewards: Optuna, pruning by paired evaluation, one process or Ray task a trial."""

    config: tyro.conf.Positional[Path]
    """A TOML file with [base] and [search], see docs/scale.md."""
    trials: int = 40
    window: int = 8
    """Trials in flight; how many of them run at a time (--jobs, --ray) changes no result."""
    prune: bool = True
    warm: float = 0.2
    """Share of the steps before which no trial is pruned."""
    finalists: int = 3
    """The best so many are judged again, on paths that no trial has seen; the best of those wins."""
    episodes: int = 4096
    """Episodes of that last judgement."""
    seed: int = 0
    """Seed of the search; that of training is in the file."""
    jobs: int | None = None
    """Trials at the same time; by default one for each processor."""
    ray: str | None = None
    """Run on a Ray cluster: its address, "auto" for the one running here, "local" to start one for this."""
    wide: bool = False
    """Print the table in one piece, however wide the terminal is."""
    logs: Path = Path("logs/sweeps")

    @cached_property
    def folder(self) -> Path:
        """Where the sweep is kept."""
        return self.logs / self.config.stem


@dataclass(frozen=True)
class Members:
    """Print what saved models earn on members of a family of markets, held-out ones too."""

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="MODEL...", help_behavior_hint="(one or more, required)"),
    ]
    """Saved models (.zip, of Stable-Baselines3 too), folders of runs, bundles (.mmz), names of policies or
    module:name, all of one market; the first one is compared with."""
    members: tuple[str, ...]
    """Each the parameters of a member, such as volatility=2 or tilt=0.15,maker_fee_bp=0.5."""
    market: str | None = None
    """Market of policies that do not say which they were made for, where no other one here does."""
    episodes: int = 1024
    """Episodes of each model on each member."""
    wide: bool = False
    """Print the table in one piece, however wide the terminal is."""
    out: Path | None = None
    """Folder for members.md and members.csv; by default none."""


@dataclass(frozen=True)
class TapeStudy:
    """Calibrate to a tape's training part, train in the calibrated market, and play the rest of the tape.

    Policy, rules, GLFT and no-trade, paired on blocks of tape time, under every latency and queue model.
    Every part is kept: the same command goes on where it ended.
    """

    store: tyro.conf.Positional[Path]
    """Folder that `neuralmm import` wrote."""
    venue: str = "*"
    symbol: str = "*"
    """Which symbol of the store, as a pattern; exactly one must match."""
    step: float = 0.1
    """Time between two decisions, seconds."""
    session: float = 300.0
    """Time after which a policy starts anew, seconds."""
    maker_fee_bp: float | None = None
    """Maker fee, basis points, negative for a rebate; by default that of the tape."""
    evaluations: int = 400
    """Simulations that the calibration of a large-tick market may spend, about a second each."""
    family: float = 0.2
    """Every parameter of the training markets differs from the calibrated one by up to this part; 0 trains in
    the calibrated market alone."""
    lessons: int = 600
    """Episodes that teach the forecast of the efficient price which the policy observes; 0: without one."""
    minutes: float = 10.0
    """Time to train for where `steps` does not say how far."""
    steps: int | None = None
    """Decisions to train for."""
    seed: int = 0
    latencies_ms: tuple[float, ...] = (0.1, 1.0, 10.0)
    queues: tuple[str, ...] = ("risk-adverse", "power-prob")
    """Latencies of orders and queue models of the test; the first of each is that of the tear sheet."""
    threads: int = 1
    """CPU threads of the update."""
    wide: bool = False
    """Print the table in one piece, however wide the terminal is."""
    logs: Path = Path("logs/tape")

    def __post_init__(self) -> None:
        require_number(self, "step", 1e-3, 3600.0)
        require_number(self, "session", self.step, 86_400.0)
        require_number(self, "family", 0.0, 0.9)
