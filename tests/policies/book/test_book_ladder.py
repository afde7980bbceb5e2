"""Own orders as in the environment; innovations with mean zero; a bound that nothing passes, and is tight."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmenv.actions.base import make_action
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from policies.book import bound, orders, penalty, play, programme, rules, tightening
from policies.book.ladder import BOUND, find, ladder
from policies.book.paths import Paths, record
from policies.book.policy import FilterPolicy, ImbalanceRule
from policies.make import make_policy
from policies.optimal import solve
from train.ladder import ladder_sheets
from train.simulate import simulate
from train.solve import preset_of

N, HORIZON, SEED = 96, 150, 7_000
TABLES = {
    "touch": rules.constant(0.0),
    "one behind": rules.constant(1.0),
    "inside": rules.constant(-1.0),
    "fixed": rules.fixed(3.0),
    "glft": rules.constant(-2.0, 1.0),
    "eager rule": rules.by_imbalance(0.9, 0.9, 0.03),
    "shy rule": rules.by_imbalance(0.2, -0.3, 0.1),
}


@pytest.fixture(scope="module")
def config() -> EnvConfig:
    made = make_config({"name": "book", "preset": "large-tick"}, horizon=HORIZON)
    return dataclasses.replace(made, features=(*made.features, "queues"))


@pytest.fixture(scope="module")
def paths(config: EnvConfig) -> Paths:
    return record(config, range(SEED, SEED + N))


@pytest.fixture(scope="module")
def training(config: EnvConfig) -> Paths:
    return record(config, range(10**6, 10**6 + 768))


@pytest.fixture(scope="module")
def told(training: Paths) -> programme.Programme:
    index = programme.told_indices(training, 1)
    return programme.solve(training, index, programme.TOLD, rounds=2, smooth=True)


NOTHING = np.zeros((penalty.SEEN, penalty.PLACED))


@pytest.fixture(scope="module")
def limit(paths: Paths, training: Paths, told: programme.Programme) -> bound.Bound:
    few = Paths(training.config, training.seeds[:48], training.rows[:48])
    table = np.ascontiguousarray(told.table[:, :, orders.LEVELS])
    fitted = tightening.tighten(few, programme.told_indices(few, 1), table)
    return bound.bound(paths, fitted, redraws=64)


def played(paths: Paths, table: np.ndarray, **more: tuple[np.ndarray, np.ndarray]) -> np.recarray:
    return play.play(paths, rules.imbalance_index(rules.look(paths).imbalance), table, 1.0, **more)


def within_errors(samples: np.ndarray) -> None:
    assert abs(samples.mean()) < 4 * samples.std() / len(samples) ** 0.5


# The simulator of our orders ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_orders_do_what_they_do_in_the_environment(config: EnvConfig, paths: Paths, name: str) -> None:
    outcome = simulate(ImbalanceRule(name, config, TABLES[name], 1.0), config, N, seed=SEED)
    result = played(paths, TABLES[name])
    assert (result.fills == outcome.terms["fills"]).all()
    assert result.fills.sum() > 0
    np.testing.assert_allclose(result.money - result.penalty, outcome.returns, atol=1e-9)
    np.testing.assert_allclose(result.inventory, outcome.inventory, atol=1e-9)


def test_risk_limits_as_in_the_environment(config: EnvConfig, paths: Paths) -> None:
    tight = dataclasses.replace(config, risk=dataclasses.replace(config.risk, daily_loss_limit=15.0))
    outcome = simulate(ImbalanceRule("touch", tight, TABLES["touch"], 1.0), tight, N, seed=SEED)
    result = played(record(tight, range(SEED, SEED + N)), TABLES["touch"])
    assert (result.fills == outcome.terms["fills"]).all()
    assert result.fills.sum() < 0.9 * played(paths, TABLES["touch"]).fills.sum()


def test_the_programme_acts_on_observations_as_on_paths(
    config: EnvConfig, paths: Paths, training: Paths
) -> None:
    filtered = programme.fit_filter(training)
    solved = programme.solve(training, filtered.indices(training), programme.SEEN, rounds=2)
    index = filtered.indices(paths)
    outcome = simulate(FilterPolicy("programme", config, solved, filtered), config, N, seed=SEED)
    result = play.play(paths, index, solved.table, solved.scale)
    assert (
        result.fills == outcome.terms["fills"]
    ).mean() > 0.95  # the estimate in float32 may fall elsewhere
    assert play.value(paths, result).mean() > 1.1 * play.value(paths, played(paths, TABLES["touch"])).mean()


# What has mean zero ---------------------------------------------------------------------------------------


def test_innovations_have_mean_zero_given_the_state(paths: Paths) -> None:
    rows = paths.rows[:, :-1]
    move = np.diff(paths.rows["price"], axis=1)
    np.testing.assert_allclose(move, rows["innovation"], atol=1e-3)  # with exact impact there is no drift
    mispriced = rows["price"] - rows["ask"] - rows["bid"]
    for state in (
        np.ones(mispriced.shape, bool),
        mispriced > 0.5,
        mispriced < -0.5,
        rows["ask_queue"] > 2 * rows["bid_queue"],
        rows["meta"] > 0,
        rows["ask"] - rows["bid"] > 1,
    ):
        within_errors((rows["innovation"] * state).sum(axis=1).astype(float))


def test_penalties_have_mean_zero_given_order_and_state(limit: bound.Bound, paths: Paths) -> None:
    charges = limit.charges[0]
    assert charges.std() > 0.05
    against = paths.decisions["meta"][:, :-1] > 0
    for case in range(1, orders.CASES):
        for state in (np.ones(against.shape, bool), against):
            within_errors((charges[:, :, 0, case] * state).sum(axis=1).astype(float))


# The bound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_no_policy_passes_the_bound_on_any_path(limit: bound.Bound, paths: Paths, name: str) -> None:
    result = played(paths, TABLES[name], charges=limit.charges)
    assert (result.bounded <= limit.value + 1e-6).all()
    within_errors(result.bounded - (result.money - result.martingale))


def test_not_even_one_that_is_told_everything(
    limit: bound.Bound, paths: Paths, told: programme.Programme
) -> None:
    index = programme.told_indices(paths, 2)
    result = play.play(paths, index, told.table, told.scale, limit.charges)
    assert (result.bounded <= limit.value + 1e-6).all()
    assert play.money(paths, result).mean() > play.money(paths, played(paths, TABLES["touch"])).mean()


def test_nor_one_that_acts_at_random(limit: bound.Bound, paths: Paths) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        table = rng.integers(0, 7, (rules.BINS, orders.PLACES, 21)).astype(np.uint8)
        assert (played(paths, table, charges=limit.charges).bounded <= limit.value + 1e-6).all()


def test_nor_where_decisions_are_shorter_than_a_second() -> None:
    """The last mispricing is then redrawn at some decisions only, and mispricings and queues are others."""
    config = make_config({"name": "book", "preset": "nasdaq-msft"}, horizon=170)
    few = record(config, range(16))
    for values in (NOTHING, np.random.default_rng(0).normal(0, 0.1, NOTHING.shape)):
        limit = bound.bound(few, values, redraws=8)
        assert len(np.unique(limit.charges[1][0])) == bound.SETTLED + 1
        for table in TABLES.values():
            assert (played(few, table, charges=limit.charges).bounded <= limit.value + 1e-6).all()


def test_a_fitted_penalty_makes_the_bound_tighter(limit: bound.Bound, paths: Paths) -> None:
    gain = bound.bound(paths, NOTHING, redraws=64).value - limit.value
    assert gain.mean() > 3 * gain.std() / N**0.5


def test_what_the_best_orders_pay_is_the_slope_of_the_maximum(paths: Paths) -> None:
    """The maximum is convex in the coefficients: it lies nowhere below a line along its slope."""
    few, rng = Paths(paths.config, paths.seeds[:2], paths.rows[:2]), np.random.default_rng(0)
    maximum = tightening.Maximum(few)
    places = [rng.normal(0, size, NOTHING.size) for size in (0.0, 0.03, 0.1, 0.3)]
    found = [maximum.at(place, range(2)) for place in places]
    for here, (value, paid) in zip(places, found, strict=True):
        np.testing.assert_allclose(
            value / few.market.price_scale,
            bound.bound(few, here.reshape(NOTHING.shape)).value.sum(),
            rtol=1e-4,
        )
        assert abs(paid).max() > 0.1
        for there, (other, _) in zip(places, found, strict=True):
            assert other >= value - paid @ (there - here) - 1e-3


# The statement, where the optimum is known ----------------------------------------------------------------


AWAY = 60.0
"""Distance of a side that is not quoted: no order reaches it."""


def brownian_bound(share: float, draws: int, seed: int = 0) -> np.ndarray:
    """The bound of docs/bounds.md on `brownian`, with `share` of its exact values as the penalty's.

    A side's order fills where a market order comes and reaches its distance. What is chosen in hindsight
    comes from a grid of distances and the optimum's own.
    """
    config = make_config("brownian")
    market, limit = config.market, config.risk.position_limit
    solution = solve(config, "optimum")
    rng = np.random.default_rng(seed)
    chance = -np.expm1(-market.arrival_rate * market.step_seconds)
    phi, alpha = config.reward.inventory_penalty * market.step_seconds, config.reward.terminal_penalty
    position = np.arange(-limit, limit + 1)
    exact = np.zeros((config.horizon + 1, len(position)))
    exact[-1] = -alpha * position**2.0

    def expected(ask: np.ndarray, bid: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Mean of reward and continuation at every position (the price moves by nothing on average)."""
        total = np.zeros(len(position))
        fa, fb = chance * np.exp(-market.fill_decay * ask), chance * np.exp(-market.fill_decay * bid)
        for a in (0, 1):
            for b in (0, 1):
                new = position - a + b
                weight = (fa if a else 1 - fa) * (fb if b else 1 - fb)
                at = np.clip(new, -limit, limit) + limit
                total += weight * (a * ask + b * bid + after[at] - phi * new**2.0)
        return total

    sold, bought = position > -limit, position < limit
    optimal = [
        np.where(can, side[:, 0], AWAY) for can, side in ((sold, solution.ask), (bought, solution.bid))
    ]
    for t in range(config.horizon - 1, -1, -1):
        exact[t] = expected(optimal[0][t], optimal[1][t], exact[t + 1])
    assert exact[0, limit] == pytest.approx(77.026, abs=2e-3)

    grid = np.append(np.linspace(0, config.quote.max_distance, 9), AWAY)
    found = np.zeros(draws)
    for draw in range(draws):
        value = exact[-1].copy()
        reached = [
            np.where(
                rng.random(config.horizon) < chance,
                rng.exponential(1 / market.fill_decay, config.horizon),
                -1,
            )
            for _ in range(2)
        ]
        for t in range(config.horizon - 1, -1, -1):
            guess = share * exact[t + 1]
            best = np.full(len(position), -np.inf)
            choices = [(np.full(len(position), a), np.full(len(position), b)) for a in grid for b in grid]
            for ask, bid in [*choices, (optimal[0][t], optimal[1][t])]:
                ask, bid = np.where(sold, ask, AWAY), np.where(bought, bid, AWAY)
                a, b = (d <= reached[s][t] for s, d in enumerate((ask, bid)))
                new = position - a + b
                reward = a * ask + b * bid - phi * new**2.0
                penalty = reward + guess[new + limit] - expected(ask, bid, guess)
                best = np.maximum(best, reward - penalty + value[new + limit])
            value = best
        found[draw] = value[limit]
    return found


def test_the_bound_is_the_optimum_on_brownian_with_exact_values() -> None:
    np.testing.assert_allclose(brownian_bound(1.0, 2), 77.026, atol=5e-3)


def test_and_above_it_with_others() -> None:
    found = brownian_bound(0.8, 6)
    assert found.mean() - 4 * found.std() / 6**0.5 > 77.026


# The ladder -----------------------------------------------------------------------------------------------


def test_presets_by_name() -> None:
    assert preset_of("book") == preset_of("book:large-tick") == preset_of("large-tick") == "large-tick"
    with pytest.raises(ConfigError, match="'large-tock' is not possible: it must be book, or one of"):
        preset_of("large-tock")


def test_what_has_no_ladder_says_so(config: EnvConfig) -> None:
    late = dataclasses.replace(config.market, latency_steps=1)
    with pytest.raises(ConfigError, match="latency_steps = 1 is not possible: for the ladder"):
        ladder(dataclasses.replace(config, market=late), cache=None)
    with pytest.raises(ConfigError, match="it must be 'book'"):
        ladder(make_config("brownian"), cache=None)
    inexact = dataclasses.replace(config.market, exact_impact=False)
    some = record(dataclasses.replace(config, market=inexact), range(2))
    with pytest.raises(ConfigError, match="exact_impact"):
        bound.bound(some, NOTHING)


def test_ladder_and_its_policies(config: EnvConfig, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.book.ladder.TRAINING_PATHS", 64)
    monkeypatch.setattr("policies.book.ladder.ROUNDS", 1)
    rows = ladder(config, 64, bound_paths=16, cache=tmp_path)
    again = ladder(config, 64, bound_paths=16, cache=tmp_path)
    assert [row.name for row in rows] == [row.name for row in again]
    assert all((a.value == b.value).all() for a, b in zip(rows, again, strict=True))
    worth = {row.name: row.money.mean() for row in rows}
    assert (rows[0].name, rows[-1].name) == ("no-trade", BOUND)
    assert max(worth, key=worth.__getitem__) == BOUND
    assert worth["imbalance-rule"] > worth["touch"] > 0
    assert "imbalance-rule" in ladder_sheets("x", rows)[0].columns["policy"]
    rule = make_policy("imbalance-rule", config, cache=tmp_path)
    assert simulate(rule, config, 4).terms["fills"].sum() > 0
    assert make_policy("book-programme", config, cache=tmp_path).name == "book-programme"
    assert make_policy("imbalance-rule:leave=0.5,skew=0.1", config).name == "imbalance-rule"
    blind = dataclasses.replace(config, features=("order_flow", "trade_book", "inventory", "clock", "orders"))
    with pytest.raises(ConfigError, match="'book-programme' reads 'ask_queue'"):
        make_policy("book-programme", blind, cache=tmp_path)
    assert find(config, tmp_path).rules["touch"] == (0.0,)


@pytest.mark.parametrize(
    "name", ["touch", "behind:distance=1", "imbalance-rule:leave=0.6,rejoin=0.4,skew=0.05"]
)
def test_rules_do_the_same_whatever_the_action_counts_from(config: EnvConfig, name: str) -> None:
    far = dataclasses.replace(config, quote=make_action({"name": "touch"}, {}))
    from_mid, from_touch = (simulate(make_policy(name, each), each, N, seed=SEED) for each in (config, far))
    assert from_mid.terms["fills"].sum() > 0
    for term, values in from_mid.terms.items():
        np.testing.assert_array_equal(values, from_touch.terms[term], err_msg=term)


def test_a_closed_form_refuses_an_action_that_counts_from_the_touch(config: EnvConfig) -> None:
    far = dataclasses.replace(config, quote=make_action({"name": "touch"}, {}))
    with pytest.raises(ConfigError, match="spread-skew"):
        make_policy("glft:gamma=0.1", far)
