"""Recordings, and windows and splits of them that never see across a border."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv import ConfigError, make_config
from mmenv.desk.desk import Desk
from mmenv.observation import observation_names
from mmenv.recording.record import at_distance, record
from mmenv.recording.windows import FIELDS, Recording, open_recording, split
from mmenv.times import SECOND

GROUPS = ("order_flow", "trade_book", "microstructure", "inventory", "risk")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    config = make_config("book", horizon=80, features=GROUPS)
    return record(config, tmp_path_factory.mktemp("data") / "recording", sequences=70)


def test_recorded_features_are_those_of_the_environment(recording):
    config = recording.config
    desk = Desk(config, 3, autoreset=False)
    desk.seed(range(3))
    quote = at_distance(config, 0.0)
    seen, mids = [desk.reset()], [desk.get("mid")]
    for t in range(config.horizon):
        seen.append(desk.step(np.ascontiguousarray(quote(seen[-1], t))).observations)
        mids.append(desk.get("mid"))
    for i in range(3):
        begin, end = recording.first[i : i + 2]
        np.testing.assert_array_equal(recording.features[begin:end], np.stack(seen)[:, i])
        np.testing.assert_array_equal(recording.field("mid")[begin:end], np.stack(mids)[:, i])
    assert recording.names == observation_names(config)


def test_a_recording_does_not_depend_on_how_many_run_side_by_side(recording, tmp_path):
    few = record(recording.config, tmp_path / "few", sequences=5)
    np.testing.assert_array_equal(few.features, recording.features[: len(few)])
    with pytest.raises(ConfigError, match="exists"):
        record(recording.config, tmp_path / "few", sequences=5)


def test_windows_are_views_and_end_where_they_say(recording):
    windows = recording.windows(20)
    assert np.shares_memory(windows, recording.features)
    rows = np.array([19, 50, 200])
    ((chosen, batch),) = recording.batches(rows, 20, 8)
    for row, window in zip(chosen, batch, strict=True):
        np.testing.assert_array_equal(window, recording.features[row - 19 : row + 1])
    again = open_recording(recording.features.filename.parent)
    np.testing.assert_array_equal(again.fields, recording.fields)


@given(
    st.lists(st.integers(5, 60), min_size=1, max_size=6),
    st.integers(0, 12),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_no_window_and_no_label_crosses_a_border(lengths, embargo, horizon, window, side_by_side):
    config = make_config("brownian")
    first = np.concatenate([[0], np.cumsum(lengths)])
    starts = [0] * len(lengths) if side_by_side else first[:-1]
    time_ns = np.concatenate(
        [(start + np.arange(k)) * SECOND for start, k in zip(starts, lengths, strict=True)]
    )
    rows = int(first[-1])
    made = Recording(
        config,
        ("x",),
        np.zeros((rows, 1), np.float32),
        np.zeros((len(FIELDS), rows), np.int32),
        time_ns,
        first,
    )
    try:
        parts = split(made, embargo)
    except ConfigError:
        return
    touched = []
    sequence = np.searchsorted(first, np.arange(rows), side="right")
    for part in parts:
        chosen = part.rows(horizon, window)
        spans = [np.arange(r - window + 1, r + horizon + 1) for r in chosen]
        assert all(len(set(sequence[span])) == 1 for span in spans)
        touched.append(time_ns[np.concatenate(spans)] if len(chosen) else np.zeros(0))
    for before, after in itertools.pairwise(part for part in touched if len(part)):
        assert after.min() - before.max() > embargo * SECOND


@pytest.mark.parametrize("group", GROUPS)
def test_no_feature_changes_when_the_future_does(group):
    """Two markets that are the same up to a step, and then are not: observations are the same up to it."""
    config = make_config(
        "book", horizon=60, features=(group,), quote={"max_distance": 1.0, "withdraw": False}
    )
    desks = [Desk(config, 2, autoreset=False) for _ in range(2)]
    seen = []
    for number, desk in enumerate(desks):
        desk.seed([7, 8])
        observations = [desk.reset()]
        for t in range(40):
            if t == 25 and number == 1:
                desk.set("key0", desk.get("key0") + 1)  # other draws from here on
            observations.append(desk.step(np.zeros((2, 2), np.float32)).observations)
        seen.append(np.stack(observations))
    np.testing.assert_array_equal(seen[0][:26], seen[1][:26])
    assert (seen[0][26:] != seen[1][26:]).any()


def test_reset_forgets_all(recording):
    """A second episode on the same path observes what the first did: no state survives a reset."""
    config = recording.config
    desk = Desk(config, 1, autoreset=False)
    runs = []
    for _ in range(2):
        desk.seed([5])
        observations = [desk.reset()]
        for _ in range(30):
            observations.append(desk.step(np.zeros((1, 2), np.float32)).observations)
        runs.append(np.stack(observations))
    np.testing.assert_array_equal(*runs)
