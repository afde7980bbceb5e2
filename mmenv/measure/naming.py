"""What a command line names: a simulated market, or the path of recorded tapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmenv.checks import ConfigError
from mmenv.market.base import MARKETS, with_preset
from mmenv.registry import PluginError


def is_recorded(text: str) -> bool:
    """Whether a word of the command line is the path of a store or tape, and no market's name."""
    return text not in MARKETS and ".json" not in text and Path(text).exists()


def named_market(text: str, otherwise: str = "") -> str | dict[str, Any]:
    """Read a word of the command line (`MARKET_HELP`) as a market for `mmenv.config.make_config`.

    Raises `ConfigError` where it names none, with the nearest name there is; `otherwise` says what else
    could have been given in its place.
    """
    if text.startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
            return found
        except ValueError as error:
            raise ConfigError(f"market = {text} is not possible: it must be JSON ({error}).") from None
    if ".json" not in text:
        try:
            MARKETS.find(with_preset(text)[0])
        except PluginError as error:
            raise ConfigError(f"{error}{otherwise and f' Or give {otherwise}.'}") from None
    return text
