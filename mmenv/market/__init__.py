"""Markets: where events come from. One file each; `register` makes it known to `gym.make`."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
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
    """A market from its name (or `FILE.json:NAME` of a calibration), a dict of it and parameters, or
    itself."""
    if isinstance(market, Market):
        return market
    parameters = {"name": market} if isinstance(market, str) else dict(market)
    if ".json" in str(parameters.get("name")):
        parameters = {**_calibrated(parameters.pop("name")), **parameters}
    name = parameters.pop("name", None)
    if name not in MARKETS:
        near = difflib.get_close_matches(str(name), MARKETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"market = {name!r} is not known.{hint} Allowed: {', '.join(MARKETS)}.")
    cls = MARKETS[name]
    check_keys(f"market {name!r}", parameters, [f.name for f in dataclasses.fields(cls)])
    return cls(**parameters)


def _calibrated(path: str) -> dict[str, Any]:
    """The preset that `neuralmm calibrate` wrote to a file, named as FILE.json:MARKET."""
    file, _, name = path.rpartition(":") if not path.endswith(".json") else (path, "", "brownian")
    try:
        found = json.loads(Path(file).read_text())["presets"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"market = {path!r} is not readable ({error}); `neuralmm calibrate` writes it."
        ) from None
    if name not in found:
        raise ConfigError(f"market = {path!r}: {file} has no preset {name!r}. Allowed: {', '.join(found)}.")
    parameters: dict[str, Any] = found[name]
    return {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}


from mmenv.market import (  # noqa: E402, F401  (they register themselves)
    book,
    brownian,
    bursts,
    correlated,
    hidden_regime,
    live,
    replay,
)
