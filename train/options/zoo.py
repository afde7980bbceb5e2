"""What `neuralmm score` and the commands of `neuralmm zoo` are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

NAME = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(help="A task, such as brownian-v0: `neuralmm zoo list`.")
]


@dataclass(frozen=True)
class Score:
    """Score policies on a task, a frozen environment: percent of its optimum, or the place in its bracket."""

    policies: tyro.conf.Positional[tuple[str, ...]]
    """Folders or .zip of models, bundles (.mmz), registered names such as glft, module:name, or `baselines`:
    all that a task has."""
    task: str
    """A task: `neuralmm zoo list`."""
    out: Path | None = None
    """Folder that gets an entry for each policy, a JSON file; by default none is written."""


@dataclass(frozen=True)
class ZooList:
    """List the tasks, and the trained policy that comes with each."""


@dataclass(frozen=True)
class ZooPlay:
    """Let the trained policy of a task play: a table of what it earns, and two pictures."""

    task: NAME = "brownian-v0"
    policy: str | None = None
    """Another policy: a model, a bundle, a registered name."""
    episodes: int = 512
    """Episodes of the table."""
    out: Path = Path("zoo")
    """Folder of the pictures."""


@dataclass(frozen=True)
class ZooEvaluate:
    """Score the trained policies that come with the tasks."""

    tasks: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="By default all that have a policy.")
    ] = ()
    baselines: bool = False
    """Score all else that a task has as well: exact solutions, tuned rules, what is told the hidden state."""
    out: Path | None = None
    """Folder that gets an entry for each."""


@dataclass(frozen=True)
class ZooExport:
    """Copy the trained policy of a task to a file: for `neuralmm verify`, `backtest` and `paper`."""

    task: NAME
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("policy.mmz")


@dataclass(frozen=True)
class Leaderboard:
    """Make a page of the entries that `neuralmm score --out` wrote; each is checked."""

    entries: tyro.conf.Positional[tuple[Path, ...]]
    """Entries, or folders of them."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("leaderboard.md")
