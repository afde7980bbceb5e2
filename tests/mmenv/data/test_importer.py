"""Imports end alike however they are cut and killed; importers are found and held to their word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mmenv.data import columns, grid, import_jobs, importer, lines, parquet, spool
from mmenv.data.formats import base, binance, coinbase_full, feed, hftbacktest, lobster
from mmenv.data.formats import bitstamp as stamps
from mmenv.data.formats.base import IMPORTERS, Importer, ImportOptions
from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.data.rows import BUY, CLEAR, RAW, SELL, SNAPSHOT, TRADE, CaptureError
from mmenv.data.source import Source
from mmenv.data.tape import Tape, tapes
from mmenv.registry import PluginError
from mmenv.times import SECOND
from tests.helpers import captures, feeds, orders
from tests.helpers.archives import ARCHIVES
from tests.helpers.imports import TOLD, books, events_file, rows_of, run
from tests.helpers.orders import Market, databento_file, lobster_files, tardis_files, write_lines
from tests.mmenv.data.formats.test_feeds import bitstamp

FORMATS = (
    *("tardis", "plain", "lobster", "databento", "databento-csv", "plain-parquet", "binance"),
    *("itch", "bitstamp", "hftbacktest", "kraken", "hyperliquid", *ARCHIVES),
)
ONE_DAY = ("lobster", "itch", "bitstamp", "hftbacktest", "kraken", "hyperliquid", *ARCHIVES)


def capture(name: str, folder: Path) -> tuple[str, list[Path]]:
    """Two days of a recording in two files where the format has any number of them."""
    folder.mkdir(exist_ok=True)
    if name == "binance":
        sent = captures.market(
            seconds=6, seed=4, start_ns=captures.MIDNIGHT_NS + captures.OFFSET_NS - 3 * SECOND
        )
        half = len(sent.lines) // 2
        return name, [
            captures.write(folder / "a.gz", sent.lines[:half]),
            captures.write(folder / "b", sent.lines[half:], compress=False),
        ]
    market = Market(events=160, seed=3, start_ns=orders.START_NS + 37_800 * SECOND - 8 * SECOND)
    if name == "tardis":
        return name, [*tardis_files(market, folder, last=70), *tardis_files(market, folder, first=70)]
    if name in feeds.VENUES:
        lines = feeds.capture(feeds.market(events=120), name)
        return name, [write_lines(folder / "x", lines[:60]), write_lines(folder / "y", lines[60:])]
    if name in ARCHIVES:
        format, write = ARCHIVES[name]
        return format, write(feeds.market(events=100), folder)
    if name == "hftbacktest":
        return name, [events_file(folder)]
    if name == "bitstamp":
        return name, [write_lines(folder / "x.log", 40 * bitstamp())]
    if name == "itch":
        path = folder / "06212012.NASDAQ_ITCH50"
        path.write_bytes(orders.itch(Market(events=160, seed=3), orders.NEW_YORK_MIDNIGHT_NS))
        return name, [path]
    if name == "lobster":
        market = Market(events=160, seed=3, hidden=True)
        return name, lobster_files(market, folder)[0]
    if name.startswith("databento"):
        return "databento", [databento_file(market, folder, "csv" if name.endswith("csv") else "dbn3.zst")]
    path = write_lines(folder / "x.csv", orders.plain(market))
    if name == "plain-parquet":
        pq.write_table(pyarrow.csv.read_csv(path), folder / "x.parquet", row_group_size=150)
        path = folder / "x.parquet"
    return "plain", [path]


def import_all(name: str, paths: list[Path], store: Path, jobs: int = 1) -> dict[str, np.ndarray]:
    """Rows by day, and what was reported."""
    told = TOLD.get(name, {})
    [(tapes, report)] = Import(name, tuple(paths), store, progress=False, jobs=jobs, **told).run()  # type: ignore[arg-type]
    assert not any(path.name.startswith(".import") for path in store.iterdir())
    notes = [note for note in report.notes if not note.startswith("continued")]
    found = {f"{tape.info}": rows_of(tape) for tape in tapes}
    return found | {f"{notes} {report.counts} {report.tally}": np.zeros(0)}


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 150)
    monkeypatch.setattr(columns, "TABLE_BYTES", 400)
    monkeypatch.setattr(lobster, "TABLE_BYTES", 400)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 7)
    monkeypatch.setattr(binance, "BLOCK_BYTES", 400)
    monkeypatch.setattr(feed, "BLOCK_BYTES", 400)
    monkeypatch.setattr(coinbase_full, "BLOCK_BYTES", 400)
    monkeypatch.setattr(stamps, "BLOCK_BYTES", 100)
    monkeypatch.setattr(hftbacktest, "CHUNK", 20)
    monkeypatch.setattr(spool, "SPOOL_ROWS", 50)
    monkeypatch.setattr(importer, "CHECKPOINT_ROWS", 60)


@pytest.mark.parametrize("name", FORMATS)
def test_neither_chunks_nor_kills_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that is killed again and again, ever further on, ends like one that never was, whether its
    lives read one file at a time or several."""
    kind, paths = capture(name, tmp_path / "in")
    whole = import_all(kind, paths, tmp_path / "whole")
    assert len(whole) == (2 if name in ONE_DAY else 3)
    small_chunks(monkeypatch)
    counts = count_calls(monkeypatch, None)
    same(import_all(kind, paths, tmp_path / "small"), whole)
    total = counts[0]
    assert total > 20
    store = tmp_path / "killed"
    kills = 0
    # Each life gets through a few more steps than the one before; without checkpoints none would end.
    for life in range(total):
        counts = count_calls(monkeypatch, 8 + life // 3)
        try:
            same(import_all(kind, paths, store, jobs=1 + 2 * (life % 2)), whole)
            break
        except Killed:
            kills += 1
            for path in store.glob("venue=*/**/*"):
                assert path.is_dir() or Tape(path).info.rows > 0
    assert 2 < kills < total - 1


class Killed(BaseException):
    """A kill, as far as one process can show it."""


def count_calls(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> list[int]:
    """Count the steps of an import that touch the disk, and kill it at the one after `limit`."""
    monkeypatch.undo()
    small_chunks(monkeypatch)
    counts = [0]

    def counted(function: Callable) -> Callable:
        def call(*arguments: object) -> object:
            counts[0] += 1
            if limit is not None and counts[0] > limit:
                raise Killed
            return function(*arguments)

        return call

    for owner, method in (
        (spool.Spool, "append"),
        (importer.ImportJob, "save"),
        (grid.SecondPass, "append"),
        (grid.SecondPass, "finish"),
    ):
        monkeypatch.setattr(owner, method, counted(getattr(owner, method)))
    monkeypatch.setattr(importer, "put_tape", counted(importer.put_tape))
    return counts


@pytest.mark.parametrize("later", [0, 1])
def test_a_checkpoint_of_another_layout_begins_anew(
    later: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, paths = capture("lobster", tmp_path / "in")
    whole, _ = run("lobster", paths, tmp_path / "whole")
    small_chunks(monkeypatch)
    save = importer.ImportJob.save

    def killed_after(job: importer.ImportJob, folder: Path) -> None:
        save(job, folder)
        raise Killed

    monkeypatch.setattr(importer.ImportJob, "save", killed_after)
    with pytest.raises(Killed):
        run("lobster", paths, tmp_path / "killed")
    monkeypatch.undo()
    monkeypatch.setattr(import_jobs, "LAYOUT", import_jobs.LAYOUT + later)
    tape, report = run("lobster", paths, tmp_path / "killed")
    assert any(note.startswith("continued") for note in report.notes) == (later == 0)
    assert rows_of(tape).tobytes() == rows_of(whole).tobytes()


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, rows in expected.items():
        assert found[key].tobytes() == rows.tobytes()


def test_a_tape_is_replaced_only_when_told(tmp_path: Path) -> None:
    sent = captures.market(seed=9)
    path, store = captures.write(tmp_path / "capture.gz", sent.lines), tmp_path / "store"
    first, _ = run("binance", [path], store)
    before = first.path.read_bytes()
    with pytest.raises(CaptureError, match="--overwrite"):
        run("binance", [path], store)
    assert first.path.read_bytes() == before
    run("binance", [path], store, overwrite=True, maker_fee_bp=-0.5)
    [again] = tapes(store)
    assert (again.info.maker_fee_bp, again.info.taker_fee_bp) == (-0.5, 5.0)
    assert sorted(path.name for path in again.path.parent.iterdir()) == ["tape.parquet"]


def test_the_command_line_imports_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = captures.write(tmp_path / "capture.gz", captures.market(seconds=5, seed=10).lines)
    command = ["binance", str(path), "-o", str(tmp_path / "store"), "--no-progress"]
    importer.main(command)
    assert "no problems found" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="add --overwrite to replace"):
        importer.main(command)
    with pytest.raises(SystemExit, match=r"format = 'binanse' is not known\. Did you mean 'binance'\?"):
        importer.main(["binanse", *command[1:]])


# Importers as plug-ins.

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_page_and_the_help_name_every_importer(capsys: pytest.CaptureFixture[str]) -> None:
    ours = sorted(name for name in IMPORTERS if IMPORTERS[name].__module__.startswith("mmenv."))
    table = "\n".join(
        f"| `{name}` | {IMPORTERS[name].description} | {IMPORTERS[name].notes} |" for name in ours
    )
    assert table in PAGE.read_text(), f"docs/data.md must show:\n{table}"
    with pytest.raises(SystemExit):
        importer.main(["--help"])
    shown = re.sub(r"[\s│]+", "", capsys.readouterr().out)
    for name in ours:
        assert re.sub(r"\s+", "", f"{name}: {IMPORTERS[name].description}") in shown


def test_the_importer_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = PAGE.read_text().split("## An importer")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "my_importer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    start = captures.START_NS
    path = write_lines(tmp_path / "COIN.txt", [f"{start} 10 12", f"{start + SECOND} 11 14"])
    tape, report = run("my_importer:Touches", [path], tmp_path / "store", strict=True, allow_no_trades=True)
    assert books(rows_of(tape)) == [
        (start, {("B", 10): 1, ("A", 12): 1}),
        (start + SECOND, {("B", 11): 1, ("A", 14): 1}),
    ]
    assert (tape.info.venue, tape.info.symbol, report.counts) == ("somewhere", "COIN", {})
    assert "touches" in IMPORTERS


def raw(begin: int = 10**18, **values: object) -> np.ndarray:
    """Four rows of a market that can be, with some values changed in the last one."""
    rows = np.zeros(4, RAW)
    rows["kind"], rows["side"], rows["price"], rows["size"] = SNAPSHOT, BUY, 10**8, 10**8
    rows["side"][1::2], rows["price"][1::2] = SELL, 2 * 10**8
    rows["local_ns"] = rows["exch_ns"] = begin + np.arange(4) * SECOND
    rows["kind"][0], rows["price"][0] = CLEAR, 0
    for name, value in values.items():
        rows[name][-1] = value
    return rows


class Made(Importer):
    """Gives the rows that a test makes, in two chunks."""

    name = "made"
    description = "rows made by a test"
    names = ("made.txt",)
    given: Sequence[object] = ()

    def __init__(self) -> None:
        self.source = Source("here", "X")

    @classmethod
    def open(cls, paths: Sequence[Path], options: ImportOptions) -> list[Importer]:
        return [cls()]

    def chunks(self, report: Report) -> Iterator[np.ndarray]:
        yield raw()
        yield from self.given  # type: ignore[misc]


LATER = 2 * 10**18
UNSOUND: dict[str, tuple[object, str]] = {
    "no array": (None, "gave None: `chunks` must yield arrays"),
    "no fields": (np.zeros(3), r"gave array\(\[0., 0., 0.\]\): `chunks` must yield arrays"),
    "fewer fields": (raw()[["price", "size"]], "rows have no field 'exch_ns'"),
    "floats": (
        raw().astype([(name, "f8" if name == "size" else RAW[name]) for name in RAW.names]),
        r"size = 100000000.0 \(float64\) is not possible: it must be int64",
    ),
    "time": (raw(LATER, local_ns=3), "local_ns = 3 is not possible: it must be at least 0 and no less than"),
    "earlier chunk": (raw(), "local_ns = 1000000000000000000 is not possible"),
    "exchange": (raw(LATER, exch_ns=-5), "exch_ns = -5 is not possible"),
    "price": (raw(LATER, price=0), "price = 0 is not possible: it must be above 0"),
    "size": (raw(LATER, size=-1), "size = -1 is not possible: it must be at least 0"),
    "trade": (raw(LATER, size=0, kind=TRADE), "size = 0 .* above 0 for a trade"),
    "side": (raw(LATER, side=0), "side = 0 is not possible: it must be BUY or SELL"),
    "kind": (raw(LATER, kind=9), "kind = 9 is not possible: it must be DEPTH"),
    "no file": (raw(LATER, file=-2), "file = -2 is not possible: it must be the number"),
    "file": (raw(LATER, file=1), "file = 1 is not possible: it must be the number"),
}


@pytest.mark.parametrize("fault", UNSOUND)
def test_an_importer_that_gives_what_cannot_be_is_named_and_leaves_nothing(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk, message = UNSOUND[fault]
    path = write_lines(tmp_path / "made.txt", ["x"])
    monkeypatch.setattr(Made, "given", (chunk,))
    with pytest.raises(PluginError, match=f"importer '{__name__}:Made'.*{message}"):
        run(f"{__name__}:Made", [path], tmp_path / "store", tick_size="1", lot_size="1", allow_no_trades=True)
    assert not list((tmp_path / "store").rglob("*"))
    monkeypatch.setattr(Made, "given", ())
    tape, _ = run(
        f"{__name__}:Made", [path], tmp_path / "store", tick_size="1", lot_size="1", allow_no_trades=True
    )
    assert (tape.info.venue, tape.info.rows) == ("here", 4)


def test_nan_is_shown() -> None:
    rows = raw().astype([(name, "f8" if name == "price" else RAW[name]) for name in RAW.names])
    rows["price"][2] = np.nan
    with pytest.raises(PluginError, match=r"price = nan \(float64\) is not possible: it must be int64"):
        base.check_rows("made", rows, Report(["made.txt"]), 0)


def test_unsound_importers_and_names_are_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half(Importer):
        name = "half"
        description = "not whole"

    class Nameless(Made):
        description = ""

    for wrong, message in (
        (Half, "importer 'half' has no method 'chunks': Half must define it"),
        (Nameless, "Nameless.description = '' is not possible"),
        (str, "importer 'str' is <class 'str'>: it must be a subclass of"),
    ):
        with pytest.raises(PluginError, match=message):
            IMPORTERS.register(wrong.__name__.lower(), wrong)  # type: ignore[arg-type]

    class Binance(Made):
        name = "binance"

    with pytest.raises(PluginError, match="two importers are named 'binance', one in"):
        base.register(Binance)
    path = write_lines(tmp_path / "x.txt", ["x"])
    (tmp_path / "broken_importer.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        ("lobstre", "format = 'lobstre' is not known. Did you mean 'lobster'"),
        ("broken_importer:X", "cannot be imported: ZeroDivisionError"),
        ("no_such_module:X", "cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:nothing", "has no 'nothing'"),
    ):
        with pytest.raises(PluginError, match=message):
            run(name, [path], tmp_path / "store")
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(Made, "open", classmethod(lambda *_: ["x"]))
    with pytest.raises(PluginError, match="opened 'x': `open` must give importers"):
        run(f"{__name__}:Made", [path], tmp_path / "store")
