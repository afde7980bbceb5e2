"""Captures of websockets: what was sent is what is stored, and faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from mmenv.data.formats import feed
from mmenv.data.formats.base import ImportOptions, formats_of, open_importers
from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.data.rows import TRADE, CaptureError
from mmenv.data.tape import tapes
from tests.helpers import captures, feeds, orders
from tests.helpers.faults import check_fault, drop, find
from tests.helpers.feeds import VENUES, capture
from tests.helpers.fuzz import Spoil, joined, spoils, spoilt
from tests.helpers.imports import books, check, rows_of, run, traded
from tests.helpers.orders import write_lines


@pytest.mark.parametrize("venue", VENUES)
def test_what_was_sent_is_what_is_stored(venue: str, tmp_path: Path) -> None:
    market = feeds.market()
    lines = capture(market, venue)
    extra = f'{lines[9].split()[0]} {{"channel":"heartbeat","event":"x","type":"y","topic":"z"}}'
    path = write_lines(tmp_path / "x.gz", [*lines[:9], extra, *lines[9:]])
    tape, report = run(venue, [path], tmp_path / "store", strict=True)
    assert tape.info.venue == venue
    assert not report.counts
    assert sum(count for text, count in report.tally.items() if "not used" in text) == 1
    check(tape, market)


@pytest.mark.parametrize("venue", VENUES)
def test_messages_alone_have_the_venues_time(venue: str, tmp_path: Path) -> None:
    market = feeds.market()
    tape, report = run(
        venue, [write_lines(tmp_path / "x", capture(market, venue, local=False))], tmp_path / "store"
    )
    rows = rows_of(tape)
    assert not report.counts
    assert (rows["local_ns"] == rows["exch_ns"]).all()
    assert traded(rows) == orders.trades(market)
    assert books(rows)[-1][1] == market.events[-1].book


def _read(venue: str, path: Path) -> tuple[bytes, str]:
    """Rows and what is told of them; of a file that is refused, neither."""
    try:
        [importer] = open_importers(venue, [path], ImportOptions())
        report = Report(importer.names)
        rows = b"".join(chunk.tobytes() for chunk in importer.chunks(report))
    except CaptureError:
        return b"", ""
    return rows, str(report)


@pytest.mark.parametrize("venue", VENUES)
def test_compiled_code_reads_what_python_reads(venue: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spoilt") / "x"
    whole = joined(capture(feeds.market(events=12), venue))

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(spoils)
    def run(edits: list[Spoil]) -> None:
        path.write_bytes(spoilt(venue, whole, edits))
        found = _read(venue, path)
        with patch.object(feed, "scan", feed.no_scan):
            assert found == _read(venue, path)

    run()


LACKING = {
    "okx": ("channel", "chanel"),
    "bybit": ('"u":', '"v":'),
    "kraken": ('"type":', '"tipe":'),
    "hyperliquid": ('"levels":[', '"levels":[1,'),
}
"""Of a message that is as it should be but for this."""


@pytest.mark.parametrize("venue", LACKING)
def test_a_message_without_what_it_must_say_is_left_out(venue: str, tmp_path: Path) -> None:
    lines = [line.replace(": ", ":") for line in capture(feeds.market(events=12), venue)]
    place = next(
        n for n, line in enumerate(lines) if n > 2 and ("bids" in line or '"b"' in line or "levels" in line)
    )
    lines[place] = lines[place].replace(*LACKING[venue])
    path = write_lines(tmp_path / "x", lines)
    spoiled, told = _read(venue, path)
    del lines[place]
    whole, _ = _read(venue, write_lines(path, lines))
    assert len(spoiled) == len(whole)
    assert "bad-message" in told or "not used" in told


def test_a_second_symbol_is_refused_by_python_too(tmp_path: Path) -> None:
    lines = capture(feeds.market(events=12), "kraken")
    path = write_lines(tmp_path / "x", [*lines[:5], lines[5].replace("BTC/USD", "ETH/USD"), *lines[6:]])
    with (
        patch.object(feed, "scan", feed.no_scan),
        pytest.raises(CaptureError, match="choose one with --symbol"),
    ):
        run("kraken", [path], tmp_path / "store")


def test_hyperliquids_archives(tmp_path: Path) -> None:
    lines = capture(feeds.market(), "hyperliquid", local=False)
    wrapped = [
        json.dumps({"time": "2024-01-01T00:00:00.1", "ver_num": 1, "raw": json.loads(line)}) for line in lines
    ]
    with pa.CompressedOutputStream(str(tmp_path / "0.lz4"), "lz4") as file:
        file.write("".join(line + "\n" for line in wrapped).encode())
    plain, _ = run("hyperliquid", [write_lines(tmp_path / "x", lines)], tmp_path / "plain")
    tape, _ = run("hyperliquid", [tmp_path / "0.lz4"], tmp_path / "store")
    assert rows_of(tape).tobytes() == rows_of(plain).tobytes()


@pytest.mark.parametrize("venue", ["bybit", "okx"])
def test_a_lost_message_is_told_where_the_venue_numbers_them(venue: str, tmp_path: Path) -> None:
    lines = capture(feeds.market(), venue)
    text = '"delta"' if venue == "bybit" else '"update"'
    at = find({"x": lines}, "x", text, 40)
    check_fault(
        venue, {"x": lines}, "sequence-gap", drop("x", at, find({"x": lines}, "x", text, 41) - 1), tmp_path
    )


FAULTS = {
    "bad-line": ("not json", 90),
    "bad-message": ('{"channel":"book","type":"update","data":[{"symbol":"BTC/USD"}]}', 90),
    "bad-value": (
        '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":-1,"qty":1,'
        '"trade_id":1,"timestamp":"2024-01-01T00:00:00Z"}]}',
        90,
    ),
}


def test_another_channel_of_okx_is_counted_and_no_change_of_the_book(tmp_path: Path) -> None:
    lines = capture(feeds.market(), "okx")
    whole, _ = run("okx", [write_lines(tmp_path / "x.raw", lines)], tmp_path / "whole")
    at = next(place for place, line in enumerate(lines) if '"update"' in line)
    line = lines[at]
    for channel in ("books-rpi", "bbo-tbt"):
        lines.insert(at, line.replace('"books"', f'"{channel}"', 1))
        assert channel in lines[at]
    found, report = run("okx", [write_lines(tmp_path / "y.raw", lines)], tmp_path / "found", strict=True)
    assert rows_of(found).tobytes() == rows_of(whole).tobytes()
    assert report.tally["books-rpi message, not used"] == report.tally["bbo-tbt message, not used"] == 1


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_named_where_they_are(kind: str, tmp_path: Path) -> None:
    lines = capture(feeds.market(), "kraken")
    text, line = FAULTS[kind]
    lines.insert(line - 1, f"{lines[line].split()[0]} {text}")
    check_fault("kraken", {"x": lines}, kind, lambda files: ("x", line), tmp_path)


def test_a_number_of_too_many_digits_is_no_number(tmp_path: Path) -> None:
    lines = capture(feeds.market(), "okx")
    place = next(at for at, line in enumerate(lines) if '"update"' in line)
    lines.insert(place, lines[place].replace('"seqId": ', f'"seqId": {"1" * 30}'))
    _, report = run("okx", [write_lines(tmp_path / "x.raw", lines)], tmp_path / "store")
    assert report.counts == {"bad-message": 1}


def test_the_format_is_found_and_a_wrong_one_named(tmp_path: Path) -> None:
    """`auto` sorts files by their format; a file under another format is told the one it looks like."""
    market = feeds.market()
    files = {venue: write_lines(tmp_path / f"{venue}.raw", capture(market, venue)) for venue in VENUES}
    files["binance"] = captures.write(tmp_path / "binance.gz", captures.market(seconds=5, seed=4).lines)
    columns = [f"{line},{'mine' if number else 'venue'}" for number, line in enumerate(orders.plain(market))]
    files["plain"] = write_lines(tmp_path / "plain.csv", columns)
    files["databento"] = orders.databento_file(market, tmp_path, "dbn3.zst")
    for name, lines in zip(("book", "trades"), orders.tardis(market), strict=True):
        files[f"tardis {name}"] = write_lines(tmp_path / f"{name}.csv", lines)
    for number, path in enumerate(orders.lobster_files(market, tmp_path)[0]):
        files[f"lobster {number}"] = path
    files["bitstamp"] = write_lines(tmp_path / "stamp.log", bitstamp())
    for name, path in files.items():
        assert formats_of(path) == [name.split()[0]]
    Import("auto", tuple(files.values()), tmp_path / "store", venue=None, progress=False).run()
    assert len(tapes(tmp_path / "store")) == len(VENUES) + 6
    with pytest.raises(CaptureError, match="it looks like hyperliquid: give that format"):
        run("binance", [files["hyperliquid"]], tmp_path / "wrong")
    with pytest.raises(CaptureError, match="it looks like tardis: give that format"):
        run("plain", [files["tardis book"]], tmp_path / "wrong")
    path = write_lines(tmp_path / "letter.txt", ["Dear Sir"])
    with pytest.raises(CaptureError, match=r"letter.txt: it looks like no format .* one of binance, "):
        run("auto", [path], tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


# Bitstamp.


def bitstamp() -> list[str]:
    """A log: an order from before it is cancelled, one takes another and rests, one is executed."""
    said = [
        ("order_book", {"bids": [["100.00", "5"], ["99.00", "1"]], "asks": [["101.00", "2"]]}),
        ("order_created", {"id": 1, "order_type": 0, "price": "100.00", "amount": "3"}),
        ("order_deleted", {"id": 77, "order_type": 0, "price": "100.00", "amount": "4"}),
        ("order_created", {"id": 2, "order_type": 1, "price": "101.00", "amount": "6"}),
        # Takes 6 + 2 at 101 (2 of them from before the log) and rests with 1.
        ("order_created", {"id": 3, "order_type": 0, "price": "101.00", "amount": "9"}),
        ("order_changed", {"id": 3, "order_type": 0, "price": "101.00", "amount": "3"}),
        ("order_deleted", {"id": 2, "order_type": 1, "price": "101.00", "amount": "0"}),
        ("trade", {"id": 500, "price": 101.0, "amount": 6.0}),
        ("order_book", {"bids": [["101.00", "3"], ["100.00", "4"]], "asks": []}),
        ("order_changed", {"id": 1, "order_type": 0, "price": "100.00", "amount": "2"}),
        ("trade", {"id": 501, "price": 100.0, "amount": 1.0}),
        ("order_created", {"id": 4, "order_type": 1, "price": "102.00", "amount": "1"}),
    ]
    return [
        f"{1_430_438_404_518 + 10 * place} {event} {json.dumps(data | {'datetime': '1430438404'})}"
        for place, (event, data) in enumerate(said)
    ]


def test_bitstamp(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.log", bitstamp())
    tape, report = run("bitstamp", [path], tmp_path / "store", strict=True, tick_size="1", lot_size="1")
    rows = rows_of(tape)
    assert (tape.info.venue, tape.info.symbol) == ("bitstamp", "BTCUSD")
    assert not report.counts
    assert books(rows)[0][1] == {("B", 100): 5, ("B", 99): 1, ("A", 101): 2}
    assert books(rows)[-1][1] == {("B", 100): 3, ("B", 99): 1, ("B", 101): 3, ("A", 102): 1}
    trades = rows[rows["kind"] == TRADE]
    assert [(int(t["side"]), int(t["price"]), int(t["size"])) for t in trades] == [(1, 101, 6), (-1, 100, 1)]
    kept = np.concatenate(list(tape.rows(orders=True)))
    assert kept["size"][(kept["kind"] == 13) & (kept["id"] == 1)].tolist() == [1]


@pytest.mark.parametrize(
    "line",
    ["order_created {", f'trade {{"price":101,"amount":1,"id":{10**30}}}', 'trade {"price":[1],"id":1}'],
)
def test_a_bad_line_of_bitstamps_is_named(line: str, tmp_path: Path) -> None:
    lines = bitstamp()
    lines.insert(3, f"1430438404550 {line}")
    path = write_lines(tmp_path / "x.log", lines)
    with pytest.raises(CaptureError, match=r"x.log:4 .*bad-message"):
        run("bitstamp", [path], tmp_path / "store", strict=True)
