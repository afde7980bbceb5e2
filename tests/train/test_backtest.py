"""The command: data and policies by every name they go by."""

from __future__ import annotations

import dataclasses

import pytest

from mmenv import ConfigError, make_config
from mmenv.market.book import Book
from mmenv.market.bursts import Bursts
from train.backtest import base_market, default_folder, entrants
from train.options.backtest import Backtest
from train.sources import make_source


@pytest.mark.parametrize(
    ("data", "market"),
    [
        ("book:binance-usdm-eth", Book(preset="binance-usdm-eth")),
        ("mmenv.market.bursts:Bursts", Bursts()),
        ('{"name": "bursts", "step_seconds": 2.0}', Bursts(step_seconds=2.0)),
    ],
)
def test_data_by_every_name(data, market):
    options = Backtest(arguments=("no-trade", data))
    [entrant], _ = entrants(options)
    assert entrant.config.market == market
    assert default_folder(options, [entrant]).name.startswith(f"backtest-{market.name}-")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("glt", "brownian"), r"Did you mean 'glft'\?.*Or give the folder or .zip of a model"),
        (("glft:gamma=much", "brownian"), "gamma=much"),
        (("glft", "brownan"), r"Did you mean 'brownian'\?.*a store of recorded tapes"),
        (("glft",), "at least one policy, and then the data"),
    ],
)
def test_what_is_not_known_is_a_sentence(arguments, said):
    with pytest.raises(ConfigError, match=said):
        entrants(Backtest(arguments=arguments))


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model"):
        make_source(str(tmp_path), "it", make_config("brownian"))


def test_models_decide_on_tapes_as_often_as_they_learned_to(tmp_path):
    slow, fast = (make_config({"name": "brownian", "step_seconds": step}) for step in (1.0, 0.1))
    data = str(tmp_path)
    asked = Backtest(arguments=("a", "b", data))
    assert base_market(asked, data, [slow, slow]).step_seconds == 1.0
    assert base_market(dataclasses.replace(asked, step=0.5), data, [slow, fast]).step_seconds == 0.5
    with pytest.raises(ConfigError, match=r"decide every 0\.1 and 1 s: give --step"):
        base_market(asked, data, [slow, fast])
