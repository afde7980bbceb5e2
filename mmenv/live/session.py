"""One symbol's desk without input or output: rows, reports and the time go in, orders come out.

Training, backtest, paper and live share `mmenv.desk.desk.Desk`; this adds what only happens live: a decision
clock on wall time, the guard, orders in flight, the journal. It reads no clock and opens no file, so the same
inputs give the same bytes: `mmenv.live.rerun` plays a journal again and compares every frame, a restart
recovers by it, and the tests drive it through thousands of faults in virtual time.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any, Final

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from mmenv.data.rows import CLEAR, SNAPSHOT
from mmenv.engine.state import ACTIVE, HALTED, REDUCING
from mmenv.live import journal
from mmenv.live.episodes import Episodes
from mmenv.live.execution import LiveExecution
from mmenv.live.guard import DISTRUST, Facts, Guard
from mmenv.live.journal import Sink
from mmenv.live.orders import AnyEvent, OpenOrder
from mmenv.live.relisting import Terms, relisted
from mmenv.live.setup import (
    NOTHING_SENT,
    OF_POLICY,
    Outgoing,
    Player,
    Setup,
    decision_type,
    orders_a_decision,
)
from mmenv.live.snapshot import Kept, give_back, keep, memory_of, pack, same_layout, unpack
from mmenv.live.streams import Streams
from mmenv.live.supervisor import Supervisor
from mmenv.times import MILLISECOND
from mmenv.venue.outcome import OUTCOME
from mmenv.venue.paper import PaperVenue
from mmenv.venue.view import View
from mmenv.venue.working import Working, slots

NO_SKEW: Final = np.iinfo(np.int64).max
DECISION_WORK: Final = 50
"""Rows that take as long to play again as a decision does."""
_STATE: Final = (
    "next_ns", "decision", "fills", "flatten", "heard_ns", "_moved", "_broken", "_unlisted", "_last_ns",
    "_heard_ns", "_skew_ns", "_last_trade", "_decisions", "_resting",
)  # fmt: skip


class Session:
    """The desk of one symbol.

    Rows, feed changes, order reports and operator commands go in as they come; `tick` makes a decision.
    What is to be sent collects in `outbox`, already on record when it does.
    Without a player, as where a journal is replayed, actions are those in `given`.
    """

    def __init__(self, setup: Setup, player: Player | None, sink: Sink) -> None:
        self.player, self.sink = player, sink
        self._build(setup)
        self.guard = Guard(setup.guard, orders_a_decision(setup.config.quote))
        self._streams = Streams(setup.guard.stream_patience, round(setup.guard.stale_ms * MILLISECOND))
        self._supervisor = Supervisor(self.guard, *self._kernel_states(), self._note, self._halted)
        self.outbox: list[Outgoing] = []
        self.next_ns = setup.start_ns
        """When the next decision is due."""
        self.fills = 0
        self.flatten = False
        self._resting = False
        """Whether it has ended, and so works out of no position until it resumes."""
        self._moved = ""
        """What of the book is not known since the window moved."""
        self.heard_ns = 0
        """When the newest word of the operator that was heard out of the halt file was given."""
        self._broken = "no book yet"
        """Why the book is not whole; empty if it is."""
        self._unlisted = ""
        """Why the symbol cannot be quoted: it is not traded now, or its terms change."""
        self._last_ns = 0
        self._heard_ns = setup.start_ns
        self._skew_ns = NO_SKEW
        self._last_trade = 0
        self.given: tuple[NDArray[np.float32], str] = (np.zeros(self._numbers, np.float32), "")
        """Without a player: the next decision's action, and what the policy raised."""
        self._decisions = 0
        self.work = 0
        """Done since the last snapshot, in rows: what takes as long to play again."""
        sink.write(journal.HEADER, setup.to_json())

    def _build(self, setup: Setup) -> None:
        """All that counts in ticks and lots."""
        self.setup = setup
        self.view = View(setup.low_tick, setup.high_tick)
        interval = self._interval_ns = setup.interval_ns
        quote, trips = setup.config.quote, -(-2 * setup.latency_ns // interval)
        places = slots(trips, quote.taking is not None, quote.side_orders)
        self.working = Working(places, setup.config.risk.position_limit)
        self.working.position = setup.position
        self.execution: PaperVenue | LiveExecution = (
            PaperVenue(
                self.view, self.working, setup.latency_ns, setup.queue_model, setup.queue_exponent,
                setup.partial_fills,
            )
            if setup.mode == "paper"
            else LiveExecution(
                self.view, self.working, setup.session, setup.last_trade, setup.charges(),
                setup.guard.closed_s,
            )
        )  # fmt: skip
        self._charges = None
        if isinstance(self.execution, LiveExecution) and setup.quote:
            self._charges = self.execution.charges
        self.episodes = Episodes(setup, self.player)
        self.desk, self.link = self.episodes.desk, self.episodes.link
        # Views, so that a decision spends its time on deciding: what we see is what the desk learns from.
        self.link.outcomes, self.link.taken = self.view.outcomes, self.execution.taken
        self._seen = {name: self.view.outcomes[name] for name in OUTCOME.names or ()}
        self._seen_words = self.view.outcomes.view(np.int64)
        self._age = self.desk.core["age"][0]
        self._numbers = len(quote.entries)
        self.decision = np.zeros((), decision_type(self.desk.entries, self._numbers, quote.side_orders))
        """The last one."""
        self._integers: NDArray[np.int64] = np.ndarray(
            4 + len(self._seen_words), np.int64, self.decision.data
        )
        self._fields = {name: self.decision[name] for name in ("reward", "wealth", *OF_POLICY)}

    def _kernel_states(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The kernel's own state, and the one that it may not fall below."""
        return self.desk.core["risk_state"][0], self.desk.core["risk_floor"][0]

    @property
    def state(self) -> int:
        """ACTIVE, REDUCING or HALTED."""
        return self._supervisor.state

    @property
    def distrust(self) -> str:
        """Why the feed must begin anew; empty if it need not."""
        return self._moved or next(
            (found.reason for found in self.guard.findings if found.rule in DISTRUST), ""
        )

    @property
    def wealth(self) -> float:
        """Profit since the start, currency of profits."""
        return self.episodes.wealth

    # What is told.

    def take(self, rows: NDArray[np.void], now_ns: int | None = None) -> None:
        """ROW rows [n] in arrival order. Decisions that are due before a row are made before it.

        A row stamped before a decision that was already made without it is stamped as known after it.
        """
        if not len(rows):
            return
        if int(rows["local_ns"][0]) <= self._last_ns:
            rows = rows.copy()
            np.maximum(rows["local_ns"], self._last_ns + 1, out=rows["local_ns"])
        while len(rows):
            times = rows["local_ns"]
            count = len(rows)
            if int(times[-1]) > self.next_ns:
                count = int(np.searchsorted(times, self.next_ns, side="right"))
            if count:
                self.see(rows[:count])
            rows = rows[count:]
            if len(rows):
                self.tick(int(rows["local_ns"][0]) if now_ns is None else now_ns)

    def see(self, rows: NDArray[np.void]) -> None:
        """Take in rows before which no decision is due."""
        self.sink.write(journal.ROWS, rows.tobytes())
        self._heard_ns = int(rows["local_ns"][-1])
        self._skew_ns = min(self._skew_ns, _skew(rows))
        self.work += len(rows)
        if self.setup.guard.stream_patience:
            self._streams.take(rows)
        self.execution.take(self.view.take(rows))

    def feed(self, live: bool, reason: str) -> None:
        """Take in whether the book is whole, and why not."""
        broken = "" if live else reason or "interrupted"
        if broken != self._broken:
            self._broken = broken
            if broken:
                self._moved = ""
                self._streams.interrupt()
            elif isinstance(self.execution, LiveExecution):
                self.execution.crossed = 0
            self._note(journal.FEED, {"live": live, "reason": reason})

    def hear(self, event: AnyEvent) -> None:
        """Take in what the venue said about our orders."""
        assert isinstance(self.execution, LiveExecution)
        told = dataclasses.asdict(event)
        if told.get("trouble") == "":
            # As journals have it from before there was such a thing.
            del told["trouble"]
        self._note(journal.UPDATE, {"type": type(event).__name__, **told})
        self.execution.hear(event)
        self._collect_faults(event.local_ns)

    def account(self, open_orders: list[OpenOrder], position: str | int, time_ns: int) -> None:
        """The venue's own books at a restart; see `LiveExecution.reconcile`.

        `position` is exact decimal text in units of the traded asset; in old journals, whole lots.
        """
        assert isinstance(self.execution, LiveExecution)
        expected = str(self.setup.baseline + self.working.position)
        if isinstance(position, str):
            expected = f"{self.expected_position:f}"
        found = [dataclasses.asdict(order) for order in open_orders]
        self._note(journal.ACCOUNT, {"orders": found, "position": position, "time_ns": time_ns})
        self.execution.reconcile(open_orders, str(position), expected)
        self._collect_faults(time_ns)

    def unlist(self, reason: str) -> None:
        """Quote no more for this reason, until `relist` or an empty one."""
        if reason != self._unlisted:
            self._unlisted = reason
            self._note(journal.INSTRUMENT, {"reason": reason})

    @property
    def expected_position(self) -> Decimal:
        """What the venue's books should hold, in units of the traded asset."""
        assert isinstance(self.execution, LiveExecution)
        lots = self.setup.baseline + self.working.position
        held = lots * Decimal(self.setup.lot_size) + Decimal(self.setup.dust)
        return held - self.execution.charges.owed

    @property
    def working_out(self) -> bool:
        """Whether it sends orders while HALTED, to close the position."""
        return self.flatten and not self._resting

    @property
    def quiet(self) -> bool:
        """Whether no order is open and no fill is still to be booked."""
        fills = self._seen["ask_fill_lots"][0] or self._seen["bid_fill_lots"][0]
        untold = isinstance(self.execution, LiveExecution) and self.execution.untold
        return not (self.working.slots["id"].any() or fills or untold)

    def relist(self, terms: Terms) -> None:
        """Go on by new terms of the instrument, once all is `quiet`; rows are in its ticks and lots from now
        on, and begin anew.

        Position, profit and what was charged stay what they are worth, an episode ends, and limits keep their
        meaning. Raises `ConfigError` where an order would be less than the venue takes.
        """
        if not self.quiet:
            raise ValueError("the instrument cannot change while orders are open or fills to be booked.")
        execution, episodes, next_id = self.execution, self.episodes, self.working.next_id
        owed = execution.charges.owed if isinstance(execution, LiveExecution) else Decimal(0)
        setup, owed = relisted(self.setup, terms, self.working.position, owed)
        self._note(journal.INSTRUMENT, dataclasses.asdict(terms))
        ticks = Decimal(self.setup.tick_size) / Decimal(terms.tick_size)
        touch = [int(self._seen[name][0]) * ticks for name in ("best_bid_ticks", "best_ask_ticks")]
        self._build(setup)
        self._seen["best_bid_ticks"][0], self._seen["best_ask_ticks"][0] = map(round, touch)
        self.working.next_id = next_id
        if isinstance(self.execution, LiveExecution) and isinstance(execution, LiveExecution):
            self.execution.take_over(execution, owed)
        self.episodes.take_over(episodes)
        self.guard.config = setup.guard
        self._supervisor.rebind(*self._kernel_states())
        self._unlisted, self._broken, self._moved, self._last_trade = "", "the instrument has changed", "", 0
        self._streams.interrupt()

    def operator(self, command: str, reason: str, time_ns: int, said_ns: int = 0) -> None:
        """Obey a command, given at `said_ns` if it comes out of the halt file.

        "halt"; "flatten", which halts and works out of the position; "reduce"; "release", which takes back
        these three; "clear", which takes back all that was latched when it was given; "stop": the desk is to
        end; "rest": the same where it works out of the position, which waits until it resumes; "end": its
        last decision is due at `time_ns`; "error": it raised; "resume": decisions go on at `time_ns`;
        "reopen": the same with a new episode (in old journals "restart", which forgot what the position had
        gained or lost since).
        """
        said = {"said_ns": said_ns} if said_ns else {}
        self._note(journal.OPERATOR, {"command": command, "reason": reason, "time_ns": time_ns, **said})
        self.heard_ns = max(self.heard_ns, said_ns)
        self.guard.now_ns = max(self.guard.now_ns, time_ns)
        if command in ("halt", "flatten"):
            self.flatten = command == "flatten"
            self.guard.latch("operator", reason)
        elif command == "reduce":
            self.guard.latch("operator", reason, REDUCING)
        elif command == "error":
            self.guard.latch("policy", reason)
        elif command in ("stop", "rest"):
            self.guard.latch("stop", reason)
            self._resting = command == "rest"
        elif command == "end":
            self.next_ns = min(self.next_ns, max(time_ns, self._last_ns + 1))
        elif command in ("clear", "release"):
            rules = None if command == "clear" else ("operator",)
            if "operator" in self._supervisor.clear(said_ns or time_ns, rules):
                self.flatten = False
        elif command in ("resume", "reopen", "restart"):
            self._resume(time_ns)
            self.episodes.over |= command == "restart"
            self.episodes.ended |= command == "reopen"
        else:
            raise ValueError(
                f"operator command = {command!r} is not possible: it must be halt, flatten, reduce, "
                "release, clear, stop, rest, end, error, resume, reopen or restart."
            )

    def snapshot(self, recorded: bytes = b"") -> None:
        """Put all that it knows on record, so that it can go on from here; between two decisions.

        Where a journal is played again, `recorded` is the snapshot there: the policy's memory is taken from
        it, and all of it where another version made it.
        """
        memory = memory_of(recorded) if recorded else self.player.state if self.player is not None else b""
        payload = pack(self._state(), memory)
        if recorded and not same_layout(payload, recorded):
            payload = recorded
        self.sink.write(journal.SNAPSHOT, payload)
        self.sink.flush()
        self.work = 0

    def restore(self, payload: bytes) -> None:
        """Go on from a snapshot, in a session that has just been made from the same setup.

        Raises `JournalError` where another version made it.
        """
        if not same_layout(pack(self._state()), payload):
            raise journal.JournalError("the snapshot was made by another version.")
        kept, memory = unpack(payload)
        if (setup := kept.pop("setup").encode()) != self.setup.to_json():
            # Its instrument has changed since the journal began.
            self._build(Setup.from_json(setup))
            self.guard.config = self.setup.guard
            self._supervisor.rebind(*self._kernel_states())
        for name, part in self._parts().items():
            part.restore(kept.pop(name))
        give_back(self.working, kept.pop("working"))
        self.link.window[0] = self.view.low_tick, self.view.high_tick
        give_back(self, kept)
        if self.player is not None:
            self.player.state = memory

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        return {
            "view": self.view, "execution": self.execution, "episodes": self.episodes, "guard": self.guard,
            "streams": self._streams, "supervisor": self._supervisor,
        }  # fmt: skip

    def _state(self) -> Kept:
        working = keep(self.working, "slots", "position_limit", "position", "next_id")
        parts = {name: part.kept() for name, part in self._parts().items()}
        setup = self.setup.to_json().decode()
        return parts | {"working": working, "setup": setup} | keep(self, *_STATE)

    def tick(self, now_ns: int) -> None:
        """Make the decision that is due; `now_ns` is the time it is."""
        time_ns = self.next_ns
        self._note(journal.TICK, {"time_ns": time_ns, "now_ns": now_ns})
        self._note_trades()
        if self._decisions == 0:
            self.view.begin()
        fills = self.execution.collect(time_ns)
        self.view.observe(time_ns)
        reward = self.episodes.learn(self.working.position, fills, self._charges)
        if len(fills):
            self.sink.write(journal.FILLS, fills.tobytes())
            self.fills += len(fills)
        self._judge(time_ns, now_ns)
        action = self._act()
        self.desk.decide(action[None])
        self._supervisor.heed_kernel()
        quotes, (tick, lots) = self._quotes()
        self._send(quotes, time_ns)
        self._take(tick, lots, time_ns)
        self._record(time_ns, reward, action, quotes)
        self.view.begin()
        self._last_ns, self.next_ns = time_ns, time_ns + self._interval_ns
        self._skew_ns = NO_SKEW
        self._decisions += 1
        self.work += DECISION_WORK
        self._follow()

    def _follow(self) -> None:
        """Move the window of prices when the market has left its middle half."""
        low, high = self.view.low_tick, self.view.high_tick
        seen = self._seen
        mid = int(seen["best_bid_ticks"][0] + seen["best_ask_ticks"][0]) // 2
        if not self.view.known:
            # It may have jumped out of the window: trades are counted wherever they are.
            mid = self._last_trade
        width = high - low
        if not mid or abs(2 * mid - low - high) <= width // 2:
            return
        low = max(mid - width // 2, 1)
        ticks = self.working.slots["tick"][self.working.slots["id"] > 0]
        if low == self.view.low_tick or (len(ticks) and not low < ticks.min() <= ticks.max() < low + width):
            return
        self.view.move(low)
        if isinstance(self.execution, PaperVenue):
            self.execution.move(low)
        self.link.window[0] = low, low + width
        self._moved = f"the window of prices moved to ticks {low} to {low + width}"

    # One decision.

    def _note_trades(self) -> None:
        seen = self._seen
        lots = int(seen["buy_lots"][0] + seen["sell_lots"][0])
        if lots:
            self._last_trade = int(seen["buy_notional"][0] + seen["sell_notional"][0]) // lots

    def _judge(self, time_ns: int, now_ns: int) -> None:
        stream, silence, unsettled, crossed = "", "", 0, 0
        if isinstance(self.execution, LiveExecution):
            stream, unsettled = self.execution.stream, self.execution.unsettled_ns(now_ns)
            silence, crossed = self.execution.silence_at(now_ns), self.execution.crossed
        book = self._broken or ("" if self.view.known else "no bid or no ask")
        facts = Facts(
            time_ns=time_ns,
            late_ns=now_ns - time_ns,
            wealth=self.wealth,
            position=self.working.position,
            silent_ns=time_ns - self._heard_ns,
            book=book,
            streams=self._streams.silent(time_ns) if self.setup.guard.stream_patience else "",
            crossed=crossed,
            silence=silence,
            unlisted=self._unlisted,
            stream=stream,
            skew_ns=None if self._skew_ns == NO_SKEW else self._skew_ns,
            unsettled_ns=unsettled,
        )
        self._supervisor.check(facts)

    def _halted(self) -> None:
        if self.setup.mode == "live":
            self.outbox.append(Outgoing(NOTHING_SENT, False, True))

    def _act(self) -> NDArray[np.float32]:
        if self.player is None:
            action, error = self.given
        else:
            action, error = self._ask(self.player)
        if error:
            self._note(journal.ERROR, {"error": error})
            self._supervisor.latch("policy", error)
        return action

    def _ask(self, player: Player) -> tuple[NDArray[np.float32], str]:
        """The policy's action, or no quote and what it raised."""
        try:
            action = np.asarray(player.step(self.episodes.observation), np.float32)
            if action.shape != (self._numbers,):
                raise ValueError(f"the action has shape {action.shape}, not ({self._numbers},)")
            return action, ""
        except Exception as error:
            return np.full(self._numbers, np.nan, np.float32), f"{type(error).__name__}: {error}"

    def _quotes(self) -> tuple[NDArray[np.int64], tuple[int, int]]:
        """The quotes, and tick and lots of the market order, that the guard allows."""
        quotes, (tick, lots) = self.link.quotes(self.desk.core), self.link.market_order(self.desk.core)
        if self.state != HALTED and self._last_trade:
            ticks = quotes[::2][quotes[1::2] > 0].tolist() + [tick] * (lots != 0)
            self.guard.far_quote(ticks, self._last_trade)
            if self.guard.state == HALTED:
                self._supervisor.settle()
        if self.state == HALTED:
            quotes[1::2] = lots = 0
            if self.working_out:
                self._work_out(quotes)
        for at in range(0, len(quotes), 2):
            if self._too_small(int(quotes[at]), int(quotes[at + 1])):
                quotes[at + 1] = 0
        return quotes, (tick, 0 if self._too_small(tick, abs(lots)) else lots)

    def _too_small(self, tick: int, lots: int) -> bool:
        """Whether the venue would refuse an order for its size; one that reduces may be of any value, where
        the venue has such orders."""
        small = tick * lots < self.setup.min_value and (self.state == ACTIVE or not self.setup.reduces)
        return small or lots < self.setup.min_lots

    def _work_out(self, quotes: NDArray[np.int64]) -> None:
        """Join the touch with what reduces the position."""
        held = self.working.position
        lots = min(abs(held), self.setup.config.risk.order_lots)
        blind = any(finding.rule in ("book", "stale-data") for finding in self.guard.findings)
        bids = len(quotes) // 2
        if held > 0 and not blind:
            quotes[0], quotes[1] = self._seen["best_ask_ticks"][0], lots
        elif held < 0 and not blind:
            quotes[bids], quotes[bids + 1] = self._seen["best_bid_ticks"][0], lots

    def _send(self, quotes: NDArray[np.int64], time_ns: int) -> None:
        reducing = self.state != ACTIVE
        # While reducing, fills of all that is open may at most close the position.
        self.working.position_limit = 0 if reducing else self.setup.config.risk.position_limit
        commands = self._commands = self.execution.quote(quotes, time_ns)
        if len(commands):
            self.guard.sent(time_ns, np.count_nonzero(commands["lots"]))
            self.outbox.append(Outgoing(commands, reducing, False))

    def _take(self, tick: int, lots: int, time_ns: int) -> None:
        """Send a market order, after the quotes and within the same limit."""
        self._takers = self.execution.market_order(tick, lots, time_ns) if lots else NOTHING_SENT
        if len(self._takers):
            self.guard.sent(time_ns, 1)
            self.outbox.append(Outgoing(self._takers, self.state != ACTIVE, False, at_once=True))

    def _record(
        self, time_ns: int, reward: float, action: NDArray[np.float32], quotes: NDArray[np.int64]
    ) -> None:
        self._integers[:4] = time_ns, self._decisions, self._age[0], self.state
        self._integers[4:] = self._seen_words
        given = reward, self.wealth, self.episodes.observation, action, quotes
        for field, value in zip(self._fields.values(), given, strict=True):
            field[...] = value
        self.sink.write(journal.DECISION, self.decision.tobytes())
        if len(self._commands):
            self.sink.write(journal.ORDERS, self._commands.tobytes())
        if len(self._takers):
            self.sink.write(journal.TAKERS, self._takers.tobytes())
        self.sink.flush()

    # The rest.

    def _resume(self, time_ns: int) -> None:
        # A desk that was told to end has ended: nobody need take that back.
        self.guard.clear(rules=("stop",))
        self._resting = False
        self.next_ns = time_ns
        self._heard_ns = time_ns
        self._streams.interrupt()
        self._broken = "resuming"
        if isinstance(self.execution, PaperVenue):
            self.execution.drop()

    def _collect_faults(self, time_ns: int) -> None:
        assert isinstance(self.execution, LiveExecution)
        for rule, reason in self.execution.faults:
            self.guard.latch(rule, reason)
        for reason in self.execution.rejects:
            self.guard.rejected(time_ns, reason)
        self.execution.faults, self.execution.rejects = [], []

    def _note(self, kind: int, content: dict[str, Any]) -> None:
        self.sink.write(kind, orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


@njit(cache=True, nogil=True)
def _skew(rows: NDArray[np.void]) -> int:
    """Receipt minus exchange time of the fastest of ROW [n] that are stamped, NO_SKEW if none is."""
    fastest = NO_SKEW
    for row in rows:
        if row.kind != CLEAR and row.kind != SNAPSHOT:
            fastest = min(fastest, row.local_ns - row.exch_ns)
    return fastest
