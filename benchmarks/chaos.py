"""Random faults and kills against the local exchange: `python -m benchmarks.chaos --schedules 1000`.

Each schedule is a live desk with real orders at the in-process exchange, on a virtual clock. Messages are
lost, delayed, doubled, halved; requests are refused, lost, never answered; connections break, clocks jump;
the desk is killed in the middle of what it does, its last write torn, and started again; an operator halts
it, flattens, and clears what waits for him. The venue, USD-M, spot or Bybit, bans the address, forgets the
key of the user stream, pays funding, takes fees or gives rebates in what was bought, in a coin or in money,
has thousands of old trades, changes tick and lot, suspends the symbol, is under maintenance, liquidates or
deleverages part of the position, and has the account in hedge mode for a while. After each, the desk's
journal and the exchange's own books must tell the same story to the last unit. Stopped, it goes on where it
was: results are kept by seed.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from mmenv import make_config
from mmenv.checks import ConfigError
from mmenv.data.tape import Tape, tapes
from mmenv.engine.state import HALTED
from mmenv.exchange.books import Account, Listing
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.faults import Faults
from mmenv.exchange.loopback import Loopback, VirtualLoop
from mmenv.files import replacing
from mmenv.live import journal
from mmenv.live.desk import LiveDesk
from mmenv.live.execution import LiveExecution
from mmenv.live.guard import GuardConfig
from mmenv.live.halt import leave_word
from mmenv.live.journal import Journal, read
from mmenv.live.market_feed import Batch
from mmenv.live.orders import VenueError
from mmenv.live.plan import Plan
from mmenv.live.rerun import check, setup_of
from mmenv.live.venues.base import VENUES as PLACES
from mmenv.live.venues.base import Credentials
from mmenv.live.venues.client import BaseError
from mmenv.live.venues.feed import StreamFeed
from mmenv.live.venues.names import long_name
from mmenv.live.venues.shared import SharedVenue
from mmenv.market.live import Live
from mmenv.times import SECOND

START_NS = 1_760_000_000 * SECOND
SYMBOL = "BTCUSDT"
VENUES = ("binance-usdm", "binance-spot", "bybit")
"""One after another in three schedules."""
FUNDING_S = 2.0
BALANCES = {"BTC": Decimal(100), "USDT": Decimal(1_000_000), "BNB": Decimal(5)}
FINER = 2
"""The finest grid that a schedule can change to, of the tape's."""
CLOSED_OUT = ("adl_", "autoclose-")
"""How the names of orders begin by which a venue itself takes off a position."""
LIMIT = 3
MAX_ORDERS = 120
DRAWDOWN = 0.012
"""Quote currency; one schedule in some reaches it."""


ACTIONS: dict[str, dict[str, Any]] = {
    "spread-skew": {},
    "ladder": {"quote": {"name": "ladder", "levels": 3}, "risk": {"order_lots": LIMIT}},
    "size": {"quote": {"name": "size"}, "risk": {"order_lots": LIMIT}},
    "taker": {"quote": {"name": "taker", "taker_lots": 2}},
    "touch": {"quote": {"name": "touch"}},
    "touch-taker": {"quote": {"name": "touch-taker", "taker_lots": 2, "taker_threshold": 0.2}},
}
"""What a schedule's desk decides, by name of the action: settings over those of `plan`."""


class Wanderer:
    """Quotes at the touch or inside it, leaning at random, by what it has seen in this episode so far; what
    else an action decides is drawn, too."""

    def __init__(self, action: str = "spread-skew") -> None:
        self.action = action
        self.memory = 0

    def reset(self) -> None:
        self.memory = 0

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        self.memory = (self.memory * 31 + zlib.crc32(observation.tobytes())) % (1 << 61)
        rng = np.random.default_rng(self.memory)
        lean = rng.uniform(-0.03, 0.03)
        quotes = rng.uniform(-1.0, 1.0, 2) if self.action.startswith("touch") else (-1.0, lean)
        return np.array([*quotes, *rng.uniform(*MORE[self.action])], np.float32)

    @property
    def state(self) -> bytes:
        """The memory."""
        return str(self.memory).encode()

    @state.setter
    def state(self, saved: bytes) -> None:
        self.memory = int(saved)


MORE: dict[str, tuple[list[float], list[float]]] = {
    "spread-skew": ([], []),
    # Steps of a tick or so, any shape; a market order in two decisions of five.
    "ladder": ([-1.0, -1.0, -1.0, -1.0], [-0.8, -0.8, 1.0, 1.0]),
    "size": ([-1.0, -1.0], [1.0, 1.0]),
    "taker": ([-0.35], [0.35]),
    "touch": ([], []),
    "touch-taker": ([-0.35], [0.35]),
}
"""The lowest and the highest of the numbers that follow the first two."""


@dataclass
class Outcome:
    """What became of one schedule; `violations` is empty if all is well."""

    seed: int
    faults: list[str]
    venue: str = "binance-usdm"
    action: str = "spread-skew"
    kills: int = 0
    decisions: int = 0
    orders: int = 0
    market_orders: int = 0
    """Of these."""
    fills: int = 0
    halted: float = 0.0
    """Share of decisions made HALTED."""
    rules: Counter[str] = field(default_factory=Counter)
    """How often each rule asked."""
    latched: list[str] = field(default_factory=list)
    """What waited for the operator, each time he came, and at the end."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the end of a break or silence, nothing else being wrong, until the book was whole."""
    flattening: int = 0
    """Orders sent while HALTED, to flatten."""
    violations: list[str] = field(default_factory=list)


def plan(folder: Path, venue: str, symbol: str = SYMBOL, action: str = "spread-skew") -> Plan:
    """A desk with tight limits, so that they are met."""
    market = Live(venue=venue, symbol=symbol)
    settings = ACTIONS[action] | {"risk": {"position_limit": LIMIT} | ACTIONS[action].get("risk", {})}
    return Plan(
        config=make_config(market, horizon=60, **settings),
        policy="wanderer",
        venue=venue,
        symbol=symbol,
        folder=folder,
        mode="live",
        guard=GuardConfig(daily_loss=1e9, drawdown=DRAWDOWN, position_limit=LIMIT, max_orders=MAX_ORDERS),
        price_unit=4,
        lot_unit=20.0,
        warm_up_s=0.5,
        countdown_s=3.0,
        rotate_mb=0.03,
        snapshot_work=2_000,
        look_s=1.0,
    )


def watch(feed: StreamFeed, noted: list[tuple[int, bool, StreamFeed]]) -> StreamFeed:
    """The feed, which notes when it says whether its book is whole."""
    take = feed.take

    def noting() -> Batch | None:
        if (batch := take()) is not None:
            noted.append((feed.client.clock(), batch.live, feed))
        return batch

    feed.take = noting  # type: ignore[method-assign]
    return feed


class Trial:
    """One schedule."""

    def __init__(
        self, tape: Sequence[Tape], seed: int, folder: Path, seconds: float, kills: int,
        operator: bool = True, unruly: bool = False, action: str = "spread-skew",
    ) -> None:  # fmt: skip
        self.action = action
        self.rng = np.random.default_rng([seed, 1])
        self.seed, self.folder, self.seconds, self.kills = seed, folder, seconds, kills
        self.operator = np.random.default_rng([seed, 2]) if operator else None
        self.desk: LiveDesk | None = None
        self.whole: list[tuple[int, bool, StreamFeed]] = []
        """When which feed said whether its book is whole."""
        self.account = Account("key", "secret", balances=dict(BALANCES), coins={"BNB": BALANCES["BNB"]})
        self.venue = tape[0].info.venue
        self.futures = self.venue != "binance-spot"
        self.listing = Listing(tape, repeat=True, finer=FINER)
        horizon = round(seconds * SECOND)
        self.faults = Faults.random(seed, horizon, count=int(self.rng.integers(0, 9)))
        self.exchange = Exchange(
            [self.listing], start_ns=START_NS, accounts=[self.account], faults=self.faults
        )
        self.unruly = list(self._unruliness()) if unruly else []
        kinds = [kind for _, kind, _ in self.unruly if kind]
        if funded := [at for at, kind, _ in self.unruly if kind == "funding"]:
            # Venues say beforehand when they will pay.
            self.listing.funding_ns = START_NS + round((min(funded) + FUNDING_S) * SECOND)
        # A request that is late at a venue whose clock jumps back can still be carried out when the venue has
        # said that it never came and is too old by now.
        late = {"slow", "clock-jump"} <= {fault.kind for fault in self.faults.faults}
        self.strangers = late or bool({"adl", "liquidation"} & set(kinds))
        """Whether there may be fills that the desk cannot expect."""
        harm = [*(fault.kind for fault in self.faults.faults), *kinds]
        self.outcome = Outcome(seed, harm, self.venue, action)
        self.wallet = self.account.wallet

    def _unruliness(self) -> Iterator[tuple[float, str, Callable[[], None]]]:
        """What real venues do besides: when, its name, and what does it."""
        rng, exchange, listing = np.random.default_rng([self.seed, 3]), self.exchange, self.listing
        account, tick, lot = self.account, *self.listing.grid
        exchange.present.prices["BNB"] = Decimal(600)
        account.fees_in = str(rng.choice(("", "BNB") if self.futures else ("", "BNB", "received")))
        listing.maker = Decimal(str(rng.choice(("-0.00005", "0", "0.0002", "0.0004"))))
        if rng.random() < 0.3:
            exchange.trade_long_ago(account, listing, 2_000, START_NS - 10**15)
        acts: dict[str, Callable[[], None]] = {
            "ban": lambda: exchange.ban(self.venue, float(rng.uniform(0.5, 3.0))),
            "lost-stream": exchange.lose_user_streams,
            "finer-grid": lambda: exchange.relist(listing, tick / FINER, lot / FINER),
            "first-grid": lambda: exchange.relist(listing, tick, lot),
            "suspension": lambda: exchange.suspend(listing, "BREAK"),
            "maintenance": lambda: exchange.maintain(self.venue, float(rng.uniform(0.3, 2.0))),
        }
        if self.futures:
            acts |= {
                "funding": lambda: exchange.fund(listing, Decimal("0.0003"), FUNDING_S),
                "adl": lambda: exchange.close_out(account, listing, FINER, "adl_autoclose"),
                "liquidation": lambda: exchange.close_out(account, listing, 9, f"autoclose-{self.seed}"),
                "hedge-mode": lambda: setattr(account, "hedged", True),
            }
        undo: dict[str, Callable[[], None]] = {
            "suspension": lambda: exchange.suspend(listing, "TRADING"),
            "hedge-mode": lambda: setattr(account, "hedged", False),
        }
        for name in rng.choice(list(acts), int(rng.integers(1, 5))):
            at = float(rng.uniform(0.1, 0.7))
            yield at * self.seconds, str(name), acts[str(name)]
            if str(name) in undo:
                yield float(rng.uniform(at, 0.9)) * self.seconds, "", undo[str(name)]

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
        operating = loop.create_task(self._operate(self.operator)) if self.operator is not None else None
        for at, _, act in self.unruly:
            loop.call_later(at, act)
        loop.call_later(self.seconds, lambda: setattr(self.listing, "funding_ns", 0))
        until = START_NS + round(self.seconds * SECOND)
        moments = np.sort(self.rng.uniform(0.2, 1.0, int(self.rng.integers(0, self.kills + 1))))
        for moment in [*moments, None]:
            end = until if moment is None else START_NS + round(float(moment) * self.seconds * SECOND)
            desk, task = await self._start(carrier, loop, end, begun=moment is None)
            if moment is not None:
                await self.kill(desk)
                await asyncio.sleep(float(self.rng.uniform(0.0, 3.0)))
            else:
                # The faults are over: everything must come to rest.
                await asyncio.sleep(8.0)
                if operating is not None:
                    operating.cancel()
                desk.stop("end of the schedule")
                try:
                    await task
                except Exception as error:
                    self.outcome.violations.append(f"the desk raised {type(error).__name__}: {error}")
            await self._hang_up(desk)
        await carrier.close()

    async def _operate(self, rng: np.random.Generator) -> None:
        """Somebody who now and then says halt, and sooner or later clears what waits for him."""
        word = str(rng.choice(("", "halt", "flatten", "reduce")))
        at = float(rng.uniform(0.2, 0.9)) * self.seconds
        for number in range(1_000):
            await asyncio.sleep(float(rng.uniform(0.5, 3.0)))
            passed = (self.exchange.present.now_ns - START_NS) / SECOND
            session = self.desk.session if self.desk is not None else None
            if word and passed > at:
                self._say(number, word)
                word = ""
            elif session is not None and session.guard.latched:
                self.outcome.latched += [f"{f.rule}: {f.reason}" for f in session.guard.latched.values()]
                self._say(number, "clear")

    def _say(self, number: int, word: str) -> None:
        self.folder.mkdir(exist_ok=True)
        leave_word(self.folder, word, f"operator {number}", self.exchange.present.now_ns)

    async def _start(
        self, carrier: Loopback, loop: VirtualLoop, end_ns: int, begun: bool
    ) -> tuple[LiveDesk, asyncio.Task[None]]:
        """A desk that runs at `end_ns`, or later if it must have `begun`; one that finds no venue when it
        starts is started again."""
        while True:
            desk = await self.make_desk(carrier, loop)
            task = loop.create_task(desk.run())
            try:
                while True:
                    left = max((end_ns - loop.time_ns()) / SECOND, 0.01)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.shield(task), left)
                    if desk.session is not None or not begun:
                        return desk, task
            except (BaseError, VenueError):
                await self._hang_up(desk)
                await asyncio.sleep(0.5)

    async def make_desk(self, carrier: Loopback, loop: VirtualLoop) -> LiveDesk:
        """A desk that has not begun, as soon as the venue says what the symbol is."""
        place = PLACES.find(self.venue)
        assert issubclass(place, SharedVenue)
        client = carrier.client(self.venue, Credentials("key", "secret"))
        while True:
            try:
                instrument = await client.instrument(SYMBOL)
                break
            except Exception:
                await asyncio.sleep(0.5)
        feed = watch(place.feeds(carrier.client(self.venue), SYMBOL), self.whole)
        orders = place.orderings(client, instrument, keep_alive_s=2.0)
        planned = plan(self.folder, self.venue, action=self.action)
        self.desk = LiveDesk(
            planned, Wanderer(self.action), feed, orders, clock=loop.time_ns, timer=loop.time
        )
        return self.desk

    async def kill(self, desk: LiveDesk) -> None:
        """Do as SIGKILL does: nothing is tidied up, and the last write may be torn."""
        self.outcome.kills += 1
        session = desk.session
        if session is not None and isinstance(session.sink, Journal):
            file = session.sink
            file.tear(int(self.rng.integers(0, file.pending + 1)))
            session.sink = journal.Memory()
            kept = sum(1 for _ in read(file.path))
            if kept < file.flushed:
                self.outcome.violations.append(f"journal: {file.flushed - kept} flushed frames are gone")
        await desk.kill()
        assert desk.client is not None
        await desk.client.close()
        await desk.feed.close()

    async def _hang_up(self, desk: LiveDesk) -> None:
        assert isinstance(desk.feed, StreamFeed)
        await desk.feed.client.close()

    def _compare(self) -> None:
        """The journal beside the exchange's own books."""
        assert self.desk is not None
        outcome, path = self.outcome, self.desk.plan.journal
        say = outcome.violations.append
        session = self.desk.session
        if session is None:
            if self.account.orders:
                say("orders were sent without a session")
            return
        execution = session.execution
        assert isinstance(execution, LiveExecution)
        setup, charges, quote = session.setup, execution.charges, self.listing.quote
        base, none = self.listing.base, Decimal(0)
        held = (setup.baseline + session.working.position) * Decimal(setup.lot_size) - charges.owed
        cash = charges.funding.get(quote, none) - charges.fees.get(quote, none) - execution.paid
        book, balances = self.account.position(self.listing), self.account.balances
        theirs = {
            "position": balances[base],
            "cash": balances[quote] - BALANCES[quote],
            "BNB": balances["BNB"],
        }
        if self.futures:
            theirs = {
                "position": book.lots * self.listing.lot,
                "cash": self.account.wallet - self.wallet - book.cost,
                "BNB": self.account.coins["BNB"],
            }
        ours = {"position": held, "cash": cash, "BNB": BALANCES["BNB"] - charges.fees.get("BNB", none)}
        for name, value in ours.items():
            if value != theirs[name]:
                say(f"{name} {value}, at the exchange {theirs[name]}")
        known = sorted(execution.client_id(int(n)) for n in session.working.slots["id"].reshape(-1) if n)
        standing = sorted(long_name(order.client_id, SYMBOL) for order in self.account.open(self.listing))
        if known != standing:
            say(f"open orders {known}, at the exchange {standing}")
        lots, limit = 0, LIMIT * FINER
        for trade in self.account.trades:
            # What the venue itself takes off the position is known to the desk once it is told.
            limit += trade.lots * trade.order.client_id.startswith(CLOSED_OUT)
            lots += trade.order.side * trade.lots
            if abs(lots) > limit:
                say(f"position {lots / FINER} beyond the limit")
        outcome.fills = session.fills
        outcome.latched += [f"{f.rule}: {f.reason}" for f in session.guard.latched.values()]
        outcome.recoveries = list(self._recoveries())
        for violation in self._read(path, session.decision.dtype):
            say(violation)
        try:
            check(path, Wanderer(self.action))
        except journal.JournalError as error:
            say(f"played again: {error}")

    def _read(self, path: Path, kind: np.dtype) -> Iterator[str]:
        """What is wrong with a journal, its figures being noted.

        Of every order it is asked when it was sent: the state of its decision, who had asked to flatten, what
        was held.
        """
        outcome, halted = self.outcome, 0
        prefix = setup_of(path).session
        flatten, lost, peak, made = False, False, -np.inf, np.zeros(1, kind)[0]
        times: list[int] = []
        known: set[str] = set()
        for frame in list(read(path)):
            if frame.kind == journal.OPERATOR:
                command = frame.json()["command"]
                flatten = command == "flatten" if command in ("halt", "flatten") else flatten
                # Only what was latched when it was given is taken back, and only then is a loss counted anew.
                peak = -np.inf if command == "clear" and lost else peak
            elif frame.kind == journal.STATE:
                rules = [reason.split(":")[0] for reason in frame.json()["reasons"]]
                outcome.rules.update(rules)
                # A word that was given before the halt was does not take it back.
                flatten &= "operator" in rules
                lost = "drawdown" in rules and frame.json()["to"] == "HALTED"
                # Nobody else trades here, and the policy raises nothing.
                never = NEVER[self.strangers :]
                yield from (f"false alarm: {frame.json()['reasons']}" for r in rules if r in never)
            elif frame.kind == journal.DECISION:
                made = np.frombuffer(frame.payload, kind)[0]
                outcome.decisions += 1
                halted += int(made["state"] == HALTED)
                peak = max(peak, float(made["wealth"]))
                if peak - made["wealth"] >= DRAWDOWN and made["state"] != HALTED:
                    yield f"decision {made['number']}: not HALTED {peak - made['wealth']:.3f} below the peak"
            elif frame.kind == journal.ORDERS:
                new = frame.array()[frame.array()["lots"] > 0]
                times += new["time_ns"].tolist()
                known |= {f"{prefix}-{number}" for number in new["id"].tolist()}
                if made["state"] == HALTED:
                    outcome.flattening += len(new)
                    held = int(made["outcome"]["position_lots"])
                    shrinks = (new["side"] * held < 0) & (new["lots"] <= abs(held))
                    if len(new) and not (flatten and shrinks.all()):
                        yield "an order that is not to flatten was sent while HALTED"
            elif frame.kind == journal.TAKERS:
                times += frame.array()["time_ns"].tolist()
                known |= {f"{prefix}-{number}" for number in frame.array()["id"].tolist()}
                outcome.market_orders += len(frame.array())
                if made["state"] == HALTED:
                    yield "a market order was sent while HALTED"
        outcome.orders = len(times)
        outcome.halted = halted / max(outcome.decisions, 1)
        sent = np.sort(np.array(times, np.int64))
        rate = np.arange(len(sent)) - np.searchsorted(sent, sent - 10 * SECOND, side="right") + 1
        if len(rate) and rate.max() > MAX_ORDERS:
            yield f"{rate.max()} orders in 10 s"
        for order in self.account.orders.values():
            theirs = order.client_id.startswith(CLOSED_OUT)
            if long_name(order.client_id, SYMBOL) not in known and not theirs:
                yield f"{order.client_id} is at the exchange, but not in the journal"

    def _recoveries(self) -> Iterator[float]:
        """Seconds from the end of each break or silence until the book was whole, where nothing else went
        wrong until two seconds later."""
        for fault in self.faults.faults:
            end = fault.start_ns + fault.duration_ns
            later = end + 2 * SECOND
            alone = not any(
                other.start_ns < later and other.start_ns + other.duration_ns > end
                for other in self.faults.faults
                if other is not fault
            )
            if fault.kind not in ("break", "silence") or fault.channel not in ("all", "market") or not alone:
                continue
            at = START_NS + end
            feeds = [feed for time_ns, _, feed in self.whole if time_ns <= at]
            after = [(time_ns, feed) for time_ns, live, feed in self.whole if live and time_ns > at]
            # A desk that was killed meanwhile has other things to do.
            if feeds and after and after[0][1] is feeds[-1]:
                yield (after[0][0] - at) / SECOND
            elif feeds and not after:
                yield float("inf")


NEVER = ("unknown-order", "policy", "position", "far-quote")
"""Rules that nothing here can give a reason for; the first is what `Trial.strangers` look like."""


def run(
    tape: Sequence[Tape],
    seed: int,
    seconds: float = 10.0,
    kills: int = 2,
    unruly: bool = False,
    action: str = "spread-skew",
) -> Outcome:
    """One schedule by its seed; `unruly`, with what real venues do besides."""
    with tempfile.TemporaryDirectory() as folder:
        return Trial(tape, seed, Path(folder), seconds, kills, unruly=unruly, action=action).run()


@dataclass(frozen=True)
class Chaos:
    """Run random schedules and print what was found."""

    store: Path | None = None
    """Store of tapes with BTCUSDT of binance-usdm and binance-spot; otherwise a random market."""
    schedules: int = 1000
    """Number of schedules."""
    first: int = 0
    """Seed of the first."""
    venue: str | None = None
    """One of VENUES; otherwise they take turns."""
    action: str = "spread-skew"
    """What the desk decides, one of ACTIONS; "all": they take turns, too."""
    seconds: float = 10.0
    """Virtual seconds of each under faults."""
    results: Path = Path("logs/chaos.jsonl")
    """A line for each schedule; what is there with the same `seconds` and `store` is not run again."""

    def run(self) -> int:
        """Print a line per violation and a summary; how many schedules went wrong.

        Raises `ConfigError` for a venue or an action that it does not play.
        """
        if self.venue not in (None, *VENUES):
            raise ConfigError(
                f"--venue = {self.venue!r} is not possible: it must be one of {', '.join(VENUES)}."
            )
        if self.action not in ("all", *ACTIONS):
            raise ConfigError(
                f"--action = {self.action!r} is not possible: it must be all, {', '.join(ACTIONS)}."
            )
        done = self._done()
        seeds = range(self.first, self.first + self.schedules)
        if kept := sum(seed in done for seed in seeds):
            print(f"{kept} of them are in {self.results}; delete it to run them again")
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder, self.results.open("a") as file:
            store = self.store or random_store(Path(folder))
            played = {venue: spoken(store, venue) for venue in VENUES}
            bar = tqdm([seed for seed in seeds if seed not in done], unit=" schedules")
            for seed in bar:
                tape, action = played[self._venue(seed)], self._action(seed)
                found = done[seed] = run(tape, seed, self.seconds, unruly=True, action=action)
                file.write(json.dumps(self._key() | vars(found)) + "\n")
                file.flush()
                bar.set_postfix_str(f"{sum(bool(done[s].violations) for s in seeds if s in done)} wrong")
                for violation in found.violations:
                    bar.write(f"seed {seed} {action} ({', '.join(found.faults)}): {violation}")
        print(f"{time.process_time() - began:.0f} s of processor time")
        return report([done[seed] for seed in seeds])

    def _venue(self, seed: int) -> str:
        return self.venue or VENUES[seed % len(VENUES)]

    def _action(self, seed: int) -> str:
        # Each of them at each of the venues.
        return [*ACTIONS][seed // len(VENUES) % len(ACTIONS)] if self.action == "all" else self.action

    def _key(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "store": str(self.store)}

    def _done(self) -> dict[int, Outcome]:
        """Outcomes on file by seed; a torn last line is cut off."""
        self.results.parent.mkdir(parents=True, exist_ok=True)
        text = self.results.read_text() if self.results.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with replacing(self.results) as temporary:
                temporary.write_text(whole)
        found = {}
        for line in map(json.loads, whole.splitlines()):
            if {name: line.pop(name) for name in self._key()} == self._key():
                outcome = Outcome(**line)
                outcome.rules = Counter(outcome.rules)
                if (outcome.venue, outcome.action) == (self._venue(outcome.seed), self._action(outcome.seed)):
                    found[outcome.seed] = outcome
        return found


def report(outcomes: Sequence[Outcome]) -> int:
    """Print the figures of schedules; how many went wrong."""
    wrong = [o for o in outcomes if o.violations]
    for o in wrong:
        print(f"seed {o.seed} {o.action} ({', '.join(o.faults)}): {'; '.join(o.violations)}")
    names = ("kills", "decisions", "orders", "market_orders", "flattening", "fills")
    total = {name: sum(getattr(o, name) for o in outcomes) for name in names}
    faults = Counter(kind for o in outcomes for kind in o.faults)
    rules = sum((o.rules for o in outcomes), Counter[str]())
    latched = Counter(reason.split(":")[0] for o in outcomes for reason in o.latched)
    halted = np.mean([o.halted for o in outcomes])
    at = ", ".join(f"{count} at {venue}" for venue, count in Counter(o.venue for o in outcomes).items())
    print(f"{len(outcomes)} schedules ({at}), {len(wrong)} wrong")
    print(
        ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in total.items()),
        f"{halted:.0%} of time HALTED",
    )
    print("faults:", ", ".join(f"{count} {kind}" for kind, count in faults.most_common()))
    print("rules:", ", ".join(f"{rule} {count}" for rule, count in rules.most_common()))
    print("cleared by the operator, or left at the end:", dict(latched))
    back = [seconds for o in outcomes for seconds in o.recoveries]
    if back:
        print(
            f"book whole again after the end of {len(back)} breaks and silences: "
            f"median {np.median(back):.3f} s, worst {max(back):.3f} s"
        )
    return len(wrong)


def spoken(store: Path, venue: str) -> list[Tape]:
    """The tapes of a store at a venue; Bybit plays those of USD-M."""
    found = tapes(store, "binance-usdm" if venue == "bybit" else venue, SYMBOL)
    for tape in found:
        tape.info = replace(tape.info, venue=venue)
    return found


def random_store(folder: Path) -> Path:
    """A store with a minute of a random market, at each of Binance's VENUES."""
    from mmenv.data.importer import Import
    from tests.helpers.captures import market, write

    for venue in VENUES[:2]:
        sent = market(seconds=60, seed=5, venue=venue.removeprefix("binance-"))
        path = write(folder / f"{venue}.gz", sent.lines)
        Import("binance", (path,), folder / "store", progress=False).run()
    return folder / "store"


if __name__ == "__main__":
    raise SystemExit(min(tyro.cli(Chaos).run(), 1))
