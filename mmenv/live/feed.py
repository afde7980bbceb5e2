"""Market data as it happens, in the rows of the store.

    async for batch in Feed("binance-usdm", "BTCUSDT"):
        ...

Diff depth, trades and book tickers of one symbol come over one connection and through the decoder of the
importer, so a live session and an imported capture of it are the same rows. After a lost message, a lost
connection or too long a silence the book is broken, and said to be, until it is built anew from a REST
snapshot.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from mmenv.data.binance import Decoder
from mmenv.data.capture import RAW, UNKNOWN_NS, CaptureError, Problem, Report, Source, decimal_units
from mmenv.data.tape import ROW
from mmenv.live.venue import TOO_OFTEN, BaseError, Clock, Instrument, VenueClient

RETRY_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Pauses before a new connection or snapshot; the last one is repeated. A venue's return is thus noticed
within a second, at less than the 300 connections in five minutes that Binance allows."""
SNAPSHOT_S: Final = 1.0
"""A snapshot not answered for so long is asked for again."""
TOO_OFTEN_S: Final = 10.0
"""Pause when the venue says that we ask too often."""
PAUSE_S: Final = 0.002
"""What comes within so long is handed over together: a batch costs as much as many messages."""
NEVER_NS: Final = np.iinfo(np.int64).max
MAX_WAITING: Final = 1 << 20
"""Messages kept for a consumer that does not come; beyond them the feed breaks rather than the memory."""

_connections = itertools.count()


@dataclass(frozen=True, slots=True)
class Batch:
    """What came since the last batch. Not empty: rows, problems or a change of `live`.

    rows: `mmenv.data.tape.ROW` [n] in arrival order, n >= 0; a message is never split between batches. After
        a gap, the row CLEAR and the rows SNAPSHOT begin the book anew, as in a tape.
    live: whether the book is whole after these rows. False from the loss of a message, the connection or
        patience with a silent one until the book is built anew.
    reason: why not; empty if live.
    problems: what was wrong with the messages of this batch, a gap included.
    """

    symbol: str
    rows: NDArray[np.void]
    live: bool
    reason: str
    problems: tuple[Problem, ...]


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


class Feed:
    """Batches of one symbol for ever, through reconnections and resynchronisations.

    Args:
        venue: one of `mmenv.live.venue.VENUES`.
        symbol: the venue's own name, such as "BTCUSDT".
        client: a connection to the venue to share; otherwise one of its own.
        url: address of another server of the same protocol, such as "http://127.0.0.1:8080".
        silence_s: without any message for so long the connection is given up for dead.
        clock: local time in nanoseconds since 1970; a shared client's own is used.
        keep: is given the local time and bytes of everything received, stream and snapshot, as it comes.
    """

    def __init__(
        self,
        venue: str,
        symbol: str,
        *,
        client: VenueClient | None = None,
        url: str | None = None,
        silence_s: float = 5.0,
        clock: Clock = time.time_ns,
        keep: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.venue, self.symbol = venue, symbol
        self.client = client or VenueClient(venue, url=url, clock=clock)
        self.instrument: Instrument | None = None
        self.messages = 0
        self.alarm_ns: int = NEVER_NS
        """Local time from which a message, before it is decoded, sets off `alarm`."""
        self.alarm: Callable[[int], None] = _ignore
        """Given the local time: what cannot wait until the messages in the socket are read."""
        self._owned = client is None
        self._silence_s = silence_s
        self._clock = self.client.clock
        self._keep = keep
        self._report = _Problems()
        self._decoder = Decoder(Source(venue, symbol), self._report)
        self._decoder.name = f"{venue} {symbol}"
        self._reason = "not connected yet"
        self._told: str | None = None
        self._since_flush = 0
        self._wake = asyncio.Event()
        self._alive = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sync: asyncio.Task[None] | None = None
        self._closed = False
        self._tick = self._lot = 1

    @property
    def counts(self) -> dict[str, int]:
        """How many problems of each kind there have been."""
        return dict(self._report.counts)

    @property
    def reason(self) -> str:
        """Why the book is not whole; empty if it is."""
        return self._reason

    async def open(self) -> Instrument:
        """Connect and learn the instrument; `async for` does it if not done before.

        Raises:
            ValueError: the venue does not trade the symbol.
            ccxt.NetworkError: no answer at all.
        """
        if self.instrument is None:
            self.instrument = await self.client.instrument(self.symbol)
            self._tick = decimal_units("tick size", self.instrument.tick_size)
            self._lot = decimal_units("lot size", self.instrument.lot_size)
            self._task = asyncio.create_task(self._stay_connected())
        return self.instrument

    async def close(self) -> None:
        """Disconnect; the iteration ends."""
        self._closed = True
        self._wake.set()
        for task in (self._task, self._sync):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if self._owned:
            await self.client.close()

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
        """What has come since, without waiting; None if nothing has."""
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
            decoder.messages, raw = array("q"), np.zeros(0, RAW)
            decoder.texts.clear()
            decoder.problem("bad-message", str(error))
            self._broke("a message was lost")
        rows, off = _on_grid(raw, self._tick, self._lot)
        if off:
            self._decoder.problem("off-grid", f"{off} rows fit no tick or lot; skipped")
        return rows

    async def _stay_connected(self) -> None:
        """Connect, and connect again, until closed."""
        symbol, tries = self.symbol.lower(), 0
        url = self.client.market_url(next(_connections))
        depth = "depth@0ms" if self.venue == "binance-usdm" else "depth@100ms"
        streams = [f"{symbol}@{name}" for name in (depth, "trade", "bookTicker")]
        self.client.takers[url] = self._received
        subscribe = {"method": "SUBSCRIBE", "params": streams, "id": 1}
        while True:
            before = self.messages
            self._alive.clear()
            # ccxt's own pauses grow to half a minute.
            self.client.ws_dial_backoff = {}
            broken = asyncio.ensure_future(self.client.watch(url, self.symbol, subscribe, self.symbol))
            silent = asyncio.create_task(self._until_silent())
            try:
                await asyncio.wait((broken, silent), return_when=asyncio.FIRST_COMPLETED)
                reason = str(broken.exception()) if broken.done() else f"silent for {self._silence_s:g} s"
            finally:
                silent.cancel()
                broken.cancel()
                await self.client.hang_up(url)
            self._broke(f"connection lost: {reason}")
            tries = 0 if self.messages > before else tries + 1
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

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

    def _received(self, text: str | bytes) -> None:
        """A message of the stream, the moment it is read."""
        local_ns = self._clock()
        if local_ns >= self.alarm_ns:
            self.alarm(local_ns)
        self._alive.set()
        if self._keep is not None:
            self._keep(local_ns, text.encode() if isinstance(text, str) else text)
        if self._since_flush >= MAX_WAITING:
            self._broke(f"{MAX_WAITING} messages wait for their consumer; this one is dropped")
            return
        self._decode(local_ns, text)

    def _decode(self, local_ns: int, text: str | bytes) -> None:
        decoder = self._decoder
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
        if not self._reason:
            self._reason = "a message was lost"
        if decoder.recent and (self._sync is None or self._sync.done()):
            self._sync = asyncio.create_task(self._synchronise())

    async def _synchronise(self) -> None:
        """Ask for snapshots until one fits what has come since the gap."""
        for tries in itertools.count():
            pause = RETRY_S[min(tries + 1, len(RETRY_S) - 1)]
            try:
                async with asyncio.timeout(SNAPSHOT_S):
                    snapshot = orjson.dumps(await self.client.depth(self.symbol))
                local_ns = self._clock()
                if self._keep is not None:
                    self._keep(local_ns, snapshot)
                self._decode(local_ns, snapshot)
            except TOO_OFTEN:
                pause = TOO_OFTEN_S
            except (BaseError, TimeoutError):
                pass
            if self._decoder.valid or not self._decoder.recent:
                return
            await asyncio.sleep(pause)


def _ignore(local_ns: int) -> None:
    pass


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
