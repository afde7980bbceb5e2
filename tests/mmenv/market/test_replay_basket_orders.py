"""Ladders and market orders on tapes of several symbols: as on each alone, exact in money, within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import make_config
from mmenv.desk.basket import BasketDesk
from mmenv.desk.desk import Desk
from mmenv.engine.state import FEE_DIGITS, HALTED, REDUCING
from mmenv.market.stretch import Stretches, settings_of
from tests.helpers.captures import START_NS, market, write

pytest.importorskip("hftbacktest")

ENGINES = ("hftbacktest", "matcher")
LADDER = {"name": "ladder", "levels": 3}
TAKER = {"name": "taker", "taker_lots": 3, "taker_fee_bp": 4.5}
QUOTES = {"ladder": LADDER, "taker": TAKER}
TWINS = ("BTCUSDT", "TWINUSDT")
OTHERS = ("BTCUSDT", "ETHUSDT")
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One market under two names, and another of other ticks and lots."""
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("store")
    for symbol, seed, tick, lot in (
        ("BTCUSDT", 3, "0.1", "0.001"),
        ("TWINUSDT", 3, "0.1", "0.001"),
        ("ETHUSDT", 4, "0.02", "0.0005"),
    ):
        lines = market(seconds=60, seed=seed, start_ns=START_NS).lines
        path = write(folder / f"{symbol}.gz", [line.replace("BTCUSDT", symbol) for line in lines])
        options = {"tick_size": tick, "lot_size": lot}
        Import("binance", (path,), folder / "store", strict=True, progress=False, **options).run()
    return folder / "store"


def config_of(store: Path, symbols: tuple[str, ...], engine: str, quote: dict, **more: Any):
    tapes = {"name": "replay-basket", "store": str(store), "symbols": symbols, "split": "all"}
    tapes |= {"engine": engine} | more.pop("market", {})
    given = {"horizon": 100, "maker_fee_bp": 1.0, "features": ("trade_book", "inventory", "orders")}
    return make_config(tapes, quote=quote, **given | more)


def near(random: np.random.Generator, n: int, numbers: int) -> np.ndarray:
    """Actions of one asset near the touch that stand for a while."""
    action = random.uniform(-1, 1, (n, numbers)).astype(np.float32)
    action[:, 0] = random.choice([-1.0, -0.95], n)
    action[:, 1] = random.choice([0.0, 0.02], n)
    if numbers > 3:
        action[:, 2:4] = random.choice([-1.0, -0.9, -0.8], (n, 2))
    return action


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", QUOTES)
def test_one_tape_under_two_names_is_twice_what_it_is_alone(store, engine, name):
    """What each asset sees, is filled, pays and holds is what a desk of `replay` has of the same actions."""
    n, risk = 3, {"order_lots": 5, "position_limit": 10}
    config = config_of(store, TWINS, engine, QUOTES[name], risk=risk)
    numbers = len(config.quote.entries)
    basket = BasketDesk(config, n, autoreset=False)
    basket.seed(range(n))
    basket.reset()
    [one, _] = config.market.alone()
    begun = [int(time) for time in basket.external.times[1]]
    span = basket.external.venues[0].spans[0]
    alone = Stretches(**settings_of(one), places=tuple((span, time) for time in begun))
    settings = {"horizon": 100, "maker_fee_bp": 1.0, "features": config.features, "risk": risk}
    desk = Desk(make_config(alone, quote=QUOTES[name], **settings), n, autoreset=False)
    desk.reset()
    random, filled, taken = np.random.default_rng(0), 0, 0
    fields = ("ask_fill", "bid_fill", "ask_edge", "bid_edge", "position", "pnl", "fees", "taken_ask")
    for _ in range(100):
        actions = near(random, n, numbers)
        own = desk.step(actions)
        basket.step(np.tile(actions, (1, 2)))
        seen = basket.lanes.out.observations.reshape(n, 2, -1)
        for asset in range(2):
            assert seen[:, asset].tobytes() == own.observations.tobytes()
            for field in fields:
                assert (basket.get(field)[:, asset] == desk.get(field)).all(), field
        filled += int((desk.get("ask_fill") + desk.get("bid_fill")).sum())
        taken += int((desk.get("taken_ask") + desk.get("taken_bid")).sum())
    assert filled > 20
    assert (taken > 20) == (name == "taker")
    basket.close()
    desk.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", QUOTES)
def test_money_is_exact_by_asset_and_as_a_whole(store, engine, name):
    """Wealth and fees recounted from the venues' fills, market orders at their own fee, three of a symbol's
    lots in one of ours."""
    n, lots = 3, (1, 3)
    more = {"market": {"lots": lots, "partial_fills": False}, "risk": {"order_lots": 4, "position_limit": 9}}
    config = config_of(store, OTHERS, engine, QUOTES[name], **more)
    desk = BasketDesk(config, n, autoreset=False)
    desk.seed(range(n))
    desk.reset()
    feed, unit, worths = desk.external, config.market.price_scale, config.market.together.worths
    prices = np.array([config.market.measured.multiples["binance-usdm", symbol].price for symbol in OTHERS])
    rates = [round(fee * 1e-4 * FEE_DIGITS) for fee in (1.0, TAKER["taker_fee_bp"])]
    cash, held, paid = np.zeros((3, n, 2), np.int64)
    mid, random, fills, taken = desk.get("mid").astype(np.int64), np.random.default_rng(0), 0, 0
    for _ in range(100):
        numbers = len(config.quote.entries)
        actions = np.hstack([near(random, n, numbers) for _ in OTHERS])
        rows = desk.step(actions).ledger_rows
        told, took = feed._outcomes.reshape(n, 2), feed._taken.reshape(n, 2)
        for rate, sold, bought, source in (
            (rates[0], "ask_fill", "bid_fill", told), (rates[1], "sold", "bought", took)
        ):  # fmt: skip
            both = np.stack(
                [source[f"{side}_{of}"] for side in (sold, bought) for of in ("lots", "notional")]
            )
            assert not (both % np.array(lots)).any()  # whole orders alone
            out, got, into, spent = both // np.array(lots)
            held += into - out
            cash += 2 * prices * (got - spent)
            paid += 2 * prices * (got + spent) * rate
            fills += int((out + into).sum())
        taken += int((took["sold_lots"] + took["bought_lots"]).sum())
        mid, fees = desk.get("mid").astype(np.int64), desk.get("fees").astype(np.int64)
        assert (desk.get("position") == held).all()
        assert (desk.get("pnl").astype(np.int64) == cash + held * mid).all()
        assert (fees == paid).all()
        assert (np.abs(held) <= 9).all()
        wealth = (cash + held * mid - paid / FEE_DIGITS) / unit * worths
        np.testing.assert_allclose(rows["wealth"], wealth.sum(axis=1), rtol=1e-12, atol=1e-9)
        for k in range(2):
            np.testing.assert_allclose(rows[f"asset_{k + 1}_wealth"], wealth[:, k], rtol=1e-12, atol=1e-9)
        gained = rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(desk.out.rewards, gained - rows["inventory_penalty"], rtol=1e-9, atol=1e-9)
    assert fills > 30
    assert (taken > 20) == (name == "taker")
    desk.close()


@settings(max_examples=8, deadline=None)
@given(
    engine=st.sampled_from(ENGINES),
    name=st.sampled_from([*QUOTES]),
    seed=st.integers(0, 2**30),
    limit=st.integers(1, 6),
    loss=st.floats(0.5, 60),
    garbage=st.lists(st.sampled_from(GARBAGE), min_size=2, max_size=7),
)
def test_limits_hold_for_each_asset_whatever_the_policy_says(store, engine, name, seed, limit, loss, garbage):
    """Position and all orders together; what reduces or is halted sends nothing that adds."""
    risk = {"daily_loss_limit": loss, "order_lots": limit, "position_limit": limit}
    config = config_of(store, OTHERS, engine, QUOTES[name], risk=risk)
    n, numbers = 2, len(config.quote.entries)
    desk, random = BasketDesk(config, n, autoreset=False), np.random.default_rng(seed)
    desk.seed(range(n))
    desk.reset()
    for _ in range(40):
        action = np.hstack([near(random, n, numbers) for _ in OTHERS])
        hit = random.random(action.shape) < 0.03
        action[hit] = random.choice(np.array(garbage, np.float32), hit.sum())
        before = desk.get("position")
        desk.step(action)
        told, state = desk.external._outcomes.reshape(n, 2), desk.get("risk_state")
        quotes = desk.external._quotes.reshape(n, 2, 2, -1)[..., 1::2].sum(axis=-1)
        asks, bids, taker = quotes[..., 0], quotes[..., 1], desk.get("taker_lots")
        assert (told["position_lots"] + told["bid_open_lots"] <= limit).all()
        assert (told["position_lots"] - told["ask_open_lots"] >= -limit).all()
        asks, bids = asks + np.maximum(-taker, 0), bids + np.maximum(taker, 0)
        assert (bids <= limit - before).all()
        assert (asks <= limit + before).all()
        finite = np.isfinite(action.reshape(n, 2, numbers)).all(axis=2)
        assert not (asks + bids)[(state == HALTED) | ~finite].any()
        reducing = state == REDUCING
        assert (asks <= np.maximum(before, 0))[reducing].all()
        assert (bids <= np.maximum(-before, 0))[reducing].all()
    desk.close()
