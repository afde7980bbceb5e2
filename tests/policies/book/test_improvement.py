"""What every order earns on recorded paths; choices that gain; programmes that are no worse than rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmenv.config import EnvConfig, make_config
from policies.book import improvement, orders, play, programme, rules
from policies.book.orders import LEVELS, PLACES
from policies.book.paths import Paths, record
from policies.book.programme import Programme

N, HORIZON = 24, 400


@pytest.fixture(scope="module")
def paths() -> Paths:
    """Of a market with spreads of several ticks, orders left behind and swept; no limit of the position."""
    config = make_config({"name": "book", "preset": "nasdaq-msft"}, horizon=HORIZON)
    risk = dataclasses.replace(config.risk, position_limit=10_000, daily_loss_limit=1e9)
    return record(dataclasses.replace(config, risk=risk), range(N))


def earned(paths: Paths, index: np.ndarray, table: np.ndarray) -> np.ndarray:
    """What all fills of a policy of one level are worth at the efficient price, as it is played."""
    nothing = (
        np.zeros((len(index), index.shape[1] - 1, 2, orders.CASES), np.float32),
        np.zeros(index.shape[:2]),
    )
    levels = np.ascontiguousarray(np.repeat(table[:, :, None], 2 * LEVELS + 1, axis=2))
    return play.play(paths, index, levels, 0.0, nothing).bounded


def tables() -> list[np.ndarray]:
    """Rules, and choices at random (not before the touch: there one side's order is in the other's way)."""
    rng = np.random.default_rng(0)
    known = rules.constant(0.0), rules.constant(1.0), rules.fixed(3.0), rules.by_imbalance(0.2, -0.3, 0.1)
    choices = np.array([orders.LEAVE, orders.HOLD, orders.TOUCH, orders.BEHIND + 1, orders.AT + 3], np.uint8)
    drawn = [choices[rng.integers(0, 5, (rules.BINS, PLACES))] for _ in range(3)]
    return [*(np.ascontiguousarray(table[:, :, LEVELS]) for table in known), *drawn]


@pytest.mark.parametrize("k", range(len(tables())))
def test_the_way_back_earns_what_is_played(paths: Paths, k: int) -> None:
    index, table = rules.imbalance_index(rules.look(paths).imbalance), tables()[k]
    found = improvement.compare(paths, index, table, 0.0, np.random.default_rng(1))
    played = earned(paths, index, table)
    assert np.abs(played).max() > 1
    np.testing.assert_allclose(found.earned, played, atol=1e-9)


def test_a_choice_gains_what_the_policy_that_makes_it_once_earns_more(paths: Paths) -> None:
    """One decision of each path is a market of its own, so that a table can change it alone."""
    index, table = rules.imbalance_index(rules.look(paths).imbalance), tables()[0]
    rng = np.random.default_rng(2)
    at = rng.integers(0, HORIZON // 2, N), rng.integers(0, 2, N)
    usual = np.concatenate([table, table[index[np.arange(N), *at]]])
    index[np.arange(N), *at] = rules.BINS + np.arange(N)
    choices = np.array([orders.LEAVE, orders.HOLD, orders.TOUCH, orders.BEHIND + 1, orders.AT + 3], np.uint8)
    found = improvement.compare(paths, index, usual, 0.0, np.random.default_rng(3), choices=choices)
    before, changes = earned(paths, index, usual), 0
    for k, choice in enumerate(choices):
        other = usual.copy()
        other[rules.BINS :] = choice
        gain = found.total[rules.BINS :, :, k].sum(axis=1)
        np.testing.assert_allclose(earned(paths, index, other) - before, gain, atol=1e-9)
        changes += int((np.abs(gain) > 1e-9).sum())
    assert changes > 4
    # The policy's own choice gains nothing, anywhere.
    own = found.total[usual[:, :, None] == choices]
    assert len(own) > 0
    np.testing.assert_allclose(own, 0, atol=1e-12)


@pytest.fixture(scope="module")
def market() -> EnvConfig:
    """With the depth that `nasdaq-msft` had at first, with which a lot behind the touch earns."""
    return make_config({"name": "book", "preset": "nasdaq-msft", "depth": 36.3, "sweep": 0.0}, horizon=1_000)


def test_a_programme_is_not_below_the_best_rule_that_it_contains(market: EnvConfig) -> None:
    """The model of this market alone says something else: a programme of it loses."""
    training, fresh = record(market, range(10**6, 10**6 + 256)), record(market, range(256))
    filtered = programme.fit_filter(training)
    index, seen = filtered.indices(training), filtered.indices(fresh)
    known = [
        Programme(np.repeat(rule[:1], programme.SEEN, axis=0), 1.0, np.zeros(0))
        for rule in (*(rules.constant(d) for d in (0.0, 1.0, 2.0)), rules.fixed(3.0))
    ]
    choices = np.append(improvement.CHOSEN, np.uint8(orders.AT + 3))
    modelled = programme.solve(training, index, programme.SEEN, rounds=1)
    found = improvement.improve(training, index, [modelled, *known], rounds=2, choices=choices)

    def worth(each: Programme) -> np.ndarray:
        return play.value(fresh, play.play(fresh, seen, each.table, each.scale))

    rule = max((worth(each) for each in known), key=np.mean)
    gain, loss = worth(found) - rule, worth(modelled) - rule
    assert rule.mean() > 1.96 * rule.std() / len(rule) ** 0.5
    assert loss.mean() < -1.96 * loss.std() / len(loss) ** 0.5
    assert gain.mean() >= -1.96 * gain.std() / len(gain) ** 0.5
    assert all((found.table != each.table).any() for each in (modelled, *known[:3]))
