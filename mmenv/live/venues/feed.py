"""Market data as it happens, in the rows of the store: what the feeds of all venues share.

    async for batch in BybitFeed(BybitClient(LINEAR), "BTCUSDT"):
        ...

What comes over the connection of a symbol goes through the decoder of the venue's importer, so a live session
and an imported capture of it are the same rows. After a lost message, a lost connection or too long a silence
the book is broken, and said to be, until it is built anew from a snapshot.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from mmenv.data.decimals import decimal_units
from mmenv.data.formats.feed import FeedImporter
from mmenv.data.formats.feed_decoder import FeedDecoder
from mmenv.data.problems import Problem, Report
from mmenv.data.rows import RAW, ROW, UNKNOWN_NS, CaptureError
from mmenv.data.source import source_of
from mmenv.live.market_feed import NEVER_NS, Batch, Instrument, MarketFeed
from mmenv.live.orders import VenueError
from mmenv.live.redact import redact
from mmenv.live.venues.base import Keep
from mmenv.live.venues.client import RETRY_S, VenueClient
from mmenv.times import SECOND

PAUSE_S: Final = 0.002
"""What comes within so long is handed over together: a batch costs as much as many messages."""
MAX_WAITING: Final = 1 << 20
"""Messages kept for a consumer that does not come; beyond them the feed breaks rather than the memory."""
DIALLING_S: Final = 10.0
"""A connection and its first snapshot may take so long."""

_connections = itertools.count()


class LiveDecoder(Protocol):
    """Turns messages into rows; `valid` is whether the book is whole."""

    line: int
    local_ns: int
    valid: bool

    def message(self, local_ns: int, message: Any) -> None:
        """Decode a parsed message."""

    def flush(self) -> NDArray[np.void]:
        """`RAW` rows [n] gathered since the last flush. Raises `CaptureError` where one cannot be read."""

    def discard(self) -> None:
        """Forget what was gathered since the last flush."""

    def problem(self, kind: str, text: str) -> None:
        """Report what is wrong with the message of this line."""

    def interrupt(self) -> None:
        """Messages were lost, or may have been: the book is broken until the next snapshot."""


@dataclass
class _Problems(Report):
    """Keeps the problems since the last batch."""

    fresh: list[Problem] = field(default_factory=list)

    def add(self, file: str, line: int, time_ns: int, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.fresh.append(Problem(file, line, time_ns, kind, text))

    def take(self) -> tuple[Problem, ...]:
        taken = tuple(self.fresh)
        self.fresh.clear()
        return taken


class StreamFeed(MarketFeed):
    """Market data of one symbol, by a client that other feeds may share. Subclasses decode what comes.

    Without any message for `silence_s` the connection is given up for dead. `keep` is given all that is
    received, stream and snapshot.
    """

    chatter: ClassVar[tuple[str, ...]] = ()
    """Messages that say nothing but that the connection lives."""

    def __init__(
        self, client: VenueClient, symbol: str, *, silence_s: float = 5.0, keep: Keep | None = None
    ) -> None:
        self.client, self.symbol = client, symbol
        self.instrument: Instrument | None = None
        self.messages = 0
        self.alarm_ns = NEVER_NS
        self.alarm: Callable[[int], None] = lambda local_ns: None
        self._silence_s = silence_s
        self._clock = client.clock
        self._keep = keep
        self._report = _Problems([f"{client.venue} {symbol}"])
        self._decoder = self.decoder(self._report)
        self._reason = "not connected yet"
        self._told: str | None = None
        self._since_flush = self._due_ns = 0
        self._wake = asyncio.Event()
        self._alive = asyncio.Event()
        self._renewed = asyncio.Event()
        self._doubt = ""
        self._task: asyncio.Task[None] | None = None
        self._sync: asyncio.Task[None] | None = None
        self._closed = False
        self._tick = self._lot = 1

    @abstractmethod
    def decoder(self, report: Report) -> LiveDecoder:
        """What decodes the messages of the symbol."""

    @abstractmethod
    def subscriptions(self) -> Sequence[dict[str, Any]]:
        """What is sent to have book and trades of the symbol."""

    @property
    def unfounded(self) -> bool:
        """Whether the newest message changes a book that there is not, so that its snapshot was lost."""
        return False

    def mend(self, urgent: bool) -> None:
        """Do something about a book that is not whole after a message.

        It is `urgent` where it just broke, or should long have been whole; by default the connection then
        begins anew, and with it the book.
        """
        if urgent:
            self.renew(self._reason)

    def ask_for_book(self) -> None:
        """Begin to `_synchronise`, unless it is under way: for a `mend` that keeps the connection."""
        if self._sync is None or self._sync.done():
            self._sync = asyncio.create_task(self._synchronise())

    async def _synchronise(self) -> None:
        """Ask the venue for the book until it fits what has come; of feeds that `ask_for_book`."""
        raise NotImplementedError(f"{type(self).__name__} begins its connection anew")

    @property
    def counts(self) -> dict[str, int]:
        """How many problems of each kind there have been."""
        return dict(self._report.counts)

    @property
    def reason(self) -> str:
        """Why the book is not whole; empty if it is."""
        return self._reason

    async def open(self) -> Instrument:
        """See `MarketFeed.open`; `async for` does it if not done before."""
        if self.instrument is None:
            self.instrument = await self.client.instrument(self.symbol)
            if self.instrument.status:
                raise VenueError(f"{self.symbol} is not traded now: {self.instrument.status}")
            self._set_grid(self.instrument)
            self._task = asyncio.create_task(self._stay_connected())
        return self.instrument

    async def look(self) -> Instrument:
        return await self.client.instrument(self.symbol, anew=True)

    def adopt(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._set_grid(instrument)
        # What has come is in units of before.
        self._decoder.discard()
        self._broke("the instrument has changed")
        super().adopt(instrument)

    def _set_grid(self, instrument: Instrument) -> None:
        self._tick = decimal_units("tick size", instrument.tick_size)
        self._lot = decimal_units("lot size", instrument.lot_as_sent)

    async def close(self) -> None:
        self._closed = True
        self._wake.set()
        for task in (self._task, self._sync):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def __aiter__(self) -> AsyncIterator[Batch]:
        await self.open()
        while not self._closed:
            batch = self.take()
            if batch is not None:
                yield batch
                await asyncio.sleep(PAUSE_S)
            else:
                self._wake.clear()
                await self._wake.wait()

    def take(self) -> Batch | None:
        if not self._since_flush and not self._report.fresh and self._told == self._reason:
            return None
        self._since_flush = 0
        rows = self._rows()
        problems = self._report.take()
        if not len(rows) and not problems and self._told == self._reason:
            return None
        self._told = self._reason
        return Batch(self.symbol, rows, not self._reason, self._reason, problems)

    def _rows(self) -> NDArray[np.void]:
        decoder = self._decoder
        try:
            raw = decoder.flush()
        except CaptureError as error:
            # Something among them is no price: what it was to say is lost.
            raw = np.zeros(0, RAW)
            decoder.discard()
            decoder.problem("bad-message", str(error))
            self._broke("a message was lost")
        rows, off = _on_grid(raw, self._tick, self._lot)
        if off:
            self._decoder.problem("off-grid", f"{off} rows fit no tick or lot; skipped")
            # So the book is not known, and the instrument is another than it was.
            self._broke("prices that fit no tick")
        return rows

    async def _stay_connected(self) -> None:
        """Connect, and connect again, until closed."""
        tries = 0
        url = self.client.market_url(next(_connections))
        self.client.takers[url] = self.received
        while True:
            before = self.messages
            self._due_ns = self._clock() + round((self._silence_s + DIALLING_S) * SECOND)
            self._alive.clear()
            self._renewed.clear()
            # ccxt's own pauses grow to half a minute.
            self.client.ws_dial_backoff = {}
            first, *more = self.subscriptions()
            broken = asyncio.ensure_future(self.client.watch(url, self.symbol, first, self.symbol))
            silent = asyncio.create_task(self._until_silent())
            renewed = asyncio.create_task(self._renewed.wait())
            subscribed = asyncio.create_task(self._subscribe(url, more))
            try:
                await asyncio.wait((broken, silent, renewed), return_when=asyncio.FIRST_COMPLETED)
                reason = f"silent for {self._silence_s:g} s"
                if broken.done():
                    reason = redact(str(broken.exception()))
                elif renewed.done():
                    reason = self._doubt
            finally:
                for task in (silent, broken, renewed, subscribed):
                    task.cancel()
                await self.client.hang_up(url)
            self._broke(f"connection lost: {reason}")
            tries = 0 if self.messages > before else tries + 1
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

    async def _subscribe(self, url: str, messages: Sequence[dict[str, Any]]) -> None:
        connection = self.client.clients[url]
        # Not awaited itself, which would cancel it with us.
        await asyncio.wait([connection.connected])
        with suppress(Exception):
            for message in messages:
                await connection.send(message)

    def renew(self, reason: str) -> None:
        self._doubt = reason
        self._renewed.set()

    async def _until_silent(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    await self._alive.wait()
            except TimeoutError:
                return
            self._alive.clear()
            await asyncio.sleep(self._silence_s / 4)

    def _broke(self, reason: str) -> None:
        self._decoder.interrupt()
        self._reason = reason
        self._wake.set()

    def received(self, text: str | bytes) -> None:
        """Take a message of the stream, the moment it is read."""
        local_ns = self._clock()
        if local_ns >= self.alarm_ns:
            self.alarm(local_ns)
        self._alive.set()
        if text in self.chatter:
            return
        if self._keep is not None:
            self._keep(local_ns, text.encode() if isinstance(text, str) else text)
        if self._since_flush >= MAX_WAITING:
            self._broke(f"{MAX_WAITING} messages wait for their consumer; this one is dropped")
            return
        self._decode(local_ns, text)

    def _decode(self, local_ns: int, text: str | bytes) -> None:
        decoder = self._decoder
        was_whole = decoder.valid
        self.messages += 1
        decoder.line = self.messages
        try:
            message = orjson.loads(text)
        except ValueError:
            # Half a message: whatever it said is lost.
            decoder.local_ns = max(decoder.local_ns, local_ns)
            decoder.problem("bad-line", "not a JSON message; the book is unreliable until the next snapshot")
            decoder.interrupt()
        else:
            decoder.message(local_ns, message)
        self._since_flush += 1
        self._wake.set()
        if decoder.valid:
            self._reason = ""
            return
        self._reason = self._reason or "a message was lost"
        self.mend(was_whole or self.unfounded or local_ns > self._due_ns)


class FormatFeed(StreamFeed):
    """A feed whose messages are those of an importer of feeds (`mmenv.data.formats.feed`)."""

    importer: ClassVar[type[FeedImporter]]
    _decoder: FeedDecoder

    def decoder(self, report: Report) -> FeedDecoder:
        return FeedDecoder(self.importer, source_of(self.client.venue, self.symbol), report)

    @property
    def unfounded(self) -> bool:
        return self._decoder.unfounded


@njit(cache=True, nogil=True)
def _on_grid(raw: NDArray[np.void], tick: int, lot: int) -> tuple[NDArray[np.void], int]:
    """ROW [n - m] of RAW [n] with prices in ticks and sizes in lots, and m, the rows that fit none."""
    rows = np.empty(len(raw), ROW)
    place = 0
    for source in raw:
        if source.price % tick or source.size % lot:
            continue
        row = rows[place]
        row.exch_ns = source.local_ns if source.exch_ns == UNKNOWN_NS else source.exch_ns
        row.local_ns, row.kind, row.side, row.id = source.local_ns, source.kind, source.side, source.id
        row.price, row.size = source.price // tick, source.size // lot
        place += 1
    return rows[:place], len(raw) - place
