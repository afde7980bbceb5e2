"""The live desk: connects a feed, a session and, for real orders, a venue. One for each symbol; several share
a process and its event loop.

What decides is `mmenv.live.session`; here is what touches the world: the clock, the network, files and
signals. If anything here raises, the session is halted and says why before anything else happens.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
import traceback
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmenv.config import ConfigError, EnvConfig, differences
from mmenv.data.capture import BBO, CLEAR, DEPTH, SNAPSHOT, TRADE
from mmenv.data.tape import ROW
from mmenv.kernel import HALTED
from mmenv.live import orders
from mmenv.live.again import recover, setup_of
from mmenv.live.feed import NEVER_NS, Batch
from mmenv.live.guard import STATES, GuardConfig
from mmenv.live.journal import Journal, Memory, read
from mmenv.live.orders import Fill, OpenOrder, OrderClient, VenueError
from mmenv.live.session import Outgoing, Player, Session, Setup
from mmenv.market.live import Live
from mmenv.market.replay import units
from mmenv.venue.live import LiveVenue
from mmenv.venue.paper import View
from mmenv.venue.replay import EVENT_FIELDS

T = TypeVar("T")

SECOND: Final = 1_000_000_000
WINDOW: Final = 0.1
"""Prices within this fraction of the first mid are followed."""
HALT_FILE: Final = "halt"
FOREIGN: Final = (
    "start_ns", "session", "low_tick", "high_tick", "position", "baseline", "last_trade",
)  # fmt: skip
"""Fields of a `Setup` that a restart takes from the journal."""
SLEEP_S: Final = 0.05
SPIN_S: Final = 0.0015
"""Not slept before a decision: 1.5% of a core for each desk that decides every tenth of a second."""
GRACE_S: Final = 5.0
"""How long a desk that stops waits for its orders to be gone."""


class MarketFeed(AsyncIterable[Batch], Protocol):
    """What `mmenv.live.feed.Feed` is to a desk."""

    alarm_ns: int
    """Local time from which a message, before it is decoded, sets off `alarm`."""
    alarm: Any

    async def open(self) -> Any:
        """The instrument: `tick_size`, `lot_size`, `maker_fee_bp`."""

    def take(self) -> Batch | None:
        """What has come that was not iterated over yet; None if nothing has."""

    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one desk is to do."""

    config: EnvConfig
    """Of the policy; its market is replaced by `mmenv.market.live.Live`."""
    policy: str
    """Name and checksum of the policy."""
    venue: str
    symbol: str
    folder: Path
    """Where the journal lies, and where `neuralmm halt` leaves its word."""
    mode: str = "paper"
    guard: GuardConfig | None = None
    """None: the limits of `config`, in the instrument's currency."""
    latency_ms: float = 10.0
    """Of paper orders, one way."""
    queue_model: str = "risk-adverse"
    maker_fee_bp: float | None = None
    """None: what the feed says."""
    price_unit: int = 0
    """Half-ticks; 0 measures it before the first decision."""
    lot_unit: float = 0.0
    """Lots; 0 measures it before the first decision."""
    warm_up_s: float = 10.0
    """Rows gathered before the first decision, and measured."""
    resume_s: float = 60.0
    """A desk that was down for less goes on with its memory; after longer a new episode begins."""
    countdown_s: float = 10.0
    """The venue cancels everything when it has not heard from us for so long, where it can."""
    rotate_mb: float = 1_000.0
    """The journal goes on in a new file at this size, and at midnight UTC."""
    sync: bool = False
    """Let the journal outlive the machine, not only the process: a disk write for each decision."""

    @property
    def journal(self) -> Path:
        return self.folder / f"{self.mode}-{self.venue}-{self.symbol}.journal"


class LiveDesk:
    """One symbol, from connection to the last cancel.

    Args:
        plan: what to do.
        player: the policy.
        feed: market data.
        client: of the venue, for real orders; None trades on paper.
        clock: nanoseconds since 1970.
        timer: seconds that never run backwards, for latencies.
        realtime: meet the time of a decision by not sleeping just before it, and collect garbage just after
            it. Not on a virtual loop, where time only passes asleep.
    """

    def __init__(
        self,
        plan: Plan,
        player: Player,
        feed: MarketFeed,
        client: OrderClient | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
        timer: Callable[[], float] = time.perf_counter,
        realtime: bool = False,
    ) -> None:
        if (plan.mode == "live") != (client is not None):
            raise ConfigError(f"Plan.mode = {plan.mode!r} is not possible: live needs a client, paper none.")
        self.plan, self.player, self.feed, self.client = plan, player, feed, client
        self.clock, self.timer, self.realtime = clock, timer, realtime
        self.session: Session | None = None
        self.messages: deque[str] = deque(maxlen=8)
        """What happened, newest last, for the screen."""
        self.rows = 0
        self.latencies: deque[float] = deque(maxlen=10_000)
        """Seconds from the time of a decision until its orders were on their way."""
        self.work: deque[float] = deque(maxlen=10_000)
        """Seconds that a decision took."""
        self.finished = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None
        self._stopping = False
        self._tidied = 0
        self._word = ""
        self._batches = aiter(feed)

    async def run(self, seconds: float = float("inf")) -> None:
        """Trade until stopped, for `seconds` at most; then cancel all and close the journal.

        Raises whatever made the desk stop, after the session was halted and its orders cancelled.
        """
        self._failed = asyncio.get_running_loop().create_future()
        try:
            beginning = asyncio.create_task(self._begin())
            self._tasks.add(beginning)
            await asyncio.wait((beginning, self._failed), return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                return
            beginning.result()
            assert self.session is not None
            self.feed.alarm, self.feed.alarm_ns = self._on_time, self.session.next_ns
            if self.realtime:
                # All there is by now stays; what comes is collected when there is time for it.
                gc.freeze()
                gc.disable()
            for work in (self._watch_market(), self._decide(), self._watch_halt()):
                self._start(work)
            if self.client is not None:
                self._start(self._stay_alive(self.client))
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    asyncio.shield(self._failed), None if seconds == float("inf") else seconds
                )
        finally:
            await self._end()

    def stop(self, reason: str) -> None:
        """Halt, cancel all and end `run`."""
        self.command("halt", reason)
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    def command(self, command: str, reason: str) -> None:
        """An operator's command; see `Session.operator`."""
        if self.session is not None:
            self.note(f"{command}: {reason}")
            self.session.operator(command, reason, self.clock())
            if command in ("halt", "flatten", "error"):
                self._cancel_all()

    def note(self, text: str) -> None:
        """Show a message."""
        stamp = np.datetime64(self.clock(), "ns").astype("datetime64[s]")
        self.messages.append(f"{stamp} {self.plan.symbol} {text}")

    # Beginning.

    async def _begin(self) -> None:
        rehearse(self.plan, self.player)
        instrument = await self.feed.open()
        if self.client is not None:
            await self.client.open()
        known = self.plan.journal.exists() and next(read(self.plan.journal), None) is not None
        if not known:
            self.session = await self._new(instrument)
        else:
            self.session = self._recover(instrument)
        if self.client is not None:
            self._start(self._watch_orders(self.client))
        if known:
            if self.client is not None:
                await self._reconcile(self.client)
            self._resume()
        self._heed()

    def _recover(self, instrument: Any) -> Session:
        found = setup_of(self.plan.journal)
        asked = self._setup(instrument, found.market, 0, (found.low_tick, found.high_tick))
        kept = {name: getattr(found, name) for name in FOREIGN}
        ours, theirs = (json.loads(s.to_json()) for s in (replace(asked, **kept), found))
        if differ := "; ".join(differences(ours, theirs)):
            raise ConfigError(
                f"{self.plan.journal} is of a session with other settings ({differ}). "
                "Use the same, or move it (and its parts) away to begin a new session."
            )
        return recover(self.plan.journal, self.player, self.plan.sync)

    def _resume(self) -> None:
        """Go on deciding, on the old grid of times; with the memory there was, unless it is stale."""
        session = self.session
        assert session is not None
        down = (self.clock() - session.next_ns) / SECOND
        missed = max(-(round(-down * SECOND) // session.setup.interval_ns), 0) + 1
        command = "resume" if down < self.plan.resume_s else "restart"
        at = session.next_ns + missed * session.setup.interval_ns
        session.operator(command, f"down for {down:.1f} s", at)
        self.note(f"{command} after {down:.1f} s")

    async def _new(self, instrument: Any) -> Session:
        """Gather rows until the book is known and the market measured; then begin."""
        held: list[NDArray[np.void]] = []
        live_since = 0
        async for batch in self._batches:
            if not batch.live:
                held, live_since = [], 0
                continue
            held.append(batch.rows)
            live_since = live_since or self.clock()
            if self.clock() - live_since >= self.plan.warm_up_s * SECOND:
                break
        rows = np.concatenate(held)
        market, window = self._measure(rows)
        books: dict[str, Any] = {}
        if self.client is not None:
            books = await self._asked(self._first_books, self.client)
        interval = round(market.step_seconds * SECOND)
        start = (max(self.clock(), int(rows["local_ns"].max())) // interval + 1) * interval
        setup = replace(self._setup(instrument, market, start, window), **books)
        session = Session(setup, self.player, Journal(self.plan.journal, self.plan.sync))
        session.feed(True, "")
        session.take(rows, self.clock())
        self.note(f"price unit {market.price_unit} half-ticks, volume unit {market.lot_unit:g} lots")
        return session

    async def _first_books(self, client: OrderClient) -> dict[str, Any]:
        """What a new session must know of the account. Raises `ConfigError` where it is not alone."""
        found = await client.open_orders()
        if found:
            names = ", ".join(order.client_id for order in found)
            raise ConfigError(
                f"{self.plan.symbol} has open orders that no journal knows ({names}): cancel them, a desk "
                "must be alone with its symbol."
            )
        trades = [fill.trade_id for fill in await client.fills(0)]
        held = (await client.account()).position_lots
        linear = self.plan.venue.endswith("usdm")
        return {
            "last_trade": max(trades, default=0),
            "position": held if linear else 0,
            "baseline": 0 if linear else held,
        }

    def _measure(self, rows: NDArray[np.void]) -> tuple[Live, tuple[int, int]]:
        """The market with its units, and the window of prices to follow."""
        plan = self.plan
        prices = rows["price"][rows["price"] > 0]
        middle = float(np.median(prices))
        window = max(round(middle * (1 - WINDOW)), 1), round(middle * (1 + WINDOW))
        step = plan.config.market.step_seconds
        price_unit, lot_unit = plan.price_unit, plan.lot_unit
        if not (price_unit and lot_unit):
            measured = units(_watch(View(*window), rows, round(step * SECOND)))
            price_unit, lot_unit = price_unit or measured[0], lot_unit or measured[1]
        live = Live(
            step_seconds=step, venue=plan.venue, symbol=plan.symbol, price_unit=price_unit, lot_unit=lot_unit
        )
        return live, window

    def _setup(self, instrument: Any, market: Live, start_ns: int, window: tuple[int, int]) -> Setup:
        plan = self.plan
        fee = instrument.maker_fee_bp if plan.maker_fee_bp is None else plan.maker_fee_bp
        config = replace(plan.config, market=market, start_inventory=0, maker_fee_bp=fee)
        setup = Setup(
            config=config,
            guard=GuardConfig(daily_loss=1.0, drawdown=1.0, position_limit=config.risk.position_limit),
            policy=plan.policy,
            mode=plan.mode,
            session=f"nmm{plan.symbol}{start_ns // 1_000_000:x}",
            start_ns=start_ns,
            tick_size=instrument.tick_size,
            lot_size=instrument.lot_size,
            low_tick=window[0],
            high_tick=window[1],
            latency_ns=round(plan.latency_ms * 1e6),
            queue_model=plan.queue_model,
        )
        if plan.guard is not None:
            return replace(setup, guard=plan.guard)
        loss = config.risk.daily_loss_limit * market.price_unit * setup.money
        return replace(setup, guard=replace(setup.guard, daily_loss=loss, drawdown=loss))

    # While it runs.

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Halt first, then say why and end."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        with suppress(Exception):
            self.command("error", text)
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _watch_market(self) -> None:
        assert self.session is not None
        async for batch in self._batches:
            self._see(batch)
            if self._stopping:
                return

    def _see(self, batch: Batch) -> None:
        session = self.session
        assert session is not None
        if batch.problems:
            self.note(f"feed: {batch.problems[-1]}")
        session.feed(batch.live, batch.reason)
        if len(batch.rows):
            self.rows += len(batch.rows)
            self._timed(lambda: session.take(batch.rows, self.clock()))

    async def _decide(self) -> None:
        """Be there when a decision is due, unless a message is there before."""
        session = self.session
        assert session is not None
        spin, tidied = SPIN_S if self.realtime else 0.0, session.next_ns
        while not self._stopping:
            if (now := self.clock()) >= session.next_ns:
                self._decide_now(now)
            if session.next_ns != tidied:
                tidied = session.next_ns
                self._tidy(session)
            # Timers are up to a millisecond late; what is left is waited for by asking again and again.
            await asyncio.sleep(max((session.next_ns - self.clock()) / SECOND - spin, 0.0))

    def _tidy(self, session: Session) -> None:
        """What can wait until a decision has been made."""
        if isinstance(session.sink, Journal):
            session.sink.rotate(self.clock(), round(self.plan.rotate_mb * 1e6))
        if self.realtime:
            # What outlives one collection is looked at again once a minute.
            self._tidied += 1
            gc.collect(1 if self._tidied % 600 else 2)

    def _on_time(self, now_ns: int) -> None:
        """A decision is due while messages are being read, which may take longer than it can wait."""
        try:
            if not self._stopping:
                self._decide_now(now_ns)
        except Exception as error:
            self.feed.alarm_ns = NEVER_NS
            self._fail(error)

    def _decide_now(self, now_ns: int) -> None:
        """All decisions that are due, by all that has been received."""
        session = self.session
        assert session is not None
        if (batch := self.feed.take()) is not None:
            self._see(batch)
        while now_ns >= session.next_ns:
            self._timed(lambda: session.tick(now_ns))

    def _timed(self, act: Callable[[], None]) -> None:
        """Let the session act, send what it wants sent, and note how long both took."""
        session = self.session
        assert session is not None
        due, state, began = session.next_ns, session.state, self.timer()
        act()
        self._send()
        if session.next_ns != due:
            self.feed.alarm_ns = session.next_ns
            self.work.append(self.timer() - began)
            self.latencies.append((self.clock() - session.next_ns + session.setup.interval_ns) / SECOND)
        if session.state != state:
            self.note(f"{STATES[session.state]}: {session.guard.reason()}")

    def _send(self) -> None:
        session = self.session
        assert session is not None
        outbox, session.outbox = session.outbox, []
        for outgoing in outbox if self.client is not None else []:
            self._send_one(outgoing)

    def _send_one(self, outgoing: Outgoing) -> None:
        session, client = self.session, self.client
        assert session is not None
        assert client is not None
        assert isinstance(session.venue, LiveVenue)
        if outgoing.cancel_all:
            self._cancel_all()
        for command in outgoing.commands:
            name = session.venue.client_id(int(command["id"]))
            if command["lots"] == 0:
                self._request(client.cancel(name))
                continue
            order = orders.Order(
                client_id=name,
                side=int(command["side"]),
                tick=int(command["tick"]),
                lots=int(command["lots"]),
                reduce_only=outgoing.reduce_only and self.plan.venue == "binance-usdm",
            )
            self._request(client.submit(order))

    def _request(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    def _cancel_all(self) -> None:
        if self.client is not None:
            self._request(self._until_cancelled(self.client))

    async def _until_cancelled(self, client: OrderClient) -> None:
        """Cancel all, however often the venue must be asked."""
        while not self._stopping:
            try:
                await client.cancel_all()
                return
            except VenueError as error:
                self.note(str(error))
                await asyncio.sleep(20 * SLEEP_S)

    async def _watch_orders(self, client: OrderClient) -> None:
        session = self.session
        assert session is not None
        async for event in client.events():
            session.hear(event)
            if isinstance(event, orders.Reject):
                self.note(f"rejected: {event.code} {event.reason}")

    async def _reconcile(self, client: OrderClient) -> None:
        """After a restart: cancel all, hear the missed fills, compare orders and position.

        The session then goes on, or halts naming the difference.
        """
        session = self.session
        assert session is not None
        assert isinstance(session.venue, LiveVenue)
        standing, missed, position = await self._asked(self._books, client)
        for fill in missed:
            session.hear(fill)
        session.account(standing, position, self.clock())
        self.note(f"compared with the venue: {len(missed)} missed fills, {len(standing)} orders were open")

    async def _books(self, client: OrderClient) -> tuple[list[OpenOrder], list[Fill], int]:
        """What was open and has been cancelled, fills that may be missing, and the position after both."""
        assert self.session is not None
        assert isinstance(self.session.venue, LiveVenue)
        standing = await client.open_orders()
        await client.cancel_all()
        while await client.open_orders():
            await asyncio.sleep(SLEEP_S)
        missed = await client.fills(self.session.venue.told_until)
        return standing, missed, (await client.account()).position_lots

    async def _asked(self, question: Callable[[OrderClient], Awaitable[T]], client: OrderClient) -> T:
        """The answer, however often the venue must be asked."""
        while True:
            try:
                return await question(client)
            except VenueError as error:
                self.note(f"comparing with the venue: {error}")
                await asyncio.sleep(20 * SLEEP_S)

    async def _stay_alive(self, client: OrderClient) -> None:
        """Keep the venue's countdown from cancelling our orders; it does once we are gone."""
        while True:
            with suppress(VenueError):
                if not await client.cancel_after(self.plan.countdown_s):
                    return
            await asyncio.sleep(self.plan.countdown_s / 3)

    async def _watch_halt(self) -> None:
        while not self._stopping:
            self._heed()
            await asyncio.sleep(2 * SLEEP_S)

    def _heed(self) -> None:
        """Act on a new word in the halt file."""
        file = self.plan.folder / HALT_FILE
        try:
            word = file.read_text()
        except FileNotFoundError:
            word = ""
        if word != self._word:
            self._word = word
            if word:
                command, _, reason = word.partition(" ")
                known = command in ("halt", "flatten", "reduce", "clear")
                # What cannot be read is no reason to go on.
                self.command(command if known else "halt", reason.strip() or f"file {file}")

    # Ending.

    async def _end(self) -> None:
        """Cancel all, wait for the orders to be gone, close."""
        session = self.session
        try:
            if session is not None and self.client is not None:
                if session.state != HALTED:
                    self.command("halt", "the desk stops")
                await self._until_flat(session)
        finally:
            self._stopping = True
            for task in [*self._tasks, *self._requests]:
                task.cancel()
            await asyncio.gather(*self._tasks, *self._requests, return_exceptions=True)
            await self.feed.close()
            if self.client is not None:
                await self.client.close()
            if session is not None and isinstance(session.sink, Journal):
                session.sink.close()
            self.finished = True
            if self.realtime:
                gc.enable()
        if self._failed is not None and self._failed.done():
            self._failed.result()

    async def _until_flat(self, session: Session) -> None:
        """Until no order is open, or for GRACE_S."""
        assert self.client is not None
        until = self.clock() + round(GRACE_S * SECOND)
        self._cancel_all()
        while self.clock() < until and session.working.slots["id"].any():
            await asyncio.sleep(SLEEP_S)
        with suppress(VenueError):
            left = await self.client.open_orders()
            if left:
                await self.client.cancel_all()
                self.note(f"{len(left)} orders were still open at the end; cancelled again")


def rehearse(plan: Plan, player: Player) -> None:
    """A session of two decisions that nobody hears of: compiled code is loaded before the market waits."""
    market = Live(step_seconds=plan.config.market.step_seconds, venue=plan.venue, symbol=plan.symbol)
    config = replace(plan.config, market=market, start_inventory=0)
    guard = GuardConfig(daily_loss=1e12, drawdown=1e12, position_limit=config.risk.position_limit)
    setup = Setup(
        config=config, guard=guard, policy="", mode="paper", session="", start_ns=2, tick_size="1",
        lot_size="1", low_tick=100, high_tick=2000,
    )  # fmt: skip
    session = Session(setup, player, Memory())
    kinds = ((CLEAR, 0), (SNAPSHOT, 1), (SNAPSHOT, -1), (DEPTH, 1), (BBO, 1), (BBO, -1), (TRADE, 1))
    rows = np.array([(1, 1, kind, side, 1000 - side, 5, 1) for kind, side in kinds], ROW)
    session.feed(True, "")
    session.take(rows)
    for _ in range(2):
        session.tick(session.next_ns)
    player.reset()


def _watch(view: View, rows: NDArray[np.void], interval_ns: int) -> dict[str, NDArray[np.int64]]:
    """Columns of EVENT_FIELDS at every decision that could have been made, nothing quoted."""
    at, events = 0, []
    for time_ns in range(int(rows["local_ns"][0]) + interval_ns, int(rows["local_ns"][-1]), interval_ns):
        end = int(np.searchsorted(rows["local_ns"], time_ns, side="right"))
        view.take(rows[at:end])
        view.observe(time_ns)
        if view.known:
            events.append(view.event.copy())
        view.begin()
        at = end
    if len(events) < 2:
        raise ConfigError("the market was silent while it was measured; give price_unit and lot_unit.")
    return dict(zip(EVENT_FIELDS, np.stack(events, axis=1), strict=True))
