"""An unsound market gets a sentence where it is registered."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, make_dataclass

import numpy as np
import pytest

from mmenv.checks import require_number
from mmenv.config import make_config
from mmenv.engine.stage import stage
from mmenv.engine.state import EMPTY, per_lane
from mmenv.market.base import MARKETS, Market, register
from mmenv.market.brownian import PARAMS, Brownian
from mmenv.registry import PluginError

STATE = np.dtype([per_lane("memory", "f4")], align=True)
OTHER = np.dtype([per_lane("more", "f4")], align=True)


@stage(STATE, PARAMS)
def remember(s, w, p, x):
    pass


@stage(OTHER, PARAMS)
def forget(s, w, p, x):
    pass


@stage(EMPTY, np.dtype([("other", "f4")]))
def misread(s, w, p, x):
    pass


def subclass(**body):
    """A frozen dataclass of Brownian with this body."""
    return make_dataclass("Odd", [], bases=(Brownian,), namespace={"name": "odd", **body}, frozen=True)


class Bare(Brownian):
    name = "odd"


@dataclass(frozen=True, kw_only=True)
class Unchecked(Brownian):
    name = "odd"
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Nothing(Market):
    name = "odd"


def infinite(self):
    return np.full(1, np.inf, [("start", "f4")])


def wide(self):
    return np.zeros(1, [("start", "f8")])


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Bare, "must be a frozen dataclass of Market"),
        (subclass(name=""), "must be a name"),
        (subclass(varied=("wind",)), "varied = 'wind' is not possible"),
        (Unchecked, r"takes strength = nan: check its parameters"),
        (Nothing, "has no stages: give on_step and on_reset"),
        (subclass(on_step=()), "has no stages"),
        (subclass(on_step=(remember, forget)), "stage 'forget': its state is not that of the others"),
        (subclass(on_step=(misread,)), "stage 'misread': its parameters are not the record that compiled"),
        (subclass(on_step=(remember,), compiled=infinite), "its parameters are not"),
    ],
)
def test_an_unsound_market_gets_a_sentence(cls, words):
    with pytest.raises(PluginError, match=words):
        register(cls)
    assert "odd" not in MARKETS


@pytest.mark.parametrize(("compiled", "words"), [(infinite, "start = .*must be finite"), (wide, "4 bytes")])
def test_parameters_are_finite_words(compiled, words):
    @stage(EMPTY, compiled(None).dtype)
    def go(s, w, p, x):
        pass

    with pytest.raises(PluginError, match=words):
        register(subclass(on_step=(go,), on_reset=(go,), compiled=compiled))


def test_a_sound_one_is_registered():
    def check(self):
        Brownian.__post_init__(self)
        require_number(self, "arrival_rate", 0.0, 1.0)

    cls = subclass(name="sound", __post_init__=check)
    assert register(cls) is cls
    del MARKETS._found["sound"]


def test_a_module_named_as_its_market_is_no_preset(monkeypatch):
    """module:Class means the same once importing the module has registered a market of its name."""
    cls = subclass(name="odd")
    monkeypatch.setitem(sys.modules, "odd", types.SimpleNamespace(Odd=cls))
    monkeypatch.setitem(MARKETS._found, "odd", cls)
    assert make_config("odd:Odd").market == cls()
    assert make_config("book:large-tick").market.preset == "large-tick"
