"""The frontier of mean and bad episodes: places, lines of families, and where it is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmenv.config import make_config
from policies.make import make_policy
from train.callbacks import log_final
from train.evaluate import FRONTIER, report
from train.frontier import LEVEL, Place, level_of, members, picture
from train.options.evaluate import Evaluate
from train.simulate import simulate

AVERSE = make_config("brownian", horizon=20, reward={"risk_aversion": 0.1})


def test_a_place_is_the_mean_and_the_mean_of_the_worst_with_intervals() -> None:
    outcome = simulate(make_policy("fixed-spread:half_spread=1", AVERSE), AVERSE, 400)
    place = Place.of(outcome, 0.05)
    assert place.mean.mean == pytest.approx(outcome.returns.mean())
    assert place.worst.mean == pytest.approx(np.sort(outcome.returns)[:20].mean())
    assert place.worst.low < place.worst.mean < place.worst.high < place.mean.low


def test_who_has_no_appetite_has_no_frontier() -> None:
    assert level_of(AVERSE) == LEVEL
    assert level_of(make_config("brownian", reward={"shortfall_weight": 1, "shortfall_level": 0.2})) == 0.2
    plain = make_config("brownian")
    assert level_of(plain) is None
    assert picture(plain, []) is None


def test_members_of_a_family_say_their_parameter_and_play_other_paths_as_themselves() -> None:
    found = [*members("glft", AVERSE, episodes=32)]
    assert [one.name for one in found][:2] == ["glft, gamma 0.01", "glft, gamma 0.03"]
    assert found[0].again(32).returns == pytest.approx(found[0].outcome.returns)
    assert found[0].again(16, seed=5).name == found[0].name


@pytest.mark.parametrize("averse", [True, False])
def test_an_evaluation_keeps_and_shows_the_picture_where_there_is_an_appetite(
    tmp_path: Path, averse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AVERSE if averse else make_config("brownian", horizon=20)
    judged = (config, lambda config: make_policy("fixed-spread:half_spread=1", config))
    monkeypatch.setattr("train.evaluate.judged_policy", lambda options: judged)
    found = report(Evaluate(model=Path("any"), episodes=64, out=tmp_path), Console(quiet=True))
    assert (tmp_path / FRONTIER).exists() == averse
    assert (FRONTIER in (tmp_path / "evaluation.md").read_text()) == averse
    np.savez(tmp_path / "evaluations.npz", timesteps=[100], results=np.zeros((1, 4)))
    assert found.judged is not None
    log_final(tmp_path, "table", found.judged.value(), None, found.frontier)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == (["final/frontier"] if averse else [])
