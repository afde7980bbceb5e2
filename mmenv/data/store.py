"""`neuralmm store STORE [ACTION]`: what is in a store of tapes, whether it is sound, and how to split it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import tyro
from numba import njit
from numpy.typing import NDArray

from mmenv.data.book import BOOK_WINDOW, window
from mmenv.data.events import open_replay
from mmenv.data.folds import walk_forward
from mmenv.data.orders import Queues
from mmenv.data.rows import ADD, BBO, BUY, CANCEL, CLEAR, DEPTH, FILL, SNAPSHOT, TRADE
from mmenv.data.tape import Tape, TapeError, tapes
from mmenv.files import replacing
from mmenv.times import SECOND

SILENCE_NS: Final = 10 * SECOND
"""A gap: nothing was recorded for so long."""
KINDS: Final = (DEPTH, TRADE, CLEAR, SNAPSHOT, BBO, ADD, CANCEL, FILL)
_SEEN: Final = np.dtype(
    [
        ("last_ns", "i8"),
        ("bid", "i8"),  # index of the best level in the window; -1 and its width where there is none
        ("ask", "i8"),
        ("known_ns", "i8"),  # for how long both were known
        ("spread_ns", "f8"),  # ticks x nanoseconds
        ("crossed", "i8"),  # messages after which the book is crossed
        ("gaps", "i8"),
        ("longest_ns", "i8"),
    ]
)


@dataclass(frozen=True)
class Store:
    """List, check or describe the tapes of a store."""

    store: tyro.conf.Positional[Path]
    """Folder that `neuralmm import` or `neuralmm record` wrote."""
    action: tyro.conf.Positional[Literal["list", "check", "describe", "export", "folds"]] = "list"
    """`list`: what there is. `describe`: gaps, spread, trades a minute and a hash of the rows.
    `check`: whether every tape is what its description says; the first that is not is named, and the exit
    status is 1. `export`: each tape to a file of hftbacktest's events, `to`/VENUE_SYMBOL_DAY.npz.
    `folds`: walk-forward splits by day, as ranges for `--day` and a market's `day`."""
    to: Path = Path()
    """Folder of what is exported."""
    venue: str = "*"
    """Venues: a name or pattern."""
    symbol: str = "*"
    """Symbols: a name or pattern."""
    day: str = "*"
    """Days: one, a pattern such as 2024-08-*, or a range such as 2024-08-01..2024-08-07."""
    train: int = 5
    """Of `folds`: days to train on."""
    test: int = 1
    """Of `folds`: days to test on, which follow."""
    purge: int = 1
    """Of `folds`: days left out between the two."""
    expanding: bool = False
    """Of `folds`: every training begins with the first day."""

    def run(self) -> Iterator[str]:
        """Lines of a table, with tabs. Raises `TapeError` where nothing matches, or a tape is not sound."""
        found = tapes(self.store, self.venue, self.symbol, self.day)
        if self.action == "check":
            for tape in found:
                check(tape)
            yield f"{len(found)} tapes, {sum(tape.info.rows for tape in found)} rows: sound"
            return
        if self.action == "export":
            for tape in found:
                yield str(export(tape, self.to))
            return
        if self.action == "folds":
            days = sorted({tape.info.day[:10] for tape in found})
            folds = walk_forward(days, self.train, self.test, self.purge, self.expanding)
            yield "train\ttest"
            yield from (f"{fold.train}\t{fold.test}" for fold in folds)
            return
        heads = ("venue", "symbol", "day", "from", "to", "rows", "trades", "orders", "tick", "lot", "book")
        more = ("gaps", "longest, s", "spread, ticks", "trades a minute", "hash")
        yield "\t".join(heads + (more if self.action == "describe" else ()))
        for tape in found:
            yield "\t".join([*_listed(tape), *(_described(tape) if self.action == "describe" else ())])


def _listed(tape: Tape) -> list[str]:
    info = tape.info
    span = [str(np.datetime64(ns, "ns"))[11:19] for ns in (info.first_ns, info.last_ns)]
    trades = str(info.trades) if info.trades >= 0 else "?"
    book = "whole" if info.book_complete else "with gaps"
    counts = [str(info.rows), trades, str(info.orders)]
    return [info.venue, info.symbol, info.day, *span, *counts, info.tick_size, info.lot_size, book]


def _described(tape: Tape) -> list[str]:
    seen, trades, digest = measure(tape)
    minutes = max(tape.info.last_ns - tape.info.first_ns, 1) / (60 * SECOND)
    spread = f"{seen['spread_ns'] / seen['known_ns']:.2f}" if seen["known_ns"] else "-"
    longest = f"{seen['longest_ns'] / SECOND:.1f}"
    return [str(seen["gaps"]), longest, spread, f"{trades / minutes:.1f}", digest]


def measure(tape: Tape) -> tuple[np.void, int, str]:
    """What a tape comes to: gaps, spread and crossed books, how many trades, and a hash of its rows."""
    low, high = window(tape.info.low_tick, tape.info.high_tick, BOOK_WINDOW)
    sizes = np.zeros((2, high - low + 1), np.int64)
    state = np.zeros(1, _SEEN)
    state["last_ns"], state["bid"], state["ask"] = tape.info.first_ns, -1, sizes.shape[1]
    found, trades = hashlib.sha256(), 0
    for rows in tape.rows(orders=True):
        found.update(rows.tobytes())
        trades += int((rows["kind"] == TRADE).sum())
        _see(rows, low, sizes, state)
    return state[0], trades, found.hexdigest()[:16]


def export(tape: Tape, folder: Path) -> Path:
    """Write a tape as hftbacktest's events: its levels and trades, prices and sizes in whole units as floats.

    What they cannot carry: numbers of trades, and the grid as decimals.
    """
    info = tape.info
    replay = open_replay(tape, 0)
    events = np.array(replay.events)
    events["px"] *= float(info.tick_size)
    events["qty"] *= float(info.lot_size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{info.venue}_{info.symbol}_{info.day}.npz"
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, data=events)
    return path


def check(tape: Tape) -> None:
    """Raise `TapeError` unless a tape's rows are what its description says, in order and possible."""
    info, queues = tape.info, Queues()
    count, last_ns = 0, 0
    for rows in tape.rows(orders=True):
        kind = rows["kind"]
        _require(tape, bool(np.isin(kind, KINDS).all()), "a row of a kind that there is not")
        book = kind != CLEAR
        _require(tape, bool((rows["price"][book] > 0).all()), "a price that is none")
        _require(tape, bool((rows["size"] >= 0).all()), "a size below 0")
        _require(tape, bool((np.abs(rows["side"][book]) == 1).all()), "a side that is none")
        times = np.concatenate([[last_ns], rows["local_ns"]])
        _require(tape, bool((np.diff(times) >= 0).all()), "local times that run back")
        if info.orders:
            same, strays, _ = queues.reconcile(rows)
            told = "single orders that do not add up to the levels"
            _require(tape, not strays and len(same) == len(rows), told)
        count, last_ns = count + len(rows), int(times[-1])
    _require(tape, count == info.rows, f"{count} rows instead of {info.rows}")
    _require(tape, last_ns == info.last_ns, "another end than it says")
    seen, trades, _ = measure(tape)
    _require(tape, info.trades in (-1, trades), f"{trades} trades instead of {info.trades}")
    _require(tape, not seen["crossed"], f"a crossed book after {seen['crossed']} messages")


def _require(tape: Tape, condition: bool, what: str) -> None:
    if not condition:
        raise TapeError(f"{tape.path}: it has {what}; import it again")


@njit(cache=True, nogil=True)
def _see(rows: NDArray[np.void], low: int, sizes: NDArray[np.int64], state: NDArray[np.void]) -> None:
    """Follow the book of `ROW` rows [n], and count."""
    now, width = state[0], sizes.shape[1]
    for number in range(len(rows)):
        row = rows[number]
        passed = row.local_ns - now.last_ns
        if now.bid >= 0 and now.ask < width:
            now.known_ns += passed
            now.spread_ns += float(passed) * (now.ask - now.bid)
        now.gaps += passed >= SILENCE_NS
        now.longest_ns = max(now.longest_ns, passed)
        now.last_ns = row.local_ns
        if row.kind == CLEAR:
            sizes[:] = 0
            now.bid, now.ask = -1, width
        if row.kind != DEPTH and row.kind != SNAPSHOT:
            continue
        at = row.price - low
        if 0 <= at < width:
            sizes[0 if row.side == BUY else 1, at] = row.size
            if row.side == BUY:
                now.bid = max(now.bid, at) if row.size > 0 else now.bid
                while now.bid >= 0 and sizes[0, now.bid] == 0:
                    now.bid -= 1
            else:
                now.ask = min(now.ask, at) if row.size > 0 else now.ask
                while now.ask < width and sizes[1, now.ask] == 0:
                    now.ask += 1
        last = number + 1 == len(rows) or rows[number + 1].id != row.id or rows[number + 1].kind != row.kind
        # A message that crosses the book is followed by what removes the older level.
        if (
            last
            and now.bid >= now.ask
            and (number + 1 == len(rows) or rows[number + 1].local_ns > row.local_ns)
        ):
            now.crossed += 1


def main(options: Store) -> None:
    """Print what `neuralmm store` asks for."""
    for line in options.run():
        print(line)
