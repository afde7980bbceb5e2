"""The exact optimum of mean less expected shortfall on `brownian`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.engine.state import LEDGER
from mmenv.vector import NeuralMMVectorEnv
from policies.make import make_policy
from policies.optimal import solve
from policies.solver.problem import mean_of
from policies.solver.shortfall import ShortfallRecursion
from train.objective import worth
from train.simulate import EVALUATION_SEED, simulate


def _config(weight: float, level: float, **settings: object) -> EnvConfig:
    short = {"horizon": 40, "risk": {"position_limit": 2}, **settings}
    return make_config("brownian", reward={"shortfall_weight": weight, "shortfall_level": level}, **short)


def _play(config: EnvConfig, recursion: ShortfallRecursion, rule: tuple, episodes: int) -> np.ndarray:
    """Rewards of episodes of the optimum, which reads wealth, for the best threshold."""
    ask, bid, values = rule
    threshold, limit = -recursion.wealth[values.argmax()], config.risk.position_limit
    envs = NeuralMMVectorEnv(episodes, config=config)
    envs.reset(seed=EVALUATION_SEED)
    total, held = np.zeros(episodes), np.zeros(episodes, int)
    for step in range(config.horizon):
        place = np.rint((total - threshold - recursion.wealth[0]) / recursion.grid).astype(int)
        place = np.clip(place, 0, len(recursion.wealth) - 1)
        quotes = (side[step, held + limit, place].astype(float) for side in (ask, bid))
        total += envs.step(config.quote.to_action(*quotes))[1]
        held = envs.ledger[LEDGER.index("position")].astype(int)
    envs.close()
    return total


def test_the_optimum_earns_in_the_environment_what_it_says_and_more_than_any_of_exponential_utility() -> None:
    config = _config(1.0, 0.1)
    recursion = ShortfallRecursion(config)
    best = recursion.optimise()
    claimed = best[2].max()
    totals = _play(config, recursion, best, 20_000)
    found = worth(totals, 1.0, 0.1)
    assert abs(found.mean() - claimed) < 4 * found.std() / np.sqrt(20_000)
    value, mean, worst = recursion.parts(*best[:2])
    assert value == pytest.approx(claimed, abs=1e-6)
    assert value == pytest.approx(mean + worst)
    assert abs(totals.mean() - mean) < 4 * totals.std() / np.sqrt(20_000)
    for gamma in (0.0, 0.03, 0.1, 0.15, 0.2, 0.4):
        reward = dataclasses.replace(mean_of(config).reward, risk_aversion=gamma)
        averse = solve(dataclasses.replace(config, reward=reward), "optimum")
        value = recursion.evaluate(averse.ask[:, 0], averse.bid[:, 0]).max()
        assert value < claimed - 0.2
        if gamma in (0.0, 0.15):
            policy = make_policy("optimum", dataclasses.replace(config, reward=reward))
            outcome = simulate(policy, config, 20_000)
            assert abs(outcome.value().mean - value) < 4 * outcome.controlled.std() / np.sqrt(20_000)


def test_where_wealth_cannot_matter_it_is_the_optimum_of_the_mean() -> None:
    """Of all episodes the worst 100% have the mean itself; and a weight of nothing changes nothing."""
    mean = solve(mean_of(_config(1.0, 1.0)), "optimum").value
    for weight, level, scale in ((1.0, 1.0, 2.0), (1e-9, 0.05, 1.0)):
        recursion = ShortfallRecursion(_config(weight, level), grid=0.5)
        assert recursion.optimise()[2].max() == pytest.approx(scale * mean, rel=2e-3)
        assert recursion.optimise()[2].max() <= scale * mean + 1e-6


def test_no_pair_of_distances_is_better_in_the_last_step() -> None:
    """All pairs tried against expectations by a fine sum over the normal move."""
    config = _config(2.0, 0.2, horizon=1, risk={"position_limit": 1})
    recursion = ShortfallRecursion(config, grid=0.05)
    ask, bid, values = recursion.optimise()
    market, reward = config.market, config.reward
    z = np.linspace(-8, 8, 4001)
    weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    cost = reward.inventory_penalty + reward.terminal_penalty

    def ended(wealth: np.ndarray, position: int) -> np.ndarray:
        final = wealth[..., None] + position * z - cost * position**2
        return (final + 2.0 / 0.2 * np.minimum(final, 0)) @ weights

    arrival = 1 - np.exp(-market.arrival_rate)
    d = 0.1 * np.arange(81)
    u = arrival * np.exp(-d)
    for start in (-1.0, 0.0, 2.0):
        flat, sold, both = (ended(start + x, q) for x, q in ((0 * d, 0), (d, 1), (d[:, None] + d, 0)))
        one = u[:, None] * (1 - u) * sold[:, None] + (1 - u[:, None]) * u * sold
        pairs = (1 - u[:, None]) * (1 - u) * flat + one + u[:, None] * u * both
        place = int(np.rint((start - recursion.wealth[0]) / 0.05))
        assert values[place] + 3.0 * start == pytest.approx(pairs.max(), abs=2e-3)
        k, l = (int(np.rint(side[0, 1, place] / 0.1)) for side in (ask, bid))
        assert pairs[k, l] == pytest.approx(pairs.max(), abs=2e-3)


def test_what_it_does_not_solve_it_refuses_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"shortfall_weight = 0\.0"):
        ShortfallRecursion(make_config("brownian"))
    with pytest.raises(ConfigError, match="must be 'brownian' itself"):
        ShortfallRecursion(make_config("bursts", reward={"shortfall_weight": 1.0}))
    with pytest.raises(ConfigError, match=r"shortfall_weight = 1\.0 .*time and position"):
        solve(_config(1.0, 0.1), "optimum")
    with pytest.raises(ConfigError, match=r"shortfall_weight = 1\.0 .*one objective"):
        make_config("brownian", reward={"shortfall_weight": 1.0, "risk_aversion": 0.1})
