"""An unsound feature group gets a sentence where it is registered."""

from __future__ import annotations

import numpy as np
import pytest
from numba import prange

from mmenv.engine.stage import stage
from mmenv.engine.state import per_lane
from mmenv.features.base import GROUPS, Feature, Group, register, rows
from mmenv.registry import PluginError

ONE = (Feature("one", 0, 1, "nothing"),)
TWO = (*ONE, Feature("two", 0, 1, "nothing"))
STATE = np.dtype([per_lane("memory", "f4")], align=True)


def show(s, w, p, x):
    for i in prange(s.count):
        x.one[i] = np.float32(0)


@stage(np.dtype([per_lane("other", "f4")], align=True))
def update(s, w, p, x):
    pass


def group(features=ONE, name="odd", out=ONE, **stages):
    return Group(name=name, features=features, observe=stage(STATE, out=rows(out))(show), **stages)


def bounds(low, high):
    return group((Feature("one", low, high, "nothing"),))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (object(), "must be a Group"),
        (Group(name="odd", features=ONE, observe=show), "must be a Group with stages"),  # not decorated
        (group(name=""), "must be a name"),
        (group(update=update), "different states"),
        (group(()), "name each one once"),
        (group((*ONE, *ONE)), "name each one once"),
        (group((Feature("one", 0, 1, ""),)), "give name and meaning"),
        (bounds(1, 0), "has bounds 1, 0"),
        (bounds(0, float("inf")), "must be finite"),
        (bounds(float("nan"), 1), "must be finite"),
        (group(TWO), "observes other rows than its features"),
        (group(TWO, out=TWO), r"never sets 'two': set x.two\[i\]"),
    ],
)
def test_an_unsound_group_gets_a_sentence(made, words):
    with pytest.raises(PluginError, match=words):
        GROUPS.register("odd", made) if not isinstance(made, Group) else register(made)
    assert "odd" not in GROUPS


def test_entries_of_a_market_are_checked_when_made():
    made = group(lambda market, randomise: (Feature("one", 2, 1, "nothing"),))
    with pytest.raises(PluginError, match="has bounds 2, 1"):
        made.entries(None)
