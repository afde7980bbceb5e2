"""Market orders of the programme of `book`: as in the environment, below the bound, and worth something."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from policies.book import bound, ladder, orders, penalty, play, programme, rules, taking
from policies.book.paths import Paths, record
from policies.book.play import Rule
from policies.book.policy import TakerPolicy
from policies.make import make_policy
from train.options.solve import Solve
from train.simulate import simulate
from train.solve import main

N, HORIZON, SEED = 96, 150, 7_000


@pytest.fixture(scope="module")
def config() -> EnvConfig:
    """More than one lot, a fee, a limit that is met and a rate that is met."""
    made = make_config(
        {"name": "book", "preset": "large-tick"},
        horizon=HORIZON,
        quote={"name": "taker", "taker_lots": 3, "taker_fee_bp": 0.02},
        risk={"position_limit": 4, "taker_spacing": 2},
    )
    return dataclasses.replace(made, features=(*made.features, "queues"))


@pytest.fixture(scope="module")
def paths(config: EnvConfig) -> Paths:
    return record(config, range(SEED, SEED + N))


@pytest.fixture(scope="module")
def filtered(config: EnvConfig) -> programme.Filter:
    return programme.fit_filter(record(config, range(10**6, 10**6 + 256)))


def solved(table: np.ndarray) -> programme.Programme:
    """A table that does the same in any market, as a programme."""
    nothing = np.zeros((programme.SEEN, orders.PLACES), np.float32)
    return programme.Programme(np.repeat(table[:1], programme.SEEN, axis=0), 1.0, nothing)


def test_market_orders_do_what_they_do_in_the_environment(
    config: EnvConfig, paths: Paths, filtered: programme.Filter
) -> None:
    rule, quotes = Rule(0.05, 0.1), solved(rules.constant(0.0))
    outcome = simulate(TakerPolicy("takes", config, quotes, filtered, rule), config, N, seed=SEED)
    index, forecasts = filtered.read(paths)
    result = play.play(paths, index, quotes.table, 1.0, taking=(forecasts, rule))
    assert result.taken.min() > 0
    assert result.fills.min() > 0
    same = result.fills + result.taken == outcome.terms["fills"]
    earned = np.isclose(result.money - result.penalty, outcome.returns, atol=1e-6)
    assert (same & earned).mean() > 0.8  # an estimate in float32 may lie on the other side of a threshold


@pytest.mark.parametrize("rule", [Rule(-np.inf, 0.0), Rule(0.0, 0.0), Rule(0.25, 0.1)])
def test_no_policy_that_takes_passes_the_bound_on_any_path(
    paths: Paths, filtered: programme.Filter, rule: Rule
) -> None:
    few = Paths(paths.config, paths.seeds[:32], paths.rows[:32])
    nothing = np.zeros((penalty.SEEN, penalty.PLACED))
    limit = bound.bound(few, nothing, redraws=32)
    most = limit.value + taking.most_taken(few, limit.charges[1])
    imbalance = rules.imbalance_index(rules.look(few).imbalance)
    for forecasts in (filtered.read(few)[1], programme.gap(few)):
        result = play.play(
            few, imbalance, rules.by_imbalance(0.9, 0.9, 0.03), 1.0, limit.charges, (forecasts, rule)
        )
        assert result.taken.sum() > 0
        assert (result.bounded <= most + 1e-6).all()
        less = result.bounded - (result.money - result.martingale)  # the penalties have mean zero
        assert abs(less.mean()) < 4 * less.std() / len(less) ** 0.5


def test_the_ladder_with_market_orders(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in {"TRAINING_PATHS": 192, "TAKING_PATHS": 128, "FITTED": 16, "CHOOSING": 8}.items():
        monkeypatch.setattr(ladder, name, count)
    quotes = make_config("book", horizon=100)
    config = make_config("book", horizon=100, quote={"name": "taker"})
    rows = {row.name: row for row in ladder.ladder(config, 128, bound_paths=32, cache=tmp_path)}
    plain = {row.name: row for row in ladder.ladder(quotes, 128, bound_paths=32, cache=tmp_path)}
    assert (rows["book-programme"].value == plain["book-programme"].value).all()
    more = rows["taker-programme"].value - rows["book-programme"].value
    assert more.mean() > 3 * more.std() / len(more) ** 0.5
    assert rows["taker-programme"].money.mean() < rows["told"].money.mean() < rows["bound"].money.mean()
    assert plain["bound"].money.mean() < rows["bound"].money.mean()
    policy = make_policy("taker-programme", config, cache=tmp_path)
    outcome = simulate(policy, config, 128, seed=ladder.SEED)
    assert abs(outcome.controlled.mean() - rows["taker-programme"].value.mean()) < 0.5
    with pytest.raises(ConfigError, match="'taker' for 'taker-programme'"):
        make_policy("taker-programme", quotes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Solve("book", action="touch"), "action = 'touch' .* one of taker, size, ladder"),
        (Solve("book", taker_fee_bp=1.0), "taker_fee_bp = 1.0 .*--action taker"),
        (Solve("brownian", action="taker", taker_fee_bp=1.0), "taker_fee_bp = 1.0 .* on a market `book`"),
    ],
)
def test_what_is_not_solved_is_refused(options: Solve, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        main(options)
