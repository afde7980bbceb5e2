"""Refusals in one form: the field, its value, and what it must be."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be: the message names the field, its value and what is allowed."""


class UnknownSettingError(ConfigError, TypeError):
    """An environment was given a keyword that it does not have.

    A `TypeError` too, as of any function called with it: callers that try a keyword look for that.
    """


def require(condition: bool, owner: str, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` naming `owner.name`, its `value` and what is `allowed`, unless `condition`."""
    if not condition:
        raise ConfigError(f"{owner}.{name} = {value!r} is not possible: it must be {allowed}.")


def require_number(owner: object, name: str, low: float, high: float, *, integer: bool = False) -> None:
    """Require a finite number in [low, high] (an int where `integer`) in field `name` of `owner`."""
    value = getattr(owner, name)
    kind = "an integer" if integer else "a finite number"
    right_type = isinstance(value, int) if integer else isinstance(value, (int, float))
    good = right_type and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    require(good, type(owner).__name__, name, value, f"{kind} from {low:g} to {high:g}")


def build(cls: type[T], given: T | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> T:
    """An instance of dataclass `cls` from an instance, or a mapping laid over `defaults`."""
    if isinstance(given, cls):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{cls.__name__} = {given!r} is not possible: give a {cls.__name__} or a dict.")
    check_keys(cls.__name__, given or {}, [f.name for f in dataclasses.fields(cls)])  # type: ignore[arg-type]
    return cls(**{**defaults, **python_numbers(given or {})})


def python_numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with NumPy's numbers as Python's, which a file of JSON can hold."""

    def python(value: Any) -> Any:
        if isinstance(value, (int, float)) or not isinstance(value, numbers.Real):
            return value
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    return {name: python(value) for name, value in given.items()}


def check_keys(owner: str, given: Mapping[str, Any], allowed: list[str]) -> None:
    """Raise `ConfigError` for a key of `given` that is not allowed, suggesting the nearest one that is."""
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{owner} has no setting {key!r}.{hint} Allowed: {', '.join(allowed)}.")


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two configurations (as `to_dict` gives them) differ, as 'name: a, not b'."""
    found: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r}, not {b!r}")
    return found
