"""Single orders in tapes, and our exact place among them: against plain lists, and hftbacktest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from mmenv import ConfigError
from mmenv.data.events import BUY_FLAG, EXCH_FLAG, open_replay
from mmenv.data.importer import Import
from mmenv.data.rows import ADD, BUY, CANCEL, CLEAR, DEPTH, FILL, MODIFY, SELL, SNAPSHOT, TRADE
from mmenv.data.tape import Tape, TapeError, tapes
from mmenv.measure.record import record_tape
from mmenv.times import SECOND
from mmenv.venue.by_order import apply_order
from mmenv.venue.matched import MatcherVenue
from mmenv.venue.matcher import ACTIVE, PARTIALLY_FILLED, cancel, empty_book, place_order
from mmenv.venue.settings import FIFO, ReplayConfig
from tests.helpers.imports import run
from tests.helpers.orders import Market, databento_file, lobster_files, plain, write_lines

pytest.importorskip("hftbacktest")
from benchmarks.crosscheck import Check, by_hftbacktest, by_matcher, random_actions

KINDS = ("databento", "lobster")


@pytest.fixture(scope="module", params=KINDS)
def tape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tape:
    folder = tmp_path_factory.mktemp(request.param)
    market = Market(events=1_500, seed=7, hidden=request.param == "lobster")
    if request.param == "lobster":
        paths = lobster_files(market, folder, 60)[0]
    else:
        paths = [databento_file(market, folder)]
    return run(request.param, paths, folder / "store", strict=True)[0]


def test_the_orders_of_a_tape_add_up_to_its_levels(tape: Tape) -> None:
    """At the end of each message; nothing is taken from an order that has it not."""
    orders: dict[int, tuple[int, int, int]] = {}
    levels: dict[tuple[int, int], int] = {}
    rows = np.concatenate(list(tape.rows(orders=True)))
    assert tape.info.orders == (rows["kind"] >= ADD).sum() > 1_000
    assert tape.info.rows == len(rows)
    compared = 0
    for place, row in enumerate(rows):
        kind, number, size = int(row["kind"]), int(row["id"]), int(row["size"])
        level = int(row["side"]), int(row["price"])
        if kind == CLEAR:
            orders, levels = {}, {}
        elif kind == ADD:
            assert number not in orders
            orders[number] = (*level, size)
        elif kind in (CANCEL, FILL):
            assert orders[number][:2] == level
            assert 0 < size <= orders[number][2]
            if kind == CANCEL:
                left = orders.pop(number)[2] - size
                orders |= {number: (*level, left)} if left else {}
        elif kind in (DEPTH, SNAPSHOT):
            levels[level] = size
            if place + 1 == len(rows) or rows["kind"][place + 1] not in (DEPTH, SNAPSHOT):
                sums: dict[tuple[int, int], int] = {}
                for side, tick, lots in orders.values():
                    sums[side, tick] = sums.get((side, tick), 0) + lots
                assert sums == {key: lots for key, lots in levels.items() if lots}
                compared += 1
    assert compared > 500
    # What is executed in the book is what is traded, but for what was hidden.
    executed = int(rows["size"][rows["kind"] == FILL].sum())
    assert 0 < executed <= int(rows["size"][rows["kind"] == TRADE].sum())


def test_a_lot_at_its_exact_place_fills_no_less_than_where_only_trades_move_it_up(tape: Tape) -> None:
    """As `neuralmm facts` records it, by the matcher: hftbacktest leaves out orders before the touch."""

    def filled(queue: str) -> int:
        blocks = record_tape(tape, 0.1, config=ReplayConfig(queue_model=queue)).blocks
        return int(blocks["ask_fill"].sum() + blocks["bid_fill"].sum())

    assert filled(FIFO) >= filled("risk-adverse") > 20


def test_a_snapshot_of_orders_is_what_stands_there(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmenv.data.events.ORDERS_NS", 20 * SECOND)
    found = open_replay(tape, 1_000, orders=True)
    assert len(found.starts) > 5
    for index in (2, len(found.starts) - 1):
        queues: dict[int, list[int]] = {}
        for event in found.events[: found.rows[index]]:
            kind, number = int(event["ev"]) & 0xFF, int(event["order_id"])
            if kind in (ADD, MODIFY):
                queues[number] = [int(event["px"]), int(event["qty"]), int(event["ival"])]
            elif kind == CANCEL:
                assert queues.pop(number)[1] == event["qty"]
        stored = found.levels[found.bounds[index] : found.bounds[index + 1]]
        assert {int(e["order_id"]): [int(e["px"]), int(e["qty"]), int(e["ival"])] for e in stored} == queues
        assert (np.diff(stored["ival"]) > 0).all()


class Lists:
    """An exchange of plain lists: [who, lots left], first come first; ours are negative numbers."""

    def __init__(self) -> None:
        self.queues: dict[tuple[int, int], list[list[int]]] = {}
        self.filled: dict[int, int] = {}

    def fill_ours(self, side: int, lots: int, upto: tuple[int, int | None]) -> None:
        """Executions of `lots`, before which come ours at better prices, and here those before a number."""
        price, number = upto
        for key in sorted(self.queues, key=lambda key: -key[1] * side):
            queue = self.queues[key]
            better = (key[1] - price) * side
            if key[0] != side or better < 0:
                continue
            for each in list(queue):
                if each[0] >= 0:
                    if better == 0 and each[0] == number:
                        break
                    if better == 0 and number is None:
                        break
                    continue
                got = min(lots, each[1])
                lots, each[1] = lots - got, each[1] - got
                self.filled[each[0]] = self.filled.get(each[0], 0) + got
                if not each[1]:
                    queue.remove(each)

    def take(self, event: np.void) -> None:
        kind, number, lots = int(event["ev"]) & 0xFF, int(event["order_id"]), int(event["qty"])
        side, price = BUY if int(event["ev"]) & BUY_FLAG else SELL, int(event["px"])
        queue = self.queues.setdefault((side, price), [])
        if kind == ADD:
            queue.append([number, lots])
            for (other, tick), theirs in self.queues.items():
                if other == -side and (price - tick) * side >= 0:
                    for each in [each for each in theirs if each[0] < 0]:
                        self.filled[each[0]] = self.filled.get(each[0], 0) + each[1]
                        theirs.remove(each)
        elif kind == MODIFY:
            next(each for each in queue if each[0] == number)[1] = lots
        elif kind == CANCEL:
            queue.remove([number, lots])
        elif kind == FILL:
            self.fill_ours(side, lots, (price, number))
        elif kind == TRADE and event["fval"]:
            self.fill_ours(-side, lots, (price, None))


def test_our_place_is_that_in_plain_lists(tape: Tape) -> None:
    found = open_replay(tape, 0, orders=True)
    rng = np.random.default_rng(1)
    book, lists = empty_book(found.low_tick, found.high_tick, 400, "fifo"), Lists()
    live: dict[int, tuple[int, int]] = {}
    number = 0
    for event in found.events:
        apply_order(book, event, False)
        lists.take(event)
        best = book.best
        if number < 400 and rng.random() < 0.1 and min(best) > 0 and max(best) < 10**9:
            side = int(rng.choice((BUY, SELL)))
            mine = int(best[0] if side == BUY else best[1])
            tick = mine - side * int(rng.integers(-1, 3))
            # One order of ours at a price at a time: two would share an execution.
            if not live and 0 < place_order(book, number, side, tick, int(rng.integers(1, 9)), 1) == 1:
                lists.queues.setdefault((side, tick), []).append(
                    [-number - 1, int(book.orders["lots"][number])]
                )
                live[number] = side, tick
            number += 1
        for each, key in list(live.items()):
            order = book.orders[each]
            assert order["lots"] - order["left"] == lists.filled.get(-each - 1, 0)
            if not order["left"] or rng.random() < 0.02:
                cancel(book, each, 2)
                lists.queues[key] = [other for other in lists.queues[key] if other[0] != -each - 1]
                del live[each]
    assert sum(lists.filled.values()) > 20


def test_hftbacktest_has_our_orders_at_the_same_place(tape: Tape) -> None:
    config = ReplayConfig(queue_model="fifo", partial_fills=False, order_latency_ns=1_000_000)
    found = open_replay(tape, 2_000_000, orders=True)
    actions = random_actions(found, 3_000, config.order_latency_ns, np.random.default_rng(2))
    theirs = by_hftbacktest(found, actions, config)
    assert (theirs == by_matcher(found, actions, config)).all()
    assert (theirs["fill_tick"] > 0).sum() > 300
    assert (theirs != by_matcher(found, actions, config, ahead=1.0)).sum() > 5
    later = replace(config, order_latency_ns=40_000_000)
    assert (theirs != by_matcher(found, actions, later)).sum() > 100


def steps(tape: Tape, **market: object) -> list[float]:
    """Rewards of an episode at random."""
    store = str(tape.path.parents[3])
    chosen = {"name": "replay", "store": store, "split": "all", "queue_model": "fifo", **market}
    env = gym.make("NeuralMM-v0", market=chosen, horizon=60)
    env.reset(seed=1)
    env.action_space.seed(0)
    return [float(env.step(env.action_space.sample())[1]) for _ in range(50)]


def test_an_episode_begins_anywhere_and_both_engines_know_the_book(tape: Tape) -> None:
    matcher = steps(tape, engine="matcher")
    assert matcher == steps(tape, engine="matcher")
    assert any(matcher)
    assert any(steps(tape, engine="hftbacktest", partial_fills=False))


def test_what_has_no_orders_or_no_such_engine_is_refused_with_a_sentence(tape: Tape, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose engine matcher, or partial_fills False"):
        steps(tape)
    path = write_lines(tmp_path / "x.csv", plain(Market(events=300, seed=2)))
    Import("plain", (path,), tmp_path / "store", venue="v", progress=False).run()
    [levels] = tapes(tmp_path / "store")
    with pytest.raises(TapeError, match="it has levels and no single orders"):
        open_replay(levels, 0, orders=True)


def test_the_place_is_that_of_the_orders_before_ours(tape: Tape) -> None:
    """Read from the events by plain dictionaries, as far as the exchange has answered."""
    latency, interval = 2_000_000, 100_000_000
    config = ReplayConfig(
        queue_model="fifo", split="all", order_latency_ns=latency, decision_interval_ns=interval,
        feed_latency_ns=1_000_000, episode_ns=interval,
    )  # fmt: skip
    with MatcherVenue([tape], 1, config) as venue:
        events, span = venue.replays[0].events, venue.spans[0]
        side, bid = BUY, np.zeros((1, 4), np.int64)
        outcome = venue.start(0, span, span.first_ns + 10 * interval)
        arrival, compared = 0, set()
        for decision in range(1_500):
            now = int(outcome["time_ns"])
            if decision % 40 == 0:
                bid[0, 2:] = outcome["best_bid_ticks"] - decision // 40 % 2, 1 + decision % 3
                arrival = now + latency
            outcome = venue.advance(bid)[0]
            if outcome["data_end"]:
                break
            assert venue.ahead is not None
            if venue.ahead[0, 1] < 0:
                arrival = 0  # filled or expired: the next one comes later
            if not arrival:
                continue
            until = int(outcome["time_ns"]) - latency
            before: dict[int, int] = {}
            for event in events[(events["ev"] & EXCH_FLAG > 0) & (events["exch_ts"] <= until)]:
                kind, number = int(event["ev"]) & 0xFF, int(event["order_id"])
                if kind == CLEAR:
                    before = {}
                ours = bool(event["ev"] & BUY_FLAG) == (side == BUY) and event["px"] == bid[0, 2]
                first = kind == ADD and ours and event["exch_ts"] <= arrival
                if first or (kind == MODIFY and number in before):
                    before[number] = int(event["qty"])
                elif kind == CANCEL:
                    before.pop(number, None)
            assert venue.ahead[0, 1] == sum(before.values())
            compared.add(sum(before.values()))
    assert len(compared) > 5


def test_each_of_several_levels_has_its_place(tape: Tape) -> None:
    """Three orders a side, one of them moving every 30 decisions: of each the others before it, counted from
    the events by plain dictionaries, as far as the exchange has answered."""
    latency, interval, levels = 2_000_000, 100_000_000, 3
    config = ReplayConfig(
        queue_model="fifo", split="all", order_latency_ns=latency, decision_interval_ns=interval,
        feed_latency_ns=1_000_000, episode_ns=interval,
    )  # fmt: skip
    with MatcherVenue([tape], 1, config) as venue:
        venue.take_levels(levels)
        events, span = venue.replays[0].events, venue.spans[0]
        events = events[events["ev"] & EXCH_FLAG > 0]
        quotes = np.zeros((1, 2, levels, 2), np.int64)
        outcome = venue.start(0, span, span.first_ns + 10 * interval)
        [paper] = venue._papers
        arrivals: dict[int, int] = {}
        queues: dict[tuple[bool, int], dict[int, tuple[int, int]]] = {}
        compared: list[set[int]] = [set() for _ in range(levels)]
        known = 0
        for decision in range(1_200):
            now = int(outcome["time_ns"])
            if decision % 30 == 0:
                rungs = np.arange(levels) + (np.arange(levels) == levels - 1) * (decision // 30 % 2)
                quotes[0, 0, :, 0] = outcome["best_ask_ticks"] + rungs
                quotes[0, 1, :, 0] = outcome["best_bid_ticks"] - rungs
                quotes[0, :, :, 1] = 1 + np.arange(levels)
            outcome = venue.advance(quotes.reshape(1, -1))[0]
            if outcome["data_end"]:
                break
            for number in paper.working.slots["id"].ravel().tolist():
                arrivals.setdefault(number, now + latency)
            # The others at each price, in the order in which they came: lots and when, by number.
            until = int(outcome["time_ns"]) - latency
            while known < len(events) and events["exch_ts"][known] <= until:
                event = events[known]
                kind, number, known = int(event["ev"]) & 0xFF, int(event["order_id"]), known + 1
                queue = queues.setdefault((bool(event["ev"] & BUY_FLAG), int(event["px"])), {})
                if kind == CLEAR:
                    queues = {}
                elif kind == ADD:
                    queue[number] = int(event["qty"]), int(event["exch_ts"])
                elif kind == MODIFY and number in queue:
                    queue[number] = int(event["qty"]), queue[number][1]
                elif kind == CANCEL:
                    queue.pop(number, None)
            for at, side in enumerate(paper.working.slots):
                for place, slot in enumerate(side):
                    order = paper.book.orders[at * len(side) + place]
                    stands = order["status"] in (ACTIVE, PARTIALLY_FILLED) and not slot["cancelled"]
                    if not slot["id"] or slot["arrives_ns"] or not stands:
                        continue
                    theirs = queues.get((at == 1, int(slot["tick"])), {})
                    arrival = arrivals[int(slot["id"])]
                    before = sum(lots for lots, came in theirs.values() if came <= arrival)
                    assert order["ahead"] == before
                    compared[int(slot["lots"]) - 1].add(before)
    assert min(map(len, compared)) > 5


def test_the_desk_shows_the_exact_place(tape: Tape) -> None:
    """Under `fifo` with our matcher; elsewhere, and on the way to the exchange, the cautious model."""
    store = str(tape.path.parents[3])
    market = {"name": "replay", "store": store, "split": "all", "queue_model": "fifo", "engine": "matcher"}
    env = gym.make("NeuralMM-v0", market=market, features=("orders",), quote={"name": "touch"}, horizon=100)
    shown, exact = [], []
    env.reset(seed=3)
    venue = env.unwrapped._desk.external.venue
    for _ in range(80):
        observation, *_ = env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
        queue = np.maximum([venue.outcomes["best_ask_lots"][0], venue.outcomes["best_bid_lots"][0]], 1)
        known = (venue.ahead[0] >= 0) & (observation[[1, 5]] > 0)
        shown += observation[[2, 6]][known].tolist()
        exact += np.minimum(venue.ahead[0] / queue, 10)[known].tolist()
    assert len(shown) > 30
    assert np.allclose(shown, exact)


@pytest.mark.skipif("NEURALMM_DATA" not in os.environ, reason="NEURALMM_DATA names no folder of captures")
@pytest.mark.parametrize(("format", "symbol"), [("lobster", "MSFT"), ("databento", "ARL")])
def test_both_engines_agree_on_recorded_orders(format: str, symbol: str, tmp_path: Path) -> None:
    """Half of the orders are sent to the price of a trade: few others fill on ARL. Mutants differ on both."""
    paths = sorted((Path(os.environ["NEURALMM_DATA"]).parent / format).glob(f"{symbol}_*"))
    if not paths:
        pytest.skip(f"no {symbol} beside NEURALMM_DATA")
    run(format, paths, tmp_path / "store", trade_side="quote")
    assert Check(tmp_path / "store", orders=4_000, models=(FIFO,), aimed=0.5).run()
