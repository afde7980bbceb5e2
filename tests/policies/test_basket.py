"""The exact optimum of several assets, closed forms, and what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, optimize
from scipy.linalg import sqrtm

from mmenv import ConfigError, make_config
from mmenv.market.basket import Basket
from policies.basket.closed_forms import curvature, leaning_quotes
from policies.basket.exact import evaluate_basket, solve_basket, step_back
from policies.basket.ladder import CLOSED_FORMS, basket_ladder, exact_value, tuned
from policies.basket.policy import AssetsAlone, Bergault
from policies.basket.problem import make_basket_problem
from policies.bundle import Bundle, save
from policies.make import make_policy
from policies.network.layers import Layer, Network
from policies.optimal import solve
from train.baselines import make_baselines, scale
from train.evaluate import on_tape
from train.options.solve import Solve
from train.simulate import simulate
from train.solve import main as print_solved

SHORT = {"horizon": 40}


def step_value(quotes, g, at, problem):
    """What quotes (n, 2) are worth in the state `at`, by the plain sum over all outcomes of a step."""
    n = problem.assets
    p = problem.arrivals[:, None] * np.exp(-problem.decays[:, None] * quotes)
    position = problem.positions[at]
    p[position == -problem.limit, 0] = p[position == problem.limit, 1] = 0.0
    total = float((p * quotes).sum())
    for outcome in np.ndindex(*(2,) * (2 * n)):
        hit = np.array(outcome).reshape(n, 2)
        chance = np.where(hit, p, 1 - p).prod()
        if chance > 0:
            total += chance * g[problem.state(position + hit[:, 1] - hit[:, 0])]
    return total


@pytest.mark.parametrize("count", [2, 3])
def test_quotes_of_a_step_are_the_best_of_all(count):
    """Whatever follows: no search from many other starts finds better quotes, and the value is their plain
    expectation."""
    config = make_config({"name": "basket", "count": count}, risk={"position_limit": 2 if count == 2 else 1})
    problem, random = make_basket_problem(config), np.random.default_rng(count)
    curved = random.normal(size=(count, count))
    for scale_ in (0.05, 0.5, 3.0):
        g = -scale_ * problem.cost(curved @ curved.T) + 0.05 * scale_ * random.normal(size=problem.states)
        asks, bids = np.full((2, problem.states, count), problem.max_distance)
        value = step_back(
            g, problem.positions, problem.limit, asks, bids, False, problem.arrivals, problem.decays,
            problem.max_distance,
        )  # fmt: skip
        for at in random.choice(problem.states, 3, replace=False):
            found = np.stack([asks[at], bids[at]], axis=1)
            assert value[at] == pytest.approx(step_value(found, g, at, problem), abs=1e-9)
            for _ in range(8 // count):
                other = optimize.minimize(
                    lambda x, at=at, g=g: -step_value(x.reshape(count, 2), g, at, problem),
                    random.uniform(0, problem.max_distance, 2 * count),
                    bounds=[(0, problem.max_distance)] * (2 * count),
                )
                assert -other.fun <= value[at] + 1e-6


def test_without_correlation_it_is_the_sum_of_the_optima_of_each():
    config = make_config({"name": "basket", "loadings": 0.0}, **SHORT)
    alone = AssetsAlone(config)
    parts = sum(solve(one, "optimum").value for one in alone.alone())
    assert solve_basket(config).value == pytest.approx(parts, rel=1e-9)
    assert exact_value(alone) == pytest.approx(parts, rel=1e-6)  # its tables are float32


def test_the_optimum_is_best_from_everywhere_and_simulation_agrees():
    config = make_config("basket", **SHORT)
    solution, policies = solve_basket(config), make_baselines(config)
    assert [policy.name for policy in policies[:2]] == ["basket-optimum", "assets-alone"]
    measure = scale(config)
    assert measure is not None
    for policy in policies[:-1]:
        values = evaluate_basket(config, policy.rule)
        assert (values <= solution.values + 1e-6).all()
        outcome = simulate(policy, config, 4096)
        value, exact = outcome.value(), float(values[len(values) // 2])
        assert abs(value.mean - exact) < 2 * (value.high - value.low) / 2 + 1e-3
        assert outcome.inventory.max() <= 2 * config.risk.position_limit
    best = exact_value(policies[0])
    assert measure.percent(best) == pytest.approx(100, abs=1e-4)
    # To know of the other asset is worth more than what is left to the best of the closed forms.
    forms = max(exact_value(policy) for policy in policies[2:4])
    assert exact_value(policies[1]) < forms < best


def test_assets_may_change_places():
    """The optimum of the assets in another order is the same with its quotes in that order."""
    one = make_config("basket", **SHORT)
    market = one.market
    names = ("arrival_rates", "fill_decays", "volatilities", "loadings")
    swapped = Basket(**{name: getattr(market, name)[::-1] for name in names})
    two = make_config(swapped, **SHORT)
    first, second = solve_basket(one), solve_basket(two)
    width = 2 * one.risk.position_limit + 1
    shape = (one.horizon, width, width, 2)
    turned = second.ask.reshape(shape).transpose(0, 2, 1, 3)[..., ::-1]
    np.testing.assert_allclose(first.ask.reshape(shape), turned, atol=1e-5)


def test_closed_form_solves_its_riccati_equation():
    market = Basket(count=3, volatilities=(1.0, 2.0, 0.5), loadings=(0.9, -0.6, 0.3))
    phi, alpha, left = 0.05, 0.8, np.array([0.0, 0.7, 3.0, 40.0])
    rates = np.diag(market.each("arrival_rates") * market.each("fill_decays") / np.e)

    def backwards(_, flat):
        a = flat.reshape(3, 3)
        return (phi * market.covariance - 4 * a @ rates @ a).ravel()

    first = (alpha * market.covariance).ravel()
    found = integrate.solve_ivp(backwards, (0, left[-1]), first, t_eval=left, rtol=1e-10, atol=1e-12)
    curved = curvature(market, phi, alpha, left)
    np.testing.assert_allclose(curved.reshape(4, 9), found.y.T, atol=1e-7)
    root = np.sqrt(rates)
    inverse = np.diag(1 / np.diag(root))
    far = inverse @ sqrtm(phi * root @ market.covariance @ root) @ inverse / 2
    np.testing.assert_allclose(curvature(market, phi, alpha, np.array([np.inf]))[0], far.real, atol=1e-10)
    # Of one asset: GLFT's (2q + 1) / 2 sqrt(gamma sigma^2 e / (2 lambda kappa)), gamma / 2 = phi.
    apart = Basket(loadings=0.0)
    ask, bid = leaning_quotes(apart, curvature(apart, phi, 0.0, np.array([np.inf])), np.array([[2, -1]]))
    lean = np.sqrt(2 * phi * np.e / 2 / apart.each("arrival_rates") / apart.each("fill_decays"))
    lean *= apart.each("volatilities")
    np.testing.assert_allclose(bid[0], 1 / apart.each("fill_decays") + lean * (2 * np.array([2, -1]) + 1) / 2)
    np.testing.assert_allclose(ask[0], 1 / apart.each("fill_decays") + lean * (1 - 2 * np.array([2, -1])) / 2)


def test_a_long_position_is_shed_and_hedged():
    """Long in one of two assets that move together, each policy that knows it sells both more eagerly."""
    config = make_config("basket", **SHORT)
    for name in ("basket-optimum", "gueant", "bergault"):
        policy = make_policy(name, config)
        asks, bids = policy.quotes(np.full(2, 5), np.array([[0, 0], [0, 2]]))
        assert (asks[1] < asks[0]).all()
        assert (bids[1] > bids[0]).all()


def test_tuning_finds_the_best_penalty():
    config = make_config("basket", **SHORT)
    for family in CLOSED_FORMS:
        best = tuned(family, config)
        for factor in (0.9, 1.1):
            assert exact_value(family(config, phi=best.phi * factor)) <= exact_value(best) + 1e-6
    rungs = basket_ladder(config)
    assert rungs[0].value == max(rung.value for rung in rungs)


@pytest.mark.parametrize(
    ("market", "settings", "words"),
    [
        ("basket", {"reward": {"risk_aversion": 0.1}}, r"risk_aversion = 0\.1"),
        ("basket", {"risk": {"order_lots": 2}}, "order_lots = 2"),
        ({"name": "basket", "count": 6}, {}, "position_limit = 3.*6 assets, whose tables would take"),
        ("brownian", {}, "market = 'brownian' is not possible: it must be 'basket'"),
    ],
)
def test_what_is_not_solved_is_refused(market, settings, words):
    with pytest.raises(ConfigError, match=words):
        solve_basket(make_config(market, **settings))


def test_many_assets_have_closed_forms_all_the_same():
    config = make_config({"name": "basket", "count": 8}, horizon=20)
    assert [policy.name for policy in make_baselines(config)] == ["gueant", "bergault", "no-trade"]
    assert scale(config) is None
    assert simulate(Bergault(config), config, 64).value().mean > 0


def test_solve_without_a_market_has_the_basket_too(monkeypatch, capsys, tmp_path):
    """Beside those of one asset, which are left out here; a risk aversion has no optimum there."""
    monkeypatch.setattr("train.solve.SOLVED", {})
    print_solved(Solve(paths=2, cache=tmp_path))
    told = capsys.readouterr().out
    assert "basket of 2 assets" in told
    assert f"{solve_basket(make_config('basket'), cache=tmp_path).value:.3f}" in told
    with pytest.raises(ConfigError, match=r"risk_aversion = 0\.1 is not possible: it must be 0 for 'basket'"):
        print_solved(Solve(market="basket", risk_aversion=0.1))


def test_bundles_and_tapes_are_refused(tmp_path):
    """What does not know of several assets yet says so before it writes or opens anything."""
    config = make_config("basket")
    network = Network(
        19, (Layer("dense", {"weight": np.zeros((4, 19)), "bias": np.zeros(4)}),), bounds=(-1.0, 1.0)
    )
    with pytest.raises(ConfigError, match="single quoted asset for a bundle: this one quotes 2"):
        save(Bundle(network, config, units=(4096, 1.0), name="both"), tmp_path / "both.mmz")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="single quoted asset for recorded tapes"):
        on_tape(config, tmp_path, "BTCUSDT")
