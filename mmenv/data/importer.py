"""`neuralmm import FORMAT FILES -o STORE`: recorded captures into the store.

Two passes, both streaming. The format's reader writes raw rows to a spool file and finds tick, lot and
clock offset; the second pass puts prices and sizes on the grid, follows the book, and writes one Parquet
file per day. Tapes appear in the store together, after everything has been read and checked.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import numpy as np
import tyro
from numba import njit
from numpy.typing import NDArray
from tqdm import tqdm

from mmenv.data import binance
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
from mmenv.data.tape import ROW, Book, Tape, TapeError, TapeInfo, TapeWriter, window

SPOOL_ROWS: Final = 1 << 19
IMPORT_WINDOW: Final = 0.05
"""The importer follows the book within this fraction of the range of traded prices."""
MAX_WINDOW_TICKS: Final = 1 << 24
NO_TICK: Final = np.iinfo(np.int64).max
DAY_NS: Final = 86_400_000_000_000


class Format(Protocol):
    """A format is a module with these two functions; register it in `FORMATS`."""

    def groups(self, paths: Sequence[Path]) -> list[list[Any]]:
        """Captures of the files, one list per venue and symbol, in time order; each has `.source`."""

    def read(self, captures: Sequence[Any], report: Report, progress: bool) -> Iterator[NDArray[np.void]]:
        """Chunks of `RAW` rows of one group in arrival order."""


FORMATS: Final[dict[str, Format]] = {"binance": binance}


@dataclass(frozen=True)
class Import:
    """Import recorded captures into a store."""

    format: tyro.conf.Positional[str]
    """Format of the files: binance (raw captures of USD-M, COIN-M or spot, told apart by their content)."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Capture files, of any number of symbols and days."""
    store: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the store; made if missing."""
    strict: bool = False
    """Refuse a capture with any problem instead of repairing and reporting it."""
    overwrite: bool = False
    """Replace tapes of the same venue, symbol and day."""
    tick_size: str | None = None
    """Price step, such as 0.1; otherwise the greatest common divisor of all prices."""
    lot_size: str | None = None
    """Size step; otherwise the greatest common divisor of all sizes."""
    maker_fee_bp: float | None = None
    """Maker fee in basis points of notional, negative for a rebate; otherwise the venue's regular one."""
    taker_fee_bp: float | None = None
    """Taker fee in basis points of notional; otherwise the venue's regular one."""
    clock_offset_ns: int | None = None
    """Exchange clock minus the recorder's; otherwise such that the fastest message has no delay."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> list[tuple[list[Tape], Report]]:
        """Import; the tapes and the report of each venue and symbol.

        Raises:
            CaptureError: something in the files or options that cannot be used; nothing is written then.
        """
        if self.format not in FORMATS:
            raise CaptureError(f"format is {self.format!r}; known formats: {', '.join(sorted(FORMATS))}")
        if not self.files:
            raise CaptureError("no files given; name at least one capture file")
        chosen = FORMATS[self.format]
        self.store.mkdir(parents=True, exist_ok=True)
        results = []
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.store, prefix=".import-")))
            for number, captures in enumerate(chosen.groups(self.files)):
                report = Report(strict=self.strict)
                spool = _Spool(folder / f"{number}.spool")
                for chunk in chosen.read(captures, report, self.progress):
                    spool.append(chunk)
                names = [capture.path.name for capture in captures]
                second = _SecondPass(self, captures[0].source, names, spool, report)
                writers = [stack.enter_context(writer) for writer in second.run()]
                spool.path.unlink()
                results.append((writers, report))
            return [([Tape(writer.commit()) for writer in writers], report) for writers, report in results]


class _Spool:
    """Raw rows on disk, and what has to be known of all of them before the first can be converted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.price_gcd = 0
        self.size_gcd = 0
        self.least_delay_ns: int | None = None
        self.price_range: dict[int, tuple[int, int]] = {}
        path.touch()

    def append(self, rows: NDArray[np.void]) -> None:
        if not len(rows):
            return
        self.rows += len(rows)
        self.price_gcd = math.gcd(self.price_gcd, int(np.gcd.reduce(rows["price"])))
        self.size_gcd = math.gcd(self.size_gcd, int(np.gcd.reduce(rows["size"])))
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

    def chunks(self) -> Iterator[NDArray[np.void]]:
        with self.path.open("rb") as file:
            while len(rows := np.fromfile(file, RAW, SPOOL_ROWS)):
                yield rows


@dataclass
class _DayStats:
    first_ns: int = -1
    last_ns: int = 0
    disorder_ns: int = 0
    latency_ns: int = 0


class _SecondPass:
    """Spool to tapes: grid, clock, book checks, days."""

    def __init__(
        self, options: Import, source: Source, names: list[str], spool: _Spool, report: Report
    ) -> None:
        self.options, self.names, self.spool, self.report = options, names, spool, report
        self.source = replace(
            source,
            maker_fee_bp=source.maker_fee_bp if options.maker_fee_bp is None else options.maker_fee_bp,
            taker_fee_bp=source.taker_fee_bp if options.taker_fee_bp is None else options.taker_fee_bp,
        )
        self.tick = self._step("tick size", "--tick-size", options.tick_size, spool.price_gcd, "prices")
        self.lot = self._step("lot size", "--lot-size", options.lot_size, spool.size_gcd, "sizes")
        if spool.least_delay_ns is None:
            raise CaptureError(
                f"{names[0]}: no usable rows before or after the snapshot; the capture is empty"
            )
        self.offset = -spool.least_delay_ns if options.clock_offset_ns is None else options.clock_offset_ns
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

    def _step(self, name: str, option: str, given: str | None, gcd: int, what: str) -> int:
        if given is not None:
            return decimal_units(option, given)
        if gcd == 0:
            raise CaptureError(f"{self.names[0]}: no {what} to infer the {name} from; give {option}")
        self.report.notes.append(f"{name} {decimal_text(gcd)} inferred from {self.spool.rows} rows")
        return gcd

    def run(self) -> list[TapeWriter]:
        """Closed, uncommitted writers, one per day."""
        writers: list[TapeWriter] = []
        try:
            name, quiet = f"{self.source.venue} {self.source.symbol}", not self.options.progress
            with tqdm(total=self.spool.rows, desc=name, unit="row", unit_scale=True, disable=quiet) as bar:
                for raw in _whole_messages(self.spool.chunks()):
                    for part in self._days(self._gridded(raw)):
                        self._write(part, writers)
                    bar.update(len(raw))
            if writers:
                writers[-1].close(self._info())
        except BaseException:
            for writer in writers:
                writer.discard()
            raise
        return writers

    def _gridded(self, raw: NDArray[np.void]) -> NDArray[np.void]:
        """Without the rows that lie on no tick or lot, which are reported."""
        off = (raw["price"] % self.tick != 0) | (raw["size"] % self.lot != 0)
        if 2 * off.sum() > len(raw):
            grid = f"tick size {decimal_text(self.tick)} and lot size {decimal_text(self.lot)}"
            raise CaptureError(
                f"{grid} fit less than half of {self.names[0]}; check --tick-size and --lot-size"
            )
        for row in raw[off]:
            values = f"price {decimal_text(int(row['price']))}, size {decimal_text(int(row['size']))}"
            grid = f"tick {decimal_text(self.tick)} and lot {decimal_text(self.lot)}"
            self._problem(row, "off-grid", f"{values} do not fit {grid}; row skipped")
        return raw[~off] if off.any() else raw

    def _days(self, raw: NDArray[np.void]) -> Iterator[NDArray[np.void]]:
        """Parts by UTC day of the recorder's clock, by which recorders rotate their files."""
        days = raw["local_ns"] // DAY_NS
        yield from np.split(raw, np.flatnonzero(np.diff(days)) + 1)

    def _problem(self, row: Any, kind: str, text: str) -> None:
        self.report.add(self.names[row["file"]], row["line"], row["local_ns"], kind, text)

    def _write(self, raw: NDArray[np.void], writers: list[TapeWriter]) -> None:
        """Append rows of one day to its tape, beginning a new tape if the day is new."""
        if not len(raw):
            return
        day = int(raw["local_ns"][0]) // DAY_NS
        if day != self.day:
            if writers:
                writers[-1].close(self._info())
            self._begin(day, writers)
            if len(writers) > 1:
                self._append(writers[-1], self._opening_book(int(raw["local_ns"][0])))
        rows = np.empty(len(raw), ROW)
        for name in ("local_ns", "kind", "side", "id"):
            rows[name] = raw[name]
        rows["exch_ns"] = np.where(
            raw["exch_ns"] == UNKNOWN_NS, raw["local_ns"] + self.offset, raw["exch_ns"]
        )
        rows["price"], rows["size"] = raw["price"] // self.tick, raw["size"] // self.lot
        self._append(writers[-1], self._uncrossed(rows, raw))

    def _begin(self, day: int, writers: list[TapeWriter]) -> None:
        self.day, self.stats = day, _DayStats()
        bid, ask = self.state[:2]
        known = bid >= 0 and ask < self.book.sizes.shape[1]
        self.state[3:] = (bid + self.book.low_tick, ask + self.book.low_tick) if known else (NO_TICK, -1)
        writer = TapeWriter(self.options.store, self.source.venue, self.source.symbol, _day_text(day))
        writers.append(writer)
        if writer.path.exists() and not self.options.overwrite:
            raise CaptureError(f"{writer.path} exists; add --overwrite to replace it")

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
        for index in np.unique(after):
            count = int((after == index).sum())
            self._problem(
                raw[index],
                "crossed-book",
                f"{count} stale levels cross the newest one; removed",
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
                f"{self.names[0]}: the book never has both a bid and an ask on {_day_text(self.day)}"
            )
        source, stats = self.source, self.stats
        return TapeInfo(
            venue=source.venue,
            symbol=source.symbol,
            day=_day_text(self.day),
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


def _day_text(day: int) -> str:
    return str(np.datetime64(day, "D"))


def _whole_messages(chunks: Iterator[NDArray[np.void]]) -> Iterator[NDArray[np.void]]:
    """The same rows, cut so that no message lies in two chunks."""
    held: NDArray[np.void] = np.zeros(0, RAW)
    for chunk in chunks:
        rows = np.concatenate([held, chunk])
        line, file = rows["line"][-1], rows["file"][-1]
        cut = len(rows)
        while cut and rows["line"][cut - 1] == line and rows["file"][cut - 1] == file:
            cut -= 1
        yield rows[:cut]
        held = rows[cut:]
    yield held


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


def main(args: Sequence[str] | None = None) -> None:
    """Command line of `neuralmm import`."""
    try:
        results = tyro.cli(Import, args=args, prog="neuralmm import").run()
    except (CaptureError, TapeError) as error:
        raise SystemExit(f"error: {error}") from None
    for found, report in results:
        for tape in found:
            print(f"{tape.path}: {tape.info.rows} rows")
        print(report)


if __name__ == "__main__":
    main()
