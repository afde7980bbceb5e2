"""Binance captures into the store: what was sent is what is stored, and every fault is named."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmenv.data import lines, spool, tape
from mmenv.data.events import open_replay
from mmenv.data.formats import binance
from mmenv.data.formats.base import ImportOptions
from mmenv.data.formats.binance import Binance
from mmenv.data.formats.binance_decoder import Decoder
from mmenv.data.formats.binance_scan import MESSAGE, scan
from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.data.rows import TRADE, CaptureError, SeveralSymbols
from mmenv.data.source import Source
from mmenv.data.tape import Tape, TapeError
from mmenv.times import MILLISECOND
from tests.helpers.captures import MIDNIGHT_NS, OFFSET_NS, Market, market, write
from tests.helpers.fuzz import JSON, json_places, with_json
from tests.helpers.imports import books, rows_of

VENUES = ("usdm", "coinm", "spot")


def import_lines(folder: Path, lines: list[str], **options: object) -> tuple[list[Tape], Report]:
    path = write(folder / "capture.gz", lines)
    [(found, report)] = Import("binance", (path,), folder / "store", progress=False, **options).run()  # type: ignore[arg-type]
    return found, report


def books_of(rows: np.ndarray) -> list[tuple[int, dict[tuple[str, int], int]]]:
    """Exchange time and book after each message."""
    return books(rows, "exch_ns", "ba")


@pytest.mark.parametrize("venue", VENUES)
def test_the_tape_holds_what_was_sent(tmp_path: Path, venue: str) -> None:
    sent = market(venue=venue, seed=1)
    [found], report = import_lines(tmp_path, sent.lines, strict=True)
    info = found.info
    assert (info.venue, info.symbol, info.day) == (f"binance-{venue}", sent.symbol, "2024-08-09")
    assert (info.tick_size, info.lot_size) == ("0.1", "1" if venue == "coinm" else "0.001")
    assert info.clock_offset_ns == OFFSET_NS
    assert info.book_complete
    assert not report.counts
    rows = rows_of(found)
    expected = [(exch, book) for exch, _, book in sent.books[sent.first_diff :]]
    assert books_of(rows) == expected
    trades = rows[rows["kind"] == TRADE]
    stored = [(int(t["exch_ns"]), int(t["side"]), int(t["price"]), int(t["size"])) for t in trades]
    assert stored == sent.trades[-len(stored) :]
    assert len(stored) > 50
    assert (np.diff(rows["local_ns"]) >= 0).all()


def test_the_late_snapshot_would_be_wrong_where_it_arrives(tmp_path: Path) -> None:
    """The placement matters in these captures: replacing the book on arrival gives another one."""
    sent = market(seed=1)
    payload = json.loads(sent.lines[sent.snapshot_line - 1].split(" ", 1)[1])
    arrived = {("b", round(float(p) * 10)): round(float(q) * 1000) for p, q in payload["bids"]}
    truth = {key: lots for key, lots in sent.books[sent.first_diff][2].items() if key[0] == "b"}
    assert arrived != truth


@pytest.mark.parametrize("venue", VENUES)
def test_chunks_do_not_show(tmp_path: Path, venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = market(seconds=5, venue=venue, seed=2)
    [whole], _ = import_lines(tmp_path, sent.lines)
    whole_replay = open_replay(whole, 0)
    monkeypatch.setattr(binance, "BLOCK_BYTES", 50)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 99)
    monkeypatch.setattr(spool, "SPOOL_ROWS", 5)
    monkeypatch.setattr(tape, "BATCH_ROWS", 7)
    (tmp_path / "again").mkdir()
    [pieces], _ = import_lines(tmp_path / "again", sent.lines)
    assert (rows_of(pieces) == rows_of(whole)).all()
    replay = open_replay(pieces, 0)
    assert (replay.events == whole_replay.events).all()
    assert (replay.levels == whole_replay.levels).all()
    assert (replay.rows == whole_replay.rows).all()


def without_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.zeros(0, MESSAGE), np.zeros(0, np.int64)
    monkeypatch.setattr(binance, "scan", lambda text, at, symbol, state: (at, *nothing))


@pytest.mark.parametrize("venue", VENUES)
def test_the_compiled_decoder_says_what_the_other_says(
    venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and problems of captures with a hundred bytes changed at random, line by line and compiled."""
    sent = market(seconds=8, venue=venue, seed=12)
    rng = np.random.default_rng(3)
    clean = [line.encode() for line in sent.lines]
    changed = list(clean)
    for line in rng.integers(len(clean) // 4, len(clean), 150):
        data = bytearray(clean[line])
        data[rng.integers(len(data))] = rng.choice(list(b'0123456789",:[]{}aABbmTtuUe.- x\\'))
        # A capture of two symbols is refused as a whole.
        changed[line] = bytes(data) if b'"s":"' + sent.symbol.encode() in data else clean[line]
    results = []
    for number, scanned in enumerate((True, False)):
        if not scanned:
            without_scan(monkeypatch)
        for name, sent_lines in (("clean", clean), ("changed", changed)):
            path = tmp_path / f"{name}.txt"
            path.write_bytes(b"\n".join(sent_lines))
            [found] = Binance.open([path], ImportOptions())
            report = Report(found.names, keep=1000)
            rows = np.concatenate(list(found.chunks(report)))
            results.append((rows.tobytes(), [str(problem) for problem in report.problems], number))
    assert [result[:2] for result in results[:2]] == [result[:2] for result in results[2:]]
    assert len(results[1][1]) > 20


def test_the_compiled_decoder_reads_almost_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = market(seconds=8, seed=12)
    slow = []
    monkeypatch.setattr(Decoder, "message", lambda *_: slow.append(1) or message(*_))
    import_lines(tmp_path, sent.lines)
    assert len(slow) <= sent.snapshot_line + 5


message = Decoder.message


def test_two_files_of_one_recording_are_one_tape(tmp_path: Path) -> None:
    sent = market(seed=3)
    [whole], _ = import_lines(tmp_path, sent.lines)
    half = len(sent.lines) // 2
    parts = (
        write(tmp_path / "b.gz", sent.lines[half:]),
        write(tmp_path / "a", sent.lines[:half], compress=False),
    )
    [([joined], report)] = Import("binance", parts, tmp_path / "two", progress=False).run()
    assert not report.counts
    assert (rows_of(joined) == rows_of(whole)).all()


def test_each_day_begins_with_the_book_of_midnight(tmp_path: Path) -> None:
    sent = market(seed=4, start_ns=MIDNIGHT_NS + OFFSET_NS - 10_000_000_000)
    found, _ = import_lines(tmp_path, sent.lines)
    assert [one.info.day for one in found] == ["2024-08-08", "2024-08-09"]
    evening, morning = (books_of(rows_of(one)) for one in found)
    truth = [book for _, _, book in sent.books[sent.first_diff :]]
    assert [book for _, book in evening] == truth[: len(evening)]
    assert [book for _, book in morning] == truth[len(evening) - 1 :]


def edit(
    number: int, change: Callable[[dict], object], kind: str
) -> Callable[[Market], tuple[list[str], int]]:
    """Change the message of the `number`-th line of `kind` after the snapshot."""

    def apply(sent: Market) -> tuple[list[str], int]:
        lines = list(sent.lines)
        at = [i for i in range(sent.snapshot_line, len(lines)) if f'"e":"{kind}"' in lines[i]][number]
        stamp, payload = lines[at].split(" ", 1)
        message = json.loads(payload)
        change(message["data"])
        lines[at] = f"{stamp} {json.dumps(message)}"
        return lines, at + 1

    return apply


def drop(number: int, kind: str, again: bool = False) -> Callable[[Market], tuple[list[str], int]]:
    """Leave out the `number`-th line of `kind`, or send it twice; found at the next one of the kind."""

    def apply(sent: Market) -> tuple[list[str], int]:
        lines = list(sent.lines)
        found = [i for i in range(sent.snapshot_line, len(lines)) if f'"e":"{kind}"' in lines[i]]
        if again:
            return lines[: found[number] + 1] + lines[found[number] :], found[number] + 2
        return lines[: found[number]] + lines[found[number] + 1 :], found[number + 1]

    return apply


def half_a_line(sent: Market) -> tuple[list[str], int]:
    return [*sent.lines[:-1], sent.lines[-1][:60]], len(sent.lines)


def local_clock_back(sent: Market) -> tuple[list[str], int]:
    lines = list(sent.lines)
    stamp, payload = lines[-1].split(" ", 1)
    return [*lines[:-1], f"{int(stamp) - 10**9} {payload}"], len(lines)


def no_snapshot(sent: Market) -> tuple[list[str], int]:
    lines = [line for line in sent.lines if "lastUpdateId" not in line]
    return lines, len(lines)


def crossed(data: dict) -> None:
    data["b"] = [["620.00", "0.001"]]


def crossed_from_afar(data: dict) -> None:
    data["b"] = [["9000.00", "0.001"]]


FAULTS = {
    "sequence-gap": drop(5, "depthUpdate"),
    "duplicate-update": drop(5, "depthUpdate", again=True),
    "trade-gap": drop(5, "trade"),
    "duplicate-trade": drop(5, "trade", again=True),
    "bad-value negative price": edit(5, lambda d: d.update(p="-600.00"), "trade"),
    "bad-value negative size": edit(5, lambda d: d["b"].append(["600.00", "-1.000"]), "depthUpdate"),
    "bad-value zero trade": edit(5, lambda d: d.update(q="0.000"), "trade"),
    "bad-value text": edit(5, lambda d: d.update(p="6x2"), "trade"),
    "off-grid": edit(5, lambda d: d.update(p="600.05"), "trade"),
    "bad-message": edit(5, lambda d: d.pop("u"), "depthUpdate"),
    "bad-message level": edit(5, lambda d: d["b"].append([["600.00"], "1.000"]), "depthUpdate"),
    "bad-message number": edit(5, lambda d: d["b"].append([600.0, "1.000"]), "depthUpdate"),
    "bad-message line": edit(5, lambda d: d["b"].append(["600\n.00", "1.000"]), "depthUpdate"),
    "time-backwards exchange": edit(5, lambda d: d.update(T=d["T"] - 5000), "trade"),
    "time-backwards local": local_clock_back,
    "bad-line half": half_a_line,
    "missing-snapshot": no_snapshot,
    "crossed-book": edit(5, crossed, "depthUpdate"),
    "crossed-book afar": edit(5, crossed_from_afar, "depthUpdate"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_reported_where_it_is_and_refused_when_strict(tmp_path: Path, fault: str) -> None:
    lines, number = FAULTS[fault](market(seed=5))
    kind = fault.split()[0]
    found, report = import_lines(tmp_path, lines, tick_size="0.1")
    assert kind in report.counts, str(report)
    assert any(problem.kind == kind and problem.line == number for problem in report.problems), str(report)
    assert found[0].info.book_complete == (kind not in ("sequence-gap", "missing-snapshot", "bad-message"))
    assert all(bid < ask for bid, ask in bests(rows_of(found[0])))
    (tmp_path / "strict").mkdir()
    with pytest.raises(CaptureError, match=rf"capture.gz:{number} .*{kind}.*--strict"):
        import_lines(tmp_path / "strict", lines, tick_size="0.1", strict=True)
    assert not list((tmp_path / "strict" / "store").rglob("*"))


def test_a_stray_price_does_not_make_the_inferred_tick_finer(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mmenv.data.spool.STEP_ROWS", 5)
    lines, number = FAULTS["off-grid"](market(seed=5))
    found, report = import_lines(tmp_path, lines)
    assert found[0].info.tick_size == "0.1"
    assert [(problem.kind, problem.line) for problem in report.problems] == [("off-grid", number)]


def first_of_each_kind(lines: list[str]) -> dict[str, dict]:
    """The first message of each kind that there is; aggregated trades are made of trades."""
    parts = {"trade": '@trade"', "depth": '@depth@0ms"', "ticker": '@bookTicker"', "snapshot": "lastUpdateId"}
    found = {
        kind: json.loads(line.split(" ", 1)[1])
        for kind, part in parts.items()
        for line in [line for line in lines if part in line][:1]
    }
    trade = found["trade"]["data"]
    found["aggregate"] = {"data": {**trade, "e": "aggTrade", "f": trade["t"], "l": trade["t"]}}
    return found


def spoilt_json(message: dict, others: tuple) -> Iterator[tuple]:
    """Place, value and message for each value in place of each other one; of a list, of the first."""
    for place, other in itertools.product(json_places(message), others):
        if all(key == 0 or isinstance(key, str) for key in place):
            yield place, other, with_json(message, place, other)


def parsed(line: str) -> tuple[int, Any]:
    stamp, text = line.split(" ", 1)
    return int(stamp), json.loads(text)


def decoder_of(venue: str, report: Report, before: list[tuple[int, Any]]) -> Decoder:
    """One that has read what came before."""
    decoder = Decoder(Source(f"binance-{venue}", "BTCUSDT"), report)
    for local_ns, message in before:
        decoder.message(local_ns, message)
    decoder.flush()
    assert not report.counts
    return decoder


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("venue", ["usdm", "spot"])
def test_whatever_json_a_message_holds_nothing_is_raised(venue: str, begun: bool) -> None:
    """Any JSON value in place of any other of a message of each kind, before the book begins and after."""
    sent = market(seconds=1, seed=4, venue=venue)
    # Aggregated trades are not read beside others.
    lines = [line for line in sent.lines[: sent.snapshot_line] if '@trade"' not in line]
    before = [parsed(line) for line in (lines if begun else lines[:-1])]
    for message in first_of_each_kind(sent.lines).values():
        for place, other, spoilt in spoilt_json(message, JSON):
            report = Report(["x"])
            decoder = decoder_of(venue, report, before)
            with suppress(SeveralSymbols):
                decoder.message(before[-1][0], spoilt)
            if place in [(), ("data",), ("stream",)] and type(other) in (int, float, list, type(None), bool):
                assert report.counts == {"bad-line": 1}, spoilt
            if not begun:
                decoder.start_without_snapshot()
            decoder.flush()
            decoder.get_state(1)


@pytest.mark.parametrize("venue", ["usdm", "spot"])
def test_of_any_json_the_compiled_decoder_reads_what_the_other_does(venue: str) -> None:
    sent = market(seconds=2, seed=4, venue=venue)
    cut = sent.snapshot_line + 15
    before, local_ns = [parsed(line) for line in sent.lines[:cut]], parsed(sent.lines[cut])[0]
    symbol = np.frombuffer(sent.symbol.encode(), np.uint8)
    # In nanoseconds of 64 bits this many milliseconds look like the next minute.
    wrapped = (1 << 64) // MILLISECOND + 1 + (local_ns + OFFSET_NS) // MILLISECOND + 60_000
    read = 0
    for message in first_of_each_kind(sent.lines[cut:]).values():
        for _, _, spoilt in spoilt_json(message, (*JSON, 10**18, wrapped)):
            text = json.dumps(spoilt, separators=(",", ":"))
            reports = Report(["x"]), Report(["x"])
            compiled, other = (decoder_of(venue, report, before) for report in reports)
            line = np.frombuffer(f"{local_ns} {text}\n".encode(), np.uint8)
            at, messages, values = scan(line, 0, symbol, state := compiled.get_state(1))
            if at:
                read += 1
                compiled.set_state(state)
                rows = compiled.keep_possible(messages, values)
                other.line = 1
                other.message(local_ns, spoilt)
                assert rows.tobytes() == other.flush().tobytes(), text
                assert reports[0].counts == reports[1].counts, text
                assert compiled.get_state(2) == other.get_state(2), text
    assert read > 50


def bests(rows: np.ndarray) -> list[tuple[int, int]]:
    found = []
    for _, book in books_of(rows):
        bids, asks = ([price for at, price in book if at == side] for side in "ba")
        if bids and asks:
            found.append((max(bids), min(asks)))
    assert found
    return found


def snapshot_after(sent: Market, lines: list[str], diff: int, late: int = 2) -> None:
    """Insert the REST snapshot of the book after diff number `diff`, arriving `late` diffs later."""
    exch_ns, _, book = sent.books[diff]
    update = 1000 + 5 * (diff + 1)
    data: dict = {"lastUpdateId": update, "T": exch_ns // 10**6}
    for name, side in (("bids", "b"), ("asks", "a")):
        data[name] = [[sent.text(price), sent.size(lots)] for (at, price), lots in book.items() if at == side]
    place = next(i for i, line in enumerate(lines) if f'"u":{update + 5 * late},' in line and '"U"' in line)
    lines.insert(place + 1, f"{lines[place].split(' ', 1)[0]} {json.dumps(data)}")


def test_a_snapshot_after_a_gap_repairs_the_book_unless_it_is_older(tmp_path: Path) -> None:
    sent = market(seed=6)
    lines, number = drop(50, "depthUpdate")(sent)
    gap = json.loads(lines[number - 1].split(" ", 1)[1])["data"]["pu"] // 5 - 201
    snapshot_after(sent, lines, gap - 3, late=6)
    snapshot_after(sent, lines, gap + 20)
    [found], report = import_lines(tmp_path, lines)
    assert report.counts == {"sequence-gap": 1, "stale-snapshot": 1}
    stored = dict(books_of(rows_of(found)))
    wrong = [exch for exch, _, book in sent.books[sent.first_diff :] if stored.get(exch) != book]
    assert wrong[0] == sent.books[gap][0]
    assert len(wrong) <= 25
    assert books_of(rows_of(found))[-1][1] == sent.books[-1][2]


def test_truncated_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    sent = market(seed=7)
    path = write(tmp_path / "cut.gz", sent.lines)
    path.write_bytes(path.read_bytes()[:-2000])
    [([found], report)] = Import("binance", (path,), tmp_path / "store", progress=False).run()
    assert report.counts == {"truncated": 1}
    assert books_of(rows_of(found))[0][1] == sent.books[sent.first_diff][2]
    with pytest.raises(CaptureError, match="truncated"):
        Import("binance", (path,), tmp_path / "strict", strict=True, progress=False).run()
    assert not list((tmp_path / "strict").rglob("*"))


def refused(tmp_path: Path, files: list[Path], match: str, **options: object) -> None:
    with pytest.raises((CaptureError, TapeError), match=match):
        Import("binance", tuple(files), tmp_path / "store", progress=False, **options).run()  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_what_cannot_be_imported_is_refused_with_a_sentence(tmp_path: Path) -> None:
    sent = market(seed=8)
    good = write(tmp_path / "good.gz", sent.lines)
    late = write(tmp_path / "late.gz", sent.lines[100:])
    refused(tmp_path, [good, late], "overlap")
    other = [line.replace('"s":"BTCUSDT"', '"s":"ETHUSDT"') for line in sent.lines[-50:]]
    refused(tmp_path, [write(tmp_path / "mixed.gz", sent.lines + other)], "choose one with --symbol")
    # A symbol of which there are tickers alone cannot be chosen, so it is not advised.
    tickers = [line for line in other if "bookTicker" in line]
    refused(
        tmp_path, [write(tmp_path / "t.gz", sent.lines + tickers)], "give --symbol BTCUSDT to leave it out"
    )
    refused(tmp_path, [write(tmp_path / "empty.gz", [])], "no Binance depth diff")
    refused(tmp_path, [tmp_path / "nowhere.gz"], "no such file")
    refused(tmp_path, [write(tmp_path / "text.gz", ["hello"] * 9)], "no Binance depth diff")
    refused(tmp_path, [], "no files")
    refused(tmp_path, [good], "--tick-size = 'x'", tick_size="x")
    refused(tmp_path, [good], "--lot-size = '-1'", lot_size="-1")
    refused(tmp_path, [good], "fit less than half", tick_size="0.3")
    no_values = [re.sub(r'"[0-9]+\.[0-9]+"', '"x"', line) for line in sent.lines]
    refused(tmp_path, [write(tmp_path / "values.gz", no_values)], "tick size")


@pytest.mark.skipif("NEURALMM_DATA" not in os.environ, reason="NEURALMM_DATA names no folder of captures")
@pytest.mark.parametrize(
    "name", ["usdm/btcusdt_20240808.gz", "cm/btcusd_perp_20240808.gz", "spot/btcusdt_20240808.gz"]
)
def test_real_captures_are_clean(tmp_path: Path, name: str) -> None:
    path = Path(os.environ["NEURALMM_DATA"]) / name
    if not path.exists():
        pytest.skip(f"no {name} in NEURALMM_DATA")
    with gzip.open(path, "rt") as file:
        lines = [line.rstrip("\n") for line in itertools.islice(file, 4000)]
    [found], report = import_lines(tmp_path, lines, strict=True)
    assert not report.counts
    assert found.info.book_complete
    assert {bid < ask for bid, ask in bests(rows_of(found))} == {True}
