"""Training data: labels against plain definitions, windows and splits that never see across a border."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mmenv import ConfigError, make_config
from mmenv.data import labels
from mmenv.data.windows import FIELDS, Recording, at_distance, open_recording, record, split
from mmenv.desk import Desk
from mmenv.features import observation_names

GROUPS = ("order_flow", "trade_book", "microstructure", "inventory", "risk")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    config = make_config("book", horizon=80, features=GROUPS)
    return record(config, tmp_path_factory.mktemp("data") / "recording", sequences=70)


paths = st.lists(
    st.lists(st.integers(-6, 6), min_size=1, max_size=12), min_size=1, max_size=3
)  # the moves of a few sequences


def flat(sequences):
    mids = [np.cumsum([100, *moves]) for moves in sequences]
    first = np.concatenate([[0], np.cumsum([len(m) for m in mids])])
    return np.concatenate(mids).astype(np.int32), first.astype(np.int64)


def by_definition(mid, first, rows_needed, value):
    """`value(mids of the sequence, row in it)` wherever so many rows follow."""
    result = []
    for begin, end in itertools.pairwise(first):
        own = mid[begin:end].astype(float)
        result += [value(own, r) if r + rows_needed < len(own) else np.nan for r in range(len(own))]
    return np.array(result)


@given(paths, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_moves_and_volatility_are_their_definitions(sequences, horizon):
    mid, first = flat(sequences)
    change = by_definition(mid, first, horizon, lambda m, r: m[r + horizon] - m[r])
    np.testing.assert_array_equal(labels.price_change(mid, first, horizon), change)
    root = by_definition(
        mid, first, horizon, lambda m, r: np.sqrt(np.mean(np.diff(m[r : r + horizon + 1]) ** 2))
    )
    np.testing.assert_allclose(labels.realised_volatility(mid, first, horizon), root, rtol=1e-12)


@given(paths, st.integers(1, 4), st.sampled_from([1, -1]), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_markout_is_what_a_filled_lot_loses(sequences, horizon, side, random):
    mid, first = flat(sequences)
    fills = np.array([random.choice([0, 0, 1, 2]) for _ in mid], np.int32)
    distance = random.choice([0, 2, 5])
    cost = labels.markout_cost(mid, fills, fills * distance, first, horizon, side)
    row = iter(range(len(mid)))

    def lost(m, r):
        price = m[r] + side * distance
        return side * (m[r + horizon] - price)

    expected = by_definition(mid, first, horizon, lost)
    filled = np.append(fills[1:] > 0, False)
    expected = np.array([value if filled[r] else np.nan for r, value in zip(row, expected, strict=True)])
    np.testing.assert_array_equal(cost, expected)


def test_half_spread_maximises_the_profit_of_its_window():
    generator = np.random.default_rng(3)
    mid = 1000 + np.cumsum(generator.integers(-3, 4, 200)).astype(np.int32)
    ask, bid = (generator.random((2, 200)) < 0.2).astype(np.int32)
    first, decay, horizon, window = np.array([0, 200]), 0.2, 4, 25
    found = labels.optimal_half_spread(
        mid, ask, bid, first, horizon=horizon, window=window, fill_decay=decay, low=-1e9, high=1e9
    )
    for r in (0, 57, 120):
        moves = [
            side * (mid[j - 1 + horizon] - mid[j - 1])
            for j in range(r + 1, r + window + 1)
            for fills, side in ((ask, 1), (bid, -1))
            if fills[j]
        ]

        def loss(d, moves=moves):
            return -sum(np.exp(-decay * d) * (d - move) for move in moves)

        best = minimize_scalar(loss, bounds=(-50, 50), method="bounded", options={"xatol": 1e-7}).x
        assert found[r] == pytest.approx(best, abs=1e-4)
    assert np.isnan(found[200 - (window + horizon - 1) :]).all()


@given(
    st.lists(st.integers(-5, 5), min_size=4, max_size=6),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([-1.0, 0.0, 0.5]),
)
@settings(max_examples=80, deadline=None)
def test_position_signal_is_the_best_of_all_plans(moves, cost, penalty, start):
    mid, first = flat([moves])
    horizon, levels = 4, 1

    def worth(plan):
        before = (start, *plan[:-1])
        return sum(
            q * moves[t] - penalty * q * q - cost * abs(q - b)
            for t, (q, b) in enumerate(zip(plan, before, strict=True))
        )

    plans = list(itertools.product((-1.0, 0.0, 1.0), repeat=horizon))
    best = max(map(worth, plans))
    found = labels.position_signal(
        mid,
        first,
        horizon=horizon,
        levels=levels,
        cost=cost,
        penalty=penalty,
        start=np.full(len(mid), start),
    )
    assert found[0] in {plan[0] for plan in plans if worth(plan) == pytest.approx(best, abs=1e-9)}


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
    second = 1_000_000_000
    starts = [0] * len(lengths) if side_by_side else first[:-1]
    time_ns = np.concatenate(
        [(start + np.arange(k)) * second for start, k in zip(starts, lengths, strict=True)]
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
        assert after.min() - before.max() > embargo * second


@pytest.mark.parametrize("group", GROUPS)
def test_no_feature_changes_when_the_future_does(group):
    """Two markets that are the same up to a step, and then are not: observations are the same up to it."""
    config = make_config("book", horizon=60, features=(group,))
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
