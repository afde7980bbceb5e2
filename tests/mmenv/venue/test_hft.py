"""Replay through hftbacktest: the right market, fills that add up, and no misuse that harms."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmenv.data.book import FUSE_START, Book, fused, window
from mmenv.data.events import EVENT, open_replay
from mmenv.data.importer import Import
from mmenv.data.rows import BBO, BUY, CLEAR, ROW, TRADE
from mmenv.data.tape import Tape, TapeError, TapeInfo, TapeWriter, tapes
from tests.helpers.captures import Market, market, write

pytest.importorskip("hftbacktest", reason="the extra `replay` is not installed")

from mmenv.times import MILLISECOND, SECOND
from mmenv.venue import hft_calls
from mmenv.venue.hft import HftVenue
from mmenv.venue.settings import QUEUE_MODELS, ReplayConfig

SHORT = ReplayConfig(episode_ns=2 * SECOND, gap_ns=SECOND)
NO_QUOTES = np.zeros((1, 4), np.int64)


@pytest.fixture(scope="module")
def sent() -> Market:
    return market(seconds=30, seed=11)


@pytest.fixture(scope="module")
def recorded(sent: Market, tmp_path_factory: pytest.TempPathFactory) -> Tape:
    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", sent.lines)
    [([tape], _)] = Import("binance", (path,), folder / "store", strict=True, progress=False).run()
    return tape


def opened(tape: Tape, n: int = 1, config: ReplayConfig = SHORT, seed: int = 0) -> HftVenue:
    venue = HftVenue([tape], n, config)
    for lane in range(n):
        venue.reset(lane, np.random.default_rng(seed + lane))
    return venue


def run(
    venue: HftVenue, seed: int, steps: int, lots: int = 5, reach: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Random quotes around the touch, changed now and then; all quotes and events [steps, n, .]."""
    rng = np.random.default_rng(seed)
    events = venue.outcomes.copy()
    quotes = np.zeros((venue.n, 4), np.int64)
    all_quotes, all_events = [], []
    for _ in range(steps):
        change = rng.random(venue.n) < 0.4
        offsets = rng.integers(0, reach, (venue.n, 2))
        sizes = rng.integers(0, lots + 1, (venue.n, 2))
        fresh = np.stack(
            [
                events["best_ask_ticks"] + offsets[:, 0],
                sizes[:, 0],
                events["best_bid_ticks"] - offsets[:, 1],
                sizes[:, 1],
            ],
            axis=1,
        )
        quotes = np.where(change[:, None], fresh, quotes)
        events = venue.advance(quotes).copy()
        all_quotes.append(quotes.copy())
        all_events.append(events)
    return np.array(all_quotes), np.array(all_events)


def tape_of(
    folder: Path, rows: list[tuple[int, int, int, int, int, int]], low: int = 100, high: int = 120
) -> Tape:
    """A tape of hand-written rows: exchange ms, arrival ms, kind, side, tick, lots."""
    found = np.zeros(len(rows), ROW)
    for place, (exch_ms, local_ms, *rest) in enumerate(rows):
        found[place] = (exch_ms * MILLISECOND, local_ms * MILLISECOND, *rest, place)
    delays = found["local_ns"] - found["exch_ns"]
    newest = np.maximum.accumulate(found["exch_ns"])
    info = TapeInfo(
        "test", "X", "1970-01-01", "1", "1", 0.0, 0.0, 0, "written by hand",
        int(found["local_ns"][0]), int(found["local_ns"][-1]), low, high,
        int((newest - found["exch_ns"]).max()), int(delays.max()),
    )  # fmt: skip
    writer = TapeWriter(folder / "tape.parquet")
    writer.write(found)
    writer.close(info)
    return Tape(writer.path)


BOOK = [(1000, 1000, 4, 1, 109, 5), (1000, 1000, 4, -1, 110, 5)]
END = [(60_000, 60_000, 1, 1, 90, 1)]


def by_hand(folder: Path, rows: list[tuple[int, int, int, int, int, int]], **config: object) -> HftVenue:
    """One lane at 2 s of a hand-written tape after a book of 5 at 109 and 5 at 110."""
    chosen = ReplayConfig(feed_latency_ns=0, order_latency_ns=MILLISECOND, episode_ns=SECOND, **config)
    venue = HftVenue([tape_of(folder, [*BOOK, *rows, *END])], 1, chosen)
    venue.start(0, venue.spans[0], 2 * SECOND)
    return venue


def steps(venue: HftVenue, quotes: tuple[int, int, int, int], count: int) -> np.ndarray:
    row = np.array([quotes], np.int64)
    return np.array([venue.advance(row)[0].copy() for _ in range(count)])


# The market.


@pytest.mark.parametrize("book_ticker", [True, False])
def test_the_touch_and_the_trades_are_those_of_the_tape(
    sent: Market, recorded: Tape, book_ticker: bool
) -> None:
    config = replace(SHORT, decision_interval_ns=37 * MILLISECOND, book_ticker=book_ticker)
    offset = recorded.info.clock_offset_ns + config.feed_latency_ns
    truth = sent.touches if book_ticker else [touch(local, book) for _, local, book in sent.books]
    assert truth != [touch(local, book) for _, local, book in sent.books] or not book_ticker
    locals_ns = np.array([local + offset for local, *_ in truth])
    rows = np.concatenate(list(recorded.rows()))
    trades = rows[rows["kind"] == TRADE]
    for seed in range(8):
        venue = opened(recorded, 1, config, seed)
        event = venue.outcomes[0].copy()
        for step in range(60):
            place = int(np.searchsorted(locals_ns, event["time_ns"], side="right")) - 1
            for name, expected in zip(("bid", "ask"), truth[place][1:], strict=True):
                assert (event[f"best_{name}_ticks"], event[f"best_{name}_lots"]) == expected
            before = event["time_ns"]
            event = venue.advance(NO_QUOTES)[0].copy()
            arrived = trades["local_ns"] + offset
            seen = trades[(arrived > before) & (arrived <= event["time_ns"])]
            for name, part in (("buy", seen[seen["side"] == BUY]), ("sell", seen[seen["side"] != BUY])):
                assert event[f"{name}_lots"] == part["size"].sum()
                assert event[f"{name}_notional"] == (part["size"] * part["price"]).sum()
            assert event["trades"] == len(seen)
            assert event["max_trade_lots"] == (seen["size"].max() if len(seen) else 0)
            assert event["last_trade_lots"] == (seen["size"][-1] if len(seen) else 0), step
        venue.close()


def touch(local_ns: int, book: dict[tuple[str, int], int]) -> tuple[int, tuple[int, int], tuple[int, int]]:
    bid = max(price for at, price in book if at == "b")
    ask = min(price for at, price in book if at == "a")
    return local_ns, (bid, book["b", bid]), (ask, book["a", ask])


def test_a_ticker_counts_from_its_number_to_the_next_diff() -> None:
    """Rows are exchange time, kind, side, tick, lots, number; arrival in this order."""
    rows = np.zeros(12, ROW)
    for place, (exch, kind, side, tick, lots, number) in enumerate(
        [
            (10, 4, 1, 109, 5, 10),
            (10, 4, 1, 108, 4, 10),
            (10, 4, -1, 110, 5, 10),
            (20, 1, 1, 109, 7, 20),
            (15, BBO, 1, 109, 3, 15),  # older than the diff: nothing
            (15, BBO, -1, 110, 5, 15),
            (50, BBO, 1, 108, 4, 30),  # 109 is gone
            (50, BBO, -1, 110, 6, 30),
            (40, 1, 1, 109, 2, 25),  # older than the ticker: nothing from the touch on
            (40, 1, 1, 107, 8, 25),
            (45, 1, 1, 109, 1, 40),  # newer in number, so not earlier in time
            (45, TRADE, 1, 110, 1, 1),
        ]
    ):
        rows[place] = (exch, place, kind, side, tick, lots, number)
    found = fused(rows, 100, np.zeros((2, 30), np.int64), FUSE_START.copy())
    told = [tuple(int(row[name]) for name in ("exch_ns", "side", "price", "size")) for row in found]
    assert told[4:] == [(50, 1, 109, 0), (50, -1, 110, 6), (40, 1, 107, 8), (50, 1, 109, 1), (45, 1, 110, 1)]
    assert told[:4] == [(10, 1, 109, 5), (10, 1, 108, 4), (10, -1, 110, 5), (20, 1, 109, 7)]


def test_the_same_seed_gives_the_same_bytes_in_any_company(recorded: Tape) -> None:
    with opened(recorded, 3, seed=5) as together:
        quotes, events = run(together, 0, 40)
    with opened(recorded, 1, seed=6) as alone:
        for step in range(40):
            assert (
                alone.advance(np.ascontiguousarray(quotes[step, 1:2])).tobytes() == events[step, 1].tobytes()
            )


def test_nothing_depends_on_the_future(sent: Market, tmp_path: Path) -> None:
    """Another continuation of the recording after a time t changes nothing before t."""
    other = market(seconds=30, seed=11)
    half = len(other.lines) * 3 // 4
    changed = [
        line.replace('"m":true', '"m":null').replace('"m":false', '"m":true') for line in other.lines[half:]
    ]
    changed = [line.replace('"m":null', '"m":false') for line in changed]
    until = int(other.lines[half].split(" ", 1)[0])
    seen = []
    for name, lines in (("one", sent.lines), ("two", other.lines[:half] + changed)):
        path = write(tmp_path / f"{name}.gz", lines)
        [([tape], _)] = Import("binance", (path,), tmp_path / name, progress=False).run()
        with HftVenue([tape], 1, SHORT) as venue:
            venue.start(0, venue.spans[0], venue.spans[0].first_ns)
            seen.append(run(venue, 3, 250)[1])
    horizon = until + tape.info.clock_offset_ns
    known = seen[0]["time_ns"][:, 0] < horizon
    assert 100 < known.sum() < 250
    assert (seen[0][known] == seen[1][known]).all()
    assert (seen[0] != seen[1]).any()


def test_parts_of_the_split_are_apart_and_episodes_stay_inside(recorded: Tape) -> None:
    parts = {}
    for split in ("train", "validation", "test", "all"):
        config = replace(SHORT, split=split, episode_ns=SECOND)
        with HftVenue([recorded], 1, config) as venue:
            [parts[split]] = venue.spans
            for seed in range(5):
                event = venue.reset(0, np.random.default_rng(seed))
                assert parts[split].first_ns <= event["time_ns"] <= parts[split].last_ns
                while not event["data_end"]:
                    event = venue.advance(NO_QUOTES)[0].copy()
                    assert event["time_ns"] <= parts[split].end_ns
                after = venue.advance(np.array([[10**4, 1, 1, 1]]) * 0)[0]
                assert after["data_end"] == 1
                assert after["time_ns"] == event["time_ns"]
                assert after["trades"] == 0
    assert parts["train"].first_ns == parts["all"].first_ns
    assert parts["train"].end_ns + SHORT.gap_ns == parts["validation"].first_ns
    assert parts["validation"].end_ns + SHORT.gap_ns == parts["test"].first_ns
    assert abs(parts["test"].end_ns - parts["all"].end_ns) <= 1


# Our orders.


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("model", QUEUE_MODELS)
def test_fills_add_up_to_the_position(recorded: Tape, model: str, partial: bool) -> None:
    config = replace(SHORT, queue_model=model, partial_fills=partial)
    with opened(recorded, 4, config) as venue:
        quotes, events = run(venue, 1, 80)
        fills = events["bid_fill_lots"] - events["ask_fill_lots"]
        assert (np.cumsum(fills, 0) == events["position_lots"]).all()
        assert (events["bid_fill_lots"] > 0).sum() > 5
        assert (events["ask_fill_lots"] > 0).sum() > 5
        for side, column in (("ask", 0), ("bid", 2)):
            lots, notional = events[f"{side}_fill_lots"], events[f"{side}_fill_notional"]
            low, high = quotes[..., column].min(), quotes[..., column].max()
            assert ((lots * low <= notional) & (notional <= lots * high)).all()
        if not partial:
            theirs = [hft_position(venue, lane) for lane in range(4)]
            assert np.array_equal(np.round(theirs), events["position_lots"][-1])


def hft_position(venue: HftVenue, lane: int) -> float:
    from hftbacktest.binding import roivecbt_position

    return float(roivecbt_position(int(venue.lanes["pointer"][lane]), 0))


def test_an_unchanged_quote_keeps_its_place_and_a_changed_one_loses_it(tmp_path: Path) -> None:
    """Five lots ahead at 110; two buys of 4 fill only an order that was there for both."""
    buys = [(2500, 2500, TRADE, 1, 110, 4), (2510, 2510, 1, -1, 110, 5), (3500, 3500, TRADE, 1, 110, 4)]
    patient = steps(by_hand(tmp_path / "a", buys), (110, 2, 0, 0), 20)
    assert patient["ask_fill_lots"].sum() == 2
    assert patient["ask_fill_notional"].sum() == 220
    venue = by_hand(tmp_path / "b", buys)
    restless = [steps(venue, (110, 1 + step % 2, 0, 0), 1)[0] for step in range(20)]
    assert np.array(restless)["ask_fill_lots"].sum() == 0


def test_what_is_left_of_an_order_keeps_its_place(tmp_path: Path) -> None:
    buys = [(2500, 2500, TRADE, 1, 110, 7), (3500, 3500, TRADE, 1, 110, 1)]
    venue = by_hand(tmp_path, buys)
    first = steps(venue, (110, 3, 0, 0), 10)
    assert first["ask_fill_lots"].sum() == 2
    rest = steps(venue, (110, 1, 0, 0), 10)
    assert rest["ask_fill_lots"].sum() == 1


def test_an_order_that_grows_is_another_one(tmp_path: Path) -> None:
    """hftbacktest's `modify` would keep the two lots and their place; ours fills five, from the back."""
    buys = [(2500, 2500, TRADE, 1, 110, 8), (3500, 3500, TRADE, 1, 110, 20)]
    venue = by_hand(tmp_path, [*buys[:1], (2505, 2505, 1, -1, 110, 5), *buys[1:]])
    steps(venue, (110, 2, 0, 0), 2)
    found = steps(venue, (110, 5, 0, 0), 20)
    filled = found["ask_fill_lots"]
    assert filled[filled > 0].tolist() == [3, 2]


def test_a_quote_that_would_trade_expires(tmp_path: Path) -> None:
    venue = by_hand(tmp_path, [])
    found = steps(venue, (109, 1, 0, 0), 5)
    assert not found["ask_fill_lots"].any()
    assert not found["ask_open_lots"].any()
    last = steps(venue, (111, 1, 108, 2), 2)[-1]
    assert (last["ask_open_lots"], last["bid_open_lots"]) == (1, 2)


@pytest.mark.parametrize("latency_ms", [0, 10, 130])
def test_the_position_limit_holds_whatever_is_in_flight(recorded: Tape, latency_ms: int) -> None:
    config = replace(
        SHORT, position_limit_lots=6, order_latency_ns=latency_ms * MILLISECOND, queue_model="power-prob"
    )
    with opened(recorded, 8, config) as venue:
        _, events = run(venue, 2, 60, lots=6, reach=2)
    position = events["position_lots"]
    assert np.abs(position).max() <= 6
    assert (position + events["bid_open_lots"]).max() <= 6
    assert (position - events["ask_open_lots"]).min() >= -6
    assert np.abs(position).max() >= 5


# hftbacktest's traps.


def test_a_fill_of_exactly_the_remaining_size_does_not_stop_the_engine(tmp_path: Path) -> None:
    buys = [(2500, 2500, TRADE, 1, 110, 8), (3000, 3000, TRADE, 1, 110, 3), (3500, 3500, TRADE, 1, 112, 3)]
    found = steps(by_hand(tmp_path, buys), (110, 3, 0, 0), 9)
    assert found["ask_fill_lots"].sum() == 3
    assert found["time_ns"][-1] == 2900 * MILLISECOND


def test_that_trap_is_real(tmp_path: Path) -> None:
    """An unguarded order of 3 whole lots stops hftbacktest; when it no longer does, drop the guard."""
    from hftbacktest import GTX, LIMIT
    from hftbacktest.binding import roivecbt_elapse, roivecbt_submit_sell_order

    buys = [(2500, 2500, TRADE, 1, 110, 8), (3000, 3000, TRADE, 1, 110, 3)]
    with by_hand(tmp_path, buys) as venue:
        pointer = int(venue.lanes["pointer"][0])
        assert roivecbt_submit_sell_order(pointer, 0, 1, 110.0, 3.0, GTX, LIMIT, False) == 0
        assert roivecbt_elapse(pointer, 800 * MILLISECOND) == 0
        assert roivecbt_elapse(pointer, 800 * MILLISECOND) > 1


def test_every_slice_of_an_order_filled_in_parts_counts(tmp_path: Path) -> None:
    """Three slices within one decision; hftbacktest itself shows only the last and counts only that."""
    buys = [(2500 + i, 2500 + i, TRADE, 1, 110, lots) for i, lots in enumerate((6, 1, 1))]
    venue = by_hand(tmp_path, buys, decision_interval_ns=SECOND)
    assert steps(venue, (110, 3, 0, 0), 1)["ask_fill_lots"][0] == 3
    assert hft_position(venue, 0) > -1.5


def test_prices_arrive_on_the_tick_they_were_quoted_at(tmp_path: Path) -> None:
    """A trade climbs a tick every 10 ms through empty levels: each quote fills when it is reached."""
    rows = [(2000 + 10 * i, 2000 + 10 * i, TRADE, 1, 111 + i, 1) for i in range(1, 10)]
    venue = by_hand(tmp_path, rows, decision_interval_ns=10 * MILLISECOND)
    low, high = venue.window(0)
    assert low <= 90
    assert high >= 130
    for tick in range(112, 120):
        venue.start(0, venue.spans[0], 2 * SECOND)
        found = steps(venue, (tick, 1, 0, 0), 12)
        assert np.flatnonzero(found["ask_fill_lots"])[0] == tick - 111


def test_after_closing_everything_is_refused(recorded: Tape) -> None:
    venue = opened(recorded)
    venue.close()
    venue.close()
    with pytest.raises(RuntimeError, match="closed"):
        venue.advance(NO_QUOTES)
    with pytest.raises(RuntimeError, match="closed"):
        venue.reset(0, np.random.default_rng(0))


def test_lanes_that_are_not_there_or_not_reset_are_refused(recorded: Tape) -> None:
    with HftVenue([recorded], 2, SHORT) as venue:
        for lane in (-1, 2):
            with pytest.raises(IndexError, match="lanes 0 to 1"):
                venue.reset(lane, np.random.default_rng(0))
        venue.reset(0, np.random.default_rng(0))
        with pytest.raises(RuntimeError, match="lane 1 has not been reset"):
            venue.advance(np.zeros((2, 4), np.int64))


@pytest.mark.parametrize(
    "quotes",
    [
        np.zeros((1, 4)),
        np.zeros((1, 4), np.int32),
        np.zeros((4, 1), np.int64),
        np.zeros(4, np.int64),
        [[0, 0, 0, 0]],
        None,
    ],
)
def test_quotes_of_the_wrong_kind_are_refused(recorded: Tape, quotes: object) -> None:
    with opened(recorded) as venue, pytest.raises(ValueError, match=r"int64 array of shape \(1, 4\)"):
        venue.advance(quotes)


@pytest.mark.parametrize(
    "quotes",
    [
        (6000, -1, 0, 0),
        (6000, 1 << 31, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 10**12, 1),
        (6000, 1, 6000, 1),
        (-(2**63), 1, 0, 0),
    ],
)
def test_impossible_quotes_are_refused_and_change_nothing(recorded: Tape, quotes: tuple[int, ...]) -> None:
    with opened(recorded) as venue:
        before = venue.outcomes.copy()
        with pytest.raises(ValueError, match="lane 0 quotes ask"):
            venue.advance(np.array([quotes], np.int64))
        assert (venue.outcomes == before).all()
        venue.advance(NO_QUOTES)


def test_strided_quotes_are_read_rightly(recorded: Tape) -> None:
    with opened(recorded, 2) as plain, opened(recorded, 2) as strided:
        book = plain.outcomes
        quotes = np.stack([book["best_ask_ticks"], [2, 2], book["best_bid_ticks"], [2, 2]], 1)
        wide = np.repeat(np.repeat(quotes, 2, 0), 2, 1)
        for _ in range(20):
            assert (plain.advance(quotes) == strided.advance(wide[::2, ::2])).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: np.zeros(10, a.dtype)[::2],
        lambda a: np.zeros(5, a.dtype.descr[:5]),
        lambda a: np.zeros(5),
        lambda a: np.frombuffer(bytes(EVENT.itemsize * 3 + 1), np.uint8)[1:].view(EVENT),
        lambda a: np.zeros((2, 2), EVENT),
        lambda a: np.zeros(0, EVENT),
    ],
)
def test_arrays_the_engine_would_misread_are_refused(spoil: object) -> None:
    bad = spoil(np.zeros(5, EVENT))
    with pytest.raises(TapeError):
        hft_calls.open_backtest(bad, np.zeros(0, EVENT), 1, 10, SHORT)


def test_the_engine_is_told_all_it_hangs_or_crashes_without(
    sent: Market, recorded: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a tick size hftbacktest hangs; its `latency_offset` edits data in place, or crashes on ours."""
    told: list[tuple[str, tuple[object, ...]]] = []
    real = hft_calls.hftbacktest.BacktestAsset

    class Asset:
        def __init__(self) -> None:
            self.asset = real()

        def __getattr__(self, name: str) -> object:
            def call(*given: object) -> Asset:
                told.append((name, given))
                getattr(self.asset, name)(*given)
                return self

            return call

    class Built(Exception):
        pass

    def build(assets: list[Asset]) -> int:
        raise Built

    monkeypatch.setattr(hft_calls.hftbacktest, "BacktestAsset", Asset)
    monkeypatch.setattr(hft_calls._hftbacktest, "build_roivec_backtest", build)
    with pytest.raises(Built):
        opened(recorded)
    names = dict(told)
    assert names["tick_size"] == names["lot_size"] == (1.0,)
    assert {"roi_lb", "roi_ub"} <= names.keys()
    assert "latency_offset" not in names


def test_a_window_without_prices_is_refused() -> None:
    with pytest.raises(TapeError, match="window"):
        hft_calls.open_backtest(np.zeros(5, EVENT), np.zeros(0, EVENT), 10, 10, SHORT)


def test_the_cache_is_read_only_shared_and_never_edited(recorded: Tape) -> None:
    """Feed latency goes into the cache when it is built; hftbacktest's own offset edits data in place."""
    found = open_replay(recorded, 7 * MILLISECOND)
    assert not found.events.flags.writeable
    files = sorted(recorded.path.parent.glob(".replay-*/events.bin"))
    before = [path.read_bytes() for path in files]
    with opened(recorded, 3, replace(SHORT, feed_latency_ns=7 * MILLISECOND)) as venue:
        run(venue, 0, 30)
        venue.reset(0, np.random.default_rng(9))
        run(venue, 0, 30)
        assert len({id(one) for one in venue.replays}) == 1
    assert [path.read_bytes() for path in files] == before
    without = open_replay(recorded, 0)
    shift = found.events["local_ts"] - without.events["local_ts"]
    assert (shift == 7 * MILLISECOND).all()


def test_the_clock_is_right_from_the_first_event(recorded: Tape) -> None:
    with HftVenue([recorded], 1, SHORT) as venue:
        for seed in range(20):
            event = venue.reset(0, np.random.default_rng(seed))
            [span] = venue.spans
            assert span.first_ns <= event["time_ns"] <= span.last_ns


def test_arrays_outlive_their_owners(recorded: Tape) -> None:
    import gc

    venue = HftVenue([Tape(recorded.path)], 2, SHORT)
    for lane in range(2):
        venue.reset(lane, np.random.default_rng(lane))
    quotes, expected = run(venue, 4, 20)
    for lane in range(2):
        venue.reset(lane, np.random.default_rng(lane))
    venue.replays.clear()
    gc.collect()
    junk = [np.ones(len(expected) * 1000) for _ in range(50)]
    again = np.array([venue.advance(quotes[step]).copy() for step in range(20)])
    assert (again == expected).all()
    assert junk


def test_a_venue_is_not_copied_nor_pickled(recorded: Tape) -> None:
    with opened(recorded) as venue:
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="live memory"):
                duplicate(venue)


def test_two_threads_are_told_apart(recorded: Tape) -> None:
    with opened(recorded) as venue:
        failures: list[str] = []
        with venue.in_use():
            thread = threading.Thread(target=lambda: failures.append(refusal(venue)))
            thread.start()
            thread.join()
        assert "another thread" in failures[0]
        venue.advance(NO_QUOTES)


def refusal(venue: HftVenue) -> str:
    try:
        venue.advance(NO_QUOTES)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decision_interval_ns", 0),
        ("order_latency_ns", -1),
        ("feed_latency_ns", -5),
        ("queue_model", "lifo"),
        ("queue_exponent", 0.0),
        ("split", "dev"),
        ("fractions", (0.5, 0.5, 0.5)),
        ("episode_ns", 0),
        ("position_limit_lots", 0),
    ],
)
def test_impossible_configurations_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"ReplayConfig\.{field} = .* must be"):
        ReplayConfig(**{field: value})


def test_a_tape_too_short_for_an_episode_is_refused(recorded: Tape) -> None:
    with pytest.raises(
        TapeError, match=r"no stretch of 3600 s .*episode_ns = 3600000000000 is not possible\. Give a shorter"
    ):
        HftVenue([recorded], 1, ReplayConfig(episode_ns=3600 * SECOND))


def test_without_hftbacktest_the_extra_is_named() -> None:
    code = "import sys; sys.modules['hftbacktest'] = None; import mmenv.venue.hft"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Install the extra `replay`, pip install 'neuralmm[replay]'" in found.stderr


# The cache.


def test_an_interrupted_or_stale_cache_is_built_again(recorded: Tape, tmp_path: Path) -> None:
    path = tmp_path / "venue=v" / "symbol=s" / "day=d" / "tape.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(recorded.path.read_bytes())
    tape = Tape(path)
    (path.parent / ".replay-tmp-dead").mkdir()
    first = open_replay(tape, 0).events.tobytes()
    os.utime(path, (1, 1))
    assert open_replay(tape, 0).events.tobytes() == first
    assert len(list(path.parent.glob(".replay-*/index.npz"))) == 1


def test_a_start_before_the_book_is_known_is_refused(recorded: Tape) -> None:
    found = open_replay(recorded, 0)
    with pytest.raises(TapeError, match="before the book is known"):
        found.start(found.first_known_ns - 1)


@pytest.fixture(scope="module")
def real_tapes(tmp_path_factory: pytest.TempPathFactory) -> list[Tape]:
    if "NEURALMM_DATA" not in os.environ:
        pytest.skip("NEURALMM_DATA names no folder of captures")
    import gzip
    import itertools

    folder = tmp_path_factory.mktemp("real")
    files = []
    for name in ("usdm/btcusdt_20240808.gz", "cm/btcusd_perp_20240808.gz", "spot/btcusdt_20240808.gz"):
        with gzip.open(Path(os.environ["NEURALMM_DATA"]) / name, "rt") as file:
            lines = [line.rstrip("\n") for line in itertools.islice(file, 12_000)]
        files.append(write(folder / name.replace("/", "-"), lines))
    Import("binance", tuple(files), folder / "store", strict=True, progress=False).run()
    return tapes(folder / "store")


def test_real_tapes_replay(real_tapes: list[Tape]) -> None:
    config = replace(SHORT, episode_ns=5 * SECOND)
    with HftVenue(real_tapes, 6, config) as venue:
        for lane in range(6):
            venue.reset(lane, np.random.default_rng(lane))
        assert len(set(venue.lane_tape.tolist())) > 1
        _, events = run(venue, 0, 50)
    assert (events["best_bid_ticks"] < events["best_ask_ticks"]).all()
    assert (events["best_bid_lots"] > 0).all()
    fills = events["bid_fill_lots"] - events["ask_fill_lots"]
    assert (np.cumsum(fills, 0) == events["position_lots"]).all()


def test_a_random_start_sees_what_a_replay_from_the_beginning_sees(real_tapes: list[Tape]) -> None:
    """The depth messages of the whole tape in a dictionary give the same touch as starting midway."""
    for tape in real_tapes:
        with HftVenue([tape], 1, replace(SHORT, episode_ns=SECOND, book_ticker=False)) as venue:
            offset = tape.info.clock_offset_ns + venue.config.feed_latency_ns
            rows = np.concatenate(list(tape.rows()))
            rows = rows[(rows["kind"] != BBO) & (rows["kind"] != TRADE)]
            for seed in range(3):
                event = venue.reset(0, np.random.default_rng(seed))
                known = rows[rows["local_ns"] + offset <= event["time_ns"]]
                levels = {("b" if r["side"] == BUY else "a", int(r["price"])): int(r["size"]) for r in known}
                _, *expected = touch(0, {key: lots for key, lots in levels.items() if lots})
                found = [(event[f"best_{at}_ticks"], event[f"best_{at}_lots"]) for at in ("bid", "ask")]
                assert found == expected


def test_book_tickers_agree_with_the_diffs_around_them(real_tapes: list[Tape]) -> None:
    """After each ticker the touch is its; after each diff numbered later the book is that of the diffs."""
    for tape in real_tapes:
        low, high = window(tape.info.low_tick, tape.info.high_tick, 0.01)
        rows = np.concatenate(list(tape.rows()))
        starts = np.flatnonzero(np.diff(rows["id"] * 8 + rows["kind"])) + 1
        ours, plain, state = Book(low, high).sizes, Book(low, high).sizes, FUSE_START.copy()
        equal = touched = 0
        for message in np.split(rows, starts)[:4000]:
            fused(message, low, ours, state)
            for row in message:
                if row["kind"] == CLEAR:
                    plain[:] = 0
                elif row["kind"] not in (TRADE, BBO) and low <= row["price"] <= high:
                    plain[0 if row["side"] == BUY else 1, row["price"] - low] = row["size"]
            kind, number = message["kind"][0], message["id"][0]
            if kind == BBO and number == state[0]["ticker_id"]:
                bid, ask = np.flatnonzero(ours[0])[-1], np.flatnonzero(ours[1])[0]
                assert [bid + low, ask + low] == message["price"].tolist()
                assert [ours[0, bid], ours[1, ask]] == message["size"].tolist()
                touched += 1
            elif kind not in (TRADE, BBO) and number > state[0]["ticker_id"]:
                assert (ours == plain).all()
                equal += 1
        assert min(equal, touched) > 100
