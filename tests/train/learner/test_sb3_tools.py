"""Stable-Baselines3's own tools on the native environment and learner, and platforms that lack something."""

from __future__ import annotations

import os
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize, VecVideoRecorder

from mmenv import ConfigError, make_config
from train.learner.checkpoint import Checkpoint, load_latest
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.learner.vec_env import NeuralMMVecEnv

SETTINGS = {"market": "brownian", "horizon": 20}


def native(n: int, **settings) -> NeuralMMVecEnv:
    return NeuralMMVecEnv(make_config(**{**SETTINGS, **settings}), n, reward_scale=0.1)


def dummy(n: int):
    return make_vec_env("NeuralMM-v0", n, env_kwargs=SETTINGS)


def learner(env, algorithm=FastRecurrentPPO, **settings):
    settings = {
        "n_steps": 16,
        "batch_size": 32,
        "device": "cpu",
        "policy_kwargs": {"lstm_hidden_size": 8},
    } | settings
    return algorithm("MlpLstmPolicy", env, **settings)


@pytest.mark.parametrize("options", [{"position": 3}, [{"position": 3}, {}, {"position": -2}]])
def test_options_reach_the_next_reset_and_no_other(options):
    """As in DummyVecEnv, to the same bytes where the environments are seeded."""
    ours, theirs = native(3), dummy(3)
    at = ours.get_attr("observation_names")[0].index("inventory")
    for env in (ours, theirs):
        env.seed(7)
        env.set_options(options)
    first = ours.reset()
    assert np.array_equal(first, theirs.reset())
    assert first[0, at] == np.float32(0.3)
    for env in (ours, theirs):
        env.seed(8)
    assert np.array_equal(ours.reset(), theirs.reset())
    ours.set_options([{}])
    with pytest.raises(ConfigError, match="a list of 3"):
        ours.reset()


def test_evaluations_are_of_the_true_reward(tmp_path):
    """Learners see a scaled reward; evaluations report what the Monitor of DummyVecEnv does."""
    model, returns = learner(native(4)), []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # SB3's, where it finds no Monitor
        for env in (native(4), dummy(4)):
            env.seed(5)
            returns.append(evaluate_policy(model, env, 4, return_episode_rewards=True)[0])
        judge = EvalCallback(native(2), n_eval_episodes=2, eval_freq=8, log_path=tmp_path, verbose=0)
        model.learn(64, judge)
    assert np.allclose(*returns, atol=1e-4)
    assert max(np.abs(returns[0])) > 1
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (2, 2)


def test_video(tmp_path, monkeypatch):
    """`VecVideoRecorder` gets a picture of all environments a step, at our rate."""
    films = []

    class Clip:
        def __init__(self, frames, fps):
            films.append((np.stack(frames), fps))

        def write_videofile(self, path):
            pass

    module = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = Clip
    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    env = NeuralMMVecEnv(make_config(**SETTINGS), 2, render_mode="rgb_array")
    env = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=3)
    env.reset()
    for _ in range(4):
        env.step(np.zeros((2, 2), np.float32))
    env.close()
    ((frames, fps),) = films
    assert (frames.shape[0], fps) == (4, 30)
    assert frames.shape[3] == 3
    assert frames.shape[1] * frames.shape[2] == 2 * 600 * 800
    assert (frames[0] != frames[-1]).any()


class Names(BaseCallback):
    """The names that a callback finds in its locals, at the start and in each step."""

    def _on_training_start(self) -> None:
        self.at_start = set(self.locals)

    def _on_step(self) -> bool:
        self.names, self.n_steps = set(self.locals), self.locals["n_steps"]
        return True


def test_callbacks_find_what_stock_has_in_locals():
    stock, ours = Names(), Names()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # or stock spends its time on starting them
    learner(native(4), RecurrentPPO, n_epochs=1, batch_size=64).learn(64, stock)
    torch.set_num_threads(threads)
    learner(native(4), threads=1).learn(64, ours)
    assert stock.at_start <= ours.at_start
    assert stock.names <= ours.names
    assert stock.n_steps == ours.n_steps


OTHERS = {"native 4": lambda: native(4), "native 2": lambda: native(2), "dummy 4": lambda: dummy(4),
          "dummy 2": lambda: dummy(2)}  # fmt: skip


@pytest.mark.parametrize("first", ["native 4", "dummy 4"])
@pytest.mark.parametrize("then", OTHERS)
def test_resumed_with_another_environment(first, then, tmp_path):
    """The same number of the same kind goes on; any other begins fresh episodes, and says so."""
    learner(OTHERS[first](), threads=1).learn(128, Checkpoint(tmp_path))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = load_latest(tmp_path, OTHERS[then](), device="cpu")
    said = [str(w.message) for w in seen if "fresh episodes" in str(w.message)]
    assert bool(said) == (first == "dummy 4" or then != "native 4")
    before = model.num_timesteps
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= before + 64


@pytest.mark.parametrize("made_by", [native, dummy])
def test_resumed_elsewhere_is_refused(made_by, tmp_path):
    normalised = VecNormalize(native(4))
    learner(made_by(4), threads=1).learn(128, Checkpoint(tmp_path))
    for env, words in (
        (native(4, horizon=25), "horizon: 25, not 20"),
        (native(2, market="hidden-regime"), "market"),
        (normalised, "wrapped"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_latest(tmp_path, env, device="cpu")


def test_wrapped_and_resumed_with_fewer(tmp_path):
    """What a wrapper learned stays; what it holds for each environment begins anew."""
    learner(VecNormalize(native(4)), threads=1).learn(128, Checkpoint(tmp_path))
    env = VecNormalize(native(2))
    with pytest.warns(UserWarning, match="of 4 environments, here are 2"):
        model = load_latest(tmp_path, env, device="cpu")
    assert env.obs_rms.count > 60
    model.learn(64, reset_num_timesteps=False)


def test_without_what_some_platforms_lack(monkeypatch):
    """macOS and Windows have no `os.sched_getaffinity`, torch before 2.6 no `get_total_norm`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(torch.nn.utils, "get_total_norm", raising=False)
    assert learner(native(4)).learn(64).active_threads >= 1


def test_the_plotting_backend_stays_the_users():
    program = "import matplotlib; matplotlib.use('svg'); import train.ppo; print(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "svg"
