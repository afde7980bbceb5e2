"""Tapes of several symbols as one environment: one clock, each symbol as if alone, money added up."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mmenv import ConfigError, make_config
from mmenv.desk.basket import BasketDesk
from mmenv.market.replay import open_venue
from mmenv.market.replay_basket import ReplayBasket, longest
from mmenv.market.stretch import stretches
from mmenv.market.together import measured_together
from mmenv.observation import observation_names
from mmenv.times import SECOND
from policies.make import make_policy
from tests.helpers.captures import START_NS, market, write
from train.simulate import Recorded, simulate

pytest.importorskip("hftbacktest")

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two markets of other ticks and lots; the second is recorded from 2 s later on, and ends 3 s earlier. A
    third is an hour later, a fourth an inverse contract."""
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("store")
    for symbol, seconds, seed, late, tick, lot in (
        ("BTCUSDT", 120, 3, 0, "0.1", "0.001"),
        ("ETHUSDT", 115, 4, 2, "0.02", "0.0005"),
        ("LATEUSDT", 60, 5, 3600, "0.1", "0.001"),
    ):
        lines = market(seconds=seconds, seed=seed, start_ns=START_NS + late * SECOND).lines
        path = write(folder / f"{symbol}.gz", [line.replace("BTCUSDT", symbol) for line in lines])
        options = {"tick_size": tick, "lot_size": lot}
        Import("binance", (path,), folder / "store", strict=True, progress=False, **options).run()
    path = write(folder / "inverse.gz", market(seconds=60, seed=6, venue="coinm").lines)
    Import("binance", (path,), folder / "store", strict=True, progress=False).run()
    return folder / "store"


def both(store: Path, **settings) -> dict:
    return {"name": "replay-basket", "store": str(store), "symbols": SYMBOLS, "split": "all", **settings}


@pytest.mark.parametrize("engine", ["hftbacktest", "matcher"])
def test_identity_and_each_symbol_as_if_alone(store, engine):
    """Wealth is recounted from fills, by asset and as a whole; and what a venue of one symbol alone makes of
    the same orders from the same time on is what the lanes of the basket saw."""
    lots, n, horizon, phi, alpha = (1, 3), 3, 150, 0.01, 0.2
    config = make_config(
        both(store, lots=lots, partial_fills=False, engine=engine),
        horizon=horizon,
        maker_fee_bp=1.0,
        reward={"inventory_penalty": phi, "terminal_penalty": alpha},
    )
    together, unit, dt = config.market.together, config.market.price_scale, config.market.step_seconds
    desk = BasketDesk(config, n, autoreset=False)
    desk.seed(range(n))
    desk.reset()
    feed = desk.external
    begun = feed.times[1].copy()
    mid = desk.get("mid").astype(np.int64)
    cash, held = np.zeros((2, n, 2), np.int64)
    random, orders, answers, fills = np.random.default_rng(0), [], [], 0
    for t in range(horizon):
        out = desk.step(random.uniform(-1, -0.6, (n, 4)).astype(np.float32))
        orders.append(feed._quotes.copy())
        answers.append(feed._outcomes.copy())
        assert (np.ptp(feed._outcomes["time_ns"].reshape(n, 2), axis=1) == 0).all()  # one clock
        bought, sold = desk.get("bid_fill").astype(np.int64), desk.get("ask_fill").astype(np.int64)
        cash += sold * mid + desk.get("ask_edge").astype(np.int64)
        cash -= bought * mid - desk.get("bid_edge").astype(np.int64)
        held += bought - sold
        fills += int((bought + sold).sum())
        mid = desk.get("mid").astype(np.int64)
        rows = {name: row.copy() for name, row in out.ledger_rows.items()}
        fees = desk.get("fees") / unit / 1_000_000
        wealth = ((cash + held * mid) / unit - fees) * together.worths
        for k in range(2):
            np.testing.assert_allclose(rows[f"asset_{k + 1}_wealth"], wealth[:, k], rtol=1e-12, atol=1e-9)
            assert (rows[f"asset_{k + 1}_position"] == held[:, k]).all()
        np.testing.assert_allclose(rows["wealth"], wealth.sum(axis=1), rtol=1e-12, atol=1e-9)
        weight = phi * dt + (alpha if t == horizon - 1 else 0.0)
        penalty = weight * np.einsum("ni,ij,nj->n", held, together.covariance, held)
        np.testing.assert_allclose(rows["inventory_penalty"], penalty, rtol=1e-12, atol=1e-12)
        gained = rows["spread_capture"] + rows["adverse_selection"] + rows["carry"] - rows["fees"]
        np.testing.assert_allclose(out.rewards, gained - penalty, rtol=1e-9, atol=1e-9)
    assert out.terminated.all()
    assert fills > 20
    assert (np.abs(held) > 0).any()
    for k, (one, factor) in enumerate(zip(config.market.alone(), lots, strict=True)):
        with open_venue(one, "all", horizon, config.risk.position_limit * factor, n=1) as venue:
            venue.start(0, venue.spans[0], int(begun[1]))
            for order, answer in zip(orders, answers, strict=True):
                lane = 2 * 1 + k  # of the second environment
                seen = venue.advance(np.ascontiguousarray(order[lane : lane + 1]))
                expected = answer[lane : lane + 1].copy()
                expected["data_end"] = seen["data_end"]  # alone, the tape goes on for longer
                assert seen.tobytes() == expected.tobytes()


def test_single_and_vector_give_the_same_bytes(store):
    envs = gym.make_vec("NeuralMM-v0", num_envs=3, market=both(store), horizon=40)
    singles = [gym.make("NeuralMM-v0", market=both(store), horizon=40) for _ in range(3)]
    seen, _ = envs.reset(seed=5)
    for i, env in enumerate(singles):
        assert env.reset(seed=5 + i)[0].tobytes() == seen[i].tobytes()
    for action in np.random.default_rng(1).uniform(-1, 0, (90, 3, 4)).astype(np.float32):
        seen, rewards, terminated, truncated, info = envs.step(action)
        for i, env in enumerate(singles):
            observation, reward, done, cut, told = env.step(action[i])
            assert (reward, done, cut) == (rewards[i], terminated[i], truncated[i])
            assert told["ledger"] == {name: row[i] for name, row in info["ledger"].items()}
            if done or cut:
                assert observation.tobytes() == info["final_obs"][i].tobytes()
                observation, _ = env.reset()
            assert observation.tobytes() == seen[i].tobytes()
    check_env(singles[0].unwrapped, skip_render_check=True)


def test_covariance_and_worths_are_those_of_the_training_split(store):
    """The covariance is that of the mids which the environment shows at the pace of its decisions there;
    money is price units in ticks times lots."""
    config = make_config(both(store, split="train", lots=(2, 1), partial_fills=False))
    market = config.market
    together, steps = market.together, longest(market)
    config = make_config(market, horizon=steps, risk={"position_limit": 1})
    desk = BasketDesk(config, 1, autoreset=False)
    desk.seed([0])
    feed = desk.external
    feed.stretches = [stretch._replace(last_ns=stretch.first_ns) for stretch in feed.stretches]
    feed._widths = np.ones(len(feed.stretches), np.int64)  # the episode begins where the stretch does
    desk.reset()
    moves = []
    for _ in range(steps):
        desk.step(np.full((1, 4), np.nan, np.float32))
        moves.append(desk.get("move")[0] / market.price_scale * together.worths)
    expected = np.array(moves).T @ np.array(moves) / steps / market.step_seconds
    assert together.covariance == pytest.approx(expected, rel=1e-9)
    prices = [market.price_scale / market.measured.multiples["binance-usdm", name].price for name in SYMBOLS]
    money = prices[0] * 0.1 * 0.001 * 2, prices[1] * 0.02 * 0.0005
    assert together.worths == pytest.approx([1.0, money[1] / money[0]], rel=1e-9)
    other = make_config(both(store, split="test", lots=(2, 1), partial_fills=False)).market.together
    assert (other.covariance == together.covariance).all()


def test_factor_of_moves_that_have_one():
    """Moves of three assets with one factor and little else: it is found again, and the weights are those of
    the best linear estimate under the measured covariance."""
    random, beta, dt = np.random.default_rng(0), np.array([1.0, -0.5, 2.0]), 0.1
    factor = random.standard_normal(50_000)
    moves = (factor[:, None] * beta + 0.05 * random.standard_normal((50_000, 3))) * np.sqrt(dt)
    worths = np.array([1.0, 2.0, 0.5])
    found = measured_together(moves, dt, worths)
    assert found.exposures == pytest.approx(beta * worths, rel=0.02)
    weights = np.linalg.solve(found.covariance, found.exposures) * worths
    assert found.factor_weights == pytest.approx(weights, rel=1e-6)
    told = moves @ found.factor_weights / np.sqrt(dt)
    assert np.corrcoef(told, factor)[0, 1] > 0.999


def test_evaluation_is_by_blocks_of_tape_time_and_on_the_test_split(store):
    config = make_config(both(store, split="test"), horizon=50)
    found = simulate(make_policy("fixed-spread:half_spread=1", config), config, 6)
    assert isinstance(found, Recorded)
    assert found.decisions.sum() == found.steps.sum() == 300
    assert found.terms["fills"].sum() > 0
    tape_end = found.cells[:, 1].max() - found.cells[:, 1].min()
    assert tape_end < 0.25 * 115  # a fifth of what both have
    assert observation_names(config).count("time_left") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"symbols": ("BTCUSDT",)}, "symbols = .* 2 to 8 different symbols"),
        ({"symbols": ("BTCUSDT", "LATEUSDT")}, "no .* s that all of them have .*LATEUSDT from"),
        ({"symbols": ("BTCUSDT", "BTCUSD_PERP")}, "linear contracts.*BTCUSD_PERP is inverse"),
        ({"symbols": ("BTCUSDT", "*")}, "names of one symbol each; '\\*' is"),
        ({"lots": (1, 2)}, "lots = .* partial_fills false"),
        ({"lots": (0,)}, "lots = .* whole numbers from 1"),
    ],
)
def test_what_does_not_meet_is_refused_in_a_sentence(store, change, words):
    with pytest.raises(ConfigError, match=words):
        BasketDesk(make_config(both(store, **change), horizon=20), 1, autoreset=False)


def test_what_plays_single_tapes_refuses_several(store):
    with pytest.raises(ConfigError, match="one of a single symbol"):
        stretches(ReplayBasket(store=str(store), symbols=SYMBOLS))
    config = make_config(both(store))
    assert make_config(**config.to_dict()) == config
