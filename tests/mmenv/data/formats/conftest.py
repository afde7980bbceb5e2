"""The market by order that the vendors' files record."""

from __future__ import annotations

import pytest

from tests.helpers.orders import Market


@pytest.fixture(scope="session")
def market() -> Market:
    return Market(seed=1)
