"""The live feed and the recorder: the rows of the store, or a mark; never a wrong book unmarked."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ccxt.pro", reason="live markets need ccxt")

from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data.formats.binance_decoder import Decoder
from mmenv.data.importer import Import
from mmenv.data.problems import Report
from mmenv.data.rows import BBO, CLEAR, DEPTH, SNAPSHOT, TRADE, CaptureError
from mmenv.data.source import Source
from mmenv.data.tape import Tape, tapes
from mmenv.exchange.exchange import Exchange
from mmenv.exchange.faults import STREAM, Fault, Faults
from mmenv.exchange.loopback import Loopback
from mmenv.exchange.server import Server
from mmenv.live.market_feed import Batch
from mmenv.live.recorder import Captures
from mmenv.live.venues.binance.client import BinanceClient
from mmenv.live.venues.binance.feed import BinanceFeed
from mmenv.live.venues.binance.market import USDM
from tests.helpers.captures import write
from tests.helpers.exchanges import (
    SECOND,
    START_NS,
    VENUES,
    Levels,
    apply,
    books,
    exchange,
    on_virtual_time,
    tape,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tape]:
    folder = tmp_path_factory.mktemp("stores")
    return {venue: tape(folder, venue) for venue in VENUES}


def listen(venue: Exchange, seconds: float, lines: list[str] | None = None) -> list[tuple[float, Batch]]:
    """All batches of the only symbol, with the time on the virtual clock."""

    def keep(local_ns: int, message: bytes) -> None:
        if lines is not None:
            lines.append(f"{local_ns} {message.decode()}")

    async def session(carrier: Loopback) -> list[tuple[float, Batch]]:
        [(name, symbol)] = venue.listings
        feed = BinanceFeed(carrier.client(name), symbol, keep=keep)
        found = []

        async def read() -> None:
            async for batch in feed:
                found.append((carrier.loop.time(), batch))

        reading = asyncio.create_task(read())
        await asyncio.sleep(seconds)
        await feed.close()
        await reading
        return found

    return on_virtual_time(venue, session)


@pytest.mark.parametrize("venue", VENUES)
def test_live_rows_are_those_of_the_tape_and_of_the_importer(
    recorded: dict[str, Tape], tmp_path: Path, venue: str
) -> None:
    found = recorded[venue]
    lines: list[str] = []
    batches = listen(exchange(found), 22.0, lines)
    rows = np.concatenate([batch.rows for _, batch in batches])
    assert rows["kind"][0] == CLEAR
    original = np.concatenate(list(found.rows()))
    for kind in (TRADE, BBO):
        mine, theirs = rows[rows["kind"] == kind], original[original["kind"] == kind]
        theirs = theirs[theirs["id"] >= mine["id"][0]]
        theirs = theirs[np.argsort(theirs["id"], kind="stable")]
        for name in ("id", "side", "price", "size"):
            np.testing.assert_array_equal(mine[name], theirs[name])
        assert len(mine) > 300
    book: Levels = {}
    truth = books(found)
    updates = rows[np.isin(rows["kind"], (CLEAR, SNAPSHOT, DEPTH))]
    groups = np.split(updates, np.flatnonzero(np.diff(updates["id"])) + 1)
    assert len(groups) > 150
    for group in groups:
        apply(book, group)
        assert book == truth[int(group["id"][0])]
    problems = [problem.kind for _, batch in batches for problem in batch.problems]
    assert not problems
    path = write(tmp_path / "kept.gz", lines)
    Import(
        "binance", (path,), tmp_path / "store", strict=True, progress=False,
        tick_size=found.info.tick_size, lot_size=found.info.lot_size, clock_offset_ns=0,
    ).run()  # fmt: skip
    [imported] = tapes(tmp_path / "store")
    again = np.concatenate(list(imported.rows()))
    assert again.tobytes() == rows.tobytes()


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("kind", [*STREAM, "break", "lose", "random"])
def test_a_book_called_live_is_the_exchanges(recorded: dict[str, Tape], venue: str, kind: str) -> None:
    """Whatever happens to the messages; and once it is over the book is live again."""
    found = recorded[venue]
    truth = books(found)
    if kind == "random":
        faults = Faults.random(5, 15 * SECOND, count=12)
    else:
        faults = Faults(
            [
                Fault(
                    kind=kind, start_ns=at * SECOND, duration_ns=2 * SECOND, amount_ns=SECOND // 5,
                    probability=1.0 if kind in ("silence", "break") else 0.2,
                )
                for at in (3, 8)
            ],
            seed=3,
        )  # fmt: skip
    batches = listen(exchange(found, faults), 19.0)
    book: Levels = {}
    checked = broken = 0
    for _, batch in batches:
        apply(book, batch.rows)
        numbers = batch.rows["id"][np.isin(batch.rows["kind"], (SNAPSHOT, DEPTH))]
        if len(numbers) and batch.live:
            assert book == truth[int(numbers[-1])]
            checked += 1
        broken += not batch.live
    assert checked > 100
    assert batches[-1][1].live
    if kind in ("drop", "reorder", "half", "break"):
        assert broken > 1


@pytest.mark.parametrize("down_s", [0.05, 0.9, 7.3])
def test_live_again_within_two_seconds_of_the_feeds_return(recorded: dict[str, Tape], down_s: float) -> None:
    faults = Faults([Fault(kind="break", start_ns=5 * SECOND, duration_ns=int(down_s * SECOND))])
    batches = listen(exchange(recorded["binance-usdm"], faults), 19.0)
    back = [at for at, batch in batches if batch.live and at > 5.0 + down_s]
    assert 5.0 + down_s < back[0] < 7.0 + down_s
    assert any(not batch.live and at < 5.1 for at, batch in batches)


def test_half_a_message_breaks_the_book_at_once() -> None:
    """Not only when the next one does not follow."""

    async def session() -> Batch | None:
        client = BinanceClient(USDM)
        feed = BinanceFeed(client, "BTCUSDT")
        feed.received('{"lastUpdateId":7,"bids":[["1","1"]],"asks":[["2","1"]]}')
        before = feed.take()
        assert before is not None
        assert before.live
        feed.received('{"e":"depthUpdate","E":18000')
        batch = feed.take()
        await feed.close()
        await client.close()
        return batch

    batch = asyncio.run(session())
    assert batch is not None
    assert not batch.live
    assert [problem.kind for problem in batch.problems] == ["bad-line"]


def test_what_cannot_wait_comes_between_two_messages(recorded: dict[str, Tape]) -> None:
    """The alarm goes off before the first message from its time on is decoded: `take` then has all that came
    before, and no row of it is missing or told twice."""
    venue = exchange(recorded["binance-usdm"])

    async def session(carrier: Loopback) -> tuple[list[Batch], list[int]]:
        feed = BinanceFeed(carrier.client("binance-usdm"), "BTCUSDT")
        batches: list[Batch] = []
        woken: list[int] = []

        def alarm(local_ns: int) -> None:
            assert local_ns >= feed.alarm_ns
            woken.append(local_ns)
            feed.alarm_ns = local_ns + SECOND // 10
            if (batch := feed.take()) is not None:
                assert (batch.rows["local_ns"] <= local_ns).all()
                batches.append(batch)

        feed.alarm, feed.alarm_ns = alarm, START_NS + SECOND

        async def read() -> None:
            async for batch in feed:
                assert not woken or (batch.rows["local_ns"] >= woken[-1]).all()
                batches.append(batch)

        reading = asyncio.create_task(read())
        await asyncio.sleep(6.0)
        await feed.close()
        await reading
        return batches, woken

    batches, woken = on_virtual_time(venue, session)
    assert len(woken) > 40
    rows = np.concatenate([batch.rows for batch in batches])
    plain = np.concatenate([b.rows for _, b in listen(exchange(recorded["binance-usdm"]), 6.0)])
    assert rows.tobytes() == plain[: len(rows)].tobytes()
    assert len(rows) > 500


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_decoder_called_valid_has_the_true_book(data: st.DataObject) -> None:
    """Any loss, repetition and order of diffs, and snapshots of any moment at any moment."""
    spot = data.draw(st.booleans())
    decoder = Decoder(Source("binance-spot" if spot else "binance-usdm", "X"), Report())
    truth: dict[int, Levels] = {0: {}}
    messages, update, book = [], 0, {}
    for _ in range(12):
        last = update + data.draw(st.integers(1, 3))
        tick, lots = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
        message = {"e": "depthUpdate", "E": 1, "s": "X", "U": update + 1, "u": last}
        message |= {} if spot else {"T": 1, "pu": update}
        messages.append(message | {"b": [[str(tick), str(lots)]], "a": []})
        book = {key: size for key, size in {**book, (1, tick): lots}.items() if size}
        for number in range(update + 1, last):
            # Within a message only its end is known.
            truth[number] = truth[update]
        truth[last], update = book, last
    held: Levels = {}
    at = 0
    for _ in range(30):
        act = data.draw(st.sampled_from(["next", "next", "next", "skip", "repeat", "snapshot", "old"]))
        if act == "next" and at < 12:
            decoder.message(1, messages[at])
            at += 1
        elif act == "skip" and at < 12:
            at += 1
        elif act == "repeat" and at:
            decoder.message(1, messages[at - 1])
        elif act in ("snapshot", "old"):
            known = sorted({0} | {message["u"] for message in messages})
            number = data.draw(st.sampled_from(known if act == "old" else known[max(at - 1, 0) :]))
            bids = [[str(tick), str(lots)] for (_, tick), lots in truth[number].items()]
            decoder.message(1, {"lastUpdateId": number, "bids": bids, "asks": []})
        rows = decoder.flush()
        rows["price"] //= 10**8
        rows["size"] //= 10**8
        apply(held, rows)
        if decoder.valid:
            assert held == truth[decoder.last_update]


class Served:
    """An exchange on loopback in a thread of its own."""

    def __init__(self, venue: Exchange) -> None:
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(venue)), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self, venue: Exchange) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Server(venue) as server:
            self.url = server.url
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Served, Tape]]:
    found = tape(tmp_path, "binance-usdm", seconds=120.0, seed=2)
    venue = exchange(found, start_ns=time.time_ns())
    server = Served(venue)
    yield server, found
    server.close()


def test_a_killed_recorder_goes_on_and_the_gap_is_marked(served: tuple[Served, Tape], tmp_path: Path) -> None:
    server, found = served
    store = tmp_path / "recorded"
    folder = store / "captures" / "venue=binance-usdm" / "symbol=BTCUSDT"
    command = [
        sys.executable, "-m", "mmenv.live.recorder", "binance-usdm", "BTCUSDT", "-o", str(store),
        "--url", server.url, "--no-progress",
    ]  # fmt: skip

    def start_and_wait_for_lines() -> subprocess.Popen[bytes]:
        before = set(folder.glob("*.part"))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            new = set(folder.glob("*.part")) - before
            if any(part.read_bytes().count(b"\n") > 60 for part in new):
                return process
            time.sleep(0.05)
        raise AssertionError("the recorder ended by itself")

    process = start_and_wait_for_lines()
    with pytest.raises(CaptureError, match="another recorder writes here"):
        Captures(store, "binance-usdm", "BTCUSDT")
    process.send_signal(signal.SIGKILL)
    process.wait()
    [left] = folder.glob("*.part")
    with left.open("ab") as lines:
        lines.write(b'1723 {"e":"tra')
    process = start_and_wait_for_lines()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    packed = sorted(folder.glob("*.gz"))
    assert len(packed) == 2
    assert not list(folder.glob("*.part"))
    assert not gzip.decompress(packed[0].read_bytes()).endswith(b"tra")
    [made] = tapes(store)
    assert not made.info.book_complete
    [report] = folder.glob("*.report")
    assert "sequence-gap" in report.read_text()
    assert (made.info.tick_size, made.info.lot_size) == (found.info.tick_size, found.info.lot_size)
    rows = np.concatenate(list(made.rows()))
    restart_ns = int(gzip.decompress(packed[1].read_bytes()).split(b" ", 1)[0])
    again = np.flatnonzero(rows["kind"] == CLEAR)[1]
    book: Levels = {}
    truth = books(found)
    for part in (rows[rows["local_ns"] < restart_ns], rows[again:]):
        apply(book, part)
        assert book == truth[int(part["id"][part["kind"] == DEPTH][-1])]


def test_captures_rotate_by_time_and_by_day(tmp_path: Path) -> None:
    hour = 3_600 * SECOND
    midnight = (START_NS // (24 * hour) + 1) * 24 * hour
    with Captures(tmp_path, "binance-usdm", "X", rotate_ns=5 * hour) as captures:
        for at in (midnight - 3 * hour, midnight - 1, midnight, midnight + 1, midnight + 6 * hour):
            captures.keep(at, b"{}")
    files = sorted(captures.folder.glob("*.gz"))
    lines = [gzip.decompress(path.read_bytes()).count(b"\n") for path in files]
    assert sum(lines) == 5
    days = {path.name[:10] for path in files}
    for path in files:
        stamps = [int(line.split()[0]) for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert len({stamp // (24 * hour) for stamp in stamps}) == 1
        assert max(stamps) - min(stamps) < 5 * hour
    assert len(days) == 2
    assert not [name for name in os.listdir(captures.folder) if name.endswith((".part", ".tmp"))]
