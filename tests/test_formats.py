"""Tardis, LOBSTER, Databento and plain columns: what was recorded is what is stored, and faults are named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmenv.data import binance, columns, grid, importer, lobster, order
from mmenv.data.capture import BUY, CLEAR, TRADE, CaptureError, Report
from mmenv.data.contract import inverse_profit
from mmenv.data.importer import Import
from mmenv.data.tape import Tape
from tests import captures, orders
from tests.orders import Book, Market, write_lines

MIDNIGHT_NS = orders.START_NS - 34_200 * 10**9  # in New York
LEVELS = 4


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(seed=1)


def run(name: str, paths: list[Path], store: Path, **options: object) -> tuple[Tape, Report]:
    [([tape], report)] = Import(name, tuple(paths), store, progress=False, **options).run()  # type: ignore[arg-type]
    return tape, report


def rows_of(tape: Tape) -> np.ndarray:
    return np.concatenate(list(tape.rows()))


def books(rows: np.ndarray) -> list[tuple[int, Book]]:
    """Local time and book after each message that is not only a clear, by a plain dictionary."""
    book: Book = {}
    found = []
    for (_, local_ns), group in itertools.groupby(
        rows[rows["kind"] != TRADE].tolist(), key=lambda row: (row[6], row[1])
    ):
        messages = list(group)
        for _, _, kind, side, price, size, _ in messages:
            if kind == CLEAR:
                book = {}
            elif size:
                book["B" if side == BUY else "A", price] = size
            else:
                book.pop(("B" if side == BUY else "A", price), None)
        if messages[-1][2] != CLEAR:
            found.append((local_ns, dict(book)))
    return found


def traded(rows: np.ndarray) -> list[tuple[int, int, float, int]]:
    return [
        (int(row["exch_ns"]), int(row["side"]), int(row["price"]), int(row["size"]))
        for row in rows[rows["kind"] == TRADE]
    ]


def check(tape: Tape, market: Market) -> None:
    """Book after every event that changes it, and every trade."""
    rows = rows_of(tape)
    assert (tape.info.tick_size, tape.info.lot_size) == ("0.01", "1")
    assert tape.info.book_complete
    assert traded(rows) == orders.trades(market)
    expected, before = [], None
    for event in market.events:
        if event.book != before:
            expected.append((event.local_ns, event.book))
        before = event.book
    assert books(rows) == expected
    assert len(expected) > 300
    assert len(orders.trades(market)) > 50


def tardis_files(market: Market, folder: Path, **parts: int | None) -> list[Path]:
    book, deals = orders.tardis(market, **parts)  # type: ignore[arg-type]
    name = f"{parts.get('first', 0)}.csv.gz"
    return [write_lines(folder / f"book_{name}", book), write_lines(folder / f"trades_{name}", deals)]


def lobster_files(market: Market, folder: Path, levels: int = LEVELS) -> tuple[list[Path], list[Book]]:
    messages, rows, truth = orders.lobster(market, levels, MIDNIGHT_NS)
    stem = folder / "AAPL_2012-06-21_34200000_57600000_"
    paths = [
        write_lines(Path(f"{stem}message_{levels}.csv"), messages),
        write_lines(Path(f"{stem}orderbook_{levels}.csv"), rows),
    ]
    return paths, truth


def databento_file(market: Market, folder: Path, kind: str = "dbn3") -> Path:
    records = orders.databento(market)
    if kind.startswith("dbn"):
        path = folder / "es.dbn"
        path.write_bytes(orders.dbn(records, int(kind[3])))
        if kind.endswith("zst"):
            with pa.CompressedOutputStream(str(folder / "es.dbn.zst"), "zstd") as file:
                file.write(path.read_bytes())
            path = folder / "es.dbn.zst"
        return path
    path = write_lines(folder / "es.csv", orders.databento_csv(records, pretty=kind != "csv"))
    if kind == "parquet":
        table = pyarrow.csv.read_csv(path)
        table = table.set_column(7, "price", pc.cast(table["price"], pa.float64()))
        pq.write_table(table, folder / "es.parquet", row_group_size=700)
        return folder / "es.parquet"
    return path


def test_tardis(market: Market, tmp_path: Path) -> None:
    tape, report = run("tardis", tardis_files(market, tmp_path), tmp_path / "store", strict=True)
    assert (tape.info.venue, tape.info.symbol) == ("binance-futures", "BTCUSDT")
    assert not report.counts
    check(tape, market)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_plain(market: Market, tmp_path: Path, kind: str) -> None:
    path = write_lines(tmp_path / "x.csv", orders.plain(market))
    if kind == "parquet":
        # Types as another program may choose them: decimal text, floats, dictionaries, timestamps.
        table = pyarrow.csv.read_csv(path)
        table = table.set_column(1, "kind", table["kind"].dictionary_encode())
        table = table.set_column(2, "local_ns", table["local_ns"].cast(pa.timestamp("ns", "UTC")))
        path = tmp_path / "x.parquet"
        pq.write_table(table, path, row_group_size=500)
    tape, report = run("plain", [path], tmp_path / "store", strict=True, venue="mine")
    assert (tape.info.venue, tape.info.symbol) == ("mine", "X")
    assert not report.counts
    check(tape, market)


@pytest.mark.parametrize("kind", ["dbn1", "dbn2", "dbn3", "dbn3.zst", "csv", "pretty", "parquet"])
def test_databento(market: Market, tmp_path: Path, kind: str) -> None:
    tape, report = run("databento", [databento_file(market, tmp_path, kind)], tmp_path / "store", strict=True)
    assert (tape.info.venue, tape.info.symbol) == (
        "glbx.mdp3" if kind.startswith("dbn") else "databento-1",
        "ESM2",
    )
    assert not report.counts
    check(tape, market)


def top(book: Book, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    sides = []
    for side, sign in (("A", 1), ("B", -1)):
        found = sorted((sign * tick, size) for (at, tick), size in book.items() if at == side)
        sides.append([(sign * tick, size) for tick, size in found[:levels]])
    return sides[0], sides[1]


@pytest.mark.parametrize("levels", [1, 4, 60])
def test_lobster(tmp_path: Path, levels: int) -> None:
    market = Market(seed=2, hidden=True)
    paths, truth = lobster_files(market, tmp_path, levels)
    tape, report = run("lobster", paths, tmp_path / "store", strict=True)
    assert (tape.info.venue, tape.info.symbol, tape.info.day) == ("nasdaq", "AAPL", "2012-06-21")
    rows = rows_of(tape)
    assert not report.counts
    assert tape.info.tick_size == "0.01"
    # Executions of sell orders are buys; hidden ones print between ticks and move away from the aggressor.
    expected = [
        (ns, side, int(np.floor(tick) if side > 0 else np.ceil(tick)), size)
        for ns, side, tick, size in orders.trades(market, hidden=True)
    ]
    assert traded(rows) == expected
    assert any(tick != int(tick) for _, _, tick, _ in orders.trades(market, hidden=True))
    # All that is in view is right after each line, and with all in view all is right.
    stored = {int(row[6]): book for row, book in zip(_ends(rows), (b for _, b in books(rows)), strict=True)}
    book: Book = {}
    for line, true in enumerate(truth, 1):
        book = stored.get(line, book)
        assert top(book, levels) == top(true, levels)
        assert levels < 60 or book == true


def _ends(rows: np.ndarray) -> list[tuple[int, ...]]:
    """The last row of each message that `books` tells of."""
    rows = rows[rows["kind"] != TRADE]
    return rows[np.flatnonzero(np.append(np.diff(rows["id"]) != 0, True))].tolist()


# Whatever the size of a chunk, and wherever an import is killed.

FORMATS = ("tardis", "plain", "lobster", "databento", "databento-csv", "plain-parquet", "binance")


def capture(name: str, folder: Path) -> tuple[str, list[Path]]:
    """Two days of a recording in two files where the format has any number of them."""
    folder.mkdir(exist_ok=True)
    if name == "binance":
        sent = captures.market(
            seconds=6, seed=4, start_ns=captures.MIDNIGHT_NS + captures.OFFSET_NS - 3 * orders.SECOND
        )
        half = len(sent.lines) // 2
        return name, [
            captures.write(folder / "a.gz", sent.lines[:half]),
            captures.write(folder / "b", sent.lines[half:], compress=False),
        ]
    market = Market(events=160, seed=3, start_ns=orders.START_NS + 37_800 * orders.SECOND - 8 * orders.SECOND)
    if name == "tardis":
        return name, [*tardis_files(market, folder, last=70), *tardis_files(market, folder, first=70)]
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


def import_all(name: str, paths: list[Path], store: Path) -> dict[str, np.ndarray]:
    """Rows by day, and what was reported."""
    venue = "mine" if name == "plain" else None
    [(tapes, report)] = Import(name, tuple(paths), store, venue=venue, progress=False).run()
    assert not any(path.name.startswith(".import") for path in store.iterdir())
    notes = [note for note in report.notes if not note.startswith("continued")]
    found = {f"{tape.info}": rows_of(tape) for tape in tapes}
    return found | {f"{notes} {report.counts} {report.tally}": np.zeros(0)}


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK_BYTES", 150)
    monkeypatch.setattr(columns, "TABLE_BYTES", 400)
    monkeypatch.setattr(lobster, "TABLE_BYTES", 400)
    monkeypatch.setattr(columns, "BATCH_ROWS", 7)
    monkeypatch.setattr(binance, "BLOCK_BYTES", 400)
    monkeypatch.setattr(grid, "SPOOL_ROWS", 50)
    monkeypatch.setattr(importer, "CHECKPOINT_ROWS", 60)


@pytest.mark.parametrize("name", FORMATS)
def test_neither_chunks_nor_kills_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that is killed again and again, ever further on, ends like one that never was."""
    kind, paths = capture(name, tmp_path / "in")
    whole = import_all(kind, paths, tmp_path / "whole")
    assert len(whole) == (2 if name == "lobster" else 3)
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
            same(import_all(kind, paths, store), whole)
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

    def counted(function):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            counts[0] += 1
            if limit is not None and counts[0] > limit:
                raise Killed
            return function(*arguments)

        return call

    for owner, method in (
        (grid.Spool, "append"),
        (importer._Job, "save"),
        (grid.SecondPass, "_append"),
        (grid.SecondPass, "_finish"),
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
    save = importer._Job.save

    def killed_after(job: importer._Job, folder: Path) -> None:
        save(job, folder)
        raise Killed

    monkeypatch.setattr(importer._Job, "save", killed_after)
    with pytest.raises(Killed):
        run("lobster", paths, tmp_path / "killed")
    monkeypatch.undo()
    monkeypatch.setattr(importer, "LAYOUT", importer.LAYOUT + later)
    tape, report = run("lobster", paths, tmp_path / "killed")
    assert any(note.startswith("continued") for note in report.notes) == (later == 0)
    assert rows_of(tape).tobytes() == rows_of(whole).tobytes()


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, rows in expected.items():
        assert found[key].tobytes() == rows.tobytes()


# Faults.

Lines = dict[str, list[str]]


def edit(file: str, line: int, column: int, value: object) -> Callable[[Lines], tuple[str, int]]:
    """Replace one value; lines count from 1."""

    def apply(files: Lines) -> tuple[str, int]:
        values = files[file][line - 1].split(",")
        values[column] = str(value)
        files[file][line - 1] = ",".join(values)
        return file, line

    return apply


def insert(file: str, line: int, text: str) -> Callable[[Lines], tuple[str, int]]:
    def apply(files: Lines) -> tuple[str, int]:
        files[file].insert(line - 1, text)
        return file, line

    return apply


def drop(file: str, line: int, found: int = 0) -> Callable[[Lines], tuple[str, int]]:
    """Leave out a line; what is wrong is found at line `found`, or where it was."""

    def apply(files: Lines) -> tuple[str, int]:
        del files[file][line - 1]
        return file, found or line

    return apply


def again(file: str, line: int) -> Callable[[Lines], tuple[str, int]]:
    def apply(files: Lines) -> tuple[str, int]:
        files[file].insert(line, files[file][line - 1])
        return file, line + 1

    return apply


def find(files: Lines, file: str, text: str, number: int = 0) -> int:
    """Line of the `number`-th line that has `text`."""
    return [place for place, line in enumerate(files[file], 1) if text in line][number]


def where(
    text: str, make: Callable[..., Callable[[Lines], tuple[str, int]]], *rest: object, number: int = 30
):  # type: ignore[no-untyped-def]
    """`make` at the `number`-th line of the first file that has `text`."""

    def apply(files: Lines) -> tuple[str, int]:
        file = next(iter(files))
        return make(file, find(files, file, text, number), *rest)(files)

    return apply


def everywhere(file: str, old: str, new: str) -> Callable[[Lines], tuple[str, int]]:
    def apply(files: Lines) -> tuple[str, int]:
        files[file] = [line.replace(old, new) for line in files[file]]
        return file, 2

    return apply


def executions(files: Lines) -> list[int]:
    """Lines of visible executions in a LOBSTER message file."""
    return [place for place, line in enumerate(files["message.csv"], 1) if line.split(",")[1] == "4"]


def without_execution(files: Lines) -> tuple[str, int]:
    line = executions(files)[9]
    del files["message.csv"][line - 1], files["book.csv"][line - 1]
    return "message.csv", line


def without_change(files: Lines) -> tuple[str, int]:
    """The book after an execution is the one before it."""
    line = executions(files)[9]
    files["book.csv"][line - 1] = files["book.csv"][line - 2]
    return "message.csv", line


FAULTS = {
    "tardis bad-line": insert("book.csv", 90, "binance-futures,BTCUSDT,1,2"),
    "tardis bad-value price": edit("book.csv", 90, 6, "-1"),
    "tardis bad-value size": edit("book.csv", 90, 7, "-2"),
    "tardis bad-value text": edit("book.csv", 90, 6, "1x"),
    "tardis bad-value time": edit("book.csv", 90, 3, "soon"),
    "tardis bad-value side": edit("book.csv", 90, 5, "left"),
    "tardis bad-value trade": edit("trades.csv", 60, 7, "0"),
    "tardis off-grid price": edit("book.csv", 90, 6, "50.005"),
    "tardis off-grid size": edit("trades.csv", 60, 7, "1.5"),
    "tardis time-backwards local": edit("book.csv", 90, 3, orders.START_NS // 1000),
    "tardis time-backwards exchange": edit("trades.csv", 60, 2, orders.START_NS // 1000),
    "tardis duplicate-trade": again("trades.csv", 70),
    "tardis trade-gap": drop("trades.csv", 70),
    "tardis reconnect": edit("book.csv", 200, 4, "true"),
    "tardis missing-snapshot": everywhere("book.csv", "true", "false"),
    "tardis crossed-book": where("false,bid", edit, 6, "60"),
    "plain sequence-gap": where("X,depth", edit, 8, 1),
    "plain trade-gap": where("X,trade", drop, number=60),
    "plain duplicate-trade": where("X,trade", again, number=60),
    "plain missing-snapshot": everywhere("x.csv", "snapshot", "depth"),
    "plain bad-value kind": where("X,depth", edit, 1, "deep"),
    "plain time-backwards local": where("X,depth", edit, 2, orders.START_NS),
    "plain crossed-book": where("X,depth", edit, 5, "80"),
    "lobster bad-line": insert("book.csv", 90, "1,2"),
    "lobster bad-value": edit("message.csv", 90, 3, -1),
    "lobster time-backwards": edit("message.csv", 90, 0, "34200.000000001"),
    "lobster sequence-gap": without_execution,
    "lobster sequence-gap unchanged": without_change,
    "lobster truncated": lambda files: (
        files.update({"book.csv": files["book.csv"][:-3]}) or ("message.csv", len(files["book.csv"]) + 1)
    ),
    "databento unknown-order": where(",C,", edit, 10, 7),
    "databento duplicate-order": where(",A,", again, number=60),
    "databento bad-value cancel": where(",C,", edit, 8, 9000),
    "databento bad-value price": where(",A,", edit, 7, -5 * 10**9, number=60),
    "databento bad-value fine": where(",A,", edit, 7, 5 * 10**9 + 1, number=60),
    "databento bad-value side": where(",A,", edit, 6, "N", number=60),
    "databento bad-value action": where(",A,", edit, 5, "Q", number=60),
    "databento sequence-gap": where(",T,", edit, 11, orders.F_MAYBE_BAD_BOOK),
    "databento time-backwards": where(",A,", edit, 0, orders.START_NS, number=60),
    "databento missing-snapshot": drop("es.csv", 2),
    "databento off-grid": where(",T,", edit, 7, 49 * 10**9 + 5 * 10**6),
    "databento crossed-book": where(",A,B,", edit, 7, 70 * 10**9, number=60),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_where_they_are_and_refused_when_strict(
    fault: str, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "ENOUGH_IDS", 20)
    name, kind, *_ = fault.split()
    files: Lines
    if name == "tardis":
        files = dict(zip(("book.csv", "trades.csv"), orders.tardis(market), strict=True))
    elif name == "lobster":
        files = dict(
            zip(("message.csv", "book.csv"), orders.lobster(market, LEVELS, MIDNIGHT_NS), strict=False)
        )
    elif name == "databento":
        files = {"es.csv": orders.databento_csv(orders.databento(market), pretty=False)}
    else:
        files = {"x.csv": orders.plain(market)}
    file, line = FAULTS[fault](files)
    names = {"message.csv": "A_2012-06-21_1_2_message_4.csv", "book.csv": "A_2012-06-21_1_2_orderbook_4.csv"}
    shown = names.get(file, file) if name == "lobster" else file
    paths = [
        write_lines(tmp_path / (names.get(each, each) if name == "lobster" else each), lines)
        for each, lines in files.items()
    ]
    venue = "mine" if name == "plain" else None
    tape, report = run(name, paths, tmp_path / "store", venue=venue, tick_size="0.01", lot_size="1")
    assert kind in report.counts, str(report)
    assert any(p.kind == kind and p.line == line and p.file == shown for p in report.problems), str(report)
    assert tape.info.book_complete == (not {"sequence-gap", "missing-snapshot"} & set(report.counts))
    found = rows_of(tape)
    assert (np.diff(found["local_ns"]) >= 0).all()
    for _, book in books(found):
        bids, asks = ([tick for at, tick in book if at == side] for side in "BA")
        assert not bids or not asks or max(bids) < min(asks)
    with pytest.raises(CaptureError, match=rf"{shown}:{line} .*{kind}.*--strict"):
        run(name, paths, tmp_path / "strict", strict=True, venue=venue, tick_size="0.01", lot_size="1")
    assert not list((tmp_path / "strict").iterdir())


# Inverse contracts.


@given(
    st.lists(
        st.tuples(st.integers(-50, 50), st.integers(100, 10**7), st.integers(100, 10**7)),
        min_size=1,
        max_size=20,
    )
)
def test_profit_in_coin_is_that_of_the_round_trips(trips: list[tuple[int, int, int]]) -> None:
    """n V (1/entry - 1/exit) in exact fractions at any mark; linear profit x V / (entry exit) for one."""
    lots = [sign * n for n, _, _ in trips for sign in (1, -1)]
    prices = [price for _, *both in trips for price in both]
    exact = sum((100 * n * (Fraction(1, e) - Fraction(1, x)) for n, e, x in trips), Fraction(0))
    scale = sum(100 * abs(n) * (1 / e + 1 / x) for n, e, x in trips) + 1e-300
    for mark in (150.0, 77_777.0):
        assert abs(inverse_profit(lots, prices, mark, 100.0) - float(exact)) <= 1e-12 * max(scale, 1.0)
    n, e, x = trips[0]
    linear = n * (x - e)
    assert inverse_profit([n, -n], [e, x], x, 100.0) == pytest.approx(
        linear * 100 / (e * x), rel=1e-9, abs=1e-15
    )
    with pytest.raises(ValueError, match="not positive"):
        inverse_profit([1], [0.0], 1.0, 100.0)


def test_the_example_of_the_documentation_imports(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    example = page.split("```csv\n")[1].split("```")[0]
    path = write_lines(tmp_path / "x.csv", example.splitlines())
    tape, report = run("plain", [path], tmp_path / "store", strict=True, venue="v", symbol="s")
    assert not report.counts
    assert books(rows_of(tape))[-1][1] == {("B", 599999): 12, ("A", 600000): 4}
