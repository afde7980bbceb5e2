"""Speed and memory of recorded data: import, replay steps, eight lanes against one.

`python -m benchmarks.recorded CAPTURE [CAPTURE ...]` imports the captures into a temporary store, replays
the first tape and prints medians. Quotes sit at the touch, so that most steps cancel and send orders. It then
writes random captures of each format, some longer than others, and prints the speed of their import and the
most memory it took.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tyro

from mmenv.data.events import open_replay
from mmenv.data.importer import Import
from mmenv.data.tape import Tape
from mmenv.times import MILLISECOND
from mmenv.venue.hft import HftVenue
from mmenv.venue.settings import ReplayConfig

TARGETS = {100: 30_000, 10: 120_000}
"""Steps per second to reach, by milliseconds between two decisions."""
IMPORT_TARGET = 500_000
MEMORY_TARGET = 2.0

REPEATS = 5
RANDOM_MESSAGES = 50_000


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
    print(f"{statistics.median(processors[1:]):,.0f} rows/s of processor time (target {IMPORT_TARGET:,})")
    return results[0][0][0]


def steps_per_second(tape: Tape, lanes: int, interval_ms: int, quote: bool) -> float:
    """Median steps per second, resets not counted."""
    config = ReplayConfig(decision_interval_ns=interval_ms * MILLISECOND, episode_ns=60_000 * MILLISECOND)
    count = 50_000 // interval_ms
    speeds = []
    with HftVenue([tape], lanes, config) as venue:
        for number in range(REPEATS + 1):
            for lane in range(lanes):
                venue.reset(lane, np.random.default_rng(number))
            outcomes = venue.outcomes
            quotes = np.zeros((lanes, 4), np.int64)
            quotes[:, 1::2] = quote
            begin = time.perf_counter()
            for _ in range(count):
                if quote:
                    quotes[:, 0], quotes[:, 2] = outcomes["best_ask_ticks"], outcomes["best_bid_ticks"]
                venue.advance(quotes)
            speeds.append(count * lanes / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


def memory_mib(path: Path, lanes: int) -> float:
    """Resident memory, shared pages included, of a fresh process that replays `lanes` lanes (Linux)."""
    code = (
        "import re, sys, numpy as np, pathlib\n"
        "from mmenv.data.tape import Tape\n"
        "from mmenv.venue.hft import HftVenue\n"
        "path, lanes = sys.argv[1], int(sys.argv[2])\n"
        "venue = HftVenue([Tape(path)], lanes)\n"
        "for lane in range(lanes): venue.reset(lane, np.random.default_rng(lane))\n"
        "for _ in range(300): venue.advance(np.zeros((lanes, 4), np.int64))\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmRSS:\\s+(\\d+)', status)[1]) / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(lanes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def write_random(name: str, folder: Path, messages: int) -> tuple[Path, ...]:
    """A random capture of ten changed levels and a trade in each message; how long it is does not matter."""
    if name == "lobster":
        return write_lobster(folder, 10 * messages)
    random = np.random.default_rng(0)
    start = 1_723_100_000_000_000_000
    binance, book, trades, plain, mbo = (folder / f"{name}-{part}.csv" for part in "abcde")
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("w")) for path in (binance, book, trades, plain, mbo)}
        files[book].write("exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount\n")
        files[trades].write("exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n")
        files[plain].write("local_ns,exch_ns,kind,side,price,size\n")
        files[mbo].write("ts_recv,ts_event,instrument_id,action,side,price,size,order_id,flags\n")
        files[mbo].write(f"{start},{start},1,R,N,,0,0,160\n")
        mid, order = 600_000, 0
        resting = deque[str]()
        for number in range(messages):
            ns = start + number * 20_000_000
            bids, asks = [], []
            for at, (distance, size) in enumerate(random.integers(1, (40, 9000), (10, 2)).tolist()):
                (asks if at % 2 else bids).append((mid + (distance if at % 2 else -distance), size))
            if name == "binance":
                texts = [
                    ",".join(f'["{tick / 10:.1f}","{size / 1000:.3f}"]' for tick, size in side)
                    for side in (bids, asks)
                ]
                head = f'"E":{ns // 10**6},"T":{ns // 10**6},"s":"BTCUSDT"'
                if not number:
                    files[binance].write(
                        f'{ns} {{"lastUpdateId":99,"bids":[{texts[0]}],"asks":[{texts[1]}]}}\n'
                    )
                files[binance].write(
                    f'{ns} {{"stream":"x","data":{{"e":"depthUpdate",{head},"U":{number + 100},'
                    f'"u":{number + 100},"pu":{number + 99},"b":[{texts[0]}],"a":[{texts[1]}]}}}}\n'
                    f'{ns} {{"stream":"x","data":{{"e":"trade",{head},"t":{number},"p":"{mid / 10:.1f}",'
                    '"q":"0.010","X":"MARKET","m":true}}\n'
                )
            for side, rows in (("bid", bids), ("ask", asks)):
                for tick, size in rows:
                    price, amount = f"{tick / 10:.1f}", f"{size / 1000:.3f}"
                    if name == "tardis":
                        snapshot = "false" if number else "true"
                        files[book].write(
                            f"x,BTC,{ns // 1000},{ns // 1000},{snapshot},{side},{price},{amount}\n"
                        )
                    elif name == "plain":
                        kind = "depth" if number else "snapshot"
                        files[plain].write(f"{ns},{ns},{kind},{side},{price},{amount}\n")
                    elif name == "databento":
                        order += 1
                        resting.append(f"{'B' if side == 'bid' else 'A'},{price},{size},{order}")
                        files[mbo].write(f"{ns},{ns},1,A,{resting[-1]},128\n")
                        if order > 400:
                            files[mbo].write(f"{ns},{ns},1,C,{resting.popleft()},128\n")
            if name == "tardis":
                files[trades].write(f"x,BTC,{ns // 1000},{ns // 1000},{number},sell,{mid / 10:.1f},0.01\n")
            if name == "plain":
                files[plain].write(f"{ns},{ns},trade,sell,{mid / 10:.1f},0.010\n")
    return {"binance": (binance,), "tardis": (book, trades), "plain": (plain,), "databento": (mbo,)}[name]


LEVELS = 10
"""Of each side in a LOBSTER orderbook file."""


def write_lobster(folder: Path, messages: int) -> tuple[Path, ...]:
    """A random pair of LOBSTER files: orders come and go near the touch, some at it are executed."""
    paths = tuple(
        folder / f"X_2024-08-08_34200000_57600000_{kind}_{LEVELS}.csv" for kind in ("message", "orderbook")
    )
    random = np.random.default_rng(0)
    # Asks and bids by their distance, which grows away from the mid, in cents.
    sides = [dict.fromkeys(range(sign * 6000 + 1, sign * 6000 + 31), 100) for sign in (1, -1)]
    row = [""] * 2 * LEVELS
    for which in (0, 1):
        row[which::2] = _lobster_levels(sides[which], which)
    with paths[0].open("w") as message_file, paths[1].open("w") as book_file:
        draws = random.integers((0, 0, 0, 1), (2, 4, 12, 200), (messages, 4)).tolist()
        for number, (which, action, distance, size) in enumerate(draws):
            side, sign = sides[which], 1 if which == 0 else -1
            best = min(side)
            key = best if action == 3 else best + distance - (action == 0)
            kind = 1 if action < 2 or len(side) < 20 or key not in side else action + 1
            if kind == 1 and key <= -min(sides[1 - which]):
                key = best
            size = size if kind == 1 else min(size, side[key])
            side[key] = side.get(key, 0) + (size if kind == 1 else -size)
            if not side[key]:
                del side[key]
            row[which::2] = _lobster_levels(side, which)
            time_text = f"{34_200 + number // 1000}.{number % 1000:03}000000"
            message_file.write(f"{time_text},{kind},{number},{size},{sign * key * 100},{-sign}\n")
            book_file.write(",".join(row) + "\n")
    return paths


def _lobster_levels(side: dict[int, int], which: int) -> list[str]:
    sign = 1 if which == 0 else -1
    return [f"{sign * key * 100},{side[key]}" for key in sorted(side)[:LEVELS]]


def import_apart(
    name: str, small: tuple[Path, ...], files: tuple[Path, ...], store: Path
) -> tuple[int, float, float]:
    """Rows, processor seconds and most memory in MiB of an import in its own process, after a small one."""
    code = (
        "import re, sys, time, pathlib\n"
        "from mmenv.data.importer import Import\n"
        "name, store, *files = sys.argv[1:]\n"
        "options = dict(venue='x', symbol='BTC' if name == 'plain' else None, tick_size='0.1')\n"
        "if name in ('binance', 'lobster'): options = {}\n"
        "paths = tuple(map(pathlib.Path, files))\n"
        "half, store = len(paths) // 2, pathlib.Path(store)\n"
        "Import(name, paths[:half], store / 'small', progress=False, **options).run()\n"
        "begin = time.process_time()\n"
        "[([tape, *_], _)] = Import(name, paths[half:], store / 'all', progress=False, **options).run()\n"
        "used = time.process_time() - begin\n"
        # Not getrusage: its peak begins with that of the process that started this one.
        "peak = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(tape.info.rows, used, int(peak) / 1024)\n"
    )
    command = [sys.executable, "-c", code, name, str(store), *map(str, small + files)]
    rows, used, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(rows), float(used), float(memory)


def random_imports(folder: Path, messages: int) -> None:
    """Print speed and memory of each format on a random capture and on one four times as long."""
    for name in ("binance", "tardis", "plain", "databento", "lobster"):
        with tempfile.TemporaryDirectory(dir=folder) as apart:
            # What it compiles or loads is not counted.
            small = write_random(name, Path(apart), 1000)
            for times in (1, 4):
                files = write_random(name, folder, messages * times)
                rows, used, memory = import_apart(name, small, files, folder / f"{name}-{times}")
                print(
                    f"import {name}: {rows} rows, {rows / used:,.0f} rows/s of processor time, "
                    f"{memory:.0f} MiB at most (target {IMPORT_TARGET:,} rows/s)",
                    flush=True,
                )


def main(files: tyro.conf.Positional[tuple[Path, ...]], /) -> None:
    """Import and replay the captures `files`; print medians of five."""
    with tempfile.TemporaryDirectory() as folder:
        tape = import_speed(files, Path(folder))
        begin = time.perf_counter()
        found = open_replay(tape, 2 * MILLISECOND)
        print(f"cache: {len(found.events)} events in {time.perf_counter() - begin:.2f} s, with compilation")
        for lanes in (1, 8):
            for interval_ms in (100, 10):
                for quote in (False, True):
                    speed = steps_per_second(tape, lanes, interval_ms, quote)
                    kind = "quoting" if quote else "watching"
                    print(
                        f"replay: {lanes} lanes, {interval_ms} ms, {kind}: {speed:,.0f} steps/s "
                        f"(target {TARGETS[interval_ms]:,})",
                        flush=True,
                    )
        one, eight = memory_mib(tape.path, 1), memory_mib(tape.path, 8)
        print(
            f"memory: one lane {one:.0f} MiB, eight lanes {eight:.0f} MiB, ratio {eight / one:.2f} "
            f"(target below {MEMORY_TARGET:g})",
            flush=True,
        )
        random_imports(Path(folder), RANDOM_MESSAGES)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tyro.cli(main)
