"""Tardis.dev CSV files: what was recorded is what is stored, and faults are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmenv.data import sequence
from tests.helpers import orders
from tests.helpers.faults import again, check_fault, drop, edit, everywhere, insert, where
from tests.helpers.imports import check, run
from tests.helpers.orders import Market, tardis_files


def test_tardis(market: Market, tmp_path: Path) -> None:
    tape, report = run("tardis", tardis_files(market, tmp_path), tmp_path / "store", strict=True)
    assert (tape.info.venue, tape.info.symbol) == ("binance-usdm", "BTCUSDT")
    assert not report.counts
    check(tape, market)


FAULTS = {
    "bad-line": insert("book.csv", 90, "binance-futures,BTCUSDT,1,2"),
    "bad-value price": edit("book.csv", 90, 6, "-1"),
    "bad-value size": edit("book.csv", 90, 7, "-2"),
    "bad-value text": edit("book.csv", 90, 6, "1x"),
    "bad-value time": edit("book.csv", 90, 3, "soon"),
    "bad-value side": edit("book.csv", 90, 5, "left"),
    "bad-value trade": edit("trades.csv", 60, 7, "0"),
    "off-grid price": edit("book.csv", 90, 6, "50.005"),
    "off-grid size": edit("trades.csv", 60, 7, "1.5"),
    "time-backwards local": edit("book.csv", 90, 3, orders.START_NS // 1000),
    "time-backwards exchange": edit("trades.csv", 60, 2, orders.START_NS // 1000),
    "duplicate-trade": again("trades.csv", 70),
    "trade-gap": drop("trades.csv", 70),
    "reconnect": edit("book.csv", 200, 4, "true"),
    "missing-snapshot": everywhere("book.csv", "true", "false"),
    "crossed-book": where("false,bid", edit, 6, "60"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_where_they_are_and_refused_when_strict(
    fault: str, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "ENOUGH_IDS", 20)
    files = dict(zip(("book.csv", "trades.csv"), orders.tardis(market), strict=True))
    check_fault("tardis", files, fault.split()[0], FAULTS[fault], tmp_path)
