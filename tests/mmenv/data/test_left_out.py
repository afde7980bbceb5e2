"""`--symbol all`: what makes no tape is named and left out, and the others are what they are alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmenv.data.importer import Import, main
from mmenv.data.rows import CaptureError
from mmenv.data.tape import tapes
from tests.helpers import archives, orders
from tests.helpers.imports import rows_of, run
from tests.helpers.orders import Market, write_lines

MARKET = Market(seed=3)


def plain(folder: Path) -> list[Path]:
    return [write_lines(folder / "x.csv", orders.plain(MARKET))]


def plain_trades(folder: Path) -> Path:
    head, *lines = orders.plain(MARKET)
    deals = [line.replace("X,", "ETHUSDT,", 1) for line in lines if ",trade," in line]
    return write_lines(folder / "other.csv", [head, *deals])


def nautilus_trades(folder: Path) -> Path:
    table, path = pq.read_table(folder / "trades.parquet"), folder / "other.parquet"
    pq.write_table(table.replace_schema_metadata({"instrument_id": "ETHUSDT.BINANCE"}), path)
    return path


def named(lines: list[str]) -> list[str]:
    return [line.replace("BTC", "ETH") for line in lines]


AT_VENUE = archives.at_venue(Market(seed=3))
FORMATS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], Path]]] = {
    "tardis": (
        lambda folder: orders.tardis_files(MARKET, folder),
        lambda folder: write_lines(folder / "other.csv", orders.tardis(MARKET, symbol="ETHUSDT")[1]),
    ),
    "plain": (plain, plain_trades),
    "nautilus": (lambda folder: archives.nautilus(MARKET, folder), nautilus_trades),
    "binance-archive": (
        lambda folder: archives.ARCHIVES["binance-archive"][1](AT_VENUE, folder),
        lambda folder: archives.zipped(
            folder / "ETHUSDT-trades-2012-06-21.zip", archives.binance_deals(AT_VENUE)
        ),
    ),
    "bybit": (
        lambda folder: archives.ARCHIVES["bybit-archive"][1](AT_VENUE, folder),
        lambda folder: write_lines(
            folder / "ETHUSDT2012-06-21.csv.gz", named(archives.bybit_deals(AT_VENUE))
        ),
    ),
    "okx": (
        lambda folder: archives.ARCHIVES["okx-archive"][1](AT_VENUE, folder),
        lambda folder: archives.zipped(
            folder / "ETH-USDT-trades-2012-06-21.zip", named(archives.okx_deals(AT_VENUE))
        ),
    ),
}
"""By format: files of a symbol, and trades of another one alone."""


@pytest.mark.parametrize("name", FORMATS)
def test_trades_alone_are_named_and_the_others_are_imported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, trades = FORMATS[name]
    paths, venue = whole(tmp_path), {"venue": "v"}
    other = trades(tmp_path)
    one, _ = run(name, paths, tmp_path / "one", **venue)
    words = [name, *map(str, (*paths, other)), "--venue", "v", "--symbol", "all", "--no-progress"]
    main([*words, "-o", str(tmp_path / "all")])
    [found] = tapes(tmp_path / "all")
    assert found.info.symbol == one.info.symbol
    assert rows_of(found).tobytes() == rows_of(one).tobytes()
    [told] = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert "ETH" in told
    assert other.name in told
    strict = Import(
        name, (*paths, other), tmp_path / "none", symbol="all", strict=True, progress=False, **venue
    )
    with pytest.raises(CaptureError, match=other.name):
        strict.run()
    with pytest.raises(SystemExit, match=r"^neuralmm import: .*ETH.*(alone|both a bid and an ask)"):
        main([name, str(other), *words[-5:], "-o", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_symbol_that_lacks_something_is_left_out_by_each_process(tmp_path: Path) -> None:
    head, *lines = orders.plain(MARKET)
    of_no_trades = [line.replace("X,", "Y,", 1) for line in lines if ",trade," not in line]
    of_no_rows = [
        line.replace("X,", "Z,", 1).replace(",depth,", ",none,") for line in lines if ",depth," in line
    ]
    path = write_lines(
        tmp_path / "x.csv",
        [head, *sorted([*lines, *of_no_trades, *of_no_rows], key=lambda line: line.split(",")[2])],
    )
    for jobs in (1, 3):
        store = tmp_path / f"store{jobs}"
        job = Import("plain", (path,), store, venue="v", symbol="all", jobs=jobs, progress=False)
        told = [report.left_out for found, report in job.run() if not found]
        assert [tuple(text.split(": ")[:3]) for text in told] == [
            ("v Y is left out", "x.csv", "no trades; give the files that have them, or --allow-no-trades"),
            ("v Z is left out", "x.csv", "no rows of Z that can be used"),
        ]
        assert [each.info.symbol for each in tapes(store)] == ["X"]
