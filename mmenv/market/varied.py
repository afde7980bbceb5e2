"""Distributions from which episodes draw parameters of their market."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from mmenv.checks import ConfigError, require


@dataclass(frozen=True)
class Distribution:
    """What an episode draws one parameter from; see `mmenv.desk.family`."""

    name: str
    """A parameter that the market can vary, or maker_fee_bp."""
    kind: str
    """"uniform" or "log-uniform" on [low, high], or "choice" of the values with equal chance."""
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "randomise", self.name, self.kind, f"one of {', '.join(KINDS)}")
        shown = {self.kind: list(self.values)}
        good = all(isinstance(v, int | float) and math.isfinite(v) for v in self.values)
        if self.kind == "choice":
            good = good and len(self.values) >= 1
            require(good, "randomise", self.name, shown, "a choice of at least one finite number")
            return
        good = good and len(self.values) == 2 and self.values[0] < self.values[1]
        require(good, "randomise", self.name, shown, "two finite numbers, the lower one first")
        if self.kind == "log-uniform":
            require(self.values[0] > 0, "randomise", self.name, shown, "above 0 where it is log-uniform")

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def draw(self, uniform: float) -> float:
        """The value at `uniform` in [0, 1)."""
        if self.kind == "choice":
            return self.values[int(uniform * len(self.values))]
        if self.kind == "uniform":
            return self.low + uniform * (self.high - self.low)
        return self.low * (self.high / self.low) ** uniform

    def mark(self, value: float) -> float:
        """Where `value` lies: -1 at the low end, 1 at the high one, outside beyond."""
        if self.low == self.high:
            return 0.0
        low, high = self.low, self.high
        if self.kind == "log-uniform":
            low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return 2 * (value - low) / (high - low) - 1

    def shrunk(self, base: float, share: float) -> Distribution:
        """A share of the range, around `base`, on the same scale; a choice stays what it is."""
        if self.kind == "choice" or share == 1:
            return self
        if self.kind == "uniform":
            ends = [base + share * (end - base) for end in self.values]
        else:
            base = base if base > 0 else self.low
            ends = [base * (end / base) ** share for end in self.values]
        return Distribution(self.name, self.kind, (ends[0], ends[1]))


KINDS = ("uniform", "log-uniform", "choice")


def distributions(given: Any) -> tuple[Distribution, ...]:
    """Distributions from {name: (low, high) or {kind: values}}, or as they are."""
    if isinstance(given, tuple) and all(isinstance(d, Distribution) for d in given):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"randomise = {given!r} is not possible: give a dict such as {{'volatility': (0.5, 2.0)}}."
        )
    found = []
    for name, spec in given.items():
        given_kind = isinstance(spec, Mapping) and len(spec) == 1
        kind, values = next(iter(spec.items())) if given_kind else ("uniform", spec)
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        allowed = "(low, high), {'uniform': [low, high]}, {'log-uniform': [low, high]} or {'choice': [...]}"
        require(listed, "randomise", str(name), spec, allowed)
        found.append(Distribution(str(name), str(kind), tuple(values)))
    return tuple(found)
