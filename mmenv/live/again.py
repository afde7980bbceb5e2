"""Journals played again: to check them, to recover from them, and through the backtester."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmenv.data.capture import CLEAR, SNAPSHOT, TRADE
from mmenv.data.tape import ROW, Tape, TapeInfo, TapeWriter, tape_path
from mmenv.desk import Desk, make_desk
from mmenv.files import replacing
from mmenv.kernel import ACTIVE
from mmenv.live import journal
from mmenv.live.guard import STATES
from mmenv.live.journal import DECISION, ERROR, HEADER, INPUTS, ROWS, TICK, Frame, Journal, JournalError
from mmenv.live.session import Player, Session, Setup, decision_type
from mmenv.market.replay import ReplayFeed
from mmenv.venue.paper import (
    ASK_FILL,
    BEST_ASK,
    BEST_BID,
    BID_FILL,
    DATA_END,
    POSITION,
    STEP_NS,
    MatcherVenue,
)
from mmenv.venue.replay import ReplayConfig, ReplayVenue


class Mismatch(JournalError):
    """A session played again did otherwise than its journal says."""


class Comparing:
    """A sink that compares with the frames on record and keeps what goes beyond them.

    Raises `Mismatch` naming the first frame that differs, and in what.
    """

    def __init__(self, recorded: Iterator[Frame]) -> None:
        self._recorded = recorded
        self.frames = 0
        self.beyond: list[tuple[int, bytes]] = []

    def write(self, kind: int, payload: bytes) -> None:
        expected = next(self._recorded, None)
        if expected is None:
            self.beyond.append((kind, payload))
            return
        if (expected.kind, expected.payload) != (kind, payload):
            raise Mismatch(f"frame {expected.number} differs: {_difference(expected, kind, payload)}")
        self.frames += 1

    def flush(self) -> None:
        pass


def setup_of(path: Path) -> Setup:
    """What the session of a journal was made from. Raises JournalError where it has not even begun."""
    first = next(journal.read(path), None)
    if first is None or first.kind != HEADER:
        raise JournalError(f"{path} is empty: its session was killed before it began; delete it.")
    return Setup.from_json(first.payload)


def play(frames: Iterable[Frame], session: Session) -> None:
    """Give a new session all inputs of a journal, and its actions if it has no policy."""
    tick: Frame | None = None
    given: NDArray[np.float32] | None = None
    error = ""
    kind = decision_type(session.desk.entries)
    for frame in _with_end(frames):
        if frame is not None and frame.kind not in INPUTS:
            if frame.kind == DECISION:
                given = np.frombuffer(frame.payload, kind)[0]["action"]
            elif frame.kind == ERROR:
                error = frame.json()["error"]
            continue
        if tick is not None and (given is not None or session.player is not None):
            if given is not None:
                session.given = given, error
            session.play(tick)
        tick, given, error = None, None, ""
        if frame is not None and frame.kind == TICK:
            tick = frame
        elif frame is not None:
            session.play(frame)


def check(path: Path, player: Player | None = None) -> tuple[Session, int]:
    """Play a journal again and compare every frame; the session at its end and how many frames agreed.

    Args:
        player: the policy it was made with; without it the recorded actions are taken.

    Raises:
        Mismatch: something differs.
        JournalError: the file cannot be read.
    """
    sink = Comparing(journal.read(path))
    session = Session(setup_of(path), player, sink)
    play(journal.read(path), session)
    return session, sink.frames


def recover(path: Path, player: Player, sync: bool = False) -> Session:
    """The session of a killed desk as it was when it last wrote, the policy's memory included.

    Nothing is sent again: the outbox is empty, and what the venue has must be told by `Session.account`.

    Raises `JournalError` where the journal is in use or damaged, `Mismatch` where the policy is another.
    """
    file = Journal(path, sync)
    try:
        sink = Comparing(journal.read(path))
        session = Session(setup_of(path), player, sink)
        play(journal.read(path), session)
        # What the desk was in the middle of when it died.
        for kind, payload in sink.beyond:
            file.write(kind, payload)
        file.flush()
    except BaseException:
        file.close()
        raise
    session.sink = file
    session.outbox.clear()
    return session


def decisions(path: Path) -> NDArray[np.void]:
    """All decisions of a journal, in order, as records of `mmenv.live.session.decision_type`."""
    payloads = [frame.payload for frame in journal.read(path) if frame.kind == DECISION]
    width = (len(payloads[0]) - decision_type(0).itemsize) // 4 if payloads else 0
    return np.frombuffer(b"".join(payloads), decision_type(width))


def to_tape(path: Path, store: Path) -> Tape:
    """The market data of a journal as a tape of its own in a store, named by its first day.

    Rows that came too late for the paper exchange have the exchange time at which it played them.
    """
    setup = setup_of(path)
    rows: list[NDArray[np.void]] = []
    decided = 0
    for frame in journal.read(path):
        if frame.kind == TICK:
            decided = frame.json()["time_ns"]
        elif frame.kind == ROWS:
            rows.append(np.frombuffer(frame.payload, ROW).copy())
            played = np.maximum(rows[-1]["local_ns"] // STEP_NS * STEP_NS, decided) - setup.latency_ns
            np.maximum(rows[-1]["exch_ns"], played + 1, out=rows[-1]["exch_ns"])
    if not rows:
        raise JournalError(f"{path} holds no market data.")
    every = np.concatenate(rows)
    made = decisions(path)["event"]
    trades = every["price"][every["kind"] == TRADE]
    touches = np.concatenate([made[:, BEST_BID], made[:, BEST_ASK], trades])
    timed = every[~np.isin(every["kind"], (CLEAR, SNAPSHOT))]
    newest = np.maximum.accumulate(every["exch_ns"])
    day = str(np.datetime64(int(every["local_ns"][0]), "ns").astype("datetime64[D]"))
    info = TapeInfo(
        venue=setup.market.venue,
        symbol=setup.market.symbol,
        day=day,
        tick_size=setup.tick_size,
        lot_size=setup.lot_size,
        maker_fee_bp=setup.config.maker_fee_bp,
        taker_fee_bp=0.0,
        clock_offset_ns=0,
        source=path.name,
        first_ns=int(every["local_ns"][0]),
        last_ns=int(every["local_ns"][-1]),
        low_tick=int(touches[touches > 0].min()),
        high_tick=int(touches.max()),
        disorder_ns=int((newest - every["exch_ns"]).max()),
        latency_ns=max(int((timed["local_ns"] - timed["exch_ns"]).max(initial=0)), 0),
    )
    path = tape_path(store, info.venue, info.symbol, info.day)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        writer = TapeWriter(temporary)
        writer.write(every)
        writer.close(info)
    return Tape(path)


@dataclass(frozen=True)
class Backtest:
    """A paper session beside the same market replayed."""

    engine: str
    compared: int
    """Decisions that agreed, from the first."""
    why: str
    """Why no more were compared; empty if all were."""
    fills: int


class _FromStart(ReplayFeed):
    """A tape replayed once, episodes following each other as in a session."""

    def __init__(self, venue: ReplayVenue, start_ns: int) -> None:
        super().__init__(venue)
        self._start_ns: int | None = start_ns

    def reset(self, desk: Desk, lanes: NDArray[np.bool_]) -> None:
        if self._start_ns is not None:
            self.venue.start(0, self.venue.spans[0], self._start_ns)
            self._start_ns = None
        self.begin(desk, 0, self.event)

    @property
    def event(self) -> NDArray[np.int64]:
        return self.venue._events[0]


def backtest(path: Path, tape: Tape, engine: str) -> Backtest:
    """Replay a paper journal's market through the backtester, with its actions, and compare every decision.

    Args:
        tape: what `to_tape` made of the journal.
        engine: "hftbacktest", or "matcher", our own.

    Raises:
        Mismatch: observation, event (book, trades, fills, position), quotes or reward differs in a byte.
        JournalError: no paper journal from a flat start.
    """
    setup = setup_of(path)
    if setup.mode != "paper" or setup.position:
        raise JournalError(f"{path} is not of a paper session that began flat.")
    config = ReplayConfig(
        decision_interval_ns=setup.interval_ns, order_latency_ns=setup.latency_ns, feed_latency_ns=0,
        queue_model=setup.queue_model, queue_exponent=setup.queue_exponent,
        partial_fills=setup.partial_fills, episode_ns=setup.interval_ns,
        position_limit_lots=setup.config.risk.position_limit,
    )  # fmt: skip
    desk = make_desk(setup.config, 1, autoreset=False)
    with (MatcherVenue if engine == "matcher" else ReplayVenue)([tape], 1, config) as venue:
        feed = _FromStart(venue, setup.start_ns)
        desk.external = feed
        compared, fills, why, over = 0, 0, "", True
        observation, reward = np.zeros(desk.entries, np.float32), 0.0
        for made in decisions(path):
            why = _not_comparable(made, setup, compared, feed)
            if why:
                break
            if over:
                observation = desk.reset(positions=feed.event[None, POSITION].astype(np.int32))[0]
            _same("event", compared, feed.event, made["event"])
            _same("observation", compared, observation, made["observation"])
            _same("reward", compared, np.array(reward), made["reward"])
            step = desk.step(made["action"][None])
            _same("quotes", compared, feed._quotes[0], made["quotes"])
            observation, reward = step.observations[0], step.rewards[0]
            over = bool(step.terminated[0])
            fills += int(feed.event[ASK_FILL] > 0) + int(feed.event[BID_FILL] > 0)
            compared += 1
        return Backtest(engine, compared, why, fills)


def _not_comparable(made: np.void, setup: Setup, number: int, feed: _FromStart) -> str:
    """Why this decision has no counterpart in a backtest; empty if it has."""
    if made["state"] != ACTIVE:
        return f"decision {number} was made {STATES[made['state']]}, which no backtest is"
    if made["time_ns"] != setup.start_ns + number * setup.interval_ns:
        return f"the session was interrupted before decision {number}"
    return "the tape ends" if number and feed.event[DATA_END] else ""


def _same(what: str, number: int, ours: NDArray, theirs: NDArray) -> None:
    if ours.tobytes() != theirs.tobytes():
        raise Mismatch(f"{what} of decision {number} differs: {ours.tolist()}, recorded {theirs.tolist()}")


def _difference(expected: Frame, kind: int, payload: bytes) -> str:
    if expected.kind != kind:
        return f"a frame {journal.NAMES[kind]} instead of {journal.NAMES[expected.kind]}"
    return f"{Frame(expected.number, kind, payload)} instead of {expected}"


def _with_end(frames: Iterable[Frame]) -> Iterator[Frame | None]:
    yield from frames
    yield None
