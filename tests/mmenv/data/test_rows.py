"""Rows copied as so many bytes each are what numpy makes of their fields."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data.lines import line_ends
from mmenv.data.rows import RAW, ROW, inserted, joined, taken, without


@settings(deadline=None)
@given(st.integers(0, 40), st.lists(st.integers(0, 40), max_size=60))
def test_rows_are_copied_whole(count: int, places: list[int]) -> None:
    for dtype in (RAW, ROW):
        bits = np.random.default_rng(count).integers(0, 256, (2 * count, dtype.itemsize), np.uint8)
        rows = bits.view(dtype).ravel()[::2]  # not side by side
        which = np.array([place for place in places if place < count], np.int64)
        mask = np.isin(np.arange(count), which)
        others = rows[which]
        for found, expected in (
            (joined([rows[:0], rows, others]), np.concatenate([rows, others])),
            (taken(rows, which), rows[which]),
            (taken(rows, mask), rows[mask]),
            (without(rows, which), np.delete(rows, which)),
            (inserted(rows, np.sort(which), others), np.insert(rows, np.sort(which), others)),
        ):
            assert found.dtype == dtype
            assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("text", [b"", b"\n", b"a\n\nb", b"\r\n" * 300])
def test_ends_of_lines(text: bytes) -> None:
    assert line_ends(text) == text.count(b"\n")
