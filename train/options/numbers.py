"""The least that a number on the command line may be, by the name of its option, whatever the command."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmenv.checks import ConfigError

AT_LEAST: dict[str, float] = {
    **dict.fromkeys(("episodes", "tape_episodes", "seeds", "trials", "finalists", "window", "jobs"), 1),
    **dict.fromkeys(("threads", "environments", "repeats", "paths", "sequences", "epochs", "steps"), 1),
    **dict.fromkeys(("position_limit", "order_lots", "tries", "session"), 1),
    **dict.fromkeys(("value_episodes", "bound_paths", "resamples", "seed", "latency", "latency_ms"), 0),
    **dict.fromkeys(("warm_up", "countdown", "price_unit", "lot_unit", "warm", "family"), 0),
}
ABOVE: Mapping[str, float] = dict.fromkeys(
    ("seconds", "days", "step", "step_seconds", "rotate_mb", "rotate_minutes", "minutes", "patience"), 0
) | dict.fromkeys(("max_loss", "account_loss", "loss_limit", "capital", "learning_rate"), 0)
MAY_BE_0 = (("Export", "episodes"),)
"""Types of options, and the fields of theirs whose 0 means "none"."""


def check_numbers(options: Any) -> None:
    """Raise `ConfigError` for a number that is too small for its option, or is none."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            least, above = AT_LEAST.get(field.name), ABOVE.get(field.name)
            if (type(options).__name__, field.name) in MAY_BE_0:
                least = 0
            option = f"--{field.name.replace('_', '-')}"
            if math.isnan(number):
                raise ConfigError(f"{option} = {number} is not possible: it must be a number.")
            if least is not None and number < least:
                raise ConfigError(f"{option} = {number:g} is not possible: it must be at least {least:g}.")
            if above is not None and number <= above:
                raise ConfigError(f"{option} = {number:g} is not possible: it must be above {above:g}.")
