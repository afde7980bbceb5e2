"""Scores, their entries, the leaderboard, and the trained policies that come with the package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from mmenv import ConfigError
from mmenv.tasks import find_task, tasks
from policies.bundle import load, save
from policies.tune import tune
from train.options.zoo import Leaderboard, ZooExport, ZooPlay
from train.score import candidates, leaderboard, read_entry, score, score_all
from train.zoo import FOLDER, main_export, main_play, trained

TASK = find_task("brownian")
SHORT = dataclasses.replace(TASK, episodes=64)


def test_scales_are_what_is_computed_here():
    """The frozen ends of the exact scales, against the dynamic programmes."""
    from train.baselines import scale

    for name in ("brownian-v0", "hidden-regime-v0"):
        task = tasks()[name]
        found = scale(task.config())
        assert found is not None
        assert (task.scale.zero, task.scale.one) == pytest.approx((found.zero, found.one), abs=1e-5)


def test_a_score_is_of_the_tasks_episodes():
    """Freed of luck the optimum is 100% exactly, no trading 0%, and another policy near its exact value."""
    best, nothing = (score(candidates(name, TASK)[0], TASK, 256) for name in ("optimum", "no-trade"))
    assert best.percent == pytest.approx(
        (100, 100, 100), abs=2e-3
    )  # paths differ in the last bits of machines
    assert nothing.percent == (0, 0, 0)
    rule = candidates("glft", TASK)[0]
    exact = tune("glft", TASK.config()).value
    found = score(rule, TASK, 512)
    assert found.value.low - 0.05 < exact < found.value.high + 0.05
    assert found.value.high - found.value.low < 0.5  # of 2 without
    for task in tasks().values():
        assert task.reference.shape == (task.episodes,)
        error = task.reference.std() / task.episodes**0.5
        assert task.reference.mean() == pytest.approx(task.scale.anchor, abs=4 * error)


def test_an_entry_that_was_edited_is_refused(tmp_path):
    score_all(candidates("no-trade", SHORT), SHORT, tmp_path, Console(quiet=True))
    (path,) = tmp_path.glob("*.json")
    # The task was shortened for this test: its true digest is another.
    with pytest.raises(ConfigError, match="of another task of the name 'brownian-v0'"):
        read_entry(path)
    content = json.loads(path.read_text())
    content["percent"] = [101.0, 100.0, 102.0]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="was edited"):
        leaderboard(Leaderboard((tmp_path,), tmp_path / "board.md"))
    path.write_text("[]")
    with pytest.raises(ConfigError, match="no entry of a score"):
        read_entry(path)


def test_the_leaderboard_is_made_of_its_entries(tmp_path):
    """The page in the documentation is what the command makes of the entries beside it, best first."""
    docs = Path(__file__).parents[2] / "docs"
    leaderboard(Leaderboard((docs / "leaderboard",), tmp_path / "board.md"))
    assert (tmp_path / "board.md").read_text() == (docs / "leaderboard.md").read_text()


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.mmz")), ids=lambda file: file.stem)
def test_trained_policies_score_what_their_entries_say(file):
    """On fewer episodes than the entry, of 76,800 steps together: it lies in an interval twice as wide."""
    task = find_task(file.stem)
    entry = read_entry(Path(__file__).parents[2] / "docs" / "leaderboard" / f"{file.stem}_{file.stem}.json")
    found = score(trained(task), task, 76_800 // task.config().horizon)
    assert abs(found.value.mean - entry["value"][0]) < 2 * (found.value.high - found.value.low)
    assert file.stat().st_size < 150_000 * (1 + len(load(file).config.networks))


def test_the_rule_of_a_task_is_that_of_the_policy_it_belongs_to(monkeypatch):
    """Its parameters go to no other: `imbalance-rule` of a task whose rule is `behind` searches its own."""
    made = {}
    monkeypatch.setattr("train.score.make_baselines", lambda *given, **named: [])

    def make(name, config, **parameters):
        made[name] = parameters
        return SimpleNamespace(name=name)

    monkeypatch.setattr("train.score.make_policy", make)
    for name, other in (("nasdaq-msft", "imbalance-rule"), ("large-tick", "touch")):
        made.clear()
        task = find_task(name)
        found = [one.name for one in candidates("baselines", task)]
        assert sorted(found) == sorted(set(found)) == sorted(made)
        assert (made[task.scale.bottom], made[other]) == (task.rule, {})


def test_a_bundle_of_another_task_is_refused(tmp_path):
    bundle = load(FOLDER / "brownian-v0.mmz")
    save(
        dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, horizon=20)),
        tmp_path / "other.mmz",
    )
    with pytest.raises(ConfigError, match="made for another task than 'brownian-v0'"):
        candidates(str(tmp_path / "other.mmz"), TASK)


def test_distances_from_the_mid_are_not_drawn_beside_those_from_the_touch():
    from train.pictures import Quotes

    task = find_task("nasdaq-msft")
    drawn = []
    for free in ({"quote": {"name": "touch"}}, {}):
        drawn.append(Quotes(task.config(**free)))
        width = len(drawn[-1].config.quote.entries)
        drawn[-1](np.zeros((2, 1)), np.zeros((2, width), np.float32), np.array([0, 1]))
    touch, mid = drawn
    assert len(touch.figure(mid, "behind").axes[0].lines) == 2
    assert len(touch.figure(touch, "behind").axes[0].lines) == 4
    assert "behind" not in touch.figure(mid, "behind").axes[0].get_title()


def test_play_and_export(tmp_path, capsys):
    main_play(ZooPlay("brownian", episodes=16, out=tmp_path))
    assert "% of optimum" in capsys.readouterr().out
    assert {p.name for p in tmp_path.glob("*.png")} == {"brownian-v0_episode.png", "brownian-v0_quotes.png"}
    main_export(ZooExport("brownian", tmp_path / "policy.mmz"))
    assert load(tmp_path / "policy.mmz").config == TASK.config()
    with pytest.raises(ConfigError, match=r"must end in .mmz"):
        main_export(ZooExport("brownian", tmp_path / "policy.zip"))
    assert np.isfinite(load(tmp_path / "policy.mmz").evaluation["value"]).all()
