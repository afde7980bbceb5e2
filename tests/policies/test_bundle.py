"""Bundles against torch, against damage, and without torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.latency import random_network
from mmenv.checks import ConfigError
from mmenv.config import make_config
from mmenv.observation import action_space, observation_space
from policies.archive import MANIFEST, SUMS
from policies.bundle import Bundle, load, save
from policies.make import make_policy
from policies.network.layers import Layer, Network
from policies.network.quantise import to_float16, to_int8
from policies.network.recurrent import RecurrentPolicy
from policies.network.runtime import BatchPolicy, Stream
from policies.network.trained import TrainedPolicy, actor_network, layers_of
from policies.tick import TickToQuote, record

CONFIG = make_config("brownian", horizon=50)


def torch_policy(cell="lstm", privileged=0, **kwargs):
    torch.manual_seed(3)
    width = observation_space(CONFIG).shape[0] + privileged
    space = observation_space(CONFIG) if not privileged else nn_space(width)
    policy = RecurrentPolicy(
        space,
        action_space(CONFIG),
        lambda _: 1e-3,
        cell=cell,
        privileged=privileged,
        lstm_hidden_size=kwargs.pop("hidden", 24),
        enable_critic_lstm=False,
        **kwargs,
    )
    nn.init.normal_(policy.action_net.weight, std=0.5)
    for parameter in policy.parameters():  # larger than at the start, so that nothing stays near zero
        parameter.data *= 1.5
    return policy.eval()


def nn_space(width):
    from gymnasium import spaces

    return spaces.Box(-10, 10, (width,), np.float32)


@pytest.fixture(scope="module")
def bundle():
    return Bundle(actor_network(torch_policy()), CONFIG, provenance={"by": "test"})


@pytest.fixture
def path(bundle, tmp_path):
    save(bundle, tmp_path / "policy.mmz")
    return tmp_path / "policy.mmz"


def observations(steps, n, width, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (steps, n, width)).astype(np.float32)


def run(policy, seen):
    state, actions = policy.reset(seen.shape[1]), []
    for observation in seen:
        action, state = policy.act(observation, state)
        actions.append(action)
    return np.array(actions)


# --- Equal to torch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"cell": "gru"},
        {"n_lstm_layers": 2},
        {"cell": "gru", "n_lstm_layers": 2, "hidden": 13},
        {"cell": "mingru", "n_lstm_layers": 2, "hidden": 13},
        {"cell": "lru", "n_lstm_layers": 2, "hidden": 13},
        {"privileged": 1},
        {"net_arch": []},
        {"net_arch": [32, 16], "activation_fn": nn.ReLU},
    ],
)
def test_actions_equal_torch(kwargs):
    policy = torch_policy(**kwargs)
    network = actor_network(policy)
    seen = observations(60, 5, network.inputs)
    ours, theirs = run(BatchPolicy(network), seen), run(TrainedPolicy(policy), seen)
    assert np.abs(theirs).max() == 1.0  # some are clipped
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_branches_heads_and_skips_equal_torch():
    """The shape of a multi-task network: two LSTMs, a dense part that also reads entries they skip, heads."""
    torch.manual_seed(1)
    market, own = 6, 3
    first, second = nn.LSTM(market, 16), nn.LSTM(16, 8)
    dense = nn.Sequential(
        nn.Linear(8 + own, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 7), nn.Tanh()
    ).eval()
    heads = [nn.Linear(7, 1), nn.Sequential(nn.Linear(7, 2), nn.Sigmoid())]

    a, b = *layers_of(first), *layers_of(second)
    wide = np.zeros((64, market + own), np.float32)
    wide[:, :market] = a.arrays["weight_ih"]
    a = dataclasses.replace(a, arrays={**a.arrays, "weight_ih": wide})
    c, d = layers_of(dense)
    weight = c.arrays["weight"]
    skip = np.zeros((12, 8 + market + own), np.float32)
    skip[:, :8], skip[:, 8 + market :] = weight[:, :8], weight[:, 8:]
    c = dataclasses.replace(c, arrays={**c.arrays, "weight": skip}, reads=(1, -1))
    tops = [dataclasses.replace(layer, reads=(3,)) for head in heads for layer in layers_of(head)]
    network = Network(market + own, (a, b, c, d, *tops), outputs=(5, 4))

    seen = observations(40, 3, market + own)
    x = torch.from_numpy(seen)
    with torch.no_grad():
        memory = second(first(x[..., :market])[0])[0]
        shared = dense(torch.cat([memory, x[..., market:]], -1))
        expected = torch.cat([heads[1](shared), heads[0](shared)], -1).numpy()
    np.testing.assert_allclose(run(BatchPolicy(network), seen), expected, atol=1e-6, rtol=0)


# --- Other engines and smaller weights ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"cell": "gru", "n_lstm_layers": 2},
        {"cell": "mingru", "n_lstm_layers": 2},
        {"cell": "lru", "n_lstm_layers": 2},
        {"activation_fn": nn.ReLU},
    ],
)
def test_onnx_runtime_agrees_and_takes_over_the_state(kwargs):
    onnx_engine = pytest.importorskip("policies.network.onnx_engine")
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    network = actor_network(torch_policy(**kwargs))
    model = onnx_engine.to_onnx(network)
    seen = observations(40, 3, network.inputs)
    seen[7, 1, 2] = np.nan
    ours = run(BatchPolicy(network), seen)
    assert np.isnan(ours[7, 1]).all()
    assert np.isfinite(ours).sum() == ours.size - 2
    np.testing.assert_allclose(run(onnx_engine.OnnxPolicy(network, model), seen), ours, atol=1e-5, rtol=0)
    first, second = onnx_engine.OnnxStream(network, model), Stream(network)
    alone = [first.step(row).copy() for row in seen[:21, 1]]
    second.state = first.state
    alone += [second.step(row).copy() for row in seen[21:30, 1]]
    first.state = second.state
    alone += [first.step(row).copy() for row in seen[30:, 1]]
    np.testing.assert_allclose(alone, ours[:, 1], atol=1e-5, rtol=0)


def test_engines_behind_one_flag(bundle, path):
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    seen = observations(5, 2, bundle.network.inputs)
    policies = [make_policy(str(path), CONFIG, engine=engine) for engine in ("numba", "onnx")]
    np.testing.assert_allclose(run(policies[0], seen), run(policies[1], seen), atol=1e-5)
    assert [bundle.stream(engine).engine for engine in ("numba", "onnx")] == ["numba", "onnx"]
    with pytest.raises(ConfigError, match="engine = 'torch'"):
        bundle.stream("torch")


@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru", "lru"])
def test_int8_is_a_third_of_the_size_and_close(cell, tmp_path):
    """Against the same arithmetic in NumPy on the multiplied-out weights, and against full precision."""
    network = actor_network(torch_policy(cell, hidden=64))
    seen = observations(100, 4, network.inputs)
    small = to_int8(network, seen)
    assert all(layer.quantised for layer in small.layers)
    multiplied = [
        dataclasses.replace(
            layer, arrays={name: layer.real(name) for name in layer.arrays if name != "scale"}
        )
        for layer in small.layers
    ]
    full, ours = run(BatchPolicy(network), seen), run(BatchPolicy(small), seen)
    expected = run(BatchPolicy(dataclasses.replace(network, layers=tuple(multiplied))), seen)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)
    assert np.sqrt(np.mean((ours - full) ** 2)) < 0.05 * np.std(full)
    sizes = []
    for made in (network, small):
        save(Bundle(made, CONFIG), tmp_path / "policy.mmz")
        sizes.append((tmp_path / "policy.mmz").stat().st_size)
        assert load(tmp_path / "policy.mmz").network.digest == made.digest
    # A smaller one's frame weighs more.
    assert sizes[1] <= sizes[0] / (2.5 if cell in ("mingru", "lru") else 3)


def test_calibration_clips_what_is_never_read_and_keeps_the_mean(monkeypatch):
    """A row's largest weight meets an input that is always near zero: at full scale it would take up most of
    the steps."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (8, 20)).astype(np.float32)
    weight[:, 3] = 1.0
    network = Network(20, (Layer("dense", {"weight": weight, "bias": np.zeros(8, np.float32)}),))
    seen = rng.normal(1, 1, (200, 4, 20)).astype(np.float32)
    seen[..., 3] = 1e-4
    exact = run(BatchPolicy(network), seen)
    calibrated = run(BatchPolicy(to_int8(network, seen)), seen) - exact
    monkeypatch.setattr("policies.network.quantise.SHRINK", np.ones(1))
    full_scale = run(BatchPolicy(to_int8(network, seen)), seen) - exact
    assert np.mean(calibrated**2) < 0.5 * np.mean(full_scale**2)
    assert np.abs(calibrated.mean(axis=(0, 1))).max() < 1e-4


@pytest.mark.parametrize("cell", ["lstm", "lru"])
def test_float16_is_half_the_size_and_close(cell, tmp_path):
    network = actor_network(torch_policy(cell, hidden=64))
    seen = observations(50, 4, network.inputs)
    half = to_float16(network)
    np.testing.assert_allclose(run(BatchPolicy(half), seen), run(BatchPolicy(network), seen), atol=0.02)
    save(Bundle(half, CONFIG, format="float16"), tmp_path / "policy.mmz")
    assert load(tmp_path / "policy.mmz").network.digest == half.digest


# --- One stream ---------------------------------------------------------------------------------------------


def test_stream_and_batch_give_the_same_bytes(bundle):
    seen = observations(30, 4, bundle.network.inputs)
    together = run(bundle.policy(), seen)
    for i in range(4):
        stream = bundle.stream()
        alone = np.array([stream.step(np.ascontiguousarray(row)).copy() for row in seen[:, i]])
        assert alone.tobytes() == together[:, i].tobytes()


@given(cut=st.integers(0, 29))
@settings(max_examples=10, deadline=None)
def test_a_restarted_stream_continues(bundle, cut):
    seen = observations(30, 1, bundle.network.inputs)[:, 0]
    whole, before, after = bundle.stream(), bundle.stream(), bundle.stream()
    expected = [whole.step(row).copy() for row in seen]
    for row in seen[:cut]:
        before.step(row)
    after.state = before.state
    assert np.array_equal([after.step(row).copy() for row in seen[cut:]], expected[cut:])
    after.reset()
    assert np.array_equal(after.step(seen[0]), expected[0])


def test_another_state_is_refused(bundle):
    stream, other = bundle.stream(), Stream(actor_network(torch_policy(hidden=23)))
    saved = stream.state
    with pytest.raises(ConfigError, match="another policy"):
        other.state = saved
    for damaged in (saved[:-1], saved[:20] + b"\x01" + saved[21:], b""):
        with pytest.raises(ConfigError, match="damaged"):
            stream.state = damaged


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_an_observation_that_is_no_number_quotes_nothing_and_is_forgotten(bundle, bad):
    seen = observations(3, 1, bundle.network.inputs)[:, 0]
    stream, clean = bundle.stream(), bundle.stream()
    stream.step(seen[0]), clean.step(seen[0])
    broken = seen[1].copy()
    broken[4] = bad
    assert np.isnan(stream.step(broken)).all()
    assert np.array_equal(stream.step(seen[2]), clean.step(seen[2]))


def test_a_step_takes_only_what_fits_and_converts_the_rest(bundle):
    row = observations(1, 1, bundle.network.inputs)[0, 0]
    expected = bundle.stream().step(row).copy()
    strided, fixed = np.repeat(row, 2)[::2], row.copy()
    fixed.flags.writeable = False
    for other in (row.astype(np.float64), strided, fixed, row.tolist()):
        assert np.array_equal(bundle.stream().step(other), expected)
    with pytest.raises(ValueError, match="entries"):
        bundle.stream().step(row[:-1])


def most_memory(call):
    """Bytes in use at once, at most, in the course of many calls."""
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_step_allocates_no_array(bundle):
    """Not even for a moment: the header of an array alone takes 96 bytes."""
    stream, row = bundle.stream(), observations(1, 1, bundle.network.inputs)[0, 0]
    stream.step(row)
    assert most_memory(lambda: stream.step(row)) - most_memory(lambda: None) < 96


# --- The file -----------------------------------------------------------------------------------------------


def test_a_file_gives_back_the_bundle(bundle, path, tmp_path):
    found = load(path, CONFIG)
    assert found.network.digest == bundle.network.digest
    assert (found.config, found.provenance, found.format) == (CONFIG, {"by": "test"}, "float32")
    save(found, tmp_path / "again.mmz")
    assert (tmp_path / "again.mmz").read_bytes() == path.read_bytes()
    seen = observations(10, 2, bundle.network.inputs)
    assert np.array_equal(run(make_policy(str(path), CONFIG), seen), run(bundle.policy(), seen))


def test_loads_and_acts_without_torch(path):
    """With the imports of torch and SB3 blocked, in a process of its own."""
    code = f"""
import sys
for name in ("torch", "stable_baselines3", "sb3_contrib", "onnx", "onnxruntime"):
    sys.modules[name] = None
import numpy as np
from policies.bundle import load
bundle = load({str(path)!r})
row = np.linspace(-1, 1, bundle.network.inputs, dtype=np.float32)
policy = bundle.policy()
action, _ = policy.act(row[None], policy.reset(1))
print(bundle.stream().step(row).tolist() == action[0].tolist())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "True", result.stderr


def rewrite(path, change, sums=True):
    """The bundle with `change(files)` made, its checksums put right or left."""
    import hashlib

    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if sums:
        named = {name: data for name, data in files.items() if name != SUMS}
        files[SUMS] = "".join(f"{hashlib.sha256(d).hexdigest()}  {n}\n" for n, d in named.items()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def edit_manifest(**changes):
    def change(files):
        files[MANIFEST] = json.dumps({**json.loads(files[MANIFEST]), **changes}).encode()

    return change


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_file_is_refused(bundle, tmp_path_factory, data):
    """Cut anywhere, or with any byte flipped that matters."""
    path = tmp_path_factory.mktemp("damaged") / "policy.mmz"
    save(bundle, path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
        with pytest.raises(ConfigError, match="not a whole bundle"):
            load(path)
        return
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
    try:
        found = load(path)
    except ConfigError:
        return
    assert found.network.digest == bundle.network.digest  # a byte that no reader looks at, such as a date


def test_refusals_say_why(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such bundle"):
        load(tmp_path / "none.mmz")
    with pytest.raises(ConfigError, match=r"horizon: 50, not 60"):
        load(path, dataclasses.replace(CONFIG, horizon=60))
    other = dataclasses.replace(CONFIG, market=make_config("hidden-regime").market)
    with pytest.raises(ConfigError, match=r"market\.name"):
        load(path, other)
    assert make_policy(str(path), other)  # what it reads and decides is the same there
    with pytest.raises(ConfigError, match="features"):
        make_policy(str(path), make_config("brownian", horizon=50, features=("tape", "inventory", "clock")))

    def weight(files):
        name = next(name for name in files if name.endswith("weight.npy"))
        files[name] = files[name][:-4] + b"\x00\x00\x80\x3f"

    rewrite(path, weight, sums=False)
    with pytest.raises(ConfigError, match="does not fit its checksum"):
        load(path)
    rewrite(path, edit_manifest(version=99))
    with pytest.raises(ConfigError, match="version 99"):
        load(path)


def test_a_feature_that_means_something_else_now_is_refused(path):
    with zipfile.ZipFile(path) as archive:
        features = json.loads(archive.read(MANIFEST))["features"]
    features[2][2] = 5.0
    rewrite(path, edit_manifest(features=features))
    with pytest.raises(ConfigError, match="return_mean"):
        load(path)


def test_a_pickled_array_is_refused(path):
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([print], object), allow_pickle=True)

    def change(files):
        files["weights/0.bias_hh.npy"] = buffer.getvalue()

    rewrite(path, change)
    with pytest.raises(ConfigError, match="no array of numbers"):
        load(path)


def test_impossible_networks_are_refused():
    dense = Layer("dense", {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)})
    for text, make in {
        "Layer.kind": lambda: Layer("conv", {}),
        "activation": lambda: dataclasses.replace(dense, activation="gelu"),
        "bias": lambda: Layer("dense", {"weight": dense.arrays["weight"]}),
        "shape": lambda: Layer("dense", {**dense.arrays, "weight": np.zeros((3, 3), np.float32)}),
        "must be finite": lambda: Layer("dense", {**dense.arrays, "bias": np.full(2, np.nan, np.float32)}),
        r"reads = \(-1,\) .* of 3 inputs": lambda: Network(4, (dense,)),
        r"outputs = \(1,\) .* layers from 0 to 0": lambda: Network(3, (dense,), outputs=(1,)),
        "one layer at least": lambda: Network(3, ()),
    }.items():
        with pytest.raises(ConfigError, match=text):
            make()
    with pytest.raises(ConfigError, match="cannot be exported"):
        layers_of(nn.Conv1d(1, 1, 1))


# --- Tick to quote ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_book():
    wide = {"max_half_spread": 12.0, "max_skew": 12.0, "max_distance": 12.0, "withdraw": False}
    market = {"name": "book", "preset": "binance-usdm-btc"}
    config = make_config(market, horizon=150, quote=wide, features=make_config("brownian").features)
    torch.manual_seed(3)
    return Bundle(random_network(18, 16, 3), config)


def test_outcomes_give_the_orders_of_their_session(on_book):
    session = record(on_book, on_book.config, 600, seed=5)
    tick = TickToQuote(on_book)
    got = [
        (tick.start(outcome) if first else tick.quote(outcome)).copy()
        for outcome, first in zip(session.outcomes, session.starts, strict=True)
    ]
    assert np.array_equal(got, session.orders)
    fills = session.outcomes["ask_fill_lots"].sum() + session.outcomes["bid_fill_lots"].sum()
    assert session.starts.sum() == 4
    assert fills > 5
    assert len(np.unique(session.orders, axis=0)) > 20


def test_the_position_limit_holds_from_outcome_to_orders(on_book):
    session = record(on_book, on_book.config, 1, seed=5)
    tick = TickToQuote(on_book)
    limit = on_book.config.risk.position_limit
    assert tick.start(session.outcomes[0], position=limit).tolist()[1::2] == [1, 0]
    assert tick.start(session.outcomes[0], position=-limit).tolist()[1::2] == [0, 1]


def test_a_broken_observation_quotes_nothing_from_outcome_to_orders(on_book, monkeypatch):
    from policies import tick as module

    session = record(on_book, on_book.config, 2, seed=5)
    tick = module.TickToQuote(on_book)
    assert tick.start(session.outcomes[0])[1] == 1
    tick.desk.core["entry"][0, 0] = np.nan
    tick.desk.core["position"][0, 0] = 1
    assert tick.quote(session.outcomes[1])[1::2].tolist() == [0, 0]
    with pytest.raises(TypeError, match="must be an OUTCOME record"):
        tick.quote(np.zeros(20, np.int64))


def test_a_session_needs_whole_ticks(bundle):
    with pytest.raises(ConfigError, match="whole ticks"):
        record(bundle, CONFIG, 2, seed=0)


# --- The commands -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model as `neuralmm train` saves it."""
    from policies.sb3 import ENV_CONFIG
    from train.learner.recurrent_ppo import FastRecurrentPPO
    from train.learner.vec_env import NeuralMMVecEnv

    path = tmp_path_factory.mktemp("run") / "best_model.zip"
    made = FastRecurrentPPO(
        "MlpLstmPolicy", NeuralMMVecEnv(CONFIG, 2, seed=0), n_steps=8, batch_size=16, threads=1, seed=0,
        policy_kwargs={"lstm_hidden_size": 16, "enable_critic_lstm": False},
    )  # fmt: skip
    nn.init.normal_(made.policy.action_net.weight, std=0.3)
    setattr(made, ENV_CONFIG, CONFIG.to_dict())
    made.save(path)
    return path


def command(monkeypatch, *arguments):
    from train.cli import main

    monkeypatch.setattr(sys, "argv", ["neuralmm", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_export_and_verify(model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "policy.mmz"
    assert command(monkeypatch, "export", model.parent, "-o", path, "--episodes", "0") == 0
    assert command(monkeypatch, "verify", path) == 0
    assert command(monkeypatch, "verify", path, "--against", model, "--value-episodes", "64") == 0
    out = capsys.readouterr().out
    assert out.count("Verified.") == 2
    assert "of the optimum" in out
    found = load(path, CONFIG)
    assert found.reference.shape == (50, 2)
    assert found.units == (4096, 1.0)
    assert found.provenance["model"].endswith("/best_model.zip")


def test_verify_notices_a_changed_weight(model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "policy.mmz"
    command(monkeypatch, "export", model, "-o", path, "--episodes", "0")
    found = load(path)
    *layers, last = found.network.layers
    bias = last.arrays["bias"] + np.float32(2e-5)
    layers.append(dataclasses.replace(last, arrays={**last.arrays, "bias": bias}))
    changed = dataclasses.replace(found.network, layers=tuple(layers))
    save(dataclasses.replace(found, network=changed), path)
    assert command(monkeypatch, "verify", path) == 1
    assert "NOT VERIFIED" in capsys.readouterr().out


def test_int8_says_what_it_costs(model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "policy.mmz"
    assert command(monkeypatch, "export", model, "-o", path, "--format", "int8", "--episodes", "64") == 0
    assert load(path).evaluation.keys() >= {"value", "minus float32", "% of optimum"}
    assert command(monkeypatch, "verify", path, "--against", model, "--value-episodes", "64") == 0
    out = capsys.readouterr().out
    assert "of the quotes differ" in out
    assert "paired" in out


def test_export_refuses_in_a_sentence(model, tmp_path, monkeypatch):
    assert "must end in .mmz" in command(monkeypatch, "export", model, "-o", tmp_path / "policy.zip")
    assert "there is no model" in command(monkeypatch, "export", tmp_path / "none.zip")
    assert "no such bundle" in command(monkeypatch, "verify", tmp_path / "none.mmz")
