"""Databento mbo: what was recorded is what is stored, and faults are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import orders
from tests.helpers.faults import again, check_fault, drop, edit, where
from tests.helpers.imports import check, run
from tests.helpers.orders import Market, databento_file


@pytest.mark.parametrize("kind", ["dbn1", "dbn2", "dbn3", "dbn3.zst", "csv", "pretty", "parquet"])
def test_databento(market: Market, tmp_path: Path, kind: str) -> None:
    tape, report = run("databento", [databento_file(market, tmp_path, kind)], tmp_path / "store", strict=True)
    assert (tape.info.venue, tape.info.symbol) == ("cme", "ESM2")
    assert not report.counts
    check(tape, market)


FAULTS = {
    "unknown-order": where(",C,", edit, 10, 7),
    "duplicate-order": where(",A,", again, number=60),
    "bad-value cancel": where(",C,", edit, 8, 9000),
    "bad-value size": where(",C,", edit, 8, 10**12, number=10),
    "bad-value fill": where(",F,", edit, 8, -1),
    "bad-value price": where(",A,", edit, 7, -5 * 10**9, number=60),
    "bad-value huge": where(",A,", edit, 7, 2**62, number=60),
    "off-grid fine": where(",A,", edit, 7, 5 * 10**9 + 1, number=60),
    "bad-value side": where(",A,", edit, 6, "N", number=60),
    "bad-value action": where(",A,", edit, 5, "Q", number=60),
    "sequence-gap": where(",T,", edit, 11, orders.F_MAYBE_BAD_BOOK),
    "time-backwards": where(",A,", edit, 0, orders.START_NS, number=60),
    "missing-snapshot": drop("es.csv", 2),
    "off-grid": where(",T,", edit, 7, 49 * 10**9 + 5 * 10**6),
    "crossed-book": where(",A,B,", edit, 7, 70 * 10**9, number=60),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_where_they_are_and_refused_when_strict(
    fault: str, market: Market, tmp_path: Path
) -> None:
    files = {"es.csv": orders.databento_csv(orders.databento(market), pretty=False)}
    check_fault("databento", files, fault.split()[0], FAULTS[fault], tmp_path)


@pytest.mark.parametrize("symbol", [None, "ESM2", "all"])
def test_what_a_file_cut_within_a_record_still_has_is_imported(symbol: str | None, tmp_path: Path) -> None:
    path = tmp_path / "x.dbn"
    path.write_bytes(orders.dbn(orders.databento(Market(events=60, seed=3)))[:-7])
    tape, report = run("databento", [path], tmp_path / "store", symbol=symbol)
    assert tape.info.symbol == "ESM2"
    assert report.counts["truncated"] == 1
