"""A tick size that changes is found where it does, and makes another tape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.checks import ConfigError
from mmenv.data.importer import Import
from mmenv.data.segments import LEAST_BLOCKS, segments
from mmenv.data.tape import tapes
from mmenv.market.replay import Replay, measure
from tests.helpers.imports import books, rows_of, run
from tests.helpers.orders import write_lines


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(LEAST_BLOCKS, 200), st.sampled_from([1, 5, 10, 50])), min_size=1, max_size=3
    ),
)
def test_changes_are_found_where_they_are(stretches: list[tuple[int, int]]) -> None:
    merged: list[list[int]] = []
    for count, step in stretches:
        if merged and merged[-1][1] == step:
            merged[-1][0] += count
        else:
            merged.append([count, step])
    steps = np.concatenate([np.full(count, step) for count, step in merged])
    blocks = np.stack([1_000 * np.arange(len(steps)), steps], axis=1)
    ends = np.cumsum([0, *(count for count, _ in merged)])
    expected = [(1_000 * int(first), step) for first, (_, step) in zip(ends, merged, strict=False)]
    found = segments(blocks)
    # A coarse stretch between two finer ones, or one of a few blocks beside hundreds, may look like strays.
    if len(merged) < 3 and min(count for count, _ in merged) > 0.02 * len(steps):
        assert found == expected
    assert found[0][0] == 0


def test_round_prices_for_a_while_are_no_change() -> None:
    """Blocks of either kind by turns, as of a quiet market."""
    steps = np.random.default_rng(1).choice([1, 5], 400, p=[0.7, 0.3])
    steps[:30] = 5
    blocks = np.stack([1_000 * np.arange(len(steps)), steps], axis=1)
    assert segments(blocks) == [(0, 1)]


def test_each_tick_size_has_its_tape(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lines = ["local_ns,kind,side,price,size,id"]
    ns = 1_700_000_000 * 10**9
    lines += [f"{ns},snapshot,{side},{price},1,0" for side, price in (("bid", "100.0"), ("ask", "110.0"))]
    for number in range(60_000):
        step = 0.5 if number < 30_000 else 0.1
        side = "bid" if rng.random() < 0.5 else "ask"
        away = step * int(rng.integers(0, 40))
        price = f"{(104 - away if side == 'bid' else 106 + away):.1f}"
        ns += 10**7
        lines.append(f"{ns},depth,{side},{price},{rng.integers(0, 9)},{number + 1}")
        if number % 100 == 0:
            lines.append(f"{ns},trade,buy,106.0,1,{number}")
    tape_files = [write_lines(tmp_path / "x.csv", lines)]
    [(found, report)] = Import(
        "plain", tuple(tape_files), tmp_path / "store", venue="v", symbol="s", progress=False
    ).run()
    assert [tape.info.tick_size for tape in found] == ["0.5", "0.1"]
    assert [tape.info.day for tape in found] == ["2023-11-14", "2023-11-14.2"]
    assert any("tick size 0.5 until" in note and "then 0.1" in note for note in report.notes)
    whole, _ = run("plain", tape_files, tmp_path / "whole", venue="v", symbol="s", tick_size="0.1")
    last = books(rows_of(whole))[-1][1]
    assert books(rows_of(found[1]))[-1][1] == last
    opening = books(rows_of(found[1]))[0][1]
    before = {(side, 5 * tick): size for (side, tick), size in books(rows_of(found[0]))[-1][1].items()}
    assert opening == before
    assert report.counts["off-grid"] == 0
    assert len(tapes(tmp_path / "store")) == 2
    with pytest.raises(ConfigError, match=r"one tick size; these have 0\.1, 0\.5"):
        measure(Replay(store=str(tmp_path / "store")))
