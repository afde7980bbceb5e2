"""The sweep: what it finds depends on its file and seed alone, and pruning is a paired comparison."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv import ConfigError
from mmenv.run.job import Job, perform
from train.experiments.search import Search, Trial, clearly_below_median, evaluations
from train.experiments.space import read_space
from train.experiments.sweep import trial_rows, write_best
from train.experiments.training import Training
from train.options.experiments import Sweep
from train.settings import defaults, env_config, judge_config, read_settings, write_settings

FILE = """
[base]
market = "brownian"
set = ["horizon=50"]
steps = 1000
num_envs = 4
n_steps = 50
eval_every = 200
eval_episodes = 16
[search]
learning_rate = { log-uniform = [1e-4, 1e-2] }
n_epochs = { uniform = [1, 4] }
"reward.inventory_penalty" = { uniform = [0.0, 0.05] }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "it.toml"
    path.write_text(FILE)
    return path


class Pool:
    """Does a job when results are collected, the newest first where `newest`; stops after `last` jobs."""

    capacity = 100

    def __init__(self, newest=False, last=1000):
        self.jobs: list[Job] = []
        self.newest, self.left = newest, last

    def submit(self, job):
        self.jobs.append(job)

    def collect(self, seconds):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return [perform(self.jobs.pop(-1 if self.newest else 0), lambda _: None)] if self.jobs else []

    def progress(self):
        return {}


@pytest.fixture
def quick(monkeypatch):
    """Training that takes no time: values fall with the distance of the learning rate from 1e-3."""

    def pretend(folder, rivals=(), every=200):
        settings, _ = read_settings(folder)
        level = -np.abs(np.log10(settings.learning_rate) + 3) - 0.1 * settings.n_epochs
        episodes = np.random.default_rng(0).normal(size=16)
        values = np.stack([level * k + episodes for k in range(1, 5)])
        np.savez(folder / "evaluations.npz", timesteps=np.arange(200, 1000, 200), results=values)
        theirs = [evaluations(rival)[-1][1] for rival in rivals]
        return len(theirs) < 4 or not clearly_below_median(values[-1], theirs)

    monkeypatch.setattr(Trial, "__call__", lambda self, tell: pretend(self.folder, self.rivals))
    monkeypatch.setattr(Training, "__call__", lambda self, tell: pretend(self.folder))


def search(file, folder, *pools, **more):
    chosen = Sweep(file, trials=16, window=4, logs=folder, **more)
    space = read_space(file)
    for pool in pools:
        found = Search(chosen, space)
        try:
            found.run(pool)
        except KeyboardInterrupt:
            continue
    return trial_rows(found)


def test_a_sweep_is_the_same_in_any_order_and_after_any_stop(file, tmp_path, quick):
    """One after the other, the newest first, and killed twice: the same trials; another seed: others."""
    plain = search(file, tmp_path / "a", Pool())
    assert search(file, tmp_path / "b", Pool(newest=True)) == plain
    assert search(file, tmp_path / "c", Pool(last=3), Pool(newest=True, last=6), Pool()) == plain
    assert search(file, tmp_path / "d", Pool(), seed=1) != plain
    states = [row["state"] for row in plain]
    assert len(plain) == 16
    assert set(states) == {"complete", "pruned"}
    best = max(plain, key=lambda row: row["value"])
    assert best["state"] == "complete"


def test_pruning_is_paired():
    """Noise that all share hides no difference, and noise of one's own is no reason to stop."""
    rng = np.random.default_rng(0)
    shared = 10 * rng.normal(size=64)
    rivals = [shared + level for level in (-1.0, 0.0, 1.0)]
    assert clearly_below_median(shared - 0.1 + 0.01 * rng.normal(size=64), rivals)
    assert not clearly_below_median(shared + 0.1, rivals)
    assert not clearly_below_median(shared - 0.1 + 10 * rng.normal(size=64), rivals)


def test_a_hopeless_trial_stops(file, tmp_path):
    """Real training, beside rivals far above it: it ends at its first evaluation after the warm-up."""
    space = read_space(file)
    rivals = []
    for k in range(4):
        rivals.append(tmp_path / f"rival{k}")
        rivals[-1].mkdir()
        np.savez(
            rivals[-1] / "evaluations.npz", timesteps=np.arange(0, 1001, 200), results=np.full((6, 16), 1e6)
        )
    settings = space.settings({"learning_rate": 1e-3})
    for name, first, said in (("early", 300, False), ("late", 10_000, True)):
        folder = tmp_path / name
        write_settings(folder, settings, env_config(settings))
        assert Trial(folder, tuple(rivals), 200, first)(lambda _: None) is said
        assert Trial(folder, tuple(rivals), 200, first)(lambda _: None) is said  # a worker that died after it
    assert [at for at, _ in evaluations(tmp_path / "early")] == [0, 200, 400]
    assert evaluations(tmp_path / "late")[-1][0] == 1000


def test_trials_are_judged_by_the_base(file, tmp_path, monkeypatch):
    """Whatever reward a trial trains on; and what the sweep writes is what `neuralmm train` reads."""
    space = read_space(file)
    settings = space.settings({"learning_rate": 2e-3, "reward.inventory_penalty": 0.04})
    assert env_config(settings).reward.inventory_penalty == 0.04
    assert judge_config(settings) == env_config(space.base)

    write_best(tmp_path / "best.toml", settings, "best\nof two")
    assert "learning_rate = 0.002" in (tmp_path / "best.toml").read_text()
    read = defaults(["--config", str(tmp_path / "best.toml")])
    assert env_config(read) == env_config(settings)
    assert judge_config(read) == judge_config(settings)
    assert (read.learning_rate, read.n_steps, read.steps) == (2e-3, 50, 1000)
    assert defaults(["--market", "brownian"]).market == "brownian"


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "it.toml"
    for bad, said in (
        ("[search]", "empty"),
        ("[search]\nlearning_rat = { uniform = [0.0, 1.0] }", "learning_rat"),
        ("[search]\ngamma = [0.9, 0.99]", "gamma"),
        ("[search]\ngamma = { uniform = [0.99, 0.9] }", "gamma"),
        ("[search]\ngamma = { log-uniform = [0, 1] }", "above 0"),
        ("[bass]", "bass"),
        ("[base]\nn_step = 3\n[search]", "n_step"),
    ):
        path.write_text(bad)
        with pytest.raises(ConfigError, match=said):
            read_space(path)
