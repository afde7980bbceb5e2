"""Archives of venues and files of other recorders: what happened is what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmenv.data.formats.base import formats_of
from mmenv.data.rows import ADD, CANCEL, FILL, CaptureError
from tests.helpers import archives, feeds, orders
from tests.helpers.archives import ARCHIVES, VENUES_TIME, at_venue, touch, zipped
from tests.helpers.imports import books, check, rows_of, run, traded
from tests.helpers.orders import write_lines


@pytest.mark.parametrize("name", ARCHIVES)
def test_what_happened_is_what_is_stored(name: str, tmp_path: Path) -> None:
    market = feeds.market()
    if name in VENUES_TIME:
        at_venue(market)
    format, write = ARCHIVES[name]
    paths = write(market, tmp_path)
    assert {tuple(formats_of(path)) for path in paths} == {(format,)}
    tape, report = run(format, paths, tmp_path / "store")
    assert not report.counts
    rows = rows_of(tape)
    assert traded(rows) == orders.trades(market)
    if name == "coinbase-full":
        by_local = {event.local_ns: event.book for event in market.events}
        assert books(rows)[-1][1] == market.events[-1].book
        assert dict(books(rows)) == {ns: by_local[ns] for ns, _ in books(rows)}
        kept = np.concatenate(list(tape.rows(orders=True)))
        assert {ADD, CANCEL, FILL} <= set(kept["kind"].tolist())
    elif name in VENUES_TIME:
        # Of events at the same millisecond the last one stands.
        by_time = {event.exch_ns: event.book for event in market.events}
        assert dict(books(rows)).items() <= by_time.items()
        assert books(rows)[-1][1] == market.events[-1].book
    else:
        check(tape, market)


@pytest.mark.parametrize("aggregated", [False, True])
@pytest.mark.parametrize("spot", [False, True])
def test_book_tickers_are_a_book_of_one_level(spot: bool, aggregated: bool, tmp_path: Path) -> None:
    market = at_venue(feeds.market())
    kind = "aggTrades" if aggregated else "trades"
    paths = [
        zipped(tmp_path / f"BTCUSDT-{kind}-2012-06-21.zip", archives.binance_deals(market, spot, aggregated)),
        zipped(tmp_path / "BTCUSDT-bookTicker-2012-06-21.zip", archives.binance_tickers(market)),
    ]
    venue = "binance-spot" if spot else "binance-usdm"
    tape, report = run("binance-archive", paths, tmp_path / "store", venue=venue)
    assert (tape.info.venue, report.counts) == (venue, {})
    assert traded(rows_of(tape)) == orders.trades(market)
    seen = dict(books(rows_of(tape)))
    for event in market.events:
        best = {level: event.book[level] for level in touch(event.book)}
        if event.exch_ns in seen and market.events[-1] is event:
            assert seen[event.exch_ns] == best
    assert all(len(book) == 2 for book in seen.values())


def test_a_depth_by_percentage_is_refused(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "BTCUSDT-bookDepth-2024-01-01.zip", ["timestamp,percentage,depth,notional", "1,2,3,4"]
    )
    with pytest.raises(CaptureError, match="bookDepth holds sums"):
        run("binance-archive", [path], tmp_path / "store")


@pytest.mark.parametrize("venue", feeds.VENUES)
def test_compiled_code_and_python_read_the_same(venue: str, tmp_path: Path) -> None:
    """Lines whose keys stand in another order, with another symbol among them, and blanks or none."""
    lines = feeds.capture(feeds.market(), venue)
    split = [line.partition(" ") for line in lines]
    compact = [f"{ns} {json.dumps(json.loads(text), separators=(',', ':'))}" for ns, _, text in split]
    # A key that no venue has, and that says nothing, is a text with a backslash: Python's business.
    odd = [f'{ns} {{"a\\u0062":0,{text[1:]}' for ns, _, text in split]
    backwards = [f"{ns} {json.dumps(dict(reversed(json.loads(text).items())))}" for ns, _, text in split]
    found = [
        rows_of(run(venue, [write_lines(tmp_path / f"{number}.raw", each)], tmp_path / str(number))[0])
        for number, each in enumerate((lines, compact, odd, backwards))
    ]
    assert all(rows.tobytes() == found[0].tobytes() for rows in found)


def test_a_kraken_book_has_the_depth_subscribed(tmp_path: Path) -> None:
    def line(number: int, kind: str, bids: list[tuple[float, float]]) -> str:
        levels = [{"price": price, "qty": size} for price, size in bids]
        asks = [{"price": 200.0, "qty": 1.0}] if kind == "snapshot" else []
        data = {"symbol": "BTC/USD", "bids": levels, "asks": asks, "checksum": 1}
        data |= {"timestamp": "2024-01-01T00:00:00.5Z"} if kind == "update" else {}
        return f"{10**18 + number} {json.dumps({'channel': 'book', 'type': kind, 'data': [data]})}"

    lines = [
        line(0, "snapshot", [(100.0 - step, 1.0) for step in range(10)]),
        line(1, "update", [(101.0, 2.0)]),  # the eleventh falls out
        line(2, "update", [(101.0, 0.0), (91.0, 3.0)]),  # and is told again
    ]
    tape, report = run(
        "kraken", [write_lines(tmp_path / "x.raw", lines)], tmp_path / "store", allow_no_trades=True
    )
    assert not report.counts
    sizes = [
        {level[1]: size for level, size in book.items() if level[0] == "B"}
        for _, book in books(rows_of(tape))
    ]
    assert [sorted(each) for each in sizes] == [
        list(range(91, 101)),
        list(range(92, 102)),
        list(range(91, 101)),
    ]
    assert [each.get(91) for each in sizes] == [1, None, 3]
