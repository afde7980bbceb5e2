"""The surprises have mean zero whatever is quoted, and what is made of them moves no mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numba import vectorize

from mmenv import make_config
from mmenv.engine.maths import exp
from mmenv.features.base import GROUPS
from mmenv.observation import observation_names
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


def test_terms_of_several_assets_explain_what_fills_are_worth():
    """Quotes that never change, positions that do, and a value -q' A q of them: captured spread and change of
    value, less their mean, are what the terms span, and nothing is left. Their mean is zero."""
    config = make_config(
        {"name": "basket", "count": 3, "arrival_rates": 1.0},
        features=["inventory", "clock", "latent", "surprise"],
        start_inventory=2,
        horizon=5000,
    )
    n, random = 4096, np.random.default_rng(0)
    env = NeuralMMVecEnv(config, n, seed=3)
    seen = env.reset()
    names = observation_names(config)
    held = seen[:, [names.index(f"asset_{k}_inventory") for k in (1, 2, 3)]].astype(float) * 3
    inside = (np.abs(held) < 3).all(axis=1)  # both sides are quoted
    action = np.tile(np.float32([-0.6, 0.1, -0.7, 0.0, -0.5, -0.1]), (n, 1))
    ask, bid = config.quote.to_distances(action.reshape(-1, 2))
    distances = np.stack([ask, bid], axis=1).reshape(n, 6)
    env.step(action)
    root = random.standard_normal((3, 3))
    curved, columns = root @ root.T, [k * len(SURPRISES) + side for k in range(3) for side in (0, 1)]
    surprises = env.surprises[:, columns].astype(float)
    fills = (surprises > 0).astype(float)
    chances = (fills - surprises)[inside].mean(axis=0)

    def worth(filled: np.ndarray) -> np.ndarray:
        after = held + filled[:, 1::2] - filled[:, ::2]
        return (filled * distances).sum(axis=1) - np.einsum("ni,ij,nj->n", after, curved, after)

    mean = np.zeros(n)
    for outcome in itertools.product((0.0, 1.0), repeat=6):
        weight = np.prod(np.where(outcome, chances, 1 - chances))
        mean += weight * worth(np.tile(outcome, (n, 1)))
    residuals = (worth(fills) - mean)[inside].astype(np.float32)
    given = env.surprises[inside], seen[inside], action[inside]
    terms = env.surprise_terms(*given)
    assert terms.shape[1] == 6 * (1 + 1 + 3 + 3) + 15
    scores = terms.sum(axis=0) / np.sqrt(np.maximum((terms**2).sum(axis=0), 1e-9))
    assert np.abs(scores).max() < 5
    control = SurpriseControl(ridge=1e-9, terms=env.surprise_terms)
    assert not control(*given, residuals).any()
    left = residuals - control(*given, residuals)
    assert left.std() < 1e-3 * residuals.std()
    plain = SurpriseControl(ridge=1e-9)
    plain(*given, residuals)
    assert (residuals - plain(*given, residuals)).std() > 0.05 * residuals.std()


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
    np.testing.assert_allclose(vectorize(exp.py_func)(x), np.exp(x.astype(np.float64)), rtol=5e-6)
