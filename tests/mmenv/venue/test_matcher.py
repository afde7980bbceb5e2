"""Our matcher against hftbacktest, order by order, and against the rules it states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data.events import BUY_FLAG, EXCH_FLAG, Replay, open_replay
from mmenv.data.importer import Import
from mmenv.data.rows import BUY, SELL
from mmenv.times import MILLISECOND
from mmenv.venue.matcher import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    FILLED,
    PARTIALLY_FILLED,
    OrderBook,
    apply,
    cancel,
    empty_book,
    place_order,
    set_level,
    trade,
)
from mmenv.venue.settings import QUEUE_MODELS, ReplayConfig
from tests.helpers.captures import market, write

ORDERS = 1000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", market(seconds=40, seed=21).lines)
    [([tape], _)] = Import("binance", (path,), folder / "store", progress=False).run()
    return open_replay(tape, 2 * MILLISECOND)


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("model", QUEUE_MODELS)
def test_both_engines_agree_on_every_order_and_mutants_do_not(
    recorded: Replay, model: str, partial: bool
) -> None:
    pytest.importorskip("hftbacktest", reason="the extra `replay` is not installed")
    from benchmarks.crosscheck import by_hftbacktest, by_matcher, random_actions

    config = ReplayConfig(queue_model=model, partial_fills=partial)
    actions = random_actions(recorded, ORDERS, config.order_latency_ns, np.random.default_rng(3))
    theirs = by_hftbacktest(recorded, actions, config)
    ours = by_matcher(recorded, actions, config)
    assert (ours == theirs).all()
    seen = np.bincount(theirs["status"], minlength=6)
    assert min(seen[[EXPIRED, FILLED, CANCELLED]]) > 50
    later = replace(config, order_latency_ns=config.order_latency_ns + MILLISECOND)
    assert (by_matcher(recorded, actions, config, ahead=1.0) != theirs).any()
    assert (by_matcher(recorded, actions, later) != theirs).any()


def test_orders_sent_one_by_one_fare_as_in_the_compiled_loop(recorded: Replay) -> None:
    """What Python calls for each row and order does as the compiled loop."""
    pytest.importorskip("hftbacktest", reason="the extra `replay` is not installed")
    from benchmarks.crosscheck import by_matcher, random_actions

    config = ReplayConfig(queue_model="power-prob")
    latency = config.order_latency_ns
    actions = random_actions(recorded, ORDERS, latency, np.random.default_rng(4))
    expected = by_matcher(recorded, actions, config)
    book = empty_book(recorded.low_tick, recorded.high_tick, ORDERS, "power-prob")
    waiting = list(actions)
    for event in recorded.events[(recorded.events["ev"] & EXCH_FLAG) != 0]:
        now = int(event["exch_ts"])
        while waiting and waiting[0]["time_ns"] + latency < now:
            act(book, waiting.pop(0), latency)
        kind, side = int(event["ev"]) & 0xFF, BUY if int(event["ev"]) & BUY_FLAG else SELL
        apply(book, kind, side, int(event["px"]), int(event["qty"]), now)
    for action in waiting:
        act(book, action, latency)
    assert (book.orders["status"] == expected["status"]).all()
    assert (book.orders["time_ns"] == expected["time_ns"]).all()
    assert (book.orders["left"] == expected["left"]).all()


def act(book: OrderBook, action: np.void, latency: int) -> None:
    order, at = int(action["order"]), int(action["time_ns"]) + latency
    if action["lots"]:
        place_order(book, order, int(action["side"]), int(action["tick"]), int(action["lots"]), at)
    else:
        cancel(book, order, at)


def some_book(model: str, partial: bool = True) -> OrderBook:
    book = empty_book(80, 120, 4, model, 3.0, partial)
    for step in range(1, 6):
        set_level(book, BUY, 100 - step, 10, 0)
        set_level(book, SELL, 100 + step, 10, 0)
    return book


moves = st.lists(
    st.tuples(
        st.sampled_from(("depth", "trade")),
        st.sampled_from((BUY, SELL)),
        st.integers(96, 104),
        st.integers(0, 20),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(moves, st.sampled_from(QUEUE_MODELS), st.booleans(), st.integers(1, 8))
def test_the_rules_hold_for_any_market(found: list, model: str, partial: bool, lots: int) -> None:
    book = some_book(model, partial)
    for order, (side, tick) in enumerate(((BUY, 99), (BUY, 97), (SELL, 101), (SELL, 103))):
        assert place_order(book, order, side, tick, lots, 1) == ACTIVE
        assert book.orders["ahead"][order] == 10
    done = {EXPIRED, FILLED, CANCELLED}
    for now, (kind, side, tick, size) in enumerate(found, 2):
        before = book.orders.copy()
        best = book.best.copy()
        if kind == "depth":
            set_level(book, side, tick, size, now)
        elif size:
            trade(book, side, tick, size, now)
        after = book.orders
        assert (after["ahead"] <= np.maximum(before["ahead"], 0)).all()
        assert (after["left"] <= before["left"]).all()
        for was, is_ in zip(before, after, strict=True):
            if was["status"] in done:
                assert was == is_
                continue
            filled = was["left"] - is_["left"]
            assert is_["status"] == (
                FILLED if not is_["left"] else PARTIALLY_FILLED if is_["left"] < lots else ACTIVE
            )
            if not filled:
                continue
            assert is_["time_ns"] == now
            opposite = side == -was["side"]
            beyond = (tick - was["tick"]) * side
            if kind == "depth":
                # Only an opposite quote that reaches us fills us: never a cancel.
                assert opposite
                assert size
                assert beyond >= 0
                assert not is_["left"]
                assert (tick - best[0 if side == BUY else 1]) * side > 0
            else:
                assert opposite
                assert beyond >= 0
                assert beyond > 0 or was["ahead"] < size
                assert beyond > 0 or not partial or filled <= size
                assert beyond == 0 or not is_["left"]
        if book.best[0] > 0 and book.best[1] < 1000:
            assert book.best[0] < book.best[1]


def test_post_only_cancel_and_refusals() -> None:
    book = some_book("risk-adverse")
    assert place_order(book, 0, BUY, 101, 1, 5) == EXPIRED
    assert place_order(book, 1, SELL, 99, 1, 5) == EXPIRED
    assert place_order(book, 2, BUY, 100, 1, 5) == ACTIVE
    assert cancel(book, 2, 6)
    assert not cancel(book, 2, 7)
    assert not cancel(book, 0, 7)
    assert book.orders["status"].tolist()[:3] == [EXPIRED, EXPIRED, CANCELLED]
    for tick, lots in ((79, 1), (121, 1), (100, 0)):
        with pytest.raises(ValueError, match="ticks are 80 to 120"):
            place_order(book, 3, BUY, tick, lots, 8)
    with pytest.raises(ValueError, match="queue_model = 'lifo'"):
        empty_book(1, 9, 1, "lifo")
    with pytest.raises(ValueError, match="holds no prices"):
        empty_book(9, 9, 1)


def test_agreement_on_a_real_tape(tmp_path: Path) -> None:
    import gzip
    import itertools
    import os

    pytest.importorskip("hftbacktest", reason="the extra `replay` is not installed")
    if "NEURALMM_DATA" not in os.environ:
        pytest.skip("NEURALMM_DATA names no folder of captures")
    from benchmarks.crosscheck import Check

    with gzip.open(Path(os.environ["NEURALMM_DATA"]) / "usdm/ethusdt_20240808.gz", "rt") as file:
        lines = [line.rstrip("\n") for line in itertools.islice(file, 15_000)]
    path = write(tmp_path / "eth.gz", lines)
    Import("binance", (path,), tmp_path / "store", progress=False).run()
    assert Check(tmp_path / "store", orders=3000).run()
