"""How a command line names a market: registered, as a preset, at module:name, as JSON or from a file."""

from __future__ import annotations

import json

import pytest

from mmenv import ConfigError, make_config
from mmenv.measure.naming import is_recorded, named_market


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("brownian", "brownian"),
        ("book:binance-usdm-eth", "book"),
        ("mmenv.market.bursts:Bursts", "bursts"),
        ('{"name": "hidden-regime", "step_seconds": 2.0}', "hidden-regime"),
    ],
)
def test_every_form_makes_a_market(text, name):
    assert not is_recorded(text)
    assert make_config(named_market(text)).market.name == name


def test_a_calibration_is_a_market_and_a_folder_a_store(tmp_path):
    preset = {"name": "brownian", "arrival_rate": 0.25}
    (tmp_path / "it.json").write_text(json.dumps({"presets": {"brownian": preset}}))
    text = f"{tmp_path / 'it.json'}:brownian"
    assert make_config(named_market(text)).market.arrival_rate == 0.25
    assert not is_recorded(str(tmp_path / "it.json"))
    assert is_recorded(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bok", r"market = 'bok' is not known. Did you mean 'book'\?.* Or give a tape\."),
        ("no_such_module:Market", "cannot be imported"),
        ("mmenv.market.bursts:Burst", "has no 'Burst'"),
        ('{"name": ', "must be JSON"),
    ],
)
def test_what_names_no_market_is_a_sentence(text, said):
    with pytest.raises(ConfigError, match=said):
        named_market(text, "a tape")
