"""Tardis, LOBSTER, Databento and plain columns: what was recorded is what is stored, and faults are named."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mmenv.data.capture import BUY, CLEAR, TRADE, Report
from mmenv.data.importer import Import
from mmenv.data.tape import Tape
from tests import orders
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
