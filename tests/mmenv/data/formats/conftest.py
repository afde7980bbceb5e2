"""The market by order that the vendors' files record."""

from __future__ import annotations

import pytest

from mmenv.data.formats import binance, bitstamp, coinbase_full, feed
from tests.helpers.orders import Market


@pytest.fixture(scope="session")
def market() -> Market:
    return Market(seed=1)


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Compiled code reads from the first line on; else Python would, while it is compiled."""
    for module in (feed, binance, bitstamp, coinbase_full):
        module.compile_scan()
