"""Clustering of market orders: a Hawkes process by maximum likelihood (Ozaki 1979).

Its kernel is one exponential or the sum of two, whichever has the lower Bayesian information criterion. A
test of its residuals (Ogata 1988) says whether it describes the orders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import optimize, stats

from mmenv.engine.products import correlation_of
from mmenv.measure.intervals import Array, Estimate, jackknife

SCALES = (1000.0, 100.0, 10.0, 1.0, 0.1)
"""Decays per second, a decade apart, that a fit starts from."""


@dataclass(frozen=True)
class Hawkes:
    """Market orders: `rate` a second unprompted; each sets off branching[k] more, fading at decay[k]."""

    rate: Estimate
    branching: tuple[Estimate, ...]
    decay: tuple[Estimate, ...]
    """Decays per second, the fastest first."""
    bic: tuple[float, float]
    """Bayesian information criterion of one exponential and of two; the lower one was chosen."""
    ratio_p_value: float
    """Test of the likelihood ratio of the two: small where one exponential is not enough."""
    p_value: float
    """Kolmogorov-Smirnov test of the chosen one's residuals: small where they are not exponential."""
    correlation: float
    """Correlation of neighbouring residuals, after a transform to normal ones: 0 if the model is right."""
    correlation_p_value: float
    """Test of that correlation: small where short waits follow short ones more often than the model says."""


def fit_hawkes(
    blocks: Sequence[Array], seconds: float, tick: float = 1e-9, joined: Sequence[bool] | None = None
) -> Hawkes:
    """Fit the process to blocks of event times by maximum likelihood.

    Events of one tick of the clock are one, and those that it set off within the tick were not seen: allowed
    for to the first order, as far as decay x tick is well below 1.

    Parameters
    ----------
    blocks
        Event times of each block, from 0 to `seconds`.
    tick
        Tick of the clock, seconds.
    joined
        Whether each block continues the one before, whose events it remembers; by default all but the first
        do.

    Raises
    ------
    ValueError
        Where there are fewer than 20 events.
    """
    likelihood = Likelihood(blocks, seconds, tick, follows(len(blocks), joined))
    whole, count = np.ones(len(blocks)), len(likelihood.times)
    single, double = likelihood.maximise(1), likelihood.maximise(2)
    losses = [likelihood.loss(theta, whole)[0] for theta in (single, double)]
    bic = [2 * value + size * math.log(count) for value, size in zip(losses, (3, 5), strict=True)]
    best = single if bic[0] <= bic[1] else double

    def parameters(weights: Array) -> Array:
        rate, excitement, decay = natural(likelihood.fit(weights, [best]))
        # What one event sets off, from what one tick with an event does: unseen ones in it took part.
        unseen = excitement * (1 + np.expm1(-decay * tick) / (decay * tick))
        branching, order = excitement / (1 + unseen.sum()), np.argsort(-decay)
        return np.concatenate([[rate], branching[order], decay[order]])

    found = jackknife(np.cumsum(~likelihood.follows), parameters)
    kernels = (len(best) - 1) // 2
    likelihood.loss(best, whole)
    residuals = likelihood.residuals
    normal = stats.norm.isf(np.clip(np.exp(-residuals), 1e-9, 1 - 1e-9))
    correlation = correlation_of(normal[1:], normal[:-1])
    return Hawkes(
        rate=found[0],
        branching=tuple(found[1 : 1 + kernels]),
        decay=tuple(found[1 + kernels :]),
        bic=(bic[0], bic[1]),
        ratio_p_value=float(stats.chi2.sf(max(2 * (losses[0] - losses[1]), 0.0), 2)),
        p_value=float(stats.kstest(residuals, "expon").pvalue),
        correlation=correlation,
        correlation_p_value=float(2 * stats.norm.sf(abs(correlation) * math.sqrt(count))),
    )


def follows(count: int, joined: Sequence[bool] | None) -> NDArray[np.bool_]:
    """Which of so many blocks continue the one before: by default all but the first."""
    return np.arange(count) > 0 if joined is None else np.asarray(joined, bool)


class Likelihood:
    """The likelihood of event times in parameters without bounds, as an optimiser wants them (`natural`)."""

    def __init__(
        self, blocks: Sequence[Array], seconds: float, tick: float, follows: NDArray[np.bool_]
    ) -> None:
        ticks = [np.unique(np.floor(block / tick + 1e-6)) for block in blocks]
        self.times = np.concatenate([each * tick + seconds * k for k, each in enumerate(ticks)])
        count = len(self.times)
        if count < 20:
            raise ValueError(
                f"{count} market orders are too few to fit their clustering; at least 20 are needed"
            )
        self.seconds, self.tick, self.follows = seconds, tick, follows
        self.uniform, self.residuals = np.random.default_rng(0).random(count), np.zeros(count)

    def loss(self, theta: Array, weights: Array) -> tuple[float, Array]:
        """Negative logarithm of the likelihood and its gradient; sets `residuals`."""
        rate, excitement, decay = natural(theta)
        kernels, gradient = len(decay), np.zeros(len(theta))
        value = hawkes_walk(
            self.times, self.follows, weights, self.seconds, self.tick, rate, excitement, decay, self.uniform,
            gradient, self.residuals,
        )  # fmt: skip
        share = gradient[1 : 1 + kernels]
        gradient[1 : 1 + kernels] = excitement * (share - (share * excitement).sum())
        gradient[0] *= rate
        gradient[1 + kernels :] *= decay
        return -value, -gradient

    def fit(self, weights: Array, starts: Sequence[Array]) -> Array:
        """Find the best parameters that a search from one of `starts` reaches."""
        found = [
            optimize.minimize(
                self.loss, start, (weights,), jac=True, method="L-BFGS-B", bounds=len(start) * [(-25, 25)]
            )
            for start in starts
        ]
        return np.asarray(min(found, key=lambda result: result.fun).x)

    def maximise(self, kernels: int) -> Array:
        """Find the best parameters of so many exponentials, from starts at all choices of `SCALES`."""
        count = len(self.follows)
        rate = [math.log(len(self.times) / count / self.seconds / 2)]
        odds = kernels * [-math.log(kernels)]
        starts = [
            np.array([*rate, *odds, *np.log(scale)]) for scale in itertools.combinations(SCALES, kernels)
        ]
        return self.fit(np.ones(count), starts)


def natural(theta: Array) -> tuple[float, Array, Array]:
    """Rate, excitements whose sum is below one, and decays, from numbers without bounds."""
    kernels = (len(theta) - 1) // 2
    odds = np.exp(theta[1 : 1 + kernels])
    return float(np.exp(theta[0])), odds / (1 + odds.sum()), np.exp(theta[1 + kernels :])


@njit(cache=True)
def hawkes_walk(times, joined, weights, seconds, tick, rate, excitement, decay, uniform, gradient, residuals):
    """Log-likelihood of the ticks of a clock in which something happened, in consecutive blocks of time.

    The intensity is rate + sum over k and past ticks of excitement[k] decay[k] exp(-decay[k] age), the event
    anywhere in its tick with the same chance; a tick without one has the chance exp(-its integral). For a
    fine clock this is the likelihood of a Hawkes process, but for the constant n log(tick).

    Parameters
    ----------
    times
        Beginnings of the ticks, float64 (n,), rising, seconds from the start of the first block.
    joined
        Whether a block continues the one before, bool (blocks,); else it starts without memory.
    weights
        How often each block counts, float64 (blocks,). It remembers its own past in any case.
    tick
        Tick of the clock, seconds.
    uniform
        Where within its tick's integral each event is taken to have been, float64 (n,) in [0, 1).
    gradient
        Overwritten by the gradient in rate, excitement and decay, float64 (1 + 2 kernels,).
    residuals
        Overwritten by the integral of the intensity since the last tick, float64 (n,): independent and
        exponential of mean 1 if the model is right (time change; Ogata 1988).
    """
    kernels = len(decay)
    memory, aged = np.zeros(kernels), np.zeros(kernels)  # sum over past ticks, and less its slope in decay
    gradient[:] = 0.0
    total, passed, at = 0.0, 0.0, 0
    before = 0.0
    for block in range(len(weights)):
        weight, end = weights[block], (block + 1) * seconds
        if not joined[block]:
            memory[:], aged[:], passed = 0.0, 0.0, 0.0
            before = block * seconds
        while True:
            event = at < len(times) and times[at] < end - tick / 2
            # The time without events, and then the tick with one.
            for inside in range(2 if event else 1):
                wait = tick if inside else max((times[at] if event else end) - before, 0.0)
                mean = rate * wait
                for k in range(kernels):
                    mean += excitement[k] * memory[k] * -math.expm1(-decay[k] * wait)
                factor = weight / math.expm1(mean) if inside else -weight
                gradient[0] += factor * wait
                _age(wait, inside, factor, excitement, decay, memory, aged, gradient)
                if inside:
                    total += weight * math.log(-math.expm1(-mean))
                    residuals[at] = passed - math.log1p(uniform[at] * math.expm1(-mean))
                    passed = 0.0
                    at += 1
                else:
                    total -= weight * mean
                    passed += mean
                before += wait
            if not event:
                break
    return total


@njit(cache=True)
def _age(wait, inside, factor, excitement, decay, memory, aged, gradient):
    """Let excitement fade for `wait` seconds, `inside` a tick with an event add that of the event, and add
    `factor` times the slopes of their integral to the gradient."""
    kernels = len(decay)
    for k in range(kernels):
        kept, gone = math.exp(-decay[k] * wait), -math.expm1(-decay[k] * wait)
        gradient[1 + k] += factor * memory[k] * gone
        slope = memory[k] * wait * kept - aged[k] * gone
        gradient[1 + kernels + k] += factor * excitement[k] * slope
        aged[k] = kept * (aged[k] + wait * memory[k])
        memory[k] *= kept
        if inside:
            left = gone / (decay[k] * wait)  # of an event's excitement, at the end of its tick
            memory[k] += left
            aged[k] += (left - kept) / decay[k]
