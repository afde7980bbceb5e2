"""Journals played again: to check them, to recover from them, and through the backtester."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from mmenv.data.rows import CLEAR, ROW, SNAPSHOT, TRADE
from mmenv.data.tape import Tape, TapeInfo, TapeWriter, tape_path
from mmenv.files import replacing
from mmenv.live import journal
from mmenv.live.journal import Frame, Journal, JournalError, Start
from mmenv.live.orders import AnyEvent, OpenOrder
from mmenv.live.relisting import Terms
from mmenv.live.session import Session
from mmenv.live.setup import Player, Setup, decision_type
from mmenv.venue.paper import STEP_NS

EVENTS: Final = {kind.__name__: kind for kind in get_args(AnyEvent)}


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
    """What the session of a journal was made from. Raises `JournalError` where it has not even begun."""
    first = next(journal.read(path), None)
    if first is None or first.kind != journal.HEADER:
        raise JournalError(f"{path} is empty: its session was killed before it began; delete it.")
    return Setup.from_json(first.payload)


def play(frames: Iterable[Frame], session: Session) -> None:
    """Give a new session all inputs of a journal, and its actions if it has no policy."""
    tick: Frame | None = None
    given: NDArray[np.float32] | None = None
    error = ""
    kind = session.decision.dtype
    for frame in _with_end(frames):
        if frame is not None and frame.kind not in journal.INPUTS:
            if frame.kind == journal.DECISION:
                given = np.frombuffer(frame.payload, kind)[0]["action"]
            elif frame.kind == journal.ERROR:
                error = frame.json()["error"]
            continue
        if tick is not None and (given is not None or session.player is not None):
            if given is not None:
                session.given = given, error
            give(session, tick)
        tick, given, error = None, None, ""
        if frame is not None and frame.kind == journal.TICK:
            tick = frame
        elif frame is not None:
            give(session, frame)


def give(session: Session, frame: Frame) -> None:
    """Tell a session what an input frame of a journal says."""
    if frame.kind == journal.ROWS:
        session.see(np.frombuffer(frame.payload, ROW))
        return
    if frame.kind == journal.SNAPSHOT:
        session.snapshot(frame.payload)
        return
    content = frame.json()
    if frame.kind == journal.TICK:
        session.tick(content["now_ns"])
    elif frame.kind == journal.INSTRUMENT and "reason" in content:
        session.unlist(content["reason"])
    elif frame.kind == journal.INSTRUMENT:
        session.relist(Terms(**content))
    elif frame.kind == journal.FEED:
        session.feed(content["live"], content["reason"])
    elif frame.kind == journal.UPDATE:
        session.hear(EVENTS[content.pop("type")](**content))
    elif frame.kind == journal.ACCOUNT:
        standing = [OpenOrder(**order) for order in content["orders"]]
        session.account(standing, content["position"], content["time_ns"])
    elif frame.kind == journal.OPERATOR:
        session.operator(content["command"], content["reason"], content["time_ns"], content.get("said_ns", 0))


def check(path: Path, player: Player | None = None) -> tuple[Session, int]:
    """Play a journal again and compare every frame; the session at its end, and how many frames agreed.

    Parameters
    ----------
    player
        The policy it was made with; without it the recorded actions are taken.

    Raises
    ------
    Mismatch
        Something differs.
    JournalError
        The file cannot be read.
    """
    sink = Comparing(journal.read(path))
    session = Session(setup_of(path), player, sink)
    play(journal.read(path), session)
    return session, sink.frames


def recover(path: Path, player: Player, sync: bool = False) -> Session:
    """The session of a killed desk as it was when it last wrote, the policy's memory included.

    It is played from the newest snapshot on, so however long the journal is, that takes seconds. Nothing is
    sent again: the outbox is empty, and what the venue has must be told by `Session.account`.

    Raises `JournalError` where the journal is in use or damaged, `Mismatch` where the policy is another.
    """
    file = Journal(path, sync)
    try:
        session, start = _begin(path, player)
        sink = Comparing(_after(path, start))
        session.sink = sink
        play(_after(path, start), session)
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


def _begin(path: Path, player: Player) -> tuple[Session, Start | None]:
    """A session as it was at the newest snapshot of its journal, and where that is; None at the beginning."""
    setup = setup_of(path)
    start = journal.newest_snapshot(path)
    if start.number:
        session = Session(setup, player, journal.Memory())
        with suppress(JournalError):
            session.restore(next(journal.read(path, start)).payload)
            return session, start
    session = Session(setup, player, journal.Memory())
    return session, None


def _after(path: Path, start: Start | None) -> Iterator[Frame]:
    """The frames behind that of `start`, or behind the first."""
    return itertools.islice(journal.read(path, start), 1, None)


def decisions(path: Path) -> NDArray[np.void]:
    """All decisions of a journal, in order, as records of `mmenv.live.setup.decision_type`."""
    payloads = [frame.payload for frame in journal.read(path) if frame.kind == journal.DECISION]
    quote = setup_of(path).config.quote
    of_action = len(quote.entries), quote.side_orders
    width = (len(payloads[0]) - decision_type(0, *of_action).itemsize) // 4 if payloads else 0
    return np.frombuffer(b"".join(payloads), decision_type(width, *of_action))


def to_tape(path: Path, store: Path) -> Tape:
    """The market data of a journal as a tape of its own in a store, named by its first day.

    Rows that came too late for the paper exchange have the exchange time at which it played them.
    """
    setup = setup_of(path)
    rows: list[NDArray[np.void]] = []
    decided = 0
    for frame in journal.read(path):
        if frame.kind == journal.TICK:
            decided = frame.json()["time_ns"]
        elif frame.kind == journal.ROWS:
            rows.append(np.frombuffer(frame.payload, ROW).copy())
            played = np.maximum(rows[-1]["local_ns"] // STEP_NS * STEP_NS, decided) - setup.latency_ns
            np.maximum(rows[-1]["exch_ns"], played + 1, out=rows[-1]["exch_ns"])
    if not rows:
        raise JournalError(f"{path} holds no market data.")
    every = np.concatenate(rows)
    made = decisions(path)["outcome"]
    trades = every["price"][every["kind"] == TRADE]
    touches = np.concatenate([made["best_bid_ticks"], made["best_ask_ticks"], trades])
    timed = every[~np.isin(every["kind"], (CLEAR, SNAPSHOT))]
    newest = np.maximum.accumulate(every["exch_ns"])
    day = str(np.datetime64(int(every["local_ns"][0]), "ns").astype("datetime64[D]"))
    info = TapeInfo(
        venue=setup.market.venue,
        symbol=setup.market.symbol,
        day=day,
        tick_size=setup.tick_size,
        lot_size=setup.lot_size,
        contract="inverse" if setup.inverse else "linear",
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
    with replacing(path) as temporary:
        writer = TapeWriter(temporary)
        writer.write(every)
        writer.close(info)
    return Tape(path)


def _difference(expected: Frame, kind: int, payload: bytes) -> str:
    if expected.kind != kind:
        return f"a frame {journal.NAMES[kind]} instead of {journal.NAMES[expected.kind]}"
    return f"{Frame(expected.number, kind, payload)} instead of {expected}"


def _with_end(frames: Iterable[Frame]) -> Iterator[Frame | None]:
    yield from frames
    yield None
