"""Plain columns: what was recorded is what is stored, and faults are named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mmenv.data import sequence
from mmenv.data.rows import CaptureError
from tests.helpers import orders
from tests.helpers.faults import again, check_fault, drop, edit, everywhere, where
from tests.helpers.imports import books, check, rows_of, run
from tests.helpers.orders import Market, write_lines


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


def test_the_example_of_the_documentation_imports(tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs" / "data.md").read_text()
    example = page.split("```csv\n")[1].split("```")[0]
    path = write_lines(tmp_path / "x.csv", example.splitlines())
    tape, report = run("plain", [path], tmp_path / "store", strict=True, venue="v", symbol="s")
    assert not report.counts
    assert books(rows_of(tape))[-1][1] == {("B", 599999): 12, ("A", 600000): 4}


def test_milliseconds_for_nanoseconds_are_told(market: Market, tmp_path: Path) -> None:
    head, *lines = orders.plain(market)
    at = head.split(",").index("local_ns")
    fields = [line.split(",") for line in lines]
    late = [",".join([*each[:at], each[at][:-6], *each[at + 1 :]]) for each in fields]
    path = write_lines(tmp_path / "x.csv", [head, *late])
    with pytest.raises(CaptureError, match=r"local_ns = \d{13} is of 1970-01-01; give nanoseconds"):
        run("plain", [path], tmp_path / "store", venue="v", symbol="s")


FAULTS = {
    "sequence-gap": where("X,depth", edit, 8, 1),
    "trade-gap": where("X,trade", drop, number=60),
    "duplicate-trade": where("X,trade", again, number=60),
    "missing-snapshot": everywhere("x.csv", "snapshot", "depth"),
    "bad-value kind": where("X,depth", edit, 1, "deep"),
    "time-backwards local": where("X,depth", edit, 2, orders.START_NS),
    "crossed-book": where("X,depth", edit, 5, "80"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_where_they_are_and_refused_when_strict(
    fault: str, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "ENOUGH_IDS", 20)
    files = {"x.csv": orders.plain(market)}
    check_fault("plain", files, fault.split()[0], FAULTS[fault], tmp_path, venue="v")
