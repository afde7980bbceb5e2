"""Making a recording: a desk runs over a simulated market, or over tapes, and what it observes is kept.

The features are those of the environment, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.market.replay import Replay, spans_of
from mmenv.market.stretch import Stretches, settings_of
from mmenv.observation import observation_names
from mmenv.recording.windows import FIELDS, VERSION, Array, Recording, open_recording
from mmenv.times import SECOND
from mmenv.venue.replay import Span

BATCH = 64
"""Sequences that run side by side."""

Quote = Callable[[Array, int], Array]
"""Actions, float32 (n, 2), from observations, float32 (n, F), and the number of the decision."""

Place = tuple[Span, int]
"""Where a stretch of a tape begins: the span, and the local time in it, nanoseconds."""


def at_distance(config: EnvConfig, distance: float) -> Quote:
    """Always quotes both sides at `distance` from the mid, price units (the touch, where that is farther)."""
    action = config.quote.to_action(*np.full((2, 1), distance))

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

    Raises
    ------
    ConfigError
        There is something at `folder`.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists; name a new folder, or remove it.")
    quote = quote or at_distance(config, 0.0)
    places = _places(config) if isinstance(config.market, Replay) else None
    count = len(places) if places is not None else 1 if sequences is None else sequences
    count = count if sequences is None else min(count, sequences)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        lengths = []
        with _Writer(temporary) as write:
            for begin in range(0, count, BATCH):
                end = min(begin + BATCH, count)
                some = places[begin:end] if places is not None else None
                for row in _run(config, quote, seed, begin, end, some):
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
    config: EnvConfig,
    quote: Quote,
    seed: int,
    begin: int,
    end: int,
    places: tuple[Place, ...] | None,
) -> list[tuple[Array, Array, Array]]:
    """Sequences begin ... end - 1: features (T, F), fields (T, len(FIELDS)) and times (T,) of each."""
    n, steps = end - begin, config.horizon
    market = config.market
    if places is not None:
        assert isinstance(market, Replay)
        market = Stretches(**settings_of(market), places=places)
    desk = Desk(dataclasses.replace(config, market=market), n, autoreset=False)
    try:
        desk.seed(range(seed + begin, seed + end))
        features = np.empty((n, steps + 1, desk.width), np.float32)
        fields = np.empty((n, steps + 1, len(FIELDS)), np.int32)
        at: Array = np.arange(begin, end) * (steps + 1) * market.step_ns
        if places is not None:
            at = np.array([local_ns for _, local_ns in places])
        times = at[:, None] + np.arange(steps + 1) * market.step_ns
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


def _places(config: EnvConfig) -> tuple[Place, ...]:
    """Where the stretches of `config.horizon` decisions begin that cover the tapes, in order of time."""
    assert isinstance(config.market, Replay)
    stretch_ns = round(config.horizon * config.market.step_seconds * SECOND)
    _, spans = spans_of(config.market)
    found = [(span, at) for span in spans for at in range(span.first_ns, span.last_ns + 1, stretch_ns)]
    return tuple(sorted(found, key=lambda place: place[1]))
