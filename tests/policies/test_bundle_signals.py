"""Bundles with the signals and the risk manager of their policy within: in any folder, the same bytes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

import mmenv.config
from benchmarks.latency import random_network
from mmenv import ConfigError, make_config
from mmenv.config import schema_of
from mmenv.features.base import Feature
from mmenv.observation import observation_features
from mmenv.tasks import find_task
from policies.archive import MANIFEST
from policies.bundle import Bundle, load, save
from policies.make import make_policy
from policies.network.layers import Layer, Network
from policies.network.runtime import BatchPolicy
from policies.signals import TrainedSignal, to_bytes
from policies.signals import load as load_signal
from policies.signals import save as save_signal
from tests.policies.test_bundle import command, rewrite
from train.simulate import simulate
from train.sources import make_source

MARKET = {"name": "book", "preset": "binance-usdm-btc"}
"""Decides as often as the sessions of `tests.helpers.sessions`."""
PLAIN = make_config(MARKET, horizon=60)


def made_signal(name: str, seed: int, config=PLAIN) -> TrainedSignal:
    """A network of a memory and one output between 0 and 1, as it might have been trained."""
    generator = np.random.default_rng(seed)

    def numbers(*shape):
        return generator.normal(size=shape).astype(np.float32)

    inputs = tuple(f for f in observation_features(config) if f.name in ("return", "volume", "spread"))
    arrays = {"weight_ih": numbers(16, 3), "weight_hh": numbers(16, 4), "bias_ih": numbers(16)}
    layers = (
        Layer("lstm", arrays | {"bias_hh": numbers(16)}),
        Layer("dense", {"weight": numbers(1, 4), "bias": numbers(1)}, "sigmoid"),
    )
    output = Feature(f"{name}_score", 0.0, 1.0, "a score")
    groups, pace = ("order_flow",), config.market.step_seconds
    return TrainedSignal(name, Network(3, layers), groups, inputs, (output,), pace, {"figures": {name: seed}})


@pytest.fixture
def bundle(tmp_path):
    """A policy whose signals lie in files of a folder `elsewhere`."""
    sources = []
    (tmp_path / "elsewhere").mkdir()
    for name, seed in (("flow", 1), ("danger", 2)):
        path = tmp_path / "elsewhere" / f"{name}.mms"
        save_signal(made_signal(name, seed), path)
        sources.append(f"policies.signals:{path}")
    manager = {"signal": sources[1], "share": 0.02}
    config = make_config(MARKET, horizon=60, signals=sources[:1], manager=manager)
    return Bundle(random_network(len(observation_features(config)), 16, seed=3), config)


@pytest.fixture
def path(bundle, tmp_path):
    """Its file, alone: the folder of the signals is gone."""
    (tmp_path / "alone").mkdir()
    save(bundle, tmp_path / "alone" / "policy.mmz")
    shutil.rmtree(tmp_path / "elsewhere")
    return tmp_path / "alone" / "policy.mmz"


def earned(policy, config):
    """What is observed, done and earned in some episodes."""
    seen = []
    outcome = simulate(
        policy, config, 4, seed=7, watch=lambda *now: seen.append([np.array(part) for part in now])
    )
    return [np.stack(part) for part in zip(*seen, strict=True)] + [outcome.controlled]


# --- The same bytes -----------------------------------------------------------------------------------------


def test_it_plays_as_with_the_files_wherever_it_lies(bundle, path, tmp_path, monkeypatch):
    """Also moved, named relative to the folder, and with a limit cut by the risk manager within."""
    expected = earned(BatchPolicy(bundle.network), bundle.config)
    calm = dataclasses.replace(bundle.config, manager=None)
    assert any((a != b).any() for a, b in zip(expected, earned(bundle.policy(), calm), strict=True))
    moved = shutil.move(path, tmp_path / "moved.mmz")
    monkeypatch.chdir(tmp_path)
    for one in (str(moved), "moved.mmz"):
        found = load(one)
        for ours, theirs in zip(earned(found.policy(), found.config), expected, strict=True):
            assert ours.tobytes() == theirs.tobytes()
    assert found.config.schema_id == bundle.config.schema_id
    found.check(bundle.config)
    assert make_policy("moved.mmz", bundle.config)
    source = make_source("moved.mmz", "it", found.config)[0]
    assert earned(source.make(found.config), found.config)[-1].tobytes() == expected[-1].tobytes()
    # What it says of its signals gives them back, in another process too.
    monkeypatch.chdir("/")
    again = make_config(**json.loads(json.dumps(found.config.to_dict())))
    assert [one.identity for one in again.networks] == [one.identity for one in bundle.config.networks]


def test_the_file_does_not_depend_on_where_the_signals_were(bundle, path, tmp_path):
    found = load(path)
    save(found, tmp_path / "again.mmz")
    made = dataclasses.replace(bundle.config.manager, signal=made_signal("danger", 2))
    config = dataclasses.replace(bundle.config, signals=(made_signal("flow", 1),), manager=made)
    save(dataclasses.replace(bundle, config=config), tmp_path / "memory.mmz")
    for name in ("again", "memory"):
        assert (tmp_path / f"{name}.mmz").read_bytes() == path.read_bytes()
    (signal,) = found.config.signals
    assert to_bytes(load_signal(signal.source)) == to_bytes(made_signal("flow", 1))
    assert signal.card == {"figures": {"flow": 1}}


def test_a_paper_session_runs_from_the_bundle_and_is_played_again(path, tmp_path):
    pytest.importorskip("hftbacktest")
    from mmenv.live.journal import Journal
    from mmenv.live.rerun import check, decisions
    from tests.helpers.sessions import paper, setup
    from train.live import choose

    chosen = choose(str(path), {}, setup().market, None, None)
    own = {f.name: getattr(chosen.config, f.name) for f in dataclasses.fields(chosen.config)}
    del own["market"]
    file = Journal(tmp_path / "journal")
    paper(file, player=chosen.player(), **own)
    file.close()
    made = list(decisions(tmp_path / "journal"))
    columns = [f.name for f in observation_features(chosen.config)]
    (signal,) = chosen.config.signals
    seen = np.stack([one["observation"] for one in made])[:60]
    inputs = seen[:, [columns.index(feature.name) for feature in signal.inputs]]
    scores = seen[:, columns.index("flow_score")]
    np.testing.assert_array_equal(scores, signal.run(inputs, np.array([0, len(inputs)]))[:, 0])
    assert len(np.unique(scores)) > 30
    check(tmp_path / "journal", chosen.player())


# --- Commands -----------------------------------------------------------------------------------------------


def test_commands_need_the_bundle_alone(tmp_path, monkeypatch, capsys):
    """Export from a model that names a file; then verify, also against the model, score and backtest."""
    from policies.sb3 import ENV_CONFIG
    from train.learner.recurrent_ppo import FastRecurrentPPO
    from train.learner.vec_env import NeuralMMVecEnv

    task = find_task("brownian")
    for folder in ("run", "a"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "run")
    save_signal(made_signal("flow", 1, task.config(features=("order_flow", "inventory"))), "flow.mms")
    config = task.config(features=("order_flow", "inventory"), signals=["policies.signals:flow.mms"])
    model = FastRecurrentPPO(
        "MlpLstmPolicy", NeuralMMVecEnv(config, 2, seed=0), n_steps=8, batch_size=16, threads=1, seed=0,
        policy_kwargs={"lstm_hidden_size": 16, "enable_critic_lstm": False},
    )  # fmt: skip
    model.policy.action_net.weight.data.normal_(std=0.3)
    setattr(model, ENV_CONFIG, config.to_dict())
    model.save("best_model.zip")
    assert command(monkeypatch, "export", ".", "-o", tmp_path / "a" / "policy.mmz", "--episodes", "0") == 0
    monkeypatch.chdir(tmp_path / "a")
    save_signal(made_signal("flow", 1, task.config(features=("order_flow", "inventory"))), "flow.mms")
    against = ("--against", "../run/best_model.zip", "--episodes", "1", "--value-episodes", "16")
    assert command(monkeypatch, "verify", "policy.mmz", *against) == 0
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "a" / "flow.mms").unlink()
    assert command(monkeypatch, "verify", "policy.mmz") == 0
    assert capsys.readouterr().out.count("Verified.") == 2
    assert command(monkeypatch, "zoo", "play", "brownian", "--policy", "policy.mmz", "--episodes", "16") == 0
    assert command(monkeypatch, "score", "policy.mmz", "--task", "brownian") == 0
    assert command(monkeypatch, "backtest", "policy.mmz", "brownian", "--days", "1", "--jobs", "1") == 0


# --- Refusals -----------------------------------------------------------------------------------------------


def name_of(files, signal="flow"):
    told = json.loads(files[MANIFEST])["config"]["signals"][0]
    assert told["name"] == signal
    return told["source"]


def test_a_signal_that_is_missing_or_was_changed_is_refused(path):
    def remove(files):
        del files[name_of(files)]

    def edit(files):
        files[name_of(files)] = to_bytes(made_signal("flow", 9))

    def spoil(files):
        data = files[name_of(files)]
        files[name_of(files)] = data[:-40] + bytes(40)

    whole = path.read_bytes()
    for change, sums, why in (
        (edit, False, r"signals/\w+\.mms does not fit its checksum"),
        (edit, True, r"holds another signal 'flow' than its policy learned with.*export the policy anew"),
        (remove, False, "files are missing"),
        (remove, True, r"lacks its signal 'flow' \(signals/\w+\.mms\); copy or export it anew"),
        (spoil, True, r"signals/\w+\.mms is not a whole bundle"),
    ):
        path.write_bytes(whole)
        rewrite(path, change, sums)
        with pytest.raises(ConfigError, match=why):
            load(path)


def test_another_pace_or_other_features_are_refused(path, bundle, monkeypatch):
    slow = make_config("book").market
    with pytest.raises(ConfigError, match=r"'flow' was trained for a decision every .* s, but 'book'"):
        load(path).on(slow)
    without = make_config(MARKET, horizon=60)
    with pytest.raises(ConfigError, match=r"made under another configuration.*signals"):
        make_policy(str(path), without)
    before = mmenv.config.group_features

    def changed(name, config):
        return tuple(dataclasses.replace(f, high=f.high + 1) for f in before(name, config))

    monkeypatch.setattr(mmenv.config, "group_features", changed)  # a program in which features are others
    with pytest.raises(ConfigError, match=r"'flow' was trained on .*train it again"):
        load(path)


def test_code_that_does_not_say_which_is_not_saved(bundle, tmp_path):
    class Constant:
        """A signal of one's own, as an object."""

        name, groups, inputs, source = "constant", ("order_flow",), (), None
        outputs, state_size, identity = (Feature("constant", 0.0, 1.0, "a half"),), 0, "half"
        step_seconds = bundle.config.market.step_seconds

        def step(self, inputs, states):
            return np.full((len(inputs), 1), 0.5, np.float32)

    config = make_config(MARKET, signals=[Constant()])
    with pytest.raises(ConfigError, match="'constant' cannot go into a bundle: it is code"):
        save(dataclasses.replace(bundle, config=config), tmp_path / "policy.mmz")


def test_a_bundle_that_names_the_file_of_its_signal_still_loads(bundle, tmp_path):
    """As version 1 was written: the schema counts the path."""
    path = tmp_path / "policy.mmz"
    save(bundle, path)

    def age(files):
        manifest = json.loads(files[MANIFEST])
        plain = bundle.config.to_dict()
        manifest |= {"version": 1, "config": plain, "schema_id": schema_of(plain)}
        files[MANIFEST] = json.dumps(manifest).encode()
        for name in [name for name in files if name.startswith("signals/")]:
            del files[name]

    rewrite(path, age)
    found = load(path)
    assert found.config.to_dict() == bundle.config.to_dict()
    save(found, path)  # from here on it has them within
    shutil.move(tmp_path / "elsewhere", tmp_path / "gone")
    assert load(path).config.schema_id == bundle.config.schema_id
    rewrite(path, age)
    with pytest.raises(
        ConfigError, match=r"names the file of a signal, .*flow\.mms: there is no such signal"
    ):
        load(path)
