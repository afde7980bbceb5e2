"""Evaluation on tapes: intervals follow the tape, however many episodes are drawn from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mmenv.config import make_config
from mmenv.measure.intervals import FEWEST_BLOCKS, block_length
from policies.make import make_policy
from tests.helpers.captures import market, write
from train.evaluate import on_tape, title_of, value_sheet
from train.simulate import Recorded, simulate

pytest.importorskip("hftbacktest")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmenv.data.importer import Import

    folder = tmp_path_factory.mktemp("store")
    path = write(folder / "capture.gz", market(seconds=400, seed=2).lines)
    Import("binance", (path,), folder / "store", progress=False).run()
    return folder / "store"


def outcomes(store: Path, episodes: int, horizon: int) -> list[Recorded]:
    config = on_tape(make_config("brownian", horizon=horizon), store, "*", step_seconds=0.1)
    quoting = make_policy("fixed-spread", config, half_spread=1.0)
    found = [simulate(policy, config, episodes) for policy in (quoting, make_policy("no-trade", config))]
    assert all(isinstance(one, Recorded) for one in found)
    return found


def test_more_episodes_of_the_same_minute_know_no_more(store):
    """Eight times as many draws would make an interval over episodes almost three times narrower."""
    widths = {}
    for episodes in (32, 256):
        quoting, nothing = outcomes(store, episodes, 40)
        assert quoting.decisions.sum() == quoting.steps.sum()
        assert quoting.rewards.sum() == pytest.approx(quoting.controlled.sum())
        value, less = quoting.value(), quoting.minus(nothing)
        assert value.mean == pytest.approx(quoting.controlled.mean())
        assert less.mean == pytest.approx((quoting.controlled - nothing.controlled).mean())
        blocks = len(quoting.cells) / block_length(quoting.rewards / quoting.decisions)
        assert blocks >= FEWEST_BLOCKS
        widths[episodes] = value.high - value.low
        assert less.high - less.low == pytest.approx(widths[episodes], rel=0.2)
    assert 0.6 < widths[256] / widths[32] < 1.6


def test_a_table_of_tapes_says_that_they_are_recorded(store: Path) -> None:
    config = make_config("brownian", horizon=20)
    assert title_of(config.market) == "brownian, simulated"
    assert title_of(on_tape(config, store, "*", step_seconds=0.1).market) == "replay, recorded, test split"


def test_a_tape_of_seconds_is_too_short(store):
    quoting = outcomes(store, 4, 20)[0]
    few = Recorded(**{**vars(quoting), "cells": quoting.cells[:20], "rewards": quoting.rewards[:20],
                      "decisions": quoting.decisions[:20]})  # fmt: skip
    value = few.value()
    assert np.isfinite(value.mean)
    assert math.isnan(value.low)
    assert "(too short)" in value_sheet("it", [few], None).columns["value\n[95% interval]"][0]
