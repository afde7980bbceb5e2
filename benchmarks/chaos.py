"""Random faults and kills against the local exchange: `python -m benchmarks.chaos --schedules 1000`.

Each schedule is a live desk with real orders at the in-process exchange, on a virtual clock. Messages are
lost, delayed, doubled, halved; requests are refused, lost, never answered; connections break, clocks jump;
and the desk is killed in the middle of what it does, its last write torn, and started again. After each, the
desk's journal and the exchange's own books must tell the same story to the last unit.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from mmenv import make_config
from mmenv.data.tape import Tape, tapes
from mmenv.kernel import HALTED
from mmenv.live import journal
from mmenv.live.again import check, decisions, setup_of
from mmenv.live.desk import LiveDesk, Plan
from mmenv.live.exchange import Account, Exchange, Listing
from mmenv.live.faults import Faults
from mmenv.live.feed import Feed
from mmenv.live.guard import GuardConfig
from mmenv.live.journal import Journal, read
from mmenv.live.loopback import Loopback, VirtualLoop
from mmenv.live.order_client import VenueOrders
from mmenv.live.orders import VenueError
from mmenv.live.venue import BaseError, Credentials
from mmenv.market.live import Live
from mmenv.venue.live import LiveVenue

SECOND = 1_000_000_000
START_NS = 1_760_000_000 * SECOND
SYMBOL = "BTCUSDT"
LIMIT = 3
MAX_ORDERS = 120


class Wanderer:
    """Quotes at the touch or inside it, leaning at random, by what it has seen in this episode so far."""

    def __init__(self) -> None:
        self.memory = 0

    def reset(self) -> None:
        self.memory = 0

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        self.memory = (self.memory * 31 + zlib.crc32(observation.tobytes())) % (1 << 61)
        lean = np.random.default_rng(self.memory).uniform(-0.03, 0.03)
        return np.array([-1.0, lean], np.float32)


class Watched(Journal):
    """A journal that remembers what it has promised to keep."""

    promised = 0

    def flush(self) -> None:
        super().flush()
        Watched.promised = self.frames


@dataclass
class Outcome:
    """What became of one schedule; `violations` is empty if all is well."""

    seed: int
    faults: list[str]
    kills: int = 0
    decisions: int = 0
    orders: int = 0
    fills: int = 0
    halted: float = 0.0
    """Share of decisions made HALTED."""
    rules: Counter[str] = field(default_factory=Counter)
    """How often each rule asked."""
    latched: list[str] = field(default_factory=list)
    """What still waits for the operator at the end."""
    violations: list[str] = field(default_factory=list)


def plan(folder: Path, symbol: str = SYMBOL) -> Plan:
    """A desk with tight limits, so that they are met."""
    market = Live(venue="binance-usdm", symbol=symbol)
    return Plan(
        config=make_config(market, horizon=60, risk={"position_limit": LIMIT}),
        policy="wanderer",
        venue="binance-usdm",
        symbol=symbol,
        folder=folder,
        mode="live",
        guard=GuardConfig(daily_loss=1e9, drawdown=1e9, position_limit=LIMIT, max_orders=MAX_ORDERS),
        price_unit=4,
        lot_unit=20.0,
        warm_up_s=0.5,
        countdown_s=3.0,
    )


class Trial:
    """One schedule."""

    def __init__(self, tape: Sequence[Tape], seed: int, folder: Path, seconds: float, kills: int) -> None:
        self.rng = np.random.default_rng([seed, 1])
        self.seed, self.folder, self.seconds, self.kills = seed, folder, seconds, kills
        self.account = Account("key", "secret")
        self.listing = Listing(tape, repeat=True)
        horizon = round(seconds * SECOND)
        self.faults = Faults.random(seed, horizon, count=int(self.rng.integers(0, 9)))
        self.exchange = Exchange(
            [self.listing], start_ns=START_NS, accounts=[self.account], faults=self.faults
        )
        self.outcome = Outcome(seed, [fault.kind for fault in self.faults.faults])
        self.wallet = self.account.wallet

    def run(self) -> Outcome:
        """Run it and compare. Faults end before the desk does, so that it can find out what happened."""
        with VirtualLoop(START_NS) as loop:
            asyncio.set_event_loop(loop)
            # ccxt's connections of killed desks complain when they are collected.
            loop.set_exception_handler(lambda *_: None)
            loop.run_until_complete(self._trade(loop))
            # What a killed desk left running.
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            asyncio.set_event_loop(None)
        self._compare()
        return self.outcome

    async def _trade(self, loop: VirtualLoop) -> None:
        carrier = Loopback(self.exchange, loop)
        until = START_NS + round(self.seconds * SECOND)
        moments = np.sort(self.rng.uniform(0.2, 1.0, int(self.rng.integers(0, self.kills + 1))))
        for moment in [*moments, None]:
            end = until if moment is None else START_NS + round(float(moment) * self.seconds * SECOND)
            desk, task = await self._start(carrier, loop, end)
            if moment is not None:
                await self._kill(desk, task)
                await asyncio.sleep(float(self.rng.uniform(0.0, 3.0)))
            else:
                # The faults are over: everything must come to rest.
                await asyncio.sleep(8.0)
                desk.stop("end of the schedule")
                try:
                    await task
                except Exception as error:
                    self.outcome.violations.append(f"the desk raised {type(error).__name__}: {error}")
            self.desk = desk
            await desk.feed.client.close()  # type: ignore[attr-defined]
        await carrier.close()

    async def _start(
        self, carrier: Loopback, loop: VirtualLoop, end_ns: int
    ) -> tuple[LiveDesk, asyncio.Task[None]]:
        """A desk that runs at `end_ns`; one that finds no venue when it starts is started again."""
        while True:
            desk = await self._desk(carrier, loop)
            task = loop.create_task(desk.run())
            try:
                left = max((end_ns - loop.time_ns()) / SECOND, 0.01)
                await asyncio.wait_for(asyncio.shield(task), left)
            except TimeoutError:
                return desk, task
            except (BaseError, VenueError):
                await desk.feed.client.close()  # type: ignore[attr-defined]
                await asyncio.sleep(0.5)

    async def _desk(self, carrier: Loopback, loop: VirtualLoop) -> LiveDesk:
        feed = Feed("binance-usdm", SYMBOL, client=carrier.client("binance-usdm"), clock=loop.time_ns)
        client = carrier.client("binance-usdm", Credentials("key", "secret"))
        while True:
            try:
                instrument = await client.instrument(SYMBOL)
                break
            except Exception:
                await asyncio.sleep(0.5)
        orders = VenueOrders(client, instrument)
        return LiveDesk(plan(self.folder), Wanderer(), feed, orders, clock=loop.time_ns, timer=loop.time)

    async def _kill(self, desk: LiveDesk, task: asyncio.Task[None]) -> None:
        """As SIGKILL does: nothing is tidied up, and the last write may be torn."""
        self.outcome.kills += 1
        session = desk.session
        if session is not None and isinstance(session.sink, Journal):
            file = session.sink
            torn = bytes(file._buffer)[: int(self.rng.integers(0, len(file._buffer) + 1))]
            os.write(file._file, torn)
            os.close(file._file)
            session.sink = journal.Memory()
            kept = sum(1 for _ in read(file.path))
            if kept < Watched.promised:
                self.outcome.violations.append(f"journal: {Watched.promised - kept} flushed frames are gone")

        async def nothing() -> None:
            pass

        desk._end = nothing  # type: ignore[method-assign]
        desk._stopping = True
        tasks = [task, *desk._tasks, *desk._requests]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await desk.client.close()  # type: ignore[union-attr]
        await desk.feed.close()

    def _compare(self) -> None:
        """The journal beside the exchange's own books."""
        outcome, path = self.outcome, self.desk.plan.journal
        say = outcome.violations.append
        session = self.desk.session
        if session is None:
            if self.account.orders:
                say("orders were sent without a session")
            return
        assert isinstance(session.venue, LiveVenue)
        book = self.account.position(self.listing)
        if session.working.position != book.lots:
            say(f"position {session.working.position}, at the exchange {book.lots}")
        paid = session.venue.notional * self.listing.tick * self.listing.lot
        cash = -paid - sum(session.venue.fees.values(), Decimal(0))
        if cash != self.account.wallet - self.wallet - book.cost:
            say(f"cash {cash}, at the exchange {self.account.wallet - self.wallet - book.cost}")
        ours = sorted(session.venue.client_id(int(n)) for n in session.working.slots["id"].reshape(-1) if n)
        theirs = sorted(order.client_id for order in self.account.open(self.listing))
        if ours != theirs:
            say(f"open orders {ours}, at the exchange {theirs}")
        self._check_limits(say)
        made = decisions(path)
        outcome.decisions, outcome.fills = len(made), session.fills
        outcome.halted = float((made["state"] == HALTED).mean()) if len(made) else 0.0
        outcome.latched = [f"{f.rule}: {f.reason}" for f in session.guard.latched.values()]
        self._check_journal(path, made, say)

    def _check_limits(self, say: Any) -> None:
        held = 0
        for trade in self.account.trades:
            held += trade.order.side * trade.lots
            if abs(held) > LIMIT:
                say(f"position {held} beyond the limit")
        if any(not order.client_id.startswith("nmm") for order in self.account.orders.values()):
            say("an order that is not ours")

    def _check_journal(self, path: Path, made: NDArray[np.void], say: Any) -> None:
        sent = [frame.array() for frame in read(path) if frame.kind == journal.ORDERS]
        commands = np.concatenate(sent) if sent else np.zeros(0, journal.COMMAND)
        new = commands[commands["lots"] > 0]
        self.outcome.orders = len(new)
        halted = made["time_ns"][made["state"] == HALTED]
        if np.isin(new["time_ns"], halted).any():
            say("an order was sent while HALTED")
        times = np.sort(new["time_ns"])
        window = 10 * SECOND
        rate = np.arange(len(times)) - np.searchsorted(times, times - window, side="right") + 1
        if len(rate) and rate.max() > MAX_ORDERS:
            say(f"{rate.max()} orders in {window / SECOND:g} s")
        prefix = setup_of(path).session
        known = {f"{prefix}-{number}" for number in new["id"].tolist()}
        for order in self.account.orders.values():
            if order.client_id not in known:
                say(f"{order.client_id} is at the exchange, but not in the journal")
        for frame in read(path):
            if frame.kind == journal.STATE:
                self.outcome.rules.update(reason.split(":")[0] for reason in frame.json()["reasons"])
        try:
            check(path, Wanderer())
        except journal.JournalError as error:
            say(f"played again: {error}")


def run(tape: Sequence[Tape], seed: int, seconds: float = 10.0, kills: int = 2) -> Outcome:
    """One schedule by its seed."""
    with tempfile.TemporaryDirectory() as folder:
        return Trial(tape, seed, Path(folder), seconds, kills).run()


@dataclass(frozen=True)
class Chaos:
    """Run random schedules and print what was found."""

    store: Path | None = None
    """Store of tapes with binance-usdm BTCUSDT; otherwise a random market."""
    schedules: int = 1000
    """How many."""
    first: int = 0
    """Seed of the first."""
    seconds: float = 10.0
    """Virtual seconds of each under faults."""

    def run(self) -> int:
        """Print a line per violation and a summary; how many schedules went wrong."""
        import mmenv.live.desk as desk_module

        desk_module.Journal = Watched  # type: ignore[misc,attr-defined]
        with tempfile.TemporaryDirectory() as folder:
            tape = tapes(self.store or random_store(Path(folder)), "binance-usdm", SYMBOL)
            began, outcomes, wrong = time.perf_counter(), [], 0
            bar = tqdm(range(self.first, self.first + self.schedules), unit=" schedules")
            for seed in bar:
                found = run(tape, seed, self.seconds)
                outcomes.append(found)
                wrong += bool(found.violations)
                for violation in found.violations:
                    bar.write(f"seed {seed} ({', '.join(found.faults)}): {violation}")
                bar.set_postfix_str(f"{wrong} wrong")
        total = {
            name: sum(getattr(o, name) for o in outcomes)
            for name in ("kills", "decisions", "orders", "fills")
        }
        faults = Counter(kind for o in outcomes for kind in o.faults)
        rules = sum((o.rules for o in outcomes), Counter[str]())
        latched = Counter(reason.split(":")[0] for o in outcomes for reason in o.latched)
        halted = np.mean([o.halted for o in outcomes])
        print(f"{len(outcomes)} schedules, {wrong} wrong, {time.perf_counter() - began:.0f} s")
        print(", ".join(f"{count:,} {name}" for name, count in total.items()), f"{halted:.0%} of time HALTED")
        print("faults:", ", ".join(f"{count} {kind}" for kind, count in faults.most_common()))
        print("rules:", ", ".join(f"{rule} {count}" for rule, count in rules.most_common()))
        print("latched at the end:", dict(latched))
        return wrong


def random_store(folder: Path) -> Path:
    """A store with a minute of a random market."""
    from mmenv.data.importer import Import
    from tests.captures import market, write

    path = write(folder / "capture.gz", market(seconds=60, seed=5).lines)
    Import("binance", (path,), folder / "store", progress=False).run()
    return folder / "store"


if __name__ == "__main__":
    raise SystemExit(min(tyro.cli(Chaos).run(), 1))
