"""Markets with a reference of their own: what is written of them holds, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv import ConfigError, make_config
from mmenv.config import EnvConfig
from mmenv.desk.desk import Desk
from mmenv.market.correlated import Correlated
from mmenv.observation import observation_names
from policies.make import make_policy
from policies.signals.exact import forecast
from train.simulate import simulate

QUIET = np.zeros(2, np.float32)


def started(config: EnvConfig, n: int, seed: int = 0) -> Desk:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(seed, seed + n))
    desk.reset()
    return desk


def assets(desk: Desk, name: str) -> np.ndarray:
    """A field of the observed assets, (assets, n)."""
    field = np.moveaxis(desk.core[name], 1, 0)
    return field.reshape(len(field), -1)[: desk.config.market.assets, : desk.n].astype(float)


# correlated


def watch(config: EnvConfig, n: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moves (T, 1 + assets, n) in price units, flows (T, assets, n) and observations (T, n, F)."""
    desk, unit = started(config, n), config.market.price_scale
    moves, flows, seen = [], [], []
    for _ in range(steps):
        seen.append(desk.step(np.broadcast_to(QUIET, (n, 2))).observations)
        moves.append(np.concatenate([desk.get("move")[None], assets(desk, "asset_moves")]) / unit)
        flows.append(assets(desk, "asset_flows"))
    return np.stack(moves), np.stack(flows), np.stack(seen)


MEMBERS = (
    {},
    {
        "step_seconds": 0.25,
        "lag": 2.0,
        "observed_lags": (0.5, 1.0, 6.0),
        "observed_volatilities": (1.0, 0.3, 0.2),
        "observed_flows": (-0.8, 0.0, 0.4),
    },
)


@pytest.mark.parametrize("parameters", MEMBERS)
def test_forecast_is_what_the_market_allows(parameters):
    """R2 of the filter on simulated paths is the formula's, and least squares on 20 lags finds no more."""
    config = make_config({"name": "correlated", **parameters}, horizon=100_000)
    moves, flows, _ = watch(config, 200, 600)
    burn, sampled = 60, moves[60:].size / moves.shape[1]
    for others in (True, False):
        best = forecast(config.market, others=others)
        expected = best.filter(moves, flows)[burn:]
        total = np.cumsum(moves[burn:, 0], axis=0)
        for horizon in (1, 5):
            target = total[horizon:] - total[:-horizon]
            arrived = (1 - (1 - best.speed) ** horizon) / best.speed
            found = 1 - ((target - arrived * expected[:-horizon]) ** 2).sum() / (target**2).sum()
            error = 2 * np.sqrt(best.r2(horizon) * horizon / sampled)
            assert abs(found - best.r2(horizon)) < 4 * error
            assert target.var() == pytest.approx(best.move_variance(horizon), rel=0.02)
        views = np.concatenate([moves, flows], axis=1) if others else moves[:, :1]
        rows = np.stack([views[burn - k : -1 - k] for k in range(20)], axis=1)
        target = moves[burn + 1 :, 0].reshape(-1)
        table = np.moveaxis(rows, 3, 1).reshape(target.size, -1)
        weights = np.linalg.lstsq(table, target, rcond=None)[0]
        found = 1 - ((target - table @ weights) ** 2).sum() / (target**2).sum()
        assert found == pytest.approx(best.r2(), abs=5e-3)
    both, alone = forecast(config.market), forecast(config.market, others=False)
    assert alone.r2() + 0.02 < both.r2() < both.ceiling()


def test_observed_assets_lead():
    """The quoted mid follows the leader's moves for a few steps, and never the other way round."""
    moves, _, _ = watch(make_config("correlated", horizon=100_000), 256, 700)
    quoted, leader = moves[:, 0], moves[:, 1]
    after = [np.corrcoef(leader[:-k].ravel(), quoted[k:].ravel())[0, 1] for k in (1, 4, 30)]
    before = np.corrcoef(quoted[:-1].ravel(), leader[1:].ravel())[0, 1]
    assert after[0] > 0.1 > after[1] > 0.03
    assert max(abs(after[2]), abs(before)) < 0.012


def test_observed_group_shows_each_asset():
    config = make_config({"name": "correlated", **MEMBERS[1]}, horizon=90)
    moves, flows, seen = watch(config, 5, 90)
    names = observation_names(config)
    column = {name: seen[:, :, k] for k, name in enumerate(names)}
    assert names[-9:-6] == ("asset_1_return", "asset_1_flow", "asset_1_relative")
    for k in (1, 2, 3):
        np.testing.assert_allclose(column[f"asset_{k}_return"], moves[:, k], atol=1e-5)
        np.testing.assert_allclose(column[f"asset_{k}_flow"], flows[:, k - 1], atol=1e-5)
        relative, gap = np.zeros(5), []
        for step in moves[:, k] - moves[:, 0]:
            relative = relative * np.exp(-0.1) + step
            gap.append(relative / np.sqrt(10))
        np.testing.assert_allclose(column[f"asset_{k}_relative"], gap, atol=1e-4)
    with pytest.raises(ConfigError, match=r"'observed'.*'brownian' shows no other asset"):
        started(make_config("brownian", features=("observed", "clock")), 1)


def test_correlated_settings():
    for bad, words in (
        ({"observed_lags": ()}, "observed_lags.*1 to 8"),
        ({"observed_lags": (0.0, 1.0, 2.0)}, "observed_volatilities.*3 numbers"),
        ({"observed_flows": (1.0, 0.5)}, "observed_flows.*0.999"),
        ({"volatility": 0.0}, "volatility"),
    ):
        with pytest.raises(ConfigError, match=words):
            Correlated(**bad)


# bursts


def test_bursts_come_and_go_as_written():
    config = make_config({"name": "bursts", "calm_seconds": 80.0, "burst_seconds": 10.0}, horizon=100_000)
    desk = started(config, 512)
    market, rows = config.market, []
    for _ in range(300):
        before = desk.get("latent")
        desk.step(np.zeros((512, 2), np.float32))
        rows.append(np.stack([before, desk.get("latent"), desk.get("move") / market.price_scale]))
    before, after, move = np.concatenate(rows, axis=1)
    for state, leave, deviation in ((0, 1 / 80, 1.0), (1, 1 / 10, market.burst_volatility)):
        at = before == state
        left = (after != state)[at]
        assert abs(left.mean() - leave) < 4 * np.sqrt(leave / left.size)
        assert move[at].std() == pytest.approx(deviation, rel=0.03)
    assert abs((before == 1).mean() - 10 / 90) < 0.01


def test_bursts_leave_the_mean_and_spoil_the_worst():
    """The optimum of the mean is that of brownian to the bit; its worst percent is not."""
    outcomes = []
    for market in ("brownian", "bursts"):
        config = make_config(market)
        policy = make_policy("optimum", config)
        assert policy.solution.value == pytest.approx(77.026, abs=1e-3)
        outcomes.append(simulate(policy, config, 2048))
    wild = outcomes[1]
    assert abs(wild.controlled.mean() - 77.026) < 4 * wild.controlled.std() / np.sqrt(2048)
    worst = [np.sort(outcome.returns)[:20].mean() for outcome in outcomes]
    assert worst[1] < worst[0] - 40
