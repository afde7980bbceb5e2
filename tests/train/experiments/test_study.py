"""Studies: the files that come with the project, and what a difference between variants is worth."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import tyro

from mmenv.checks import ConfigError
from mmenv.config import make_config
from mmenv.features.base import Feature
from policies.book.ladder import Row
from policies.network.layers import Layer, Network
from policies.signals import TrainedSignal, save
from train.baselines import Scale
from train.experiments import pairs, study
from train.experiments.pairs import compared
from train.experiments.statistics import difference, interquartile_mean
from train.experiments.study import Run, draw, plan, prepare, tabulate
from train.ladder import PATHS
from train.options.experiments import Study
from train.signals import signals as command
from train.signals.tasks import TASKS, features_of, recording_config

OUTPUT = Feature("one", -10, 10, "an output")


def test_a_difference_covers_what_it_should():
    """Two variants whose seeds have the same distribution: the interval has 0 about as often as it says."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        one, other = generator.normal(5.0, 1.0, (2, 20))
        found = difference(one + 3.0, other)
        held += found.low <= 3.0 <= found.high
        assert found.low <= found.mean <= found.high
    assert 0.88 < held / 300 < 0.98


def test_the_table_compares_with_the_first_variant():
    scores = {"plain": [1.0, 2.0, 3.0, 4.0], "better": [11.0, 12.0, 13.0, 14.0]}
    rows = [
        {"variant": name, "seed": seed, "score": x, "value": x, "steps_per_second": 1.0, "seconds": 60.0}
        for name, values in scores.items()
        for seed, x in enumerate(values)
    ]
    cells = tabulate("t", pd.DataFrame(rows), "score").columns["minus the\nfirst"]
    assert cells[0] == ""
    assert cells[1].startswith("+10.0 [")
    assert interquartile_mean(np.array(scores["plain"])).mean == 2.5


def numbers(cell):
    """Mean, low and high of a cell."""
    return tuple(float(x) for x in re.findall(r"[-+]?[0-9.]+", cell))


def test_differences_are_paired_by_episode_and_worst_episodes_are_compared():
    """What is added to every episode is found although episodes differ by far more; what is taken off the
    worst ones shows there. Seeds that differ widen the interval, which one seed cannot know."""
    generator = np.random.default_rng(0)
    luck = generator.normal(70, 25, 1000)
    milder = np.where(luck < np.quantile(luck, 0.02), luck + 5, luck)
    seeds = np.array([-6.0, -2.0, 0.0, 2.0, 6.0])[:, None]
    table = compared("t", {"base": luck[None], "more": luck[None] + 0.5, "milder": milder[None]}).columns
    assert table["minus the\nfirst"][:2] == ["", "+0.50 [+0.50, +0.50]"]
    assert numbers(table["worst 1%"][0])[0] == pytest.approx(np.sort(luck)[:10].mean(), abs=0.01)
    mean, low, high = numbers(table["worst 1% minus\nthe first"][2])
    assert 4 < low <= mean <= high < 5.2
    several = compared("t", {"base": luck + 0 * seeds, "apart": luck + 1 + seeds}).columns
    mean, low, high = numbers(several["minus the\nfirst"][1])
    assert mean == pytest.approx(1)
    assert low < 0 < 2 < high


def test_variants_stand_among_what_is_known_of_the_market(monkeypatch):
    luck = np.random.default_rng(0).normal(0, 30, PATHS)
    worth = {"no-trade": 0, "imbalance-rule": 60, "book-programme": 70, "told": 80}
    rows = [Row(name, "", luck + x, luck + x, np.ones(PATHS)) for name, x in worth.items()]
    rows.append(Row("bound", "", luck + 100, luck + 100, None))
    monkeypatch.setattr(pairs, "computed", lambda config, paths, seed: rows)
    longer = np.append(luck + 64, np.full(100, 1e6))  # episodes that the ladder does not have do not count
    table = pairs.in_ladder("t", make_config("book"), {"ours": longer[None]}).columns
    assert table["policy"] == [*worth, "ours"]
    assert table["minus\nimbalance-rule"][1] == "+0.00 [+0.00, +0.00]"
    assert table["minus\nimbalance-rule"][-1] == "+4.00 [+4.00, +4.00]"
    assert table["minus\nbook-programme"][-1] == "-6.00 [-6.00, -6.00]"
    assert numbers(table["% of told"][-2]) == (100, 100, 100)
    assert numbers(table["% of the way from\nrule to bound"][-1]) == pytest.approx((10, 10, 10), abs=0.6)


@pytest.mark.parametrize("name", ["signals", "fair-value", "cross-asset", "needs"])
def test_a_study_of_signals_names_the_files_that_its_commands_make(name, tmp_path, monkeypatch):
    """And says what to do where one is missing."""
    monkeypatch.chdir(tmp_path)
    text = (Study.known / f"{name}.toml").read_text()
    named = set(re.findall(r"logs/signals/\S+?\.mms", text))
    commands = re.findall(r"neuralmm signals train (.+)", text.replace("\\\n#", ""))
    asked = [tyro.cli(command.Train, args=line.split()) for line in commands]
    assert named == {str(command.new_folder(options) / command.SUFFIX) for options in asked}
    with pytest.raises(FileNotFoundError, match="no such signal; `neuralmm signals train`"):
        prepare(plan(Study(name=name, seeds=1)))


def test_a_study_with_signals_goes_on_where_it_was(tmp_path):
    """Its folders hold the runs that it asks for; with another signal they are of another study."""
    config = recording_config(make_config("book"), TASKS["order-flow"])
    file, path = tmp_path / "one.toml", tmp_path / "signal.mms"

    def make(weight):
        layer = Layer(
            "dense", {"weight": np.full((1, 2), weight, np.float32), "bias": np.zeros(1, np.float32)}
        )
        inputs = features_of(config, ("return", "volume"))
        save(TrainedSignal("one", Network(2, (layer,)), ("order_flow",), inputs, (OUTPUT,), 1.0), path)

    file.write_text(f"[base]\nset = ['signals=[\"policies.signals:{path}\"]']\n")
    study = Study(name=str(file), seeds=1, logs=tmp_path / "logs")
    make(1.0)
    assert prepare(plan(study)) == prepare(plan(study))
    make(2.0)
    with pytest.raises(ConfigError, match="other"):
        prepare(plan(study))


def test_a_ladder_holds_those_of_its_orders_alone(tmp_path, monkeypatch):
    """Market orders and larger ones pass a bound that is not theirs."""
    held = []
    monkeypatch.setattr(study, "in_ladder", lambda title, config, earned: held.extend(earned))
    settings = {
        "quotes": {},
        "touch": {"quote": {"name": "touch"}},
        "takes": {"quote": {"name": "touch-taker"}},
        "two lots": {"risk": {"order_lots": 2}},
    }
    configs = {}
    for name, given in settings.items():
        run = Run(name, 0, tmp_path / name)
        run.folder.mkdir()
        np.save(run.folder / study.EARNED, np.arange(8.0))
        configs[run] = make_config("book", **given)
    compared, _ = study.paired("t", configs)
    assert held == ["quotes", "touch"]
    assert len(compared.columns["variant"]) == 4


@pytest.mark.parametrize("seeds", [1, 3])
def test_curves_lie_inside_the_frame_and_bands_need_seeds(tmp_path, seeds):
    """An untrained policy far below does not squash the picture; lines that nearly meet are named apart."""
    runs, rows = [], []
    for seed in range(seeds):
        folder = tmp_path / f"it_{seed}"
        folder.mkdir()
        steps = np.arange(6) * 100_000
        percents = np.array([-900.0, 20.0, 60.0, 80.0, 88.0, 91.0 + seed])
        np.savez(folder / "evaluations.npz", timesteps=steps, results=percents[:, None] * np.ones(4))
        lines = [f"{step},{step // 10_000}" for step in steps]
        (folder / "progress.csv").write_text("\n".join(["time/total_timesteps,time/time_elapsed", *lines]))
        runs.append(Run("plain", seed, folder))
        rows.append({"variant": "plain", "seed": seed, "score": percents[-1]})
    known = {"belief-optimal": 100.0, "exponential-average": 99.0, "memoryless": 0.0}
    figure = draw(dict.fromkeys(runs, Scale("% of memory gap", 0.0, 100.0)), pd.DataFrame(rows), known)
    curves, _, final = figure.axes
    bottom, top = curves.get_ylim()
    drawn = np.asarray(curves.lines[0].get_ydata(), float)[1:]
    assert bottom < 0 < drawn.min() <= drawn.max() < 100 < top < 120
    assert len(curves.collections) == (seeds > 1)
    figure.savefig(tmp_path / "it.png")
    boxes = [text.get_window_extent() for text in final.texts]
    assert len(boxes) == 3
    assert all(not a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    width = figure.bbox.width
    assert all(box.x1 <= width for box in boxes)
