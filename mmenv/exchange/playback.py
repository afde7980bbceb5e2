"""A recorded tape as the inside of an exchange: what it publishes, its book, and our orders in its queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.book import BOOK_WINDOW, FUSE_START, Book, fused, window
from mmenv.data.rows import BBO, BUY, CLEAR, DEPTH, ROW, SNAPSHOT, TRADE
from mmenv.data.tape import Tape, TapeError
from mmenv.times import SECOND
from mmenv.venue.matcher import EXPIRED, cancel, empty_book, place_order, play

CAPACITY: Final = 512
"""Orders open at once, of all accounts."""
PUBLISHED_WINDOW: Final = 0.05
"""The published book covers this fraction around the day's range, as the importer's does."""


@dataclass(frozen=True, slots=True)
class Message:
    """A market data message: `rows` of one kind (DEPTH, TRADE or BBO), at `exch_ns` on the tape's clock.

    `previous` is the update id before a depth message's.
    """

    kind: int
    exch_ns: int
    id: int
    previous: int
    rows: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Execution:
    """Some `lots` of the resting order in `slot` have traded at its price."""

    slot: int
    lots: int
    exch_ns: int


@dataclass
class Playback:
    """Tapes of one symbol played in the exchange's order, and a matching engine in them.

    Market data is published as recorded: our orders are too small to be seen in it, and take nothing from it.

    Parameters
    ----------
    tapes
        One symbol's, of consecutive days.
    queue_model
        See `mmenv.venue.matcher`.
    repeat
        Begin anew at the end, with the ids going on.
    """

    tapes: Sequence[Tape]
    queue_model: str = "risk-adverse"
    repeat: bool = False
    update_id: int = field(default=0, init=False)
    """Id of the last depth message."""

    def __post_init__(self) -> None:
        infos = [tape.info for tape in self.tapes]
        if any(info.tick_size != infos[0].tick_size or info.lot_size != infos[0].lot_size for info in infos):
            raise TapeError(f"{infos[0].symbol}: the tapes differ in tick or lot size; import them together")
        low, high = min(info.low_tick for info in infos), max(info.high_tick for info in infos)
        self.matcher = empty_book(*window(low, high, BOOK_WINDOW), CAPACITY, self.queue_model)
        self.book = Book(*window(low, high, PUBLISHED_WINDOW))
        self._fused = Book(*window(low, high, BOOK_WINDOW)), FUSE_START.copy()
        self._free = list(range(CAPACITY))[::-1]
        self._left: dict[int, int] = {}
        self._source = self._messages()
        self._ahead: deque[Message] = deque()
        self._look()
        self.first_ns = self._ahead[0].exch_ns

    @property
    def next_ns(self) -> int | None:
        """Exchange time of the next message, on the tape's clock; None at the end."""
        return self._ahead[0].exch_ns if self._ahead else None

    def play(self, until_ns: int) -> Iterator[Message | Execution]:
        """All that happens up to `until_ns`. An order may be sent or cancelled between any two."""
        while self._ahead and self._ahead[0].exch_ns <= until_ns:
            message = self._ahead.popleft()
            if message.kind == DEPTH:
                self._publish(message)
            self._look()
            yield message
            yield from self._match(message)

    def submit(self, side: int, tick: int, lots: int, exch_ns: int) -> int | None:
        """Rest a post-only order; its slot, or None if it would trade at once.

        Raises ValueError if the price is outside the window or CAPACITY is reached.
        """
        if not self._free:
            raise ValueError(f"more than {CAPACITY} open orders")
        slot = self._free[-1]
        if place_order(self.matcher, slot, side, tick, lots, exch_ns) == EXPIRED:
            return None
        self._free.pop()
        self._left[slot] = lots
        return slot

    def cancel(self, slot: int, exch_ns: int) -> None:
        """Take the order out."""
        cancel(self.matcher, slot, exch_ns)
        self._release(slot)

    def take(self, side: int, limit_tick: int | None, lots: int) -> list[tuple[int, int]]:
        """What an order of `lots` would trade at once: (tick, lots) from the best price on."""
        matcher = self.matcher
        own = 1 if side == BUY else 0
        sizes = matcher.sizes[own]
        at = int(matcher.best[own]) - matcher.low_tick
        found: list[tuple[int, int]] = []
        while lots > 0 and 0 <= at < len(sizes):
            tick = at + matcher.low_tick
            if limit_tick is not None and (tick - limit_tick) * side > 0:
                break
            if sizes[at] > 0:
                found.append((tick, min(lots, int(sizes[at]))))
                lots -= found[-1][1]
            at += side
        return found

    def _match(self, message: Message) -> Iterator[Execution]:
        book, state = self._fused
        rows = fused(message.rows, book.low_tick, book.sizes, state)
        at = 0
        while at < len(rows):
            at = play(self.matcher, rows, at)
            for slot in list(self._left):
                left, now = self._left.get(slot, 0), int(self.matcher.orders["left"][slot])
                if now < left:
                    self._left[slot] = now
                    if now == 0:
                        self._release(slot)
                    yield Execution(slot, left - now, message.exch_ns)

    def _release(self, slot: int) -> None:
        del self._left[slot]
        self._free.append(slot)

    def _publish(self, message: Message) -> None:
        self.update_id = message.id
        at = message.rows["price"] - self.book.low_tick
        inside = (at >= 0) & (at < self.book.sizes.shape[1])
        sides = np.where(message.rows["side"] == BUY, 0, 1)
        self.book.sizes[sides[inside], at[inside]] = message.rows["size"][inside]

    def _look(self) -> None:
        if not self._ahead and (message := next(self._source, None)) is not None:
            self._ahead.append(message)

    def _messages(self) -> Iterator[Message]:
        previous = {DEPTH: 0, TRADE: 0, BBO: 0}
        shift_ns = ids = trades = 0
        first_ns = None
        while True:
            for tape in self.tapes:
                for rows in _in_exchange_order(tape):
                    if first_ns is None:
                        first_ns = int(rows["exch_ns"][0])
                    if shift_ns:
                        rows["exch_ns"] += shift_ns
                        rows["id"] += np.where(rows["kind"] == TRADE, trades, ids)
                    yield from self._split(rows, previous)
                last_ns = int(rows["exch_ns"][-1])
            if not self.repeat:
                return
            assert first_ns is not None
            shift_ns = last_ns + SECOND - first_ns
            ids, trades = max(previous[DEPTH], previous[BBO]), previous[TRADE]

    def _split(self, rows: NDArray[np.void], previous: dict[int, int]) -> Iterator[Message]:
        same = (
            (rows["kind"][1:] == rows["kind"][:-1])
            & (rows["id"][1:] == rows["id"][:-1])
            & (rows["exch_ns"][1:] == rows["exch_ns"][:-1])
        )
        starts = np.flatnonzero(np.r_[True, ~same])
        ends = np.r_[starts[1:], len(rows)]
        for kind, number, start, end in zip(
            rows["kind"][starts].tolist(), rows["id"][starts].tolist(), starts.tolist(), ends.tolist(),
            strict=True,
        ):  # fmt: skip
            if kind == CLEAR:
                continue
            part = rows[start:end]
            if kind == SNAPSHOT:
                part, kind = self._change_to(part), DEPTH
            yield Message(kind, int(part["exch_ns"][0]), number, previous[kind], part)
            previous[kind] = number

    def _change_to(self, snapshot: NDArray[np.void]) -> NDArray[np.void]:
        """A new book as the diff from the published one; an exchange never says it begins anew."""
        gone = self.book.levels()
        gone = gone[~np.isin(gone["price"] * gone["side"], snapshot["price"] * snapshot["side"])]
        for name in ("exch_ns", "local_ns", "id"):
            gone[name] = snapshot[name][0]
        gone["size"] = 0
        rows = np.concatenate([gone, snapshot])
        rows["kind"] = DEPTH
        return rows


def _in_exchange_order(tape: Tape) -> Iterator[NDArray[np.void]]:
    held: NDArray[np.void] = np.zeros(0, ROW)
    for batch in tape.rows():
        held = np.concatenate([held, batch])
        held = held[np.argsort(held["exch_ns"], kind="stable")]
        done = int(np.searchsorted(held["exch_ns"], held["exch_ns"][-1] - tape.info.disorder_ns, side="left"))
        if done:
            yield held[:done].copy()
        held = held[done:]
    if len(held):
        yield held
