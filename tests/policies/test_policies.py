"""Analytic policies and exact optima, against brute force, plain simulation and identities."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.checks import ConfigError
from mmenv.config import make_config
from mmenv.engine.state import LEDGER
from mmenv.observation import observation_names
from mmenv.vector import NeuralMMVectorEnv
from policies.base import Reading, tuned_policies
from policies.make import make_policy
from policies.optimal import KINDS, OptimalPolicy, solve
from policies.solver.best_pair import best_pair
from policies.solver.chain import hidden_chain, oracle_chain
from policies.solver.outcomes import outcomes
from policies.solver.problem import make_problem
from policies.solver.recursion import Recursion, ascend, evaluate_tabular
from policies.solver.views import Belief, FlowAverage, LastOutcome
from policies.tune import tune

SMALL = {"horizon": 40, "risk": {"position_limit": 4}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("solutions")


# --- Independent implementations, from the markets' written definition --------------------------------------


def observe(config, step, position, buy=0, sell=0, move=0.0):
    """Observations that hold these events under their names, zeros elsewhere."""
    names = observation_names(config)
    columns = np.broadcast_arrays(step, position, buy, sell, move)
    step, position, buy, sell, move = (np.atleast_1d(column).astype(float) for column in columns)
    observation = np.zeros((len(step), len(names)), np.float32)
    total = buy + sell
    for name, value in {
        "inventory": position / config.risk.position_limit,
        "time_left": (config.horizon - step) / config.horizon,
        "flow_imbalance": (buy - sell) / np.maximum(total, 1),
        "volume": total / config.market.lot_scale,
        "return": move,
    }.items():
        observation[:, names.index(name)] = value
    return observation


def to_distances(config, action):
    """The action mapping as it is documented."""
    box = config.quote
    half = box.min_half_spread + (action[:, 0] + 1) / 2 * (box.max_half_spread - box.min_half_spread)
    skew = action[:, 1] * box.max_skew
    return np.clip(half + skew, 0, box.max_distance), np.clip(half - skew, 0, box.max_distance)


def plain_simulation(policy, config, n, seed):
    """Episode values, (n,), each less the zero-mean part of its price moves."""
    rng = np.random.default_rng(seed)
    market, reward, limit = config.market, config.reward, config.risk.position_limit
    hidden = market.name == "hidden-regime"
    regime = rng.choice([-1, 0, 1], n, p=[0.25, 0.5, 0.25])
    q, value = np.zeros(n, int), np.zeros(n)
    state = policy.reset(n)
    events = (np.zeros(n), np.zeros(n), np.zeros(n))
    for step in range(config.horizon):
        action, state = policy.act(observe(config, step, q, *events), state)
        ask, bid = to_distances(config, action)
        if hidden:
            chances = market.arrival + regime * market.tilt, market.arrival - regime * market.tilt
        else:
            chances = (1 - np.exp(-market.arrival_rate * market.step_seconds),) * 2
        buys, sells = (rng.random(n) < chance for chance in chances)
        sold = buys & (rng.random(n) < np.exp(-market.fill_decay * ask)) & (q > -limit)
        bought = sells & (rng.random(n) < np.exp(-market.fill_decay * bid)) & (q < limit)
        before, q = q, q + bought - sold
        value += ask * sold + bid * bought - reward.inventory_penalty * market.step_seconds * q**2
        if hidden:
            large = [np.where(regime == side, market.large_informed, market.large) for side in (1, -1)]
            sizes = [1 + (rng.random(n) < chance) for chance in large]
            draw = rng.random(n)
            up, down = (market.jump * (1 + side * regime * market.drift) for side in (1, -1))
            jump = 1.0 * (draw < up) - 1.0 * (draw > 1 - down)
            flow = market.impact * (buys.astype(float) - sells)
            expected_flow = market.impact * (chances[0] - chances[1])
            value += q * (up - down) + q * flow - before * (flow - expected_flow)
            events = (buys * sizes[0], sells * sizes[1], jump + flow)
            leaves = rng.random(n) < 1 / market.mean_stay
            regime = np.where(leaves, np.where(regime == 0, rng.choice([-1, 1], n), 0), regime)
        else:
            events = (buys, sells, rng.normal(size=n) * market.volatility * np.sqrt(market.step_seconds))
    return value - reward.terminal_penalty * q**2


def brute_force_oracle(config, distances):
    """Value by enumerating regimes, orders, fills, moves and a grid of distances; (3, 2 limit + 1)."""
    m, limit = config.market, config.risk.position_limit
    positions = range(-limit, limit + 1)
    value = {(z, q): -config.reward.terminal_penalty * q**2 for z in (-1, 0, 1) for q in positions}
    for _ in range(config.horizon):
        after = {}
        for z, q in value:
            best = -np.inf
            for ask, bid in itertools.product(distances, distances):
                total = 0.0
                for buy, sell in itertools.product((0, 1), (0, 1)):
                    chance = (m.arrival + z * m.tilt) if buy else 1 - (m.arrival + z * m.tilt)
                    chance *= (m.arrival - z * m.tilt) if sell else 1 - (m.arrival - z * m.tilt)
                    move = m.jump * 2 * m.drift * z + m.impact * (buy - sell)
                    for hit, lift in itertools.product((0, 1), (0, 1)):
                        u = np.exp(-m.fill_decay * ask) if buy and q > -limit else 0.0
                        v = np.exp(-m.fill_decay * bid) if sell and q < limit else 0.0
                        odds = chance * (u if lift else 1 - u) * (v if hit else 1 - v)
                        if odds == 0:
                            continue
                        new = q + hit - lift
                        following = {0: {0: 1 - 1 / m.mean_stay, 1: 0.5 / m.mean_stay, -1: 0.5 / m.mean_stay}}
                        stay = {z: 1 - 1 / m.mean_stay, 0: 1 / m.mean_stay}
                        later = sum(p * value[y, new] for y, p in following.get(z, stay).items())
                        gain = ask * lift + bid * hit + new * move - config.reward.inventory_penalty * new**2
                        total += odds * (gain + later)
                best = max(best, total)
            after[z, q] = best
        value = after
    return np.array([[value[z, q] for q in positions] for z in (-1, 0, 1)])


# --- The best pair and the recursion ------------------------------------------------------------------------

part = st.floats(-3, 3)


@settings(max_examples=150, deadline=None)
@given(st.floats(0.01, 1), part, st.floats(0.01, 1), part, st.floats(-4, 4), st.floats(0.3, 3))
def test_best_pair_is_the_maximum_over_a_grid(a1, a, b1, b, d, kappa):
    ask, bid, value = best_pair(a1, a, b1, b, d, kappa, 6.0)
    grid = np.linspace(0, 6, 301)
    u = np.exp(-kappa * grid)
    first, second = u * (a1 * grid + a), u * (b1 * grid + b)
    surface = first[:, None] + second + d * u[:, None] * u
    assert 0 <= ask <= 6
    assert 0 <= bid <= 6
    assert value >= surface.max() - 1e-9
    u, v = np.exp(-kappa * ask), np.exp(-kappa * bid)
    assert value == pytest.approx(u * (a1 * ask + a) + v * (b1 * bid + b) + u * v * d, abs=1e-12)


def test_oracle_against_brute_force():
    config = make_config("hidden-regime", horizon=3, risk={"position_limit": 2}, quote={"max_distance": 2.0})
    market, step = config.market, 0.1
    recursion = Recursion(oracle_chain(market), make_problem(config))
    exact = recursion.optimise()[2]
    brute = brute_force_oracle(config, np.arange(0, 2 + step / 2, step))
    assert np.all(exact >= brute - 1e-12)
    # Half a grid step from a maximum of curvature below 1 loses less than this, in each of three steps.
    assert np.all(exact <= brute + 3 * 2 * 0.5 * (step / 2) ** 2)


@pytest.mark.parametrize("kind", ["blind", "memoryless"])
def test_no_single_change_improves_a_policy_without_memory(kind):
    config = make_config("hidden-regime", **SMALL)
    market, problem = config.market, make_problem(config)
    recursion = Recursion(KINDS[kind].chain(market, KINDS[kind].view(market, 0)), problem)
    ask, bid, value = ascend(recursion, tolerance=1e-9)
    best = recursion.chain.start @ value[:, 4]
    flat = (ask[:, 0], bid[:, 0]) if kind == "blind" else (ask, bid)
    assert evaluate_tabular(config, *flat)[4] == pytest.approx(best, abs=1e-12)
    rng = np.random.default_rng(5)
    for _ in range(60):
        changed = [ask.copy(), bid.copy()]
        at = tuple(rng.integers(size) for size in ask.shape)
        changed[rng.integers(2)][at] = rng.uniform(0, 6)
        assert recursion.chain.start @ recursion.evaluate(*changed)[:, 4] <= best + 1e-7


def test_occupation_and_value_agree():
    """Rewards weighted by the chance of each state, forward, add up to the value, backward."""
    config = make_config("hidden-regime", **SMALL)
    problem = make_problem(config)
    recursion = Recursion(hidden_chain(config.market, LastOutcome(config.market)), problem)
    rng = np.random.default_rng(1)
    ask, bid = rng.uniform(0, 6, (2, 40, 27, 9))
    ask[-1] = bid[-1] = 6.0
    occupation = recursion.occupation(ask, bid)
    assert occupation.sum(axis=(1, 2)) == pytest.approx(np.ones(40))
    last = Recursion(recursion.chain, dataclasses.replace(problem, horizon=1))
    short = Recursion(recursion.chain, dataclasses.replace(problem, horizon=39, alpha=0.0))
    ends = np.sum(occupation[-1] * last.evaluate(ask[-1:], bid[-1:]))
    first = recursion.chain.start @ short.evaluate(ask[:-1], bid[:-1])[:, 4]
    assert recursion.chain.start @ recursion.evaluate(ask, bid)[:, 4] == pytest.approx(first + ends)


# --- The optima ---------------------------------------------------------------------------------------------


def test_values_of_the_design(cache):
    brownian, hidden = make_config("brownian"), make_config("hidden-regime")
    assert solve(brownian, "optimum", cache=cache).value == pytest.approx(77.026, abs=5e-4)
    value = {kind: solve(hidden, kind, cache=cache).value for kind in ("oracle", "memoryless", "blind")}
    value["belief"] = solve(hidden, "belief-optimal", resolution=20, cache=cache).value
    value["average"] = solve(hidden, "exponential-average", resolution=40, cache=cache).value
    assert value["oracle"] == pytest.approx(97.7, abs=0.05)
    assert value["memoryless"] == pytest.approx(37.0, abs=0.05)
    assert value["belief"] == pytest.approx(65.1, abs=0.2)
    assert value["oracle"] > value["belief"] > value["average"] > value["memoryless"] > value["blind"]


@pytest.mark.parametrize(("market", "best"), [("brownian", "optimum"), ("hidden-regime", "blind")])
def test_no_tuned_baseline_beats_the_optimum(market, best, cache):
    config = make_config(market, **SMALL)
    top = solve(config, best, cache=cache).value
    for family, tuning in tuned_policies().items():
        tuned = tune(family, config)
        assert tuned.value <= top + 1e-6
        for factor in (0.9, 1.1):
            other = make_policy(family, config, **{tuning.parameter: factor * tuned.best})
            assert evaluate_tabular(config, *other.tabulate())[4] <= tuned.value + 1e-9


def test_cartea_jaimungal_converges_to_the_optimum():
    gaps = []
    for dt in (1.0, 0.25, 0.0625):
        market = {"name": "brownian", "step_seconds": dt}
        config = make_config(market, horizon=round(20 / dt), risk={"position_limit": 4})
        top = solve(config, "optimum").value
        tables = make_policy("cartea-jaimungal", config).tabulate()
        gaps.append(1 - evaluate_tabular(config, *tables)[4] / top)
    assert 0 < gaps[2] < gaps[1] / 4 < gaps[0] / 16
    assert gaps[2] < 1e-4


@pytest.mark.parametrize("market", ["brownian", "hidden-regime"])
def test_optimal_policies_earn_their_value_in_a_plain_simulation(market, cache):
    config = make_config(market, **SMALL)
    kinds = ["optimum"] if market == "brownian" else ["belief-optimal", "exponential-average", "memoryless"]
    for kind in kinds:
        solution = solve(config, kind, cache=cache)
        values = plain_simulation(OptimalPolicy(config, solution), config, 40_000, seed=3)
        error = values.std() / np.sqrt(len(values))
        assert error < 0.03
        # A hundredth for the grids of belief and average.
        assert abs(values.mean() - solution.value) < 4 * error + 0.01


def test_the_view_of_beliefs_is_bayes_over_all_paths():
    config = make_config({"name": "hidden-regime", "mean_stay": 5.0})
    m, seen = config.market, outcomes(config.market)
    view = Belief(m, 4)
    rng = np.random.default_rng(2)
    buys, sells, jumps = rng.integers(0, 3, 6), rng.integers(0, 3, 6), rng.integers(-1, 2, 6)
    moves = jumps + m.impact * (np.sign(buys) - np.sign(sells))
    belief = view.start
    for buy, sell, move in zip(buys, sells, moves, strict=True):
        belief = view.follow(belief, seen.index(*np.array([[buy], [sell], [move]])))

    def lots(count, arrives, large):
        return 1 - arrives if count == 0 else arrives * (large if count == 2 else 1 - large)

    weight = dict.fromkeys((-1, 0, 1), 0.0)
    for path in itertools.product((-1, 0, 1), repeat=7):
        chance = 0.5 if path[0] == 0 else 0.25
        for now, after in itertools.pairwise(path):
            leave = 1 / m.mean_stay
            chance *= 1 - leave if now == after else 0 if now * after else leave / (1 if now else 2)
        for z, buy, sell, jump in zip(path, buys, sells, jumps, strict=False):
            chance *= lots(buy, m.arrival + z * m.tilt, m.large_informed if z > 0 else m.large)
            chance *= lots(sell, m.arrival - z * m.tilt, m.large_informed if z < 0 else m.large)
            chance *= 1 - 2 * m.jump if jump == 0 else m.jump * (1 + jump * z * m.drift)
        weight[path[-1]] += chance
    expected = np.array(list(weight.values())) / sum(weight.values())
    assert belief[0] == pytest.approx(expected, abs=1e-12)


def test_interpolation_is_exact_for_what_it_should_be():
    market = make_config("hidden-regime").market
    rng = np.random.default_rng(0)
    beliefs = np.vstack([rng.dirichlet([0.5, 0.5, 0.5], 2000), np.eye(3), [[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]])
    view = Belief(market, 8)
    nodes, weights = view.locate(beliefs)
    assert np.sum(view.nodes[nodes] * weights[..., None], axis=1) == pytest.approx(beliefs, abs=1e-12)
    at_nodes, weights = view.locate(view.nodes)
    square = np.sum((view.nodes**2)[at_nodes] * weights[..., None], axis=1)
    assert square == pytest.approx(view.nodes**2, abs=1e-12)
    average = FlowAverage(market, 20, 18.0)
    inside = rng.uniform(average.nodes[0, 0], average.nodes[-1, 0], (200, 1))
    nodes, weights = average.locate(inside)
    assert np.sum(average.nodes[nodes, 0] * weights, axis=1) == pytest.approx(inside[:, 0], abs=1e-12)


def test_the_view_of_the_average_forgets_in_its_time_constant():
    market = make_config("hidden-regime").market
    average, seen = FlowAverage(market, 20, 18.0), outcomes(market)
    quiet, large_buy = (seen.index(*np.array([[lots], [0.0], [0.0]])) for lots in (0.0, 2.0))
    summary = average.follow(average.start, large_buy)
    assert summary[0, 0] == pytest.approx(2 * (1 - np.exp(-1 / 18)))
    for _ in range(18):
        summary = average.follow(summary, quiet)
    assert summary[0, 0] == pytest.approx(2 * (1 - np.exp(-1 / 18)) / np.e)


# --- Policies -----------------------------------------------------------------------------------------------

PARAMETERS = {
    "fixed-spread": {"half_spread": 1.3},
    "avellaneda-stoikov": {"gamma": 0.01},
    "glft": {"gamma": 0.05},
    "cartea-jaimungal": {},
}


@pytest.mark.parametrize("market", ["brownian", "hidden-regime"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_every_analytic_quote_is_representable(market, name):
    config = make_config(market)
    policy = make_policy(name, config, **PARAMETERS[name])
    step, position = (axis.ravel() for axis in np.mgrid[0:300:13, -10:11])
    action, _ = policy.act(observe(config, step, position), policy.reset(len(step)))
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1
    ask, bid = policy.distances(step, position)
    assert np.ptp(ask) > 0 or name == "fixed-spread"
    quoted = to_distances(config, action)
    assert quoted[0] == pytest.approx(ask, abs=2e-6)
    assert quoted[1] == pytest.approx(bid, abs=2e-6)


def test_closed_forms_where_they_are_known():
    config = make_config("brownian", risk={"position_limit": 1})
    step, flat = np.array([0]), np.array([0])
    ask, bid = make_policy("avellaneda-stoikov", config, gamma=0.1).quotes(step, flat)
    # Half of gamma sigma^2 T + 2/gamma log(1 + gamma/kappa).
    assert ask[0] == bid[0] == pytest.approx((0.1 * 300 + 20 * np.log(1.1)) / 2)
    ask, bid = make_policy("avellaneda-stoikov", config, gamma=0.1, volatility=0.0).quotes(step, flat + 1)
    assert ask[0] == bid[0] == pytest.approx(10 * np.log(1.1))
    lean = np.sqrt(0.1 / (2 * 0.5) * 1.1**11)
    ask, bid = make_policy("glft", config, gamma=0.1).quotes(step, flat + 1)
    assert (ask[0], bid[0]) == pytest.approx((10 * np.log(1.1) - lean / 2, 10 * np.log(1.1) + 3 * lean / 2))
    # With positions -1, 0, 1 and no penalties: omega solved by the eigenvalues of A, +-sqrt(2) lambda/e.
    free = make_config(
        "brownian", risk={"position_limit": 1}, reward={"inventory_penalty": 0.0, "terminal_penalty": 0.0}
    )
    ask, _ = make_policy("cartea-jaimungal", free).quotes(np.array([299 - 1]), flat)
    x = np.sqrt(2) * 0.5 / np.e * 2
    omega = [np.cosh(x) + np.sqrt(2) * np.sinh(x), np.cosh(x) + np.sinh(x) / np.sqrt(2)]
    assert ask[0] == pytest.approx(1 + np.log(omega[0] / omega[1]))


def test_memory_is_cleared_by_a_new_episode_and_only_by_it(cache):
    config = make_config("hidden-regime", **SMALL)
    policy = OptimalPolicy(config, solve(config, "belief-optimal", cache=cache))
    state = policy.reset(2)
    _, state = policy.act(observe(config, [0, 0], 0), state)
    _, state = policy.act(observe(config, [1, 1], 0, 2, 0, 1.5), state)
    assert state[0, 2] > 0.3
    _, state = policy.act(observe(config, [2, 0], 0, 2, 0, 1.5), state)
    assert state[0, 2] > 0.4
    assert state[1] == pytest.approx([0.25, 0.5, 0.25])


def test_reading_gives_back_the_events():
    config = make_config("hidden-regime")
    reading = Reading(config)
    cases = np.array(
        list(itertools.product((0, 7, 299), (-10, -3, 0, 9), (0, 1, 2), (0, 1, 2), (-1.5, 0.0, 1.0)))
    ).T
    observation = observe(config, *cases)
    read = [reading.step(observation), reading.position(observation), *reading.orders(observation)]
    assert np.array_equal([*read, reading.move(observation)], cases)


def test_reading_and_policy_in_the_real_environment(cache):
    config = make_config("hidden-regime", **SMALL)
    policy, reading = OptimalPolicy(config, solve(config, "belief-optimal", cache=cache)), Reading(config)
    seen = outcomes(config.market)
    envs = NeuralMMVectorEnv(32, config=config)
    observation, _ = envs.reset(seed=1)
    state = policy.reset(32)
    found = []
    for step in range(30):
        assert np.all(reading.step(observation) == step)
        if step:
            assert np.array_equal(reading.position(observation), envs.ledger[LEDGER.index("position")])
            buy, sell = reading.orders(observation)
            move = reading.move(observation)
            found.append(seen.index(buy, sell, move))
            assert np.array_equal(seen.buy[found[-1]], buy)
            assert np.array_equal(seen.move[found[-1]], move)
        action, state = policy.act(observation, state)
        observation, *_ = envs.step(action)
    envs.close()
    assert len(np.unique(found)) > 20
    assert reading.position(observation).std() > 0


def test_no_trade_never_quotes():
    policy = make_policy("no-trade", make_config("brownian"))
    assert np.isnan(policy.act(np.zeros((3, 27), np.float32), policy.reset(3))[0]).all()


# --- Cache and refusals -------------------------------------------------------------------------------------


def test_cache_is_read_and_a_damaged_file_is_solved_again(tmp_path, caplog):
    config = make_config("brownian", **SMALL)
    first = solve(config, "optimum", cache=tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.read_bytes()
    np.savez(path.open("wb"), ask=first.ask, bid=first.bid, values=first.values + 1)
    assert solve(config, "optimum", cache=tmp_path).value == pytest.approx(first.value + 1)
    damaged = bytearray(written)
    damaged[len(damaged) // 2] ^= 1
    for content in (b"", written[: len(written) // 2], bytes(damaged)):
        path.write_bytes(content)
        caplog.clear()
        again = solve(config, "optimum", cache=tmp_path)
        assert "damaged" in caplog.text
        assert np.array_equal(again.ask, first.ask)
        assert again.value == first.value
        assert [path] == list(tmp_path.iterdir())
    solve(make_config("brownian", **{**SMALL, "horizon": 41}), "optimum", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_where_nothing_can_be_kept_it_is_solved_all_the_same(tmp_path, caplog):
    (tmp_path / "file").touch()
    config = make_config("brownian", **SMALL)
    assert (
        solve(config, "optimum", cache=tmp_path / "file" / "optima").value == solve(config, "optimum").value
    )
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"risk": {"order_lots": 2}}, "order_lots = 2"),
        ({"reward": {"carry": 0.5}}, "carry = 0.5"),
        ({"maker_fee_bp": 1.0}, "maker_fee_bp = 1.0"),
        ({"quote": {"min_half_spread": 0.5}}, "min_half_spread = 0.5"),
        ({"quote": {"max_skew": 1.0}}, "max_skew = 1.0"),
        ({"horizon": 10_000_000}, "horizon = 10000000"),
    ],
)
def test_what_has_no_exact_solution_is_refused_in_a_sentence(settings, field):
    with pytest.raises(ConfigError, match=field):
        solve(make_config("brownian", **settings), "optimum")


def test_wrong_requests_are_refused_in_a_sentence():
    config = make_config("brownian")
    for call, words in [
        (
            lambda: solve(config, "oracle"),
            "market = 'brownian' is not possible: it must be 'hidden-regime' itself",
        ),
        (lambda: solve(config, "best"), "kind = 'best'"),
        (lambda: solve(make_config("hidden-regime"), "belief-optimal", resolution=5), "resolution = 5"),
        (lambda: make_policy("gltf", config), "Did you mean 'glft'"),
        (lambda: make_policy("glft", config, gamma=-1.0), "gamma = -1.0"),
        (
            lambda: make_policy("glft", make_config("brownian", features=("order_flow",)), gamma=1.0),
            "'inventory'",
        ),
        (lambda: evaluate_tabular(config, np.zeros((3, 21)), np.zeros((3, 21))), r"\(300, 1, 21\)"),
    ]:
        with pytest.raises(ConfigError, match=words):
            call()
