"""The data of a signal: a recording of a market or a store, and batches of its parts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig
from mmenv.market.base import MARKETS
from mmenv.market.replay import Replay
from mmenv.progress import progress_bar
from mmenv.recording.record import at_distance, record
from mmenv.recording.windows import Part, Recording, open_recording
from train.settings import Settings as PolicySettings
from train.settings import env_config, kind
from train.signals.settings import Evaluate, Train
from train.signals.tasks import Labels, Task, recording_config

Array = np.ndarray

WITHOUT_BOOK = ("brownian", "hidden-regime", "correlated")


def data_config(data: str, settings: tuple[str, ...], symbol: str, task: Task) -> EnvConfig:
    """The configuration under which `data`, a market or a store, is recorded."""
    if kind(data) in MARKETS and kind(data) != Replay.name:
        config = env_config(PolicySettings(market=data, set=settings))
    elif Path(data).is_dir():
        # Without fees, which no label knows, tapes of venues with different ones go together.
        own = ('market.split="all"', "horizon=3000", "maker_fee_bp=0")
        given = (f"market.symbol={json.dumps(symbol)}", *own, *settings)
        config = env_config(PolicySettings(market=Replay.name, store=Path(data), set=given))
    else:
        known = ", ".join(name for name in MARKETS if name != Replay.name)
        raise ConfigError(f"--data = {data!r} is not possible: it must be a folder, or one of {known}.")
    return recording_config(config, task)


def get_recording(options: Train | Evaluate, data: str, task: Task, distance: float | None) -> Recording:
    """The recording in a folder, or one made of a market or store, which is kept for the next time."""
    if (Path(data) / "recording.json").exists():
        return open_recording(Path(data))
    config = data_config(data, options.set, options.symbol, task)
    away = distance if distance is not None else (1.0 if config.market.name in WITHOUT_BOOK else 0.0)
    made = (json.dumps(config.to_dict(), sort_keys=True), options.sequences, options.seed, away)
    key = hashlib.sha256(repr(made).encode()).hexdigest()[:12]
    folder = options.recordings / f"{config.market.name}-{key}"
    if folder.exists():
        return open_recording(folder)
    tape = isinstance(config.market, Replay)
    with progress_bar(desc="recording", unit=" sequences", total=None if tape else options.sequences) as bar:
        return record(
            config,
            folder,
            sequences=None if tape else options.sequences,
            quote=at_distance(config, away),
            seed=options.seed,
            progress=bar.update,
        )


class Batches:
    """Batches of a part: sequences of inputs, (B, L, inputs), and targets, (B, L, heads), gathered lazily.

    A network with memory gets stretches of `length` rows from a fresh start; one without, single rows.
    """

    def __init__(
        self, recording: Recording, columns: Array, values: Labels, part: Part, length: int, rows: int
    ) -> None:
        self._columns, self._size = columns, max(rows // length, 1)
        target = np.full(values.values.shape, np.nan, np.float32)
        usable = part.rows(values.horizon)
        target[usable] = values.values[usable]
        self.target = target
        if length == 1:
            self._ends = np.flatnonzero(np.isfinite(target).any(axis=1))
        else:
            ends = []
            for begin, end in part.stretches:
                ends.append(np.arange(begin + length - 1, end, length))
                if end - begin > length and (end - begin) % length:
                    ends.append(np.array([end - 1]))
            self._ends = np.concatenate(ends) if ends else np.zeros(0, np.int64)
        if len(self._ends) == 0:
            raise ConfigError(
                f"a part of the data has no stretch of {length} rows with labels: record more of it."
            )
        self._length = length
        self._inputs = recording.windows(length)
        self._targets = sliding_window_view(target, length, axis=0).swapaxes(1, 2)

    def __len__(self) -> int:
        return -(-len(self._ends) // self._size)

    def __call__(self, generator: np.random.Generator | None) -> Any:
        order = self._ends if generator is None else generator.permutation(self._ends)
        for begin in range(0, len(order), self._size):
            first = order[begin : begin + self._size] - (self._length - 1)
            yield (
                torch.from_numpy(self._inputs[first][..., self._columns]),
                torch.from_numpy(np.ascontiguousarray(self._targets[first])),
            )
