"""Nothing in a capture is lost in silence: trades in any order, sides, decimals, symbols, odd files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data import sequence
from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.data.rows import RAW, TRADE, CaptureError
from mmenv.data.sequence import TradeIds
from mmenv.data.tape import tapes
from tests.helpers import captures, orders
from tests.helpers.imports import books, rows_of, run, traded
from tests.helpers.orders import Market, write_lines

HEADER = "local_ns,kind,side,price,size,id"
START = 1_700_000_000_000_000_000


def plain(folder: Path, *rows: str, bid: str = "99", ask: str = "101") -> Path:
    """A file of our own columns: a book of one level a side, and rows a second apart."""
    book = [f"{START},snapshot,bid,{bid},1,1", f"{START},snapshot,ask,{ask},1,1"]
    later = [f"{START + 10**9 * (place + 1)},{row}" for place, row in enumerate(rows)]
    return write_lines(folder / "x.csv", [HEADER, *book, *later])


def take(path: Path, store: Path, **options: object) -> tuple[np.ndarray, Report]:
    tape, report = run("plain", [path], store, venue="v", symbol="s", **options)
    return rows_of(tape), report


# Ids of trades.


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.lists(st.integers(1, 9), min_size=20, max_size=20))
def test_a_trade_is_seen_before_if_its_id_was_and_missing_if_it_never_comes(
    ids: list[int], cuts: list[int]
) -> None:
    trades, report = TradeIds(numbered=True, one_by_one=True), Report(["x"], keep=1000)
    rows = np.zeros(len(ids), RAW)
    rows["id"], rows["kind"] = ids, TRADE
    new = [trades.new(part, report) for part in np.split(rows, np.minimum(np.cumsum(cuts), len(ids)))]
    trades.settle(report)
    assert np.concatenate(new).tolist() == [ids[:place].count(each) == 0 for place, each in enumerate(ids)]
    missing = set(range(min(ids), max(ids))) - set(ids) if ids else set()
    told = sum(int(p.text.split()[0]) for p in report.problems if p.kind == "trade-gap")
    assert told == len(missing)
    assert report.counts["late-trade"] == 0


def test_a_trade_later_than_the_window_is_kept_and_said_to_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "RECENT_IDS", 4)
    trades, report = TradeIds(numbered=True, one_by_one=True), Report(["x"])
    rows = np.zeros(20, RAW)
    rows["id"] = [*range(1, 3), *range(4, 21), 3]
    assert trades.new(rows, report).all()
    trades.settle(report)
    assert report.counts == {"trade-gap": 1, "late-trade": 1}


@pytest.mark.parametrize("name", ["binance", "plain", "tardis"])
def test_trades_out_of_order_are_kept(name: str, tmp_path: Path) -> None:
    if name == "binance":
        lines = captures.market(seconds=8, seed=3).lines
        kind, files = '"e":"trade"', {"x.raw": lines}
    else:
        market = Market(seed=3)
        files = {"x.csv": orders.plain(market)}
        if name == "tardis":
            files = dict(zip(("book.csv", "x.csv"), orders.tardis(market), strict=True))
        kind = "X,trade" if name == "plain" else ",buy,"
    lines = files["x.raw" if name == "binance" else "x.csv"]
    found = [place for place, line in enumerate(lines) if kind in line]
    first, second = found[len(found) // 2], found[len(found) // 2 + 1]
    options = {"venue": "v"} if name == "plain" else {}
    paths = [write_lines(tmp_path / each, text) for each, text in files.items()]
    whole, _ = run(name, paths, tmp_path / "whole", **options)
    # Both keep their place in time: only the ids are swapped.
    key = {"binance": '"t":', "plain": ",", "tardis": ","}[name]
    at = {"binance": 1, "plain": 7, "tardis": 4}[name]
    split = [lines[place].split(key) for place in (first, second)]
    ids = [parts[at].split(",")[0] for parts in split]
    for place, parts, other in zip((first, second), split, reversed(ids), strict=True):
        parts[at] = parts[at].replace(ids[0] if other == ids[1] else ids[1], other, 1)
        lines[place] = key.join(parts)
    paths = [write_lines(tmp_path / each, text) for each, text in files.items()]
    swapped, report = run(name, paths, tmp_path / "swapped", strict=True, **options)
    assert traded(rows_of(swapped)) == traded(rows_of(whole))
    assert not report.counts


# Trades without a side, and captures without trades.


def test_a_side_is_given_by_the_rule_asked_for(tmp_path: Path) -> None:
    prices = ("101", "100", "99", "100", "100", "100.5", "99.5")
    path = plain(tmp_path, *(f"trade,,{price},1,{place}" for place, price in enumerate(prices)))
    sides = {
        "tick": [0, -1, -1, 1, 1, 1, -1],
        # In the middle, 100, as the last change: none before the first trade.
        "quote": [1, -1, -1, 1, 1, 1, -1],
    }
    for rule, expected in sides.items():
        rows, report = take(path, tmp_path / rule, trade_side=rule)
        known = [side for side in expected if side]
        assert rows["side"][rows["kind"] == TRADE].tolist() == known
        assert report.tally[f"trade without a side, given one by the {rule} rule"] == len(known)
        assert report.tally["trade whose aggressor is unknown, left out"] == len(expected) - len(known)
    with pytest.raises(CaptureError, match="7 of 7 trades have no side: give --trade-side"):
        take(path, tmp_path / "none")
    with pytest.raises(CaptureError, match="no trades"):
        take(path, tmp_path / "none", trade_side="leave-out")
    assert not (tmp_path / "none").exists()
    rows, _ = take(path, tmp_path / "out", trade_side="leave-out", allow_no_trades=True)
    assert len(rows) == 3


def test_a_capture_most_of_which_is_refused_is_an_error_unless_told(tmp_path: Path) -> None:
    path = plain(tmp_path, *["trade,buy,x,1,"] * 9, "trade,buy,100,1,")
    with pytest.raises(CaptureError, match=r"9 rows cannot be used and 4 can: add --allow-refused .*x.csv:4"):
        take(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    rows, report = take(path, tmp_path / "store", allow_refused=True)
    assert (rows["kind"] == TRADE).sum() == 1
    assert report.counts == {"bad-value": 9}


# Decimals.


@pytest.mark.parametrize(
    ("tick", "size", "kind"),
    [("0.000000001", "1", "csv"), ("0.1", "0.0000000001", "csv"), ("1e-9", "1e-10", "parquet")],
)
def test_prices_and_sizes_have_decimals_of_their_own(tick: str, size: str, kind: str, tmp_path: Path) -> None:
    scale = float(tick)
    prices = [f"{(12_000 + place % 7) * scale:.10f}" for place in range(30)]
    rows = [f"trade,buy,{price},{size},{place}" for place, price in enumerate(prices)]
    path = plain(tmp_path, *rows, bid=f"{11_999 * scale:.10f}", ask=f"{12_010 * scale:.10f}")
    if kind == "parquet":
        import pyarrow.csv
        import pyarrow.parquet as pq

        pq.write_table(pyarrow.csv.read_csv(path), tmp_path / "x.parquet")
        path = tmp_path / "x.parquet"
    stored, report = take(path, tmp_path / "store", lot_size=size, strict=True)
    [tape] = tapes(tmp_path / "store")
    assert float(tape.info.tick_size) == scale
    assert tape.info.lot_size == f"{float(size):.10f}".rstrip("0").rstrip(".")
    trades = stored[stored["kind"] == TRADE]
    assert trades["price"].tolist() == [12_000 + place % 7 for place in range(30)]
    assert set(trades["size"]) == {1}
    assert not report.counts


def test_one_price_of_more_decimals_does_not_change_how_all_are_read(tmp_path: Path) -> None:
    rows = [f"trade,buy,100.{place % 9},1,{place}" for place in range(2_000)]
    rows[70] = "trade,buy,100.1234567891,1,70"
    stored, report = take(plain(tmp_path, *rows), tmp_path / "store")
    assert report.counts == {"bad-value": 1}
    assert "more than 8 decimal places" in str(report)
    assert (stored["kind"] == TRADE).sum() == 1_999


def test_a_quote_far_from_all_trades_is_part_of_the_book(tmp_path: Path) -> None:
    rows, _ = take(plain(tmp_path, "trade,buy,13.10,1,1", bid="5.51", ask="21.33"), tmp_path / "store")
    assert books(rows)[0][1] == {("B", 551): 1, ("A", 2133): 1}


# Symbols and kinds of messages.


def aggregated(lines: list[str]) -> tuple[list[str], int]:
    """The trades of a capture as aggregated ones, of one trade each; and how many there are."""
    found, number = [], 0
    for line in lines:
        stamp, payload = line.split(" ", 1)
        message = json.loads(payload)
        data = message.get("data", message)
        if data.get("e") == "trade":
            number += 1
            data |= {"e": "aggTrade", "a": number, "f": data["t"], "l": data["t"]}
            del data["t"]
        found.append(f"{stamp} {json.dumps(message, separators=(',', ':'))}")
    return found, number


def test_aggregated_trades_serve_where_there_are_no_others(tmp_path: Path) -> None:
    lines = captures.market(seconds=8, seed=3).lines
    other, _ = aggregated(lines)
    whole, _ = run("binance", [captures.write(tmp_path / "a.gz", lines)], tmp_path / "a")
    tape, report = run("binance", [captures.write(tmp_path / "b.gz", other)], tmp_path / "b", strict=True)
    assert rows_of(tape).tobytes() == rows_of(whole).tobytes()
    assert not report.counts
    # Beside the trades themselves they are left out, whichever of the two comes first.
    for name, pairs in (("c", zip(lines, other, strict=True)), ("d", zip(other, lines, strict=True))):
        both = [line for pair in pairs for line in dict.fromkeys(pair)]
        path = captures.write(tmp_path / f"{name}.gz", both)
        tape, report = run("binance", [path], tmp_path / name, strict=True)
        assert traded(rows_of(tape)) == traded(rows_of(whole))
        assert not report.counts
        assert any("aggTrade" in text for text in report.tally)


def test_every_kind_of_message_is_read_or_counted(tmp_path: Path) -> None:
    lines = captures.market(seconds=6, seed=3).lines
    kinds = {"markPriceUpdate": 3, "forceOrder": 2, "kline": 1}
    at = len(lines) // 2
    stamp = lines[at].split()[0]
    extra = [
        f'{stamp} {{"stream":"btcusdt@x","data":{{"e":"{kind}","E":1,"s":"BTCUSDT"}}}}'
        for kind, count in kinds.items()
        for _ in range(count)
    ]
    partial = lines[at].replace("@depth@0ms", "@depth20@100ms")
    diff = next(line for line in lines[at:] if "depthUpdate" in line)
    extra.append(f"{stamp} {diff.split(' ', 1)[1].replace('@depth@', '@depth20@')}")
    assert partial
    whole, _ = run("binance", [captures.write(tmp_path / "a.gz", lines)], tmp_path / "a")
    path = captures.write(tmp_path / "b.gz", [*lines[:at], *extra, *lines[at:]])
    tape, report = run("binance", [path], tmp_path / "b", strict=True)
    assert rows_of(tape).tobytes() == rows_of(whole).tobytes()
    told = {text.removesuffix(" message, not used"): count for text, count in report.tally.items()}
    assert {name: told[name] for name in kinds} == kinds
    assert told["partial depth"] == 1


def two_symbols() -> tuple[list[str], dict[str, list[str]]]:
    """Two captures in one, and each: of other prices, and of snapshots that do not say whose they are."""
    apart = {"BTCUSDT": captures.market(seconds=8, seed=3).lines}
    other = captures.market(seconds=8, seed=4)
    lines = [line.replace("BTCUSDT", "ETHUSDT").replace("btcusdt", "ethusdt") for line in other.lines]
    for key in ('["', '"p":"', '"b":"', '"a":"'):
        lines = [line.replace(key, f"{key}1") for line in lines]
    apart["ETHUSDT"] = lines
    together = sorted(
        (line for lines in apart.values() for line in lines), key=lambda line: int(line.split()[0])
    )
    return together, apart


def test_a_symbol_is_chosen_from_a_combined_stream_and_all_are_imported(tmp_path: Path) -> None:
    together, apart = two_symbols()
    path = captures.write(tmp_path / "both.gz", together)
    expected = {}
    for symbol, lines in apart.items():
        alone, _ = run("binance", [captures.write(tmp_path / f"{symbol}.gz", lines)], tmp_path / "alone")
        expected[symbol] = rows_of(alone)
        chosen, report = run("binance", [path], tmp_path / "one", symbol=symbol, strict=True)
        assert rows_of(chosen).tobytes() == expected[symbol].tobytes()
        assert sum(count for text, count in report.tally.items() if "USDT" in text) > 100
    Import("binance", (path,), tmp_path / "all", symbol="all", progress=False).run()
    assert {one.info.symbol: rows_of(one).tobytes() for one in tapes(tmp_path / "all")} == {
        symbol: rows.tobytes() for symbol, rows in expected.items()
    }
    with pytest.raises(CaptureError, match="with --symbol: BTCUSDT, ETHUSDT; or --symbol all"):
        run("binance", [path], tmp_path / "none")
    with pytest.raises(CaptureError, match="'X' is not possible: the files hold BTCUSDT, ETHUSDT"):
        run("binance", [path], tmp_path / "none", symbol="X")


@pytest.mark.parametrize("name", ["plain", "tardis"])
def test_all_symbols_of_a_table(name: str, tmp_path: Path) -> None:
    market = Market(seed=3)
    if name == "plain":
        lines = orders.plain(market)
        files = {"x.csv": [*lines, *(line.replace("X,", "Y,", 1) for line in lines[1:])]}
        files["x.csv"][1:] = sorted(files["x.csv"][1:], key=lambda line: line.split(",")[2])
        symbols = ["X", "Y"]
    else:
        symbols = ["BTCUSDT", "ETHUSDT"]
        pairs = [orders.tardis(market, symbol=symbol) for symbol in symbols]
        files = {
            each: [one[0], *sorted([*one[1:], *other[1:]], key=lambda line: line.split(",")[3])]
            for each, one, other in zip(("book.csv", "trades.csv"), *pairs, strict=True)
        }
    paths = [write_lines(tmp_path / each, lines) for each, lines in files.items()]
    Import(name, tuple(paths), tmp_path / "store", venue="v", symbol="all", strict=True, progress=False).run()
    found = tapes(tmp_path / "store")
    assert [one.info.symbol for one in found] == symbols
    assert rows_of(found[0])["price"].tolist() == rows_of(found[1])["price"].tolist()


# Files as they come.


@pytest.mark.parametrize("kind", ["mark", "crlf", "no end", "header again", "zip", "xz", "bz2", "gz"])
def test_files_as_they_come(kind: str, tmp_path: Path) -> None:
    lines = orders.plain(Market(seed=3))
    whole, _ = run("plain", [write_lines(tmp_path / "x.csv", lines)], tmp_path / "whole", venue="v")
    data = "".join(line + "\n" for line in lines).encode()
    if kind == "header again":
        half = len(lines) // 2
        data = "".join(line + "\n" for line in [*lines[:half], lines[0], *lines[half:]]).encode()
    changed = {
        "mark": b"\xef\xbb\xbf" + data,
        "crlf": data.replace(b"\n", b"\r\n"),
        "no end": data.rstrip(b"\n"),
        "xz": lzma.compress(data),
        "bz2": bz2.compress(data),
        "gz": gzip.compress(data[:5_000]) + gzip.compress(data[5_000:]),
    }
    path = tmp_path / "y.csv"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.csv", data)
    else:
        path.write_bytes(changed.get(kind, data))
    tape, report = run("plain", [path], tmp_path / "store", venue="v", strict=True)
    assert rows_of(tape).tobytes() == rows_of(whole).tobytes()
    assert report.tally["line that names the columns again, left out"] == (kind == "header again")


def test_a_capture_with_carriage_returns(tmp_path: Path) -> None:
    lines = captures.market(seconds=6, seed=3).lines
    whole, _ = run("binance", [captures.write(tmp_path / "a", lines)], tmp_path / "a-store")
    path = captures.write(tmp_path / "b", [f"{line}\r" for line in lines], compress=False)
    tape, _ = run("binance", [path], tmp_path / "b-store", strict=True)
    assert rows_of(tape).tobytes() == rows_of(whole).tobytes()


@pytest.mark.parametrize("headers", [(0, 0), (1, 0), (1, 1)])
def test_parts_of_a_day_and_days_beside_a_change_of_the_clocks(
    headers: tuple[int, int], tmp_path: Path
) -> None:
    """New York went to summer time on Sunday, 2012-03-11: the same time of day is an hour earlier in UTC."""
    market = Market(seed=3)
    midnight = orders.NEW_YORK_MIDNIGHT_NS
    messages, rows, _ = orders.lobster(market, 4, midnight)
    half = len(messages) // 2
    names = "time,type,order,size,price,direction", "a,b"
    paths = []
    for day in ("2012-03-12", "2012-03-09"):
        for begin, part in ((1_000, slice(half, None)), (0, slice(0, half))):
            for kind, lines, name, header in zip(
                ("message", "orderbook"), (messages, rows), names, headers, strict=True
            ):
                path = tmp_path / f"A_{day}_{begin}_{begin + 9}_{kind}_4.csv"
                paths.append(write_lines(path, [name] * header + lines[part]))
    Import("lobster", tuple(paths), tmp_path / "store", progress=False, strict=True).run()
    friday, monday = tapes(tmp_path / "store")
    assert (friday.info.day, monday.info.day) == ("2012-03-09", "2012-03-12")
    hour = 3_600 * 10**9
    assert monday.info.first_ns - friday.info.first_ns == 3 * 24 * hour - hour
    assert traded(rows_of(monday)) == [(ns + 71 * hour, *rest) for ns, *rest in traded(rows_of(friday))]
    assert len(traded(rows_of(friday))) == len(orders.trades(market))
