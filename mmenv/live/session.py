"""One symbol's desk without input or output: rows, reports and the time go in, orders come out.

Training, backtest, paper and live share `mmenv.desk.Desk`; this adds what only happens live: a decision clock
on wall time, the guard, orders in flight, the journal. It reads no clock and opens no file, so the same
inputs give the same bytes: `mmenv.live.again` plays a journal again and compares every frame, a restart
recovers by it, and the tests drive it through thousands of faults in virtual time.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from mmenv.config import EnvConfig, make_config
from mmenv.data.capture import CLEAR, SNAPSHOT
from mmenv.data.tape import ROW
from mmenv.desk import Step, make_desk
from mmenv.kernel import ACTIVE, FEE_DIGITS, HALTED, REDUCING
from mmenv.live import journal, orders
from mmenv.live.guard import STATES, Facts, Guard, GuardConfig
from mmenv.live.journal import Frame, Sink
from mmenv.live.orders import AnyEvent, OpenOrder
from mmenv.market.live import Live
from mmenv.venue.live import LiveVenue
from mmenv.venue.paper import (
    BEST_ASK,
    BEST_BID,
    BUY_LOTS,
    BUY_NOTIONAL,
    SELL_LOTS,
    SELL_NOTIONAL,
    PaperVenue,
    View,
)
from mmenv.venue.replay import EVENT_FIELDS
from mmenv.venue.working import COMMAND, Working

EVENTS: Final = {
    cls.__name__: cls
    for cls in (
        orders.Ack, orders.Reject, orders.Fill, orders.Cancel, orders.CancelReject, orders.Unknown,
        orders.Stream,
    )
}  # fmt: skip


NO_SKEW: Final = np.iinfo(np.int64).max
NOTHING_SENT: Final = np.zeros(0, COMMAND)


class Player(Protocol):
    """A policy for one desk, with its memory."""

    def reset(self) -> None:
        """A new episode begins."""

    def step(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Action (2,) for the observation (F,)."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a session is made from; the first frame of its journal. Times in nanoseconds."""

    config: EnvConfig
    """Of the desk; its market is `mmenv.market.live.Live`."""
    guard: GuardConfig
    policy: str
    """Name and checksum of the policy."""
    mode: str
    """"paper" or "live"."""
    session: str
    """Unique for ever; the prefix of client ids."""
    start_ns: int
    """The first decision."""
    tick_size: str
    lot_size: str
    low_tick: int
    high_tick: int
    """Prices outside are ignored."""
    position: int = 0
    """Lots held at the start."""
    baseline: int = 0
    """Lots at the venue that are not ours to trade, such as a spot balance."""
    last_trade: int = 0
    """Newest trade id of the account before the session."""
    latency_ns: int = 10_000_000
    """Of paper orders, one way."""
    queue_model: str = "risk-adverse"
    queue_exponent: float = 3.0
    partial_fills: bool = True

    @property
    def market(self) -> Live:
        assert isinstance(self.config.market, Live)
        return self.config.market

    @property
    def interval_ns(self) -> int:
        return round(self.config.market.step_seconds * 1e9)

    @property
    def money(self) -> float:
        """Quote currency in a half-tick x lot."""
        return float(self.tick_size) * float(self.lot_size) / 2

    def to_json(self) -> bytes:
        plain = dataclasses.asdict(dataclasses.replace(self, config=None)) | {"config": self.config.to_dict()}  # type: ignore[arg-type]
        return json.dumps(plain, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Setup:
        plain = json.loads(text)
        plain["config"] = make_config(**plain["config"])
        plain["guard"] = GuardConfig(**plain["guard"])
        return cls(**plain)


@dataclass(frozen=True)
class Outgoing:
    """To be sent to the venue, in this order; with `cancel_all`, all orders of the symbol go first."""

    commands: NDArray[np.void]
    reduce_only: bool
    cancel_all: bool


def decision_type(width: int) -> np.dtype:
    """Record of a decision with `width` observation entries."""
    return np.dtype(
        [
            ("time_ns", "<i8"),
            ("number", "<i8"),
            ("age", "<i8"),
            ("state", "<i8"),
            ("event", "<i8", (len(EVENT_FIELDS),)),
            ("reward", "<f8"),
            ("wealth", "<f8"),
            ("observation", "<f4", (width,)),
            ("action", "<f4", (2,)),
            ("quotes", "<i8", (4,)),
        ]
    )


OF_POLICY: Final = ("observation", "action", "quotes")
"""Last fields of a decision."""


class Session:
    """The desk of one symbol.

    Args:
        setup: what it is made from.
        player: the policy; None where a journal is replayed with the actions in it.
        sink: where the journal goes.

    Rows, feed changes, order reports and operator commands go in as they come; `tick` makes a decision.
    What is to be sent collects in `outbox`, already on record when it does.
    """

    def __init__(self, setup: Setup, player: Player | None, sink: Sink) -> None:
        self.setup, self.player, self.sink = setup, player, sink
        self.view = View(setup.low_tick, setup.high_tick)
        interval = self._interval_ns = setup.interval_ns
        self.working = Working(3 + 2 * -(-2 * setup.latency_ns // interval), setup.config.risk.position_limit)
        self.working.position = setup.position
        self.venue: PaperVenue | LiveVenue = (
            PaperVenue(
                self.view, self.working, setup.latency_ns, setup.queue_model, setup.queue_exponent,
                setup.partial_fills,
            )
            if setup.mode == "paper"
            else LiveVenue(self.view, self.working, setup.session, setup.last_trade)
        )  # fmt: skip
        self.desk = make_desk(setup.config, 1, autoreset=False)
        assert isinstance(self.desk.external, Live.Link)
        self.link = self.desk.external
        self.link.window[0] = setup.low_tick, setup.high_tick
        # Views, so that a decision spends its time on deciding: what we see is what the desk learns from.
        self.link.event = self.view.event.reshape(1, -1)
        core = self.desk.core
        self._core = {name: core[name][0] for name in ("pnl", "fees", "age", "risk_state", "risk_floor")}
        self._money = setup.market.price_scale * setup.money
        self.guard = Guard(setup.guard)
        self.outbox: list[Outgoing] = []
        self.next_ns = setup.start_ns
        """When the next decision is due."""
        self.decision = np.zeros((), decision_type(self.desk.entries))
        """The last one."""
        self._integers: NDArray[np.int64] = np.ndarray(4 + len(EVENT_FIELDS), np.int64, self.decision.data)
        self._fields = {name: self.decision[name] for name in ("reward", "wealth", *OF_POLICY)}
        self.terms = np.zeros(4)
        """Spread capture, adverse selection, carry, fees since the start, quote currency."""
        self.fills = 0
        self.state = ACTIVE
        self.flatten = False
        self.book = "no book yet"
        self._last_ns = 0
        self._heard_ns = setup.start_ns
        self._skew_ns = NO_SKEW
        self._last_trade = 0
        self._carried = 0.0
        self._episode_over = True
        self.given: tuple[NDArray[np.float32], str] = (np.zeros(2, np.float32), "")
        """Without a player: the next decision's action, and what the policy raised."""
        self._decisions = 0
        self._causes: list[list[Any]] = []
        sink.write(journal.HEADER, setup.to_json())

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
                self._take(rows[:count])
            rows = rows[count:]
            if len(rows):
                self.tick(int(rows["local_ns"][0]) if now_ns is None else now_ns)

    def _take(self, rows: NDArray[np.void]) -> None:
        self.sink.write(journal.ROWS, rows.tobytes())
        self._heard_ns = int(rows["local_ns"][-1])
        self._skew_ns = min(self._skew_ns, _skew(rows))
        self.venue.take(self.view.take(rows))

    def feed(self, live: bool, reason: str) -> None:
        """Whether the book is whole, and why not."""
        book = "" if live else reason or "interrupted"
        if book != self.book:
            self.book = book
            self._note(journal.FEED, {"live": live, "reason": reason})

    def hear(self, event: AnyEvent) -> None:
        """What the venue said about our orders."""
        assert isinstance(self.venue, LiveVenue)
        self._note(journal.UPDATE, {"type": type(event).__name__, **dataclasses.asdict(event)})
        self.venue.hear(event)
        self._collect_faults(event.local_ns)

    def account(self, open_orders: list[OpenOrder], position: int, time_ns: int) -> None:
        """The venue's own books at a restart; see `LiveVenue.reconcile`."""
        assert isinstance(self.venue, LiveVenue)
        found = [dataclasses.asdict(order) for order in open_orders]
        self._note(journal.ACCOUNT, {"orders": found, "position": position, "time_ns": time_ns})
        self.venue.reconcile(open_orders, position - self.setup.baseline)
        self._collect_faults(time_ns)

    def operator(self, command: str, reason: str, time_ns: int) -> None:
        """A command.

        "halt"; "flatten", which halts and works out of the position; "reduce"; "clear", which takes back what
        is latched; "error": the desk raised; "resume": decisions go on at `time_ns`; "restart": the same
        with a new episode.
        """
        self._note(journal.OPERATOR, {"command": command, "reason": reason, "time_ns": time_ns})
        if command in ("halt", "flatten"):
            self.flatten = command == "flatten"
            self.guard.latch("operator", reason)
        elif command == "reduce":
            self.guard.latch("operator", reason, REDUCING)
        elif command == "error":
            self.guard.latch("policy", reason)
        elif command == "clear":
            self.flatten = False
            self.guard.clear()
            self._core["risk_state"][0] = ACTIVE
        elif command in ("resume", "restart"):
            self._resume(time_ns, command == "restart")
        else:
            raise ValueError(f"operator command {command!r} is not known")

    def tick(self, now_ns: int) -> None:
        """Make the decision that is due; `now_ns` is the time it is."""
        time_ns = self.next_ns
        self._note(journal.TICK, {"time_ns": time_ns, "now_ns": now_ns})
        self._note_trades()
        if self._decisions == 0:
            self.view.begin()
        fills = self.venue.collect(time_ns)
        self.view.observe(time_ns)
        step = self._learn()
        if len(fills):
            self.sink.write(journal.FILLS, fills.tobytes())
            self.fills += len(fills)
        self._judge(time_ns, now_ns)
        action = self._act()
        self.desk.decide(action[None])
        self._heed_kernel()
        quotes = self._quotes()
        self._send(quotes, time_ns)
        self._record(time_ns, step, action, quotes)
        self.view.begin()
        self._last_ns, self.next_ns = time_ns, time_ns + self._interval_ns
        self._skew_ns = NO_SKEW
        self._decisions += 1

    # One decision.

    def _learn(self) -> Step | None:
        """Hand the market's answer to the desk; at the end of an episode, or the start, begin the next.

        Episodes are those of training: memory and windows start afresh, the position stays.
        """
        step = None
        if not self._episode_over:
            self.link.answer(self.desk)
            step = self.desk.finish()
            self.terms += step.ledger[:4, 0] * self._money
            self._observation = step.observations[0]
            self._episode_over = bool(step.terminated[0] | step.truncated[0])
        if self._episode_over:
            self._carried += self._episode_wealth()
            position = np.array([self.working.position], np.int32)
            self._observation = self.desk.reset(positions=position)[0]
            if self.player is not None:
                self.player.reset()
            self._episode_over = False
        return step

    def _episode_wealth(self) -> float:
        return float(self._core["pnl"][0] - self._core["fees"][0] / FEE_DIGITS)

    @property
    def wealth(self) -> float:
        """Profit since the start, quote currency."""
        return (self._carried + self._episode_wealth()) * self.setup.money

    def _note_trades(self) -> None:
        event = self.view.event
        lots = int(event[BUY_LOTS] + event[SELL_LOTS])
        if lots:
            self._last_trade = int(event[BUY_NOTIONAL] + event[SELL_NOTIONAL]) // lots

    def _judge(self, time_ns: int, now_ns: int) -> None:
        stream, unsettled = "", 0
        if isinstance(self.venue, LiveVenue):
            stream, unsettled = self.venue.stream, self.venue.unsettled_ns(now_ns)
        book = self.book or ("" if self.view.known else "no bid or no ask")
        self._set_state(
            self.guard.check(
                Facts(
                    time_ns=time_ns,
                    late_ns=now_ns - time_ns,
                    wealth=self.wealth,
                    position=self.working.position,
                    silent_ns=time_ns - self._heard_ns,
                    book=book,
                    stream=stream,
                    skew_ns=None if self._skew_ns == NO_SKEW else self._skew_ns,
                    unsettled_ns=unsettled,
                )
            )
        )

    def _set_state(self, state: int) -> None:
        causes = [[f.rule, f.state] for f in self.guard.findings]
        if state != self.state or causes != self._causes:
            reasons = [f"{finding.rule}: {finding.reason}" for finding in self.guard.findings]
            self._note(journal.STATE, {"from": STATES[self.state], "to": STATES[state], "reasons": reasons})
        if self.state == HALTED and state < HALTED:
            # The kernel holds a halt until reset; this one was ours.
            self._core["risk_state"][0] = ACTIVE
        if state == HALTED and self.state < HALTED and self.setup.mode == "live":
            self.outbox.append(Outgoing(NOTHING_SENT, False, True))
        self.state, self._causes = state, causes
        self._core["risk_floor"][0] = state

    def _act(self) -> NDArray[np.float32]:
        if self.player is None:
            action, error = self.given
        else:
            action, error = self._ask(self.player)
        if error:
            self._note(journal.ERROR, {"error": error})
            self.guard.latch("policy", error)
            self._settle_state()
        return action

    def _ask(self, player: Player) -> tuple[NDArray[np.float32], str]:
        """The policy's action, or no quote and what it raised."""
        try:
            action = np.asarray(player.step(self._observation), np.float32)
            if action.shape != (2,):
                raise ValueError(f"the action has shape {action.shape}, not (2,)")
            return action, ""
        except Exception as error:
            return np.full(2, np.nan, np.float32), f"{type(error).__name__}: {error}"

    def _heed_kernel(self) -> None:
        if self.state < HALTED and self._core["risk_state"][0] == HALTED:
            self.guard.latch("loss-limit", "the episode's loss limit is reached")
            self._settle_state()

    def _settle_state(self) -> None:
        """A rule latched within the decision."""
        self.guard.findings = tuple(self.guard.latched.values())
        self._set_state(self.guard.state)

    def _quotes(self) -> NDArray[np.int64]:
        quotes = self.link.quotes(self.desk)
        if self.state != HALTED and self._last_trade:
            self.guard.far_quote([int(quotes[i]) for i in (0, 2) if quotes[i + 1]], self._last_trade)
            if self.guard.state == HALTED:
                self._settle_state()
        if self.state == HALTED:
            quotes[1] = quotes[3] = 0
            if self.flatten:
                self._work_out(quotes)
        return quotes

    def _work_out(self, quotes: NDArray[np.int64]) -> None:
        """Join the touch with what reduces the position."""
        held = self.working.position
        lots = min(abs(held), self.setup.config.risk.order_lots)
        blind = any(finding.rule in ("book", "stale-data") for finding in self.guard.findings)
        if held > 0 and not blind:
            quotes[0], quotes[1] = self.view.event[BEST_ASK], lots
        elif held < 0 and not blind:
            quotes[2], quotes[3] = self.view.event[BEST_BID], lots

    def _send(self, quotes: NDArray[np.int64], time_ns: int) -> None:
        reducing = self.state != ACTIVE
        # While reducing, fills of all that is open may at most close the position.
        self.working.position_limit = 0 if reducing else self.setup.config.risk.position_limit
        commands = self._commands = self.venue.quote(quotes, time_ns)
        if len(commands):
            self.guard.sent(time_ns, np.count_nonzero(commands["lots"]))
            self.outbox.append(Outgoing(commands, reducing, False))

    def _record(
        self, time_ns: int, step: Step | None, action: NDArray[np.float32], quotes: NDArray[np.int64]
    ) -> None:
        self._integers[:4] = time_ns, self._decisions, self._core["age"][0], self.state
        self._integers[4:] = self.view.event
        given = step.rewards[0] if step is not None else 0.0, self.wealth, self._observation, action, quotes
        for field, value in zip(self._fields.values(), given, strict=True):
            field[...] = value
        self.sink.write(journal.DECISION, self.decision.tobytes())
        if len(self._commands):
            self.sink.write(journal.ORDERS, self._commands.tobytes())
        self.sink.flush()

    # The rest.

    def _resume(self, time_ns: int, new_episode: bool) -> None:
        self.next_ns = time_ns
        self._heard_ns = time_ns
        self._episode_over |= new_episode
        self.book = "resuming"
        if isinstance(self.venue, PaperVenue):
            self.venue.drop()

    def _collect_faults(self, time_ns: int) -> None:
        assert isinstance(self.venue, LiveVenue)
        for rule, reason in self.venue.faults:
            self.guard.latch(rule, reason)
        for reason in self.venue.rejects:
            self.guard.rejected(time_ns, reason)
        self.venue.faults, self.venue.rejects = [], []

    def _note(self, kind: int, content: dict[str, Any]) -> None:
        self.sink.write(kind, orjson.dumps(content, option=orjson.OPT_SORT_KEYS))

    def play(self, frame: Frame) -> None:
        """Take in an input frame of a journal."""
        if frame.kind == journal.ROWS:
            self._take(np.frombuffer(frame.payload, ROW))
            return
        content = frame.json()
        if frame.kind == journal.TICK:
            self.tick(content["now_ns"])
        elif frame.kind == journal.FEED:
            self.feed(content["live"], content["reason"])
        elif frame.kind == journal.UPDATE:
            self.hear(EVENTS[content.pop("type")](**content))
        elif frame.kind == journal.ACCOUNT:
            found = [OpenOrder(**order) for order in content["orders"]]
            self.account(found, content["position"], content["time_ns"])
        elif frame.kind == journal.OPERATOR:
            self.operator(content["command"], content["reason"], content["time_ns"])


@njit(cache=True, nogil=True)
def _skew(rows: NDArray[np.void]) -> int:
    """Receipt minus exchange time of the fastest of ROW [n] that are stamped, NO_SKEW if none is."""
    fastest = NO_SKEW
    for row in rows:
        if row.kind != CLEAR and row.kind != SNAPSHOT:
            fastest = min(fastest, row.local_ns - row.exch_ns)
    return fastest
