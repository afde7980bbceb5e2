"""The store of recorded markets, and tapes ready to replay.

A store is a folder of Parquet files, `venue=V/symbol=S/day=D/tape.parquet`: one row per book level or
trade in arrival order, prices in ticks, sizes in lots, times in nanoseconds, and a `TapeInfo` as JSON in
the Parquet metadata. To replay a tape it is turned once into a memory-mapped array of hftbacktest's
event layout, with a book snapshot every ten seconds to start from. That cache lies beside the Parquet
file and is shared by all environments and processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from mmenv.data.capture import BBO, BUY, CLEAR, DEPTH, SELL, SNAPSHOT, TRADE

SCHEMA_VERSION: Final = 1
CACHE_VERSION: Final = 2
TEMPORARY: Final = ".replay-tmp-"
METADATA_KEY: Final = b"neuralmm"
BATCH_ROWS: Final = 1 << 19
SNAPSHOT_NS: Final = 10_000_000_000
"""Time between two book snapshots of the replay cache."""
BOOK_WINDOW: Final = 0.01
"""Replay keeps the levels within this fraction of the day's range of best prices, and no others."""

ROW: Final = np.dtype(
    [
        ("exch_ns", "<i8"),
        ("local_ns", "<i8"),
        ("kind", "u1"),
        ("side", "i1"),
        ("price", "<i8"),
        ("size", "<i8"),
        ("id", "<i8"),
    ]
)
"""A stored row: kinds and sides as in `mmenv.data.capture`, price in ticks, size in lots, local time as
recorded (add `TapeInfo.clock_offset_ns` to compare it with exchange time)."""

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

_SCHEMA: Final = pa.schema([(name, pa.from_numpy_dtype(ROW[name])) for name in ROW.names or ()])


class TapeError(ValueError):
    """A store or tape that cannot be used as asked."""


@dataclass(frozen=True)
class TapeInfo:
    """What is known about a tape; stored inside its Parquet file.

    Sizes are decimal text, so that they are exact. `low_tick` and `high_tick` bound the best prices,
    `disorder_ns` how far exchange times run backwards in arrival order, and `latency_ns` the largest feed
    delay after clock correction. `book_complete` is false if the book was built without a snapshot or
    holds an unrepaired gap.
    """

    venue: str
    symbol: str
    day: str
    tick_size: str
    lot_size: str
    maker_fee_bp: float
    taker_fee_bp: float
    clock_offset_ns: int
    source: str
    first_ns: int
    last_ns: int
    low_tick: int
    high_tick: int
    disorder_ns: int
    latency_ns: int
    book_complete: bool = True
    contract: str = "linear"
    contract_size: str = "1"
    rows: int = 0
    schema_version: int = SCHEMA_VERSION


class TapeWriter:
    """Writes one tape to `path`; it is one once `close` was given its description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._parquet = pq.ParquetWriter(
            path,
            _SCHEMA,
            compression="zstd",
            use_dictionary=["kind", "side"],
            column_encoding=dict.fromkeys(
                ("exch_ns", "local_ns", "price", "size", "id"), "DELTA_BINARY_PACKED"
            ),
        )
        self.rows = 0

    def write(self, rows: NDArray[np.void]) -> None:
        """Append `ROW` rows [n]."""
        columns = [pa.array(np.ascontiguousarray(rows[name])) for name in ROW.names or ()]
        self._parquet.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        self.rows += len(rows)

    def close(self, info: TapeInfo | None = None) -> None:
        """Finish the file, a tape if described; harmless when repeated."""
        if info is not None:
            stored = asdict(info) | {"rows": self.rows}
            self._parquet.add_key_value_metadata({METADATA_KEY: json.dumps(stored)})
        self._parquet.close()


def tape_path(store: Path, venue: str, symbol: str, day: str) -> Path:
    """Where the store has the tape."""
    return store / f"venue={venue}" / f"symbol={symbol}" / f"day={day}" / "tape.parquet"


def put_tape(written: Path, path: Path) -> None:
    """Put a finished tape in its place, over an older one of the same venue, symbol and day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, path)


@dataclass(frozen=True)
class Replay:
    """A tape as hftbacktest reads it; the arrays are read-only memory maps.

    events: EVENT [m], split where exchange and arrival order differ.
    starts: exchange time [k] of each book snapshot; every event up to it is in the snapshot.
    rows: first event [k] after the snapshot.
    levels: EVENT [l], all snapshots' levels one after another; snapshot i is levels[bounds[i]:bounds[i+1]].
    low_tick, high_tick: the price window kept.
    first_ns, last_ns: local time of the first and last event.
    catch_up_ns: after this long past a snapshot, the local book too has seen all that is in it.
    """

    events: NDArray[np.void]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    levels: NDArray[np.void]
    bounds: NDArray[np.int64]
    low_tick: int
    high_tick: int
    first_ns: int
    last_ns: int
    catch_up_ns: int

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


class Tape:
    """One venue, symbol and day of a store. Opening it reads only the metadata.

    Raises:
        TapeError: no tape there, not one of ours, or written by another schema version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            metadata = pq.read_metadata(self.path).metadata or {}
        except FileNotFoundError:
            raise TapeError(f"{self.path}: no tape there; import one with `neuralmm import`") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise TapeError(f"{self.path}: not a readable Parquet file ({error}); import it again") from None
        if METADATA_KEY not in metadata:
            raise TapeError(f"{self.path}: a Parquet file, but not a tape of ours; use `neuralmm import`")
        found = json.loads(metadata[METADATA_KEY])
        if found.get("schema_version") != SCHEMA_VERSION:
            version = found.get("schema_version")
            raise TapeError(
                f"{self.path}: schema version {version}, expected {SCHEMA_VERSION}; import it again"
            )
        self.info = TapeInfo(**{item.name: found[item.name] for item in fields(TapeInfo)})

    def __repr__(self) -> str:
        return f"Tape({self.info.venue} {self.info.symbol} {self.info.day}, {self.info.rows} rows)"

    def rows(self) -> Iterator[NDArray[np.void]]:
        """Batches of `ROW` rows in arrival order."""
        with pq.ParquetFile(self.path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS):
                rows = np.empty(len(batch), ROW)
                for name in ROW.names or ():
                    rows[name] = batch.column(name).to_numpy()
                yield rows

    def replay(self, feed_latency_ns: int, book_ticker: bool = True) -> Replay:
        """The replay cache, built on first use.

        Args:
            feed_latency_ns: smallest feed delay. Each event keeps its recorded delay above the tape's
                fastest one (clocks cannot tell more) and this is added.
            book_ticker: bring the touch up to date with each recorded book ticker, between the conflated
                depth messages; see `fused`.

        Raises TapeError if the folder cannot be written to.
        """
        if feed_latency_ns < 0:
            raise TapeError(f"feed latency is {feed_latency_ns} ns; it must not be negative")
        status = self.path.stat()
        key = f"{status.st_mtime_ns} {status.st_size} {SCHEMA_VERSION} {CACHE_VERSION}"
        current = f".replay-{hashlib.sha256(key.encode()).hexdigest()[:16]}-"
        folder = self.path.with_name(f"{current}{feed_latency_ns}{'-ticker' if book_ticker else ''}")
        if not (folder / "index.npz").exists():
            self._build(folder, feed_latency_ns, book_ticker)
            for other in self.path.parent.glob(".replay-*"):
                if not other.name.startswith((current, TEMPORARY)):
                    shutil.rmtree(other, ignore_errors=True)
        return _open_replay(folder)

    def _build(self, folder: Path, feed_latency_ns: int, book_ticker: bool) -> None:
        try:
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
        except OSError as error:
            raise TapeError(
                f"{folder.parent}: cannot write the replay cache ({error}); make the folder writable"
            ) from None
        try:
            _build_replay(self, feed_latency_ns, book_ticker, temporary)
            try:
                os.rename(temporary, folder)
            except OSError:
                # Another process built the same cache first.
                if not (folder / "index.npz").exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def tapes(store: Path | str, venue: str = "*", symbol: str = "*", day: str = "*") -> list[Tape]:
    """The store's tapes that match, by venue, symbol and day; each argument may be a glob pattern.

    Raises `TapeError` if none does.
    """
    paths = sorted(Path(store).glob(f"venue={venue}/symbol={symbol}/day={day}/tape.parquet"))
    if not paths:
        raise TapeError(
            f"{store}: no tape of venue {venue}, symbol {symbol}, day {day}; see `neuralmm import`"
        )
    return [Tape(path) for path in paths]


class Book:
    """Level sizes of both sides within a window of ticks, as dense arrays; levels outside are ignored."""

    def __init__(self, low_tick: int, high_tick: int) -> None:
        self.low_tick = low_tick
        self.sizes = np.zeros((2, high_tick - low_tick + 1), np.int64)

    def levels(self) -> NDArray[np.void]:
        """`ROW` rows of kind SNAPSHOT, bids then asks, times zero."""
        parts = []
        for side, sizes in zip((BUY, SELL), self.sizes, strict=True):
            found = np.flatnonzero(sizes)
            rows = np.zeros(len(found), ROW)
            rows["kind"], rows["side"] = SNAPSHOT, side
            rows["price"], rows["size"] = found + self.low_tick, sizes[found]
            parts.append(rows)
        return np.concatenate(parts)


def window(low_tick: int, high_tick: int, fraction: float) -> tuple[int, int]:
    """The range of ticks `fraction` wider than [low_tick, high_tick], at least 100 ticks on each side."""
    low = low_tick - max(round(low_tick * fraction), 100)
    high = high_tick + max(round(high_tick * fraction), 100)
    return max(low, 1), high


def _build_replay(tape: Tape, feed_latency_ns: int, book_ticker: bool, folder: Path) -> None:
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
    for batch, final in _with_last(tape.rows()):
        rows = fused(batch, low_tick, arrived.sizes, state) if book_ticker else batch[batch["kind"] != BBO]
        newest = max(newest, int(rows["exch_ns"].max(initial=0)))
        held = np.concatenate([held, rows])
        sent = np.concatenate([sent, np.zeros(len(rows), np.bool_)])
        settled = np.iinfo(np.int64).max if final else newest - tape.info.disorder_ns
        order = np.argsort(held["exch_ns"], kind="stable")
        take, flags, done = _merge(held["exch_ns"], order, sent, settled)
        if len(take):
            yield _events(held[take], flags, offset_ns)
        held, sent = held[done:], sent[done:]


def _with_last(
    batches: Iterator[NDArray[np.void]],
) -> Iterator[tuple[NDArray[np.void], bool]]:
    held: NDArray[np.void] | None = None
    for batch in batches:
        if held is not None:
            yield held, False
        held = batch
    if held is not None:
        yield held, True


def _open_replay(folder: Path) -> Replay:
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
    events = np.zeros(len(rows), EVENT)
    sides = np.where(rows["side"] == BUY, BUY_FLAG, SELL_FLAG)
    sides[rows["kind"] == CLEAR] = 0
    events["ev"] = rows["kind"] | flags | sides
    events["exch_ts"] = rows["exch_ns"]
    events["local_ts"] = rows["local_ns"] + offset_ns
    events["px"], events["qty"] = rows["price"], rows["size"]
    return events


FUSE_START: Final = np.array([-1, -1, -1, -1, -1, -1, np.iinfo(np.int64).max, 0, 0], np.int64)
"""State of `fused` before the first row: number, bid and ask tick of the last ticker; number and exchange
time of the newest book row; levels above which there is no bid and below which no ask; price and size of the
bid of the ticker being read."""


@njit(cache=True, nogil=True)
def fused(
    rows: NDArray[np.void], low_tick: int, sizes: NDArray[np.int64], state: NDArray[np.int64]
) -> NDArray[np.void]:
    """Book tickers turned into depth rows, so that the touch is as recent as anything received.

    A ticker numbered after the last diff sets the best levels and removes what is better than them. A diff
    numbered before the last ticker says nothing new from the touch on; those rows are dropped. Numbers are
    the exchange's, shared by both streams; exchange times are kept in their order.

    Args:
        rows: ROW [n] in arrival order, tickers as pairs of bid and ask.
        low_tick: tick of the first level of `sizes`.
        sizes: [2, width], the book so far; updated.
        state: begins as FUSE_START; updated.

    Returns:
        ROW [m] without tickers.
    """
    out = np.empty(2 * len(rows) + 16, ROW)
    count = 0
    for place in range(len(rows)):
        row = rows[place]
        room = 1
        if row.kind == BBO and row.side == SELL:
            # One for each level that may be better than it, and one for itself, on each side.
            room = max(state[5] + low_tick - state[7], 0) + max(row.price - low_tick - state[6], 0) + 2
        if count + room > len(out):
            bigger = np.empty(2 * len(out) + room, ROW)
            bigger[:count] = out[:count]
            out = bigger
        if row.kind == BBO:
            if row.side == BUY:
                state[7], state[8] = row.price, row.size
            elif row.id > state[3]:
                count = _emit_ticker(row, low_tick, sizes, state, out, count)
            continue
        if row.kind == TRADE:
            out[count] = row
            count += 1
            continue
        if row.kind == CLEAR:
            sizes[:] = 0
            state[0], state[5], state[6] = -1, -1, FUSE_START[6]
        elif row.id < state[0] and (row.price >= state[1] if row.side == BUY else row.price <= state[2]):
            continue
        out[count] = row
        _stamp(out, count, state)
        count += 1
        at = row.price - low_tick
        if row.kind != CLEAR and 0 <= at < sizes.shape[1]:
            _set_level(sizes, 0 if row.side == BUY else 1, at, row.size, state)
    return out[:count].copy()


@njit(cache=True, nogil=True)
def _set_level(sizes, side, at, size, state):  # type: ignore[no-untyped-def]
    sizes[side, at] = size
    if side == 0:
        state[5] = max(state[5], at)
    else:
        state[6] = min(state[6], at)


@njit(cache=True, nogil=True)
def _stamp(out, place, state):  # type: ignore[no-untyped-def]
    """Keep the exchange times of book rows in the order of their numbers."""
    if out[place].id >= state[3]:
        state[3] = out[place].id
        state[4] = max(state[4], out[place].exch_ns)
        out[place].exch_ns = state[4]


@njit(cache=True, nogil=True)
def _emit_ticker(ask, low_tick, sizes, state, out, count):  # type: ignore[no-untyped-def]
    bid_at, ask_at = state[7] - low_tick, ask.price - low_tick
    state[0], state[1], state[2] = ask.id, state[7], ask.price
    # Removals first: in between, the book is never crossed.
    for at in range(max(bid_at + 1, 0), state[5] + 1):
        if sizes[0, at] > 0:
            count = _emit_level(ask, 0, at, 0, low_tick, sizes, state, out, count)
    for at in range(state[6], min(ask_at, sizes.shape[1])):
        if sizes[1, at] > 0:
            count = _emit_level(ask, 1, at, 0, low_tick, sizes, state, out, count)
    state[5], state[6] = min(state[5], bid_at), max(state[6], ask_at)
    for side, at, size in ((0, bid_at, state[8]), (1, ask_at, ask.size)):
        if 0 <= at < sizes.shape[1] and sizes[side, at] != size:
            count = _emit_level(ask, side, at, size, low_tick, sizes, state, out, count)
    return count


@njit(cache=True, nogil=True)
def _emit_level(row, side, at, size, low_tick, sizes, state, out, count):  # type: ignore[no-untyped-def]
    _set_level(sizes, side, at, size, state)
    out[count] = row
    out[count].kind, out[count].side = DEPTH, BUY if side == 0 else SELL
    out[count].price, out[count].size = at + low_tick, size
    _stamp(out, count, state)
    return count + 1


@njit(cache=True, nogil=True)
def _merge(
    exch_ns: NDArray[np.int64],
    order: NDArray[np.int64],
    sent: NDArray[np.bool_],
    settled_ns: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Interleave exchange order and arrival order, splitting a row only where the two disagree.

    Args:
        exch_ns: [n] in arrival order.
        order: [n] stable argsort of `exch_ns`.
        sent: [n] rows whose exchange part has been emitted; updated in place.
        settled_ns: no later row has an earlier exchange time.

    Returns:
        Row and flags of each event, and how many leading rows are entirely emitted.
    """
    count = len(exch_ns)
    take = np.empty(2 * count, np.int64)
    flags = np.empty(2 * count, np.int64)
    size = 0
    at = 0
    local = 0
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
