"""The live desk: connects a feed, a session and, for real orders, a venue. One for each symbol; several share
a process and its event loop.

What decides is `mmenv.live.session`; here, in `beginning` and in `router` is what touches the world: the
clock, the network, files and signals. If anything here raises, the session is halted and says why before
anything else happens.
"""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.checks import ConfigError
from mmenv.engine.state import HALTED, STATES
from mmenv.live.beginning import check_size, make_setup, measure, recovered, rehearse
from mmenv.live.halt import HaltFile
from mmenv.live.journal import Journal, read, require_free
from mmenv.live.market_feed import NEVER_NS, Batch, Instrument, MarketFeed
from mmenv.live.orders import OpenOrder, OrderClient, VenueError
from mmenv.live.plan import Plan
from mmenv.live.redact import redact
from mmenv.live.relisting import changed, terms_of
from mmenv.live.router import OrderRouter
from mmenv.live.session import Session
from mmenv.live.setup import Player
from mmenv.live.tasks import Tasks
from mmenv.times import SECOND

SPIN_S: Final = 0.0015
"""Not slept before a decision: 1.5% of a core for each desk that decides every tenth of a second."""
HEED_S: Final = 0.1
"""The halt file is looked at this often."""
RENEW_S: Final = 5.0
"""A feed that is not trusted is begun anew this often."""
LOOK_AGAIN_S: Final = 5.0
"""A symbol that is not traded is looked at this often."""
AT_MOST_S: Final = 1.0
"""But never more often than this."""
QUIET_S: Final = 0.02
"""Pause between two looks at whether all orders are gone."""
KEPT: Final = 10_000
"""Decisions whose latencies are remembered."""


class LiveDesk:
    """One symbol, from connection to the last cancel.

    Parameters
    ----------
    plan
        What the desk is to do.
    player
        The policy.
    feed
        Market data.
    client
        Real orders at a venue; None trades on paper.
    clock
        Nanoseconds since 1970.
    timer
        Seconds that never run backwards, for latencies.
    realtime
        Meet the time of a decision by not sleeping just before it, and collect garbage just after it. Not on
        a virtual loop, where time only passes asleep.
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
            raise ConfigError(
                f"Plan.mode = {plan.mode!r} is not possible: it must be 'live' with a client, else 'paper'."
            )
        self.plan, self.player, self.feed, self.client = plan, player, feed, client
        self.clock, self.timer, self.realtime = clock, timer, realtime
        self.session: Session | None = None
        self.messages: deque[str] = deque(maxlen=8)
        """What happened, newest last, for the screen."""
        self.rows = 0
        self.latencies: deque[float] = deque(maxlen=KEPT)
        """Seconds from the time of a decision until its orders were on their way."""
        self.work: deque[float] = deque(maxlen=KEPT)
        """Seconds that a decision took."""
        self._tasks = Tasks(self._fail)
        self._doubtful = asyncio.Event()
        self._router = (
            OrderRouter(client, plan, self._tasks, clock, self.note, self._doubtful.set) if client else None
        )
        self._halt_file = HaltFile(plan.folder)
        self._early: list[tuple[str, str]] = []
        self._running: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[None] | None = None
        self._killed = False
        self._tidied = 0
        self._renew_ns = 0
        self._batches = aiter(feed)

    async def run(self, seconds: float = float("inf")) -> None:
        """Trade until stopped, for `seconds` at most; then cancel all and close the journal.

        Raises whatever made the desk stop, after the session was halted and its orders cancelled.
        """
        self._running = asyncio.current_task()
        self._failed = asyncio.get_running_loop().create_future()
        try:
            beginning = asyncio.create_task(self._begin())
            self._tasks.add(beginning)
            await asyncio.wait((beginning, self._failed), return_when=asyncio.FIRST_COMPLETED)
            if beginning.done():
                self._go_on(beginning.result())
                with suppress(TimeoutError):
                    await asyncio.wait_for(
                        asyncio.shield(self._failed), None if seconds == float("inf") else seconds
                    )
        finally:
            if not self._killed:
                await self._end()

    def stop(self, reason: str) -> None:
        """Cancel all and end `run`; the next start goes on without anybody's word."""
        self.command("stop", reason)
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    async def kill(self) -> None:
        """End as a process does that is killed: nothing more is sent, written, cancelled or closed."""
        self._killed = True
        self.feed.alarm_ns = NEVER_NS
        if self._running is not None:
            self._running.cancel()
            await self._tasks.cancel()
            await asyncio.wait((self._running,))

    def command(self, command: str, reason: str, said_ns: int = 0) -> None:
        """An operator's command; see `Session.operator`. Before the session begins, it waits for it."""
        reason = redact(reason)
        if self.session is None:
            self._early.append((command, reason))
            return
        self.note(f"{command}: {reason}")
        if command == "stop" and self.session.working_out:
            command = "rest"
        self.session.operator(command, reason, self.clock(), said_ns)
        if self._router is not None and command in ("halt", "flatten", "stop", "rest", "error"):
            self._router.cancel_all()

    def note(self, text: str) -> None:
        """Show a message."""
        stamp = np.datetime64(self.clock(), "ns").astype("datetime64[s]")
        self.messages.append(f"{stamp} {self.plan.symbol} {redact(text)}")

    # Beginning.

    async def _begin(self) -> Session:
        known = self.plan.journal.exists() and next(read(self.plan.journal), None) is not None
        standing: list[OpenOrder] = []
        if self.client is not None:
            await self.client.open()
        if known and self._router is not None:
            # Before anything that takes time: nothing may trade that nobody watches. But not where another
            # desk is at work with the journal, whose orders these are.
            require_free(self.plan.journal)
            standing = await self._router.cancelled()
        rehearse(self.plan, self.player)
        instrument = await self.feed.open()
        if known:
            session = recovered(self.plan, instrument, self.player)
            self._before_change(session, instrument)
        else:
            session = await self._new(instrument)
        self.session = session
        if self._router is not None:
            self._tasks.start(self._router.listen(session))
        if known:
            if self._router is not None:
                await self._router.reconcile(session, standing)
            self._resume(session)
        early, self._early = self._early, []
        for command, reason in early:
            self.command(command, reason)
        self._heed(session)
        return session

    def _before_change(self, session: Session, instrument: Instrument) -> None:
        """Where the instrument has changed while the desk was down: what was done before is told in the units
        of then, and the change is heeded once that is booked."""
        if what := changed(session.setup, instrument):
            setup = session.setup
            was = replace(instrument, tick_size=setup.tick_size, lot_size=setup.lot_size)
            session.unlist(what)
            self.feed.adopt(was)
            if self._router is not None:
                self._router.adopt(was)
            self._doubtful.set()

    def _resume(self, session: Session) -> None:
        """Go on deciding, on the old grid of times; with the memory there was, unless it is stale."""
        down = (self.clock() - session.next_ns) / SECOND
        start, interval = session.setup.start_ns, session.setup.interval_ns
        passed = -((start - max(self.clock(), session.next_ns)) // interval)
        at = start + (passed + 1) * interval
        command = "resume" if down < self.plan.resume_s else "reopen"
        session.operator(command, f"down for {down:.1f} s", at)
        self.note(f"{command} after {down:.1f} s")

    async def _new(self, instrument: Instrument) -> Session:
        """Gather rows until the book is known and the market measured; then begin."""
        rows = await self._warm_up()
        market, window = measure(self.plan, rows)
        if self._router is not None:
            check_size(self.plan, instrument, window)
        books = await self._router.first_books(instrument) if self._router is not None else {}
        interval = round(market.step_seconds * SECOND)
        start = (max(self.clock(), int(rows["local_ns"].max())) // interval + 1) * interval
        plan = await self._with_fees(instrument)
        setup = replace(make_setup(plan, instrument, market, start, window), **books)
        session = Session(setup, self.player, Journal(self.plan.journal, self.plan.sync))
        session.feed(True, "")
        session.take(rows, self.clock())
        self.note(f"price unit {market.price_unit} half-ticks, volume unit {market.lot_unit:g} lots")
        return session

    async def _with_fees(self, instrument: Instrument) -> Plan:
        """The plan with the fee that the venue charges this account, where it says so and none is given."""
        terms = None
        if self._router is not None and self.plan.maker_fee_bp is None:
            terms = await self._router.terms()
            if terms is None:
                self.note(
                    f"the venue does not say what it charges; {instrument.maker_fee_bp:g} bp are taken, "
                    "or --maker-fee-bp"
                )
        return self.plan if terms is None else replace(self.plan, maker_fee_bp=terms.maker_fee_bp)

    async def _warm_up(self) -> NDArray[np.void]:
        """ROW rows [n] of `warm_up_s` seconds without an interruption."""
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
        return np.concatenate(held)

    def _go_on(self, session: Session) -> None:
        """Start all that runs until the desk stops."""
        self.feed.alarm, self.feed.alarm_ns = partial(self._on_time, session), session.next_ns
        if self.realtime:
            # All there is by now stays; what comes is collected when there is time for it.
            gc.freeze()
            gc.disable()
        for work in (
            self._watch_market(session), self._decide(session), self._watch_halt(session),
            self._watch_instrument(session),
        ):  # fmt: skip
            self._tasks.start(work)
        if self._router is not None:
            self._tasks.start(self._router.stay_alive())

    # While it runs.

    def _fail(self, error: Exception) -> None:
        """Halt first, then say why and end."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        with suppress(Exception):
            self.command("error", text)
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _watch_market(self, session: Session) -> None:
        async for batch in self._batches:
            self._see(session, batch)

    def _see(self, session: Session, batch: Batch) -> None:
        if batch.problems:
            self.note(f"feed: {batch.problems[-1]}")
            if any(problem.kind == "off-grid" for problem in batch.problems):
                self._doubtful.set()
        session.feed(batch.live, batch.reason)
        if len(batch.rows):
            self.rows += len(batch.rows)
            self._timed(session, lambda: session.take(batch.rows, self.clock()))

    async def _decide(self, session: Session) -> None:
        """Be there when a decision is due, unless a message is there before."""
        spin, tidied = SPIN_S if self.realtime else 0.0, session.next_ns
        while True:
            if (now := self.clock()) >= session.next_ns:
                self._decide_now(session, now)
            if session.next_ns != tidied:
                tidied = session.next_ns
                self._tidy(session)
            # Timers are up to a millisecond late; what is left is waited for by asking again and again.
            await asyncio.sleep(max((session.next_ns - self.clock()) / SECOND - spin, 0.0))

    def _tidy(self, session: Session) -> None:
        """What can wait until a decision has been made."""
        if (why := session.distrust) and self.clock() >= self._renew_ns:
            self._renew_ns = self.clock() + round(RENEW_S * SECOND)
            self.feed.renew(why)
        if session.work >= self.plan.snapshot_work:
            session.snapshot()
        if isinstance(session.sink, Journal):
            session.sink.rotate(self.clock(), round(self.plan.rotate_mb * 1e6))
        if self.realtime:
            # What outlives one collection is looked at again once a minute.
            self._tidied += 1
            gc.collect(1 if self._tidied % 600 else 2)

    def _on_time(self, session: Session, now_ns: int) -> None:
        """A decision is due while messages are being read, which may take longer than it can wait."""
        try:
            self._decide_now(session, now_ns)
        except Exception as error:
            self.feed.alarm_ns = NEVER_NS
            self._fail(error)

    def _decide_now(self, session: Session, now_ns: int) -> None:
        """All decisions that are due, by all that has been received."""
        if (batch := self.feed.take()) is not None:
            self._see(session, batch)
        while now_ns >= session.next_ns:
            self._timed(session, lambda: session.tick(now_ns))

    def _timed(self, session: Session, act: Callable[[], None]) -> None:
        """Let the session act, send what it wants sent, and note how long both took."""
        due, state, began = session.next_ns, session.state, self.timer()
        act()
        outbox, session.outbox = session.outbox, []
        if self._router is not None:
            for outgoing in outbox:
                self._router.send(session, outgoing)
        if session.next_ns != due:
            self.feed.alarm_ns = session.next_ns
            self.work.append(self.timer() - began)
            self.latencies.append((self.clock() - session.next_ns + session.setup.interval_ns) / SECOND)
        if session.state != state:
            self.note(f"{STATES[session.state]}: {session.guard.reason()}")

    async def _watch_halt(self, session: Session) -> None:
        while True:
            self._heed(session)
            await asyncio.sleep(HEED_S)

    async def _watch_instrument(self, session: Session) -> None:
        """Ask now and then whether the symbol is still what it was, and at once where there is a doubt."""
        pause = self.plan.look_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._doubtful.wait()
            self._doubtful.clear()
            try:
                found = await self.feed.look()
            except (VenueError, ValueError) as error:
                self.note(f"is the instrument as it was? {error}")
                continue
            if found is None:
                return
            await self._heed_instrument(session, found)
            pause = min(LOOK_AGAIN_S, self.plan.look_s) if found.status else self.plan.look_s
            await asyncio.sleep(AT_MOST_S)

    async def _heed_instrument(self, session: Session, found: Instrument) -> None:
        """Stop where the symbol is not traded; stop, reload and go on where its terms have changed."""
        session.unlist(f"{found.symbol} is {found.status} at the venue" if found.status else "")
        if found.status or not (what := changed(session.setup, found)):
            return
        self.note(f"the instrument changes: {what}")
        session.unlist(what)
        while not session.quiet:
            await asyncio.sleep(QUIET_S)
        self.feed.adopt(found)
        self.feed.take()
        if self._router is not None:
            self._router.adopt(found)
        session.relist(terms_of(found))
        self.note(f"goes on by the new terms of {found.symbol}")

    def _heed(self, session: Session) -> None:
        """Act on a new word in the halt file."""
        if (news := self._halt_file.news(session.heard_ns)) is not None:
            command = "release" if news.word == "resume" else news.word
            self.command(command, news.reason, news.said_ns)

    # Ending.

    @property
    def _raised(self) -> bool:
        """Whether an exception ends the desk."""
        return self._failed is not None and self._failed.done() and self._failed.exception() is not None

    async def _end(self) -> None:
        """Cancel all, wait for the orders to be gone, close."""
        session = self.session
        try:
            if session is not None and self._router is not None:
                if session.state != HALTED or session.working_out:
                    self.command("stop", "the desk stops")
                await self._router.finish(session)
                if not (session.quiet or self._raised):
                    session.operator("end", "fills are to be booked", self.clock())
                    session.tick(self.clock())
        finally:
            self.feed.alarm_ns = NEVER_NS
            await self._tasks.cancel()
            await self.feed.close()
            if self.client is not None:
                await self.client.close()
            if session is not None and isinstance(session.sink, Journal):
                session.sink.close()
            if self.realtime:
                gc.enable()
        if self._failed is not None and self._failed.done():
            self._failed.result()
