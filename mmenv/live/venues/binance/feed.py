"""Market data as it happens, in the rows of the store.

    async for batch in BinanceFeed(BinanceClient(USDM), "BTCUSDT"):
        ...

Diff depth, trades and book tickers of one symbol come over one connection and through the decoder of the
importer, so a live session and an imported capture of it are the same rows. After a lost message, a lost
connection or too long a silence the book is broken, and said to be, until it is built anew from a REST
snapshot.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from mmenv.data.decimals import decimal_units
from mmenv.data.formats.binance_decoder import Decoder
from mmenv.data.problems import Problem, Report
from mmenv.data.rows import RAW, ROW, UNKNOWN_NS, CaptureError
from mmenv.data.source import Source
from mmenv.live.market_feed import NEVER_NS, Batch, Instrument, MarketFeed
from mmenv.live.orders import VenueError
from mmenv.live.redact import redact
from mmenv.live.throttle import TooOften
from mmenv.live.venues.base import Keep
from mmenv.live.venues.binance.client import RETRY_S, BaseError, BinanceClient
from mmenv.times import SECOND

SNAPSHOT_S: Final = 1.0
"""A snapshot not answered for so long is asked for again."""
PAUSE_S: Final = 0.002
"""What comes within so long is handed over together: a batch costs as much as many messages."""
MAX_WAITING: Final = 1 << 20
"""Messages kept for a consumer that does not come; beyond them the feed breaks rather than the memory."""

_connections = itertools.count()


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


class BinanceFeed(MarketFeed):
    """Market data of one symbol, by a client that other feeds may share.

    Without any message for `silence_s` the connection is given up for dead. `keep` is given all that is
    received, stream and snapshot.
    """

    def __init__(
        self, client: BinanceClient, symbol: str, *, silence_s: float = 5.0, keep: Keep | None = None
    ) -> None:
        self.client, self.symbol = client, symbol
        self.instrument: Instrument | None = None
        self.messages = 0
        self.alarm_ns = NEVER_NS
        self.alarm: Callable[[int], None] = lambda local_ns: None
        self._silence_s = silence_s
        self._clock = client.clock
        self._keep = keep
        venue = client.market.venue
        self._report = _Problems([f"{venue} {symbol}"])
        self._decoder = Decoder(Source(venue, symbol), self._report)
        self._reason = "not connected yet"
        self._told: str | None = None
        self._since_flush = 0
        self._wake = asyncio.Event()
        self._alive = asyncio.Event()
        self._renewed = asyncio.Event()
        self._doubt = ""
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
        """See `MarketFeed.open`; `async for` does it if not done before."""
        if self.instrument is None:
            self.instrument = await self.client.instrument(self.symbol)
            if self.instrument.status:
                raise VenueError(f"{self.symbol} is not traded now: {self.instrument.status}")
            self._tick = decimal_units("tick size", self.instrument.tick_size)
            self._lot = decimal_units("lot size", self.instrument.lot_size)
            self._task = asyncio.create_task(self._stay_connected())
        return self.instrument

    async def look(self) -> Instrument:
        return await self.client.instrument(self.symbol, anew=True)

    def adopt(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._tick = decimal_units("tick size", instrument.tick_size)
        self._lot = decimal_units("lot size", instrument.lot_size)
        # What has come is in units of before.
        self._decoder.discard()
        self._broke("the instrument has changed")
        super().adopt(instrument)

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
            # So the book is not known, and the instrument is another than it was.
            self._decoder.problem("off-grid", f"{off} rows fit no tick or lot; skipped")
            self._broke("prices that fit no tick")
        return rows

    async def _stay_connected(self) -> None:
        """Connect, and connect again, until closed."""
        symbol, tries = self.symbol.lower(), 0
        url = self.client.market_url(next(_connections))
        streams = [f"{symbol}@{name}" for name in (self.client.market.diffs, "trade", "bookTicker")]
        self.client.takers[url] = self.received
        subscribe = {"method": "SUBSCRIBE", "params": streams, "id": 1}
        while True:
            before = self.messages
            self._alive.clear()
            self._renewed.clear()
            # ccxt's own pauses grow to half a minute.
            self.client.ws_dial_backoff = {}
            broken = asyncio.ensure_future(self.client.watch(url, self.symbol, subscribe, self.symbol))
            silent = asyncio.create_task(self._until_silent())
            renewed = asyncio.create_task(self._renewed.wait())
            try:
                await asyncio.wait((broken, silent, renewed), return_when=asyncio.FIRST_COMPLETED)
                reason = f"silent for {self._silence_s:g} s"
                if broken.done():
                    reason = redact(str(broken.exception()))
                elif renewed.done():
                    reason = self._doubt
            finally:
                for task in (silent, broken, renewed):
                    task.cancel()
                await self.client.hang_up(url)
            self._broke(f"connection lost: {reason}")
            tries = 0 if self.messages > before else tries + 1
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])

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
            except TooOften as error:
                pause = max(pause, (error.until_ns - self._clock()) / SECOND)
            except (BaseError, TimeoutError):
                pass
            if self._decoder.valid or not self._decoder.recent:
                return
            await asyncio.sleep(pause)


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
