"""Commands cut short: with NEURALMM_SHORT in the environment every size in `LARGEST` is cut to what it says.

So each command of the documentation can be run as it is printed, in a moment; its figures mean nothing then.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "NEURALMM_SHORT"

LARGEST: dict[str, float] = {
    "steps": 9_600,
    "final_episodes": 0,
    "eval_episodes": 16,
    "episodes": 16,
    "value_episodes": 16,
    "tape_episodes": 2,
    "seeds": 1,
    "trials": 2,
    "finalists": 1,
    "repeats": 2,
    "resamples": 5,
    "seconds": 60.0,
    "environments": 4,
    "days": 0.002,
    "paths": 64,
    "bound_paths": 2,
    "jobs": 1,
    "belief_resolution": 8,
    "average_nodes": 16,
    "sequences": 30,
    "epochs": 1,
    "warm_up": 1.0,
}
"""By the name of an option. Where it has no value the command would choose one: then it gets this."""

ENDED = 2.0
"""Seconds of what would go on without an end."""

OFF = ("baselines", "sensitivity")
"""Options that are switched off: most of the time goes there."""


def shorten(options: T) -> T:
    """The options of a command, cut short where the environment asks for it."""
    if not os.environ.get(VARIABLE):
        return options
    found: Any = options
    cut: dict[str, Any] = {}
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if field.name in OFF:
            cut[field.name] = False
        elif field.name in LARGEST and not isinstance(value, str):
            most = LARGEST[field.name]
            endless = isinstance(value, float) and math.isinf(value)
            cut[field.name] = ENDED if endless else most if value is None else min(value, type(value)(most))
    if cut:
        print(f"{VARIABLE} is set: sizes are cut, figures mean nothing.", file=sys.stderr)
    return dataclasses.replace(found, **cut)
