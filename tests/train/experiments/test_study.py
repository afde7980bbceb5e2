"""Studies: the files that come with the project, and what a difference between variants is worth."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from train.baselines import Scale
from train.experiments.study import Run, difference, draw, interquartile_mean, plan, prepare, tabulate
from train.options.experiments import Study
from train.signals import signals as command


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


def test_the_study_of_signals_names_the_files_that_its_commands_make(tmp_path, monkeypatch):
    """And says what to do where one is missing."""
    monkeypatch.chdir(tmp_path)
    named = set(re.findall(r"logs/signals/\S+?\.mms", (Study.known / "signals.toml").read_text()))
    made = set()
    for market in ("hidden-regime", "book"):
        for name in ("order-flow", "adverse-selection", "multi-task"):
            folder = command.new_folder(command.Train(name=name, data=market))
            made.add(str(folder / command.SUFFIX))
    assert named == made
    with pytest.raises(FileNotFoundError, match="no such signal; `neuralmm signals train`"):
        prepare(plan(Study(name="signals", seeds=1)))


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
    figure = draw(runs, pd.DataFrame(rows), Scale("% of memory gap", 0.0, 100.0), known)
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
