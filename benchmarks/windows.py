"""How fast training data are made: `python -m benchmarks.windows`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from mmenv.config import make_config
from mmenv.recording import labels
from mmenv.recording.record import at_distance, record
from mmenv.recording.windows import split
from train.signals.tasks import TASKS, recording_config


@dataclass(frozen=True, kw_only=True)
class Options:
    """Windows a minute: recording, labels, and batches taken from the memory map."""

    market: str = "book"
    sequences: int = 500
    length: int = 100
    batch: int = 512


def main() -> None:
    options = tyro.cli(Options)
    config = recording_config(make_config(options.market), TASKS["order-flow"])
    with tempfile.TemporaryDirectory() as folder:
        quote = at_distance(config, 0.0)
        record(config, Path(folder) / "compiled", sequences=1, quote=quote)
        clock = [time.perf_counter()]
        data = record(config, Path(folder) / "data", sequences=options.sequences, quote=quote)
        clock.append(time.perf_counter())
        mid, first = data.field("mid"), data.first
        labels.price_change(mid, first, 10)
        labels.realised_volatility(mid, first, 10)
        labels.markout_cost(mid, data.field("ask_fill"), data.field("ask_edge"), first, 10, 1)
        clock.append(time.perf_counter())
        rows = split(data, embargo=10)[0].rows(10, options.length)
        taken = 0
        for chosen, _ in data.batches(rows, options.length, options.batch, np.random.default_rng(0)):
            taken += len(chosen)
        clock.append(time.perf_counter())
    recorded, labelled, batched = np.diff(clock)
    width = data.features.shape[1]
    print(f"{len(data):,} rows of {width} features; {taken:,} windows of {options.length} rows, one process")
    print(f"record  {60 * len(data) / recorded:14,.0f} rows a minute")
    print(f"labels  {60 * len(data) / labelled:14,.0f} rows a minute")
    print(f"windows {60 * taken / batched:14,.0f} a minute, shuffled, all features")


if __name__ == "__main__":
    main()
