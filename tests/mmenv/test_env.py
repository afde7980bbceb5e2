"""NeuralMM-v0 as gymnasium, Stable-Baselines3 and their wrappers expect an environment to be."""

from __future__ import annotations

import copy
import doctest
import functools
import gc
import hashlib
import pickle
import re
import runpy
import subprocess
import sys
import types
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import mmenv.env
import mmenv.picture.render
from mmenv import ConfigError, QuoteConfig, make_config
from mmenv.arguments import ActionError
from mmenv.engine.state import LEDGER
from mmenv.env import NeuralMMEnv
from mmenv.features.base import GROUPS
from mmenv.observation import observation_features
from mmenv.vector import NeuralMMVectorEnv
from train.learner.vec_env import NeuralMMVecEnv

MARKETS = ("brownian", "hidden-regime", "correlated", "bursts", "book")
MODES = tuple(AutoresetMode)


def draw_actions(steps: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, n, 2)).astype(np.float32)


def as_bytes(*parts) -> bytes:
    """What a call of reset or step returned, but for the keys of gymnasium's own wrappers."""
    return pickle.dumps([p.tobytes() if isinstance(p, np.ndarray) else p for p in parts])


def rollout(env: gym.Env, actions: np.ndarray, seed: int | None = None) -> str:
    """Digest of all that a single environment returns; episodes follow each other, from a reset if seeded."""
    digest = hashlib.sha256()
    if seed is not None:
        digest.update(as_bytes(*env.reset(seed=seed)))
    for action in actions:
        result = env.step(action)
        digest.update(as_bytes(*result))
        if result[2] or result[3]:
            digest.update(as_bytes(*env.reset()))
    return digest.hexdigest()


def vector_rollout(envs: NeuralMMVectorEnv, actions: np.ndarray, seed: int | None = None) -> str:
    digest = hashlib.sha256()
    if seed is not None:
        digest.update(as_bytes(envs.reset(seed=seed)[0]))
    for action in actions:
        *arrays, info = envs.step(action)
        digest.update(as_bytes(*arrays, *info["ledger"].values(), *info.get("final_obs", ())))
    return digest.hexdigest()


# The interface.


@pytest.mark.parametrize("market", MARKETS)
def test_both_checkers_pass_without_a_warning(market, monkeypatch, capsys):
    monkeypatch.setattr(mmenv.picture.render, "has_display", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("NeuralMM-v0", market=market).unwrapped)
        stable_baselines3.common.env_checker.check_env(NeuralMMEnv(market))
    shown = capsys.readouterr()
    assert "00 ACTIVE  mid" in shown.out  # check_env renders in "human" too, here without a display
    assert "rgb_array" in shown.err


FRESH = """
import sys, gymnasium as gym, numpy as np, hashlib
env = gym.make("mmenv:NeuralMM-v0", horizon=20)
env.reset(seed=5)
digest = hashlib.sha256()
for action in np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32):
    digest.update(env.step(action)[0].tobytes())
print(digest.hexdigest(), [m for m in ("torch", "matplotlib", "stable_baselines3") if m in sys.modules])
"""


def test_module_prefix_and_same_bytes_in_a_fresh_process():
    fresh = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    env = gym.make("NeuralMM-v0", horizon=20)
    env.reset(seed=5)
    digest = hashlib.sha256()
    for action in draw_actions(20, 1)[:, 0]:
        digest.update(env.step(action)[0].tobytes())
    assert fresh.stdout.split(" ", 1) == [digest.hexdigest(), "[]\n"]


def test_spec_round_trip():
    settings = {
        "market": {"name": "brownian", "volatility": 2.0},
        "horizon": 9,
        "risk": {"position_limit": 3},
    }
    env = gym.make("NeuralMM-v0", **settings, max_episode_steps=7)
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    actions = draw_actions(15, 1)[:, 0]
    expected = rollout(env, actions, seed=1)
    for again in (gym.make(env.spec), gym.make(spec)):
        assert again.unwrapped.config == env.unwrapped.config == make_config(**settings)
        assert again.spec.kwargs == settings
        assert rollout(again, actions, seed=1) == expected
    envs = gym.make_vec("NeuralMM-v0", num_envs=3, autoreset_mode="NextStep", **settings)
    same = gym.make_vec(envs.spec)
    assert (same.num_envs, same.config, same.metadata) == (3, envs.config, envs.metadata)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_copies_continue_to_the_same_bytes(again, render_mode):
    env = gym.make("NeuralMM-v0", horizon=12, start_inventory=3, render_mode=render_mode)
    before, after = np.split(draw_actions(40, 1)[:, 0], [17])
    rollout(env, before, seed=3)
    if render_mode:
        env.render()  # so that there is a figure to leave behind
    twin = again(env)
    assert rollout(twin, after) == rollout(env, after)
    if render_mode:
        assert np.array_equal(twin.render(), env.render())

    for mode in MODES[:2]:
        envs = NeuralMMVectorEnv(
            5, horizon=12, start_inventory=3, render_mode=render_mode, autoreset_mode=mode
        )
        before, after = np.split(draw_actions(40, 5), [12])
        vector_rollout(envs, before, seed=3)
        twin = again(envs)
        saved = envs.get_state()
        expected = vector_rollout(envs, after)
        assert vector_rollout(twin, after) == expected
        envs.set_state(saved)
        assert vector_rollout(envs, after) == expected


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("n", [1, 17, 64])
def test_single_and_vector_give_the_same_bytes(market, n):
    settings = {"market": market, "horizon": 9, "start_inventory": 4, "maker_fee_bp": 0.5}
    envs = NeuralMMVectorEnv(n, **settings)
    actions = draw_actions(22, n)
    observations, _ = envs.reset(seed=100)
    results = [envs.step(action) for action in actions]
    for i in {0, n // 2, n - 1}:
        env = NeuralMMEnv(**settings)
        observation, _ = env.reset(seed=100 + i)
        assert observation.tobytes() == observations[i].tobytes()
        for action, (now, rewards, terminated, truncated, info) in zip(actions[:, i], results, strict=True):
            observation, reward, over, cut, single = env.step(action)
            assert (reward, over, cut) == (rewards[i], terminated[i], truncated[i])
            assert single["ledger"] == {name: info["ledger"][name][i] for name in LEDGER}
            if over:
                assert observation.tobytes() == info["final_obs"][i].tobytes()
                assert info["_final_obs"][i]
                assert info["_final_info"][i]
                final = {name: values[i] for name, values in info["final_info"]["ledger"].items()}
                assert final == single["ledger"]
                observation, _ = env.reset()
            assert observation.tobytes() == now[i].tobytes()


# Vector environments.


def assert_same_info(ours: dict, theirs: dict) -> None:
    """Where gymnasium's vector environment has an entry, ours has the same."""
    for key, value in theirs.items():
        if key.startswith("_"):
            continue
        has = theirs[f"_{key}"]
        assert ours.get(f"_{key}", has)[has].all()
        if isinstance(value, dict):
            assert_same_info(ours[key], value)
        else:
            for i in np.flatnonzero(has):
                assert np.array_equal(ours[key][i], value[i])


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("mode", MODES)
def test_autoreset_modes_equal_gymnasium(mode, market):
    settings = {"market": market, "horizon": 6, "start_inventory": 5}
    theirs = SyncVectorEnv([lambda: NeuralMMEnv(**settings)] * 5, autoreset_mode=mode)
    ours = gym.make_vec("NeuralMM-v0", num_envs=5, autoreset_mode=mode.value, **settings)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == mode
    actions = draw_actions(30, 5)
    assert np.array_equal(ours.reset(seed=8)[0], theirs.reset(seed=8)[0])
    done = np.zeros(5, bool)
    for t, action in enumerate(actions):
        results = ours.step(action), theirs.step(action)
        for mine, other in zip(*(result[:4] for result in results), strict=True):
            assert mine.dtype == other.dtype
            assert np.array_equal(mine, other)
        info = results[0][4]
        assert_same_info(info, results[1][4])
        # The step that only resets an environment has nothing in the ledger.
        only_reset = done if mode == AutoresetMode.NEXT_STEP else np.zeros(5, bool)
        assert np.array_equal(info["_ledger"], ~only_reset)
        assert not any(values[only_reset].any() for values in info["ledger"].values())
        done = results[0][2] | results[0][3]
        mask, seed = None, None
        if t == 3:  # so that they do not all end together
            mask, seed = np.array([True, False, True, False, False]), 50
        elif mode == AutoresetMode.DISABLED and done.any():
            mask = done
        if mask is not None:
            done = done & ~mask
            options = {"reset_mask": mask, "position": 2}
            assert np.array_equal(
                ours.reset(seed=seed, options=dict(options))[0],
                theirs.reset(seed=seed, options=dict(options))[0],
            )


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_async_vector_env(context):
    """Other processes give the bytes of this one."""
    settings = {"horizon": 6, "start_inventory": 2}

    def make() -> gym.Env:
        return gym.make("mmenv:NeuralMM-v0", **settings)

    theirs = AsyncVectorEnv([make, make], context=context)
    ours = NeuralMMVectorEnv(2, autoreset_mode=AutoresetMode.NEXT_STEP, **settings)
    try:
        assert np.array_equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
        for action in draw_actions(16, 2):
            results = ours.step(action), theirs.step(action)
            for mine, other in zip(*(result[:4] for result in results), strict=True):
                assert np.array_equal(mine, other)
    finally:
        theirs.close()


def test_stable_baselines3_and_the_native_adapter():
    """SB3's own vector environment and ours step through the same bytes."""
    settings = {"horizon": 6, "start_inventory": 2}
    theirs = make_vec_env("NeuralMM-v0", n_envs=3, seed=11, env_kwargs=settings)
    ours = NeuralMMVecEnv(make_config(**settings), 3, seed=11, control_variate=False)
    assert np.array_equal(ours.reset(), theirs.reset())
    for action in draw_actions(20, 3):
        mine, other = ours.step(action), theirs.step(action)
        for a, b in zip(mine[:3], other[:3], strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
        for i in np.flatnonzero(mine[2]):
            a, b = mine[3][i], other[3][i]
            assert np.array_equal(a["terminal_observation"], b["terminal_observation"])
            assert a["TimeLimit.truncated"] == b["TimeLimit.truncated"]
            assert a["episode"]["l"] == b["episode"]["l"]
            assert a["episode"]["r"] == pytest.approx(b["episode"]["r"], abs=1e-5)

    model = PPO("MlpPolicy", theirs, n_steps=16, batch_size=48, n_epochs=1, device="cpu").learn(48)
    assert model.predict(theirs.reset(), deterministic=True)[0].shape == (3, 2)


EXAMPLES = {
    "cleanrl_ppo": {"total_timesteps": 256, "num_envs": 8, "num_steps": 16, "minibatch_size": 64},
    "skrl_ppo": {"timesteps": 300, "num_envs": 4, "rollouts": 150},
}
LEARNERS = {
    "tianshou_ppo": (
        {"timesteps": 9_600, "num_envs": 32, "rollouts": 300},
        {"timesteps": 38_400, "num_envs": 32},
    ),
    "rllib_ppo": (
        {"iterations": 2, "num_envs": 32, "rollouts": 150},
        {"iterations": 8, "num_envs": 32, "rollouts": 150},
    ),
}
"""Settings to play the first episodes alone, hardly learning, and to learn from four times as many."""
NEEDED = {"skrl_ppo": "skrl", "tianshou_ppo": "tianshou", "rllib_ppo": "ray.rllib"}


def play_example(name: str, *settings: dict) -> list[float]:
    """What the example of another trainer returns under each settings; skips where the trainer is missing."""
    if name in NEEDED:
        pytest.importorskip(
            NEEDED[name], reason=f"pip install {NEEDED[name].replace('ray.rllib', 'ray[rllib]')}"
        )
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / f"{name}.py"))
    return [example["main"](example["Args"](**given)) for given in settings]


@pytest.mark.parametrize("name", EXAMPLES)
def test_other_trainers_work_unchanged(name):
    assert np.isfinite(play_example(name, EXAMPLES[name])).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_other_trainers_learn(name):
    first, last = play_example(name, *LEARNERS[name])
    assert last > first + 30


@pytest.mark.parametrize("make", [gym.make, functools.partial(gym.make_vec, num_envs=2)])
def test_an_unknown_keyword_is_a_type_error_too(make):
    """As of any constructor: wrappers leave out a keyword that is refused in these words."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
        make("NeuralMM-v0", frameskip=1)


def test_a_preset_is_named_with_its_market():
    made = make_config("book:nasdaq-msft", horizon=50)
    assert made == make_config({"name": "book", "preset": "nasdaq-msft"}, horizon=50)
    with pytest.raises(
        ConfigError, match=r"Book.preset = 'nasdaq' is not possible: it must be one of .*nasdaq-msft"
    ):
        make_config("book:nasdaq")
    with pytest.raises(ConfigError, match="market 'brownian' has no setting 'preset'"):
        make_config("brownian:large-tick")
    with pytest.raises(ConfigError, match=r"market = {'volatility': 2} is not possible: it lacks a `name`"):
        make_config({"volatility": 2})


def test_numbers_of_numpy_are_numbers():
    """Whoever loops over `np.arange` gives these; files of JSON cannot hold them."""
    given = make_config(
        {"name": "brownian", "volatility": np.float32(2)},
        horizon=np.int64(30),
        risk={"position_limit": np.int8(5)},
    )
    plain = make_config({"name": "brownian", "volatility": 2.0}, horizon=30, risk={"position_limit": 5})
    assert (given, given.schema_id) == (plain, plain.schema_id)


@pytest.mark.parametrize("make", [gym.make, functools.partial(gym.make_vec, num_envs=2)])
def test_what_is_refused_ends_in_silence(make, monkeypatch):
    """Gymnasium closes an environment whose constructor raised, when it is collected."""
    complaints: list = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with pytest.raises(ConfigError, match="market = 'nope' is not known"):
        make("NeuralMM-v0", market="nope")
    gc.collect()
    assert complaints == []


def test_torchrl():
    """Its environment by name, and its form of many: the native one, whose resets it asks for itself."""
    envs = pytest.importorskip("torchrl.envs", reason="pip install torchrl")
    alone = envs.GymEnv("mmenv:NeuralMM-v0", market="brownian", horizon=10).rollout(30)
    assert alone["next", "observation"].shape == (10, 18)
    many = gym.make_vec("NeuralMM-v0", num_envs=3, autoreset_mode="Disabled", market="brownian", horizon=10)
    rollout = envs.GymWrapper(many).rollout(25, break_when_any_done=False)
    assert rollout["next", "observation"].shape == (3, 25, 18)
    assert rollout["next", "done"].sum() == 3 * 2


# Wrappers.


def test_episode_statistics_single_and_vector():
    settings = {"horizon": 8}
    single = gym.wrappers.RecordEpisodeStatistics(gym.make("NeuralMM-v0", **settings))
    actions = draw_actions(8, 2)
    single.reset(seed=1)
    rewards = []
    for action in actions[:, 1]:
        *_, info = (result := single.step(action))
        rewards.append(result[1])
    assert info["episode"]["l"] == 8
    assert info["episode"]["r"] == pytest.approx(sum(rewards), abs=1e-9)

    for mode in MODES[:2]:
        envs = NeuralMMVectorEnv(2, autoreset_mode=mode, **settings)
        vector = gym.wrappers.vector.RecordEpisodeStatistics(envs)
        vector.reset(seed=0)
        for action in np.concatenate([actions, draw_actions(2, 2)]):
            *_, info = vector.step(action)
            if "episode" in info:
                assert info["episode"]["r"][1] == pytest.approx(sum(rewards), abs=1e-9)
                assert (info["episode"]["l"] == 8).all()
        assert vector.episode_count == 2
        listed = gym.wrappers.vector.DictInfoToList(NeuralMMVectorEnv(2, horizon=1))
        listed.reset(seed=0)
        infos = listed.step(actions[0])[4]
        assert [set(info) for info in infos] == [{"ledger", "final_obs", "final_info"}] * 2


def test_time_limit_and_normalised_observations():
    env = gym.wrappers.NormalizeObservation(gym.make("NeuralMM-v0", max_episode_steps=5))
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in draw_actions(5, 1)[:, 0]]
    assert ends == [(False, False)] * 4 + [(False, True)]
    vector = gym.wrappers.vector.NormalizeObservation(
        NeuralMMVectorEnv(64, horizon=40, autoreset_mode="NextStep")
    )
    vector.reset(seed=0)
    last = [vector.step(action)[0] for action in draw_actions(60, 64)][-1]
    assert np.isfinite(last).all()
    assert abs(last.mean()) < 0.5


@pytest.fixture
def videos(monkeypatch) -> list:
    """The clips that `RecordVideo` writes, each a list of frames, in place of moviepy's files."""
    written: list = []

    class Clip:
        def __init__(self, frames, fps):
            self.frames, self.fps = frames, fps

        def write_videofile(self, path, logger):
            written.append((self.frames, self.fps))

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["moviepy.video.io.ImageSequenceClip"].ImageSequenceClip = Clip
    return written


@pytest.mark.filterwarnings("ignore:.*same-step")
def test_record_video(tmp_path, videos):
    env = gym.make("NeuralMM-v0", horizon=5, render_mode="rgb_array")
    env = gym.wrappers.RecordVideo(env, str(tmp_path / "one"), episode_trigger=lambda episode: episode == 0)
    rollout(env, draw_actions(5, 1)[:, 0], seed=2)
    env.close()
    envs = gym.make_vec("NeuralMM-v0", num_envs=2, horizon=5, render_mode="rgb_array")
    envs = gym.wrappers.vector.RecordVideo(envs, str(tmp_path / "many"), video_length=2)
    envs.reset(seed=2)
    for action in draw_actions(3, 2):
        envs.step(action)
    envs.close()
    (frames, fps), (tiled, _) = videos
    assert fps == env.metadata["render_fps"] > 0
    assert [frame.shape for frame in frames] == [(600, 800, 3)] * 6
    assert {frame.shape for frame in tiled} == {(600, 1600, 3)}


def test_record_video_writes_a_film(tmp_path):
    pytest.importorskip("moviepy", reason="pip install moviepy")
    env = gym.make("NeuralMM-v0", horizon=10, render_mode="rgb_array")
    env = gym.wrappers.RecordVideo(env, str(tmp_path), episode_trigger=lambda episode: True)
    rollout(env, draw_actions(10, 1)[:, 0], seed=2)
    env.close()
    film = min(tmp_path.glob("*.mp4"))
    assert film.stat().st_size > 5000


# Rendering.


def test_pictures_show_what_happened():
    """Fill marks, and every line of the picture, against the ledger and the observation."""
    settings = {"market": "hidden-regime", "horizon": 60, "maker_fee_bp": 0.5}
    env = gym.make("NeuralMM-v0", **settings, render_mode="rgb_array").unwrapped
    env.reset(seed=4)
    start = env.render()
    ledgers = []
    for action in draw_actions(60, 1)[:, 0] * np.float32([0.2, 0.1]) - np.float32([0.7, 0]):
        ledgers.append(env.step(action)[4]["ledger"])
    end = env.render()
    assert end.shape == (600, 800, 3)
    assert end.dtype == np.uint8
    assert (start != end).any()
    seen = env._screen.history.of(0)
    for name in ("spread_capture", "adverse_selection", "carry", "fees"):
        assert np.allclose(np.diff(seen[name]), [ledger[name] for ledger in ledgers], atol=1e-12)
    for name in ("wealth", "position"):
        assert seen[name][1:].tolist() == [ledger[name] for ledger in ledgers]
    # Wealth anew from nothing but the marks: cash of the fills, and the position at the mid.
    sold, bought = seen["ask_fill"], seen["bid_fill"]
    cash = np.nancumsum(sold * seen["sold"]) - np.nancumsum(bought * seen["bought"])
    value = cash + np.cumsum(bought - sold) * seen["mid"]
    assert np.allclose(value - seen["fees"], seen["wealth"], atol=1e-6)
    assert sold.sum() > 3
    assert bought.sum() > 3
    assert (seen["sold"] == seen["ask"])[sold > 0].all()
    assert (seen["bought"] == seen["bid"])[bought > 0].all()
    red, blue = (np.all(end == colour, axis=-1).sum() for colour in ([192, 57, 43], [36, 113, 163]))
    assert min(red, blue) > 100
    # A figure whose background was kept draws what a new one draws.
    assert np.array_equal(end, copy.deepcopy(env).render())


def test_pictures_show_the_queue_our_place_and_withdrawn_sides():
    """Queues and places are those of the observation; a side that is left is no far quote but a mark; the
    axis ends at the horizon, however the window scrolls."""
    env = NeuralMMEnv("book", quote={"name": "touch"}, horizon=340, render_mode="rgb_array")
    observation, _ = env.reset(seed=4)
    ahead = env.observation_names.index("ask_order_ahead")
    lots = env.observation_names.index("ask_order_lots")
    rests, observed = [observation[lots] > 0], [observation[ahead]]
    for t in range(340):
        observation = env.step(np.float32([0.25, -0.75 if t % 80 < 40 else 0.25]))[0]
        observed.append(observation[ahead])
        rests.append(observation[lots] > 0)
    seen = env._screen.history.of(0)
    assert (seen["ask_queue"] > 0).all()
    at_touch = np.isfinite(seen["ask_ahead"])
    assert at_touch[rests].mean() > 0.5
    assert not at_touch[~np.array(rests)].any()
    places = np.minimum(seen["ask_ahead"] / seen["ask_queue"], 10)
    assert places[at_touch] == pytest.approx(np.array(observed)[at_touch], abs=1e-6)
    left = np.append(False, np.arange(340) % 80 < 40)
    assert (np.isnan(seen["bid"]) == left)[1:].all()
    env.render()
    picture = env._screen._pictures[0]
    shown = np.arange(341) >= 40  # the last 300 decisions
    assert (np.isfinite(picture._none["bid"].get_ydata()) == left[shown]).all()
    none = np.isfinite(picture._none["ask"].get_ydata())
    assert (none == (seen["ask_lots"] == 0)[shown]).all()  # at its limit a position forbids it too
    assert picture.price.get_xlim() == picture.queue.get_xlim() == (39.5, 340.5)
    assert "no bid" in env._screen.text(0)  # decision 339 left it


def test_vector_pictures_are_those_of_the_single_environments(monkeypatch):
    monkeypatch.setattr(mmenv.picture.render, "MOST_PICTURES", 2)  # so that two environments share one
    envs = NeuralMMVectorEnv(3, horizon=30, render_mode="rgb_array")
    envs.reset(seed=7)
    actions = draw_actions(35, 3)
    for action in actions:
        envs.step(action)
    frames = envs.render()
    assert len(frames) == 3
    for i, frame in enumerate(frames):
        env = NeuralMMEnv(horizon=30, render_mode="rgb_array")
        rollout(env, actions[:, i], seed=7 + i)
        assert np.array_equal(env.render(), frame)


def test_text_and_window(monkeypatch, capsys):
    env = gym.make("NeuralMM-v0", horizon=30, render_mode="ansi")
    env.reset(seed=1)
    for action in draw_actions(10, 1)[:, 0]:
        ledger = env.step(action)[4]["ledger"]
    text = env.render()
    assert text.startswith("10/30 ")
    assert f"position {ledger['position']:+.0f} of 10\nwealth {ledger['wealth']:+.2f} = " in text

    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    monkeypatch.setattr(mmenv.picture.render, "has_display", lambda: True)
    monkeypatch.setattr(pyplot, "show", lambda block: None)
    env = NeuralMMEnv(horizon=30, render_mode="human")
    env.reset(seed=1)
    env.step(draw_actions(1, 1)[0, 0])
    assert env.render() is None
    window = env._screen._viewer
    assert np.array_equal(window._image.get_array(), env._screen.frame(0))
    assert pyplot.fignum_exists(window.figure.number)
    env.close()
    assert not pyplot.fignum_exists(window.figure.number)
    assert capsys.readouterr() == ("", "")


def test_render_without_a_mode_warns_and_keeps_nothing():
    env = gym.make("NeuralMM-v0")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without specifying any render mode"):
        assert env.render() is None
    assert env.unwrapped._screen is None


# Bad input: one sentence with field, value and remedy.


def stepped(**settings) -> NeuralMMEnv:
    env = NeuralMMEnv(**settings)
    env.reset(seed=0)
    return env


def stepped_vector(**settings) -> NeuralMMVectorEnv:
    envs = NeuralMMVectorEnv(2, **settings)
    envs.reset(seed=0)
    return envs


NAN = float("nan")
REFUSALS = {
    "action-nan": (ActionError, r"\[nan.*finite", lambda: stepped().step(np.array([NAN, 0], np.float32))),
    "action-inf": (ActionError, r"inf.*finite", lambda: stepped().step(np.array([0, -np.inf]))),
    "action-huge": (ActionError, r"e\+300.*finite", lambda: stepped().step(np.array([1e300, 0]))),
    "action-scalar": (ActionError, r"0\.5.*2 numbers", lambda: stepped().step(0.5)),
    "action-long": (ActionError, r"2 numbers", lambda: stepped().step(np.zeros(3, np.float32))),
    "action-deep": (ActionError, r"2 numbers", lambda: stepped().step(np.zeros((1, 2), np.float32))),
    "action-pairs": (ActionError, r"2 numbers", lambda: stepped().step(np.zeros((2, 1), np.float32))),
    "action-text": (ActionError, r"'wide'.*2 numbers", lambda: stepped().step("wide")),
    "action-none": (ActionError, r"None.*2 numbers", lambda: stepped().step(None)),
    "action-texts": (ActionError, r"2 numbers", lambda: stepped().step(np.array(["0", "1"]))),
    "action-complex": (ActionError, r"2 numbers", lambda: stepped().step(np.array([1j, 0]))),
    "action-ragged": (ActionError, r"2 numbers", lambda: stepped().step([[1], [1, 2]])),
    "actions-nan": (ActionError, r"actions\[1\].*finite", lambda: stepped_vector().step([[0, 0], [0, NAN]])),
    "actions-shape": (ActionError, r"\(2,\).*\(2, 2\)", lambda: stepped_vector().step([0.0, 0.0])),
    "actions-type": (ActionError, r"type.*numbers", lambda: stepped_vector().step([["a", "b"]] * 2)),
    "before-reset": (gym.error.ResetNeeded, r"call reset", lambda: NeuralMMEnv().step(np.zeros(2))),
    "vector-before-reset": (
        gym.error.ResetNeeded,
        r"call reset",
        lambda: NeuralMMVectorEnv(2).step(np.zeros((2, 2))),
    ),
    "after-end": (
        gym.error.ResetNeeded,
        r"over.*call reset",
        lambda: rollout_past_end(stepped(horizon=1)),
    ),
    "disabled-after-end": (
        gym.error.ResetNeeded,
        r"\[0, 1\].*reset_mask",
        lambda: rollout_past_end(stepped_vector(horizon=1, autoreset_mode="Disabled"), 2),
    ),
    "render-before-reset": (
        gym.error.ResetNeeded,
        r"call reset",
        lambda: NeuralMMEnv(render_mode="ansi").render(),
    ),
    "option": (
        ConfigError,
        r"'positon'.*Did you mean 'position'",
        lambda: stepped().reset(options={"positon": 1}),
    ),
    "options": (ConfigError, "reset options = 3 is not possible", lambda: stepped().reset(options=3)),
    "position": (ConfigError, r"11.*-10 to 10", lambda: stepped().reset(options={"position": 11})),
    "position-part": (ConfigError, r"0\.5.*whole lots", lambda: stepped().reset(options={"position": 0.5})),
    "positions": (
        ConfigError,
        r"\[1, 2, 3\].*each of 2",
        lambda: stepped_vector().reset(options={"position": [1, 2, 3]}),
    ),
    "mask": (
        ConfigError,
        r"reset_mask.*shape \(2,\)",
        lambda: stepped_vector().reset(options={"reset_mask": np.ones(3, bool)}),
    ),
    "mask-first": (
        gym.error.ResetNeeded,
        r"reset\(\) without it",
        lambda: NeuralMMVectorEnv(2).reset(options={"reset_mask": np.ones(2, bool)}),
    ),
    "seeds": (ConfigError, r"\[1\].*list of 2", lambda: stepped_vector().reset(seed=[1])),
    "market": (ConfigError, r"Did you mean 'brownian'", lambda: gym.make("NeuralMM-v0", market="brownain")),
    "market-parameter": (
        ConfigError,
        r"Did you mean 'volatility'",
        lambda: gym.make("NeuralMM-v0", market={"name": "brownian", "volatilty": 1}),
    ),
    "setting": (ConfigError, r"Did you mean 'horizon'", lambda: gym.make("NeuralMM-v0", horizont=5)),
    "nested": (ConfigError, r"Did you mean 'max_skew'", lambda: NeuralMMEnv(quote={"max_skw": 1})),
    "impossible": (ConfigError, r"horizon = 0.*from 1", lambda: gym.make("NeuralMM-v0", horizon=0)),
    "not-a-number": (ConfigError, r"max_skew = nan.*finite", lambda: QuoteConfig(max_skew=NAN)),
    "group": (ConfigError, r"Did you mean 'inventory'", lambda: NeuralMMEnv(features=["invntory"])),
    "both": (
        ConfigError,
        r"config is given, and so is horizon",
        lambda: NeuralMMEnv(config=make_config(), horizon=5),
    ),
    "not-a-config": (ConfigError, r"make_config", lambda: NeuralMMEnv(config={"horizon": 5})),
    "time-limit": (
        ConfigError,
        r"set `horizon`",
        lambda: gym.make_vec("NeuralMM-v0", num_envs=2, max_episode_steps=5),
    ),
    "num-envs": (ConfigError, r"num_envs = 0.*at least 1", lambda: gym.make_vec("NeuralMM-v0", num_envs=0)),
    "mode": (ConfigError, r"'Never'.*'SameStep'", lambda: NeuralMMVectorEnv(2, autoreset_mode="Never")),
    "render-mode": (ConfigError, r"'rgb'.*rgb_array", lambda: NeuralMMEnv(render_mode="rgb")),
}


def rollout_past_end(env, n: int = 0) -> None:
    action = np.zeros((n, 2) if n else 2, np.float32)
    env.step(action)
    env.step(action)


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_one_sentence(case):
    error, words, call = REFUSALS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=words) as caught:
            call()
    assert "\n" not in str(caught.value)
    # gymnasium adds to a TypeError what it called.
    assert re.search(r"\.( was raised from .*)?$", str(caught.value))


def test_refused_calls_change_nothing():
    """An episode with a refused action, option and mask in it goes on as if they had not been."""
    env, twin = stepped(), stepped()
    envs, twins = stepped_vector(), stepped_vector()
    for action in draw_actions(6, 2):
        for refused in (
            lambda: env.step(np.array([NAN, 0])),
            lambda: env.reset(seed=9, options={"position": 99}),
            lambda: envs.step(np.full((2, 2), NAN)),
            lambda: envs.reset(seed=9, options={"position": 99}),
        ):
            with pytest.raises(ValueError, match="not possible"):
                refused()
        assert as_bytes(*env.step(action[0])) == as_bytes(*twin.step(action[0]))
        assert np.array_equal(envs.step(action)[0], twins.step(action)[0])


def test_actions_of_other_kinds_are_the_same_action():
    results = {
        as_bytes(*stepped().step(action))
        for action in ([1, 0], (1, 0), np.array([1, 0]), np.array([1.0, 0.0]), np.array([3, 0], np.float16))
    }
    assert len(results) == 1
    loose = stepped_vector(strict_actions=False)
    info = loose.step([[NAN, 0], [0, 0]])[4]
    assert info["ledger"]["fills"][0] == 0


# The class docstring, which is the environment's page.


def plain(meaning: str) -> str:
    """A bar would end the cell of a table."""
    return re.sub(r"\|(\w+)\|", r"abs(\1)", meaning)


def test_docstring_table_is_the_registered_features():
    rows = re.findall(r"^ *\| (\d+) \| (\w+) \| (-?\d+) \| (\d+) \| (.*) \|$", NeuralMMEnv.__doc__, re.M)
    expected = [
        (str(i), f.name, f"{f.low:g}", f"{f.high:g}", plain(f.meaning))
        for i, f in enumerate(observation_features(make_config()))
    ]
    assert [(*row[:4], row[4].replace("pu", "price units", row[1] != "volume")) for row in rows] == expected


def test_docstring_table_of_further_groups():
    """Every entry of every group of ours that the first table leaves out, and every market by its name."""
    doc = NeuralMMEnv.__doc__
    table = doc[doc.index("| **") : doc.index("## Rewards")]
    one = dict.fromkeys(("observed_lags", "observed_volatilities", "observed_flows"), (0.5,))
    configs = {
        "observed": make_config({"name": "correlated", **one}),
        "parameters": make_config("brownian", randomise={"volatility": (0.5, 2.0)}),
    }
    found = {}
    for part in table.split("| **")[1:]:
        group = part[: part.index("**")]
        found[group] = re.findall(r"^ *\| (\w+) \| (\S+) \| (\S+) \| (.*) \|$", part, re.M)
        config = configs.get(group, make_config())
        entries = GROUPS[group].entries(config.market, config.randomise)
        expected = [
            (f.name, f"{f.low:g}", f"{f.high:g}", plain(f.meaning).replace(" price units", " pu"))
            for f in entries
        ]
        assert found[group] == expected
    # Whoever imports `train.papers` has its groups, too.
    groups = {name for name, each in GROUPS.items() if each.observe.function.__module__.startswith("mmenv.")}
    assert set(found) == groups - set(make_config().features)
    assert [name for name in (*MARKETS, "replay") if f"`{name}`" not in doc] == []


def test_docstring_table_of_defaults():
    doc = NeuralMMEnv.__doc__
    rows = re.findall(r"^ *\| `([\w-]+)` \| (\d+) \| (\d+) \| (\S+) \| (\S+) \|$", doc, re.M)
    assert sorted(row[0] for row in rows) == sorted((*MARKETS, "basket"))
    for name, half_spread, horizon, inventory, terminal in rows:
        c = make_config(name)
        reach = (2.0, 3.0) if name == "book" else (float(half_spread),) * 2
        assert c.quote.max_half_spread == float(half_spread)
        assert (c.quote.max_skew, c.quote.max_distance) == reach
        assert (c.horizon, c.quote.min_half_spread) == (int(horizon), 0)
        assert (c.reward.inventory_penalty, c.reward.terminal_penalty) == (float(inventory), float(terminal))
        position_limit = 3 if name == "basket" else 10
        assert (c.risk.position_limit, c.risk.order_lots, c.risk.daily_loss_limit) == (position_limit, 1, 500)


def test_docstring_examples_run():
    failed, tried = doctest.testmod(mmenv.env)
    assert tried > 10
    assert failed == 0


@pytest.mark.parametrize("seed", [2.5, "a", [1, 2], [1, 2.5, 3], [1, -1, 2]])
def test_seeds_that_cannot_be_are_refused_in_a_sentence(seed: object) -> None:
    envs = gym.make_vec("mmenv:NeuralMM-v0", num_envs=3, market="brownian")
    with pytest.raises(ConfigError, match="is not possible: give one of at least 0, or a list of 3"):
        envs.reset(seed=seed)  # type: ignore[arg-type]
