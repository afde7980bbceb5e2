"""Workers that train one policy together do what one worker with the whole batch does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from mmenv import ConfigError, make_config
from train.launch import launch
from train.learner.checkpoint import Checkpoint, drop_after, load_latest, remaining_timesteps
from train.learner.control_variate import SurpriseControl
from train.learner.parallel import DataParallelPPO, SharedSurpriseControl
from train.learner.recurrent_ppo import FastRecurrentPPO
from train.learner.update import threads_of_update
from train.learner.vec_env import NeuralMMVecEnv
from train.reproduce import compare
from train.settings import Settings, env_config, write_settings
from train.team import Team

ENVS, STEPS, CHUNK = 8, 40, 20
ROWS = ("observations", "actions", "values", "log_probs", "advantages", "returns")


def model(kind: type[FastRecurrentPPO], first: int, envs: int) -> FastRecurrentPPO:
    config = make_config("brownian", horizon=30)
    torch.manual_seed(first)  # different weights at the start, unless they are shared
    env = NeuralMMVecEnv(config, envs, seed=first)
    return kind("MlpLstmPolicy", env, n_steps=STEPS, chunk_length=CHUNK, batch_size=None, threads=1)


def ready(learner: FastRecurrentPPO) -> FastRecurrentPPO:
    learner._clip, learner._clip_vf = 0.2, None
    learner.rollout_buffer.cut_sequences()
    return learner


def gradients(learner: FastRecurrentPPO) -> list[np.ndarray]:
    """Of everything in the buffer; then its statistics."""
    chunks, parameters = np.arange(learner.rollout_buffer.n_chunks), list(learner.policy.parameters())
    with threads_of_update(1) as pool:
        found, statistics = learner.gradients(learner.packed(chunks, pool), parameters, pool)
    return [np.zeros(0) if g is None else g.numpy() for g in (*found, statistics)]


def _worker(rank: int, folder: Path) -> None:
    """Gradients of the half of the rollout that is this worker's, and what the surprise control learned."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    whole = torch.load(folder / "rollout.pt", weights_only=False)
    mine = slice(rank * ENVS // 2, (rank + 1) * ENVS // 2)
    learner = model(DataParallelPPO, rank, ENVS // 2)
    learner._check_weights()  # type: ignore[attr-defined]
    learner.policy.load_state_dict(whole["weights"])
    buffer = learner.rollout_buffer
    for name in ROWS:
        getattr(buffer, name).copy_(whole[name][:, mine])
    buffer.episode_starts[:] = whole["episode_starts"][:, mine]
    states = whole["chunk_states"].unflatten(0, (STEPS // CHUNK, ENVS))[:, mine]
    buffer.chunk_states.copy_(states.flatten(0, 1))
    control = SharedSurpriseControl()
    control(*(part[rank::2] for part in whole["surprise"]))
    found = gradients(ready(learner))
    with torch.no_grad():
        next(learner.policy.parameters()).view(-1)[0] += 1e-3 * rank
    with pytest.raises(RuntimeError, match="drifted apart"):
        learner._check_weights()  # type: ignore[attr-defined]
    if rank == 0:
        np.savez(folder / "found.npz", *found, weights=control._weights)
    dist.destroy_process_group()


def test_two_workers_take_the_step_of_one(tmp_path):
    """Gradients, statistics and control weights over two halves of a rollout are those over the whole."""
    one = model(FastRecurrentPPO, 0, ENVS)
    one._setup_learn(STEPS * ENVS)
    callback = one._init_callback(None)
    assert one.collect_rollouts(one.env, callback, one.rollout_buffer, STEPS)
    buffer = one.rollout_buffer
    buffer.advantages += 3 * buffer.observations[:, :, 0]  # halves that differ in mean and deviation
    buffer.log_probs += 0.1  # a ratio that is not one
    rng = np.random.default_rng(0)
    surprise = [rng.normal(size=(200, *n)).astype(np.float32) for n in ((3,), (5,), (2,), ())]
    torch.save(
        {name: getattr(buffer, name) for name in (*ROWS, "episode_starts", "chunk_states")}
        | {"weights": one.policy.state_dict(), "surprise": surprise},
        tmp_path / "rollout.pt",
    )
    expected = gradients(ready(one))
    control = SurpriseControl()
    control(*surprise)
    spawn(_worker, (tmp_path,), nprocs=2)
    with np.load(tmp_path / "found.npz") as file:
        found = [file[f"arr_{i}"] for i in range(len(expected))]
        np.testing.assert_allclose(file["weights"], control._weights, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert max(np.abs(g).max() for g in expected[:-1] if g.size) > 0.01


def test_a_resumed_worker_goes_on_as_it_would_have(tmp_path):
    """To the same bytes: with what its surprise control had learned, too."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        config = make_config("brownian", horizon=30)
        config = dataclasses.replace(config, features=(*config.features, "surprise"))
        learner = DataParallelPPO(
            "MlpLstmPolicy", NeuralMMVecEnv(config, ENVS), n_steps=STEPS, batch_size=None, threads=1, seed=0
        )
        learner.learn(4 * STEPS * ENVS, Checkpoint(tmp_path, every=1, keep=9))
        drop_after(tmp_path, 2 * STEPS * ENVS)
        resumed = load_latest(tmp_path, NeuralMMVecEnv(config, ENVS), DataParallelPPO)
        assert resumed.num_timesteps == 2 * STEPS * ENVS
        resumed.learn(remaining_timesteps(resumed), reset_num_timesteps=False)
    finally:
        dist.destroy_process_group()
    assert isinstance(resumed.surprise_control, SharedSurpriseControl)
    for ours, theirs in zip(resumed.policy.parameters(), learner.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_workers_share_environments_and_batch():
    """The workers' environments are those of one worker, with the same seeds."""
    whole = Settings(num_envs=12, batch_size=600, seed=5)
    parts = [Team(rank, 3).share(whole) for rank in range(3)]
    seeds = [part.seed + i for part in parts for i in range(part.num_envs)]
    assert seeds == list(range(5, 17))
    assert [part.batch_size for part in parts] == [200, 200, 200]
    with pytest.raises(ConfigError, match=r"num_envs = 12 .* a multiple of the 5 workers"):
        Team(0, 5).share(whole)


def test_ray_train_gives_what_processes_give(tmp_path):
    """The same weights, byte for byte, from two workers of either kind."""
    pytest.importorskip("ray")
    settings = Settings(
        market="brownian", set=("horizon=30",), steps=600, num_envs=4, n_steps=50, batch_size=200, workers=2,
        threads=1, eval_every=300, eval_episodes=8, final_episodes=0,
    )  # fmt: skip
    for name, ray in (("processes", None), ("ray", "local")):
        write_settings(tmp_path / name, settings, env_config(settings))
        launch(tmp_path / name, 2, ray)
    compared, found = compare(tmp_path / "processes", tmp_path / "ray")
    assert found == []
    assert compared >= 4
