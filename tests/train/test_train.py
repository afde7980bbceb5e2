"""The path a user walks: adapter, training, evaluation, resume, refusals."""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from mmenv import ConfigError, make_config
from mmenv.market.book import Book
from mmenv.observation import observation_names
from mmenv.vector import NeuralMMVectorEnv
from policies.make import make_policy
from tests.helpers.commands import neuralmm
from train import baselines, callbacks
from train.callbacks import Judge
from train.evaluate import compare, load, value_sheet
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.learner.vec_env import NeuralMMVecEnv
from train.pictures import Quotes, place_value
from train.run import device_of, measured_steps
from train.settings import Settings, env_config, market_defaults
from train.simulate import interval, simulate

SHORT = ("--set", "horizon=50", "--num-envs", "16", "--n-steps", "50", "--batch-size", "400")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(baselines, "CACHE", tmp_path_factory.getbasetemp() / "optima")


def run(tmp_path: Path, monkeypatch, *arguments: str) -> Path:
    """`neuralmm train` with these arguments; the folder of its run."""
    assert neuralmm(monkeypatch, "train", *arguments, "--logs", str(tmp_path)) is None
    return max(tmp_path.glob("*/config.json"), key=lambda path: path.stat().st_mtime).parent


def test_adapter_is_the_vector_environment():
    """Same observations; rewards less their noise, scaled; episode sums equal the returns."""
    config = make_config("hidden-regime", horizon=40)
    ours = NeuralMMVecEnv(config, 8, seed=3, reward_scale=0.5)
    envs = NeuralMMVectorEnv(8, config=config)
    expected, _ = envs.reset(seed=3)
    assert (ours.reset() == expected).all()
    total = np.zeros(8)
    for action in np.random.default_rng(0).uniform(-1, 0, (80, 8, 2)).astype(np.float32):
        observations, rewards, terminated, _, info = envs.step(action)
        ours.step_async(action)
        seen, learned, dones, infos = ours.step_wait()
        assert (seen == observations).all()
        np.testing.assert_allclose(learned, 0.5 * (rewards - info["ledger"]["noise"]), rtol=1e-5, atol=1e-5)
        assert (dones == terminated).all()
        total += rewards
        for i in np.flatnonzero(dones):
            episode = infos[i]["episode"]
            assert (infos[i]["terminal_observation"] == info["final_obs"][i]).all()
            assert episode["r"] == pytest.approx(total[i])
            terms = (
                episode["spread_capture"] + episode["adverse_selection"] + episode["carry"] - episode["fees"]
            )
            assert terms - episode["inventory_penalty"] == pytest.approx(total[i])
            assert not infos[i]["TimeLimit.truncated"]
            total[i] = 0


@pytest.mark.parametrize(
    ("market", "kind"),
    [("brownian", "optimum"), ("hidden-regime", "belief-optimal"), ("hidden-regime", "memoryless")],
)
def test_exact_values_are_what_the_environment_pays(market, kind):
    """The dynamic programmes' values lie within 4 standard errors of the simulated ones."""
    config = make_config(market, horizon=60)
    policy = make_policy(kind, config, cache=baselines.CACHE)
    outcome = simulate(policy, config, 4096)
    error = outcome.controlled.std() / np.sqrt(4096)
    exact = policy.solution.value
    assert abs(outcome.value().mean - exact) < 4 * error + 0.01 * abs(exact) * (kind == "belief-optimal")


def test_pairing_shrinks_differences():
    config = make_config("brownian", horizon=60)
    a, b = (simulate(make_policy("glft", config, gamma=g), config, 1024) for g in (0.02, 0.05))
    assert (a.controlled - b.controlled).std() < 0.5 * a.controlled.std()
    assert a.minus(b).low <= a.minus(b).mean <= a.minus(b).high


def test_interval_covers():
    random = np.random.default_rng(0)
    inside = [
        low <= 1.0 <= high for _, low, high in (interval(random.exponential(1, 200)) for _ in range(200))
    ]
    assert 0.88 <= np.mean(inside) <= 0.99


def test_short_training_beats_its_start(tmp_path, monkeypatch, capsys):
    """A minute-sized run: significantly better than the untrained policy, files where they belong, table."""
    folder = run(tmp_path, monkeypatch, "--market", "brownian", "--steps", "60000", "--eval-every", "1000000",
                 "--eval-episodes", "256", "--final-episodes", "64", *SHORT)  # fmt: skip
    with np.load(folder / "evaluations.npz") as file:
        first, last = file["results"][0], file["results"][-1]
    assert interval(last - first).low > 0
    output = capsys.readouterr().out
    for word in (
        "trained",
        "optimum",
        "glft",
        "no-trade",
        "Bound: optimum",
        "penalty",
        str(folder / "best_model.zip"),
    ):
        assert word in output
    assert any(folder.glob("events.out.tfevents.*"))
    kept = (folder / "evaluation.md").read_text()
    with (folder / "evaluation.csv").open() as file:
        assert all(row["policy"] in kept for row in csv.DictReader(file))

    shown = EventAccumulator(str(folder)).Reload()
    with np.load(folder / "evaluations.npz") as file:
        judged = file["timesteps"].tolist()
    assert judged[-1] >= 60_000
    assert [event.step for event in shown.Scalars("eval/value")] == judged
    assert [event.step for event in shown.Scalars("final/value")] == judged[-1:]
    tags = shown.Tags()
    assert all(re.fullmatch(r"[a-z_]+/[a-z_]+", name) for name in (*tags["scalars"], *tags["images"]))
    charts = layout_pb2.Layout.FromString(
        shown.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    assert "value" in charts.category[0].chart[0].title
    for chart in (chart for category in charts.category for chart in category.chart):
        wanted = [
            *(tag.removesuffix("$") for tag in chart.multiline.tag),
            *(x for s in chart.margin.series for x in (s.value, s.lower, s.upper)),
        ]
        assert wanted
        assert set(wanted) <= set(tags["scalars"])
    assert kept.encode() in shown.Tensors("final/table/text_summary")[0].tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in shown.summary_metadata

    _, config = load(folder)
    assert config == make_config("brownian", horizon=50)
    with pytest.raises(ConfigError, match=r"market\.volatility: 1\.0, not 2\.0"):
        load(folder, make_config({"name": "brownian", "volatility": 2.0}, horizon=50))
    with pytest.raises(FileNotFoundError, match="no model"):
        load(tmp_path / "nothing.zip")
    broken = tmp_path / "broken.zip"
    broken.write_bytes((folder / "best_model.zip").read_bytes()[:1000])
    with pytest.raises(ConfigError, match="not a readable model"):
        load(broken)


def test_the_value_of_a_place_is_the_critics(monkeypatch):
    """A critic to whom only the ask's place is worth something, 2 from back to front: so the picture shows
    it, in units of the reward; and nothing for the bid."""
    config = make_config("book", horizon=40, quote={"name": "touch"})
    env = NeuralMMVecEnv(config, 8, seed=1, reward_scale=0.5)
    model = FastRecurrentPPO("MlpLstmPolicy", env, n_steps=40, chunk_length=10, batch_size=80, seed=0,
                             policy_kwargs={"log_std_init": -1.0}, device="cpu", threads=1)  # fmt: skip
    assert place_value(model, config) is None  # nothing was seen yet
    model.learn(320)
    ahead = observation_names(config).index("ask_order_ahead")
    monkeypatch.setattr(model.policy, "predict_values", lambda obs, states, starts: -2 * obs[:, ahead, None])
    figure = place_value(model, config)
    assert figure is not None
    lines = {
        line.get_label().split(",")[0]: line for line in figure.axes[0].lines if "states" in line.get_label()
    }
    places = np.linspace(0, 1, 11)
    assert lines["ask"].get_ydata() == pytest.approx(4 * (1 - places), abs=1e-6)
    assert lines["bid"].get_ydata() == pytest.approx(0)
    assert place_value(model, make_config("brownian")) is None


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every TensorBoard series of a run but its clocks."""
    events = EventAccumulator(str(folder)).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith("time/")]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def test_killed_run_resumes_to_the_same_bytes(tmp_path):
    """SIGKILL at three random moments, the newest checkpoint damaged, then --resume: weights, optimiser,
    evaluations and logged scalars equal an unbroken run's.
    """
    arguments = ["--market", "hidden-regime", "--steps", "8000", "--eval-every", "1600",
                 "--eval-episodes", "32", "--final-episodes", "0", "--checkpoint-every", "2",
                 "--threads", "1", "--lstm-size", "16", *SHORT]  # fmt: skip
    command = [sys.executable, "-m", "train.cli", "train"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        start = [*command, *arguments, "--logs", str(tmp_path), "--name", folder.name]
        if folder == whole:
            subprocess.run(start, check=True, capture_output=True)
    random = np.random.default_rng()
    for kill in range(3):
        with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            had = newest(broken)
            while newest(broken) == had:
                assert process.poll() is None, "the run ended before it could be killed"
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.1))
            process.kill()
        start = [*command, "--resume", str(broken)]
        if kill == 2 and len(checkpoints := sorted(broken.glob("checkpoints/*.ckpt"))) > 1:
            checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:-1])
    assert not (broken / "last_model.zip").exists()
    subprocess.run(start, check=True, capture_output=True)

    with np.load(whole / "evaluations.npz") as a, np.load(broken / "evaluations.npz") as b:
        assert a["timesteps"].tobytes() == b["timesteps"].tobytes()
        assert a["results"].tobytes() == b["results"].tobytes()
    ours, theirs = (FastRecurrentPPO.load(folder / "last_model.zip").policy for folder in (whole, broken))
    for a, b in ((ours, theirs), (ours.optimizer, theirs.optimizer)):
        assert str(a.state_dict()) == str(b.state_dict())
        flat = [torch.cat([p.flatten() for p in parameters(x)]) for x in (a, b)]
        assert torch.equal(*flat)
    assert scalars(whole) == scalars(broken)


def newest(folder: Path) -> Path | None:
    return max(folder.glob("checkpoints/*.ckpt"), default=None)


def parameters(owner: torch.nn.Module | torch.optim.Optimizer) -> list[torch.Tensor]:
    if isinstance(owner, torch.nn.Module):
        return list(owner.state_dict().values())
    return [moment for state in owner.state_dict()["state"].values() for moment in state.values()]


def test_small_minibatches_stay_on_the_cpu():
    assert device_of(Settings()) == "cpu"
    assert device_of(Settings(batch_size=4096)) == "auto"
    assert device_of(Settings(device="cuda")) == "cuda"


def test_a_preset_trains_with_the_settings_of_its_market():
    for market in ("book:nasdaq-msft", "nasdaq-msft.json:book"):
        assert dataclasses.replace(market_defaults(market), market="book") == market_defaults("book")
    assert env_config(market_defaults("book:nasdaq-msft")).market == Book(preset="nasdaq-msft")


def test_bad_settings_are_sentences(monkeypatch, capsys):
    """With which Python ends a process, as `sys.exit` does, without a traceback."""
    for arguments, sentence in (
        (["trian"], "no command 'trian'"),
        (["train", "--market", "brownain"], "Did you mean 'brownian'"),
        (["train", "--set", "horizn=3"], "Did you mean 'horizon'"),
        (["train", "--set", "risk.position_limit=0"], "position_limit = 0 is not possible"),
        (["train", "--resume", "nowhere"], "no config.json"),
        (["evaluate", "nowhere.zip"], "there is no model"),
    ):
        end = neuralmm(monkeypatch, *arguments)
        assert end not in (None, 0)
        said = f"{end}{capsys.readouterr().err}"
        assert sentence in said
        assert "Traceback" not in said


def test_minutes_become_steps_and_too_few_are_a_sentence():
    config = make_config("brownian", horizon=20)
    small = {"market": "brownian", "num_envs": 4, "n_steps": 20, "batch_size": 40}
    with pytest.raises(ConfigError, match=r"minutes = 1e-09 .*an update takes .*give at least"):
        measured_steps(Settings(minutes=1e-9, **small), config)
    steps = measured_steps(Settings(minutes=0.2, **small), config)
    assert steps > 0
    assert steps % (4 * 20) == 0


def test_table_has_a_row_for_each_policy():
    config = make_config("brownian", horizon=20)
    policies = baselines.make_baselines(config)
    outcomes = compare(policies, config, 32)
    sheet = value_sheet("title", outcomes, baselines.scale(config))
    assert sheet.columns["policy"] == [policy.name for policy in policies]
    assert len(policies) == 6
    *_, none = share = list(map(float, sheet.columns["% of\noptimum"]))
    assert (share[0], none) == (100, 0)


@pytest.mark.parametrize("market", ["brownian", "hidden-regime"])
def test_a_policy_that_sees_less_has_the_same_rivals(market, tmp_path):
    plain = make_config(market, horizon=20)
    config = make_config(market, horizon=20, features=("inventory",))
    judge = Judge(config, tmp_path, every=1, episodes=16)
    judge._prepare()
    known = baselines.Best.of(plain, 16, callbacks.SEED)
    assert np.array_equal(judge._optimal_outcome.controlled, known.outcome.controlled)
    idle = make_policy("no-trade", plain)
    for first, second in zip(
        compare([idle, *baselines.make_baselines(plain)], plain, 16)[1:],
        compare([idle, *baselines.make_baselines(baselines.closed_form_config(config))], config, 16)[1:],
        strict=True,
    ):
        assert first.name == second.name
        assert np.array_equal(first.controlled, second.controlled)


def test_configurations_without_an_optimum_are_still_compared():
    config = make_config("brownian", horizon=20, maker_fee_bp=1.0)
    assert baselines.scale(config) is None
    assert [policy.name for policy in baselines.make_baselines(config)][-1] == "no-trade"


class Leaves:
    """Joins the touch with the ask, and leaves the bid at every other decision."""

    name = "leaves"

    def reset(self, n):
        return 0

    def act(self, observation, state):
        bid = -0.75 if state % 2 else 0.25
        return np.tile(np.float32([0.25, bid]), (len(observation), 1)), state + 1


def test_a_side_that_is_left_is_counted_as_such():
    """Three sides in four are quoted; the others have no price, and are in no mean of distances."""
    config = make_config("book", horizon=40, quote={"name": "touch"})
    outcome = simulate(Leaves(), config, 16)
    assert outcome.quoted == pytest.approx(0.75)
    none = simulate(make_policy("no-trade", config), config, 16)
    assert none.quoted.max() == 0
    sheet = value_sheet("title", [outcome, none], None)
    assert sheet.columns["sides\nquoted"] == ["75%", "0%"]
    never = dataclasses.replace(none, name="never reaches the touch")
    assert value_sheet("title", [never], None).columns["sides\nquoted"] == ["0%"]
    quotes = Quotes(config)
    simulate(Leaves(), config, 16, watch=quotes)
    _, distances, left = quotes.curves()
    assert quotes.left == pytest.approx(0.25)
    assert distances[0] == pytest.approx(0)  # the ask, at the touch
    assert (left[0] == 0).all()
    assert left[1].max() > 0


def test_needs_no_extra():
    """Training and evaluating in simulated markets works with the extras' imports blocked."""
    code = """
import sys
for name in ("hftbacktest", "aiohttp", "ccxt", "prometheus_client", "onnx", "onnxruntime", "optuna", "ray"):
    sys.modules[name] = None
import train.cli, train.evaluate, train.ppo, train.experiments.study
"""
    subprocess.run([sys.executable, "-c", code], check=True)
