"""What a reward term is, and how the terms of a configuration are chosen."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numba import prange

from mmenv.checks import ConfigError, check_keys
from mmenv.engine.stage import Stage, stage
from mmenv.engine.state import per_lane
from mmenv.registry import PluginError, Registry

VALUE = np.dtype([per_lane("value", "f8")], align=True)
"""State of a term without a memory: what it adds to the reward of this step, price units x lots.

A term with a memory has a record of its own that begins with the field `value`."""


@dataclass(frozen=True, kw_only=True)
class RewardTerm(ABC):
    """Base of every reward term: its weights as a frozen dataclass. Subclass in one file and register it.

    `reward.terms` of a configuration names the terms that are added to profit and inventory penalty; the
    ledger publishes what each adds under its name.
    """

    name: ClassVar[str] = ""
    stage: ClassVar[Stage]
    """Runs once a step, after the fills are booked, and sets `value` of its own record for every lane."""

    @abstractmethod
    def compiled(self, price_scale: int, step_seconds: float) -> np.ndarray:
        """The weights as one record of the stage's `params` type.

        A price unit has `price_scale` half-ticks; decisions are `step_seconds` apart.
        """


T = TypeVar("T", bound=type[RewardTerm])


def _check(name: str, cls: Any) -> None:
    """Raise `PluginError` unless `cls` is a reward term that a step can be built with."""
    if not (isinstance(cls, type) and issubclass(cls, RewardTerm) and is_dataclass(cls)):
        raise PluginError(
            f"reward term {name!r} = {cls!r} is not possible: it must be a frozen dataclass of RewardTerm."
        )
    made = getattr(cls, "stage", None)
    if (
        not isinstance(made, Stage)
        or (made.own.names or ("",))[0] != "value"
        or made.own["value"] != VALUE["value"]
    ):
        raise PluginError(
            f"reward term {name!r} has no stage whose own record begins with `value`: "
            "decorate its compiled body with stage(VALUE)."
        )


REGISTRY: Registry[type[RewardTerm]] = Registry("reward", "mmenv.rewards", _check)


def register(cls: T) -> T:
    """Class decorator: make the reward term known under its `name`."""
    REGISTRY.register(cls.name, cls)
    return cls


def make_terms(given: Iterable[RewardTerm | Mapping[str, Any] | str]) -> tuple[RewardTerm, ...]:
    """Reward terms from themselves, from names, or from dicts of `name` and weights."""
    return tuple(_make(one) for one in ([given] if isinstance(given, str | Mapping) else given))


def _make(given: RewardTerm | Mapping[str, Any] | str) -> RewardTerm:
    if isinstance(given, RewardTerm):
        return given
    settings = {"name": given} if isinstance(given, str) else dict(given)
    cls = REGISTRY.find(settings.pop("name", None), "reward.terms")
    check_keys(f"reward term {cls.name!r}", settings, [f.name for f in dataclasses.fields(cls)])
    return cls(**settings)


@stage(VALUE)
def begin(s, w, p, x):
    """The first term is the reward."""
    for i in prange(s.count):
        s.reward[i] = w.value[i]


@stage(VALUE)
def add(s, w, p, x):
    """Every further term is added."""
    for i in prange(s.count):
        s.reward[i] += w.value[i]


def check_terms(terms: tuple[RewardTerm, ...], taken: Iterable[str]) -> None:
    """Raise `ConfigError` where two rows of the ledger would have the same name."""
    names = [*taken, *(row_name(term) for term in terms)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"reward.terms names {name!r} twice: the ledger has one row for each name.")


def row_name(term: RewardTerm) -> str:
    """The name of the term's row in the ledger."""
    return term.name.replace("-", "_")
