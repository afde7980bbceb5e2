"""Signals: networks that run as they were trained, in the environment as over recorded windows."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mmenv import ConfigError, make_config
from mmenv.desk.desk import Desk
from mmenv.desk.networks import SignalDesk, make_desk, set_external
from mmenv.desk.stages import make_params
from mmenv.engine.state import FEE_DIGITS
from mmenv.features.base import Feature
from mmenv.observation import observation_features, observation_names
from mmenv.recording.record import at_distance, record
from mmenv.step import sizing
from mmenv.step.sizing import ManagerConfig
from policies.make import make_policy
from policies.network.recurrent import RecurrentPolicy
from policies.signals import TrainedSignal, load, save
from policies.signals.exact import Filter
from policies.signals.network import Design, Head, Net
from policies.signals.warm_start import warm_start
from policies.tick import require_alone
from train.learner.vec_env import NeuralMMVecEnv
from train.signals.inputs import BOOK, DETECTOR, INVENTORY, MARKET, RISK, signs, swapped
from train.signals.metrics import AUC, Bootstrap, Ratio, brier, log_loss, r2
from train.signals.tasks import TASKS, features_of, recording_config

QUOTED = ("order_flow", "trade_book", "microstructure", "inventory", "risk")
"""Feature groups that have the inputs of the multi-task network."""

SIZES = {
    "order-flow": 8,
    "fair-value": 24,
    "adverse-selection": 15,
    "multi-task": 25,
    "cross-asset": 9,
    "risk": 10,
}


class Options:
    """What a task asks of the settings of a run."""

    dropout, lstm, shared, quantile = 0.0, (), False, 1.0

    def __init__(self, task):
        self.horizons = TASKS[task].horizons


def market_of(task):
    return "correlated" if task == "cross-asset" else "book"


def make_signal(task, seed=0, config=None, options=None):
    """An untrained signal whose outputs differ from row to row."""
    config = recording_config(config or make_config(market_of(task)), TASKS[task])
    design = TASKS[task].design(config, options or Options(task))
    names = TASKS[task].inputs(config)
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    mean, spread = generator.normal(size=len(names)), generator.uniform(0.5, 2, len(names))
    heads = len(design.heads)
    net = Net(design, mean, spread, [0.1] * heads, [0.7] * heads).eval()
    signal = TrainedSignal(
        task,
        net.compiled(),
        config.features,
        features_of(config, names),
        tuple(Feature(h.name, h.low, h.high, h.meaning) for h in design.heads),
        config.market.step_seconds,
        {"figures": {}},
    )
    return net, signal


@pytest.mark.parametrize("task", TASKS)
def test_the_compiled_network_is_the_trained_one(task):
    """Step by step, without torch, as over whole sequences in training: scaling, streams, heads and all."""
    net, signal = make_signal(task)
    assert len(signal.inputs) == SIZES[task]
    generator = np.random.default_rng(1)
    x = generator.normal(size=(3, 40, SIZES[task])).astype(np.float32) * 3
    with torch.no_grad():
        expected = net.outputs(net(torch.from_numpy(x))).numpy()
    found = signal.run(x.reshape(-1, SIZES[task]), np.array([0, 40, 80, 120])).reshape(3, 40, -1)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert np.ptp(found, axis=1).min() > 1e-4  # it is not a constant


def test_shared_weights_see_every_asset_alike():
    design = Design((3, 3), 0, (5,), (), (Head("x", "value", ""),), shared=True)
    torch.manual_seed(0)
    net = Net(design, np.zeros(6), np.ones(6)).eval()
    with torch.no_grad():
        net.heads.weight[:, :5] = net.heads.weight[:, 5:]
    x = torch.randn(2, 7, 6)
    swapped = torch.cat([x[..., 3:], x[..., :3]], dim=-1)
    torch.testing.assert_close(net(x), net(swapped))
    assert sum(p.numel() for p in net.streams.parameters()) == 4 * 5 * (3 + 5 + 2)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_sequences_of_any_lengths_run_as_if_alone(lengths):
    _, signal = ORDER_FLOW
    first = np.concatenate([[0], np.cumsum(lengths)])
    x = np.random.default_rng(0).normal(size=(first[-1], 8)).astype(np.float32)
    together = signal.run(x, first)
    for begin, end in itertools.pairwise(first):
        np.testing.assert_array_equal(
            together[begin:end], signal.run(x[begin:end], np.array([0, end - begin]))
        )


ORDER_FLOW = make_signal("order-flow")


# In the environment.


@pytest.mark.parametrize(
    "task", ["order-flow", "fair-value", "adverse-selection", "multi-task", "cross-asset"]
)
def test_the_environment_gives_what_the_batch_gives(task, tmp_path):
    """One step a decision, in one environment or many, equals the signal over the recorded sequences."""
    config = make_config(market_of(task), horizon=50)
    _, signal = make_signal(task, config=config)
    save(signal, tmp_path / "signal.mms")
    recorded = recording_config(config, TASKS[task])
    recorded = dataclasses.replace(recorded, risk=config.risk, start_inventory=0)
    data = record(recorded, tmp_path / "data", sequences=4, quote=at_distance(config, 1.0))
    columns = data.columns(tuple(feature.name for feature in signal.inputs))
    batch = signal.run(data.features[:, columns], data.first)
    low, high = (np.array([getattr(f, side) for f in signal.outputs]) for side in ("low", "high"))
    batch = np.clip(batch, low, high).astype(np.float32)

    path = f"policies.signals:{tmp_path / 'signal.mms'}"
    action = at_distance(config, 1.0)(np.zeros((4, 1)), 0)
    envs = gym.make_vec("NeuralMM-v0", 4, config=make_config(market_of(task), horizon=50, signals=[path]))
    env = gym.make("NeuralMM-v0", config=make_config(market_of(task), horizon=50, signals=[path]))
    many, one = [envs.reset(seed=0)[0]], [env.reset(seed=0)[0]]
    assert env.unwrapped.observation_names[-len(signal.outputs) :] == tuple(f.name for f in signal.outputs)
    assert env.observation_space.contains(one[0])
    for _ in range(50):
        observations, _, terminated, _, info = envs.step(action)
        many.append(observations if not terminated.any() else np.stack(info["final_obs"]))
        one.append(env.step(action[0])[0])
    names = len(signal.outputs)
    np.testing.assert_array_equal(
        np.stack(many)[..., -names:], batch.reshape(4, 51, names).swapaxes(0, 1), strict=True
    )
    np.testing.assert_array_equal(np.stack(one)[..., -names:], batch.reshape(4, 51, names)[0])
    # After the autoreset: a fresh start, as in the first episode of a signal's life.
    fresh = np.ascontiguousarray(observations[:, [envs.observation_names.index("return")]] * 0)
    assert np.isfinite(fresh).all()
    plain = gym.make_vec("NeuralMM-v0", 4, config=make_config(market_of(task), horizon=50))
    first = [plain.reset(seed=0)[0]]
    for _ in range(50):
        first.append(plain.step(action)[0])
    np.testing.assert_array_equal(observations[:, :-names], first[-1])  # the features are untouched


def test_what_a_learner_alone_sees_stands_behind_the_signals():
    """The actor of a privileged policy sees all but the last entry: that must be the hidden state."""
    plain = make_config("hidden-regime", horizon=20)
    _, signal = make_signal("order-flow", config=plain)
    shown = dataclasses.replace(plain, signals=(signal,))
    learned = dataclasses.replace(shown, features=(*plain.features, "latent", "surprise"))
    hidden = dataclasses.replace(learned, signals=())
    ours, policys, without = (NeuralMMVecEnv(config, 4, seed=3) for config in (learned, shown, hidden))
    seen, expected, bare = ours.reset(), policys.reset(), without.reset()
    assert ours.observation_space.shape == (policys.observation_space.shape[0] + 1,)
    for _ in range(30):  # over the end of an episode
        np.testing.assert_array_equal(seen[:, :-1], expected)
        np.testing.assert_array_equal(seen[:, -1], bare[:, -1])
        action = np.zeros((4, 2), np.float32)
        (seen, _, done, infos), (expected, _, _, others), (bare, *_) = (
            env.step(action) for env in (ours, policys, without)
        )
        np.testing.assert_array_equal(ours.surprises, without.surprises)
        for i in np.flatnonzero(done):
            last = infos[i]["terminal_observation"]
            np.testing.assert_array_equal(last[:-1], others[i]["terminal_observation"])
    assert len(np.unique(bare[:, -1])) > 1


def test_memory_starts_afresh_with_every_episode():
    """With autoreset or without, each episode's signal is that of a desk that has just been made."""
    _, signal = make_signal("order-flow")
    config = make_config("book", horizon=15, signals=[signal])
    desk, single = make_desk(config, 3, autoreset=True), make_desk(config, 3, autoreset=False)
    seen, expected = [], []
    final: dict[int, np.ndarray] = {}
    for one, record_ in ((desk, seen), (single, expected)):
        one.seed([1, 2, 3])
        record_.append(one.reset())
        for t in range(45):
            out = one.step(np.zeros((3, 2), np.float32))
            if one is single and out.terminated.any():
                np.testing.assert_array_equal(out.observations, final[t])
                record_.append(one.reset(out.terminated))
            else:
                record_.append(out.observations)
            if one is desk:
                final[t] = out.final_observations.copy()
    shown = np.stack(seen)
    np.testing.assert_array_equal(shown, np.stack(expected))
    names = observation_names(config)
    columns = [names.index(feature.name) for feature in signal.inputs]
    for lane in range(3):
        alone = signal.run(shown[:, lane, columns], np.array([0, 15, 30, 45, 46]))
        np.testing.assert_array_equal(shown[:, lane, names.index("flow_up")], alone[:, 0])


def test_a_desk_with_signals_continues_from_its_state():
    _, signal = make_signal("order-flow")
    config = make_config("book", horizon=40, signals=[signal])
    desk = make_desk(config, 3, autoreset=True)
    desk.seed([1, 2, 3])
    desk.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 3, 2)).astype(np.float32)
    for action in actions[:10]:
        desk.step(action)
    copy = pickle.loads(pickle.dumps(desk))
    assert isinstance(copy, SignalDesk)
    for action in actions[10:]:
        np.testing.assert_array_equal(desk.step(action).observations, copy.step(action).observations)


def test_a_configuration_with_signals_comes_back(tmp_path):
    _, signal = make_signal("order-flow")
    save(signal, tmp_path / "a.mms")
    config = make_config("book", signals=[str(tmp_path / "a.mms")])
    again = make_config(**config.to_dict())
    assert again.schema_id == config.schema_id != make_config("book").schema_id
    assert "signals" not in make_config("book").to_dict()
    save(dataclasses.replace(make_signal("order-flow", seed=1)[1]), tmp_path / "a.mms")
    with pytest.raises(ConfigError, match="another signal"):
        make_config(**config.to_dict())
    with pytest.raises(ConfigError, match="no file"):
        make_config(**make_config("book", signals=[signal]).to_dict())


def test_refusals_say_why(tmp_path):
    _, signal = make_signal("order-flow")
    with pytest.raises(ConfigError, match=r"every 1 s.*every 0\.5 s"):
        make_config({"name": "hidden-regime", "step_seconds": 0.5}, signals=[signal])
    with pytest.raises(ConfigError, match="two of them have the output 'flow_up'"):
        make_config("book", signals=[signal, signal])
    other = dataclasses.replace(signal.inputs[1], meaning="something else")
    changed = dataclasses.replace(signal, inputs=(signal.inputs[0], other, *signal.inputs[2:]))
    with pytest.raises(ConfigError, match="something else"):
        make_config("book", signals=[changed])
    with pytest.raises(ConfigError, match="cannot be read"):
        make_config("book", signals=["flow.onnx"])
    with pytest.raises(FileNotFoundError, match="no such signal"):
        make_config("book", signals=[tmp_path / "none.mms"])
    save(signal, tmp_path / "a.mms")
    data = bytearray((tmp_path / "a.mms").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.mms").write_bytes(data)
    with pytest.raises(ConfigError, match=r"damaged|not a whole"):
        load(tmp_path / "a.mms")


def test_a_file_gives_back_the_signal(tmp_path):
    _, signal = make_signal("multi-task")
    save(signal, tmp_path / "a.mms")
    again = load(tmp_path / "a.mms")
    assert again.identity == signal.identity
    assert again.inputs == signal.inputs
    assert again.outputs == signal.outputs
    x = np.random.default_rng(0).normal(size=(20, 25)).astype(np.float32)
    np.testing.assert_array_equal(again.run(x, np.array([0, 20])), signal.run(x, np.array([0, 20])))


# As a policy, and as the start of one.


@pytest.mark.parametrize("mean", [None, 1.7])
def test_the_multi_task_network_quotes_what_it_says(mean):
    """Its skew, by its own memory, equals that of its outputs in the observation; its half-spread too, where
    the card does not say the mean of its labels."""
    config = make_config("book", horizon=30, features=(*QUOTED, "clock"))
    _, signal = make_signal("multi-task", config=make_config("book", horizon=30))
    if mean is not None:
        signal = dataclasses.replace(signal, card={"label means": {"multi_half_spread": mean}})
    policy = make_policy("multi-task", config, signal=signal, follow=0.5, lean=2.0)
    shown = make_desk(dataclasses.replace(config, signals=(signal,)), 3, autoreset=True)
    shown.seed([1, 2, 3])
    observations, state = shown.reset(), policy.reset(3)
    for _ in range(70):  # over two ends of episodes
        actions, state = policy.act(observations[:, :-3], state)
        move, half, position = observations[:, -3:].T.astype(np.float64)
        half = half if mean is None else np.full(3, mean)
        held = shown.get("position") / config.risk.position_limit
        skew = 0.5 * move + 2.0 * half * (position - held)
        np.testing.assert_allclose(actions, config.quote.to_action(half + skew, half - skew), atol=1e-6)
        observations = shown.step(actions).observations


def test_a_recurrent_policy_starts_with_the_memory_of_a_signal():
    config = make_config("book", features=(*QUOTED, "clock"))
    options = Options("multi-task")
    options.lstm = (16,)
    net, signal = make_signal("multi-task", options=options)
    names = observation_names(config)
    space = gym.spaces.Box(-10, 10, (len(names),), np.float32)
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    policy = RecurrentPolicy(space, box, lambda _: 1e-3, lstm_hidden_size=16)
    warm_start(policy, signal, names)
    x = torch.randn(1, 12, len(names))
    order = [names.index(feature.name) for feature in signal.inputs]
    with torch.no_grad():
        ours = policy.lstm_actor(x.transpose(0, 1))[0].transpose(0, 1)
        standard = (x[..., order][..., :20] - net.mean[:20]) / net.scale[:20]
        theirs = net.streams[0][0](standard)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="16 units"):
        warm_start(RecurrentPolicy(space, box, lambda _: 1e-3, lstm_hidden_size=8), signal, names)
    with pytest.raises(ConfigError, match="one recurrent layer"):
        warm_start(policy, make_signal("multi-task")[1], names)


# The risk manager.


def test_base_size_loses_its_budget_once_in_a_hundred_times():
    generator = np.random.default_rng(0)
    moves = 1.7 * generator.standard_normal((100_000, 25)).sum(axis=1)
    loss = sizing.loss_per_lot(np.array(1.7), 25, 2.33)
    base = sizing.base_size(np.array(400.0), loss)
    assert np.mean(-base * moves > 400.0) == pytest.approx(0.01, abs=0.0015)
    assert sizing.position_size(base, np.array(0.0)) == base
    assert sizing.position_size(base, np.array(0.99)) == pytest.approx(0.1 * base)
    assert sizing.position_size(base, np.array(np.nan)) == pytest.approx(0.1 * base)
    assert sizing.base_size(np.array(-3.0), loss) == 0


class Score:
    """A signal that puts out whatever it is told, hostile values included."""

    name, groups, inputs = "told", ("trade_book",), ()
    outputs = (Feature("told", 0, 1, ""),)
    state_size, step_seconds, identity, source = 0, 1.0, "told", None

    def __init__(self, values):
        self.values, self.at = values, 0

    def step(self, inputs, states):
        self.at += 1
        return np.full((len(inputs), 1), self.values[self.at % len(self.values)], np.float32)


@given(
    st.lists(st.sampled_from([0.0, 0.3, 1.0, -5.0, 7.0, np.nan, np.inf, -np.inf]), min_size=1, max_size=6),
    st.sampled_from([0.001, 0.05, 1.0]),
    st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_the_hard_limits_win_whatever_the_network_says(values, share, seed):
    """A score only ever takes orders away; position and loss limits hold as without it."""
    risk = {"position_limit": 4, "daily_loss_limit": 12.0, "order_lots": 2}
    manager = ManagerConfig(signal=Score(values), share=share, horizon=5)
    config = make_config("brownian", horizon=60, risk=risk, manager=manager)
    desk, free = (
        make_desk(c, 5, autoreset=False) for c in (config, make_config("brownian", horizon=60, risk=risk))
    )
    for one in (desk, free):
        one.seed(range(seed, seed + 5))
        one.reset()
    generator = np.random.default_rng(seed)
    for _ in range(50):
        before = desk.get("position")
        cap = 4 - desk.get("limit_reduction")
        loss = desk.get("fees") / FEE_DIGITS - desk.get("pnl")
        lost = (loss >= make_params(config)["loss_limit"]) | (desk.get("risk_state") == 2)
        assert ((cap >= 0) & (cap <= 4)).all()
        desk.step(generator.uniform(-1, 1, (5, 2)).astype(np.float32))
        position = desk.get("position")
        assert (np.abs(position) <= 4).all()
        # Beyond what the manager allows, the position only shrinks.
        assert (np.abs(position) <= np.maximum(np.abs(before), cap)).all()
        # Whoever had lost the limit before the step is halted in it, for good, and quotes nothing.
        assert (desk.get("risk_state")[lost] == 2).all()
        for side in ("ask_lots", "bid_lots"):
            assert (desk.get(side)[desk.get("risk_state") == 2] == 0).all()


def test_news_comes_from_outside_and_is_neutral_by_default():
    desk = Desk(make_config("book", features=("risk",)), 3, autoreset=False)
    desk.seed([1, 2, 3])
    observations = desk.reset()
    news = [f.name for f in features_of(desk.config, ("news", "macro"))]
    assert news == ["news", "macro"]
    assert (observations[:, -2:] == 0).all()
    set_external(desk, news=-0.5, macro=0.25)
    observations = desk.step(np.zeros((3, 2), np.float32)).observations
    assert (observations[:, -2:] == [-0.5, 0.25]).all()
    with pytest.raises(ConfigError, match="from -1 to 1"):
        set_external(desk, news=2.0)


# Features of the detector and the risk manager against plain definitions.


def test_microstructure_and_risk_features_are_their_definitions(tmp_path):
    config = make_config("book", horizon=300, features=("trade_book", "microstructure", "risk"))
    desk = Desk(config, 1, autoreset=False)
    desk.seed([4])
    fields = ("buy_lots", "sell_lots", "best_bid_lots", "best_ask_lots", "move", "spread", "trade_value")
    rows, seen = [], [desk.reset()[0]]
    rows.append({name: float(desk.get(name)[0]) for name in fields})
    for _ in range(300):
        seen.append(desk.step(np.zeros((1, 2), np.float32)).observations[0])
        rows.append({name: float(desk.get(name)[0]) for name in fields})
    at = {f.name: k for k, f in enumerate(observation_features(config))}
    unit, per_lot = config.market.price_scale, 1 / config.market.lot_scale
    data = {name: np.array([row[name] for row in rows]) for name in fields}
    flow, lots = data["buy_lots"] - data["sell_lots"], data["buy_lots"] + data["sell_lots"]
    imbalance = (data["best_bid_lots"] - data["best_ask_lots"]) / (
        data["best_bid_lots"] + data["best_ask_lots"]
    )
    mid = np.cumsum(data["move"])
    for t in (1, 3, 40, 300):
        past = np.arange(1, t + 1)
        x = dict(zip(at, seen[t], strict=True))
        for name, scale in (("flow_fast", 5), ("flow_medium", 20), ("flow_slow", 100)):
            w = 1 - np.exp(-1 / scale)
            average = (w * (1 - w) ** (t - past) * flow[1 : t + 1]).sum() * np.sqrt((2 - w) / w)
            assert x[name] == pytest.approx(np.clip(average * per_lot, -10, 10), rel=1e-3, abs=1e-4)
        fading = np.exp(-(t - past) / 200)
        slow = (fading * data["move"][1 : t + 1] ** 2).sum() / fading.sum()
        fast = np.mean(data["move"][max(t - 19, 1) : t + 1] ** 2)
        if slow > 0:
            assert x["volatility_ratio"] == pytest.approx(min(np.sqrt(fast / slow), 10), rel=1e-3)
        price = data["trade_value"] + lots * (mid - data["move"])  # lots x price, from the mid at reset
        near = np.exp(-(t - past) / 20)
        if lots[t]:
            vwap = (near * price[1 : t + 1]).sum() / (near * lots[1 : t + 1]).sum()
            expected = np.clip((price[t] / lots[t] - vwap) / unit, -10, 10)
            assert x["trade_vwap"] == pytest.approx(expected, rel=1e-2, abs=1e-2)
        assert x["microprice_gap"] == pytest.approx(imbalance[t] * data["spread"][t] / 2 / unit, rel=1e-4)
        if t > 1:
            assert x["imbalance_change"] == pytest.approx(imbalance[t] - imbalance[t - 1], abs=1e-5)
            taken = data["buy_lots"][t] / data["best_ask_lots"][t - 1]
            taken -= data["sell_lots"][t] / data["best_bid_lots"][t - 1]
            assert x["depth_taken"] == pytest.approx(np.clip(taken, -10, 10), abs=1e-4)
        spreads = data["spread"][max(t - 99, 1) : t + 1]
        rank = (spreads < data["spread"][t]).mean() + (spreads == data["spread"][t]).mean() / 2
        assert x["spread_rank"] == pytest.approx(rank, abs=1e-5)
        quick = np.exp(-(t - past) / 20)
        means = [(k * lots[1 : t + 1]).sum() / k.sum() for k in (quick, fading)]
        if means[1] > 0:
            assert x["volume_ratio"] == pytest.approx(min(means[0] / means[1], 10), rel=1e-3)
        depth = data["best_bid_lots"] + data["best_ask_lots"]
        usual = (fading * depth[1 : t + 1]).sum() / fading.sum()
        assert x["liquidity"] == pytest.approx(min(depth[t] / usual, 10), rel=1e-3)
    assert len(set(DETECTOR)) == 15
    assert len(set(MARKET)) == 20
    assert (len(set(INVENTORY)), len(set(RISK))) == (5, 10)


def test_correlation_loss_sees_a_reference_that_goes_its_own_way():
    config = make_config("correlated", features=("risk",), horizon=2000)
    desk = Desk(config, 64, autoreset=False)
    desk.seed(range(64))
    desk.reset()
    column = next(
        k
        for k, f in enumerate(features_of(config, tuple(f.name for f in observation_features(config))))
        if f.name == "correlation_loss"
    )
    for _ in range(600):
        out = desk.step(np.zeros((64, 2), np.float32)).observations
    assert abs(out[:, column].mean()) < 0.1  # nothing breaks: fast and slow agree on average
    assert out[:, column].std() > 0.02


def test_a_mirrored_market_has_mirrored_features(tmp_path):
    """Where buyers and sellers change places, the inputs that `signs` names turn round and the others stay:
    so only those go with the direction of the market, of the last 20 steps or of the next."""
    config = recording_config(make_config("book"), TASKS["fair-value"])
    data = record(config, tmp_path / "data", sequences=150)
    names = tuple(name for name in dict.fromkeys((*DETECTOR, *MARKET)) if not name.startswith("day_"))
    x = np.asarray(data.features[:, data.columns(names)])
    mid = data.field("mid").astype(float)
    rows = np.concatenate([np.arange(a + 40, b - 1) for a, b in itertools.pairwise(data.first)])
    came, goes = np.sign(mid[rows] - mid[rows - 20]), np.sign(mid[rows + 1] - mid[rows])
    for name, sign, column in zip(names, signs(names), x[rows].T, strict=True):
        together = max(abs(np.corrcoef(column, direction)[0, 1]) for direction in (came, goes))
        assert (together > 0.03) == (sign < 0), (name, together)
    queues = tuple(name for name in BOOK if "_queue" in name)
    x = data.features[:, data.columns(queues)][rows]
    for name, column, mirrored in zip(queues, x.T, x[:, swapped(queues)].T, strict=True):
        ours, others = (np.corrcoef(side, goes)[0, 1] for side in (column, mirrored))
        assert abs(ours) > 0.05 > abs(ours + others), (name, ours, others)


# The exact filter, and the figures.


def test_the_filter_is_calibrated_and_nothing_beats_it(tmp_path):
    config = recording_config(make_config("hidden-regime"), TASKS["order-flow"])
    data = record(config, tmp_path / "data", sequences=200, quote=at_distance(config, 1.0))
    values = {task: TASKS[task].label(data, Options(task)) for task in ("order-flow", "adverse-selection")}
    for task, labels in values.items():
        for k, (name, forecast) in enumerate(labels.exact.items()):
            y = labels.values[:, k]
            known = np.isfinite(y)
            p, happened = forecast[known], y[known] > 0.5
            spread = np.sqrt((p * (1 - p)).mean() / len(p))
            assert abs(p.mean() - happened.mean()) < 5 * spread, (task, name)
            # Its slope: of forecasts above and below their median, what came differs as they do.
            high = p > np.median(p)
            said = p[high].mean() - p[~high].mean()
            came = happened[high].mean() - happened[~high].mean()
            assert came == pytest.approx(said, abs=8 * spread), (task, name)
            assert said > 4 * spread
    mid, buy, sell = (data.field(name) for name in ("mid", "buy_lots", "sell_lots"))
    later = mid.copy()
    later[150:] += 4096  # in the first sequence: its beliefs up to there stay as they were
    known = Filter(config.market)
    before, after = (known.beliefs(m, buy, sell, data.first) for m in (mid, later))
    np.testing.assert_array_equal(before[:150], after[:150])


def test_chances_by_convolution_are_those_of_simulation():
    market = make_config("hidden-regime").market
    known = Filter(market)
    generator = np.random.default_rng(5)
    seen = known._seen
    for regime in range(3):
        state = np.full(200_000, regime)
        total = np.zeros(len(state))
        for step in range(5):
            outcome = np.empty(len(state), int)
            for z in range(3):
                outcome[state == z] = generator.choice(27, int((state == z).sum()), p=seen.chance[z])
            if step == 0:
                filled = seen.buy[outcome] > 0
            total += seen.move[outcome]
            draw = generator.random(len(state))
            state = (draw[:, None] > np.cumsum(seen.transition, axis=1)[state]).sum(axis=1)
        belief = np.eye(3)[[regime]]
        assert known.adverse(belief, 5, 4096, 1)[0] == pytest.approx((total[filled] > 1).mean(), abs=0.006)
        up = (total > 0).sum() / (total != 0).sum()
        assert known.direction(belief, 5)[0] == pytest.approx(up, abs=0.006)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_area_under_the_curve_counts_pairs(rows):
    """And a cluster drawn twice counts as its rows written down twice."""
    forecast, happened = np.array([r[0] for r in rows]) / 5, np.array([r[1] for r in rows])
    cluster = np.array([r[2] for r in rows])

    def area(f, h):
        pairs = f[h][:, None] - f[~h][None]
        return ((pairs > 0) + (pairs == 0) / 2).mean() if pairs.size else np.nan

    assert AUC(forecast, happened).exact() == pytest.approx(area(forecast, happened), nan_ok=True)
    draws = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 0, 1]], float)
    for found, counts in zip(AUC(forecast, happened).drawn(cluster, draws), draws, strict=True):
        again = np.repeat(np.arange(len(rows)), counts[cluster].astype(int))
        assert found == pytest.approx(area(forecast[again], happened[again]), nan_ok=True)
    assert log_loss(np.full(len(rows), 0.5), happened).exact() == pytest.approx(np.log(2))
    assert brier(happened.astype(float), happened).exact() == 0
    assert r2(forecast, forecast, -1.0).exact() == 1


def test_intervals_know_that_rows_of_a_cluster_go_together():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=100), 50)
    widths = []
    for cluster in (np.arange(5000), np.repeat(np.arange(100), 50)):
        draws = Bootstrap(cluster)
        found = draws.interval(draws.values(Ratio(values, np.ones(5000))))
        assert found.mean == pytest.approx(values.mean())
        widths.append(found.high - found.low)
    assert widths[1] > 4 * widths[0]


# The command.


def test_train_resume_evaluate_and_list(tmp_path, capsys):
    """A run stopped after an epoch and resumed ends with the same signal as one that was not."""
    from train.signals import fitting
    from train.signals import signals as command

    options = command.Train(
        name="adverse-selection",
        data="hidden-regime",
        sequences=60,
        epochs=3,
        horizons=(5.0,),
        logs=tmp_path / "logs",
        recordings=tmp_path / "recordings",
    )
    console = Console()
    command.run_train(options, console)
    whole = load(tmp_path / "logs" / "adverse-selection-hidden-regime_1" / "signal.mms")

    folder = tmp_path / "logs" / "cut"
    command.write_settings(folder, dataclasses.replace(options, run="cut"))
    saved, calls = fitting.save_checkpoint, []

    def killed(path, state):
        saved(path, state)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    fitting.save_checkpoint = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            command.train(command.read_settings(folder), folder, console)
    finally:
        fitting.save_checkpoint = saved
    command.run_train(dataclasses.replace(options, resume=folder), console)
    assert load(folder / "signal.mms").network.digest == whole.network.digest
    assert (folder / "calibration-adverse_ask_5s.png").exists()
    card = whole.card
    assert set(card) >= {"data", "horizons, seconds", "figures", "limits"}
    assert card["figures"]["adverse_ask_5s"]["exact filter"]["AUC"][0] > 0.5
    command.run_evaluate(
        command.Evaluate(signal=folder / "signal.mms", sequences=60, recordings=tmp_path / "recordings"),
        console,
    )
    command.run_list(command.List(logs=tmp_path / "logs"), console)
    out = capsys.readouterr().out
    assert out.count("exact filter") >= 4
    assert "logs/cut/signal.mms" in out


# In a backtest.


class Watches:
    """A policy that quotes in the middle of its range and keeps what it is shown."""

    name = "watches"

    def reset(self, n):
        self.seen = []
        return None

    def act(self, observation, state):
        self.seen.append(observation.copy())
        return np.zeros((len(observation), 2), np.float32), state


def test_a_backtest_shows_what_the_environment_shows(monkeypatch):
    from mmenv.backtest.play import play
    from train import backtest, sources

    _, signal = make_signal("order-flow")
    config = make_config("book", horizon=30, signals=[signal])
    policy = Watches()
    play(policy, policy.name, config, seeds=(1, 2, 3))
    desk = make_desk(config, 3, autoreset=False)
    desk.seed([1, 2, 3])
    expected = [desk.reset()]
    for _ in range(29):
        expected.append(desk.step(np.zeros((3, 2), np.float32)).observations)
    np.testing.assert_array_equal(np.stack(policy.seen), np.stack(expected))

    # A table of quotes skips nothing either: its record has the signal's entry of every decision.
    column = observation_names(config).index("flow_up")
    quotes = sources.tabulated(make_policy("fixed-spread", config, half_spread=1.0))
    kept = play(quotes, "fixed", config, seeds=(1,), signal_name="flow_up").rows["signal"]
    assert len(np.unique(kept)) > 20
    assert kept[0] == expected[0][0, column]

    # And the model's signals are those of its backtest.
    monkeypatch.setattr(backtest, "model_config", lambda text: config)
    options = backtest.Backtest(arguments=("fixed-spread:half_spread=1", "book"))
    assert backtest.entrants(options)[0][0].config.signals == (signal,)


def test_from_tick_to_quote_in_one_call_there_are_no_signals():
    _, signal = make_signal("order-flow")
    with pytest.raises(ConfigError, match="bundle without"):
        require_alone(make_config("book", signals=[signal]))


def test_a_live_desk_shows_signals_and_plays_again(tmp_path):
    """Its entries are the signal's over the features of its own decisions, and a journal keeps them."""
    pytest.importorskip("hftbacktest")
    from mmenv.live.journal import Journal
    from mmenv.live.rerun import check, decisions
    from tests.helpers.sessions import paper

    live = {"name": "book", "preset": "binance-usdm-btc"}  # decides as often as the session
    _, signal = make_signal("order-flow", config=make_config(live))
    save(signal, tmp_path / "signal.mms")
    file = Journal(tmp_path / "journal")
    paper(file, features=make_config(live).features, signals=[tmp_path / "signal.mms"])
    file.close()
    seen = np.stack([made["observation"] for made in decisions(tmp_path / "journal")])[:150]
    names = observation_names(make_config(live, signals=[signal]))
    inputs = seen[:, [names.index(feature.name) for feature in signal.inputs]]
    expected = signal.run(inputs, np.array([0, len(inputs)]))[:, 0]
    np.testing.assert_array_equal(seen[:, names.index("flow_up")], expected)
    assert len(np.unique(expected)) > 50
    check(tmp_path / "journal", None)
