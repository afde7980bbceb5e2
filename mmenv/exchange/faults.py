"""What a venue and the way to it can do wrong, on a seeded schedule.

Every draw comes from the schedule's own generator in the order in which the exchange asks, so the same
schedule against the same sequence of calls does the same harm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from mmenv.checks import require, require_number

STREAM: Final = ("drop", "delay", "reorder", "duplicate", "half", "silence")
CONNECTION: Final = ("break",)
REQUEST: Final = ("reject", "lose", "lose-answer", "slow")
CLOCK: Final = ("clock-jump",)
KINDS: Final = STREAM + CONNECTION + REQUEST + CLOCK
CHANNELS: Final = ("market", "user", "requests", "all")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something goes wrong from `start_ns` on, counted from the exchange's start, for `duration_ns`.

    | kind | what it does |
    |---|---|
    | drop, half | a message is lost, or only its first half is sent |
    | delay | it and all after it come `amount_ns` later |
    | reorder | it alone does |
    | duplicate | it is sent twice |
    | silence | nothing is sent, and the connection stays open |
    | break | all connections are cut; no new one is accepted until the end |
    | reject | a request is refused with an error that says nothing happened |
    | lose | it never arrives and is never answered |
    | lose-answer | it is carried out and never answered |
    | slow | it arrives `amount_ns` late, and its answer as much later again |
    | clock-jump | the exchange's clock is `amount_ns` ahead (behind, if negative) |
    """

    kind: str
    start_ns: int
    duration_ns: int
    probability: float = 1.0
    """Chance that a message or request suffers it."""
    amount_ns: int = 0
    channel: str = "all"
    """"market" or "user" streams, "requests", or "all"."""

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("channel", CHANNELS)):
            value = getattr(self, name)
            require(value in allowed, "Fault", name, value, f"one of {', '.join(allowed)}")
        require_number(self, "probability", 0.0, 1.0)
        forwards = self.amount_ns >= 0 or self.kind == "clock-jump"
        require(forwards, "Fault", "amount_ns", self.amount_ns, "at least 0: only a clock jumps backwards")


@dataclass(frozen=True)
class RequestFate:
    """What becomes of a request."""

    reject: bool = False
    arrives: bool = True
    answered: bool = True
    delay_ns: int = 0


class Faults:
    """A schedule of faults, to which more can be added while it runs; `seed` is that of its draws."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self.faults = list(faults)
        self._rng = np.random.default_rng(seed)

    @classmethod
    def random(cls, seed: int, horizon_ns: int, count: int = 6) -> Self:
        """`count` faults of random kind, time and severity within `horizon_ns`; each ends before it does."""
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            kind = str(rng.choice(KINDS))
            start = int(rng.integers(0, max(horizon_ns * 3 // 4, 1)))
            duration = int(min(rng.exponential(horizon_ns / 8) + 1, horizon_ns * 7 // 8 - start))
            amount = int(rng.exponential(5e8))
            if kind == "clock-jump":
                amount = int(rng.choice((-1, 1))) * int(rng.exponential(3e9))
            found.append(
                Fault(
                    kind=kind,
                    start_ns=start,
                    duration_ns=max(duration, 1),
                    probability=float(rng.choice((0.02, 0.2, 0.7, 1.0))),
                    amount_ns=amount,
                    channel=str(rng.choice(CHANNELS)) if kind in STREAM else "all",
                )
            )
        return cls(found, seed)

    def add(self, fault: Fault) -> None:
        """From now on, do this too."""
        self.faults.append(fault)

    def boundaries(self) -> list[int]:
        """Times at which connections are to be cut."""
        return [fault.start_ns for fault in self.faults if fault.kind == "break"]

    def broken(self, at_ns: int) -> bool:
        """Whether there is no connection to be had."""
        return any(True for _ in self._active(at_ns, CONNECTION, "all"))

    def clock_ns(self, at_ns: int) -> int:
        """How far ahead the exchange's clock is."""
        return sum(fault.amount_ns for fault in self._active(at_ns, CLOCK, "all"))

    def message(self, at_ns: int, channel: str, text: str) -> list[tuple[int, bool, str]]:
        """The copies sent of a message: the delay of each, whether those after it wait too, and its text."""
        copies = [(0, False, text)]
        for fault in self._active(at_ns, STREAM, channel):
            if self._rng.random() >= fault.probability:
                continue
            if fault.kind in ("drop", "silence"):
                return []
            if fault.kind == "half":
                copies = [(delay, waits, part[: len(part) // 2]) for delay, waits, part in copies]
            elif fault.kind == "duplicate":
                copies += copies
            else:
                late = fault.kind == "delay"
                copies = [(delay + fault.amount_ns, waits or late, part) for delay, waits, part in copies]
        return copies

    def request(self, at_ns: int) -> RequestFate:
        """What becomes of a request that is made now."""
        fate = {"reject": False, "arrives": True, "answered": True}
        delay = 0
        for fault in self._active(at_ns, REQUEST, "requests"):
            if self._rng.random() >= fault.probability:
                continue
            if fault.kind == "slow":
                delay += fault.amount_ns
            elif fault.kind == "reject":
                fate["reject"] = True
            elif fault.kind == "lose":
                fate["arrives"] = fate["answered"] = False
            else:
                fate["answered"] = False
        return RequestFate(delay_ns=delay, **fate)

    def _active(self, at_ns: int, kinds: tuple[str, ...], channel: str) -> Iterable[Fault]:
        return (
            fault
            for fault in self.faults
            if fault.start_ns <= at_ns < fault.start_ns + fault.duration_ns
            and fault.kind in kinds
            and ("all" in (fault.channel, channel) or fault.channel == channel)
        )
