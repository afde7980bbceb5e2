"""The best quotes for a family that a policy is not told, and the game against who chooses the member."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.market.brownian import Brownian
from policies.optimal import solve
from policies.solver.blind_family import TICK, BlindFamily, Quotes
from policies.solver.recursion import evaluate_tabular
from train.papers import spooner2020


def _config(rate: float = 0.5, decay: float = 1.0, **settings: Any) -> EnvConfig:
    market = {"name": "brownian", "arrival_rate": rate, "fill_decay": decay}
    return make_config(market, **{"horizon": 60, "risk": {"position_limit": 4}, **settings})


MEMBERS = [_config(), _config(0.3, 1.6), _config(0.9, 0.7)]


def test_of_one_member_it_is_the_optimum_and_values_are_exact_in_all() -> None:
    exact = solve(MEMBERS[1], "optimum")
    _, values = BlindFamily(MEMBERS[1:2]).best(np.ones(1))
    assert exact.value * 0.999 < values[0] <= exact.value + 1e-9
    quotes = Quotes(exact.ask[:, 0].astype(float), exact.bid[:, 0].astype(float))
    for config, value in zip(MEMBERS, BlindFamily(MEMBERS).values(quotes), strict=True):
        assert value == pytest.approx(evaluate_tabular(config, quotes.ask, quotes.bid)[4], abs=1e-9)


def test_no_single_change_earns_more_on_the_family_and_each_member_alone_earns_less() -> None:
    family, weights = BlindFamily(MEMBERS), np.array([0.2, 0.5, 0.3])
    quotes, values = family.best(weights, tolerance=0.0)
    random = np.random.default_rng(3)
    for _ in range(200):
        changed = Quotes(quotes.ask.copy(), quotes.bid.copy())
        side = changed.ask if random.random() < 0.5 else changed.bid
        at = random.integers(60), random.integers(9)
        side[at] = np.clip(side[at] + TICK * random.integers(-10, 11), 0, 8)
        assert weights @ family.values(changed) <= weights @ values + 1e-9
    own = np.array([solve(config, "optimum").value for config in MEMBERS])
    assert (values < own).all()
    apart = np.array([family.best(one)[1] for one in np.eye(3)])
    assert (weights @ values > apart @ weights).all()


def test_a_drift_against_the_position_is_the_game_of_spooner_and_savani() -> None:
    game = spooner2020.market(5.0)
    ask, bid, value = spooner2020.solve(game)
    market = Brownian(**spooner2020.DYNAMICS, step_seconds=game.market.step_seconds)
    settings = {name: getattr(game, name) for name in ("horizon", "risk", "reward")}
    settings["quote"] = dict.fromkeys(("max_half_spread", "max_skew", "max_distance"), 4.0)
    against = game.market.against / game.market.price_scale / game.market.step_seconds  # type: ignore[attr-defined]
    family = BlindFamily([make_config(market, **settings)], [against])
    assert family.values(Quotes(ask, bid))[0] == pytest.approx(value, abs=1e-6)
    found = family.best(np.ones(1))[1][0]
    assert value * 0.999 < found <= value + 1e-9


def test_the_adversary_finds_the_worst_and_the_policy_the_most_that_he_cannot_take() -> None:
    family = BlindFamily(MEMBERS)
    own = np.array([solve(config, "optimum").value for config in MEMBERS])
    rounds = family.play(100, own)
    scores = np.mean([one.scores for one in rounds], axis=0)
    bound = min(one.expected for one in rounds)
    assert scores.min() <= bound + 1e-4  # no policy, mixed or not, earns more than the bound in every member
    assert scores.min() > bound - 0.01
    even = family.values(family.best(np.ones(3) / 3)[0]) / own
    assert max(one.least for one in rounds) > even.min()


def test_members_must_be_of_one_problem() -> None:
    with pytest.raises(ConfigError, match="alike in all but rate and decay"):
        BlindFamily([_config(), _config(horizon=50)])
    with pytest.raises(ConfigError, match="drifts"):
        BlindFamily(MEMBERS, [0.1])
    with pytest.raises(ConfigError, match="must be 'brownian' itself"):
        BlindFamily([make_config("bursts")])
