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
from mmenv.data.tape import ROW, Book, Tape, TapeError, TapeInfo, TapeWriter, tapes, window

SPOOL_ROWS: Final = 1 << 19
IMPORT_WINDOW: Final = 0.05
"""The importer follows the book within this fraction of the range of traded prices."""
MAX_WINDOW_TICKS: Final = 1 << 26
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
    """Import recorded captures into a store.

    Raises:
        CaptureError: something in the files or options that cannot be used; nothing is written then.
    """

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
        """Import; the tapes and the report of each venue and symbol."""
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


class _SecondPass:
    """Spool to tapes: grid, clock, book checks, days."""

    def __init__(self, options: Import, source: Source, names: list[str], spool: _Spool, report: Report) -> None:
        self.options, self.names, self.spool, self.report = options, names, spool, report
        self.source = replace(
            source,
            maker_fee_bp=source.maker_fee_bp if options.maker_fee_bp is None else options.maker_fee_bp,
            taker_fee_bp=source.taker_fee_bp if options.taker_fee_bp is None else options.taker_fee_bp,
        )
        self.tick = self._step("tick size", "--tick-size", options.tick_size, spool.price_gcd, "prices")
        self.lot = self._step("lot size", "--lot-size", options.lot_size, spool.size_gcd, "sizes")
        if spool.least_delay_ns is None:
            raise CaptureError(f"{names[0]}: no usable rows before or after the snapshot; the capture is empty")
        self.offset = -spool.least_delay_ns if options.clock_offset_ns is None else options.clock_offset_ns
        report.notes.append(f"clock offset {self.offset / 1e9:.6f} s")
        ranges = spool.price_range
        low, high = ranges.get(TRADE) or ranges.get(BBO) or ranges.get(SNAPSHOT) or ranges.get(DEPTH) or (0, 0)
        low, high = window(low // self.tick, -(-high // self.tick), IMPORT_WINDOW)
        if high - low > MAX_WINDOW_TICKS:
            raise CaptureError(
                f"{names[0]}: prices span {high - low} ticks of {decimal_text(self.tick)}; "
                "a stray price or too fine a tick: give --tick-size"
            )
        self.book = Book(low, high)
        self.ages = np.zeros_like(self.book.sizes)
        # Best bid and ask ticks, message number, lowest and highest best tick of the day.
        self.state = np.array([-1, -1, 0, np.iinfo(np.int64).max, -1], np.int64)
        self.newest_exch_ns = 0
        self.day_state = {"disorder_ns": 0, "latency_ns": 0, "first_ns": 0, "last_ns": 0}

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
            bar = tqdm(total=self.spool.rows, unit="row", unit_scale=True, disable=not self.options.progress)
            with bar:
                bar.set_description(f"{self.source.venue} {self.source.symbol}")
                for raw in self.spool.chunks():
                    rows = self._checked(self._gridded(raw))
                    self._write(rows, writers)
                    bar.update(len(raw))
            if writers:
                self._close(writers[-1])
        except BaseException:
            for writer in writers:
                writer.discard()
            raise
        return writers

    def _gridded(self, raw: NDArray[np.void]) -> NDArray[np.void]:
        off = (raw["price"] % self.tick != 0) | (raw["size"] % self.lot != 0)
        for row in raw[off]:
            text = f"price {decimal_text(int(row['price']))}, size {decimal_text(int(row['size']))} are not on "
            self._problem(
                row, "off-grid", text + f"tick {decimal_text(self.tick)}, lot {decimal_text(self.lot)}; row skipped"
            )
        return raw[~off] if off.any() else raw

    def _problem(self, row: Any, kind: str, text: str) -> None:
        self.report.add(self.names[row["file"]], row["line"], row["local_ns"], kind, text)

    def _checked(self, raw: NDArray[np.void]) -> NDArray[np.void]:
        rows = np.empty(len(raw), ROW)
        for name in ("local_ns", "kind", "side", "id"):
            rows[name] = raw[name]
        rows["exch_ns"] = np.where(raw["exch_ns"] == UNKNOWN_NS, raw["local_ns"] + self.offset, raw["exch_ns"])
        rows["price"], rows["size"] = raw["price"] // self.tick, raw["size"] // self.lot
        return rows

    def _write(self, rows: NDArray[np.void], writers: list[TapeWriter]) -> None:
        raise NotImplementedError


def main(args: Sequence[str] | None = None) -> None:
    """Command line of `neuralmm import`."""
