"""The exact optima of actions that choose more than a pair of distances, on `brownian`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from policies.optimal import OptimalPolicy, solve
from policies.solver.orders import Orders, OrdersRecursion, Tables, orders_of
from policies.solver.recursion import evaluate_tabular
from train.simulate import simulate

SMALL = {"horizon": 40, "risk": {"position_limit": 4, "order_lots": 2}}
ACTIONS = (
    {"name": "taker", "half_spread": 0.1},
    {"name": "taker", "half_spread": 0.4, "taker_lots": 3},
    {"name": "size"},
    {"name": "ladder"},
)


def test_one_order_a_side_is_the_other_recursion():
    """Where only a pair of distances is chosen, both recursions find the same quotes and value."""
    config = make_config("brownian", horizon=40, risk={"position_limit": 4})
    tables, values = OrdersRecursion.of(config).optimise()
    exact = solve(config, "optimum")
    assert values == pytest.approx(exact.values, abs=1e-9)
    np.testing.assert_allclose(tables.ask[..., 0], exact.ask[:, 0], atol=1e-4)
    np.testing.assert_allclose(tables.bid[..., 0], exact.bid[:, 0], atol=1e-4)


@pytest.mark.parametrize("quote", ACTIONS)
def test_an_optimum_earns_its_value_in_simulation(quote):
    config = make_config("brownian", quote=quote, **SMALL)
    solution = solve(config, "optimum")
    outcome = simulate(OptimalPolicy(config, solution), config, 60_000, seed=3)
    error = outcome.controlled.std() / np.sqrt(len(outcome.controlled))
    assert error < 0.04
    assert abs(outcome.controlled.mean() - solution.value) < 4 * error + 1e-3
    plain = make_config("brownian", horizon=40, risk={"position_limit": 4})
    assert solution.value > solve(plain, "optimum").value + 0.01


@pytest.mark.parametrize("quote", ACTIONS)
def test_no_single_change_improves_an_optimum(quote):
    """Distances, sizes or market orders of a step and position, changed at random."""
    config = make_config("brownian", quote=quote, **SMALL)
    recursion, orders = OrdersRecursion.of(config), orders_of(config)
    tables, values = recursion.optimise()
    assert recursion.evaluate(tables) == pytest.approx(values, abs=1e-9)
    assert (np.abs(tables.taker).max() > 0) == (orders.taker_lots > 0)
    random = np.random.default_rng(5)
    for _ in range(200):
        changed = Tables(*(np.copy(getattr(tables, field.name)) for field in dataclasses.fields(tables)))
        at = random.integers(40), random.integers(9)
        changed.ask[at] = np.sort(random.uniform(0, 8, changed.ask.shape[2:]))
        changed.bid[at] = np.sort(random.uniform(0, 8, changed.bid.shape[2:]))
        if random.random() < 0.5:
            most = min(orders.taker_lots, at[1]), min(orders.taker_lots, 8 - at[1])
            changed.taker[at] = random.integers(-most[0], most[1] + 1)
            changed.ask_size[at], changed.bid_size[at] = random.integers(len(orders.sizes), size=2)
        assert (recursion.evaluate(changed) <= values + 1e-7).all()


@settings(max_examples=10, deadline=None)
@given(
    cost=st.floats(0, 1.5),
    penalty=st.floats(0.0, 0.3),
    kappa=st.floats(0.5, 2.0),
    rate=st.floats(0.1, 2.0),
)
def test_more_freedom_is_never_worth_less(cost, penalty, kappa, rate):
    """A cheaper market order, a larger one, or a choice of sizes; a market order as dear as any quote is
    worth nothing."""
    market = {"name": "brownian", "fill_decay": kappa, "arrival_rate": rate}
    config = make_config(
        market, horizon=12, risk={"position_limit": 3}, reward={"inventory_penalty": penalty}
    )

    def value(*given) -> np.ndarray:
        return OrdersRecursion.of(config, Orders(*given)).optimise()[1]

    plain = value(((1,),))
    assert (value(((1,),), 1, cost) >= plain - 1e-9).all()
    assert (value(((1,),), 2, cost) >= value(((1,),), 1, cost) - 1e-9).all()
    assert (value(((1,),), 2, cost / 2) >= value(((1,),), 2, cost) - 1e-9).all()
    sizes, ladder = value(((0,), (1,), (2,))), value(((1, 1),))
    assert (ladder >= value(((2,),)) - 1e-9).all()
    assert (sizes >= np.maximum(plain, value(((2,),))) - 1e-9).all()
    assert value(((1,),), 1, 1e3) == pytest.approx(plain, abs=1e-9)


def test_quotes_of_baselines_are_valued_under_any_action():
    """A table of distances, by the plain recursion and by that of an action which quotes it unchanged."""
    ask, bid = np.random.default_rng(0).uniform(0, 4, (2, 40, 9))
    settings_ = {"horizon": 40, "risk": {"position_limit": 4}}
    plain = evaluate_tabular(make_config("brownian", **settings_), ask, bid)
    for name in ("taker", "size"):
        config = make_config("brownian", quote={"name": name}, **settings_)
        assert evaluate_tabular(config, ask, bid) == pytest.approx(plain, abs=1e-9)
    one_price, two_lots = (
        evaluate_tabular(make_config("brownian", quote={"name": name}, **SMALL), ask, bid)
        for name in ("ladder", "size")
    )
    assert one_price == pytest.approx(two_lots, abs=1e-9)


def test_a_solution_with_orders_is_kept_and_read_again(tmp_path):
    quote = {"name": "taker", "half_spread": 0.1}
    config = make_config("brownian", quote=quote, **SMALL)
    first = solve(config, "optimum", cache=tmp_path)
    again = solve(config, "optimum", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert (again.more["lots"] == first.more["lots"]).all()
    solve(make_config("brownian", quote=quote | {"half_spread": 0.2}, **SMALL), "optimum", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("market", "quote", "more", "words"),
    [
        ("hidden-regime", {"name": "taker"}, {}, "'brownian' or 'bursts'"),
        ("brownian", {"name": "taker", "taker_fee_bp": 0.1}, {}, "taker_fee_bp = 0.1 .* 0 for an exact"),
        (
            "brownian",
            {"name": "taker"},
            {"risk": {"taker_spacing": 2}},
            "taker_spacing = 2 .* 1 for",
        ),
        ("brownian", {"name": "ladder"}, {}, "order_lots = 1 .* 2, one a level"),
        ("brownian", {"name": "ladder", "levels": 3}, {"risk": {"order_lots": 3}}, "levels = 3 .* 2 for"),
        ("brownian", {"name": "size"}, {"reward": {"risk_aversion": 0.1}}, "risk_aversion = 0.1 .*'size'"),
    ],
)
def test_what_is_not_solved_is_refused_in_a_sentence(market, quote, more, words):
    kind = "optimum" if market == "brownian" else "oracle"
    with pytest.raises(ConfigError, match=words):
        solve(make_config(market, quote=quote, **more), kind)
