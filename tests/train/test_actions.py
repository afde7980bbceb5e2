"""Actions beyond spread and skew in bundles and at desks: what works is the same, the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv import make_config
from mmenv.market.live import Live
from policies.bundle import REFERENCE_SEED, Bundle, load, save
from tests.helpers.bundles import random_bundle
from train.live import choose
from train.simulate import quoted_sides
from train.verify import Recorded, compare

ACTIONS = {
    "taker": {"quote": {"name": "taker", "taker_lots": 2}},
    "size": {"quote": {"name": "size"}, "risk": {"order_lots": 3}},
    "ladder": {"quote": {"name": "ladder"}, "risk": {"order_lots": 2}},
}


def bundle_of(name: str) -> Bundle:
    """A network of random weights with as many outputs as the action has numbers."""
    return random_bundle(make_config("brownian", horizon=60, **ACTIONS[name]), name=name)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_bundle_verifies(tmp_path, name):
    """Written and read again it does what was recorded; another one is told from it."""
    bundle = bundle_of(name)
    save(bundle, tmp_path / "policy.mmz")
    again = load(tmp_path / "policy.mmz")
    assert again.config == bundle.config
    found = compare(again.policy(), Recorded(again.reference), again.config, 1, 60, REFERENCE_SEED)
    assert (found.exact, found.quotes, found.decisions) == (True, 0.0, 60)
    assert np.ptp(again.reference, axis=0).min() > 0.01
    moved = Recorded(np.roll(again.reference, 9, axis=0))
    other = compare(again.policy(), moved, again.config, 1, 60, REFERENCE_SEED)
    assert not other.exact
    assert other.quotes > 0


@pytest.mark.parametrize("number", range(2, 6))
def test_every_order_of_a_ladder_is_compared(number):
    """Another step or another shape leaves the nearest price and the lots of a side as they were."""
    config = make_config("brownian", horizon=60, quote={"name": "ladder"}, risk={"order_lots": 9})
    bundle = random_bundle(config, -0.9)
    moved = bundle.reference.copy()
    moved[:, number] = -np.sign(moved[:, number])
    found = compare(Recorded(moved), Recorded(bundle.reference), config, 1, 60, REFERENCE_SEED)
    assert found.quotes > 0
    assert (found.ticks > 1) == (number < 4)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_desk_takes_what_venues_take(tmp_path, name):
    """Bundles of each may on paper and live."""
    save(bundle_of(name), tmp_path / "policy.mmz")
    market = Live(venue="binance-usdm", symbol="BTCUSDT")
    assert choose(str(tmp_path / "policy.mmz"), {}, market, None, None).config.quote.name == name


def test_sides_that_are_left_are_counted_as_such():
    """By a size of no lots, or because a market order would trade with them."""
    taker, size = (make_config("brownian", **ACTIONS[name]) for name in ("taker", "size"))
    lots = np.array([2, 0, -1])
    actions = taker.quote.to_action(np.ones(3), np.ones(3), lots)
    assert quoted_sides(taker, actions).tolist() == [[False, True, True], [True, True, False]]
    actions = size.quote.to_action(np.ones(3), np.ones(3), np.array([0, 1, 3]) / 3, np.array([2, 0, 1]) / 3)
    assert quoted_sides(size, actions).tolist() == [[False, True, True], [True, False, True]]
    actions[1, 2] = np.nan
    assert quoted_sides(size, actions).tolist() == [[False, False, True], [True, False, True]]
