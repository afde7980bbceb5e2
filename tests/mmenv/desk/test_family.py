"""Families of markets: what an episode draws is what it is played with, and nothing else changes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy import stats

from mmenv import ConfigError, make_config
from mmenv.desk.desk import Desk
from mmenv.desk.family import LEVELS, even_points, member
from mmenv.env import NeuralMMEnv
from mmenv.vector import NeuralMMVectorEnv
from policies.make import make_policy
from policies.optimal import solve
from train.experiments.members import able, compare, parse, sheet
from train.simulate import simulate

VARIED = {
    "brownian": {"volatility": 1.7, "arrival_rate": 0.9},
    "bursts": {"burst_volatility": 3.0, "calm_seconds": 40.0},
    "hidden-regime": {"tilt": 0.2, "impact": 0.25, "mean_stay": 20.0},
    "correlated": {"lag": 9.0, "factor_volatility": 1.5},
    "book": {"informed_rate": 0.4, "volatility": 80.0, "meta_exponent": 2.0, "refill": 500.0, "impact": 10.0},
}
FAMILY = {
    "volatility": (0.5, 2.0),
    "fill_decay": {"log-uniform": [0.5, 2.0]},
    "maker_fee_bp": {"choice": [0, 1.5]},
}


def actions(steps: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 0, (steps, n, 2)).astype(np.float32)


@pytest.mark.parametrize("market", VARIED)
def test_a_drawn_member_is_that_market(market):
    """Byte for byte what the market with these parameters gives, whether drawn or chosen at reset."""
    settings = {"horizon": 40, "start_inventory": 3, "maker_fee_bp": 0.5}
    values = {**VARIED[market], "maker_fee_bp": 0.75}
    drawn = {name: {"choice": [value]} for name, value in values.items()}
    wide = {name: {"choice": [value, 0.9 * value]} for name, value in values.items()}
    base = make_config(market, **settings, randomise=drawn)
    plain, one, many = (
        NeuralMMVectorEnv(5, config=config)
        for config in (member(base, values), base, make_config(market, **settings, randomise=wide))
    )
    assert plain.config.market == make_config({"name": market, **VARIED[market]}).market
    first = plain.reset(seed=3)[0]
    assert one.reset(seed=3)[0].tobytes() == first.tobytes()
    seen, info = many.reset(seed=3, options={"parameters": values})
    assert seen.tobytes() == first.tobytes()
    assert all((info["parameters"][name] == np.float32(value)).all() for name, value in values.items())
    for t, action in enumerate(actions(60, 5)):
        expected, *others = (envs.step(action) for envs in (plain, one, many))
        for other in others if t < 39 else others[:1]:  # the last one draws for its next episode
            assert expected[0].tobytes() == other[0].tobytes()
            assert expected[1].tobytes() == other[1].tobytes()


def test_the_number_of_environments_does_not_matter():
    """Episode k of seed s draws the same in any company, after pickling, and from a carried state."""
    config = make_config(
        "hidden-regime", horizon=7, randomise={"tilt": (0.0, 0.3), "maker_fee_bp": (0, 2)},
        features=("order_flow", "inventory", "parameters"), curriculum_episodes=5,
    )  # fmt: skip
    envs = NeuralMMVectorEnv(70, config=config)
    rows, infos = [envs.reset(seed=0)[0]], []
    acts = actions(30, 70)
    for t, action in enumerate(acts):
        if t == 10:
            envs = pickle.loads(pickle.dumps(envs))
        if t == 20:
            other = NeuralMMVectorEnv(70, config=config)
            other.set_state(envs.get_state())
            envs = other
        step = envs.step(action)
        rows.append(step[0])
        infos.append(step[4]["parameters"]["tilt"])
    for i in (0, 63, 69):
        env = NeuralMMEnv(config=config)
        assert env.reset(seed=i)[0].tobytes() == rows[0][i].tobytes()
        for t, action in enumerate(acts):
            observation, _, over, _, info = env.step(action[i])
            if over:
                observation, info = env.reset()
            assert observation.tobytes() == rows[t + 1][i].tobytes()
            assert info["parameters"]["tilt"] == infos[t][i]


def drawn(config, n: int, episodes: int) -> list[dict[str, np.ndarray]]:
    desk = Desk(config, n, autoreset=False)
    desk.seed(range(n))
    found = []
    for _ in range(episodes):
        desk.reset()
        found.append(desk.parameters())
    return found


def test_draws_have_the_distribution():
    (found,) = drawn(make_config("brownian", randomise=FAMILY), 4000, 1)
    sample = found["volatility"], np.log2(found["fill_decay"])
    for values, low, high in ((sample[0], 0.5, 2.0), (sample[1], -1.0, 1.0)):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert abs((found["maker_fee_bp"] == 1.5).mean() - 0.5) < 0.04
    assert set(found["maker_fee_bp"]) == {0.0, 1.5}
    assert abs(np.corrcoef(sample)[0, 1]) < 0.06
    for dimensions in (1, 3, 8):
        points = even_points(1024, dimensions)
        assert stats.qmc.discrepancy(points) < 0.3 * stats.qmc.discrepancy(
            np.random.default_rng(0).random(points.shape)
        )


def test_curriculum_widens_to_the_full_range():
    config = make_config("brownian", randomise=FAMILY, curriculum_episodes=16)
    levels = drawn(config, 2000, 20)
    for k, found in enumerate(levels):
        share = min((k // 2 + 1) / LEVELS, 1.0)
        low, high = 1 + share * (0.5 - 1), 1 + share * (2.0 - 1)
        values = found["volatility"]
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high
        ratio = np.abs(np.log2(found["fill_decay"])).max()
        assert share * 0.97 < ratio <= share + 1e-6
        assert set(found["maker_fee_bp"]) == {0.0, 1.5}


def test_the_group_shows_where_a_value_lies():
    config = make_config("brownian", randomise=FAMILY, features=("parameters",))
    envs = NeuralMMVectorEnv(4, config=config)
    assert envs.observation_names == (
        "parameter_volatility",
        "parameter_fill_decay",
        "parameter_maker_fee_bp",
    )
    for values, marks in (
        ({"volatility": 0.5, "fill_decay": 2.0, "maker_fee_bp": 0.75}, (-1, 1, 0)),
        ({"volatility": 2.75, "fill_decay": 1.0, "maker_fee_bp": 1.5}, (2, 0, 1)),
        ({"volatility": 9.0}, (3, 0, -1)),
    ):
        seen, info = envs.reset(seed=0, options={"parameters": values})
        np.testing.assert_allclose(seen, [marks] * 4, atol=1e-6)
        assert info["parameters"]["volatility"].tolist() == [values["volatility"]] * 4
    assert envs.reset()[1]["parameters"]["volatility"].std() > 0


@pytest.mark.parametrize("mode", tuple(AutoresetMode))
def test_info_is_gymnasiums(mode):
    settings = {"market": "brownian", "horizon": 3, "randomise": FAMILY}
    theirs = SyncVectorEnv([lambda: NeuralMMEnv(**settings)] * 3, autoreset_mode=mode)
    ours = NeuralMMVectorEnv(3, autoreset_mode=mode, **settings)
    ours.reset(seed=2)
    theirs.reset(seed=2)
    for action in actions(11, 3):
        results = ours.step(action), theirs.step(action)
        a, b = (result[4] for result in results)
        for x, y in ((a, b), (a.get("final_info", {}), b.get("final_info", {}))):
            for name, values in y.get("parameters", {}).items():
                if not name.startswith("_"):
                    has = y["parameters"][f"_{name}"]
                    assert (x["parameters"][name][has] == values[has]).all()
        over = results[0][2]
        if mode == AutoresetMode.DISABLED and over.any():
            for envs in (ours, theirs):
                envs.reset(options={"reset_mask": over})


def test_fees_vary_on_their_own():
    """Where nothing else varies the market runs as ever; the fee is the episode's."""
    config = make_config("hidden-regime", randomise={"maker_fee_bp": {"choice": [-0.5, 2.0]}}, horizon=50)
    envs, plain = NeuralMMVectorEnv(64, config=config), NeuralMMVectorEnv(64, "hidden-regime", horizon=50)
    _, info = envs.reset(seed=0)
    plain.reset(seed=0)
    fee = info["parameters"]["maker_fee_bp"]
    paid = np.zeros(64)
    for action in actions(49, 64):
        a, b = envs.step(action), plain.step(action)
        assert a[0].tobytes() == b[0].tobytes()
        paid += a[4]["ledger"]["fees"]
    assert (np.sign(paid) == np.sign(fee)).mean() > 0.9


REFUSALS = (
    ({"sigma": (1, 2)}, r"randomise has no setting 'sigma'.*volatility"),
    ({"volatlity": (1, 2)}, r"Did you mean 'volatility'"),
    ({"volatility": 3}, r"volatility = 3 .*\(low, high\)"),
    ({"volatility": (2, 1)}, r"lower one first"),
    ({"volatility": {"normal": [0, 1]}}, r"'normal'.*log-uniform"),
    ({"volatility": {"log-uniform": [0, 1]}}, r"above 0"),
    ({"volatility": {"choice": []}}, r"at least one"),
    ({"volatility": (0.5, 1e6)}, r"volatility = 1e\+06: Brownian.volatility .*from 0 to 100"),
    ([1], r"give a dict"),
)


@pytest.mark.parametrize(("family", "words"), REFUSALS)
def test_impossible_families(family, words):
    with pytest.raises(ConfigError, match=words):
        NeuralMMEnv("brownian", randomise=family)


def test_other_refusals():
    with pytest.raises(ConfigError, match=r"arrival = 0.1, tilt = 0.2: HiddenRegime.tilt"):
        NeuralMMEnv("hidden-regime", randomise={"arrival": (0.1, 0.3), "tilt": (0.05, 0.2)})
    with pytest.raises(ConfigError, match="0 where nothing is randomised"):
        NeuralMMEnv("brownian", curriculum_episodes=5)
    with pytest.raises(ConfigError, match="'parameters', but no parameter is drawn"):
        NeuralMMEnv("brownian", features=("parameters",))
    env = NeuralMMEnv("brownian", randomise=FAMILY)
    for options, words in (
        ({"parameters": {"sigma": 1.0}}, "no setting 'sigma'"),
        ({"parameters": {"volatility": -1.0}}, "from 0 to 100"),
        ({"parameters": 3}, "give a dict"),
    ):
        with pytest.raises(ConfigError, match=words):
            env.reset(options=options)
    with pytest.raises(ConfigError, match="made to `randomise`"):
        NeuralMMEnv("brownian").reset(options={"parameters": {"volatility": 1.0}})


def test_configuration_round_trip():
    config = make_config("brownian", randomise=FAMILY, curriculum_episodes=9)
    assert make_config(**config.to_dict()) == config
    assert config.schema_id != make_config("brownian").schema_id


def test_members_of_a_family_are_compared_on_their_own_markets():
    """The table's outcomes are those of the market with these parameters; exact where it is solvable."""
    single, family = make_config("brownian"), make_config("brownian", randomise={"volatility": (0.5, 2.0)})
    values = {"volatility": 3.0, "arrival_rate": 0.8}
    policies = [(make_policy("fixed-spread", c, half_spread=h), c) for c, h in ((family, 1.0), (single, 2.0))]
    rows = compare(policies, [values, {"volatility": 0.5}], 16)
    market = {"name": "brownian", **values}
    for (policy, config), found in zip(policies, rows[0].outcomes, strict=True):
        expected = simulate(policy, make_config(market, horizon=config.horizon), 16)
        assert (found.returns == expected.returns).all()
    best = rows[0].best
    assert best is not None
    assert best.scale.one == pytest.approx(solve(make_config(market), "optimum").value)
    assert best.percent(best.outcome) == (100, 100, 100)
    less = (rows[0].outcomes[0].controlled - best.outcome.controlled).mean()
    assert best.percent(rows[0].outcomes[0]).mean == pytest.approx(100 + 100 * less / best.scale.one)
    assert [row.name for row in rows[1:]] == ["volatility = 0.5", "drawn from the family"]
    assert len(sheet("title", rows, ["near", "far"]).columns["member"]) == 3
    observing = make_config("brownian", randomise=FAMILY, features=("inventory", "clock", "parameters"))
    with pytest.raises(ConfigError, match="arrival_rate, which the model's family does not have"):
        able(observing, [values])
    with pytest.raises(ConfigError, match="'sigma', which 'brownian' cannot vary"):
        able(single, [{"sigma": 1.0}])
    assert parse("volatility=2, maker_fee_bp=0.5") == {"volatility": 2.0, "maker_fee_bp": 0.5}
    with pytest.raises(ConfigError, match="name=value"):
        parse("volatility")


def test_members_are_drawn_as_they_are_weighed():
    """Of two members nothing else comes, each as often as it weighs; and one alone is that market."""
    config = make_config("brownian", horizon=4, randomise=FAMILY)
    one, other = {"volatility": 0.7, "fill_decay": 1.5}, {"volatility": 1.9, "fill_decay": 0.6}
    envs = NeuralMMVectorEnv(512, config=config)
    envs.weigh_members([one, other], np.array([1.0, 3.0]))
    drawn = envs.reset(seed=1)[1]["parameters"]["volatility"]
    assert set(drawn.tolist()) == set(np.float32([0.7, 1.9]).tolist())
    assert np.mean(drawn > 1) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 512) ** 0.5)
    envs.weigh_members([one], np.ones(1))
    plain = NeuralMMVectorEnv(512, config=member(config, one))
    assert envs.reset(seed=2)[0].tobytes() == plain.reset(seed=2)[0].tobytes()
    for action in actions(4, 512):
        assert envs.step(action)[1].tobytes() == plain.step(action)[1].tobytes()
    with pytest.raises(ConfigError, match="not possible"):
        envs.weigh_members([{"volatility": -1.0}], np.ones(1))
    with pytest.raises(ConfigError, match="randomise"):
        plain.weigh_members([one], np.ones(1))
