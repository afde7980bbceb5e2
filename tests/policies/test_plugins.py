"""Policies and signals of other packages: found by every road, and refused in a sentence where unsound."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

import mmenv.registry
from mmenv import ConfigError, make_config
from mmenv.features.base import Feature
from mmenv.market.live import Live
from mmenv.signals import SIGNALS, load_signal, load_signals
from policies.base import POLICIES, QuotingPolicy, Tuning, register, tuned_policies
from policies.make import make_policy
from policies.solver.problem import solved_market
from train.evaluate import report
from train.live import choose
from train.options.evaluate import Evaluate

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "fixtures" / "version-0.1.0"

MODULE = '''
import numpy as np
from mmenv.features.base import Feature
from policies.base import QuotingPolicy


class Steady(QuotingPolicy):
    """Quotes at one distance."""

    name = "steady"

    def __init__(self, config, distance=0.5):
        super().__init__(config)
        self.distance = distance

    def quotes(self, step, position):
        return self.distance, self.distance


class Random:
    """Draws its quotes, and keeps its own count of them."""

    def __init__(self, config):
        self.made, self.generator = 0, np.random.default_rng(0)

    def reset(self, n):
        return None

    def act(self, observation, state):
        self.made += 1
        return self.generator.uniform(-1, 1, (len(observation), 2)).astype(np.float32), state


class Wide(Random):
    def act(self, observation, state):
        return np.zeros((len(observation), 3), np.float32), state


class Forgets(Random):
    def act(self, observation, state):
        return np.zeros((len(observation), 2), np.float32)


class Idle:
    def reset(self, n):
        return None


class Flat(Idle):
    def act(self, observation, state):
        return np.zeros((len(observation), 2), np.float32), state


class Momentum:
    """The last return again."""

    name, groups, state_size, step_seconds = "momentum", ("order_flow",), 0, 1.0
    inputs = ()
    outputs = (Feature("momentum", -1.0, 1.0, "always a half"),)
    identity, source = "1", "plugged:Momentum"

    def step(self, inputs, states):
        return np.full((len(inputs), 1), 0.5, np.float32)


class Unbounded(Momentum):
    outputs = (Feature("momentum", -1.0, float("inf"), ""),)


class Broken(Momentum):
    def step(self, inputs, states):
        return np.full((len(inputs), 1), np.nan, np.float32)


class Many(Momentum):
    def step(self, inputs, states):
        return np.zeros((len(inputs), 2), np.float32)


class Lost(Momentum):
    groups = ("order_flo",)
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `plugged` on Python's path."""
    (tmp_path / "plugged.py").write_text(MODULE)
    (tmp_path / "raising.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("plugged")
    sys.modules.pop("plugged")


@pytest.fixture
def offered(monkeypatch):
    """Make entry points known as those of installed packages."""

    def offer(*entries: tuple[str, str, str]) -> None:
        points = EntryPoints(EntryPoint(name, value, group) for group, name, value in entries)
        monkeypatch.setattr(mmenv.registry, "_offers", lambda group: points.select(group=group))

    monkeypatch.setattr(POLICIES, "_found", dict(POLICIES.registered))
    monkeypatch.setattr(SIGNALS, "_found", dict(SIGNALS.registered))
    return offer


CONFIG = make_config("brownian", horizon=20)


def test_a_policy_is_found_by_every_road(module, offered):
    offered(("neuralmm.policies", "steady", "plugged:Steady"))
    by_path = make_policy("plugged:Steady", CONFIG, distance=1.0)
    by_name = make_policy("steady:distance=1", CONFIG)
    register(type("Steadier", (module.Steady,), {"name": "steadier"}))
    registered = make_policy("steadier", CONFIG, distance=1.0)
    for policy in (by_path, by_name, registered):
        np.testing.assert_array_equal(policy.tabulate(), np.full((2, 20, 21), 1.0))
    assert ("steady", "Quotes at one distance.") in POLICIES.table()
    ready = module.Random(CONFIG)
    module.ready = ready
    assert make_policy("plugged:ready", CONFIG) is ready
    assert ready.made == 0  # it was tried on a copy
    with pytest.raises(ConfigError, match="takes no distance"):
        make_policy("plugged:ready", CONFIG, distance=1.0)


def test_a_policy_without_init_is_made_without_the_configuration(module):
    assert isinstance(make_policy("plugged:Flat", CONFIG), module.Flat)
    with pytest.raises(ConfigError, match="'plugged:Flat' has no setting 'distance'"):
        make_policy("plugged:Flat", CONFIG, distance=1.0)


def test_a_policy_with_a_parameter_to_tune_becomes_a_baseline(offered):
    offered()
    before = list(tuned_policies())

    @register
    class Tunable(QuotingPolicy):
        name = "tunable"
        tuning = Tuning("half_spread", 0.1, 1.0, (0.5,))

    assert list(tuned_policies()) == [*before, "tunable"]
    assert before == ["fixed-spread", "avellaneda-stoikov", "glft", "cartea-jaimungal"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "plugged:Wide",
            r"float32 \(2, 3\).*must give half_spread, skew of each, float32 \(2, 2\)",
        ),
        ("plugged:Forgets", "'plugged:Forgets'.*ndarray.*the memory after it"),
        ("plugged:Idle", "'plugged:Idle'.* act"),
        ("plugged:Nothing", "plugged has no 'Nothing'"),
        ("plugged:MODULE_TEXT", "plugged has no"),
        ("raising:Steady", "'raising:Steady' cannot be imported: ZeroDivisionError"),
        ("gltf", "Did you mean 'glft'"),
        ("glft", "missing a required argument: 'gamma'; it takes gamma"),
        (
            "fixed-spread:half_spred=1",
            r"'fixed-spread' has no setting 'half_spred'\. Did you mean 'half_spread'\?",
        ),
        ("glft:gamma=much", "'gamma=much' is not possible: write name=number"),
        ("glft:gamma=1,kappa=2", "no setting 'kappa'"),
        ("steady", "two policies are named 'steady', one in plugged:Steady and one in other:Steady"),
        ("glft:gamma=1,volatility=2", None),
    ],
)
def test_unsound_policies_are_refused_in_a_sentence(module, offered, name, words):
    offered(
        ("neuralmm.policies", "steady", "plugged:Steady"), ("neuralmm.policies", "steady", "other:Steady")
    )
    if words is None:
        assert make_policy(name, CONFIG).name == "glft"
        return
    with pytest.raises(ConfigError, match=words):
        make_policy(name, CONFIG)


def test_what_has_the_name_of_ours_is_refused(module, offered):
    offered(("neuralmm.policies", "glft", "plugged:Steady"))
    with pytest.raises(ConfigError, match=r"'glft', one in policies\.analytic\.GLFT and one in plugged"):
        make_policy("glft", CONFIG, gamma=1.0)
    with pytest.raises(ConfigError, match="rename one of them"):
        register(type("Mine", (module.Steady,), {"name": "no-trade"}))
    with pytest.raises(ConfigError, match=r"'half' = 0\.5 is not possible"):
        POLICIES.register("half", 0.5)


def test_commands_take_policies_by_name_and_of_files(module, capsys):
    console = Console(width=180)
    report(Evaluate(model=Path("plugged:Steady"), market="brownian", episodes=4, baselines=False), console)
    bundle = OLD / "policy.mmz"
    report(Evaluate(model=bundle, episodes=4, baselines=False), console)
    out = capsys.readouterr().out
    assert "steady" in out
    assert "policy.mmz" in out
    with pytest.raises(ConfigError, match="--market = None"):
        report(Evaluate(model=Path("glft:gamma=1"), episodes=4), console)
    market = Live(step_seconds=1.0, venue="binance-usdm", symbol="BTCUSDT")
    assert choose("plugged:Steady", {"distance": 0.25}, market, 5, 1).name == "plugged:Steady distance=0.25"
    model = choose(str(OLD / "run"), {}, market, None, None)
    digest = choose(str(OLD / "run" / "best_model.zip"), {}, market, None, None).name
    assert digest.split()[1] == model.name.split()[1]
    assert model.player().step(np.zeros(6, np.float32)).shape == (2,)


def test_a_solver_does_not_take_a_market_for_its_parent():
    market = type("Jumps", (type(CONFIG.market),), {"name": "jumps"})()
    with pytest.raises(ConfigError, match=r"market = 'jumps' .*'brownian' .*Jumps inherits from it"):
        solved_market(market, (type(CONFIG.market),))
    for policy in ("optimum", "glft:gamma=1"):
        with pytest.raises(ConfigError, match="jumps"):
            make_policy(policy, make_config(market))


def test_the_documentation_lists_the_policies():
    text = (ROOT / "docs" / "training.md").read_text()
    for name, what in POLICIES.table():
        assert f"| `{name}` | {what} |" in text


def test_a_signal_is_found_by_every_road(module, offered):
    offered(("neuralmm.signals", "momentum", "plugged:Momentum"))
    made = [load_signal("plugged:Momentum"), load_signal("momentum"), load_signal(module.Momentum())]
    assert {signal.name for signal in made} == {"momentum"}
    env = gym.make("NeuralMM-v0", market="brownian", signals=["plugged:Momentum"])
    observation, _ = env.reset(seed=0)
    assert observation[env.unwrapped.observation_names.index("momentum")] == 0.5
    config = env.unwrapped.config
    assert make_config(**config.to_dict()).schema_id == config.schema_id
    with pytest.raises(ConfigError, match="two of them have the output 'momentum'"):
        load_signals(["momentum", "plugged:Momentum"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unbounded", r"'momentum': momentum = \(-1\.0, inf\) is not possible: it must be bounded"),
        ("Broken", r"'momentum': step.* = \[\[nan\], \[nan\]\] is not possible: it must be finite"),
        ("Many", r"'momentum': step\(\.\.\.\)\.shape = \(2, 2\) is not possible: it must be \(2, 1\)"),
        ("Lost", "groups = 'order_flo' is not known. Did you mean 'order_flow'"),
        ("Idle", "is no signal"),
        ("Nothing", "plugged has no 'Nothing'"),
    ],
)
def test_unsound_signals_are_refused_in_a_sentence(module, name, words):
    with pytest.raises(ConfigError, match=words):
        load_signal(f"plugged:{name}")
    with pytest.raises(ConfigError, match="cannot be imported: ZeroDivisionError"):
        load_signal(f"raising:{name}")


def test_an_output_that_is_like_nothing_is_refused():
    with pytest.raises(ConfigError, match="cannot be read: known is"):
        load_signal("momentun")
    with pytest.raises(ConfigError, match="is no signal"):
        load_signal(Feature("x", 0, 1, ""))
