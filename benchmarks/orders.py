"""How fast files of single orders are imported, ITCH and DBN: `python -m benchmarks.orders`.

Random orders of one stock, of which some 400 stand at a time; a tenth of them is executed in part. Printed
are rows a second of processor time, of reading and of the whole import.
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.feeds import importing, reading
from mmenv.data.formats.dbn import MBO, MBO_BYTES
from mmenv.times import SECOND
from tests.helpers import orders

STANDING = 400
SYMBOL = "AAPL"


def drawn(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Side (0 buys), tick and size of orders, and which messages there are of each: it comes, the one 200
    before it is executed in part (twice: trade and order), and the one 400 before it goes."""
    random = np.random.default_rng(0)
    side = np.arange(count) % 2
    tick = 6_000 + (2 * side - 1) * random.integers(1, 40, count)
    there = np.ones((count, 4), np.bool_)
    there[:, 1:3] = ((np.arange(count) % 10 == 0) & (np.arange(count) >= STANDING // 2))[:, None]
    there[:, 3] = np.arange(count) >= STANDING
    return side, tick, random.integers(2, 900, count), there


def write_dbn(folder: Path, count: int) -> Path:
    """A DBN file of mbo records."""
    side, tick, size, there = drawn(count)
    records = np.zeros((count, 4), MBO)
    records["length"], records["rtype"], records["publisher_id"] = MBO_BYTES // 4, 160, 2
    records["instrument_id"], records["flags"] = 42, 128
    records["ts_event"] = records["ts_recv"] = (
        1_723_100_000 * SECOND + 20_000 * np.arange(count, dtype=np.uint64)
    )[:, None]
    for column, (action, before) in enumerate(zip("ATFC", (0, 200, 200, STANDING), strict=True)):
        of = np.maximum(np.arange(count) - before, 0)
        part = records[:, column]
        part["action"], part["order_id"] = ord(action), 0 if action == "T" else 1 + of
        part["side"] = np.where(side[of] == (action == "T"), ord("B"), ord("A"))
        part["price"], part["size"] = tick[of] * 10**7, 1 if action in "TF" else size[of]
        part["flags"] = 0 if action in "TF" else 128
    head = orders.dbn(orders.databento(orders.Market(events=40))[:1])
    path = folder / "x.dbn"
    path.write_bytes(head[:-MBO_BYTES] + records[there].tobytes())
    return path


def write_itch(folder: Path, count: int) -> Path:
    """A day's file of ITCH."""
    side, tick, size, there = drawn(count)
    path = folder / "06212012.NASDAQ_ITCH50"
    with path.open("wb") as file:

        def put(kind: bytes, ns: int, body: bytes) -> None:
            message = kind + struct.pack(">HH", 7, 0) + ns.to_bytes(6, "big") + body
            file.write(struct.pack(">H", len(message)) + message)

        start = 34_200 * SECOND
        put(b"R", start, SYMBOL.encode().ljust(8) + b"Q N" + struct.pack(">I", 100) + b"N" * 13)
        name = SYMBOL.encode().ljust(8)
        values = zip(side.tolist(), tick.tolist(), size.tolist(), there.tolist(), strict=True)
        for number, (sold, price, shares, (_, executed, _, gone)) in enumerate(values):
            ns = start + 20_000 * number
            letter = b"S" if sold else b"B"
            put(b"A", ns, struct.pack(">QcI8sI", number, letter, shares, name, 100 * price))
            if executed:
                put(b"E", ns, struct.pack(">QIQ", number - 200, 1, number))
            if gone:
                put(b"D", ns, struct.pack(">Q", number - STANDING))
    return path


@dataclass(frozen=True)
class Orders:
    """Measure the import of files of single orders."""

    orders: int = 500_000

    def run(self) -> None:
        """Print a line for each format."""
        print("format", "rows/s, read", "rows/s, imported", sep="\t")
        with tempfile.TemporaryDirectory() as folder:
            for name, write in (("itch", write_itch), ("databento", write_dbn)):
                path, symbol = write(Path(folder), self.orders), SYMBOL if name == "itch" else None
                speeds = [(reading(name, path, symbol), importing(name, path, symbol)) for _ in range(4)]
                # The first round compiles.
                read, whole = (max(found) for found in zip(*speeds[1:], strict=True))
                print(name, f"{read:,.0f}", f"{whole:,.0f}", sep="\t", flush=True)


if __name__ == "__main__":
    tyro.cli(Orders).run()
