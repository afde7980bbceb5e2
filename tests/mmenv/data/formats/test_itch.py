"""NASDAQ ITCH 5.0: what was recorded is what is stored, and our place in it is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv.data.rows import FILL, CaptureError
from tests.helpers import orders
from tests.helpers.imports import books, rows_of, run, traded
from tests.helpers.orders import NEW_YORK_MIDNIGHT_NS, Market

NAME = "06212012.NASDAQ_ITCH50"


def day(folder: Path, market: Market) -> Path:
    path = folder / NAME
    path.write_bytes(orders.itch(market, NEW_YORK_MIDNIGHT_NS))
    return path


def test_itch(tmp_path: Path) -> None:
    market = Market(seed=2, hidden=True)
    path = day(tmp_path, market)
    tape, report = run("auto", [path], tmp_path / "store", symbol="AAPL", strict=True, trade_side="quote")
    assert (tape.info.venue, tape.info.symbol, tape.info.day) == ("nasdaq", "AAPL", "2012-06-21")
    assert report.tally["cross, or execution in one, left out"] == 1
    rows = rows_of(tape)
    # Hidden executions print between two ticks.
    scale = round(0.01 / float(tape.info.tick_size))
    wanted = [(ns, side, tick * scale, size) for ns, side, tick, size in orders.trades(market)]
    shown = [deal for deal in wanted if deal in traded(rows)]
    assert shown == wanted
    hidden = len(orders.trades(market, hidden=True)) - len(shown)
    assert (
        len(traded(rows)) == len(shown) + hidden - report.tally["trade whose aggressor is unknown, left out"]
    )
    stored = dict(books(rows, "exch_ns"))
    compared = [event for event in market.events if event.exch_ns in stored]
    assert len(compared) > 300
    for event in compared:
        book = {(side, tick // scale): lots for (side, tick), lots in stored[event.exch_ns].items()}
        assert book == event.book
    kept = np.concatenate(list(tape.rows(orders=True)))
    assert kept["size"][kept["kind"] == FILL].sum() == sum(size for *_, size in orders.trades(market))


def test_what_is_damaged_or_unnamed_is_told(tmp_path: Path) -> None:
    path = day(tmp_path, Market(seed=2))
    whole = path.read_bytes()
    with pytest.raises(
        CaptureError, match=r"it holds 2 stocks, such as AAPL, ZVZZT; choose one with --symbol"
    ):
        run("itch", [path], tmp_path / "store")
    with pytest.raises(CaptureError, match="no rows of MSFT"):
        run("itch", [path], tmp_path / "store", symbol="MSFT")
    path.write_bytes(whole[:-9])
    with pytest.raises(CaptureError, match="truncated"):
        run("itch", [path], tmp_path / "store", symbol="AAPL", strict=True)
    other = tmp_path / "x.bin"
    other.write_bytes(whole)
    with pytest.raises(CaptureError, match=r"x.bin: not named as NASDAQ does, such as 01302019"):
        run("itch", [other], tmp_path / "store", symbol="AAPL")
    assert not (tmp_path / "store").exists()
