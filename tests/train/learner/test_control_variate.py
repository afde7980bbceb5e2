"""The surprises have mean zero whatever is quoted, and what is made of them moves no mean."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv import make_config
from mmenv.engine.maths import exp
from mmenv.features.base import GROUPS
from mmenv.vector import NeuralMMVectorEnv
from train.learner.control_variate import SurpriseControl
from train.learner.vec_env import NeuralMMVecEnv

SURPRISES = [feature.name for feature in GROUPS["surprise"].features]


@pytest.mark.parametrize("market", ["brownian", "hidden-regime", "bursts", "correlated"])
def test_surprises_have_mean_zero_given_action_and_state(market):
    """Products with action, position and hidden state before the step average to zero, within five errors."""
    n, k = 4096, len(SURPRISES)
    envs = NeuralMMVectorEnv(
        n, market=market, features=["inventory", "latent", "surprise"], start_inventory=9
    )
    before, _ = envs.reset(seed=1)
    random = np.random.default_rng(0)
    sums, squares = np.zeros((k, 5)), np.zeros((k, 5))
    for _ in range(100):
        actions = random.uniform((-1, -0.3), (0.3, 0.3), (n, 2)).astype(np.float32)
        after, *_ = envs.step(actions)
        known = np.column_stack([np.ones(n), actions, before[:, 0], before[:, -k - 1]])
        products = after[:, -k:, None] * known[:, None, :]
        sums += products.sum(0)
        squares += (products**2).sum(0)
        before = after
    scores = sums / np.sqrt(np.maximum(squares, 1e-9))
    assert np.abs(scores).max() < 5
    assert (squares[:4, :4] > 0).all()


def test_surprise_of_a_fill_is_its_indicator_less_its_chance():
    """Checked against the chance counted over many environments in the same state with the same quote."""
    n = 100_000
    envs = NeuralMMVectorEnv(n, market="brownian", features=["surprise"])
    envs.reset(seed=0)
    actions = np.tile(np.float32([-0.7, 0.1]), (n, 1))
    surprise, *_ = envs.step(actions)
    for column in range(2):
        values, counts = np.unique(surprise[:, column], return_counts=True)
        assert len(values) == 2
        assert values[1] - values[0] == pytest.approx(1, abs=1e-6)
        assert -values[0] == pytest.approx(counts[1] / n, abs=5 * np.sqrt(0.25 / n))


def test_control_explains_only_what_it_has_learned_before():
    random = np.random.default_rng(0)
    control = SurpriseControl()

    def rollout() -> tuple[np.ndarray, ...]:
        surprises = random.standard_normal((4000, 2)).astype(np.float32)
        observations = random.standard_normal((4000, 3)).astype(np.float32)
        actions = random.standard_normal((4000, 1)).astype(np.float32)
        worth = 1 + 2 * observations[:, 1] - actions[:, 0]
        residuals = surprises[:, 0] * worth + 0.1 * random.standard_normal(4000, np.float32)
        return surprises, observations, actions, residuals

    assert not control(*rollout()).any()
    *given, residuals = rollout()
    left = residuals - control(*given, residuals)
    assert left.std() < 0.11
    assert control.variance_left == pytest.approx(left.var() / residuals.var(), rel=1e-3)


def test_the_learner_gets_surprises_apart_from_its_observations():
    plain = make_config("hidden-regime", horizon=5)
    with_surprise = make_config("hidden-regime", horizon=5, features=[*plain.features, "surprise"])
    one, other = NeuralMMVecEnv(plain, 8, seed=1), NeuralMMVecEnv(with_surprise, 8, seed=1)
    assert one.observation_space == other.observation_space
    assert (one.reset() == other.reset()).all()
    for _ in range(7):
        actions = np.full((8, 2), -0.5, np.float32)
        (a, ra, _, ia), (b, rb, _, ib) = (env.step(actions) for env in (one, other))
        assert (a == b).all()
        assert (ra == rb).all()
        assert (other.surprises[:, :2] != 0).all()  # the last step of an episode too
        for x, y in zip(ia, ib, strict=True):
            if x:
                assert (x["terminal_observation"] == y["terminal_observation"]).all()


def test_exp():
    x = np.linspace(-80, 80, 100_001, dtype=np.float32)
    ours = np.array([exp(v) for v in x[::10]])
    np.testing.assert_allclose(ours, np.exp(x[::10].astype(np.float64)), rtol=5e-6)
