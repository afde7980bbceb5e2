"""Speed and memory of recorded data: import, replay steps, eight lanes against one.

`python -m benchmarks.recorded CAPTURE [CAPTURE ...]` imports the captures into a temporary store, replays
the first tape and prints medians. Quotes sit at the touch, so that most steps cancel and send orders.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from mmenv.data.importer import Import
from mmenv.data.tape import Tape
from mmenv.venue.replay import EVENT_FIELDS, MILLISECOND, ReplayConfig, ReplayVenue

BID, ASK = EVENT_FIELDS.index("best_bid_ticks"), EVENT_FIELDS.index("best_ask_ticks")
REPEATS = 5


def import_speed(files: tuple[Path, ...], folder: Path) -> Tape:
    """Print rows per second of wall and of processor time; the first tape."""
    walls, processors = [], []
    for number in range(REPEATS + 1):
        wall, processor = time.perf_counter(), time.process_time()
        results = Import("binance", files, folder / str(number), progress=False).run()
        rows = sum(tape.info.rows for found, _ in results for tape in found)
        walls.append(rows / (time.perf_counter() - wall))
        processors.append(rows / (time.process_time() - processor))
    # The first run compiles.
    print(f"import: {rows} rows, {statistics.median(walls[1:]):,.0f} rows/s of wall time,", end=" ")
    print(f"{statistics.median(processors[1:]):,.0f} rows/s of processor time")
    return results[0][0][0]


def steps_per_second(tape: Tape, lanes: int, interval_ms: int, quote: bool) -> float:
    """Median steps per second, resets not counted."""
    config = ReplayConfig(decision_interval_ns=interval_ms * MILLISECOND, episode_ns=60_000 * MILLISECOND)
    count = 50_000 // interval_ms
    speeds = []
    with ReplayVenue([tape], lanes, config) as venue:
        for number in range(REPEATS + 1):
            events = np.array([venue.reset(lane, np.random.default_rng(number)) for lane in range(lanes)])
            quotes = np.zeros((lanes, 4), np.int64)
            begin = time.perf_counter()
            for _ in range(count):
                if quote:
                    quotes[:, 0], quotes[:, 2] = events[:, ASK], events[:, BID]
                    quotes[:, 1::2] = 1
                events = venue.advance(quotes)
            speeds.append(count * lanes / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


def memory_mib(path: Path, lanes: int) -> float:
    """Resident memory, shared pages included, of a fresh process that replays `lanes` lanes (Linux)."""
    code = (
        "import re, sys, numpy as np, pathlib\n"
        "from mmenv.data.tape import Tape\n"
        "from mmenv.venue.replay import ReplayVenue\n"
        "path, lanes = sys.argv[1], int(sys.argv[2])\n"
        "venue = ReplayVenue([Tape(path)], lanes)\n"
        "for lane in range(lanes): venue.reset(lane, np.random.default_rng(lane))\n"
        "for _ in range(300): venue.advance(np.zeros((lanes, 4), np.int64))\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmRSS:\\s+(\\d+)', status)[1]) / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(lanes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(files: tyro.conf.Positional[tuple[Path, ...]], /) -> None:
    """Import and replay the captures `files`; print medians of five."""
    with tempfile.TemporaryDirectory() as folder:
        tape = import_speed(files, Path(folder))
        begin = time.perf_counter()
        found = tape.replay(2 * MILLISECOND)
        print(f"cache: {len(found.events)} events in {time.perf_counter() - begin:.2f} s, with compilation")
        for lanes in (1, 8):
            for interval_ms in (100, 10):
                for quote in (False, True):
                    speed = steps_per_second(tape, lanes, interval_ms, quote)
                    kind = "quoting" if quote else "watching"
                    print(f"replay: {lanes} lanes, {interval_ms} ms, {kind}: {speed:,.0f} steps/s")
        one, eight = memory_mib(tape.path, 1), memory_mib(tape.path, 8)
        print(f"memory: one lane {one:.0f} MiB, eight lanes {eight:.0f} MiB, ratio {eight / one:.2f}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tyro.cli(main)
