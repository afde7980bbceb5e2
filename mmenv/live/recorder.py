"""`neuralmm record VENUE SYMBOLS -o STORE`: a live feed into the store.

Everything received is kept as it came, a line each, in `captures/` of the store: raw captures as
`neuralmm import binance` reads them, one file an hour. The tapes are imported from them, so a recorded day
and an imported one are made by the same code, and what was missed (a lost message, a broken connection, the
time between a kill and the restart) is found by the exchange's own numbers and marked in the tape:
`book_complete` is false and the report beside the captures names each place.

A line that was handed to the operating system survives a kill at any moment. The next start closes the file
that was open, up to its last whole line, and goes on in a new one.
"""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Self

import numpy as np
import tyro
from tqdm import tqdm

from mmenv.data.capture import CaptureError
from mmenv.data.importer import Import
from mmenv.data.tape import TapeError, put_tape, tape_path
from mmenv.files import replacing
from mmenv.live.feed import Feed
from mmenv.live.venue import Instrument, NetworkError, VenueClient

HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = 24 * HOUR_NS
FLUSH_S: Final = 0.25
"""A kill loses at most the lines of so long."""
PART: Final = ".part"


class Captures:
    """The raw captures of one symbol, the last of them growing; use as a context manager.

    Args:
        store: folder of the store; made if missing.
        rotate_ns: length of a file in time; every day begins a new one.

    Raises `CaptureError` if another recorder has this symbol of this store.
    """

    def __init__(self, store: Path, venue: str, symbol: str, rotate_ns: int = HOUR_NS) -> None:
        self.folder = store / "captures" / f"venue={venue}" / f"symbol={symbol}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rotate_ns = rotate_ns
        self.bytes = 0
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise CaptureError(f"{self.folder}: another recorder writes here; stop it first") from None
        self._open: BinaryIO | None = None
        self._ends_ns = 0
        self.closed: list[Path] = []
        """Files not compressed yet."""
        self._compressing = threading.Lock()
        self._recover()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.rotate()
        self.compress()
        self._lock.close()

    def keep(self, local_ns: int, message: bytes) -> None:
        """Append a message."""
        if local_ns >= self._ends_ns:
            self.rotate()
            self._ends_ns = (local_ns // self.rotate_ns + 1) * self.rotate_ns
            self._ends_ns = min(self._ends_ns, (local_ns // DAY_NS + 1) * DAY_NS)
            self._open = (self.folder / f"{_name(local_ns)}{PART}").open("ab")
        assert self._open is not None
        self.bytes += self._open.write(b"%d %b\n" % (local_ns, message))

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        if self._open is not None:
            self._open.flush()

    def rotate(self) -> None:
        """Close the growing file; the next message begins another."""
        if self._open is not None:
            self._open.close()
            self.closed.append(Path(self._open.name))
            self._open, self._ends_ns = None, 0

    def compress(self) -> None:
        """Turn closed files into gzip files. Takes long; may run in a thread."""
        with self._compressing:
            while self.closed:
                path = self.closed[0]
                with (
                    replacing(path.with_suffix(".gz")) as temporary,
                    path.open("rb") as lines,
                    gzip.open(temporary, "wb", compresslevel=5) as packed,
                ):
                    shutil.copyfileobj(lines, packed, 1 << 20)
                path.unlink()
                self.closed.pop(0)

    def _recover(self) -> None:
        """Close what a killed recorder left open, at its last whole line."""
        for path in sorted(self.folder.glob(f"*{PART}")):
            with path.open("r+b") as lines:
                lines.truncate(_whole_lines(lines))
                empty = lines.seek(0, os.SEEK_END) == 0
            if empty:
                path.unlink()
            else:
                self.closed.append(path)
        for path in self.folder.glob(".*.tmp"):
            path.unlink()


def finished(folder: Path) -> dict[str, list[Path]]:
    """Finished captures by UTC day, in time order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.gz")):
        found.setdefault(path.name[:10], []).append(path)
    return found


def build(store: Path, folder: Path, instrument: Instrument) -> list[str]:
    """Make the tape of every day that has captures newer than it; what there is to say of each.

    The last capture of the day before comes first, so that the book is known from midnight on.
    """
    said = []
    before: list[Path] = []
    for day, paths in finished(folder).items():
        tape = tape_path(store, instrument.venue, instrument.symbol, day)
        report = folder / f"{day}.report"
        newest = max(path.stat().st_mtime_ns for path in paths)
        if not report.exists() or report.stat().st_mtime_ns < newest:
            text = _import_day(tape, instrument, day, (*before, *paths))
            with replacing(report) as temporary:
                temporary.write_text(f"{text}\n")
            said.append(f"{tape}\n{text}")
        before = paths[-1:]
    return said


def _import_day(tape: Path, instrument: Instrument, day: str, paths: Sequence[Path]) -> str:
    store = tape.parents[3]
    with tempfile.TemporaryDirectory(dir=store, prefix=".record-") as temporary:
        job = Import(
            "binance",
            tuple(paths),
            Path(temporary),
            tick_size=instrument.tick_size,
            lot_size=instrument.lot_size,
            progress=False,
        )
        try:
            [(found, report)] = job.run()
        except (CaptureError, TapeError) as error:
            # Too little for one: the few seconds after a midnight, say.
            return f"no tape: {error}"
        for made in found:
            if made.info.day == day:
                put_tape(made.path, tape)
    return str(report)


@dataclass(frozen=True)
class Record:
    """Record live market data into a store, until interrupted; run it again to go on."""

    venue: tyro.conf.Positional[str]
    """binance-usdm or binance-spot."""
    symbols: tyro.conf.Positional[tuple[str, ...]]
    """Symbols as the venue writes them, such as BTCUSDT."""
    store: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the store; made if missing."""
    url: str | None = None
    """Address of another server of the same protocol, such as http://127.0.0.1:8080."""
    rotate_minutes: float = 60.0
    """Length of a capture file."""
    seconds: float | None = None
    """Stop by itself after so long."""
    progress: bool = True
    """Show what is received."""

    def run(self) -> None:
        """Record. Raises ValueError for a symbol that the venue does not trade."""
        if not self.symbols:
            raise CaptureError("no symbols given; name at least one, such as BTCUSDT")
        if not self.rotate_minutes > 0:
            raise CaptureError(f"--rotate-minutes is {self.rotate_minutes}; it must be positive")
        asyncio.run(self._record())

    async def _record(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if self.seconds is not None:
            loop.call_later(self.seconds, stop.set)
        client = VenueClient(self.venue, url=self.url)
        try:
            async with asyncio.TaskGroup() as group:
                for symbol in self.symbols:
                    group.create_task(self._one(client, symbol, stop))
        except* (CaptureError, ValueError, OSError) as errors:
            raise errors.exceptions[0] from None
        finally:
            await client.close()

    async def _one(self, client: VenueClient, symbol: str, stop: asyncio.Event) -> None:
        with Captures(self.store, self.venue, symbol, round(self.rotate_minutes * HOUR_NS / 60)) as captures:
            feed = Feed(self.venue, symbol, client=client, keep=captures.keep)
            reading = asyncio.create_task(self._read(feed, symbol))
            tending = asyncio.create_task(self._tend(captures, feed))
            stopping = asyncio.create_task(stop.wait())
            tasks: list[asyncio.Task[Any]] = [reading, tending, stopping]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await feed.close()
            captures.rotate()
            await asyncio.to_thread(captures.compress)
            if feed.instrument is not None:
                said = await asyncio.to_thread(build, self.store, captures.folder, feed.instrument)
                self._say("\n".join(said))

    async def _read(self, feed: Feed, symbol: str) -> None:
        name = f"{self.venue} {symbol}"
        with tqdm(desc=name, unit="row", unit_scale=True, disable=not self.progress) as bar:
            while feed.instrument is None:
                try:
                    await feed.open()
                except NetworkError as error:
                    self._say(f"no answer yet: {error}")
                    await asyncio.sleep(1.0)
            async for batch in feed:
                bar.set_postfix_str("live" if batch.live else f"broken: {batch.reason}", refresh=False)
                bar.update(len(batch.rows))
                for problem in batch.problems:
                    self._say(str(problem))

    async def _tend(self, captures: Captures, feed: Feed) -> None:
        """Flush, compress what is closed, and make the tape of a day that is over."""
        made = ""
        while True:
            await asyncio.sleep(FLUSH_S)
            captures.flush()
            if not captures.closed:
                continue
            await asyncio.to_thread(captures.compress)
            newest = list(finished(captures.folder))[-1]
            if newest != made and newest < str(np.datetime64("now", "D")) and feed.instrument:
                made = newest
                work = partial(build, self.store, captures.folder, feed.instrument)
                # In a process of its own: recording goes on meanwhile.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
                    self._say("\n".join(await asyncio.wrap_future(elsewhere.submit(work))))

    def _say(self, text: str) -> None:
        if self.progress and text:
            tqdm.write(text)


def _name(local_ns: int) -> str:
    return str(np.datetime64(local_ns, "ns")).replace(":", "").replace(".", "-")


def _whole_lines(lines: BinaryIO) -> int:
    """Bytes up to the end of the last whole line."""
    at = lines.seek(0, os.SEEK_END)
    while at > 0:
        start = max(at - (1 << 16), 0)
        lines.seek(start)
        found = lines.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def main(args: Sequence[str] | None = None) -> None:
    """Command line of `neuralmm record`."""
    try:
        tyro.cli(Record, args=args, prog="neuralmm record").run()
    except (CaptureError, TapeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
