"""Raw rows of a whole capture onto the grid of ticks and lots, and into one tape a day.

The second of an import's two passes: by then tick, lot, clock offset and range of prices are known of all
rows. It follows the book, uncrosses it, and begins each day with the book of midnight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.capture import (
    BBO,
    BUY,
    CLEAR,
    DEPTH,
    RAW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
    Report,
    Source,
    decimal_text,
    decimal_units,
)
from mmenv.data.tape import ROW, Book, TapeInfo, TapeWriter, window

SPOOL_ROWS: Final = 1 << 19
IMPORT_WINDOW: Final = 0.05
"""The book is followed within this fraction of the range of traded prices."""
MAX_WINDOW_TICKS: Final = 1 << 24
STEP_ROWS: Final = 1000
"""Rows of a block whose greatest common divisor counts when tick and lot are inferred."""
NO_TICK: Final = np.iinfo(np.int64).max
DAY_NS: Final = 86_400_000_000_000


class Spool:
    """Raw rows on disk, and what has to be known of all of them before the first can be converted.

    Pickled, it stands for the rows it had then; `reopen` forgets later ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.price_steps: Counter[int] = Counter()  # greatest common divisors of blocks of rows
        self.size_steps: Counter[int] = Counter()
        self.least_delay_ns: int | None = None
        self.price_range: dict[int, tuple[int, int]] = {}
        self.days: set[int] = set()
        path.write_bytes(b"")

    def reopen(self) -> bool:
        """Cut off what was written after this state was saved; False if the file is not all there."""
        size = self.rows * RAW.itemsize
        if not self.path.exists() or self.path.stat().st_size < size:
            return False
        with self.path.open("r+b") as file:
            file.truncate(size)
        return True

    def append(self, rows: NDArray[np.void]) -> None:
        """Write rows and take note of them."""
        if not len(rows):
            return
        self.rows += len(rows)
        starts = np.arange(0, len(rows), STEP_ROWS)
        self.price_steps.update(np.gcd.reduceat(rows["price"], starts).tolist())
        self.size_steps.update(np.gcd.reduceat(rows["size"], starts).tolist())
        self.days.update(range(int(rows["local_ns"][0]) // DAY_NS, int(rows["local_ns"][-1]) // DAY_NS + 1))
        stamped = rows[rows["exch_ns"] != UNKNOWN_NS]
        if len(stamped):
            delay = int((stamped["local_ns"] - stamped["exch_ns"]).min())
            self.least_delay_ns = delay if self.least_delay_ns is None else min(delay, self.least_delay_ns)
        for kind in (TRADE, BBO, DEPTH, SNAPSHOT):
            prices = rows["price"][rows["kind"] == kind]
            if len(prices):
                low, high = self.price_range.get(kind, (int(prices[0]), int(prices[0])))
                self.price_range[kind] = min(low, int(prices.min())), max(high, int(prices.max()))
        with self.path.open("ab") as file:
            rows.tofile(file)

    def chunks(self, first: int) -> Iterator[NDArray[np.void]]:
        """The rows from number `first`."""
        with self.path.open("rb") as file:
            file.seek(first * RAW.itemsize)
            while len(rows := np.fromfile(file, RAW, SPOOL_ROWS)):
                yield rows


def usual_step(steps: Counter[int]) -> int:
    """The step that fits all but one in a hundred blocks, the coarsest of those; 0 where no block has one.

    A few values that lie beside it must not make the whole grid finer: they are off the grid.
    """
    known = Counter({step: count for step, count in steps.items() if step > 0})
    enough = 0.99 * known.total()
    frequent = [step for step, count in known.items() if 100 * count >= known.total()]
    fitting = [s for s in frequent if sum(n for step, n in known.items() if step % s == 0) >= enough]
    return max(fitting, default=math.gcd(*known))


@dataclass(frozen=True)
class Grid:
    """What the user says about the grid and the clock; None where it is to be found out."""

    tick_size: str | None = None
    lot_size: str | None = None
    clock_offset_ns: int | None = None


@dataclass
class _DayStats:
    first_ns: int = -1
    last_ns: int = 0
    disorder_ns: int = 0
    latency_ns: int = 0


class SecondPass:
    """Spool to tapes. Pickled when `run` yields, it goes on from there.

    Args:
        grid: what the user says.
        source: what is recorded, with its fees.
        names: files, by `RAW` number.
        spool: all rows.
        report: receives every problem with its line and time.

    Raises:
        CaptureError: no grid or clock can be had from the rows.
    """

    def __init__(self, grid: Grid, source: Source, names: list[str], spool: Spool, report: Report) -> None:
        self.source, self.names, self.spool, self.report = source, names, spool, report
        self.tick = self._step("tick size", "--tick-size", grid.tick_size, spool.price_steps, "prices")
        self.lot = self._step("lot size", "--lot-size", grid.lot_size, spool.size_steps, "sizes")
        self.offset = self._clock_offset(grid.clock_offset_ns)
        report.notes.append(f"clock offset {self.offset / 1e9:.6f} s")
        ranges = spool.price_range
        low, high = (
            ranges.get(TRADE) or ranges.get(BBO) or ranges.get(SNAPSHOT) or ranges.get(DEPTH) or (0, 0)
        )
        low, high = window(low // self.tick, -(-high // self.tick), IMPORT_WINDOW)
        if high - low > MAX_WINDOW_TICKS:
            raise CaptureError(
                f"{names[0]}: prices span {high - low} ticks of {decimal_text(self.tick)}; "
                "a stray price or too fine a tick: give --tick-size"
            )
        self.book = Book(low, high)
        self.ages = np.zeros_like(self.book.sizes)
        # Best bid and ask index, message number, lowest and highest best tick of the day.
        self.state = np.array([-1, self.book.sizes.shape[1], 0, NO_TICK, -1], np.int64)
        self.newest_exch_ns = 0
        self.day = -1
        self.stats = _DayStats()
        self.done = 0
        """Rows that are in finished tapes."""
        self.infos: list[TapeInfo] = []
        """Of the finished tapes."""

    def _clock_offset(self, given: int | None) -> int:
        if given is not None:
            return given
        if self.spool.least_delay_ns is None:
            self.report.notes.append("no exchange times: they are taken to be the local ones")
            return 0
        return -self.spool.least_delay_ns

    def _step(self, name: str, option: str, given: str | None, steps: Counter[int], what: str) -> int:
        if given is not None:
            return decimal_units(option, given)
        step = usual_step(steps)
        if step == 0:
            raise CaptureError(f"{self.names[0]}: no {what} to infer the {name} from; give {option}")
        self.report.notes.append(f"{name} {decimal_text(step)} inferred from {self.spool.rows} rows")
        return step

    def run(self, folder: Path) -> Iterator[int]:
        """Write the tapes that are missing into `folder`; yields the rows done, at each finished tape too.

        A tape is `folder`/its day; it is finished once `infos` has it.
        """
        writer: TapeWriter | None = None
        at = self.done
        try:
            for raw in _whole_messages(self.spool.chunks(self.done)):
                for part in _days(raw):
                    day = int(part["local_ns"][0]) // DAY_NS
                    if day != self.day or writer is None:
                        if writer is not None:
                            self._finish(writer, at)
                            yield at
                        writer = self._begin(day, folder)
                        if self.infos:
                            self._append(writer, self._opening_book(int(part["local_ns"][0])))
                    self._write(self._gridded(part), writer)
                    at += len(part)
                yield at
            if writer is not None:
                self._finish(writer, at)
                yield at
        finally:
            if writer is not None:
                writer.close()

    def _finish(self, writer: TapeWriter, at: int) -> None:
        info = self._info()
        writer.close(info)
        self.infos.append(info)
        self.done = at

    def _gridded(self, raw: NDArray[np.void]) -> NDArray[np.void]:
        """Without the rows that lie on no tick or lot, which are reported."""
        off = (raw["price"] % self.tick != 0) | (raw["size"] % self.lot != 0)
        if 2 * off.sum() > len(raw):
            grid = f"tick size {decimal_text(self.tick)} and lot size {decimal_text(self.lot)}"
            raise CaptureError(
                f"{grid} fit less than half of {self.names[0]}; check --tick-size and --lot-size"
            )
        self.report.add_rows(self.names, raw[off], "off-grid", self._off_grid)
        return raw[~off] if off.any() else raw

    def _off_grid(self, row: Any) -> str:
        values = f"price {decimal_text(int(row['price']))}, size {decimal_text(int(row['size']))}"
        grid = f"tick {decimal_text(self.tick)} and lot {decimal_text(self.lot)}"
        return f"{values} do not fit {grid}; row skipped"

    def _begin(self, day: int, folder: Path) -> TapeWriter:
        self.day, self.stats = day, _DayStats()
        bid, ask = self.state[:2]
        known = bid >= 0 and ask < self.book.sizes.shape[1]
        self.state[3:] = (bid + self.book.low_tick, ask + self.book.low_tick) if known else (NO_TICK, -1)
        return TapeWriter(folder / day_text(day))

    def _write(self, raw: NDArray[np.void], writer: TapeWriter) -> None:
        """Append raw rows of one day to its tape."""
        if not len(raw):
            return
        rows = _in_units(raw, self.tick, self.lot, self.offset)
        self._append(writer, self._uncrossed(rows, raw))

    def _opening_book(self, local_ns: int) -> NDArray[np.void]:
        """The book carried over midnight, as a snapshot: each day replays on its own."""
        clear = np.zeros(1, ROW)
        clear["kind"] = CLEAR
        rows = np.concatenate([clear, self.book.levels()])
        rows["exch_ns"], rows["local_ns"] = self.newest_exch_ns, local_ns
        return rows

    def _append(self, writer: TapeWriter, rows: NDArray[np.void]) -> None:
        stats = self.stats
        if len(rows):
            newest = np.maximum.accumulate(np.maximum(rows["exch_ns"], self.newest_exch_ns))
            delay = rows["local_ns"] + self.offset - rows["exch_ns"]
            self.newest_exch_ns = int(newest[-1])
            stats.disorder_ns = max(stats.disorder_ns, int((newest - rows["exch_ns"]).max()))
            stats.latency_ns = max(stats.latency_ns, int(delay.max()))
            stats.first_ns = int(rows["local_ns"][0]) if stats.first_ns < 0 else stats.first_ns
            stats.last_ns = int(rows["local_ns"][-1])
        writer.write(rows)

    def _uncrossed(self, rows: NDArray[np.void], raw: NDArray[np.void]) -> NDArray[np.void]:
        """Follow the book; report where it is crossed or locked, and remove the older level there."""
        after, side, tick = _follow(
            rows["kind"], rows["side"], rows["price"], rows["size"], rows["id"],
            self.book.low_tick, self.book.sizes, self.ages, self.state,
        )  # fmt: skip
        if not len(after):
            return rows
        ends, counts = np.unique(after, return_counts=True)
        removed = dict(zip(raw["line"][ends].tolist(), counts.tolist(), strict=True))
        self.report.add_rows(
            self.names,
            raw[ends],
            "crossed-book",
            lambda row: f"{removed[int(row['line'])]} stale levels cross the newest one; removed",
        )
        removals = rows[after].copy()
        removals["kind"], removals["size"], removals["side"], removals["price"] = (
            DEPTH,
            0,
            side,
            tick,
        )
        return np.insert(rows, after + 1, removals)

    def _info(self) -> TapeInfo:
        low, high = int(self.state[3]), int(self.state[4])
        if high < 0:
            raise CaptureError(
                f"{self.names[0]}: the book never has both a bid and an ask on {day_text(self.day)}"
            )
        source, stats = self.source, self.stats
        return TapeInfo(
            venue=source.venue,
            symbol=source.symbol,
            day=day_text(self.day),
            tick_size=decimal_text(self.tick),
            lot_size=decimal_text(self.lot),
            maker_fee_bp=source.maker_fee_bp,
            taker_fee_bp=source.taker_fee_bp,
            clock_offset_ns=self.offset,
            source=", ".join(self.names),
            first_ns=stats.first_ns,
            last_ns=stats.last_ns,
            low_tick=low,
            high_tick=high,
            disorder_ns=stats.disorder_ns,
            latency_ns=stats.latency_ns,
            book_complete=not {"missing-snapshot", "sequence-gap"} & set(self.report.counts),
            contract=source.contract,
            contract_size=source.contract_size,
        )


def day_text(day: int) -> str:
    return str(np.datetime64(day, "D"))


def _days(raw: NDArray[np.void]) -> Iterator[NDArray[np.void]]:
    """Parts by UTC day of the recorder's clock, by which recorders rotate their files."""
    if len(raw):
        yield from np.split(raw, np.flatnonzero(np.diff(raw["local_ns"] // DAY_NS)) + 1)


def _whole_messages(chunks: Iterator[NDArray[np.void]]) -> Iterator[NDArray[np.void]]:
    """The same rows, cut so that no message lies in two chunks."""
    held: NDArray[np.void] = np.zeros(0, RAW)
    for chunk in chunks:
        rows = np.concatenate([held, chunk])
        cut = _last_message(rows)
        yield rows[:cut]
        held = rows[cut:]
    yield held


@njit(cache=True, nogil=True)
def _last_message(rows):  # type: ignore[no-untyped-def]
    """The row at which the last message begins."""
    at = len(rows) - 1
    while at > 0 and rows[at - 1].id == rows[at].id and rows[at - 1].kind == rows[at].kind:
        at -= 1
    return at


@njit(cache=True, nogil=True)
def _in_units(raw, tick, lot, offset_ns):  # type: ignore[no-untyped-def]
    """`RAW` rows [n] on the grid as `ROW` rows; local time stands for an unknown one of the exchange."""
    rows = np.empty(len(raw), ROW)
    for at in range(len(raw)):
        row, found = raw[at], rows[at]
        known = row.exch_ns != UNKNOWN_NS
        found.exch_ns = row.exch_ns if known else row.local_ns + offset_ns
        found.local_ns = row.local_ns
        found.kind, found.side, found.id = row.kind, row.side, row.id
        found.price, found.size = row.price // tick, row.size // lot
    return rows


@njit(cache=True, nogil=True)
def _follow(
    kind: NDArray[np.uint8],
    side: NDArray[np.int8],
    price: NDArray[np.int64],
    size: NDArray[np.int64],
    number: NDArray[np.int64],
    low_tick: int,
    sizes: NDArray[np.int64],
    ages: NDArray[np.int64],
    state: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int64]]:
    """Apply rows [n] to the book and uncross it after each message.

    `sizes` and `ages` [2, width] hold each level's size and the message that set it; `state` the best bid
    and ask index, the message number and the range of best ticks.

    Returns:
        Levels removed because a newer one crosses them: the row of the message's end, side and tick.
    """
    width = sizes.shape[1]
    after = []
    removed_side = []
    removed_tick = []
    bid, ask, message = state[0], state[1], state[2]
    for row in range(len(kind)):
        if kind[row] == TRADE or kind[row] == BBO:
            continue
        if kind[row] == CLEAR:
            sizes[:] = 0
            bid, ask = -1, width
            continue
        at = price[row] - low_tick
        if 0 <= at < width:
            book_side = 0 if side[row] == BUY else 1
            sizes[book_side, at] = size[row]
            ages[book_side, at] = message
            if book_side == 0:
                bid = _best(sizes[0], bid, at, -1)
            else:
                ask = _best(sizes[1], ask, at, 1)
        elif size[row] > 0 and (at >= width) == (side[row] == BUY):
            # A bid above everything, or an ask below it: it crosses whatever is there.
            after.append(row)
            removed_side.append(side[row])
            removed_tick.append(price[row])
        if row + 1 < len(kind) and number[row + 1] == number[row] and kind[row + 1] == kind[row]:
            continue
        message += 1
        while bid >= ask and bid >= 0 and ask < width:
            bid_is_older = ages[0, bid] < ages[1, ask]
            tick = bid if bid_is_older else ask
            after.append(row)
            removed_side.append(np.int8(BUY if bid_is_older else SELL))
            removed_tick.append(tick + low_tick)
            if bid_is_older:
                sizes[0, tick] = 0
                bid = _best(sizes[0], bid, tick, -1)
            else:
                sizes[1, tick] = 0
                ask = _best(sizes[1], ask, tick, 1)
        if bid >= 0 and ask < width:
            state[3] = min(state[3], bid + low_tick)
            state[4] = max(state[4], ask + low_tick)
    state[0], state[1], state[2] = bid, ask, message
    return (
        np.array(after, np.int64),
        np.array(removed_side, np.int8),
        np.array(removed_tick, np.int64),
    )


@njit(cache=True, nogil=True)
def _best(sizes: NDArray[np.int64], best: int, changed: int, away: int) -> int:
    """Best index of one side after level `changed` was set; `away` points from the mid into that side."""
    if sizes[changed] > 0:
        return changed if (best - changed) * away > 0 else best
    if changed == best:
        while 0 <= best < len(sizes) and sizes[best] == 0:
            best += away
    return best
