"""One compiled call from tick to orders, for every action: the orders of the desk, to the last byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hftbacktest")

from mmenv import make_config
from mmenv.live import journal
from mmenv.live.journal import Memory
from mmenv.live.session import Session
from mmenv.market.live import Live
from mmenv.venue.outcome import TAKEN
from policies.bundle import Bundle
from policies.tick import TickToQuote, order_names, record
from tests.helpers.bundles import random_bundle
from tests.helpers.sessions import rows, run, setup

ACTIONS: dict[str, dict[str, Any]] = {
    "spread-skew": {"quote": {}, "risk": {"order_lots": 2}},
    "size": {"quote": {"name": "size"}, "risk": {"order_lots": 5}},
    "touch": {"quote": {"name": "touch"}},
    "taker": {"quote": {"name": "taker", "taker_lots": 3}, "risk": {"taker_spacing": 2}},
    "touch-taker": {"quote": {"name": "touch-taker", "taker_threshold": 0.15}},
    "ladder": {"quote": {"name": "ladder", "levels": 3, "max_step": 2.0}, "risk": {"order_lots": 6}},
}


def bundle_of(name: str, features: tuple[str, ...]) -> Bundle:
    """Quotes near the touch, so that some are filled."""
    market = {"name": "book", "preset": "binance-usdm-btc"}
    config = make_config(market, horizon=600, features=features, **ACTIONS[name])
    return random_bundle(config, 0.0 if name.startswith("touch") else -0.95)


@pytest.mark.parametrize("name", ACTIONS)
def test_outcomes_give_the_orders_of_their_session(name: str) -> None:
    """Of a simulated market, episode after episode; features of our own orders are left out, whose places a
    simulated market knows better."""
    bundle = bundle_of(name, make_config("brownian").features)
    bundle = replace(bundle, config=replace(bundle.config, horizon=150))
    session, tick = record(bundle, bundle.config, 500, seed=5), TickToQuote(bundle)
    takes = bundle.config.quote.taking is not None
    assert tick.names == order_names(bundle.config.quote)
    for k, (outcome, first) in enumerate(zip(session.outcomes, session.starts, strict=True)):
        told = (outcome, session.taken[k]) if takes else (outcome,)
        assert np.array_equal(tick.start(outcome) if first else tick.quote(*told), session.orders[k]), k
    assert session.starts.sum() == 4
    assert len(np.unique(session.orders, axis=0)) > 20
    assert session.outcomes["ask_fill_lots"].sum() + session.outcomes["bid_fill_lots"].sum() > 5
    taken = session.taken["sold_lots"].sum() + session.taken["bought_lots"].sum()
    assert (taken > 5) == takes
    lots = session.orders[:, 1 : 4 * bundle.config.quote.side_orders : 2]
    assert (lots > 0).all(axis=1).any()


@pytest.mark.parametrize("name", ACTIONS)
def test_a_desk_on_paper_gives_the_same_orders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all features, queues and orders among them, and fills of its own orders."""
    bundle = bundle_of(name, ("order_flow", "trade_book", "inventory", "clock", "orders", "queues"))
    asked: list[list[int]] = []
    quotes, market_order = Live.Link.quotes, Live.Link.market_order

    def note_quotes(self: Live.Link, core: np.ndarray) -> np.ndarray:
        asked.append(quotes(self, core).tolist())
        return np.array(asked[-1])

    def note_market_order(self: Live.Link, core: np.ndarray) -> tuple[int, int]:
        asked[-1] += (found := market_order(self, core)) if len(self._takers) else ()
        return found if len(self._takers) else (0, 0)

    monkeypatch.setattr(Live.Link, "quotes", note_quotes)
    monkeypatch.setattr(Live.Link, "market_order", note_market_order)
    live = setup()
    config = replace(bundle.on(live.market), maker_fee_bp=0.0)
    sink = Memory()
    session = run(Session(replace(live, config=config), bundle.stream(), sink), rows())
    kind = session.decision.dtype
    made = np.concatenate([np.frombuffer(f.payload, kind) for f in sink.frames if f.kind == journal.DECISION])
    assert len(made) == len(asked) > 300
    assert not made["state"].any()
    tick = TickToQuote(bundle, config, window=(live.low_tick, live.high_tick))
    told = taken(sink)
    for k, outcome in enumerate(made["outcome"]):
        more = (told[k],) if config.quote.taking is not None else ()
        found = tick.quote(outcome, *more) if k else tick.start(outcome)
        assert found.tolist() == asked[k], k
    assert session.fills > 5


def taken(sink: Memory) -> np.ndarray:
    """TAKEN of each decision of a journal, by its fills."""
    market, found, now = set(), [], np.zeros(1, TAKEN)
    for frame in sink.frames:
        if frame.kind == journal.TAKERS:
            market |= {*frame.array()["id"].tolist()}
        elif frame.kind == journal.FILLS:
            for fill in frame.array():
                if int(fill["id"]) in market:
                    verb = "bought" if fill["side"] > 0 else "sold"
                    now[f"{verb}_lots"] += fill["lots"]
                    now[f"{verb}_notional"] += fill["lots"] * fill["tick"]
        elif frame.kind == journal.DECISION:
            found.append(now.copy())
            now[:] = 0
    return np.concatenate(found)


def test_what_market_orders_filled_is_told_to_those_who_send_any() -> None:
    bundle = bundle_of("spread-skew", make_config("brownian").features)
    session, tick = record(bundle, bundle.config, 2, seed=5), TickToQuote(bundle)
    tick.start(session.outcomes[0])
    with pytest.raises(TypeError, match="sends no market orders"):
        tick.quote(session.outcomes[1], session.taken[1])


@pytest.mark.parametrize("name", ["ladder", "taker"])
def test_the_position_limit_holds(name: str) -> None:
    bundle = bundle_of(name, make_config("brownian").features)
    outcome, tick = record(bundle, bundle.config, 1, seed=5).outcomes[0], TickToQuote(bundle)
    limit = bundle.config.risk.position_limit
    for position in (limit, -limit):
        found = dict(zip(tick.names, tick.start(outcome, position=position).tolist(), strict=True))
        bids = sum(lots for entry, lots in found.items() if entry.startswith("bid_lots"))
        asks = sum(lots for entry, lots in found.items() if entry.startswith("ask_lots"))
        market = found.get("market_lots", 0)
        assert position + bids + max(market, 0) <= limit
        assert position - asks + min(market, 0) >= -limit
        assert bids + asks + abs(market) > 0
