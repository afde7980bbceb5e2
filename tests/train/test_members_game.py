"""Training where somebody chooses the member of a family: what is judged, and what he chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmenv.config import EnvConfig, make_config
from mmenv.desk.family import member
from policies.solver.blind_family import BlindFamily
from train.papers.adversary import Adversarial
from train.papers.learned import learn
from train.papers.members import OBSERVED, Chooser, quotes_of
from train.settings import Settings
from train.simulate import simulate

MEMBERS = [{"fill_decay": 0.7, "drift": 0.0}, {"fill_decay": 1.5, "drift": 0.3}]


def _market() -> EnvConfig:
    ranges = {"fill_decay": (0.6, 1.7), "drift": (0.0, 0.5)}
    limit = {"position_limit": 4}
    return make_config(Adversarial(drift=0.0), horizon=40, randomise=ranges, features=OBSERVED, risk=limit)


def _family() -> BlindFamily:
    plain = {"horizon": 40, "risk": {"position_limit": 4}}
    decays = [{"name": "brownian", "fill_decay": each["fill_decay"]} for each in MEMBERS]
    return BlindFamily([make_config(one, **plain) for one in decays], [each["drift"] for each in MEMBERS])


class Leaning:
    """Wider with the time left, leaning against the position."""

    name = "leaning"

    def reset(self, n: int) -> Any:
        return None

    def act(self, observation: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        position, left = observation.T
        return np.stack([-0.8 + 0.2 * left, -0.2 * position], axis=1), state


def test_what_a_policy_is_worth_exactly_is_what_it_earns_in_the_market_of_the_adversary() -> None:
    config, policy = _market(), Leaning()
    exact = _family().values(quotes_of(policy, config))
    for values, value in zip(MEMBERS, exact, strict=True):
        earned = simulate(policy, member(config, values), 8192).controlled
        assert earned.mean() == pytest.approx(value, abs=4 * earned.std() / 8192**0.5)


def test_the_adversary_draws_what_the_policy_scores_least_on() -> None:
    config, family = _market(), _family()
    settings = Settings(
        market="brownian", steps=3 * 16 * 40, num_envs=16, n_steps=40, batch_size=320, cell="none",
        lstm_size=8, net_arch=(8,), threads=1,
    )  # fmt: skip
    hostile, neutral = (Chooser(config, MEMBERS, family, np.full(2, 20.0), told) for told in (True, False))
    for chooser in (hostile, neutral):
        policy = learn(config, settings, "a policy", chooser)
    scores = family.values(quotes_of(policy, config)) / 20
    worst = int(scores.argmin())
    assert hostile.weights()[worst] == 1 > hostile.weights()[1 - worst]
    assert (neutral.weights() == 1).all()
    envs: Any = hostile.training_env
    drawn = envs.envs._desk.family.table[:-1, -4:].view(np.float32)[:, 0]
    share = np.mean(drawn == np.float32(MEMBERS[worst]["fill_decay"]))
    weights = hostile.weights()
    assert share == pytest.approx(1 / weights.sum(), abs=1e-3)
