"""What `neuralmm store` tells of a store, and imports that continue one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmenv.data.folds import walk_forward
from mmenv.data.importer import Import
from mmenv.data.rows import DEPTH, ROW, CaptureError
from mmenv.data.store import Store, check
from mmenv.data.tape import Tape, TapeError, TapeWriter, tapes
from mmenv.times import DAY, SECOND
from mmenv.venue.matched import MatcherVenue
from mmenv.venue.settings import ReplayConfig
from tests.helpers import captures, orders
from tests.helpers.imports import books, rows_of, run, traded
from tests.helpers.orders import START_NS, Market, databento_file, write_lines


def told(store: Path, action: str, **options: str) -> list[list[str]]:
    return [line.split("\t") for line in Store(store, action, **options).run()]  # type: ignore[arg-type]


def test_a_store_is_listed_described_and_checked(tmp_path: Path) -> None:
    market, store = Market(seed=3), tmp_path / "store"
    run("databento", [databento_file(market, tmp_path)], store)
    run("plain", [write_lines(tmp_path / "x.csv", orders.plain(market))], store, venue="v")
    heads, first, second = told(store, "describe")
    assert told(store, "list") == [row[:11] for row in (heads, first, second)]
    by = [dict(zip(heads, row, strict=True)) for row in (first, second)]
    trades = len(orders.trades(market))
    assert [(row["venue"], int(row["trades"])) for row in by] == [("cme", trades), ("v", trades)]
    assert int(by[0]["orders"]) > 100
    assert by[1]["orders"] == "0"
    minutes = (market.events[-1].local_ns - market.events[0].local_ns) / (60 * SECOND)
    assert float(by[0]["trades a minute"]) == pytest.approx(trades / minutes, abs=0.1)
    # The spread by plain dictionaries, each book for as long as it lasts.
    spread, total = 0.0, 0
    for event, later in zip(market.events, market.events[1:], strict=False):
        bids, asks = ([tick for side, tick in event.book if side == name] for name in "BA")
        lasts = later.local_ns - event.local_ns
        spread, total = spread + lasts * (min(asks) - max(bids)), total + lasts
    assert float(by[0]["spread, ticks"]) == pytest.approx(spread / total, abs=0.006)
    assert told(store, "check") == [[f"2 tapes, {int(by[0]['rows']) + int(by[1]['rows'])} rows: sound"]]
    assert len(told(store, "list", venue="v")) == 2
    with pytest.raises(TapeError, match="no tape of venue nowhere"):
        told(store, "list", venue="nowhere")


def spoil(tape: Tape, change: object) -> None:
    """Write a tape's rows anew, after a change in place."""
    rows = np.concatenate(list(tape.rows(orders=True)))
    rows = change(rows)  # type: ignore[operator]
    writer = TapeWriter(tape.path)
    writer.write(np.asarray(rows, ROW))
    writer.close(tape.info)


FAULTS = {
    "local times that run back": lambda rows: np.concatenate([rows[:50], rows[49:50], rows[20:]]),
    "a price that is none": lambda rows: _set(rows, "price", -5),
    "a size below 0": lambda rows: _set(rows, "size", -5),
    "single orders that do not add up": lambda rows: np.delete(rows, np.flatnonzero(rows["kind"] == 11)[5]),
    "trades instead of": lambda rows: np.delete(rows, np.flatnonzero(rows["kind"] == 2)[5]),
}


def _set(rows: np.ndarray, name: str, value: int) -> np.ndarray:
    rows[name][np.flatnonzero(rows["kind"] == DEPTH)[5]] = value
    return rows


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tape_that_is_not_what_it_says_is_named(fault: str, tmp_path: Path) -> None:
    tape, _ = run("databento", [databento_file(Market(seed=3), tmp_path)], tmp_path / "store")
    check(tape)
    spoil(tape, FAULTS[fault])
    with pytest.raises(TapeError, match=rf"tape.parquet: it has .*{fault}.*import it again"):
        told(tmp_path / "store", "check")


def test_an_import_continues_a_store_with_new_days_only(tmp_path: Path) -> None:
    market = captures.market(
        seconds=6, seed=4, start_ns=captures.MIDNIGHT_NS + captures.OFFSET_NS - 3 * SECOND
    )
    evening = [line for line in market.lines if int(line.split()[0]) < captures.MIDNIGHT_NS]
    store = tmp_path / "store"
    first = captures.write(tmp_path / "a.gz", evening)
    both = captures.write(tmp_path / "b.gz", market.lines)
    run("binance", [first], store)
    [tape] = tapes(store)
    before = tape.path.stat().st_mtime_ns
    with pytest.raises(CaptureError, match="--new-days to leave it"):
        run("binance", [both], store)
    [(_, report)] = Import("binance", (both,), store, new_days=True, progress=False).run()
    assert report.tally["day that the store has already, left as it is"] == 1
    assert [one.info.day for one in tapes(store)] == ["2024-08-08", "2024-08-09"]
    assert tapes(store)[0].path.stat().st_mtime_ns == before
    assert pq.read_metadata(tape.path).num_rows == tape.info.rows


def test_a_continued_store_has_the_bytes_of_one_made_at_once(tmp_path: Path) -> None:
    """The second day has the faster messages, a gap and a file of its own; the first day's tape has none."""
    start_ns = captures.MIDNIGHT_NS + captures.OFFSET_NS - 3 * SECOND
    market = captures.market(seconds=6, seed=4, start_ns=start_ns)
    days: dict[bool, list[str]] = {True: [], False: []}
    for line in market.lines:
        stamp, _, message = line.partition(" ")
        first = int(stamp) < captures.MIDNIGHT_NS
        days[first].append(f"{int(stamp) + 2_000_000 * first} {message}")
    diffs = [at for at, line in enumerate(days[False]) if "depthUpdate" in line]
    del days[False][diffs[len(diffs) // 2]]
    files = [captures.write(tmp_path / f"{name}.gz", days[name == "a"]) for name in "ab"]
    for store, given in (("whole", [files]), ("continued", [files[:1], files])):
        for part in given:
            job = Import("binance", tuple(part), tmp_path / store, new_days=True, progress=False)
            job.run()
    whole, continued = (tapes(tmp_path / store) for store in ("whole", "continued"))
    assert [tape.path.read_bytes() for tape in whole] == [tape.path.read_bytes() for tape in continued]
    assert whole[0].info.clock_offset_ns < whole[1].info.clock_offset_ns
    assert [tape.info.book_complete for tape in whole] == [True, False]
    assert whole[0].info.source == "a.gz"


def test_a_tape_goes_to_hftbacktest_and_comes_back(tmp_path: Path) -> None:
    market, store = Market(seed=3), tmp_path / "store"
    tape, _ = run("databento", [databento_file(market, tmp_path)], store)
    [path] = Store(store, "export", to=tmp_path / "out").run()
    again, report = run("auto", [Path(path)], tmp_path / "again", venue="v", symbol="s", strict=True)
    assert not report.counts
    assert traded(rows_of(again)) == traded(rows_of(tape))
    assert books(rows_of(again), "exch_ns")[-1][1] == market.events[-1].book
    hftbacktest = pytest.importorskip("hftbacktest")
    data = np.load(path)["data"]
    assert data.dtype == hftbacktest.types.event_dtype
    with pytest.raises(CaptureError, match="it does not say what it is of; give --symbol"):
        run("hftbacktest", [Path(path)], tmp_path / "none")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CaptureError, match="no file of hftbacktest's events"):
        run("hftbacktest", [tmp_path / "x.npz"], tmp_path / "none", venue="v", symbol="s")


def test_walk_forward_tests_lie_after_what_was_trained_on(tmp_path: Path) -> None:
    days = [f"2024-01-{day:02}" for day in range(1, 13)]
    for expanding in (False, True):
        folds = walk_forward(days, 4, 2, 1, expanding)
        assert [fold.test for fold in folds] == [
            "2024-01-06..2024-01-07", "2024-01-08..2024-01-09", "2024-01-10..2024-01-11",
        ]  # fmt: skip
        assert [fold.train for fold in folds] == [
            f"2024-01-{1 if expanding else first:02}..2024-01-{first + 3:02}" for first in (1, 3, 5)
        ]
    for wrong in ((0, 1, 0), (1, 1, -1), (12, 1, 0)):
        with pytest.raises(TapeError):
            walk_forward(days, *wrong)


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of two symbols, imported in processes of their own."""
    folder = tmp_path_factory.mktemp("week")
    rows: list[str] = []
    for day in range(3):
        market = Market(events=60, seed=day, start_ns=START_NS + day * DAY)
        head, *told = orders.plain(market)
        rows += [symbol + row[1:] for row in told for symbol in "AB"]
    path = write_lines(folder / "x.csv", [head, *rows])
    options = {"venue": "v", "symbol": "all", "progress": False, "allow_no_trades": True}
    for jobs in (1, 2):
        Import("plain", (path,), folder / f"store{jobs}", jobs=jobs, **options).run()
    return folder


def test_symbols_are_imported_at_once_as_in_turn(week: Path) -> None:
    one, two = (tapes(week / f"store{jobs}") for jobs in (1, 2))
    assert len(one) == len(two) == 6
    for first, second in zip(one, two, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()


def test_a_range_of_days_and_only_those_drawn_are_opened(week: Path) -> None:
    chosen = tapes(week / "store1", symbol="A", day="2012-06-21..2012-06-22")
    assert [tape.info.day for tape in chosen] == ["2012-06-21", "2012-06-22"]
    with pytest.raises(TapeError):
        tapes(week / "store1", day="2013-01-01..2013-01-31")
    config = ReplayConfig(split="all", episode_ns=SECOND)
    with MatcherVenue(tapes(week / "store1", symbol="A"), 1, config) as venue:
        assert not list(week.glob("store1/*/symbol=A/*/.replay-*"))
        venue.reset(0, np.random.default_rng(1))
        assert len(list(week.glob("store1/*/symbol=A/*/.replay-*"))) == 1
