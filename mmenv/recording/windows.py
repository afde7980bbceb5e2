"""Market data as training sets: recorded features, lazy windows over them, and splits by time.

A `Recording` is a folder of memory-mapped arrays that `mmenv.recording.record` makes. Its windows are strided
views, and nothing is copied before a batch is taken. Labels (`mmenv.recording.labels`) are computed from it
apart, and `split` keeps both windows and labels on their own side of every border in time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.times import SECOND

Array = np.ndarray

FIELDS = (
    "mid",
    "spread",
    "buy_lots",
    "sell_lots",
    "ask_fill",
    "bid_fill",
    "ask_edge",
    "bid_edge",
    "ask_distance",
    "bid_distance",
    "position",
)
"""Columns kept beside the features, int32, half-ticks and lots as in `mmenv.engine.state.CORE`: state at the
decision, and what happened since the one before (so the fate of a quote is in the next row)."""

VERSION = 1
"""What a recording has to say to be read by this program."""


@dataclass(frozen=True)
class Recording:
    """Features and events of many sequences of decisions, row after row. Arrays are memory-mapped."""

    config: EnvConfig
    names: tuple[str, ...]
    """What the features are called."""
    features: Array
    """float32 (R, F): what is observed at each decision."""
    fields: Array
    """int32 (len(FIELDS), R)."""
    time_ns: Array
    """int64 (R,): simulated sequences follow each other."""
    first: Array
    """int64 (S + 1,): first row of each sequence, and R."""

    def __len__(self) -> int:
        return len(self.features)

    def field(self, name: str) -> Array:
        """One of `FIELDS`, int32 (R,)."""
        return self.fields[FIELDS.index(name)]

    def columns(self, names: tuple[str, ...]) -> Array:
        """Where these features stand, int64.

        Raises
        ------
        ConfigError
            One of them was not recorded.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ConfigError(f"the recording has no feature {missing[0]!r}: it has {', '.join(self.names)}.")
        return np.array([self.names.index(name) for name in names])

    def windows(self, length: int) -> Array:
        """Every stretch of `length` rows, float32 (R - length + 1, length, F): a view, nothing is copied.

        Window i ends in row i + length - 1. Those that cross from one sequence to the next are among them:
        take the rows that `Part.rows` gives.
        """
        return sliding_window_view(self.features, length, axis=0).swapaxes(1, 2)

    def batches(
        self, rows: Array, length: int, size: int, generator: np.random.Generator | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """Rows, (at most size,), and the windows that end in them, float32 (..., length, F), copied.

        In the order of `rows`, or shuffled by `generator`.
        """
        windows = self.windows(length)
        order = rows if generator is None else generator.permutation(rows)
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            yield chosen, windows[chosen - (length - 1)]


def open_recording(folder: Path) -> Recording:
    """The recording in `folder`, memory-mapped."""
    path = Path(folder) / "recording.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} is no recording: it has no recording.json.")
    meta = json.loads(path.read_text())
    if meta["version"] != VERSION or tuple(meta["fields"]) != FIELDS:
        raise ConfigError(f"{folder} was recorded by another version of NeuralMM: record it again.")
    first = np.concatenate([[0], np.cumsum(meta["lengths"])]).astype(np.int64)
    names, rows = tuple(meta["names"]), int(first[-1])

    def mapped(name: str, kind: type, shape: tuple[int, ...]) -> Array:
        return np.memmap(Path(folder) / f"{name}.bin", kind, "r", shape=shape)

    return Recording(
        config=make_config(**meta["env"]),
        names=names,
        features=mapped("features", np.float32, (rows, len(names))),
        # One row after the other on disk: a column is a strided view.
        fields=mapped("fields", np.int32, (rows, len(FIELDS))).T,
        time_ns=mapped("time_ns", np.int64, (rows,)),
        first=first,
    )


@dataclass(frozen=True)
class Part:
    """Rows of one part of a split: stretches [begin, end), int64 (m, 2), none across two sequences."""

    stretches: Array

    def rows(self, horizon: int, window: int = 1) -> Array:
        """Rows whose window of `window` rows and whose label of `horizon` rows ahead lie in the part, (k,).

        What falls away at the end of each stretch is the purge (Lopez de Prado 2018, chapter 7).
        """
        ranges = [np.arange(begin + window - 1, end - horizon) for begin, end in self.stretches]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)


def split(
    recording: Recording, embargo: int, shares: tuple[float, ...] = (0.6, 0.2, 0.2)
) -> tuple[Part, ...]:
    """Training, validation and test part by time, with a gap of `embargo` decisions before each later one.

    The borders are times, the same for all sequences: tapes recorded at the same time share them. Give the
    longest label horizon as embargo.

    Raises
    ------
    ConfigError
        The shares or the embargo are impossible, or a part is left empty.
    """
    if embargo < 0 or abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
        raise ConfigError(
            f"split: embargo = {embargo!r}, shares = {shares!r} are not possible: give an embargo of at "
            "least 0 and shares above 0 that sum to 1."
        )
    times = np.sort(recording.time_ns)
    ends = np.minimum(np.round(np.cumsum(shares) * len(times)).astype(np.int64), len(times))
    borders = [times[0], *(times[end] for end in ends[:-1]), times[-1] + 1]
    gap = round(embargo * recording.config.market.step_seconds * SECOND)
    parts = []
    for k, (low, high) in enumerate(itertools.pairwise(borders)):
        stretches = []
        for begin, end in itertools.pairwise(recording.first):
            inside = begin + np.searchsorted(recording.time_ns[begin:end], [low + (gap if k else 0), high])
            if inside[1] > inside[0]:
                stretches.append(inside)
        if not stretches:
            raise ConfigError(f"split: part {k} is empty; record more, or shorten the embargo ({embargo}).")
        parts.append(Part(np.array(stretches, np.int64)))
    return tuple(parts)
