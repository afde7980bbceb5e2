"""Decimals are exact or invalid."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmenv.data.decimals import INVALID, TOO_FINE, parse_decimals


@settings(deadline=None)
@given(
    st.lists(st.from_regex(r"-?[0-9]{0,12}(\.[0-9]{0,10})?[a-z]?", fullmatch=True), min_size=1, max_size=20)
)
def test_decimals_are_exact_or_invalid(texts: list[str]) -> None:
    data = np.frombuffer("".join(text + "\n" for text in texts).encode(), np.uint8)
    for text, value in zip(texts, parse_decimals(data, len(texts)).tolist(), strict=True):
        try:
            units = Decimal(text).scaleb(8)
            expected = TOO_FINE if units != int(units) else int(units) if abs(units) < 2**63 else INVALID
        except ArithmeticError:
            expected = INVALID
        # Near the edge of int64 the parser may give up early; it never returns a wrong number.
        assert value == expected or (value == INVALID and (expected == TOO_FINE or abs(expected) > 10**18))
