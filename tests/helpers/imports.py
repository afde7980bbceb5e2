"""Imports for tests, and what they should have come to."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.data.rows import BBO, BUY, CLEAR, TRADE
from mmenv.data.store import export
from mmenv.data.tape import Tape
from tests.helpers import orders
from tests.helpers.orders import Book, Market, trades


def run(name: str, paths: list[Path], store: Path, **options: object) -> tuple[Tape, Report]:
    """Import files that come to one tape."""
    [([tape], report)] = Import(name, tuple(paths), store, progress=False, **options).run()  # type: ignore[arg-type]
    return tape, report


TOLD: dict[str, dict[str, str]] = {
    "plain": {"venue": "mine"},
    "itch": {"symbol": "AAPL"},
    "hftbacktest": {"venue": "mine", "symbol": "AAPL"},
}
"""What samples of a format do not say themselves."""


def events_file(folder: Path) -> Path:
    """A sample of hftbacktest's event files: what a tape is exported to."""
    paths = orders.tardis_files(orders.Market(events=160, seed=3), folder)
    [([tape], _)] = Import("tardis", tuple(paths), folder / "store", progress=False).run()
    return export(tape, folder / "out")


def rows_of(tape: Tape) -> np.ndarray:
    """All rows of a tape."""
    return np.concatenate(list(tape.rows()))


def books(rows: np.ndarray, clock: str = "local_ns", sides: str = "BA") -> list[tuple[int, Book]]:
    """Time and book after each message that is not only a clear, by a plain dictionary.

    `sides` are the letters of the bid and the ask side.
    """
    book: Book = {}
    found = []
    rows = rows[(rows["kind"] != TRADE) & (rows["kind"] != BBO)]
    for _, group in itertools.groupby(rows, key=lambda row: (row["id"], row[clock])):
        messages = list(group)
        for row in messages:
            level = sides[row["side"] != BUY], int(row["price"])
            if row["kind"] == CLEAR:
                book = {}
            elif row["size"]:
                book[level] = int(row["size"])
            else:
                book.pop(level, None)
        if messages[-1]["kind"] != CLEAR:
            found.append((int(messages[-1][clock]), dict(book)))
    return found


def traded(rows: np.ndarray) -> list[tuple[int, int, float, int]]:
    """Exchange time, side, tick and lots of every trade."""
    names = ("exch_ns", "side", "price", "size")
    return [tuple(int(row[name]) for name in names) for row in rows[rows["kind"] == TRADE]]  # type: ignore[misc]


def check(tape: Tape, market: Market) -> None:
    """Require the book after every event that changes it, and every trade."""
    rows = rows_of(tape)
    assert (tape.info.tick_size, tape.info.lot_size) == ("0.01", "1")
    assert tape.info.book_complete
    assert traded(rows) == trades(market)
    expected, before = [], None
    for event in market.events:
        if event.book != before:
            expected.append((event.local_ns, event.book))
        before = event.book
    assert books(rows) == expected
    assert len(expected) > 300
    assert len(trades(market)) > 50
