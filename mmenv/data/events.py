"""A tape as the replay venue reads it: events in two orders of time, cached beside the tape."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.book import BOOK_WINDOW, FUSE_START, Book, fused, window
from mmenv.data.rows import BBO, BUY, CLEAR, ROW, TRADE
from mmenv.data.tape import SCHEMA_VERSION, Tape, TapeError
from mmenv.times import SECOND

CACHE_VERSION: Final = 2
TEMPORARY: Final = ".replay-tmp-"
SNAPSHOT_NS: Final = 10 * SECOND
"""Time between two book snapshots of the replay cache."""

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
"""hftbacktest's event layout, here with prices in ticks and sizes in lots."""


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


def open_replay(tape: Tape, feed_latency_ns: int, book_ticker: bool = True) -> Replay:
    """The replay cache of a tape, built on first use.

    Parameters
    ----------
    feed_latency_ns
        Smallest feed delay. Each event keeps its recorded delay above the tape's fastest one (clocks cannot
        tell more) and this is added.
    book_ticker
        Bring the touch up to date with each recorded book ticker, between the conflated depth messages; see
        `mmenv.data.book.fused`.

    Raises `TapeError` if the folder cannot be written to.
    """
    if feed_latency_ns < 0:
        raise TapeError(f"feed_latency_ns = {feed_latency_ns} is not possible: it must not be negative.")
    status = tape.path.stat()
    key = f"{status.st_mtime_ns} {status.st_size} {SCHEMA_VERSION} {CACHE_VERSION}"
    current = f".replay-{hashlib.sha256(key.encode()).hexdigest()[:16]}-"
    folder = tape.path.with_name(f"{current}{feed_latency_ns}{'-ticker' if book_ticker else ''}")
    if not (folder / "index.npz").exists():
        _build(tape, folder, feed_latency_ns, book_ticker)
        for other in tape.path.parent.glob(".replay-*"):
            if not other.name.startswith((current, TEMPORARY)):
                shutil.rmtree(other, ignore_errors=True)
    return _map_replay(folder)


def _build(tape: Tape, folder: Path, feed_latency_ns: int, book_ticker: bool) -> None:
    """Write the cache beside its place and move it there when it is whole."""
    try:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
    except OSError as error:
        raise TapeError(
            f"{folder.parent}: cannot write the replay cache ({error}); make the folder writable"
        ) from None
    try:
        _write_replay(tape, feed_latency_ns, book_ticker, temporary)
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
    info = tape.info
    low, high = window(info.low_tick, info.high_tick, BOOK_WINDOW)
    book = Book(low, high)
    offset = info.clock_offset_ns + feed_latency_ns
    # The first start has no snapshot: the tape begins with its own.
    starts, firsts, bounds = [info.first_ns + info.clock_offset_ns], [0], [0, 0]
    written, boundary, last_ns = 0, 0, 0
    with (folder / "events.bin").open("wb") as events_file, (folder / "levels.bin").open("wb") as levels_file:
        for events in _ordered_events(tape, offset, book_ticker, low, high):
            events.tofile(events_file)
            last_ns = max(last_ns, int(events["local_ts"].max()))
            boundary = boundary or _next_boundary(events[0])
            at = _apply_until(events, 0, boundary, low, book.sizes)
            while at < len(events):
                levels = book.levels()
                _events(levels, np.full(len(levels), EXCH_FLAG | LOCAL_FLAG), 0).tofile(levels_file)
                starts.append(boundary)
                firsts.append(written + at)
                bounds.append(bounds[-1] + len(levels))
                boundary = _next_boundary(events[at])
                at = _apply_until(events, at, boundary, low, book.sizes)
            written += len(events)
    if not written:
        raise TapeError(f"{tape.path}: no book or trade rows; import the capture again")
    scalars = low, high, info.first_ns + offset, last_ns, info.latency_ns + feed_latency_ns
    np.savez(folder / "index.npz", starts=starts, rows=firsts, bounds=bounds, scalars=scalars)


def _next_boundary(event: np.void) -> int:
    return (int(event["exch_ts"]) // SNAPSHOT_NS + 1) * SNAPSHOT_NS


def _ordered_events(
    tape: Tape, offset_ns: int, book_ticker: bool, low_tick: int, high_tick: int
) -> Iterator[NDArray[np.void]]:
    """EVENT chunks, none empty, in exchange order for the exchange and in arrival order for us."""
    arrived, state = Book(low_tick, high_tick), FUSE_START.copy()
    held: NDArray[np.void] = np.zeros(0, ROW)
    sent: NDArray[np.bool_] = np.zeros(0, np.bool_)
    newest = 0
    end = np.zeros(0, ROW)
    for batch in itertools.chain(tape.rows(), (end,)):
        rows = fused(batch, low_tick, arrived.sizes, state) if book_ticker else batch[batch["kind"] != BBO]
        newest = max(newest, int(rows["exch_ns"].max(initial=0)))
        held = np.concatenate([held, rows])
        sent = np.concatenate([sent, np.zeros(len(rows), np.bool_)])
        settled = np.iinfo(np.int64).max if batch is end else newest - tape.info.disorder_ns
        order = np.argsort(held["exch_ns"], kind="stable")
        take, flags, done = _merge(held["exch_ns"], order, sent, settled)
        if len(take):
            yield _events(held[take], flags, offset_ns)
        held, sent = held[done:], sent[done:]


def _map_replay(folder: Path) -> Replay:
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
