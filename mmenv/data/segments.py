"""Where the step of a capture's prices changes, as when a venue gives a contract another tick size."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_BLOCKS: Final = 20
"""So many blocks of a thousand rows must have a step for it to be one."""
STRAYS: Final = 0.01
"""Share of the blocks that may have another one."""


def usual_step(steps: Counter[int]) -> int:
    """The step that fits all but one in a hundred blocks, the coarsest of those; 0 where no block has one.

    A few values that lie beside it must not make the whole grid finer: they are off the grid.
    """
    known = Counter({step: count for step, count in steps.items() if step > 0})
    enough = (1 - STRAYS) * known.total()
    frequent = [step for step, count in known.items() if count >= STRAYS * known.total()]
    fitting = [s for s in frequent if sum(n for step, n in known.items() if step % s == 0) >= enough]
    return max(fitting, default=math.gcd(*known))


def segments(blocks: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First row and step of each stretch whose prices have another step than those before.

    That of the finer one must show in almost every block of it and in almost none of the coarser one, so that
    hours of round prices are no change.

    Parameters
    ----------
    blocks
        int64 [n, 2], first row of each block and the greatest common divisor of its prices.
    """
    rows, steps = blocks[blocks[:, 1] > 0].T if len(blocks) else np.zeros((2, 0), np.int64)
    counts = Counter(steps.tolist())
    step = usual_step(counts)
    count, best = len(steps), (math.inf, 0)
    places = np.arange(LEAST_BLOCKS, count - LEAST_BLOCKS + 1)
    for coarse in [each for each, often in counts.items() if often >= LEAST_BLOCKS] if len(places) else []:
        if step and coarse > step and coarse % step == 0:
            fits = np.concatenate([[0], np.cumsum(steps % coarse == 0)])
            # Wrong before a place and after it, if the coarser step came first, and if it came last.
            first = places - fits[places] + fits[-1] - fits[places]
            for wrong in (first, count - first):
                at = int(np.argmin(wrong))
                best = min(best, (int(wrong[at]), int(places[at])))
    if best[0] > STRAYS * count:
        return [(int(rows[0]) if count else 0, step)]
    before, after = (segments(part) for part in np.split(np.stack([rows, steps], axis=1), [best[1]]))
    return before + after if before[-1][1] != after[0][1] else before + after[1:]
