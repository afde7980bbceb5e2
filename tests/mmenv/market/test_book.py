"""The order book: our place in the queue against an independent matcher, pairing, limits, stylised facts."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from mmenv.desk.desk import Desk
from mmenv.market.book import Book, check_presets
from mmenv.market.book_presets import FILE, PRESETS, read_presets
from mmenv.measure import facts
from mmenv.measure.record import record_market

# Queues so thin and orders so many that a few thousand decisions meet every case.
BUSY = {
    "name": "book",
    "preset": "binance-usdm-btc",
    "start_price": 1000,
    "unit": 3.0,
    "volatility": 6.0,
    "jump_size": 5.0,
    "width": 2.0,
    "impact": 1.0,
    "order_rate": 4.0,
    "order_size": 1.0,
    "size_exponent": 1.0,
    "max_order_size": 40.0,
    "queue": 12.0,
    "queue_rate": 4.0,
    "refill": 6.0,
    "depth": 3.0,
    "follow": 0.5,
    "close_rate": 5.0,
}


def started(n: int, seed: int, market: dict, **settings) -> Desk:  # type: ignore[no-untyped-def]
    config = make_config(market, **{"horizon": 100_000, "quote": {"max_skew": 3.0}, **settings})
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(seed, seed + n))
    desk.reset()
    return desk


def inside(desk: Desk, name: str) -> np.ndarray:
    """A field of the market's own state, (n,)."""
    return desk.stages.market[0].own[name].reshape(-1)[: desk.n].copy()


def actions(random: np.random.Generator, n: int, still: float = 0.8) -> np.ndarray:
    """Near and far quotes that stay for a while, now and then none; without end."""
    action = random.uniform(-1, 1, (n, 2)).astype(np.float32)
    while True:
        new = random.uniform(-1, [0.0, 1.0], (n, 2)).astype(np.float32)
        new[random.random(n) < 0.1] = np.nan
        keep = random.random(n) < still
        action = np.where(keep[:, None], action, new)
        yield np.ascontiguousarray(action)


@dataclass
class Order:
    """One resting order as an exchange would keep it: `side` +1 to sell."""

    side: int
    price: int
    placed: int
    left: int
    ahead: int


def matched(order: Order, now: dict[str, int], depth: int) -> tuple[int, int, int]:
    """Fills of the order in one micro-step: (by trades, by the opposite touch, cancels ahead).

    Written from the description of the market, queue by queue, without a look at its code.
    """
    mine, other = ("ask", "bid") if order.side > 0 else ("bid", "ask")
    touch, queue = int(now[f"old_{mine}"]), int(now[f"old_{mine}_queue"])
    volume = int(now["buy" if order.side > 0 else "sell"])
    better = (order.price - touch) * order.side  # ticks behind the touch
    if better > 0:
        volume = max(volume - queue - depth * (better - 1), 0)
    eaten = min(volume, order.ahead)
    order.ahead -= eaten
    traded = min(volume - eaten, order.left)
    cancelled = 0
    if better == 0:
        share = np.float32(order.ahead) * now[f"{mine}_cancel"] + now["rounding"]
        cancelled = min(int(share), order.ahead)
        order.ahead -= cancelled
    if (order.price - now[mine]) * order.side < 0:
        order.ahead = 0
    elif order.price == now[mine]:
        order.ahead = min(order.ahead, int(now[f"{mine}_queue"]))
    crossed = 0
    if (now[other] - order.price) * order.side >= 0:
        crossed = min(order.left - traded, int(now[f"{other}_queue"]))
    order.left -= traded + crossed
    return traded, crossed, cancelled


FLOW = ("old_ask", "old_bid", "old_ask_queue", "old_bid_queue", "ask", "bid", "ask_queue", "bid_queue", "buy",
        "sell", "ask_cancel", "bid_cancel", "rounding")  # fmt: skip


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**40), lots=st.integers(1, 9))
def test_queue_against_an_independent_matcher(seed, lots):
    """Place in the queue, fills and cash of random policies, order by order, exactly."""
    n = 24
    desk = started(
        n,
        seed,
        {**BUSY, "step_seconds": 0.02, "substeps": 1},
        risk={"order_lots": lots, "position_limit": 12},
    )
    resting: dict[tuple[int, int], Order] = {}
    cash = np.zeros(n, np.int64)
    position, mid = desk.get("position").astype(np.int64), desk.get("mid").astype(np.int64)
    seen = dict.fromkeys(("behind", "touch", "inside", "kept", "partial", "crossed", "cancelled"), 0)
    touches = {1: ("ask", "ask_queue"), -1: ("bid", "bid_queue")}
    for action, _ in zip(actions(np.random.default_rng(seed), n), range(150), strict=False):
        book_before = {name: inside(desk, name).tolist() for pair in touches.values() for name in pair}
        desk.step(action)
        flow = {name: inside(desk, name) for name in FLOW}
        for side, names in touches.items():
            name = names[0]
            touch, queue = (book_before[key] for key in names)
            wanted = (mid + side * desk.get(f"{name}_distance")) // 2
            sizes, fills = desk.get(f"{name}_lots"), desk.get(f"{name}_fill")
            ahead, left = inside(desk, f"{name}_ahead"), inside(desk, f"{name}_left")
            for i in range(n):
                now = {key: values[i] for key, values in flow.items()}
                size, price, order = int(sizes[i]), int(wanted[i]), resting.get((i, side))
                if (
                    order
                    and order.price == price
                    and order.left
                    and size in (*range(order.left + 1), order.placed)
                ):
                    order.left = min(order.left, size)
                    seen["kept"] += 1
                else:
                    place = np.sign((price - touch[i]) * side)
                    order = resting[i, side] = Order(
                        side, price, size, size, {-1: 0, 0: queue[i], 1: 3}[place]
                    )
                    seen[{-1: "inside", 0: "touch", 1: "behind"}[place]] += size > 0
                traded, crossed, cancelled = matched(order, now, depth=3)
                assert fills[i] == traded + crossed
                assert left[i] == order.left
                assert ahead[i] == order.ahead
                cash[i] += side * 2 * order.price * (traded + crossed)
                position[i] -= side * (traded + crossed)
                seen["partial"] += 0 < traded + crossed < order.placed
                seen["crossed"] += crossed > 0
                seen["cancelled"] += cancelled > 0
        mid = desk.get("mid").astype(np.int64)
        assert (desk.get("position") == position).all()
        assert (desk.get("pnl") == cash + position * mid).all()
    assert all(seen[case] for case in seen if case != "partial" or lots > 1), seen


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    latency=st.integers(0, 4),
    lots=st.integers(1, 6),
    limit=st.integers(1, 6),
)
def test_fills_are_bounded(seed, latency, lots, limit):
    """The position limit, order sizes and places in the queue hold, with latency too."""
    n = 32
    desk = started(
        n,
        seed,
        {**BUSY, "latency_steps": latency},
        risk={"order_lots": min(lots, limit), "position_limit": limit},
    )
    fills = 0
    for action, _ in zip(actions(np.random.default_rng(seed), n), range(200), strict=False):
        resting = {name: inside(desk, name) for name in ("ask_price", "bid_price", "ask_left", "bid_left")}
        places = {name: inside(desk, name) for name in ("ask_ahead", "bid_ahead")}
        desk.step(action)
        assert (np.abs(desk.get("position")) <= limit).all()
        for name in ("ask", "bid"):
            fill, asked = desk.get(f"{name}_fill"), desk.get(f"{name}_lots")
            fills += fill.sum()
            late, left = inside(desk, f"{name}_late"), inside(desk, f"{name}_left")
            assert (late <= resting[f"{name}_left"]).all()
            assert (fill - late <= np.maximum(asked - late, 0)).all()
            assert (left >= 0).all()
            if latency == 0:
                assert (late == 0).all()
            kept = (left > 0) & (resting[f"{name}_left"] >= left) & (inside(desk, f"{name}_placed") == asked)
            kept &= (inside(desk, f"{name}_price") == resting[f"{name}_price"]) & (asked > 0)
            kept &= resting[f"{name}_left"] > 0
            assert (inside(desk, f"{name}_ahead") <= places[f"{name}_ahead"])[kept].all()
    assert fills > 0


def test_latency_lets_the_old_quote_fill():
    """A quote withdrawn still fills with latency, and never without."""
    counts = []
    for latency in (0, 4):
        desk = started(64, 0, {**BUSY, "latency_steps": latency})
        near, none = np.full((64, 2), -1, np.float32), np.full((64, 2), np.nan, np.float32)
        near[:, 1] = 0
        late = 0
        for _ in range(40):
            desk.step(near)
            desk.step(none)
            late += int((desk.get("ask_fill") + desk.get("bid_fill")).sum())
        counts.append(late)
    assert counts[0] == 0
    assert counts[1] > 50


MARKET = ("mid", "spread", "best_bid_lots", "best_ask_lots", "buy_lots", "sell_lots", "trades", "trade_value")


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**40), latency=st.integers(0, 4))
def test_the_market_does_not_see_us(seed, latency):
    """The path is the same whatever is quoted, and for any number of environments: policies are paired."""
    market = {"name": "book", "preset": "binance-usdm-btc", "latency_steps": latency}
    large = {"order_lots": 500, "position_limit": 1000}
    busy, idle, alone = (
        started(n, seed, market, risk=risk) for n, risk in ((37, large), (37, {}), (1, large))
    )
    no_quote = np.full((37, 2), np.nan, np.float32)
    fills = 0
    for action, _ in zip(actions(np.random.default_rng(seed), 37), range(120), strict=False):
        first = busy.step(action)
        idle.step(no_quote)
        only = alone.step(action[:1])
        assert first.observations[:1].tobytes() == only.observations.tobytes()
        assert first.rewards[0] == only.rewards[0]
        assert (first.ledger[:, 0] == only.ledger[:, 0]).all()
        for name in MARKET:
            assert (busy.get(name) == idle.get(name)).all(), name
        fills += (busy.get("ask_fill") + busy.get("bid_fill")).sum()
    assert fills > 0


GIVEN_UP = {
    "large-tick": {
        "volatility: correlation of absolute 1 s returns 10 s apart",
        "flow: R2 of order-flow imbalance and the 10 s return",
        "flow: R2 of order-flow imbalance and the next 10 s return",
        "book: AUC of the imbalance for the move in 0.1 s",  # no decision is so short
        "book: AUC of the imbalance for the move in 1 s",
        "book: AUC of the imbalance for the move in 5 s",
        "maker: mark-out at the touch after 1 s (std of a move)",
        "maker: mark-out at the touch after 5 s (std of a move)",
        "tails: Hill index of 10 s returns",
    },
}
"""Facts that a preset gives up, a stylised one so that reading the flow pays (docs/markets.md)."""


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.endswith("-top-tier")])
def test_facts_hold(preset):
    """Every preset shows every stylised fact on ten hours of market, but for those it gives up."""
    found = record_market({"name": "book", "preset": preset}, environments=30, seconds=1200, seed=1)
    regime = facts.regime_of(found)
    measured = [(fact.name, fact.value(found), fact.accepted(regime)) for fact in facts.FACTS]
    failed = [one for one in measured if not one[2][0] <= one[1] <= one[2][1]]
    assert not {name for name, *_ in failed} - GIVEN_UP.get(preset, set()), failed


def test_makers_flee_from_large_impact():
    """What is left of a queue behind an order of large impact goes with it; with no flight it stays."""
    shares = []
    for flight in (0.0, 1.0):
        desk = started(64, 0, {"name": "book", "preset": "nasdaq-msft", "flight": flight, "substeps": 1,
                               "step_seconds": 0.02})  # fmt: skip
        gone = ordered = 0
        for _ in range(2000):
            desk.step(np.zeros((64, 2), np.float32))
            queue, bought, moved = (inside(desk, name) for name in ("old_ask_queue", "buy", "ask"))
            some = (bought > 0) & (bought < queue)
            gone += int((some & (moved > inside(desk, "old_ask"))).sum())
            ordered += int(some.sum())
        shares.append(gone / ordered)
    assert shares[0] < 0.02 < shares[1]


def test_the_price_goes_as_far_as_an_order_does():
    """With `sweep` 1 the price leaves each tick of `depth` lots that an order takes; with 0 it may stay."""
    stayed = []
    for sweep in (0.0, 1.0):
        desk = started(64, 0, {**BUSY, "sweep": sweep, "substeps": 1, "step_seconds": 0.02})
        short = swept = 0
        for _ in range(500):
            desk.step(np.zeros((64, 2), np.float32))
            bought, queue, old, new = (
                inside(desk, each) for each in ("buy", "old_ask_queue", "old_ask", "ask")
            )
            ticks = np.maximum(bought - queue, 0) // 3  # `depth` of BUSY
            short += int(((ticks > 0) & (new - old <= ticks)).sum())
            swept += int((ticks > 0).sum())
        assert swept > 100
        stayed.append(short)
    assert stayed[0] > 0 == stayed[1]


@pytest.mark.parametrize("like", ["nowhere", "large-tick"])
def test_a_preset_like_another(tmp_path, like):
    file = tmp_path / "presets.toml"
    file.write_text(f'{FILE.read_text()}\n[mine]\nlike = "{like}"\nqueue = 33.0\n'
                    "[mine.environment]\nmaker_fee_bp = 0.1\n")  # fmt: skip
    if like == "nowhere":
        with pytest.raises(ConfigError, match=r"mine\.like = 'nowhere' is not possible: name a preset above"):
            read_presets(file)
        return
    mine, theirs = read_presets(file)["mine"], PRESETS[like]
    assert mine == {**theirs, "queue": 33.0, "environment": {**theirs["environment"], "maker_fee_bp": 0.1}}


@pytest.mark.parametrize("name", list(Book.later))
def test_a_configuration_from_before_a_parameter(name):
    """A configuration comes back from what it tells of itself, whatever its preset says of the rest."""
    config = make_config({"name": "book", "preset": "nasdaq-msft", name: Book.later[name]})
    told = json.loads(json.dumps(config.to_dict()))
    assert name not in told["market"]
    assert make_config(**told) == config
    assert PRESETS["nasdaq-msft"][name] == getattr(Book(preset="nasdaq-msft"), name) != Book.later[name]


def test_price_is_not_predictable_from_nothing():
    """The mean move is zero; volume and price have the scale that observations assume."""
    found = record_market("book", environments=64, seconds=300, seed=2)
    market = make_config("book").market
    total = found.blocks["mid"][:, -1] - found.blocks["mid"][:, 0]
    assert abs(total.mean()) < 4 * total.std() / np.sqrt(len(total))
    assert 0.5 < found.scale / market.price_scale < 2
    volume = (found.blocks["buy_lots"] + found.blocks["sell_lots"])[:, 1:].mean()
    assert 0.5 < volume / market.lot_scale < 2


def test_settings():
    config = make_config({"name": "book", "preset": "binance-usdm-btc", "width": 30.0, "latency_steps": 2})
    assert make_config(**json.loads(json.dumps(config.to_dict()))) == config
    for bad in (
        {"preset": "nowhere"},
        {"width": -1.0},
        {"latency_steps": 5},
        {"excitation": (0.6, 0.6)},
        {"expected": "much"},
        {"queue_events": 100.0},
        {"order_rate": 500.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Book(**{"preset": "binance-usdm-btc"} | bad)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("quue = 1.0", r"'binance-usdm-btc'.* no setting 'quue'.* Did you mean 'queue'"),
        ("", r"'binance-usdm-btc'.* has no 'queue': give it"),
        ("queue = -1.0", r"queue = -1.0 is not possible: it must be a finite number from 1 to"),
        ("queue = nan", r"queue = nan is not possible"),
        ("queue", r"is not readable .*line \d+.*: give a TOML file"),
    ],
)
def test_a_preset_that_cannot_be_gets_a_sentence(tmp_path, line, words):
    bad = tmp_path / "presets.toml"
    bad.write_text(FILE.read_text().replace("queue = 5_500.0", line))
    with pytest.raises(ConfigError, match=f"presets.toml.*{words}"):
        check_presets(read_presets(bad), bad)
