"""Populations: policies are selected by members that nothing was trained on, and reported by others still."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mmenv import ConfigError, make_config
from mmenv.run.job import Done
from policies.make import make_policy
from policies.network.trained import TrainedPolicy
from train.baselines import scale
from train.callbacks import SEED as TRAINING_SEED
from train.evaluate import load
from train.experiments import population
from train.experiments.population import SELECTION_SEED, judge, read_panels, report
from train.experiments.study import plan
from train.options.experiments import Population
from train.reproduce import compare, find
from train.simulate import EVALUATION_SEED, simulate

FILE = """
[base]
market = "brownian"
set = ["horizon=30"]
steps = 400
num_envs = 4
n_steps = 50
batch_size = 200
eval_every = 200
eval_episodes = 16
checkpoint_every = 1
[variants.nominal]
[variants.family]
randomise = { volatility = [0.5, 2.0] }
[members]
selection = [{ volatility = 0.6 }, { fill_decay = 0.7 }]
final = [{ volatility = 0.7, fill_decay = 1.3 }]
"""


@pytest.fixture
def made(tmp_path):
    """A population of two variants and two seeds."""
    path = tmp_path / "it.toml"
    path.write_text(FILE)
    return Population(str(path), seeds=2, episodes=8, jobs=1, logs=tmp_path / "logs")


class Here:
    """A pool that does its jobs in this process; it is stopped in the midst of the job after `jobs`."""

    def __init__(self, jobs=1000):
        self.waiting, self.left = [], jobs

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, job):
        self.waiting.append(job)

    def collect(self, seconds):
        job, *self.waiting = self.waiting
        self.left -= 1
        return [Done(job.name, job.work(self.tell))]

    def tell(self, done):
        if self.left < 0 and done >= 250:
            raise KeyboardInterrupt

    def progress(self):
        return {}


def whole(made, monkeypatch, pool):
    """Train, judge and report on a pool."""
    monkeypatch.setattr(population, "workers", lambda *_: pool)
    result, origin = judge(made, Console())
    report(made, result, origin, Console())
    return result


def test_stopped_and_resumed_it_is_the_same(made, monkeypatch, tmp_path):
    """Trained, selected and reported to the same bytes; values are those on the members' own markets."""
    result = whole(made, monkeypatch, Here())
    again = dataclasses.replace(made, logs=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        whole(again, monkeypatch, Here(2))
    assert not (again.folder / "best").exists()
    whole(again, monkeypatch, Here())
    compared, found = compare(made.folder, again.folder)
    assert found == []
    assert compared > 20
    assert find(made.folder / "table.md")[1] == made.folder
    assert len(pd.read_csv(made.folder / "members.csv")) == 4 * 3

    model, config = load(made.folder / "best")
    kept, config_of_kept = load(result.kept.folder)
    assert config == config_of_kept
    assert all(
        (a == b).all() for a, b in zip(model.policy.parameters(), kept.policy.parameters(), strict=True)
    )
    assert "seed" in json.loads((made.folder / "best" / "config.json").read_text())["provenance"]
    market = make_config({"name": "brownian", "volatility": 0.7, "fill_decay": 1.3}, horizon=30)
    alone = simulate(TrainedPolicy(model.policy), market, 8)
    assert (result.final.values[result.kept][0] == alone.controlled).all()
    best = simulate(make_policy("optimum", market), market, 8)
    percent = 100 + 100 * (alone.controlled - best.controlled) / scale(market).one
    np.testing.assert_allclose(result.final.scores[result.kept][0], percent, rtol=1e-6)


@pytest.mark.parametrize("criterion", ["worst", "mean"])
def test_final_members_select_nothing(made, monkeypatch, criterion):
    """Whoever is best on them; and nobody plays them before all have played those that select."""
    monkeypatch.setattr(population.Training, "__call__", lambda self, tell: None)
    path = made.file
    path.write_text(path.read_text().replace("[members]", f'[members]\ncriterion = "{criterion}"'))
    # Worst and mean of the two selection members, by variant and seed; the last one is the best of the final.
    levels = {"nominal_0": (1, 9), "family_0": (3, 4), "nominal_1": (0, 5), "family_1": (2, 2)}
    played = []

    def pretend(folder, panel):
        played.append((panel.role, folder.name))
        level = levels[folder.name] if panel.role == "selection" else (list(levels).index(folder.name) * 100,)
        return np.full((len(panel.members), 8), 1.0) * np.array(level)[:, None]

    monkeypatch.setattr(population, "values", pretend)
    monkeypatch.setattr(population.Measure, "of", lambda config, panel: population.Measure("value", None))
    monkeypatch.setattr(population, "workers", lambda *_: Here())
    result, _ = judge(made, Console())
    assert result.kept.folder.name == {"worst": "family_0", "mean": "nominal_0"}[criterion]
    assert result.final.overall(result.kept, criterion) < 300
    roles = [role for role, _ in played]
    assert roles == sorted(roles, key=["selection", "final"].index)
    assert {name for role, name in played if role == "final"} == set(levels)


def test_paths_are_others(made):
    """Of training's own evaluations, of selection and of the report."""
    _, selection, final = read_panels(made, plan(made))
    assert (selection.seed, final.seed) == (SELECTION_SEED, EVALUATION_SEED)
    seeds = sorted((SELECTION_SEED, EVALUATION_SEED, TRAINING_SEED))
    assert min(np.diff(seeds)) > 1_000_000
    assert not set(selection.names()) & set(final.names())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("volatility = 0.6 }", "volatilty = 0.6 }", "'volatilty', which 'brownian' cannot vary"),
        ("volatility = 0.6 }", "volatility = -1 }", "volatility = -1 is not possible"),
        ("volatility = 0.6 }", "volatility = 1 }", "'nominal' is trained on"),
        ("[0.5, 2.0] }", "[2.0, 0.5] }", "the lower one first"),
        ("{ volatility = [0.5, 2.0] }", "{ volatility = {choice = [0.6]} }", "'family' is trained on"),
        ("{ volatility = [0.5, 2.0] }", "{ fill_decay = [0.0, 2.0] }", "a member that cannot be"),
        ("{ volatility = [0.5, 2.0] }", "{ volatilty = [0.5, 2.0] }", "Did you mean 'volatility'"),
        ("fill_decay = 0.7 }", "fill_decay = 1.3, volatility = 0.7 }", "is there twice"),
        ("[{ volatility = 0.7, fill_decay = 1.3 }]", "[]", "name one member at least"),
        ("final =", "finals =", "Did you mean 'final'"),
        ("[members]", '[members]\ncriterion = "best"', "worst or mean"),
        ("[members]", "[member]", "Did you mean 'members'"),
        (
            "[variants.family]",
            '[variants.family]\nset = ["reward.inventory_penalty=1"]',
            "cannot be compared",
        ),
        ("steps = 400", "step = 400", "step"),
    ],
)
def test_wrong_files_are_refused(made, old, new, said):
    """In a sentence, before anything is written."""
    text = made.file.read_text()
    assert text.count(old) == 1
    made.file.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        judge(made, Console())
    assert not made.logs.exists()


def test_the_examples_can_be():
    """Every population in train/experiments/populations."""
    for path in Population.known.glob("*.toml"):
        example = Population(path.stem)
        read_panels(example, plan(example))
    with pytest.raises(ConfigError, match="Known: brownian"):
        plan(Population("brown"))
