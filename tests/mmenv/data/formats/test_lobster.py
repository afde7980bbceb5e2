"""LOBSTER: what was recorded is what is stored, and faults are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv.data.rows import TRADE
from tests.helpers import orders
from tests.helpers.faults import Lines, check_fault, edit, insert
from tests.helpers.imports import books, rows_of, run, traded
from tests.helpers.orders import NEW_YORK_MIDNIGHT_NS, Book, Market, lobster_files

LEVELS = 4
MESSAGES, BOOKS = (f"A_2012-06-21_1_2_{kind}_{LEVELS}.csv" for kind in ("message", "orderbook"))


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


def executions(files: Lines) -> list[int]:
    """Lines of visible executions in a LOBSTER message file."""
    return [place for place, line in enumerate(files[MESSAGES], 1) if line.split(",")[1] == "4"]


def without_execution(files: Lines) -> tuple[str, int]:
    line = executions(files)[9]
    del files[MESSAGES][line - 1], files[BOOKS][line - 1]
    return MESSAGES, line


def without_change(files: Lines) -> tuple[str, int]:
    """The book after an execution is the one before it."""
    line = executions(files)[9]
    files[BOOKS][line - 1] = files[BOOKS][line - 2]
    return MESSAGES, line


FAULTS = {
    "bad-line": insert(BOOKS, 90, "1,2"),
    "bad-value": edit(MESSAGES, 90, 3, -1),
    "time-backwards": edit(MESSAGES, 90, 0, "34200.000000001"),
    "sequence-gap": without_execution,
    "sequence-gap unchanged": without_change,
    "truncated": lambda files: (
        files.update({BOOKS: files[BOOKS][:-3]}) or (MESSAGES, len(files[BOOKS]) + 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_where_they_are_and_refused_when_strict(
    fault: str, market: Market, tmp_path: Path
) -> None:
    lines = orders.lobster(market, LEVELS, NEW_YORK_MIDNIGHT_NS)
    files = dict(zip((MESSAGES, BOOKS), lines, strict=False))
    check_fault("lobster", files, fault.split()[0], FAULTS[fault], tmp_path)
