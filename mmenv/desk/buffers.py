"""The memory of a step: the arrays it gives, used again once nobody holds them."""

from __future__ import annotations

import functools
import math
import struct
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmenv.engine.memory import LINE, address, aligned_zeros


@dataclass(frozen=True)
class Step:
    """What one step of n environments gives. Nobody overwrites the arrays as long as you hold one of them, or
    a view: `Desk.step` writes to memory that is no longer in use."""

    observations: np.ndarray
    """float32 (n, F)."""
    rewards: np.ndarray
    """float64 (n,), price units x lots."""
    terminated: np.ndarray
    truncated: np.ndarray
    ledger: np.ndarray
    """float64 (rows, n), price units x lots, of this step; `wealth` since reset."""
    ledger_rows: dict[str, np.ndarray]
    """Its rows by the names of `Desk.ledger_names`."""
    final_observations: np.ndarray
    """float32 (n, F): where an episode ended and the desk resets itself, its last observation. Kept by the
    desk: the next step that ends an episode overwrites it."""


BUFFERS = 4
"""How many of the last steps' memory is looked at for reuse."""


def renewed(buffers: deque[Buffer], make: Callable[[], Buffer]) -> Buffer:
    """Memory that nobody uses, looking first at what was used longest ago; a new one where there is none."""
    for _ in range(len(buffers)):
        buffer = buffers.popleft()
        buffers.append(buffer)
        if buffer.unused():
            return buffer
    buffer = make()
    buffers.append(buffer)
    return buffer


class Buffer:
    """The arrays of a step in one piece of memory, used again once nobody holds any of them.

    Fresh memory would cost more than the step itself, because the system has to clear it page by page.
    """

    def __init__(self, n: int, width: int, final_observations: np.ndarray, names: tuple[str, ...]) -> None:
        f4, f8, flag = (np.dtype(kind) for kind in (np.float32, np.float64, np.bool_))
        shapes = ((n, width), (n,), (n,), (n,), (len(names), n))
        kinds = (f4, f8, flag, flag, f8)
        sizes = [
            -(-math.prod(shape) * kind.itemsize // LINE) * LINE
            for shape, kind in zip(shapes, kinds, strict=True)
        ]
        starts = np.cumsum([0, *sizes])
        memory = aligned_zeros(int(starts[-1]), np.uint8)
        arrays: list[np.ndarray] = [
            np.ndarray(shape, kind, memory, int(start))
            for shape, kind, start in zip(shapes, kinds, starts[:-1], strict=True)
        ]
        rows = dict(zip(names, arrays[-1], strict=True))
        observations, rewards, terminated, truncated, ledger = arrays
        self.step = Step(observations, rewards, terminated, truncated, ledger, rows, final_observations)
        self._addresses = np.array([address(array) for array in arrays])
        self.address = address(self._addresses)
        self.outcome = memory[starts[1] :]  # all but the observations, as bytes
        # A view of a view holds the array that owns the memory, not what it was made from.
        self._held = (memory.base, *arrays, *rows.values())
        del memory, arrays, rows, observations, rewards, terminated, truncated, ledger
        self._references = self._count()

    def reader(self) -> Callable[[], tuple[Any, ...]]:
        """What reads the step of a single environment as Python's own values: reward, terminated, truncated,
        then the rows of the ledger."""
        layout = struct.Struct(
            f"=d{LINE - 8}x?{LINE - 1}x?{LINE - 1}x{len(self.step.ledger)}d"
        )  # each at a line's start
        return functools.partial(layout.unpack_from, self.outcome.data)

    def unused(self) -> bool:
        """Whether only this object refers to the arrays."""
        return self._count() == self._references

    def _count(self) -> int:
        return sum(map(sys.getrefcount, self._held))
