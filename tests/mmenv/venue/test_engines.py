"""The engines of a replay: what each needs, and what they tell a desk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmenv import ConfigError
from mmenv.venue.engines import open_venue
from mmenv.venue.outcome import OUTCOME, begin_interval
from mmenv.venue.settings import ReplayConfig

BLOCKED = "import sys; sys.modules['hftbacktest'] = None\n"
"""What makes a process one in which the extra `replay` is not installed."""


def in_a_process(code: str) -> str:
    """What Python prints for this code, errors too."""
    quiet = {**os.environ, "NEURALMM_QUIET": "1"}  # where something is to be compiled
    found = subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, env=quiet)
    return found.stdout + found.stderr


@pytest.mark.parametrize(
    "modules",
    [
        "mmenv.venue.engines, mmenv.venue.matched, mmenv.venue.paper, mmenv.venue.view, mmenv.venue.working",
        "mmenv.live.session, mmenv.live.desk, mmenv.live.rerun, mmenv.live.compare, mmenv.live.screen",
        "mmenv.market.replay, mmenv.market.stretch, mmenv.recording.windows, mmenv.backtest, policies.tick",
        "mmenv.measure.record, mmenv.measure.calibrate, train.cli, train.live",
    ],
)
def test_nothing_but_its_own_engine_needs_hftbacktest(modules: str) -> None:
    assert in_a_process(f"import {modules}\nprint('imported')") == "imported\n"


def test_a_replay_by_our_matcher_needs_no_extra_and_the_other_names_it(store: Path) -> None:
    code = f"""
import gymnasium, mmenv
for engine in ("matcher", "hftbacktest"):
    market = {{"name": "replay", "store": {str(store)!r}, "split": "all", "engine": engine}}
    env = gymnasium.make("NeuralMM-v0", market=market, horizon=20)
    env.reset(seed=0)
    print(env.step(env.action_space.sample())[2])
"""
    told = in_a_process(code)
    assert told.startswith("False\n")
    assert "ImportError: engine = 'hftbacktest' is not possible" in told
    assert "pip install 'neuralmm[replay]'" in told


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Replay\.engine = 'nasdaq' .*hftbacktest, matcher"):
        open_venue("nasdaq", [], 1, ReplayConfig())


def test_an_outcome_is_twenty_integers_in_the_order_of_the_journals() -> None:
    """Journals hold these bytes: a field may be added at the end of a decision, but none may move."""
    assert OUTCOME.itemsize == 20 * 8
    assert {kind for kind, _ in OUTCOME.fields.values()} == {np.dtype("<i8")}
    assert OUTCOME.names[:5] == (
        "time_ns",
        *(f"best_{s}_{what}" for what in ("ticks", "lots") for s in ("bid", "ask")),
    )
    assert OUTCOME.names[12:16] == tuple(
        f"{s}_fill_{what}" for s in ("ask", "bid") for what in ("lots", "notional")
    )
    assert OUTCOME.names[16:] == ("ask_open_lots", "bid_open_lots", "position_lots", "data_end")
    outcomes = np.ones(3, OUTCOME)
    begin_interval(outcomes)
    kept = [name for name in OUTCOME.names if outcomes[name].any()]
    assert kept == [*OUTCOME.names[:5], *OUTCOME.names[16:]]
