"""Order latency that varies: both engines agree on it, seeds decide it, and bad files are sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmenv.data.events import open_replay
from mmenv.data.importer import Import
from mmenv.data.tape import Tape, TapeError
from tests.helpers.captures import market, write

pytest.importorskip("hftbacktest")

from benchmarks.crosscheck import by_hftbacktest, by_matcher, random_actions
from mmenv import ConfigError, make_config
from mmenv.times import MILLISECOND, SECOND
from mmenv.venue.engines import open_venue
from mmenv.venue.hft_calls import open_backtest
from mmenv.venue.latency import COLUMNS, ROUND_TRIP, Latency, delay, ordered, read, round_trips
from mmenv.venue.settings import ReplayConfig

EPISODE = 15 * SECOND


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", market(seconds=40, seed=21).lines)
    [([tape], _)] = Import("binance", (path,), folder / "store", progress=False).run()
    return tape


@pytest.fixture(scope="module")
def file(recorded: Tape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round trips of 2 to 60 ms, some ten a second, in the recorder's clock."""
    info = recorded.info
    random = np.random.default_rng(2)
    sent = np.sort(random.integers(info.first_ns, info.last_ns, 400))
    reached = sent + info.clock_offset_ns + random.integers(MILLISECOND, 30 * MILLISECOND, 400)
    answered = reached - info.clock_offset_ns + random.integers(MILLISECOND, 30 * MILLISECOND, 400)
    path = tmp_path_factory.mktemp("latency") / "latency.csv"
    rows = np.stack([sent, reached, answered], axis=1)
    np.savetxt(path, rows, "%d", ",", header=",".join(COLUMNS), comments="")
    return path


def config(model: str, file: Path, **given) -> ReplayConfig:
    chosen = {"latency_file": str(file)} if model in ("empirical", "recorded") else {}
    return ReplayConfig(
        order_latency=model, latency_spread=1.0, episode_ns=EPISODE, position_limit_lots=6, **chosen, **given
    )


def outcomes(engine: str, tape: Tape, settings: ReplayConfig, steps: int = 140) -> np.ndarray:
    """What a lane sees and gets with random quotes near the touch."""
    random = np.random.default_rng(7)
    rows = []
    with open_venue(engine, [tape], 1, settings) as venue:
        span = venue.spans[0]
        outcome = venue.start(0, span, span.first_ns + 12_345)
        for _ in range(steps):
            bid, ask = int(outcome["best_bid_ticks"]), int(outcome["best_ask_ticks"])
            away = random.integers(0, 2, 2)
            outcome = venue.advance(np.array([[ask + away[0], 2, bid - away[1], 2]], np.int64))[0].copy()
            rows.append(outcome)
    return np.array(rows)


@pytest.mark.parametrize("model", ["lognormal", "feed", "empirical", "recorded"])
def test_both_engines_see_the_same_bytes(recorded: Tape, file: Path, model: str) -> None:
    ours = outcomes("matcher", recorded, config(model, file))
    theirs = outcomes("hftbacktest", recorded, config(model, file))
    assert (ours == theirs).all()
    assert theirs["ask_fill_lots"].sum() + theirs["bid_fill_lots"].sum() > 10
    constant = outcomes("hftbacktest", recorded, config("constant", file))
    assert (theirs != constant).any()


def test_both_engines_agree_on_every_order_and_mutants_do_not(recorded: Tape) -> None:
    found = open_replay(recorded, 2 * MILLISECOND)
    random = np.random.default_rng(5)
    sent = np.arange(found.first_known_ns, found.last_ns, 7 * MILLISECOND)
    entry, response = random.integers(0, 40 * MILLISECOND, (2, len(sent)))
    trips = ordered(sent, entry, response)
    settings = ReplayConfig(queue_model="power-prob")
    actions = random_actions(found, 4000, 20 * MILLISECOND, random)
    theirs = by_hftbacktest(found, actions, settings, trips)
    assert (by_matcher(found, actions, settings, trips=trips) == theirs).all()
    later = ordered(sent, entry + MILLISECOND, response)
    assert (by_matcher(found, actions, settings, trips=later) != theirs).any()
    assert (by_matcher(found, actions, settings, ahead=1.0, trips=trips) != theirs).any()


def test_what_is_known_is_what_has_been_answered() -> None:
    """`known` inverts the response, to the nanosecond; nothing overtakes."""
    random = np.random.default_rng(0)
    sent = np.cumsum(random.integers(1, 100, 300))
    trips = ordered(sent, *random.integers(0, 300, (2, 300)))
    assert (np.diff(trips["exch_ts"]) > 0).all()
    assert (np.diff(trips["resp_ts"]) >= 0).all()
    latency = Latency(0, trips)
    reached, answered = (np.ascontiguousarray(trips[name]) for name in ("exch_ts", "resp_ts"))
    times = np.arange(int(reached[0]) - 500, int(reached[-1]) + 500)
    told = np.array([time + delay(reached, answered, time) for time in times])
    for now in random.integers(told[0] + 1, told[-1], 200):
        assert latency.known(int(now)) == times[np.searchsorted(told, now, side="right") - 1]


def test_seeds_decide_what_is_drawn(recorded: Tape, file: Path) -> None:
    found, start = open_replay(recorded, 2 * MILLISECOND), recorded.info.first_ns + 2 * SECOND

    def drawn(**given) -> np.ndarray:
        settings = config("lognormal", file, **given)
        return round_trips(settings, found, 0, start, start + EPISODE)

    assert drawn().tobytes() == drawn().tobytes()
    assert drawn().tobytes() != drawn(latency_seed=1).tobytes()
    entry = drawn(decision_interval_ns=SECOND // 100)
    latency = (entry["exch_ts"] - entry["req_ts"]) / MILLISECOND
    # FIFO makes late ones hold up those behind them, so the median is somewhat above that of the draws.
    assert 10 < np.median(latency) < 25
    assert latency.max() <= 200


def test_the_environment_takes_it_by_name(recorded: Tape, file: Path) -> None:
    store = recorded.path.parents[3]
    given = {"name": "replay", "store": str(store), "split": "all", "order_latency": "recorded"}
    made = make_config({**given, "latency_file": str(file)}, horizon=20)
    assert made.market.venue_config("all", 20, 5).latency_file == str(file)
    with pytest.raises(ConfigError, match=r"latency_file = ''.*empirical or recorded"):
        make_config(given)
    with pytest.raises(ConfigError, match=r"order_latency = 'quick'"):
        make_config({**given, "order_latency": "quick"})


def test_bad_files_are_sentences(recorded: Tape, tmp_path: Path) -> None:
    head = ",".join(COLUMNS) + "\n"
    texts = {
        "none": (None, "not a latency file"),
        "columns": ("a,b\n1,2\n", "not a latency file.*sent_ns, exchange_ns, answered_ns"),
        "words": (head + "now,then,later\n", "not a latency file"),
        "empty": (head, "no round trips"),
        "negative": (head + "9000,8000,9500\n", "row 1 has a negative latency"),
        "elsewhere": (head + "1000,2000,3000\n", "lie outside the episode"),
    }
    found = open_replay(recorded, 2 * MILLISECOND)
    start = recorded.info.first_ns + 2 * SECOND
    for name, (text, message) in texts.items():
        path = tmp_path / f"{name}.csv"
        if text is not None:
            path.write_text(text)
        read.cache_clear()
        with pytest.raises(TapeError, match=message):
            round_trips(config("recorded", path), found, 0, start, start + EPISODE)


def test_round_trips_the_engine_would_stop_at_are_refused(recorded: Tape) -> None:
    found = open_replay(recorded, 2 * MILLISECOND)
    good = ordered(np.arange(3) * SECOND, np.full(3, MILLISECOND), np.full(3, MILLISECOND))

    def spoil(column: str, row: int, value: int) -> np.ndarray:
        bad = good.copy()
        bad[column][row] = value
        return bad

    bad = [spoil("req_ts", 1, 0), spoil("exch_ts", 2, 5), spoil("exch_ts", 0, -1), spoil("resp_ts", 1, 0)]
    for trips in (*bad, np.zeros((2, 2), ROUND_TRIP), good[::2], good["req_ts"]):
        with pytest.raises(TapeError, match=r"round trip|contiguous"):
            open_backtest(
                found.events, found.levels[:0], found.low_tick, found.high_tick, ReplayConfig(), trips
            )
