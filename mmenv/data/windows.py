"""Market data as training sets: recorded features, lazy windows over them, and splits by time.

`record` runs a desk over a simulated market or over the tapes of a store and keeps what it observes, so the
features are those of the environment, byte for byte. A `Recording` is a folder of memory-mapped arrays; its
windows are strided views, and nothing is copied before a batch is taken. Labels (`mmenv.data.labels`) are
computed from it apart, and `split` keeps both windows and labels on their own side of every border in time.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mmenv.config import ConfigError, EnvConfig, make_config
from mmenv.desk import Desk
from mmenv.features import observation_names
from mmenv.market.replay import Measured, Multiples, Replay, ReplayFeed, Symbol, measure, open_venue
from mmenv.quote import to_action

if TYPE_CHECKING:
    from mmenv.venue.replay import ReplayVenue, Span

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
"""Columns kept beside the features, int32, half-ticks and lots as in `mmenv.kernel.CORE`: state at the
decision, and what happened since the one before (so the fate of a quote is in the next row)."""

VERSION = 1
BATCH = 64
"""Sequences that run side by side."""

Quote = Callable[[Array, int], Array]
"""Actions, float32 (n, 2), from observations, float32 (n, F), and the number of the decision."""


@dataclass(frozen=True)
class Recording:
    """Features and events of many sequences of decisions, row after row. Arrays are memory-mapped."""

    config: EnvConfig
    names: tuple[str, ...]
    """Of the features."""
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
        """Where these features stand, int64. Raises `ConfigError` for one that was not recorded."""
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


# --- Splits -------------------------------------------------------------------------------------------------


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
    longest label horizon as embargo. Raises `ConfigError` where a part is left empty.
    """
    if embargo < 0 or abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
        raise ConfigError(
            f"split: embargo = {embargo!r}, shares = {shares!r} are not possible: give an embargo of at "
            "least 0 and shares above 0 that sum to 1."
        )
    times = np.sort(recording.time_ns)
    ends = np.minimum(np.round(np.cumsum(shares) * len(times)).astype(np.int64), len(times))
    borders = [times[0], *(times[end] for end in ends[:-1]), times[-1] + 1]
    gap = round(embargo * recording.config.market.step_seconds * 1e9)
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


# --- Recording ----------------------------------------------------------------------------------------------


def at_distance(config: EnvConfig, distance: float) -> Quote:
    """Always quotes both sides at `distance` from the mid, price units (the touch, where that is farther)."""
    action = to_action(config.quote, *np.full((2, 1), distance))

    def quote(observations: Array, step: int) -> Array:
        return np.broadcast_to(action, (len(observations), 2))

    return quote


def record(
    config: EnvConfig,
    folder: Path,
    *,
    sequences: int | None = None,
    quote: Quote | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Recording:
    """Record `config.features` and `FIELDS` into `folder`, which must not exist, and open it.

    A simulated market gives `sequences` episodes seeded seed, seed + 1, ... A replayed one is gone through
    once from its beginning to its end (`sequences` at most), in stretches of `config.horizon` decisions;
    give it `split="all"` and divide the recording instead. `quote` makes the actions (default: both sides at
    distance 0, so at the touch). `progress(n)` is told of n finished sequences.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists; name a new folder, or remove it.")
    quote = quote or at_distance(config, 0.0)
    starts = _starts(config) if isinstance(config.market, Replay) else None
    count = len(starts) if starts is not None else 1 if sequences is None else sequences
    count = count if sequences is None else min(count, sequences)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        lengths = []
        with _Writer(temporary) as write:
            for begin in range(0, count, BATCH):
                end = min(begin + BATCH, count)
                made = _run(
                    config, quote, seed, begin, end, starts[begin:end] if starts is not None else None
                )
                for row in made:
                    write(*row)
                    lengths.append(len(row[0]))
                if progress:
                    progress(end - begin)
        meta = {
            "version": VERSION,
            "env": config.to_dict(),
            "names": observation_names(config),
            "fields": FIELDS,
            "lengths": lengths,
        }
        (temporary / "recording.json").write_text(json.dumps(meta))
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return open_recording(folder)


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


class _Writer:
    """Appends sequences to the files of a recording."""

    def __init__(self, folder: Path) -> None:
        self._files = [(folder / f"{name}.bin").open("wb") for name in ("features", "fields", "time_ns")]

    def __call__(self, features: Array, fields: Array, times: Array) -> None:
        for file, array in zip(self._files, (features, fields, times), strict=True):
            file.write(np.ascontiguousarray(array).data)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()


def _run(
    config: EnvConfig, quote: Quote, seed: int, begin: int, end: int, starts: list[tuple[Span, int]] | None
) -> list[tuple[Array, Array, Array]]:
    """Sequences begin ... end - 1: features (T, F), fields (T, len(FIELDS)) and times (T,) of each."""
    n, steps = end - begin, config.horizon
    interval = round(config.market.step_seconds * 1e9)
    market: Any = config.market
    if starts is not None:
        settings = {f.name: getattr(market, f.name) for f in dataclasses.fields(market)}
        market = _Stretches(**settings, starts=tuple(starts))
    desk = Desk(dataclasses.replace(config, market=market), n, autoreset=False)
    try:
        desk.seed(range(seed + begin, seed + end))
        features = np.empty((n, steps + 1, desk.width), np.float32)
        fields = np.empty((n, steps + 1, len(FIELDS)), np.int32)
        at: Array = np.arange(begin, end) * (steps + 1) * interval
        if starts is not None:
            at = np.array([local_ns for _, local_ns in starts])
        times = at[:, None] + np.arange(steps + 1) * interval
        length: Array = np.full(n, steps + 1)
        observations = desk.reset()
        for t in range(steps + 1):
            if t > 0:
                out = desk.step(np.ascontiguousarray(quote(observations, t - 1), np.float32))
                observations = out.observations
                length = np.where(out.truncated & (length > t), t + 1, length)
            features[:, t] = observations
            for k, name in enumerate(FIELDS):
                fields[:, t, k] = desk.get(name)
    finally:
        desk.close()
    return [(features[i, :k], fields[i, :k], times[i, :k]) for i, k in enumerate(length)]


@dataclass(frozen=True, kw_only=True)
class _Stretches(Replay):
    """Tapes replayed from given places in place of random ones."""

    starts: tuple[tuple[Span, int], ...] = ()

    @property
    def measured(self) -> Measured:
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(Replay)}
        return measure(Replay(**settings))

    def attach(self, config: EnvConfig, n: int) -> _StretchFeed:
        return _StretchFeed(_venue(self, config, n), self.measured.multiples, self.starts)


class _StretchFeed(ReplayFeed):
    def __init__(
        self,
        venue: ReplayVenue,
        multiples: Mapping[Symbol, Multiples],
        starts: tuple[tuple[Span, int], ...],
    ) -> None:
        super().__init__(venue, multiples)
        self._starts = starts

    def reset(self, desk: Desk, lanes: Array) -> None:
        for lane in map(int, np.flatnonzero(lanes)):
            self.begin(desk, lane, self.venue.start(lane, *self._starts[lane]))


def _venue(market: Replay, config: EnvConfig, n: int) -> ReplayVenue:
    # How long a stretch is, is ours to say: the venue's own limit would leave out the end of each tape.
    return open_venue(market, market.split, 1, config.risk.position_limit, n)


def _starts(config: EnvConfig) -> list[tuple[Span, int]]:
    """Where the stretches of `config.horizon` decisions begin that cover the tapes, in order of time."""
    assert isinstance(config.market, Replay)
    venue = _venue(config.market, config, 1)
    stretch = round(config.horizon * config.market.step_seconds * 1e9)
    places = [(span, at) for span in venue.spans for at in range(span.first_ns, span.last_ns + 1, stretch)]
    venue.close()
    return sorted(places, key=lambda place: place[1])
