"""`neuralmm import FORMAT FILES -o STORE`: recorded captures into the store.

Two passes, both streaming. The format's importer writes raw rows to a spool file and finds tick, lot and
clock offsets; the second pass (`mmenv.data.grid`) puts prices and sizes on the grid, follows the book, and
writes one Parquet file per day. All of it happens in a hidden folder of the store, from which a killed import
continues when the same command is given again; tapes appear in the store once everything is checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import tyro

from mmenv.data.decimals import DECIMALS, Places, places_of
from mmenv.data.follow import SIDE_RULES
from mmenv.data.formats.base import (
    ALL,
    AUTO,
    IMPORTERS,
    Importer,
    ImportOptions,
    check_rows,
    described,
    open_importers,
)
from mmenv.data.grid import Grid, SecondPass, day_text
from mmenv.data.import_jobs import Show, load, run_jobs, save, work_folder
from mmenv.data.problems import FinerNeeded, Report
from mmenv.data.rows import CaptureError, NoTape, SeveralSymbols
from mmenv.data.source import Source
from mmenv.data.spool import Spool
from mmenv.data.tape import SCHEMA_VERSION, Tape, TapeError, put_tape, tape_path
from mmenv.registry import PluginError

CHECKPOINT_ROWS: Final = 1 << 21
"""Raw rows between two checkpoints of an importer."""
WORK: Final = ".import-"
"""Folders of imports under way begin with this."""
TAPES: Final = "tapes"
"""Folder of the tapes of an import under way."""
SHOWN: Final = 10
"""Symbols that a sentence names."""
_SOURCE: Final = ("maker_fee_bp", "taker_fee_bp", "contract", "contract_size")
"""Fields of `Source` that options replace."""


@dataclass(frozen=True)
class Import:
    """Import recorded captures into a store."""

    format: tyro.conf.Positional[str]
    """Format of the files, see below; or "module:name" of another importer."""
    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="FILE...", help_behavior_hint="(one or more, required)"),
    ]
    """Capture files, of any number of symbols and days."""
    store: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the store; made if missing."""
    strict: bool = False
    """Refuse a capture with any problem instead of repairing and reporting it."""
    overwrite: bool = False
    """Replace tapes of the same venue, symbol and day."""
    new_days: bool = False
    """Continue a store: leave the days that it has as they are, and add the others."""
    venue: str | None = None
    """Name of the venue where the files do not tell it, or another one."""
    symbol: str | None = None
    """The symbol to import from files that hold several, or where the files do not tell it; "all": each to
    its own tape; those that make none, such as trades without a book, are named and left out."""
    trade_side: str | None = None
    """Trades whose aggressor the files do not tell: "leave-out", or a side by the "tick" rule or the "quote"
    rule. Without it, files in which these are more than half of the trades are refused."""
    allow_no_trades: bool = False
    """Import a recording without any trade."""
    allow_refused: bool = False
    """Import what is left of a recording most rows of which cannot be used."""
    tick_size: str | None = None
    """Price step, such as 0.1; otherwise the greatest common divisor of all prices."""
    lot_size: str | None = None
    """Size step; otherwise the greatest common divisor of all sizes."""
    maker_fee_bp: float | None = None
    """Maker fee in basis points of notional, negative for a rebate; otherwise the venue's regular one."""
    taker_fee_bp: float | None = None
    """Taker fee in basis points of notional; otherwise the venue's regular one."""
    contract: str | None = None
    """"linear" (profit in quote currency) or "inverse" (in coin); otherwise what the venue is known for."""
    contract_size: str | None = None
    """What one unit of size is worth: base units (linear) or quote units (inverse)."""
    clock_offset_ns: int | None = None
    """Exchange clock minus the recorder's; otherwise such that the fastest message of a day has no
    delay."""
    jobs: int = 1
    """Symbols to import at a time, each in a process of its own; where there are fewer, files of one too."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> list[tuple[list[Tape], Report]]:
        """Import; the tapes and the report of each venue and symbol. Of all symbols those that make no tape
        have none, and their report says why, unless that is so of every one, or under `strict`.

        Raises `PluginError` where there is no importer of this name or it does not do what importers must,
        and `CaptureError` where something in the files or options cannot be used; nothing is written then.
        """
        if self.format != AUTO:
            IMPORTERS.find(self.format, "format")
        if not self.files:
            raise CaptureError("no files given; name at least one capture file")
        if self.contract not in (None, "linear", "inverse"):
            raise CaptureError(
                f"--contract = {self.contract!r} is not possible: it must be linear or inverse."
            )
        if self.trade_side not in (None, *SIDE_RULES):
            raise CaptureError(
                f"--trade-side = {self.trade_side!r} is not possible: it must be {', '.join(SIDE_RULES)}."
            )
        if self.jobs < 1:
            raise CaptureError(f"--jobs = {self.jobs} is not possible: it must be at least 1.")
        with _folder(self.store), work_folder(self.store / f"{WORK}{self._identity()}") as folder:
            begun = self._begun(folder)
            for job in begun:
                job.part.importer.readers = max(self.jobs // len(begun), 1)
            jobs = run_jobs(self, folder, begun)
            if all(job.part.report.left_out for job in jobs):
                raise NoTape("; ".join(job.part.report.left_out for job in jobs[:SHOWN]))
            for number, job in enumerate(jobs):
                job.put(self, folder / str(number))
            return [(job.part.tapes(self.store), job.part.report) for job in jobs]

    def _begun(self, folder: Path) -> list[ImportJob]:
        """The jobs as they were when the import was killed, or at their beginning."""
        parts = load(folder)
        if not isinstance(parts, list):
            parts = list(self._parts())
            save(parts, folder)
        jobs = []
        for number, part in enumerate(parts):
            (folder / str(number)).mkdir(exist_ok=True)
            job = load(folder / str(number))
            jobs.append(job if isinstance(job, ImportJob) and job.reopen() else ImportJob(part))
        return jobs

    def open(self, places: Places) -> list[Importer]:
        """The importers of the files."""
        return open_importers(self.format, self.files, ImportOptions(self.venue, self.symbol, places))

    def _parts(self) -> Iterator[_Part]:
        steps = self.tick_size, self.lot_size
        places = Places(*(DECIMALS if given is None else places_of(given) for given in steps))
        for importer in self.open(places):
            yield _Part(importer, Report(importer.names, strict=self.strict, places=importer.places))

    def _identity(self) -> str:
        """The same for the same files and options, and only then."""
        try:
            files = [
                (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files
            ]
        except FileNotFoundError as error:
            raise CaptureError(f"{error.filename}: no such file") from None
        options = {
            name: value for name, value in asdict(self).items() if name not in ("files", "jobs", "progress")
        }
        text = json.dumps([files, options, SCHEMA_VERSION], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class _Part:
    """One venue and symbol: importer, spool and second pass, whatever it has come to."""

    importer: Importer
    report: Report
    spool: Spool | None = None
    read: bool = False
    second: SecondPass | None = None
    finished: bool = False

    def refine(self, options: Import, places: Places) -> None:
        """Begin anew with finer places, where the importer can."""
        again = next(each for each in options.open(places) if each.source == self.importer.source)
        finest = again.places == self.importer.places
        again.readers = self.importer.readers
        self.importer, self.spool = again, None
        self.report = Report(again.names, options.strict, places=again.places, finest=finest)

    def require_sound(self, options: Import) -> None:
        """Refuse what should not become tapes unless the user has said that it may.

        Raises `NoTape`.
        """
        assert self.second is not None
        assert self.spool is not None
        name, second, report = self.report.name(0), self.second, self.report
        if report.refused > self.spool.rows and not options.allow_refused:
            raise NoTape(
                f"{name}: {report.refused} rows cannot be used and {self.spool.rows} can: add "
                f"--allow-refused to import these alone. The first: {report.problems[0]}"
            )
        lost = second.unsided if options.trade_side is None else 0
        if lost > second.trades:
            raise NoTape(
                f"{name}: {lost} of {lost + second.trades} trades have no side: give --trade-side quote, "
                "tick or leave-out"
            )
        if not second.trades and not options.allow_no_trades:
            raise NoTape(f"{name}: no trades; give the files that have them, or --allow-no-trades")

    def tapes(self, store: Path) -> list[Tape]:
        """The tapes in the store."""
        if self.second is None or self.report.left_out:
            return []
        return [Tape(tape_path(store, info.venue, info.symbol, info.day)) for info in self.second.infos]


@dataclass
class ImportJob:
    """The import of one venue and symbol; what is pickled as its checkpoint."""

    part: _Part

    def run(self, options: Import, folder: Path, show: Show) -> None:
        """Do what is left of it, in a folder of its own; what is written is in its `tapes`."""
        try:
            self._run(options, folder, show)
        except NoTape as error:
            if options.symbol != ALL or options.strict:
                raise
            source = self.part.importer.source
            self.part.report.left_out = f"{source.venue} {source.symbol} is left out: {error}"

    def _run(self, options: Import, folder: Path, show: Show) -> None:
        part = self.part
        if part.importer.lacks:
            raise NoTape(part.importer.lacks)
        while not part.read:
            try:
                self._read(folder / "spool", options, folder, show)
            except FinerNeeded as needed:
                part.refine(options, needed.places)
            except SeveralSymbols as error:
                raise CaptureError(f"{error}; {_advice(options, part.importer)}") from None
        if not part.finished:
            self._convert(folder / TAPES, options, folder, show)
        part.require_sound(options)

    def put(self, options: Import, folder: Path) -> None:
        """Put the tapes into the store."""
        if self.part.second is None or self.part.report.left_out:
            return
        for info in self.part.second.infos:
            written = folder / TAPES / info.day
            place = tape_path(options.store, info.venue, info.symbol, info.day)
            if options.new_days and place.exists():
                self.part.report.note("day that the store has already, left as it is")
            elif written.exists():  # or already put, before the import was killed
                put_tape(written, place)

    def save(self, folder: Path) -> None:
        """Write the checkpoint; the one before it stays until this one is whole."""
        save(self, folder)

    def reopen(self) -> bool:
        """Go on after the last checkpoint; False if what had been read by then is not all there."""
        spool = self.part.spool
        if spool is None or self.part.finished:
            return True
        if not spool.reopen():
            return False
        self.part.report.notes.append(f"continued an interrupted import after {spool.rows} rows")
        return True

    def _read(self, path: Path, options: Import, folder: Path, show: Show) -> None:
        part = self.part
        part.spool = part.spool or Spool(path, len(part.importer.names))
        importer, spool = part.importer, part.spool
        source = importer.source
        saved, known = spool.rows, set[int]()
        name = f"{source.venue} {source.symbol}, reading"
        for chunk in importer.chunks(part.report):
            check_rows(options.format, chunk, part.report, spool.last_ns)
            show(name, "B", importer.done, importer.size)
            spool.append(chunk)
            for day in spool.days - known:
                _check_place(options, source, day)
            known = set(spool.days)
            if spool.rows - saved >= CHECKPOINT_ROWS:
                self.save(folder)
                saved = spool.rows
        if not spool.rows:
            raise NoTape(f"{part.report.name(0)}: no rows of {source.symbol} that can be used{_why(part)}")
        part.report.check_places()
        part.read = True
        self.save(folder)

    def _convert(self, tapes: Path, options: Import, folder: Path, show: Show) -> None:
        part = self.part
        assert part.spool is not None
        if part.second is None:
            source = part.importer.source
            given = {name: getattr(options, name) for name in _SOURCE if getattr(options, name) is not None}
            grid = Grid(options.tick_size, options.lot_size, options.clock_offset_ns, options.trade_side)
            part.second = SecondPass(grid, replace(source, **given), part.spool, part.report)
        second, finished = part.second, len(part.second.infos)
        name = f"{second.source.venue} {second.source.symbol}, writing"
        for rows in second.run(tapes):
            show(name, "row", rows, part.spool.rows)
            if len(second.infos) > finished:
                finished = len(second.infos)
                self.save(folder)
        part.finished = True
        part.spool.path.unlink()
        self.save(folder)


@contextmanager
def _folder(store: Path) -> Iterator[None]:
    """The store; where there was none and nothing comes into it, there is none afterwards."""
    store.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # there is something in it
            store.rmdir()


def _advice(options: Import, importer: Importer) -> str:
    """Which symbols can be chosen: those that have a book."""
    try:
        every = replace(options, symbol=ALL).open(importer.places)
    except (CaptureError, PluginError):  # one of them cannot be imported, or has no name
        every = [importer]
    symbols = sorted({each.source.symbol for each in every if not each.lacks})
    if len(symbols) == 1:
        return f"give --symbol {symbols[0]} to leave it out"
    more = f" and {len(symbols) - SHOWN} more" if len(symbols) > SHOWN else ""
    return f"choose one with --symbol: {', '.join(symbols[:SHOWN])}{more}; or --symbol all"


def _why(part: _Part) -> str:
    """The first problem, as the end of a sentence."""
    return f": {part.report.problems[0]}" if part.report.problems else ""


def _check_place(options: Import, source: Source, day: int) -> None:
    """Refuse to replace a tape unless told to."""
    path = tape_path(options.store, source.venue, source.symbol, day_text(day))
    if path.exists() and not options.overwrite and not options.new_days:
        raise CaptureError(f"{path} exists; add --overwrite to replace it, or --new-days to leave it")


def main(args: Sequence[str] | None = None) -> None:
    """Command line of `neuralmm import`."""
    formats = "\n".join(f"{name}: {described(name)}" for name in sorted(IMPORTERS))
    try:
        options = tyro.cli(Import, args=args, prog="neuralmm import", description=f"Formats:\n{formats}")
        results = options.run()
    except (CaptureError, PluginError, TapeError) as error:
        raise SystemExit(f"neuralmm import: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; give the same command again to continue") from None
    for found, report in results:
        for tape in found:
            print(f"{tape.path}: {tape.info.rows} rows")
        print(report)


if __name__ == "__main__":
    main()
