"""How fast captures of websockets are read: `python -m benchmarks.feeds`.

Random captures of ten new levels and a trade a message, as `benchmarks.recorded` writes them for other
formats; and of single orders, by `benchmarks.order_captures`. Printed are rows a second of processor time, of
reading and of the whole import, and how many times as fast compiled code reads as Python does, which reads
whatever the layout does not fit.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tyro

from benchmarks import order_captures
from mmenv.data.formats import bitstamp, coinbase_full, feed
from mmenv.data.formats.base import ImportOptions, open_importers
from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.times import MILLISECOND
from tests.helpers.feeds import VENUES
from tests.helpers.orders import Event, Step

START_NS = 1_723_100_000_000 * MILLISECOND


def write(venue: str, path: Path, messages: int) -> Path:
    """A capture whose messages are as short as venues send them."""
    random = np.random.default_rng(0)
    book = {("A" if at > 6000 else "B", at): 5 for at in range(5980, 6021) if at != 6000}
    with path.open("w") as file:
        for number in range(messages):
            ns = START_NS + number * 20 * MILLISECOND
            levels = [(int(away), int(size)) for away, size in random.integers(1, (20, 900), (10, 2))]
            for away, size in levels[:5]:
                book["B", 6000 - away] = size
            for away, size in levels[5:]:
                book["A", 6000 + away] = size
            bids = [(f"{60 - away / 100:.2f}", str(size)) for away, size in dict(levels[:5]).items()]
            asks = [(f"{60 + away / 100:.2f}", str(size)) for away, size in dict(levels[5:]).items()]
            event = Event(ns, ns, [Step("A", 0, "B", 0, 0, book)])
            for message in VENUES[venue](
                event, number + 1, number == 0, bids, asks, [(number, True, "60.01", "1")]
            ):
                file.write(f"{ns} {json.dumps(message, separators=(',', ':'))}\n")
    return path


def reading(venue: str, path: Path, symbol: str | None = None) -> float:
    """Rows a second of processor time, without the second pass."""
    [importer] = open_importers(venue, [path], ImportOptions(symbol=symbol))
    began = time.process_time()
    rows = sum(map(len, importer.chunks(Report(importer.names))))
    return rows / (time.process_time() - began)


def importing(venue: str, path: Path, symbol: str | None = None) -> float:
    """Rows a second of processor time, of all of an import."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as store:
        results = Import(venue, (path,), Path(store), symbol=symbol, progress=False).run()
        rows = sum(tape.info.rows for found, _ in results for tape in found)
    return rows / (time.process_time() - began)


ORDERS = {
    "bitstamp": (order_captures.bitstamp, bitstamp, "scan_log"),
    "coinbase": (order_captures.coinbase_full, coinbase_full, "scan_orders"),
}
"""How captures of single orders are written, and what compiled code reads of them."""


@dataclass(frozen=True)
class Feeds:
    """Measure the import of captures of websockets."""

    messages: int = 20_000

    def run(self) -> None:
        """Print a line for each venue."""
        print("venue", "rows/s, read", "rows/s, imported", "times Python", sep="\t")
        with tempfile.TemporaryDirectory() as folder:
            for venue in VENUES:
                path = write(venue, Path(folder) / venue, self.messages)
                show(venue, venue, path, feed, "scan")
            for venue, (write_orders, module, scan) in ORDERS.items():
                path = write_orders(Path(folder) / f"{venue}-orders", self.messages, START_NS)
                show(f"{venue}, orders", venue, path, module, scan)


def show(name: str, venue: str, path: Path, module: Any, scan: str) -> None:
    """Print the line of a capture, which a function of a module reads."""
    module.compile_scan()
    reading(venue, path)  # compiles what is left
    speed = max(reading(venue, path) for _ in range(3))
    with patch.object(module, scan, module.no_scan):
        python = reading(venue, path)
    importing(venue, path)
    whole = max(importing(venue, path) for _ in range(2))
    print(name, f"{speed:,.0f}", f"{whole:,.0f}", f"{speed / python:.1f}", sep="\t", flush=True)


if __name__ == "__main__":
    tyro.cli(Feeds).run()
