"""Labels against plain definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mmenv.recording import labels

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
