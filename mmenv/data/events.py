"""A tape as the replay venue reads it: events in two orders of time, cached beside the tape."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.book import BOOK_WINDOW, FUSE_START, Book, fused, window
from mmenv.data.orders import ID, LOTS, PLACE, PLACED, SIDE, TICK, Queues
from mmenv.data.rows import ADD, BBO, BUY, CANCEL, CLEAR, MODIFY, ROW, TRADE, joined, taken
from mmenv.data.table import clear, find, full, larger, put, remove
from mmenv.data.tape import SCHEMA_VERSION, Tape, TapeError
from mmenv.times import SECOND

CACHE_VERSION: Final = 3
TEMPORARY: Final = ".replay-tmp-"
SNAPSHOT_NS: Final = 10 * SECOND
"""Time between two book snapshots of the replay cache."""
ORDERS_NS: Final = 60 * SECOND
"""The same where single orders are replayed."""

EVENT: Final = np.dtype(
    [
        ("ev", "u8"),
        ("exch_ts", "i8"),
        ("local_ts", "i8"),
        ("px", "f8"),
        ("qty", "f8"),
        ("order_id", "u8"),
        ("ival", "i8"),
        ("fval", "f8"),
    ],
    align=True,
)
"""hftbacktest's event layout, here with prices in ticks and sizes in lots.

Of single orders: `qty` is what an ADD adds, a MODIFY leaves (it only ever takes away), a CANCEL takes (all
that is left) and a FILL executes; `ival` is the number of the order's arrival, and `fval` the lots added to
the level, or taken from it. The `fval` of a trade that met no order in the book, a hidden one, is 1."""


EventsOf = Callable[[NDArray[np.void], NDArray[np.int64], int], NDArray[np.void]]
EXCH_FLAG: Final = 1 << 31
LOCAL_FLAG: Final = 1 << 30
BUY_FLAG: Final = 1 << 29
SELL_FLAG: Final = 1 << 28


@dataclass(frozen=True)
class Replay:
    """A tape as hftbacktest reads it; the arrays are read-only memory maps."""

    events: NDArray[np.void]
    """`EVENT` [m], split where exchange and arrival order differ."""
    starts: NDArray[np.int64]
    """Exchange time [k] of each book snapshot; every event up to it is in the snapshot."""
    rows: NDArray[np.int64]
    """First event [k] after the snapshot."""
    levels: NDArray[np.void]
    """`EVENT` [l], all snapshots' levels one after another; of snapshot i levels[bounds[i]:bounds[i+1]]."""
    bounds: NDArray[np.int64]
    low_tick: int
    high_tick: int
    """The price window kept."""
    first_ns: int
    last_ns: int
    """Local time of the first and last event."""
    catch_up_ns: int
    """After this long past a snapshot, the local book too has seen all that is in it."""
    orders: bool = False
    """The events are those of single orders, and the levels of a snapshot its orders, first come first."""

    def start(self, local_ns: int) -> int:
        """Index of the last snapshot from which the local book is right at `local_ns`.

        Raises `TapeError` if the tape begins too late for that.
        """
        index = int(np.searchsorted(self.starts, local_ns - self.catch_up_ns, side="right")) - 1
        if index < 0:
            raise TapeError(
                f"start {local_ns} is before the book is known, {self.first_known_ns}; start later"
            )
        return index

    @property
    def first_known_ns(self) -> int:
        """Earliest local time at which the local book is right."""
        return int(self.starts[0]) + self.catch_up_ns


class LazyReplay:
    """A tape's `Replay`, opened when anything but its span is asked for: of weeks, episodes draw few days.

    Arguments are those of `open_replay`; raises `TapeError` at once if the tape has not what they ask for.
    """

    def __init__(
        self, tape: Tape, feed_latency_ns: int, book_ticker: bool = True, orders: bool = False
    ) -> None:
        _require_orders(tape, orders)
        self._arguments = tape, feed_latency_ns, book_ticker, orders
        info = tape.info
        self.first_ns = info.first_ns + info.clock_offset_ns + feed_latency_ns
        """Local time of the first event."""
        self.last_ns = info.last_ns + info.clock_offset_ns + feed_latency_ns
        """No event is later."""
        self.first_known_ns = info.first_ns + info.clock_offset_ns + info.latency_ns + feed_latency_ns
        """See `Replay.first_known_ns`."""

    @cached_property
    def opened(self) -> Replay:
        """The replay itself."""
        return open_replay(*self._arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.opened, name)


def _require_orders(tape: Tape, orders: bool) -> None:
    if orders and not tape.info.orders:
        raise TapeError(
            f"{tape.path}: it has levels and no single orders: the queue model fifo needs a tape imported by "
            "this version from LOBSTER, Databento mbo, Bitstamp, Coinbase or ITCH; choose another queue model"
        )


def open_replay(tape: Tape, feed_latency_ns: int, book_ticker: bool = True, orders: bool = False) -> Replay:
    """The replay cache of a tape, built on first use.

    Parameters
    ----------
    feed_latency_ns
        Smallest feed delay. Each event keeps its recorded delay above the tape's fastest one (clocks cannot
        tell more) and this is added.
    book_ticker
        Bring the touch up to date with each recorded book ticker, between the conflated depth messages; see
        `mmenv.data.book.fused`.
    orders
        Replay single orders instead of levels.

    Raises `TapeError` if the folder cannot be written to, or if the tape has no single orders.
    """
    _require_orders(tape, orders)
    if feed_latency_ns < 0:
        raise TapeError(f"feed_latency_ns = {feed_latency_ns} is not possible: it must not be negative.")
    status = tape.path.stat()
    key = f"{status.st_mtime_ns} {status.st_size} {SCHEMA_VERSION} {CACHE_VERSION}"
    current = f".replay-{hashlib.sha256(key.encode()).hexdigest()[:16]}-"
    kind = "-orders" if orders else "-ticker" if book_ticker else ""
    folder = tape.path.with_name(f"{current}{feed_latency_ns}{kind}")
    if not (folder / "index.npz").exists():
        _build(tape, folder, feed_latency_ns, book_ticker, orders)
        for other in tape.path.parent.glob(".replay-*"):
            if not other.name.startswith((current, TEMPORARY)):
                shutil.rmtree(other, ignore_errors=True)
    return _map_replay(folder, orders)


def _build(tape: Tape, folder: Path, feed_latency_ns: int, book_ticker: bool, orders: bool) -> None:
    """Write the cache beside its place and move it there when it is whole."""
    try:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
    except OSError as error:
        raise TapeError(
            f"{folder.parent}: cannot write the replay cache ({error}); make the folder writable"
        ) from None
    try:
        write = _write_orders if orders else _write_replay
        write(tape, feed_latency_ns, book_ticker, temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            # Another process built the same cache first.
            if not (folder / "index.npz").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_replay(tape: Tape, feed_latency_ns: int, book_ticker: bool, folder: Path) -> None:
    """Write events, the levels of the book snapshots and the index of both into `folder`."""
    low, high = window(tape.info.low_tick, tape.info.high_tick, BOOK_WINDOW)
    book = Book(low, high)
    rows = _level_rows(tape, book_ticker, low, high)

    def snapshot(boundary: int) -> NDArray[np.void]:
        levels = book.levels()
        return _events(levels, np.full(len(levels), EXCH_FLAG | LOCAL_FLAG), 0)

    def apply(events: NDArray[np.void], at: int, boundary: int) -> int:
        return int(_apply_until(events, at, boundary, low, book.sizes))

    _write(
        tape, feed_latency_ns, _in_order(rows, tape.info.disorder_ns), snapshot, apply, SNAPSHOT_NS, folder
    )


def _write_orders(tape: Tape, feed_latency_ns: int, book_ticker: bool, folder: Path) -> None:
    """The same of single orders; there are no tickers."""
    low, high = window(tape.info.low_tick, tape.info.high_tick, BOOK_WINDOW)
    queues = Queues()

    def snapshot(boundary: int) -> NDArray[np.void]:
        orders = queues.orders()
        rows = np.zeros(len(orders), PLACED)
        rows["kind"], rows["exch_ns"], rows["local_ns"] = ADD, boundary, boundary
        named = ("id", ID), ("side", SIDE), ("price", TICK), ("size", LOTS), ("place", PLACE)
        for name, column in named:
            rows[name] = orders[:, column]
        return _order_events(rows, np.full(len(rows), EXCH_FLAG | LOCAL_FLAG), 0)

    def apply(events: NDArray[np.void], at: int, boundary: int) -> int:
        at, queues.resting = _orders_until(events, at, boundary, queues.resting)
        return int(at)

    rows = _order_rows(tape, low, high)
    events = _in_order(rows, tape.info.disorder_ns, _order_events)
    _write(tape, feed_latency_ns, events, snapshot, apply, ORDERS_NS, folder)


def _write(
    tape: Tape,
    feed_latency_ns: int,
    ordered: Callable[[int], Iterator[NDArray[np.void]]],
    snapshot: Callable[[int], NDArray[np.void]],
    apply: Callable[[NDArray[np.void], int, int], int],
    every_ns: int,
    folder: Path,
) -> None:
    """Write `ordered` events, given the offset of local times; a `snapshot` at each boundary, up to which
    `apply` takes the book from an event on; and the index of both."""
    info = tape.info
    low, high = window(info.low_tick, info.high_tick, BOOK_WINDOW)
    offset = info.clock_offset_ns + feed_latency_ns
    # The first start has no snapshot: the tape begins with its own.
    starts, firsts, bounds = [info.first_ns + info.clock_offset_ns], [0], [0, 0]
    written, boundary, last_ns = 0, 0, 0
    with (folder / "events.bin").open("wb") as events_file, (folder / "levels.bin").open("wb") as levels_file:
        for events in ordered(offset):
            events.tofile(events_file)
            last_ns = max(last_ns, int(events["local_ts"].max()))
            boundary = boundary or _next_boundary(events[0], every_ns)
            at = apply(events, 0, boundary)
            while at < len(events):
                levels = snapshot(boundary)
                levels.tofile(levels_file)
                starts.append(boundary)
                firsts.append(written + at)
                bounds.append(bounds[-1] + len(levels))
                boundary = _next_boundary(events[at], every_ns)
                at = apply(events, at, boundary)
            written += len(events)
    if not written:
        raise TapeError(f"{tape.path}: no book or trade rows; import the capture again")
    scalars = low, high, info.first_ns + offset, last_ns, info.latency_ns + feed_latency_ns
    np.savez(folder / "index.npz", starts=starts, rows=firsts, bounds=bounds, scalars=scalars)


def _next_boundary(event: np.void, every_ns: int) -> int:
    return (int(event["exch_ts"]) // every_ns + 1) * every_ns


def _level_rows(tape: Tape, book_ticker: bool, low_tick: int, high_tick: int) -> Iterator[NDArray[np.void]]:
    """`ROW` rows without tickers, which are fused into the levels or left out."""
    arrived, state = Book(low_tick, high_tick), FUSE_START.copy()
    for batch in tape.rows():
        yield fused(batch, low_tick, arrived.sizes, state) if book_ticker else batch[batch["kind"] != BBO]


def _order_rows(tape: Tape, low_tick: int, high_tick: int) -> Iterator[NDArray[np.void]]:
    """`PLACED` rows; a trade and what it filled are never parted."""
    queues = Queues()
    held: NDArray[np.void] = np.zeros(0, ROW)
    for batch in itertools.chain(tape.rows(orders=True), (None,)):
        rows = held if batch is None else joined([held, batch])
        cut = len(rows) - (batch is not None and len(rows) > 0 and rows["kind"][-1] == TRADE)
        yield queues.placed(rows[:cut], low_tick, high_tick)
        held = rows[cut:]


def _in_order(
    batches: Iterator[NDArray[np.void]], disorder_ns: int, events_of: EventsOf | None = None
) -> Callable[[int], Iterator[NDArray[np.void]]]:
    """EVENT chunks, none empty, in exchange order for the exchange and in arrival order for us, given the
    offset of local times."""

    def chunks(offset_ns: int) -> Iterator[NDArray[np.void]]:
        held: NDArray[np.void] | None = None
        sent: NDArray[np.bool_] = np.zeros(0, np.bool_)
        newest = 0
        for rows in itertools.chain(batches, (None,)):
            if rows is not None:
                newest = max(newest, int(rows["exch_ns"].max(initial=0)))
                held = rows if held is None else joined([held, rows])
                sent = np.concatenate([sent, np.zeros(len(rows), np.bool_)])
            if held is None:
                continue
            settled = np.iinfo(np.int64).max if rows is None else newest - disorder_ns
            order = np.argsort(held["exch_ns"], kind="stable")
            take, flags, done = _merge(held["exch_ns"], order, sent, settled)
            if len(take):
                yield (events_of or _events)(taken(held, take), flags, offset_ns)
            held, sent = held[done:], sent[done:]

    return chunks


def _map_replay(folder: Path, orders: bool) -> Replay:
    """Open the cache in `folder`."""
    with np.load(folder / "index.npz") as index:
        starts, rows, bounds = index["starts"], index["rows"], index["bounds"]
        low, high, first_ns, last_ns, catch_up = (int(value) for value in index["scalars"])
    levels_path = folder / "levels.bin"
    # An empty file cannot be mapped.
    levels: Any = np.memmap(levels_path, EVENT, "r") if levels_path.stat().st_size else np.zeros(0, EVENT)
    return Replay(
        events=np.memmap(folder / "events.bin", EVENT, "r"),
        starts=starts,
        rows=rows,
        levels=levels,
        bounds=bounds,
        low_tick=low,
        high_tick=high,
        first_ns=first_ns,
        last_ns=last_ns,
        catch_up_ns=catch_up,
        orders=orders,
    )


def _events(rows: NDArray[np.void], flags: NDArray[np.int64], offset_ns: int) -> NDArray[np.void]:
    """`ROW` rows [n] as `EVENT` [n], local times moved by the offset."""
    events = np.zeros(len(rows), EVENT)
    sides = np.where(rows["side"] == BUY, BUY_FLAG, SELL_FLAG)
    sides[rows["kind"] == CLEAR] = 0
    events["ev"] = rows["kind"] | flags | sides
    events["exch_ts"] = rows["exch_ns"]
    events["local_ts"] = rows["local_ns"] + offset_ns
    events["px"], events["qty"] = rows["price"], rows["size"]
    return events


def _order_events(rows: NDArray[np.void], flags: NDArray[np.int64], offset_ns: int) -> NDArray[np.void]:
    """`PLACED` rows [n] as `EVENT` [n], local times moved by the offset."""
    events = _events(rows, flags, offset_ns)
    part = (rows["kind"] == CANCEL) & (rows["left"] > 0)
    events["ev"][part] += MODIFY - CANCEL
    events["qty"][part] = rows["left"][part]
    events["order_id"], events["ival"] = rows["id"], rows["place"]
    of_order = rows["kind"] >= ADD
    events["order_id"][~of_order] = 0
    events["fval"] = np.where(of_order, rows["size"], rows["left"])
    return events


@njit(cache=True, nogil=True)
def _orders_until(events, at, boundary_ns, resting):
    """As `_apply_until`, of single orders; and these."""
    while at < len(events):
        event = events[at]
        if event.ev & EXCH_FLAG:
            if event.exch_ts > boundary_ns:
                return at, resting
            kind, id = event.ev & 0xFF, np.int64(event.order_id)
            side = BUY if event.ev & BUY_FLAG else -BUY
            if kind == CLEAR:
                clear(resting)
            elif kind in (ADD, MODIFY):
                if full(resting):
                    resting = larger(resting)
                row = put(resting, id)
                resting[row, SIDE], resting[row, TICK] = side, np.int64(event.px)
                resting[row, LOTS], resting[row, PLACE] = np.int64(event.qty), event.ival
            elif kind == CANCEL:
                remove(resting, find(resting, id))
        at += 1
    return at, resting


@njit(cache=True, nogil=True)
def _merge(
    exch_ns: NDArray[np.int64],
    order: NDArray[np.int64],
    sent: NDArray[np.bool_],
    settled_ns: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Interleave exchange order and arrival order, splitting a row only where the two disagree.

    Parameters
    ----------
    exch_ns
        [n] in arrival order.
    order
        [n], stable argsort of `exch_ns`.
    sent
        [n], rows whose exchange part has been emitted; updated.
    settled_ns
        No later row has an earlier exchange time.

    Returns
    -------
    take, flags
        Row and flags [m] of each event.
    done
        How many leading rows are entirely emitted.
    """
    count = len(exch_ns)
    take, flags = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
    size, at, local = 0, 0, 0
    while local < count:
        if sent[local]:
            take[size], flags[size] = local, LOCAL_FLAG
            local += 1
            size += 1
            continue
        while sent[order[at]]:
            at += 1
        row = order[at]
        if exch_ns[row] > settled_ns:
            break
        sent[row] = True
        take[size] = row
        if row == local:
            flags[size] = EXCH_FLAG | LOCAL_FLAG
            local += 1
        else:
            flags[size] = EXCH_FLAG
        size += 1
    return take[:size].copy(), flags[:size].copy(), local


@njit(cache=True, nogil=True)
def _apply_until(
    events: NDArray[np.void],
    at: int,
    boundary_ns: int,
    low_tick: int,
    sizes: NDArray[np.int64],
) -> int:
    """Apply exchange-side events from `at` to the book; return the first one later than `boundary_ns`."""
    while at < len(events):
        event = events[at]
        if event.ev & EXCH_FLAG:
            if event.exch_ts > boundary_ns:
                return at
            kind = event.ev & 0xFF
            if kind == CLEAR:
                sizes[:] = 0
            elif kind != TRADE:
                tick = int(event.px) - low_tick
                if 0 <= tick < sizes.shape[1]:
                    sizes[0 if event.ev & BUY_FLAG else 1, tick] = int(event.qty)
        at += 1
    return at
