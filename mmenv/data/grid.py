"""Raw rows of a whole capture onto the grid of ticks and lots, and into one tape a day.

The second of an import's two passes: by then tick, lot, clock offset and range of prices are known of all
rows. It follows the book, uncrosses it, and begins each day with the book of midnight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mmenv.data.book import Book, window
from mmenv.data.decimals import decimal_text, decimal_units
from mmenv.data.orders import as_rows, no_orders, pack, reconcile, unpack
from mmenv.data.problems import Report
from mmenv.data.rows import (
    ADD,
    BBO,
    BUY,
    CLEAR,
    DEPTH,
    RAW,
    ROW,
    SELL,
    SNAPSHOT,
    TRADE,
    UNKNOWN_NS,
    CaptureError,
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

TOUCH: Final = np.dtype(
    [
        ("bid", "i8"),  # index of the best level in the window; -1 and its width where there is none
        ("ask", "i8"),
        ("message", "i8"),  # number of the message
        ("low_tick", "i8"),  # lowest and highest best tick of the day
        ("high_tick", "i8"),
        ("traded", "i8"),  # tick of the last trade, 0 before the first
        ("moved", "i8"),  # side of the last trade at another price than the one before
    ]
)


class _Levels(NamedTuple):
    """The book being followed."""

    low_tick: int
    sizes: Any
    """int64 [2, width], bids first."""
    ages: Any
    """int64 [2, width], number of the message that set each level."""
    touch: Any
    """`TOUCH` [1]."""


SIDE_RULES: Final = ("leave-out", "tick", "quote")
"""What becomes of trades whose aggressor is unknown. "tick": a buy above the price before, a sell below it,
at the same price as the last change; "quote": a buy at the ask or nearer to it than to the bid, a sell at the
bid or nearer to that, and in the middle by the tick rule (Lee and Ready 1991)."""
_LEAVE_OUT, _TICK, _QUOTE = range(len(SIDE_RULES))


@dataclass(frozen=True)
class Grid:
    """What the user says about the grid, the clock and trades without a side; None: to be found out."""

    tick_size: str | None = None
    lot_size: str | None = None
    clock_offset_ns: int | None = None
    side_rule: str | None = None


@dataclass
class _DayStats:
    """What is measured of a day."""

    first_ns: int = -1
    last_ns: int = 0
    disorder_ns: int = 0
    latency_ns: int = 0
    trades: int = 0
    orders: int = 0


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
        self.offset = self._clock_offset(grid.clock_offset_ns)
        report.notes.append(f"clock offset {self.offset / SECOND:.6f} s")
        self.book = self._empty_book()
        self.ages = np.zeros_like(self.book.sizes)
        self.touch = np.array([(-1, self.book.sizes.shape[1], 0, NO_TICK, -1, 0, 0)], TOUCH)
        self.queues = no_orders() if spool.orders else None
        self.newest_exch_ns = 0
        self.day = -1
        self.segment = 1
        """Number of the stretch of the day."""
        self.stats = _DayStats()
        self.done = 0
        """Rows that are in finished tapes."""
        self.infos: list[TapeInfo] = []
        """Of the finished tapes."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"queues": None if self.queues is None else pack(self.queues)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        queues = state["queues"]
        self.__dict__ = state | {"queues": None if queues is None else unpack(*queues)}

    def _clock_offset(self, given: int | None) -> int:
        if given is not None:
            return given
        if self.spool.least_delay_ns is None:
            self.report.notes.append("no exchange times: they are taken to be the local ones")
            return 0
        return -self.spool.least_delay_ns

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
            for raw in _whole_messages(self.spool.chunks(self.done)):
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
                    self._write(self._gridded(part), writer)
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
        return raw[~off] if off.any() else raw

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
        self.queues = None if self.queues is None else no_orders()

    def _begin(self, day: int, folder: Path) -> TapeWriter:
        self.segment = self.segment + 1 if day == self.day else 1
        self.day, self.stats = day, _DayStats()
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
        if not len(raw):
            return
        rows = _in_units(raw, self.tick, self.lot, self.offset)
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
        rows, strays, unexplained = reconcile(rows, *self.queues)
        self.report.note("change of an order that is in no level seen, left out", strays)
        told = "change of a level that no order explains; a lot of unknown place stands for it"
        self.report.note(told, unexplained)
        return rows

    def _sided(self, rows: NDArray[np.void], unsided: int) -> NDArray[np.void]:
        """Without the trades that `follow` could give no side."""
        left = (rows["kind"] == TRADE) & (rows["side"] == 0)
        self.unsided += unsided
        rule = self.side_rule or SIDE_RULES[_LEAVE_OUT]
        if rule != SIDE_RULES[_LEAVE_OUT]:
            self.report.note(f"trade without a side, given one by the {rule} rule", unsided - int(left.sum()))
        self.report.note("trade whose aggressor is unknown, left out", int(left.sum()))
        return rows[~left]

    def _opening_book(self, local_ns: int) -> NDArray[np.void]:
        """The book carried over midnight, as a snapshot: each day replays on its own."""
        clear = np.zeros(1, ROW)
        clear["kind"] = CLEAR
        rows = np.concatenate([clear, self.book.levels()])
        rows["exch_ns"], rows["local_ns"] = self.newest_exch_ns, local_ns
        if self.queues is not None:
            orders = as_rows(self.queues, rows)
            width = self.book.sizes.shape[1]
            near = (orders["price"] >= self.book.low_tick) & (orders["price"] < self.book.low_tick + width)
            rows = np.insert(rows, 1, orders[near])
            self.queues = no_orders()
            rows = self._reconciled(rows)
        return rows

    def append(self, writer: TapeWriter, rows: NDArray[np.void]) -> None:
        """Write `ROW` rows [n] to the tape of the day and take note of their times."""
        stats = self.stats
        if len(rows):
            newest = np.maximum.accumulate(np.maximum(rows["exch_ns"], self.newest_exch_ns))
            delay = rows["local_ns"] + self.offset - rows["exch_ns"]
            self.newest_exch_ns = int(newest[-1])
            stats.disorder_ns = max(stats.disorder_ns, int((newest - rows["exch_ns"]).max()))
            stats.latency_ns = max(stats.latency_ns, int(delay.max()))
            stats.first_ns = int(rows["local_ns"][0]) if stats.first_ns < 0 else stats.first_ns
            stats.last_ns = int(rows["local_ns"][-1])
            stats.trades += int((rows["kind"] == TRADE).sum())
            stats.orders += int((rows["kind"] >= ADD).sum())
        writer.write(rows)

    def _uncrossed(self, rows: NDArray[np.void], raw: NDArray[np.void]) -> NDArray[np.void]:
        """Follow the book; report where it is crossed or locked, and remove the older level there."""
        book = self.book
        rule = SIDE_RULES.index(self.side_rule or SIDE_RULES[_LEAVE_OUT])
        after, removals = follow(rows, _Levels(book.low_tick, book.sizes, self.ages, self.touch), rule)
        if not len(after):
            return rows
        ends, counts = np.unique(after, return_counts=True)
        removed = dict(zip(raw["line"][ends].tolist(), counts.tolist(), strict=True))
        self.report.add_rows(
            raw[ends],
            "crossed-book",
            lambda row: f"{removed[int(row['line'])]} stale levels cross the newest one; removed",
        )
        return np.insert(rows, after + 1, removals)

    def _info(self) -> TapeInfo:
        touch = self.touch[0]
        if touch["high_tick"] < 0:
            raise CaptureError(
                f"{self.report.name(0)}: the book never has both a bid and an ask on {day_text(self.day)}"
            )
        return TapeInfo(
            day=self._name,
            tick_size=self._tick_text,
            lot_size=self._lot_text,
            clock_offset_ns=self.offset,
            source=", ".join(self.report.names),
            low_tick=int(touch["low_tick"]),
            high_tick=int(touch["high_tick"]),
            book_complete=not {"missing-snapshot", "sequence-gap"} & set(self.report.counts),
            **asdict(self.source),
            **asdict(self.stats),
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
def _last_message(rows):
    """The row at which the last message begins."""
    at = len(rows) - 1
    while at > 0 and _same_message(rows[at - 1], rows[at]):
        at -= 1
    return at


@njit(cache=True, nogil=True)
def _in_units(raw, tick, lot, offset_ns):
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
def follow(rows, levels, side_rule):
    """Apply `ROW` rows [n] to the book and uncross it after each message.

    Trades without a side get one by the rule, an index into `SIDE_RULES`, where it has something to go by.

    Returns
    -------
    after
        Row [m] at the end of each message that crosses a level.
    removals
        `ROW` [m] that remove the older of the levels there.
    """
    low_tick, sizes, ages, touch = levels.low_tick, levels.sizes, levels.ages, levels.touch[0]
    width = sizes.shape[1]
    bid, ask, message = touch.bid, touch.ask, touch.message
    after, sides, ticks = [], [], []
    for number in range(len(rows)):
        row = rows[number]
        if row.kind == TRADE:
            _take_side(row, touch, bid + low_tick if bid >= 0 else 0, ask + low_tick, ask < width, side_rule)
        if row.kind == TRADE or row.kind == BBO or row.kind >= ADD:
            continue
        if row.kind == CLEAR:
            sizes[:] = 0
            bid, ask = -1, width
            continue
        at = row.price - low_tick
        if 0 <= at < width:
            side = 0 if row.side == BUY else 1
            sizes[side, at], ages[side, at] = row.size, message
            if side == 0:
                bid = _best(sizes[0], bid, at, -1)
            else:
                ask = _best(sizes[1], ask, at, 1)
        elif row.size > 0 and (at >= width) == (row.side == BUY):
            # A bid above everything, or an ask below it: it crosses whatever is there.
            after.append(number)
            sides.append(np.int64(row.side))
            ticks.append(row.price)
        if number + 1 < len(rows) and _same_message(row, rows[number + 1]):
            continue
        message += 1
        while bid >= ask and bid >= 0 and ask < width:
            bid_is_older = ages[0, bid] < ages[1, ask]
            at = bid if bid_is_older else ask
            after.append(number)
            sides.append(np.int64(BUY if bid_is_older else SELL))
            ticks.append(at + low_tick)
            if bid_is_older:
                sizes[0, at] = 0
                bid = _best(sizes[0], bid, at, -1)
            else:
                sizes[1, at] = 0
                ask = _best(sizes[1], ask, at, 1)
        if bid >= 0 and ask < width:
            touch.low_tick = min(touch.low_tick, bid + low_tick)
            touch.high_tick = max(touch.high_tick, ask + low_tick)
    touch.bid, touch.ask, touch.message = bid, ask, message
    return np.array(after, np.int64), _removals(rows, after, sides, ticks)


@njit(cache=True, nogil=True)
def _take_side(trade, touch, bid, ask, has_ask, rule):
    """Give a trade the side that the rule says, if it has none; `bid` is 0 where there is none."""
    if touch.traded > 0 and trade.price != touch.traded:
        touch.moved = BUY if trade.price > touch.traded else SELL
    touch.traded = trade.price
    if trade.side != 0 or rule == _LEAVE_OUT:
        return
    if rule == _QUOTE and bid > 0 and has_ask and 2 * trade.price != bid + ask:
        trade.side = BUY if 2 * trade.price > bid + ask else SELL
    else:
        trade.side = touch.moved


@njit(cache=True, nogil=True)
def _removals(rows, after, sides, ticks):
    """`ROW` [m] that empty levels, each at the time of a row."""
    removals = np.empty(len(after), ROW)
    for place in range(len(after)):
        removal = removals[place]
        removals[place] = rows[after[place]]
        removal.kind, removal.size = DEPTH, 0
        removal.side, removal.price = sides[place], ticks[place]
    return removals


@njit(cache=True, nogil=True)
def _same_message(row, other):
    return row.id == other.id and row.kind == other.kind


@njit(cache=True, nogil=True)
def _best(sizes: NDArray[np.int64], best: int, changed: int, away: int) -> int:
    """Best index of one side after level `changed` was set; `away` points from the mid into that side."""
    if sizes[changed] > 0:
        return changed if (best - changed) * away > 0 else best
    if changed == best:
        while 0 <= best < len(sizes) and sizes[best] == 0:
            best += away
    return best
