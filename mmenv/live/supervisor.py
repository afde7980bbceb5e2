"""The state that a desk is in: what the guard says, obeyed by the desk's kernel and written down."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.engine.state import ACTIVE, HALTED, STATES
from mmenv.live import journal
from mmenv.live.guard import Facts, Guard
from mmenv.live.snapshot import Kept, give_back, keep


class Supervisor:
    """Keeps the state of one desk, as the guard says.

    `risk_state` and `risk_floor`, int32 [lanes] of which the first is ours, are the kernel's own state and
    the one that it may not fall below. `note` writes a frame; `halted` is called when the state turns HALTED.
    """

    def __init__(
        self,
        guard: Guard,
        risk_state: NDArray[np.int32],
        risk_floor: NDArray[np.int32],
        note: Callable[[int, dict[str, Any]], None],
        halted: Callable[[], None],
    ) -> None:
        self.guard, self.state = guard, ACTIVE
        self._risk_state, self._risk_floor = risk_state, risk_floor
        self._note, self._halted = note, halted
        self._causes: list[list[Any]] = []

    def rebind(self, risk_state: NDArray[np.int32], risk_floor: NDArray[np.int32]) -> None:
        """Keep the state of a kernel that takes the place of the last."""
        self._risk_state, self._risk_floor = risk_state, risk_floor
        self._risk_floor[0] = self.state

    def check(self, facts: Facts) -> None:
        """Ask the guard, at the beginning of a decision."""
        self._set(self.guard.check(facts))

    def latch(self, rule: str, reason: str) -> None:
        """Halt within a decision, until the operator takes it back."""
        self.guard.latch(rule, reason)
        self.settle()

    def settle(self) -> None:
        """Obey what was latched within a decision."""
        self.guard.findings = tuple(self.guard.latched.values())
        self._set(self.guard.state)

    def heed_kernel(self) -> None:
        """Halt where the kernel has."""
        if self.state < HALTED and self._risk_state[0] == HALTED:
            self.latch("loss-limit", "the episode's loss limit is reached")

    def kept(self) -> Kept:
        """All that it knows beside the guard and the kernel; see `restore`."""
        return keep(self, "state", "_causes")

    def restore(self, state: Kept) -> None:
        """Go on from what `kept` gave."""
        give_back(self, state)

    def clear(self, said_ns: int, rules: Collection[str] | None = None) -> set[str]:
        """The operator takes back what is latched; see `Guard.clear`."""
        gone = self.guard.clear(said_ns, rules)
        if "loss-limit" in gone:
            self._risk_state[0] = ACTIVE
        return gone

    def _set(self, state: int) -> None:
        causes = [[finding.rule, finding.state] for finding in self.guard.findings]
        if state != self.state or causes != self._causes:
            reasons = [f"{finding.rule}: {finding.reason}" for finding in self.guard.findings]
            change = {"from": STATES[self.state], "to": STATES[state], "reasons": reasons}
            self._note(journal.STATE, change)
        if self.state == HALTED and state < HALTED:
            # The kernel holds a halt until reset; this one was ours.
            self._risk_state[0] = ACTIVE
        if state == HALTED and self.state < HALTED:
            self._halted()
        self.state, self._causes = state, causes
        self._risk_floor[0] = state
