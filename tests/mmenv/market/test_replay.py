"""Recorded tapes behind NeuralMM-v0: the same desk, the same identity, the same policies."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import mmenv
from mmenv import ConfigError, make_config
from mmenv.desk.desk import Desk
from mmenv.market.replay import measure, spans_of
from mmenv.market.stretch import Stretches
from mmenv.market.units import common_unit
from mmenv.observation import observation_names
from policies.make import make_policy
from tests.helpers.captures import market, write
from train.baselines import make_baselines
from train.evaluate import compare, on_tape

pytest.importorskip("hftbacktest")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", market(seconds=120, seed=3).lines)
    Import("binance", (path,), folder / "store", strict=True, progress=False).run()
    return folder / "store"


def replay(store: Path, **settings):
    return {"name": "replay", "store": str(store), "split": "all", **settings}


def test_identity_holds_on_a_tape(store):
    """Cash and position recounted from the reported fills give the ledger's wealth, to the last bit."""
    config = make_config(replay(store), horizon=100, maker_fee_bp=2.0)
    desk = Desk(config, 4, autoreset=False)
    desk.seed(range(4))
    desk.reset()
    mid = desk.get("mid").astype(np.int64)
    cash, position = np.zeros(4, np.int64), np.zeros(4, np.int64)
    random, fills = np.random.default_rng(0), 0
    for _ in range(100):
        step = desk.step(np.ascontiguousarray(random.uniform(-1, -0.7, (4, 2)), np.float32))
        bought, sold = desk.get("bid_fill").astype(np.int64), desk.get("ask_fill").astype(np.int64)
        cash += sold * mid + desk.get("ask_edge").astype(np.int64)
        cash -= bought * mid - desk.get("bid_edge").astype(np.int64)
        position += bought - sold
        mid = desk.get("mid").astype(np.int64)
        fills += int((bought + sold).sum())
        start = desk.get("pnl").astype(np.int64)
        assert (start == cash + position * mid).all()
        assert (position == desk.get("position")).all()
        assert (np.abs(position) <= config.risk.position_limit).all()
        # What the venue itself counts.
        assert (position == desk.external.venue.outcomes["position_lots"]).all()
    assert fills > 10
    assert step.terminated.all()
    assert (desk.get("fees") > 0).any()


def test_single_and_vector_replay_the_same_bytes(store):
    envs = gym.make_vec("NeuralMM-v0", num_envs=3, market=replay(store), horizon=40)
    seen, _ = envs.reset(seed=5)
    singles = [gym.make("NeuralMM-v0", market=replay(store), horizon=40) for _ in range(3)]
    for i, env in enumerate(singles):
        assert env.reset(seed=5 + i)[0].tobytes() == seen[i].tobytes()
    for action in np.random.default_rng(1).uniform(-1, 0, (100, 3, 2)).astype(np.float32):
        seen, rewards, terminated, truncated, info = envs.step(action)
        for i, env in enumerate(singles):
            observation, reward, done, cut, _ = env.step(action[i])
            assert (reward, done, cut) == (rewards[i], terminated[i], truncated[i])
            if done or cut:
                assert observation.tobytes() == info["final_obs"][i].tobytes()
                observation, _ = env.reset()
            assert observation.tobytes() == seen[i].tobytes()


def test_the_book_is_seen(store):
    """Spread, imbalance and volume are those of a market with a book."""
    env = gym.make("NeuralMM-v0", market=replay(store), horizon=100)
    names = env.unwrapped.observation_names
    env.reset(seed=0)
    rows = np.array([env.step(np.array([1.0, 0.0], np.float32))[0] for _ in range(100)])
    columns = dict(zip(names, rows.T, strict=True))
    assert (columns["spread"] > 0).all()
    assert np.ptp(columns["book_imbalance"]) > 0.1
    assert columns["volume"].max() > 0


def test_units_come_from_the_training_split_alone(store):
    """The split that is replayed does not change what observations and actions mean."""
    markets = [make_config(replay(store, split=split), horizon=10).market for split in ("train", "all")]
    assert measure(markets[0]) == measure(markets[1])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One market recorded twice, under two names: the second counts in finer ticks and lots."""
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("mixed")
    lines = market(seconds=120, seed=3).lines
    for symbol, tick, lot in (("BTCUSDT", "0.1", "0.001"), ("ETHUSDT", "0.02", "0.0005")):
        renamed = [line.replace("BTCUSDT", symbol) for line in lines]
        path = write(folder / f"{symbol}.gz", renamed)
        options = {"tick_size": tick, "lot_size": lot}
        Import("binance", (path,), folder / "store", strict=True, progress=False, **options).run()
    return folder / "store"


def side_by_side(store: Path, steps: int, **settings) -> Desk:
    """A desk of two environments: the same stretch of each symbol's tape."""
    whole = make_config(Stretches(store=str(store), split="all"), horizon=steps)
    places = tuple((span, span.first_ns) for span in spans_of(whole.market)[1])
    desk = Desk(
        make_config(Stretches(store=str(store), split="all", places=places), horizon=steps, **settings),
        2,
        autoreset=False,
    )
    desk.seed(range(2))
    desk.reset()
    return desk


def test_each_symbol_has_its_own_units(mixed):
    """The same market in other ticks and lots looks the same, and the same quotes earn the same reward."""
    measured = make_config(replay(mixed), horizon=10).market.measured
    assert {key[1]: tuple(value) for key, value in measured.multiples.items()} == {
        "BTCUSDT": (5, 2),
        "ETHUSDT": (1, 1),
    }
    # No lot of ours is on the way at the mid's rounding: far quotes, so only what is observed counts.
    desk = side_by_side(mixed, 200, risk={"position_limit": 100})
    names = observation_names(desk.config)
    moved = 0.0
    for _ in range(150):
        seen = desk.step(np.full((2, 2), np.nan, np.float32)).observations
        columns = [k for k, name in enumerate(names) if name != "spread"]
        np.testing.assert_allclose(seen[0, columns], seen[1, columns], rtol=1e-4, atol=1e-4)
        moved += abs(float(seen[0, names.index("return")]))
    assert moved > 10


def test_the_identity_holds_in_each_symbols_units(mixed):
    """Fills, recounted from the venue in the tape's own ticks, give the rewards' wealth to the last bit."""
    desk = side_by_side(mixed, 300, maker_fee_bp=0.0)
    multiples = desk.external.multiples
    assert (multiples[:, 0] == [5, 1]).all()
    wealth, position = np.zeros(2, np.int64), np.zeros(2, np.int64)
    random = np.random.default_rng(0)
    for _ in range(250):
        asked = desk.get("mid").astype(np.int64)
        desk.step(np.ascontiguousarray(random.uniform(-1, -0.7, (2, 2)), np.float32))
        event = desk.external.venue.outcomes
        wealth += 2 * (event["ask_fill_notional"] - event["bid_fill_notional"])
        position += event["bid_fill_lots"] - event["ask_fill_lots"]
        mids = event["best_bid_ticks"] + event["best_ask_ticks"]
        assert (desk.get("mid") == mids * multiples[:, 0]).all()
        assert (desk.get("pnl") == (wealth + position * mids) * multiples[:, 0]).all()
        assert (desk.get("position") == position).all()
        quotes = desk.external.quotes
        away = asked // multiples[:, 0]
        assert (quotes[:, 0] * 2 >= away).all()
        assert (quotes[:, 2] * 2 <= away + 1).all()
    assert (position != 0).any()


def test_units_meet_to_a_percent():
    for scales in ([40], [40, 8], [37, 91, 12], [1000, 999], [50, 3]):
        unit, multiples = common_unit(scales, [10_000] * len(scales))
        assert np.allclose(np.array(scales) * multiples, unit, rtol=0.01)
    assert common_unit([7], [10]) == (7, [1])
    with pytest.raises(ConfigError, match=r"too far apart.*market\.symbol"):
        common_unit([1, 100], [10, 10])


@pytest.fixture(scope="module")
def fees(mixed):
    """The same tapes, with a fee of 1.5 and a rebate of 0.5."""
    from mmenv.data.importer import Import

    folder = mixed.parent / "fees"
    for symbol, fee in (("BTCUSDT", 1.5), ("ETHUSDT", -0.5)):
        path = mixed.parent / f"{symbol}.gz"
        Import("binance", (path,), folder, progress=False, maker_fee_bp=fee).run()
    return folder


def test_fees_that_differ_are_each_tapes_own_or_named(mixed, fees):
    """The store's fee is the default; where symbols have different ones there is none."""
    assert make_config(replay(mixed), horizon=10).maker_fee_bp == 2.0
    folder = fees
    assert make_config(replay(folder, symbol="ETH*"), horizon=10).maker_fee_bp == -0.5
    assert make_config(replay(folder), horizon=10, maker_fee_bp=1.0).maker_fee_bp == 1.0
    with pytest.raises(ConfigError, match=r"maker_fee_bp = .*differ.*BTCUSDT.: 1.5"):
        make_config(replay(folder), horizon=10)
    own = make_config(replay(folder, own_fees=True), horizon=40)
    desk = Desk(own, 24, autoreset=True)
    try:
        desk.seed(range(24))
        desk.reset()
        rates = desk.core["fee_rate"].reshape(-1)[:24]
        symbols = [desk.external.venue.tapes[k].info.symbol for k in desk.external.venue.lane_tape]
        assert {*symbols} == {"BTCUSDT", "ETHUSDT"}
        assert rates.tolist() == [{"BTCUSDT": 150, "ETHUSDT": -50}[name] for name in symbols]
    finally:
        desk.close()


def test_every_symbol_has_its_own_table_and_fee(fees):
    """What fees and units cannot mix is not mixed: evaluation plays each symbol of a store by itself."""
    from train.evaluate import on_tapes
    from train.options.evaluate import Evaluate

    config = make_config("brownian", horizon=10)
    own = on_tapes(config, Evaluate(model=Path("it"), store=fees))
    assert [tape.maker_fee_bp for tape in own.values()] == [1.5, -0.5]
    assert [title.split()[0] for title in own] == ["BTCUSDT", "ETHUSDT"]
    assert all("USDT, fee" in title for title in own)
    with pytest.raises(
        ConfigError, match=r"BTCUSDT of binance-usdm in .*no stretch.*Leave it out with --venue"
    ):
        on_tapes(make_config("brownian", horizon=100_000), Evaluate(model=Path("it"), store=fees))
    given = Evaluate(model=Path("it"), store=fees, symbol="ETH*", fees=3.0)
    assert [tape.maker_fee_bp for tape in on_tapes(config, given).values()] == [3.0]


def test_policies_move_to_the_tape(store):
    """The same table on recorded data: trained elsewhere, its actions and observations kept."""
    config = on_tape(make_config("hidden-regime", horizon=10), store, "*")
    assert config.quote == make_config("hidden-regime").quote
    assert config.market.step_seconds == make_config("hidden-regime").market.step_seconds == 1.0
    policies = make_baselines(config)
    outcomes = {o.name: o for o in compare(policies, config, 6)}
    assert outcomes["no-trade"].terms["fills"].sum() == 0
    assert outcomes["glft"].terms["fees"].sum() > 0
    assert make_policy("no-trade", config).name == "no-trade"


def test_impossible_tapes_are_sentences(store, tmp_path):
    with pytest.raises(ConfigError, match=r"Replay\.store = ''"):
        gym.make("NeuralMM-v0", market="replay")
    with pytest.raises(ValueError, match="no tape"):
        gym.make("NeuralMM-v0", market={"name": "replay", "store": str(tmp_path)})
    with pytest.raises(ConfigError, match="queue_model"):
        gym.make("NeuralMM-v0", market=replay(store, queue_model="lucky"))
    with pytest.raises(ValueError, match="no stretch"):
        gym.make("NeuralMM-v0", market=replay(store), horizon=1_000_000)
    assert mmenv.ConfigError is ConfigError
