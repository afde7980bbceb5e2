"""Markets: where events come from. One file each; `register` makes it known to `gym.make`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from mmenv.config import ConfigError, Market, check_keys

MARKETS: dict[str, type[Market]] = {}

START_PRICE = 10_000
"""Where the mid of a market without a price level of its own starts, price units."""

M = TypeVar("M", bound=type[Market])


def register(cls: M) -> M:
    """Class decorator: make the market known under its `name`."""
    MARKETS[cls.name] = cls
    return cls


def make_market(market: str | Mapping[str, Any] | Market) -> Market:
    """A market from its name, from a dict with `name` and parameters, or as it is."""
    if isinstance(market, Market):
        return market
    parameters = {} if isinstance(market, str) else dict(market)
    name = market if isinstance(market, str) else parameters.pop("name", None)
    if name not in MARKETS:
        near = difflib.get_close_matches(str(name), MARKETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"market = {name!r} is not known.{hint} Allowed: {', '.join(MARKETS)}.")
    cls = MARKETS[name]
    check_keys(f"market {name!r}", parameters, [f.name for f in dataclasses.fields(cls)])
    return cls(**parameters)


from mmenv.market import (  # noqa: E402, F401  (they register themselves)
    book,
    brownian,
    bursts,
    correlated,
    hidden_regime,
    live,
    replay,
)
