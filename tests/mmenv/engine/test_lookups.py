"""What numba is told from memory is what it would find."""

from __future__ import annotations

import itertools
import operator

import numpy as np
import pytest
from numba import from_dtype, types
from numba.core.errors import TypingError
from numba.core.registry import cpu_target

from mmenv.engine.state import CORE

NUMBERS = (
    types.int32, types.uint32, types.int64, types.uint64, types.float32, types.float64, types.boolean,
    types.literal(3),
)  # fmt: skip
ARRAYS = (types.float32[::1], types.int64[:, :], types.NestedArray(types.float32, (3, 128)))
INDICES = (*NUMBERS, types.UniTuple(types.uint64, 2), types.Tuple((types.literal(1), types.int64)))
USES = [
    *((sign, pair) for sign in (operator.add, operator.mul, operator.truediv, operator.rshift, operator.lt)
      for pair in itertools.product(NUMBERS, NUMBERS)),
    *((operator.getitem, pair) for pair in itertools.product(ARRAYS, INDICES)),
    *((operator.setitem, use) for use in itertools.product(ARRAYS, INDICES, NUMBERS)),
    *((function, pair) for function in (min, max, np.add) for pair in itertools.product(NUMBERS, NUMBERS)),
]  # fmt: skip


def test_kept_types_are_those_that_numba_finds():
    context = cpu_target.typing_context
    context.refresh()
    look_up = types.BaseFunction.get_call_type
    found = {}
    for _ in range(2):  # as it is found, then from memory
        for function, arguments in USES:
            known = context.resolve_value_type(function)
            try:
                expected = look_up.__wrapped__(known, context, arguments, {})
            except TypingError:
                with pytest.raises(TypingError):
                    look_up(known, context, arguments, {})
                continue
            signature = look_up(known, context, arguments, {})
            assert signature == expected, (function, arguments)
            found.setdefault((function, arguments), []).append(signature)
    assert sum(first is second for first, second in found.values()) > len(found) / 2  # not looked up again


def test_a_record_is_written_out_as_before():
    record = from_dtype(CORE)
    assert repr(record) == types.Record.__repr__.__wrapped__(record)
    assert repr(record) is repr(record)
