"""`neuralmm record VENUE SYMBOLS -o STORE`: a live feed into the store.

Everything received is kept as it came in `captures/` of the store (`mmenv.live.captures`), one file an hour,
as `neuralmm import` reads it. The tapes are imported from there, so a recorded day and an imported one are
made by the same code, and what was missed (a lost message, a broken connection, the time between a kill and
the restart) is found by the exchange's own numbers and marked in the tape: `book_complete` is false and the
report beside the captures names each place.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import tyro
from tqdm import tqdm

from mmenv.checks import require
from mmenv.data.importer import Import
from mmenv.data.rows import CaptureError
from mmenv.data.tape import TapeError, put_tape, tape_path
from mmenv.files import replacing
from mmenv.live.captures import Captures, finished
from mmenv.live.market_feed import Instrument, MarketFeed
from mmenv.live.orders import VenueError
from mmenv.live.venues.base import VENUES, Venue
from mmenv.progress import progress_bar
from mmenv.times import HOUR

FLUSH_S: Final = 0.25
"""A kill loses at most the lines of so long."""
AGAIN_S: Final = 1.0
"""Pause before a venue that gave no answer is asked again."""
GIVE_UP_S: Final = 30.0
"""A venue that has not answered once in so long is not asked again: the address or the network is wrong."""


@dataclass(frozen=True)
class Days:
    """Makes tapes of the captures of one symbol."""

    store: Path
    folder: Path
    """Folder of the captures."""
    format: str
    """Format of the captures, one of those of `neuralmm import`."""
    instrument: Instrument

    def build(self) -> str:
        """Make the tape of every day that has captures newer than it; what there is to say of each.

        The last capture of the day before comes first, so that the book is known from midnight on.
        """
        said = []
        before: list[Path] = []
        for day, paths in finished(self.folder).items():
            tape = tape_path(self.store, self.instrument.venue, self.instrument.symbol, day)
            report = self.folder / f"{day}.report"
            newest = max(path.stat().st_mtime_ns for path in paths)
            if not report.exists() or report.stat().st_mtime_ns < newest:
                text = self._import(tape, day, (*before, *paths))
                with replacing(report) as temporary:
                    temporary.write_text(f"{text}\n")
                said.append(f"{tape}\n{text}")
            before = paths[-1:]
        return "\n".join(said)

    def _import(self, tape: Path, day: str, paths: Sequence[Path]) -> str:
        """Make the tape of one day; the importer's report."""
        with tempfile.TemporaryDirectory(dir=self.store, prefix=".record-") as temporary:
            job = Import(
                self.format,
                tuple(paths),
                Path(temporary),
                tick_size=self.instrument.tick_size,
                lot_size=self.instrument.lot_as_sent,
                contract_size=self.instrument.contract_size,
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


class Recording:
    """One symbol that is being recorded: the feed is read, the captures are tended."""

    def __init__(self, store: Path, venue: Venue, symbol: str, captures: Captures, progress: bool) -> None:
        self.feed: MarketFeed = venue.feed(symbol, captures.keep)
        self.days: Days | None = None
        """Known once the venue has said what the symbol is."""
        self._store, self._venue, self._symbol = store, venue, symbol
        self._captures, self._progress = captures, progress
        self._trouble = ""

    @property
    def unanswered(self) -> str:
        """Why nothing could be recorded; empty once the venue has answered."""
        if self.days is not None:
            return ""
        why = self._trouble.rstrip(".") or f"no answer from {self._venue.name} yet"
        return f"nothing was recorded of {self._symbol}: {why}. Another server is named with --url."

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop`, then make the tapes. Raises whatever made the recording stop before."""
        work = (self._read(), self._tend(), stop.wait())
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(each) for each in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.feed.close()
        self._captures.rotate()
        await asyncio.to_thread(self._captures.compress)
        if self.days is not None:
            self._say(await asyncio.to_thread(self.days.build))

    async def _read(self) -> None:
        name = f"{self._venue.name} {self._symbol}"
        given_up = time.monotonic() + GIVE_UP_S
        with progress_bar(desc=name, unit="row", unit_scale=True, disable=not self._progress) as bar:
            while self.days is None:
                try:
                    instrument = await self.feed.open()
                    self.days = Days(self._store, self._captures.folder, self._venue.format, instrument)
                except VenueError as error:
                    if str(error) != self._trouble:
                        self._say(f"no answer yet, asking again for {GIVE_UP_S:g} s: {error}")
                    self._trouble = str(error)
                    if time.monotonic() > given_up:
                        raise VenueError(self.unanswered) from None
                    await asyncio.sleep(AGAIN_S)
            async for batch in self.feed:
                bar.set_postfix_str("live" if batch.live else f"broken: {batch.reason}", refresh=False)
                bar.update(len(batch.rows))
                for problem in batch.problems:
                    self._say(str(problem))

    async def _tend(self) -> None:
        """Flush, compress what is closed, and make the tape of a day that is over."""
        made = ""
        captures = self._captures
        while True:
            await asyncio.sleep(FLUSH_S)
            captures.flush()
            if not captures.closed:
                continue
            await asyncio.to_thread(captures.compress)
            newest = list(finished(captures.folder))[-1]
            if newest != made and newest < str(np.datetime64("now", "D")) and self.days is not None:
                made = newest
                # In a process of its own: recording goes on meanwhile.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
                    self._say(await asyncio.wrap_future(elsewhere.submit(self.days.build)))

    def _say(self, text: str) -> None:
        if self._progress and text:
            tqdm.write(text)


@dataclass(frozen=True)
class Record:
    """Record live market data into a store, until interrupted; run it again to go on."""

    venue: tyro.conf.Positional[str]
    """Name of a venue, such as binance-usdm or bybit, or "module:name" of one."""
    symbols: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="SYMBOL...", help_behavior_hint="(one or more, required)"),
    ]
    """Symbols as the venue writes them, such as BTCUSDT."""
    store: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the store; made if missing."""
    url: str | None = None
    """Address of another server of the same protocol, such as http://127.0.0.1:8080."""
    testnet: bool = False
    """Record the venue's testnet."""
    rotate_minutes: float = 60.0
    """Length of a capture file."""
    seconds: float | None = None
    """Stop by itself after so long."""
    progress: bool = True
    """Show what is received."""

    def run(self) -> None:
        """Record. Raises ValueError for a symbol that the venue does not trade, `VenueError` where the venue
        gave no answer."""
        require(bool(self.symbols), "Record", "symbols", self.symbols, "one or more names, such as BTCUSDT")
        require(self.rotate_minutes > 0, "Record", "rotate_minutes", self.rotate_minutes, "positive")
        kind = VENUES.find(self.venue)
        require(bool(kind.format), "Record", "venue", self.venue, "one whose captures an importer reads")
        asyncio.run(self._record(kind))

    async def _record(self, kind: type[Venue]) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if self.seconds is not None:
            loop.call_later(self.seconds, stop.set)
        venue = kind(self.url, testnet=self.testnet)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(venue, symbol, stop)) for symbol in self.symbols]
        except* (ValueError, OSError, VenueError) as errors:
            raise errors.exceptions[0] from None
        finally:
            await venue.close()
        if unanswered := next(filter(None, (task.result() for task in tasks)), ""):
            raise VenueError(unanswered)

    async def _one(self, venue: Venue, symbol: str, stop: asyncio.Event) -> str:
        """Record a symbol; why nothing could be recorded, if so."""
        rotate_ns = round(self.rotate_minutes * HOUR / 60)
        with Captures(self.store, venue.name, symbol, rotate_ns) as captures:
            recording = Recording(self.store, venue, symbol, captures, self.progress)
            await recording.run(stop)
            return recording.unanswered


def main(args: Sequence[str] | None = None) -> None:
    """Command line of `neuralmm record`."""
    try:
        tyro.cli(Record, args=args, prog="neuralmm record").run()
    except (ValueError, OSError, VenueError) as error:
        raise SystemExit(f"neuralmm record: {error}") from None


if __name__ == "__main__":
    main()
