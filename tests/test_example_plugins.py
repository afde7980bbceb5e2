"""The package in examples/plugins, used from outside as another package's would be, and CONTRIBUTING.md."""

from __future__ import annotations

import asyncio
import re
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import mmenv.registry
from mmenv import make_config
from mmenv.actions.base import REGISTRY as ACTIONS
from mmenv.data.formats.base import IMPORTERS
from mmenv.data.importer import Import
from mmenv.data.rows import BUY, DEPTH, SELL, TRADE
from mmenv.features.base import GROUPS
from mmenv.live.venues.base import VENUES
from mmenv.market.base import MARKETS
from mmenv.registry import PluginError
from mmenv.rewards.base import REGISTRY as REWARDS
from mmenv.signals import SIGNALS, load_signal
from policies.base import POLICIES
from policies.make import make_policy

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "examples" / "plugins"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
REGISTRIES = {
    registry.group: registry
    for registry in (MARKETS, GROUPS, ACTIONS, REWARDS, VENUES, IMPORTERS, POLICIES, SIGNALS)
}
OFFERED = [(group, *entry) for group, entries in PROJECT["entry-points"].items() for entry in entries.items()]


@pytest.fixture(params=["by name", "module:name"])
def spelt(request, tmp_path, monkeypatch):
    """How a plug-in is named, given its entry point's name: as an installed package's, or by its path."""
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_found", dict(registry.registered))
    monkeypatch.syspath_prepend(PACKAGE)
    if request.param == "by name":
        folder = tmp_path / "site" / "neuralmm_example_plugins-0.1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: 0.1.0\n")
        groups = (
            f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in entries.items())
            for group, entries in PROJECT["entry-points"].items()
        )
        (folder / "entry_points.txt").write_text("\n".join(groups))
        monkeypatch.syspath_prepend(folder.parent)
    mmenv.registry._offers.cache_clear()
    paths = {name: path for _, name, path in OFFERED}
    yield paths.__getitem__ if request.param == "module:name" else str
    mmenv.registry._offers.cache_clear()
    for module in [name for name in sys.modules if name.partition(".")[0] == "neuralmm_plugins"]:
        del sys.modules[module]


def test_there_is_one_of_each_kind():
    assert sorted(group for group, _, _ in OFFERED) == sorted(REGISTRIES)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, name, _ in OFFERED])
def test_each_is_found_again_and_again(spelt, group, name):
    """The second time it is registered already, and still offered."""
    registry = REGISTRIES[group]
    assert f"{spelt(name)}s" not in registry
    assert spelt(name) in registry
    first = registry.find(spelt(name))
    assert registry.find(spelt(name)) is first
    assert registry.find(name) is first
    assert name in [known for known, _ in registry.table()]


def test_two_feature_groups_of_one_name_are_refused(spelt):
    GROUPS.find(spelt("last_sign"))
    with pytest.raises(
        PluginError, match=r"two feature groups are named 'last_sign', one in neuralmm_plugins"
    ):
        GROUPS.register("last_sign", GROUPS["clock"])


@pytest.fixture
def arguments(spelt):
    return {
        "market": {"name": spelt("mean-reverting"), "reversion": 0.2},
        "features": ("inventory", "clock", "order_flow", spelt("last_sign")),
        "quote": {"name": spelt("half-spread"), "max_half_spread": 2.0},
        "reward": {"terms": [{"name": spelt("damping"), "eta": 0.25}], "inventory_penalty": 0.0},
        "signals": [spelt("flow-average")],
        "horizon": 200,
    }


def test_an_environment_of_them_all(arguments):
    env = gym.make("NeuralMM-v0", **arguments)
    observation, _ = env.reset(seed=1)
    names = list(env.unwrapped.observation_names)
    average, sign, damped, moves = 0.0, 0.0, 0, 0
    assert observation[names.index("last_sign")] == 0.0
    assert env.action_space.shape == (1,)
    for _ in range(100):
        observation, reward, *_, info = env.step(np.zeros(1, np.float32))
        assert env.observation_space.contains(observation)
        seen, ledger = dict(zip(names, observation.tolist(), strict=True)), info["ledger"]
        position, move = ledger["position"], seen["return"]
        assert ledger["damping"] == pytest.approx(-0.25 * max(0.0, position * move), abs=1e-4)
        terms = ledger["spread_capture"] + ledger["adverse_selection"] + ledger["carry"] + ledger["damping"]
        assert reward == pytest.approx(terms - ledger["fees"], abs=1e-4)
        average += 0.1 * (seen["flow_imbalance"] - average)
        assert seen["flow_average"] == pytest.approx(average, abs=1e-5)
        sign = np.sign(move) or sign
        assert seen["last_sign"] == sign
        damped, moves = damped + (ledger["damping"] < 0), moves + (move != 0)
    assert damped > 5
    assert moves > 90
    env.close()


def test_the_mid_comes_back(spelt):
    envs = gym.make_vec(
        "NeuralMM-v0", num_envs=256, market={"name": spelt("mean-reverting"), "reversion": 0.5}, horizon=100
    )
    envs.reset(seed=0)
    mid = np.zeros(256)
    at = envs.unwrapped.observation_names.index("return")
    action = np.zeros(envs.action_space.shape, np.float32)
    for _ in range(60):
        observation = envs.step(action)[0]
        mid = mid + observation[:, at]
    # Stationary variance volatility^2 / (1 - (1 - share)^2), where a mid without memory would have 60 of it.
    assert np.var(mid) == pytest.approx(1 / (1 - np.exp(-1.0)), rel=0.3)
    envs.close()


def test_the_action_has_an_inverse(spelt):
    action = ACTIONS.find(spelt("half-spread"))(max_half_spread=4.0)
    distances = np.array([0.0, 1.0, 4.0])
    ask, bid = action.to_distances(action.to_action(distances, distances))
    np.testing.assert_allclose([ask, bid], [distances, distances])


def test_a_policy_quotes_by_it(spelt, arguments):
    for config in (make_config("brownian", horizon=20), make_config(**arguments)):
        policy = make_policy(spelt("half-a-unit"), config)
        ask, bid = policy.tabulate()
        assert (ask == 0.5).all()
        assert (bid == 0.5).all()


def test_a_file_is_imported(spelt, tmp_path):
    prices = ("10.0", "10.0", "10.1", "10.1", "10.0", "9.9", "10.2")
    second = 1_700_000_000
    lines = [f"{second + number}000000000,{price}" for number, price in enumerate(prices)]
    path = tmp_path / "trades.csv"
    path.write_text("time,price\n" + "\n".join(lines) + "\n")
    [(tapes, report)] = Import(
        spelt("time-and-price"), (path,), tmp_path / "store", venue="bourse", symbol="ABC", progress=False
    ).run()
    rows = np.concatenate(list(tapes[0].rows()))
    assert (tapes[0].info.venue, tapes[0].info.symbol) == ("bourse", "ABC")
    trades, book = rows[rows["kind"] == TRADE], rows[rows["kind"] == DEPTH]
    assert trades["side"].tolist() == [BUY, BUY, SELL, SELL, BUY]  # two trades before the first change
    assert trades["price"].tolist() == [101, 101, 100, 99, 102]
    levels = [(SELL, 101, 1), (BUY, 100, 1), (BUY, 100, 0), (BUY, 99, 1), (SELL, 101, 0), (SELL, 102, 1)]
    assert book[["side", "price", "size"]].tolist() == levels
    assert report.names == ["trades.csv"]


def test_a_signal_is_loaded(spelt):
    signal = load_signal(spelt("flow-average"))
    states = np.zeros((2, 1), np.float32)
    outputs = [signal.step(np.float32([[1.0], [-1.0]]), states) for _ in range(2)]
    np.testing.assert_allclose(np.hstack(outputs), [[0.1, 0.19], [-0.1, -0.19]], rtol=1e-6)
    assert load_signal(signal.source).identity == signal.identity


def test_a_signal_reads_their_features(spelt, arguments):
    signal = load_signal(spelt("flow-average"))
    signal.groups, signal.inputs = (spelt("last_sign"),), GROUPS.find(spelt("last_sign")).features
    env = gym.make("NeuralMM-v0", **{**arguments, "signals": [signal]})
    observation, _ = env.reset(seed=1)
    names, average = list(env.unwrapped.observation_names), 0.0
    for _ in range(20):
        average += 0.1 * (observation[names.index("last_sign")] - average)
        assert observation[names.index("flow_average")] == pytest.approx(average, abs=1e-6)
        observation, *_ = env.step(np.zeros(1, np.float32))
    assert average
    env.close()


def test_a_venue_plays_its_rows(spelt):
    feed = VENUES.find(spelt("scripted"))(clock=lambda: 7).feed("ABC")

    async def listen():
        return await feed.open(), [batch async for batch in feed]

    instrument, batches = asyncio.run(listen())
    assert (instrument.venue, instrument.symbol) == ("scripted", "ABC")
    assert [len(batch.rows) for batch in batches] == [3, 2, 1]
    assert all((batch.rows["local_ns"] == 7).all() and batch.live for batch in batches)


def test_the_recipes_are_the_files():
    """A code block of CONTRIBUTING.md whose first line names a file stands in that file, word for word."""
    blocks = re.findall(
        r"^```\w+\n# (examples/\S+)\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S
    )
    for name, block in blocks:
        assert block in (ROOT / name).read_text(), f"{name} has changed:\n{block}"
        assert block.count("\n") < 12
    modules = {path.partition(":")[0].rpartition(".")[2] for _, _, path in OFFERED}
    assert modules == {Path(name).stem for name, _ in blocks if name.endswith(".py")}
