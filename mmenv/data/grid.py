"""Raw rows of a whole capture onto the grid of ticks and lots, and into one tape a day.

The second of an import's two passes: by then tick, lot and range of prices are known of all rows, and the
clock's offset of each day. It follows the book, uncrosses it, and begins each day with the book of midnight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmenv.data.book import Book, window
from mmenv.data.decimals import decimal_text, decimal_units
from mmenv.data.follow import DAY_STATS, LEAVE_OUT, SIDE_RULES, TOUCH, Levels, follow, in_units, measure
from mmenv.data.orders import Queues, as_rows
from mmenv.data.problems import Report
from mmenv.data.rows import (
    BBO,
    BUY,
    CLEAR,
    DEPTH,
    ROW,
    SNAPSHOT,
    TRADE,
    CaptureError,
    NoTape,
    inserted,
    joined,
    taken,
)
from mmenv.data.segments import segments, usual_step
from mmenv.data.source import Source
from mmenv.data.spool import Spool
from mmenv.data.tape import TapeInfo, TapeWriter
from mmenv.times import DAY, SECOND

IMPORT_WINDOW: Final = 0.05
"""The book is followed within this fraction of the range of traded prices."""
WIDE: Final = 4
WIDE_WINDOW_TICKS: Final = 1 << 19
"""Or from a quarter of them to four times as much, where that is no more ticks than this."""
MAX_WINDOW_TICKS: Final = 1 << 24
NO_TICK: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Grid:
    """What the user says about the grid, the clock and trades without a side; None: to be found out."""

    tick_size: str | None = None
    lot_size: str | None = None
    clock_offset_ns: int | None = None
    side_rule: str | None = None


class SecondPass:
    """Spool to tapes. Pickled when `run` yields, it goes on from there.

    Raises `CaptureError` where no grid or clock can be had from the rows.
    """

    def __init__(self, grid: Grid, source: Source, spool: Spool, report: Report) -> None:
        self.source, self.spool, self.report, self.places = source, spool, report, report.places
        price, size = self.places
        self._segments = [(0, 0)] if grid.tick_size is not None else segments(spool.blocks)
        """First row and tick of each stretch; the tick is the user's, if there is one."""
        self.tick = self._step("tick size", grid.tick_size, self._segments[0][1], "prices", price)
        self.lot = self._step("lot size", grid.lot_size, usual_step(spool.size_steps), "sizes", size)
        self.side_rule = grid.side_rule
        self.trades = 0
        """In all tapes."""
        self.unsided = 0
        """Trades that came without a side."""
        self._given_offset = grid.clock_offset_ns
        self.offset = 0
        """Of the day."""
        self.book = self._empty_book()
        self.ages = np.zeros_like(self.book.sizes)
        self.touch = np.array([(-1, self.book.sizes.shape[1], 0, NO_TICK, -1, 0, 0)], TOUCH)
        self.queues = Queues() if spool.orders else None
        self.day = -1
        self.segment = 1
        """Number of the stretch of the day."""
        self.stats = np.zeros(1, DAY_STATS)
        self.done = 0
        """Rows that are in finished tapes."""
        self.infos: list[TapeInfo] = []
        """Of the finished tapes."""

    def _clock_offset(self, day: int) -> int:
        """That of a day is had from its own messages: clocks drift, and later days do not change a tape."""
        if self._given_offset is not None:
            return self._given_offset
        least = self.spool.least_delay_ns(day)
        if least is None:
            self.report.notes.append(f"no exchange times: they are taken to be the local ones{self._on(day)}")
        return -(least or 0)

    def _on(self, day: int) -> str:
        """Says which day is meant, after the first."""
        return f" on {day_text(day)}" if self.infos else ""

    def _empty_book(self) -> Book:
        low, high = self._window()
        if high - low > MAX_WINDOW_TICKS:
            raise CaptureError(
                f"{self.report.name(0)}: prices span {high - low} ticks of {self._tick_text}; a stray price "
                "or too fine a tick: give --tick-size"
            )
        return Book(low, high)

    def _window(self) -> tuple[int, int]:
        """Lowest and highest tick at which the book is followed."""
        ranges = self.spool.price_range
        low, high = (
            ranges.get(TRADE) or ranges.get(BBO) or ranges.get(SNAPSHOT) or ranges.get(DEPTH) or (0, 0)
        )
        narrow = window(low // self.tick, -(-high // self.tick), IMPORT_WINDOW)
        quoted = [ranges[kind] for kind in (SNAPSHOT, DEPTH) if kind in ranges]
        # A quote may stand far from all trades, as before the market opens; a stray one even farther.
        low = max(min(first for first, _ in quoted), low // WIDE) if quoted else low
        high = min(max(last for _, last in quoted), high * WIDE) if quoted else high
        wide = min(narrow[0], max(low // self.tick, 1)), max(narrow[1], -(-high // self.tick))
        return wide if wide[1] - wide[0] <= WIDE_WINDOW_TICKS else narrow

    def _step(self, name: str, given: str | None, step: int, what: str, places: int) -> int:
        option = "--" + name.replace(" ", "-")
        if given is not None:
            return decimal_units(option, given, places)
        if step == 0:
            raise CaptureError(f"{self.report.name(0)}: no {what} to infer the {name} from; give {option}")
        self.report.notes.append(f"{name} {decimal_text(step, places)} inferred from {self.spool.rows} rows")
        return step

    def run(self, folder: Path) -> Iterator[int]:
        """Write the tapes that are missing into `folder`; yields the rows done, at each finished tape too.

        A tape is `folder`/its day; it is finished once `infos` has it.
        """
        writer: TapeWriter | None = None
        at = self.done
        try:
            for raw in self.spool.messages(self.done):
                for part in _days(raw, at, [first for first, _ in self._segments[1:]]):
                    day = int(part["local_ns"][0]) // DAY
                    changes = len(self._segments) > 1 and at >= self._segments[1][0]
                    if day != self.day or writer is None or changes:
                        if writer is not None:
                            self.finish(writer, at)
                            yield at
                        if changes:
                            self._change_tick(part)
                        writer = self._begin(day, folder)
                        if self.infos:
                            self.append(writer, self._opening_book(int(part["local_ns"][0])))
                    self._write(part, writer)
                    at += len(part)
                yield at
            if writer is not None:
                self.finish(writer, at)
                yield at
        finally:
            if writer is not None:
                writer.close()

    def finish(self, writer: TapeWriter, at: int) -> None:
        """Finish the tape of the day, after so many rows."""
        info = self._info()
        writer.close(info)
        self.infos.append(info)
        self.trades += info.trades
        self.done = at

    @property
    def _tick_text(self) -> str:
        return decimal_text(self.tick, self.places.price)

    @property
    def _lot_text(self) -> str:
        return decimal_text(self.lot, self.places.size)

    def _gridded(self, raw: NDArray[np.void]) -> NDArray[np.void]:
        """Without the rows that lie on no tick or lot, which are reported."""
        off = (raw["price"] % self.tick != 0) | (raw["size"] % self.lot != 0)
        if 2 * off.sum() > len(raw):
            grid = f"tick size {self._tick_text} and lot size {self._lot_text}"
            raise CaptureError(
                f"{grid} fit less than half of {self.report.name(0)}; check --tick-size and --lot-size"
            )
        self.report.add_rows(raw[off], "off-grid", self._off_grid)
        return taken(raw, ~off)

    def _off_grid(self, row: Any) -> str:
        price = decimal_text(int(row["price"]), self.places.price)
        values = f"price {price}, size {decimal_text(int(row['size']), self.places.size)}"
        grid = f"tick {self._tick_text} and lot {self._lot_text}"
        return f"{values} do not fit {grid}; row skipped"

    def _change_tick(self, rows: NDArray[np.void]) -> None:
        """Go on with the next tick; what stands in the book stays, as far as it lies on the new grid."""
        before, old = self._tick_text, self.tick
        levels = self.book.levels()
        del self._segments[0]
        self.tick = self._segments[0][1]
        when = np.datetime64(int(rows["local_ns"][0]), "ns")
        self.report.notes.append(
            f"tick size {before} until {when}, then {self._tick_text}: tapes of their own"
        )
        units = levels["price"] * old
        on = units % self.tick == 0
        self.report.note("level off the new tick, left out", int((~on).sum()))
        levels, units = levels[on], units[on] // self.tick
        self.book = self._empty_book()
        self.ages = np.zeros_like(self.book.sizes)
        at, width = units - self.book.low_tick, self.book.sizes.shape[1]
        near = (at >= 0) & (at < width)
        self.book.sizes[np.where(levels["side"] == BUY, 0, 1)[near], at[near]] = levels["size"][near]
        bids, asks = (np.flatnonzero(side) for side in self.book.sizes)
        touch = self.touch[0]
        touch["bid"], touch["ask"] = (bids[-1] if len(bids) else -1), (asks[0] if len(asks) else width)
        touch["traded"] = int(touch["traded"]) * old // self.tick
        # Who of those that stand came first is not carried over.
        self.queues = None if self.queues is None else Queues()

    def _begin(self, day: int, folder: Path) -> TapeWriter:
        self.segment = self.segment + 1 if day == self.day else 1
        if day != self.day:
            self.offset = self._clock_offset(day)
            self.report.notes.append(f"clock offset {self.offset / SECOND:.6f} s{self._on(day)}")
        newest, self.stats = self.stats["newest_exch_ns"], np.zeros(1, DAY_STATS)
        self.stats["newest_exch_ns"], self.stats["first_ns"] = newest, -1
        self.day = day
        touch, low = self.touch[0], self.book.low_tick
        known = touch["bid"] >= 0 and touch["ask"] < self.book.sizes.shape[1]
        touch["low_tick"] = touch["bid"] + low if known else NO_TICK
        touch["high_tick"] = touch["ask"] + low if known else -1
        return TapeWriter(folder / self._name)

    @property
    def _name(self) -> str:
        """Of the tape: the day, and the number of a later stretch of it."""
        return day_text(self.day) + (f".{self.segment}" if self.segment > 1 else "")

    def _write(self, raw: NDArray[np.void], writer: TapeWriter) -> None:
        """Append raw rows of one day to its tape."""
        rows, off = in_units(raw, self.tick, self.lot, self.offset)
        if off:
            raw = self._gridded(raw)
            rows, _ = in_units(raw, self.tick, self.lot, self.offset)
        if not len(raw):
            return
        unsided = (rows["kind"] == TRADE) & (rows["side"] == 0)
        rows = self._uncrossed(rows, raw)
        if unsided.any():
            rows = self._sided(rows, int(unsided.sum()))
        if self.queues is not None:
            rows = self._reconciled(rows)
        self.append(writer, rows)

    def _reconciled(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """With orders that add up to the levels."""
        assert self.queues is not None
        rows, strays, unexplained = self.queues.reconcile(rows)
        self.report.note("change of an order that is in no level seen, left out", strays)
        told = "change of a level that no order explains; a lot of unknown place stands for it"
        self.report.note(told, unexplained)
        return rows

    def _sided(self, rows: NDArray[np.void], unsided: int) -> NDArray[np.void]:
        """Without the trades that `follow` could give no side."""
        left = (rows["kind"] == TRADE) & (rows["side"] == 0)
        self.unsided += unsided
        rule = self.side_rule or SIDE_RULES[LEAVE_OUT]
        if rule != SIDE_RULES[LEAVE_OUT]:
            self.report.note(f"trade without a side, given one by the {rule} rule", unsided - int(left.sum()))
        self.report.note("trade whose aggressor is unknown, left out", int(left.sum()))
        return taken(rows, ~left) if left.any() else rows

    def _opening_book(self, local_ns: int) -> NDArray[np.void]:
        """The book carried over midnight, as a snapshot: each day replays on its own."""
        clear = np.zeros(1, ROW)
        clear["kind"] = CLEAR
        rows = joined([clear, self.book.levels()])
        rows["exch_ns"], rows["local_ns"] = self.stats["newest_exch_ns"][0], local_ns
        if self.queues is not None:
            orders = as_rows(self.queues, rows)
            width = self.book.sizes.shape[1]
            near = (orders["price"] >= self.book.low_tick) & (orders["price"] < self.book.low_tick + width)
            rows = inserted(rows, 1, orders[near])
            self.queues = Queues()
            rows = self._reconciled(rows)
        return rows

    def append(self, writer: TapeWriter, rows: NDArray[np.void]) -> None:
        """Write `ROW` rows [n] to the tape of the day and take note of their times."""
        measure(rows, self.offset, self.stats)
        writer.write(rows)

    def _uncrossed(self, rows: NDArray[np.void], raw: NDArray[np.void]) -> NDArray[np.void]:
        """Follow the book; report where it is crossed or locked, and remove the older level there."""
        book = self.book
        rule = SIDE_RULES.index(self.side_rule or SIDE_RULES[LEAVE_OUT])
        after, removals = follow(rows, Levels(book.low_tick, book.sizes, self.ages, self.touch), rule)
        if not len(after):
            return rows
        ends, counts = np.unique(after, return_counts=True)
        removed = dict(zip(raw["line"][ends].tolist(), counts.tolist(), strict=True))
        self.report.add_rows(
            raw[ends],
            "crossed-book",
            lambda row: f"{removed[int(row['line'])]} stale levels cross the newest one; removed",
        )
        return inserted(rows, after + 1, removals)

    def _info(self) -> TapeInfo:
        touch, stats = self.touch[0], self.stats[0]
        if touch["high_tick"] < 0:
            raise NoTape(
                f"{self.report.name(0)}: the book never has both a bid and an ask on {day_text(self.day)}"
            )
        return TapeInfo(
            day=self._name,
            tick_size=self._tick_text,
            lot_size=self._lot_text,
            clock_offset_ns=self.offset,
            source=", ".join(self.report.name(file) for file in self.spool.files(self.day)),
            low_tick=int(touch["low_tick"]),
            high_tick=int(touch["high_tick"]),
            book_complete=not self.report.broken_by(DAY * (self.day + 1)),
            **asdict(self.source),
            first_ns=int(stats["first_ns"]),
            last_ns=int(stats["last_ns"]),
            disorder_ns=int(stats["disorder_ns"]),
            latency_ns=int(stats["latency_ns"]),
            trades=int(stats["trades"]),
            orders=int(stats["orders"]),
        )


def day_text(day: int) -> str:
    """A day of the store, such as 2024-08-09, from its number since 1970."""
    return str(np.datetime64(day, "D"))


def _days(raw: NDArray[np.void], at: int, starts: Sequence[int]) -> Iterator[NDArray[np.void]]:
    """Parts by UTC day of the recorder's clock, by which recorders rotate their files, and from the messages
    at the rows `starts` on; the first of `raw` is row `at`."""
    if len(raw):
        cuts = set((np.flatnonzero(np.diff(raw["local_ns"] // DAY)) + 1).tolist())
        for start in starts:
            place = start - at
            while 0 < place < len(raw) and raw["id"][place] == raw["id"][place - 1]:
                place += 1
            if 0 < place < len(raw):
                cuts.add(place)
        yield from np.split(raw, sorted(cuts))
