"""What a policy may remember of the market `hidden-regime`, and the grids on which that is solved."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from mmenv.engine.products import product
from mmenv.market.hidden_regime import HiddenRegime
from policies.solver.outcomes import outcomes

Array = np.ndarray


class View(Protocol):
    """What a policy remembers of `hidden-regime`: a summary of all outcomes, and a grid of summaries."""

    start: Array
    """The summary before the first step, (1, d)."""
    nodes: Array
    """The grid, (labels, d)."""

    def follow(self, summary: Array, outcome: Array) -> Array:
        """The summaries, (n, d), once the outcomes, int (n,), are seen too."""

    def locate(self, summary: Array) -> tuple[Array, Array]:
        """Nodes to interpolate from, int (n, k), and their weights, float (n, k)."""


class Blind:
    """Remembers nothing: quotes by time and position."""

    start = nodes = np.zeros((1, 0))

    def follow(self, summary: Array, outcome: Array) -> Array:
        return summary

    def locate(self, summary: Array) -> tuple[Array, Array]:
        return np.zeros((len(summary), 1), np.int64), np.ones((len(summary), 1))


class LastOutcome:
    """Remembers the outcome of the last step; before the first, that of a step without events."""

    nodes = np.arange(27.0)[:, None]

    def __init__(self, market: HiddenRegime) -> None:
        nothing = np.zeros(1)
        self.start = outcomes(market).index(nothing, nothing, nothing)[:, None].astype(float)

    def follow(self, summary: Array, outcome: Array) -> Array:
        return outcome[:, None].astype(float)

    def locate(self, summary: Array) -> tuple[Array, Array]:
        return summary.astype(np.int64), np.ones((len(summary), 1))


class FlowAverage:
    """Remembers an exponential average of the signed flow, buy lots - sell lots.

    Between two nodes the chain goes to either at random with the chances that keep the mean: its average is
    slightly noisier than the real one, so that its value rises to the real one's as the grid gets finer.
    """

    start = np.zeros((1, 1))

    def __init__(self, market: HiddenRegime, count: int, time_constant: float) -> None:
        """`count` nodes, five standard deviations wide; the average forgets 1/e in `time_constant` steps."""
        seen = outcomes(market)
        self._flow = (seen.buy - seen.sell).astype(float)
        self._keep = math.exp(-1 / time_constant)
        mean = product(seen.chance, self._flow)
        variance = product(seen.chance, self._flow**2) - mean**2
        shrink = (1 - self._keep) / (1 + self._keep)
        span = float(np.max(np.abs(mean) + 5 * np.sqrt(variance * shrink)))
        self.nodes = np.linspace(-1, 1, count)[:, None] * max(span, 1e-3)

    def follow(self, summary: Array, outcome: Array) -> Array:
        return self._keep * summary + (1 - self._keep) * self._flow[outcome, None]

    def locate(self, summary: Array) -> tuple[Array, Array]:
        first, step = self.nodes[0, 0], self.nodes[1, 0] - self.nodes[0, 0]
        at = np.clip((summary - first) / step, 0, len(self.nodes) - 1)
        lower = np.minimum(at.astype(np.int64), len(self.nodes) - 2)
        upper_share = at - lower
        return np.hstack([lower, lower + 1]), np.hstack([1 - upper_share, upper_share])


class Belief:
    """Remembers the chances of the three regimes given all outcomes: nothing else of the past matters.

    The grid is triangular with `resolution` (even) intervals along each edge. Interpolation is quadratic on
    the triangles of even nodes; linear interpolation would bound the value from above, because it is convex
    in the belief, but come down to it several times as slowly.
    """

    def __init__(self, market: HiddenRegime, resolution: int) -> None:
        self._seen = outcomes(market)
        self._half = resolution // 2
        self.start = self._seen.stationary[None]
        low, high = np.meshgrid(np.arange(resolution + 1), np.arange(resolution + 1), indexing="ij")
        inside = low + high <= resolution
        self.nodes = np.stack([low, resolution - low - high, high], axis=-1)[inside] / resolution
        # Two rows and columns more: triangles beyond an edge get weight zero, but are looked up.
        self._number = np.zeros((resolution + 3, resolution + 3), np.int64)
        self._number[:-2, :-2][inside] = np.arange(len(self.nodes))

    def follow(self, summary: Array, outcome: Array) -> Array:
        """Bayes on the regime in which the outcome was seen, then one transition of the regime."""
        joint = summary * self._seen.chance.T[outcome]
        total = joint.sum(axis=1, keepdims=True)
        # An outcome that no believed regime explains says nothing.
        posterior = np.where(total > 0, joint / np.where(total > 0, total, 1.0), summary)
        return product(posterior, self._seen.transition)

    def locate(self, summary: Array) -> tuple[Array, Array]:
        """Lagrange's basis: w (2w - 1) at the corners, 4 w w' in the middle of the edges; w barycentric."""
        x, y = summary[:, 0] * self._half, summary[:, 2] * self._half
        i, j = (np.clip(z, 0, self._half).astype(np.int64) for z in (x, y))
        x, y = x - i, y - j
        upper = x + y > 1
        w = np.where(upper, [x + y - 1, 1 - y, 1 - x], [1 - x - y, x, y])
        i, j = np.stack([i + upper, i + 1, i]), np.stack([j + upper, j, j + 1])
        rolled_i, rolled_j, rolled_w = (np.roll(z, -1, axis=0) for z in (i, j, w))
        nodes = self._number[np.concatenate([2 * i, i + rolled_i]), np.concatenate([2 * j, j + rolled_j])]
        return nodes.T, np.concatenate([w * (2 * w - 1), 4 * w * rolled_w]).T
