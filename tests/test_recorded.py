"""Recorded tapes behind NeuralMM-v0: the same desk, the same identity, the same policies."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import mmenv
from mmenv import ConfigError, make_config
from mmenv.desk import Desk
from mmenv.market.replay import measure
from policies.base import make_policy
from tests.captures import market, write
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
        assert (position == desk.external.venue._events[:, 18]).all()
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


def test_policies_move_to_the_tape(store):
    """The same table on recorded data: trained elsewhere, its actions and observations kept."""
    config = on_tape(make_config("hidden-regime", horizon=20), store, "*")
    assert config.quote == make_config("hidden-regime").quote
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
