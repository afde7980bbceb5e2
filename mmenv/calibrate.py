"""Measure a market and write it down as presets: `neuralmm calibrate STORE`.

From a recorded tape, or a simulated market, come with 95% intervals (`jackknife`):

* the fill rate of a quote by its distance from the mid: exponential in the distance (Avellaneda and Stoikov
  2008), with an atom at the touch, where the queue decides; Poisson regression and its goodness of fit;
* volatility at several scales;
* clustering of market orders: a Hawkes process by maximum likelihood (Ozaki 1979), its kernel one exponential
  or the sum of two, whichever has the lower BIC, with a test of its residuals (Ogata 1988);
* sizes of market orders: a Pareto tail by maximum likelihood;
* spread, imbalance and mark-out, as `mmenv.facts` measures them, with its own intervals.

The result is a JSON file that `gym.make` takes for a market: `market="calibration.json:brownian"` or
`"calibration.json:book"`. Tapes are measured on their first part alone (`train_share`), so that nothing that
is evaluated on the rest has seen it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from numba import njit
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import linalg, optimize, stats

from mmenv import facts
from mmenv.config import ConfigError, Market
from mmenv.data.capture import TRADE
from mmenv.data.tape import Tape, tapes
from mmenv.files import replacing
from mmenv.market import MARKETS
from mmenv.market.book import PRESETS
from mmenv.market.replay import Replay

Array = NDArray[np.float64]

SCALES = (0.1, 1.0, 10.0, 60.0)
"""Intervals at which volatility is measured, seconds."""
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Of a quote from the mid, standard deviations of its move between two decisions; the first is the touch."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


MEMORY = 0.47
"""Order d of the long memory of a market's level: near that of 1/f noise, 0.5. About 0.4 is found for
volatility (Andersen, Bollerslev, Diebold and Labys 2003); the mean of levels that are skewed asks for more.
`benchmarks.calibration` checks it on `book`."""
SHARES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0])
"""Part of the variance of cells of time that may be due to it; a priori none is as likely as all others."""
MOST_CELLS = 100
"""In longer recordings neighbouring cells are taken together, to about so many."""


def jackknife(path: NDArray[np.int64], statistic: Callable[[Array], Array]) -> list[Estimate]:
    """Estimates from cells of time, with 95% intervals for the market, not only for those minutes.

    Activity wanders over hours. A short recording shows one level of it, and resampled blocks all have that
    level: such intervals are up to four times too narrow. Here the influence of each cell, what the statistic
    changes without it (block jackknife; Künsch 1989), is a series with long memory (`half_width`).

    Args:
        path: [cells], cells of the same number follow each other in time; different paths are independent.
        statistic: of weights [cells], an array; what is positive is studied as its logarithm.

    Returns:
        One for each element of the statistic; without an interval (nan) if it is not defined without a cell.
    """
    together = math.ceil(len(path) / MOST_CELLS)
    cells = [np.flatnonzero(path == number) for number in np.unique(path)]
    groups = [np.array_split(each, math.ceil(len(each) / together)) for each in cells]
    value, without, rest = statistic(np.ones(len(path))), [], []
    for group in itertools.chain(*groups):
        weights = np.ones(len(path))
        weights[group] = 0.0
        without.append(statistic(weights))
        rest.append(len(path) / len(group) - 1)
    found = []
    for center, others in zip(value, np.transpose(without), strict=True):
        logarithm = center > 0 and (others > 0).all()
        influence = np.log(center / others) if logarithm else center - others
        width = half_width(rest * influence, [len(each) for each in groups])
        low, high = center * np.exp([-width, width]) if logarithm else center + np.array([-width, width])
        found.append(Estimate(float(center), float(low), float(high)))
    return found


def half_width(series: Array, lengths: Sequence[int]) -> float:
    """How far the mean of a series may be from its expectation, at 95%.

    It is white noise and, for a share of its variance, fractional Gaussian noise of order `MEMORY`. A short
    series hardly tells the share: the quantile is of a mixture of Student's t distributions, one for each of
    `SHARES`, weighted by prior and restricted likelihood (as Müller and Watson 2016 do with d). Without any
    memory it is two to three times that of Student's t alone: a short series cannot rule it out.

    Args:
        series: [n], nan if not known.
        lengths: of the independent stretches that make it up; they add up to n.
    """
    count, freedom = len(series), len(series) - 1
    if freedom < 1 or not np.isfinite(series).all():
        return math.nan
    power = 2 * MEMORY + 1
    lags = [np.arange(float(length)) for length in lengths]
    noise = [linalg.toeplitz((np.abs(h - 1) ** power + (h + 1) ** power - 2 * h**power) / 2) for h in lags]
    covariance = linalg.block_diag(*noise)
    less_mean = np.eye(count) - 1 / count
    variances, basis = np.linalg.eigh(less_mean @ covariance @ less_mean)
    variances = SHARES[:, None] * variances[1:] + 1 - SHARES[:, None]  # the first is that of the mean itself
    squares = ((series @ basis[:, 1:]) ** 2 / variances).sum(axis=1)
    if squares[0] < 1e-24:
        return 0.0
    prior = np.where(SHARES > 0, 1 / (len(SHARES) - 1), 1.0)
    likelihood = -(np.log(variances).sum(axis=1) + freedom * np.log(squares)) / 2
    weight = prior * np.exp(likelihood - likelihood.max())
    of_mean = SHARES * covariance.mean() + (1 - SHARES) / count
    deviation = np.sqrt(of_mean * squares / freedom)
    bounds = stats.t.ppf(0.975, freedom) * deviation

    def excess(width: float) -> float:
        return float(np.average(stats.t.cdf(width / deviation, freedom), weights=weight)) - 0.975

    return float(optimize.brentq(excess, 0.99 * bounds.min(), 1.01 * bounds.max()))


# Fill rate --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FillCurve:
    """Chance of a fill in a decision, P(d) = exp(-decay d) (1 - exp(-rate seconds)), d from the mid."""

    rate: Estimate
    """Market orders per second and side that would reach the mid (A)."""
    decay: Estimate
    """Per half-tick (k)."""
    touch: Estimate
    """Fills at the touch over what the exponential says there: below one, a queue is ahead."""
    distance: list[float]
    """Distances of the quotes, half-ticks."""
    per_second: list[float]
    """Fills per second and side at each."""
    p_value: float
    """Of the exponential beyond the touch, chi-square of the deviance, overdispersion taken out."""


def fit_exponential(distance: Array, fills: Array, trials: Array) -> tuple[float, float, float]:
    """Maximum likelihood of fills ~ Poisson(trials x exp(a - k distance)): a, k and the deviance.

    Distances must differ; raises `ValueError` where there is no fill at two of them.
    """
    if (fills > 0).sum() < 2:
        raise ValueError("fills at fewer than two distances: measure for longer, or nearer to the touch")
    scale = max(float(np.ptp(distance)), 1e-9)
    design = np.stack([np.ones_like(distance), -distance / scale], axis=1)
    theta = np.polyfit(-distance / scale, np.log((fills + 0.5) / trials), 1)[::-1]
    for _ in range(50):  # Newton's method; the likelihood is concave and the start is near
        mean = trials * np.exp(np.clip(design @ theta, -50, 50))
        step = np.linalg.solve(design.T @ (design * mean[:, None]), design.T @ (fills - mean))
        theta = theta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    mean = trials * np.exp(design @ theta)
    ratio = np.where(fills > 0, fills * np.log(np.maximum(fills, 1e-12) / mean), 0.0)
    return float(theta[0]), float(theta[1] / scale), float(2 * (ratio - (fills - mean)).sum())


def fill_curve(
    distance: Array,
    fills: Array,
    decisions: NDArray[np.int64],
    path: NDArray[np.int64],
    seconds: float,
    touch: bool,
) -> FillCurve:
    """The curve from fills in blocks of time, each in parts.

    Args:
        distance: [distances], of the quotes from the mid, half-ticks.
        fills: [blocks, parts, distances], of both sides.
        decisions: [parts], in each.
        path: [blocks], as in `jackknife`.
        seconds: between two decisions.
        touch: whether the first distance is the touch and stands apart.
    """
    first = int(touch)
    cells = fills.reshape(-1, fills.shape[-1])
    trials = 2.0 * np.tile(decisions, len(fills))

    def fit(weights: Array) -> tuple[float, float, float]:
        total = (weights @ cells)[first:]
        return fit_exponential(distance[first:], total, np.full(len(total), weights @ trials))

    def parameters(weights: Array) -> Array:
        try:
            a, k, _ = fit(weights)
        except ValueError:
            return np.full(3, math.nan)
        at_touch = (weights @ cells[:, 0]) / (weights @ trials) / math.exp(a - k * distance[0])
        return np.array([-math.log1p(-min(math.exp(a), 1 - 1e-12)) / seconds, k, at_touch])

    _, _, deviance = fit(np.ones(len(cells)))  # or it raises
    rate, decay, atom = jackknife(np.repeat(path, fills.shape[1]), parameters)
    # Fills of one block come together: the variance of a block's count over its mean.
    counts = fills.sum(axis=1)[:, first:]
    spread = float(np.mean(counts.var(axis=0, ddof=1) / np.maximum(counts.mean(axis=0), 1e-9)))
    freedom = max(len(distance) - first - 2, 1)
    p_value = float(stats.chi2.sf(deviance / max(spread, 1.0), freedom))
    per_second = cells.sum(axis=0) / (trials.sum() * seconds)
    return FillCurve(rate, decay, atom, distance.tolist(), per_second.tolist(), p_value)


# Clustering of orders ---------------------------------------------------------------------------------------


@njit(cache=True)
def hawkes_walk(  # type: ignore[no-untyped-def]
    times, joined, weights, seconds, tick, rate, excitement, decay, uniform, gradient, residuals
):
    """Log-likelihood of the ticks of a clock in which something happened, in consecutive blocks of time.

    The intensity is rate + sum over k and past ticks of excitement[k] decay[k] exp(-decay[k] age), the event
    anywhere in its tick with the same chance; a tick without one has the chance exp(-its integral). For a
    fine clock this is the likelihood of a Hawkes process, but for the constant n log(tick).

    Args:
        times: float64 [n], beginnings of the ticks, rising, seconds from the start of the first block.
        joined: bool [blocks], whether a block continues the one before; else it starts without memory.
        weights: float64 [blocks], how often each block counts. It remembers its own past in any case.
        tick: of the clock, seconds.
        uniform: float64 [n] in [0, 1): where within its tick's integral each event is taken to have been.
        gradient: float64 [1 + 2 kernels], overwritten by that of rate, excitement and decay.
        residuals: float64 [n], overwritten by the integral of the intensity since the last tick: independent,
            exponential of mean 1, if the model is right (time change; Ogata 1988).
    """
    kernels = len(decay)
    memory, aged = (
        np.zeros(kernels),
        np.zeros(kernels),
    )  # the sum over past ticks, and less its slope in decay
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
                for k in range(kernels):
                    kept, gone = math.exp(-decay[k] * wait), -math.expm1(-decay[k] * wait)
                    gradient[1 + k] += factor * memory[k] * gone
                    slope = memory[k] * wait * kept - aged[k] * gone
                    gradient[1 + kernels + k] += factor * excitement[k] * slope
                    aged[k] = kept * (aged[k] + wait * memory[k])
                    memory[k] *= kept
                    if inside:
                        left = gone / (decay[k] * tick)  # of an event's excitement, at the end of its tick
                        memory[k] += left
                        aged[k] += (left - kept) / decay[k]
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


@dataclass(frozen=True)
class Hawkes:
    """Market orders: `rate` a second unprompted; each sets off branching[k] more, fading at decay[k]."""

    rate: Estimate
    branching: tuple[Estimate, ...]
    decay: tuple[Estimate, ...]
    """Per second, the fastest first."""
    bic: tuple[float, float]
    """Bayesian information criterion of one exponential and of two; the lower one was chosen."""
    ratio_p_value: float
    """Of the likelihood ratio of the two: small where one exponential is not enough."""
    p_value: float
    """Kolmogorov-Smirnov test of the chosen one's residuals: small where they are not exponential."""
    correlation: float
    """Of neighbouring residuals, after a transform to normal ones: 0 if the model is right."""
    correlation_p_value: float
    """Of that correlation: small where short waits follow short ones more often than the model says."""


def fit_hawkes(
    blocks: Sequence[Array],
    seconds: float,
    tick: float = 1e-9,
    joined: Sequence[bool] | None = None,
) -> Hawkes:
    """By maximum likelihood over blocks of event times, each from 0 to `seconds`, on a clock of `tick`.

    Events of one tick are one, and those that it set off within it were not seen: allowed for to the first
    order, as far as decay x tick is well below 1. `joined` says which blocks continue the one before, whose
    events they remember; by default all do but the first.
    """
    count = len(blocks)
    times = np.concatenate(
        [np.unique(np.floor(block / tick + 1e-6)) * tick + seconds * k for k, block in enumerate(blocks)]
    )
    if len(times) < 20:
        raise ValueError(
            f"{len(times)} market orders are too few to fit their clustering; at least 20 are needed"
        )
    follows = _follows(count, joined)
    uniform, residuals = np.random.default_rng(0).random(len(times)), np.zeros(len(times))

    def loss(theta: Array, weights: Array) -> tuple[float, Array]:
        rate, excitement, decay = _hawkes_parameters(theta)
        kernels = len(decay)
        gradient = np.zeros(len(theta))
        value = hawkes_walk(
            times, follows, weights, seconds, tick, rate, excitement, decay, uniform, gradient, residuals
        )
        share = gradient[1 : 1 + kernels]
        gradient[1 : 1 + kernels] = excitement * (share - share @ excitement)
        gradient[0] *= rate
        gradient[1 + kernels :] *= decay
        return -value, -gradient

    def fit(weights: Array, starts: Sequence[Array]) -> Array:
        found = [
            optimize.minimize(
                loss, start, (weights,), jac=True, method="L-BFGS-B", bounds=len(start) * [(-25, 25)]
            )
            for start in starts
        ]
        return np.asarray(min(found, key=lambda result: result.fun).x)

    def fitted(kernels: int) -> Array:
        """The best from starts at all choices of so many time scales, a decade apart."""
        rate, odds = [math.log(len(times) / count / seconds / 2)], kernels * [-math.log(kernels)]
        scales = itertools.combinations((1000.0, 100.0, 10.0, 1.0, 0.1), kernels)
        return fit(np.ones(count), [np.array([*rate, *odds, *np.log(scale)]) for scale in scales])

    single, double = fitted(1), fitted(2)
    losses = [loss(theta, np.ones(count))[0] for theta in (single, double)]
    bic = [2 * value + size * math.log(len(times)) for value, size in zip(losses, (3, 5), strict=True)]
    best = single if bic[0] <= bic[1] else double

    def parameters(weights: Array) -> Array:
        theta = fit(weights, [best])
        rate, excitement, decay = _hawkes_parameters(theta)
        # What one event sets off, from what one tick with an event does: unseen ones in it took part.
        unseen = excitement * (1 + np.expm1(-decay * tick) / (decay * tick))
        branching, order = excitement / (1 + unseen.sum()), np.argsort(-decay)
        return np.concatenate([[rate], branching[order], decay[order]])

    found = jackknife(np.cumsum(~follows), parameters)
    kernels = (len(best) - 1) // 2
    loss(best, np.ones(count))
    normal = stats.norm.isf(np.clip(np.exp(-residuals), 1e-9, 1 - 1e-9))
    correlation = float(np.corrcoef(normal[1:], normal[:-1])[0, 1])
    return Hawkes(
        rate=found[0],
        branching=tuple(found[1 : 1 + kernels]),
        decay=tuple(found[1 + kernels :]),
        bic=(bic[0], bic[1]),
        ratio_p_value=float(stats.chi2.sf(max(2 * (losses[0] - losses[1]), 0.0), 2)),
        p_value=float(stats.kstest(residuals, "expon").pvalue),
        correlation=correlation,
        correlation_p_value=float(2 * stats.norm.sf(abs(correlation) * math.sqrt(len(times)))),
    )


def _follows(count: int, joined: Sequence[bool] | None) -> NDArray[np.bool_]:
    """Which of so many blocks continue the one before: by default all but the first."""
    return np.arange(count) > 0 if joined is None else np.asarray(joined, bool)


def _hawkes_parameters(theta: Array) -> tuple[float, Array, Array]:
    """Rate, excitements whose sum is below one, and decays, from numbers without bounds."""
    kernels = (len(theta) - 1) // 2
    odds = np.exp(theta[1 : 1 + kernels])
    return float(np.exp(theta[0])), odds / (1 + odds.sum()), np.exp(theta[1 + kernels :])


# Sizes ------------------------------------------------------------------------------------------------------


def fit_pareto(blocks: Sequence[Array], smallest: float, joined: Sequence[bool] | None = None) -> Estimate:
    """Pareto exponent of sizes of at least `smallest` (Hill's estimator over all of them).

    `joined` as in `fit_hawkes`.
    """
    logs = [np.log(block[block >= smallest] / smallest) for block in blocks]
    counts, totals = np.array([len(each) for each in logs]), np.array([each.sum() for each in logs])

    def exponent(weights: Array) -> Array:
        total = weights @ totals
        return np.array([weights @ counts / total if total > 0 else math.nan])

    return jackknife(np.cumsum(~_follows(len(blocks), joined)), exponent)[0]


# Sources ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """All that was measured of one source, and the presets made of it."""

    source: str
    seconds: float
    fills: FillCurve
    volatility: dict[str, Estimate]
    """By scale in seconds; half-ticks per square root of a second."""
    hawkes: Hawkes | None
    size: Estimate | None
    facts: dict[str, Estimate]
    presets: dict[str, dict[str, Any]]


def volatility(record: facts.Record) -> dict[str, Estimate]:
    """Root mean square of the mid's moves over each scale, per square root of a second."""

    found = {}
    for scale in SCALES:
        squares = record.returns(scale) ** 2
        if scale > 0.99 * record.seconds and squares.shape[1] > 1:
            sums, counts = parts(squares)
            total, trials = sums.ravel(), np.tile(counts * record.lag(scale) * record.seconds, len(sums))

            def deviation(weights: Array, total: Array = total, trials: Array = trials) -> Array:
                return np.sqrt([weights @ total / (weights @ trials)])

            [found[f"{scale:g}"]] = jackknife(np.repeat(record.path, sums.shape[1]), deviation)
    return found


PARTS = 10
"""Of a block of a record, each a cell of `jackknife`: shorter ones say more of what lasts."""


def parts(values: NDArray[Any]) -> tuple[Array, NDArray[np.int64]]:
    """Sums (blocks, parts) over parts of the times of values (blocks, times), and the times in each."""
    split = np.array_split(values, min(PARTS, values.shape[1]), axis=1)
    sums = np.stack([each.sum(axis=1) for each in split], axis=1).astype(float)
    return sums, np.array([each.shape[1] for each in split])


def measure_fills(record: Callable[[int], facts.Record]) -> tuple[facts.Record, FillCurve]:
    """The source with quotes at the touch, and its fill curve; `record` as in `measure`."""
    touch = record(0)
    distance, counts = [], []
    for m in DISTANCES:
        away = round(m * touch.scale)
        each = touch if m == 0 else record(away)
        mid, spread = each.blocks["mid"], each.blocks["spread"]
        # Where the quote really stood: at the touch or beyond, on a whole tick (an even price).
        distance.append(float(np.maximum(spread // 2, away + ((mid + away) & 1)).mean()))
        cells, decisions = parts((each.blocks["ask_fill"] + each.blocks["bid_fill"])[:, 1:])
        counts.append(cells)
    keep = np.concatenate([[0], 1 + np.flatnonzero(np.diff(distance) > 0.5)])
    fills = fill_curve(
        np.array(distance)[keep], np.stack(counts, axis=2)[:, :, keep], decisions, touch.path, touch.seconds,
        touch=touch.has_book,
    )  # fmt: skip
    return touch, fills


def short_term(volatility: dict[str, Estimate]) -> float:
    """The volatility over a second, or over the shortest scale there is."""
    return volatility.get("1", next(iter(volatility.values()))).value


def dynamics(fills: FillCurve, volatility: dict[str, Estimate], price_scale: float) -> dict[str, float]:
    """What closed-form market makers need to know (`policies.analytic.Dynamics`), price units and seconds.

    `price_scale`: half-ticks in a price unit.
    """
    return {
        "arrival_rate": fills.rate.value,
        "fill_decay": max(fills.decay.value * price_scale, 1e-2),
        "volatility": short_term(volatility) / price_scale,
    }


def read_dynamics(path: Path, price_scale: float) -> dict[str, float]:
    """`dynamics` of what `neuralmm calibrate` wrote. Raises `ConfigError` where it did not."""
    try:
        stored = json.loads(path.read_text())
        fills = {name: Estimate(**stored["fills"][name]) for name in ("rate", "decay", "touch")}
        curve = FillCurve(**{**stored["fills"], **fills})
        return dynamics(curve, {k: Estimate(**v) for k, v in stored["volatility"].items()}, price_scale)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigError(
            f"calibration = {str(path)!r} is not readable ({error}); `neuralmm calibrate` writes it."
        ) from None


def market_dynamics(market: Market) -> dict[str, float]:
    """`dynamics` of a market: of tapes from their training part, of a simulated one from `PATHS` minutes.

    Tapes are replayed under the market's own latency and queue model. Of several symbols it is the mean, each
    in its own price units. Raises `ConfigError` where there are too few fills.
    """
    found = []
    try:
        if not isinstance(market, Replay):
            given = {"name": market.name, **dataclasses.asdict(market)}
            seconds = 60 * max(market.step_seconds, 1.0)

            def simulated(away: int) -> facts.Record:
                return facts.simulate(given, PATHS, seconds, 0, away)

            touch, fills = measure_fills(simulated)
            return dynamics(fills, volatility(touch), market.price_scale)
        for venue, symbol in market.measured.multiples:
            own = dataclasses.replace(market, venue=venue, symbol=symbol)
            days = tapes(own.store, venue, symbol, own.day)

            def recorded(away: int, own: Replay = own, days: list[Tape] = days) -> facts.Record:
                return facts.replay(days, own.step_seconds, away, "train", own.venue_config("train", 1, 1))

            touch, fills = measure_fills(recorded)
            found.append(dynamics(fills, volatility(touch), own.price_scale))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"market {market.name!r} cannot be calibrated: {error}.") from None
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


PATHS = 64
"""Paths of a simulated market that it is calibrated on, each of a minute or 60 decisions."""


def measure(
    name: str,
    record: Callable[[int], facts.Record],
    orders: Orders | None = None,
) -> Calibration:
    """Everything about one source.

    Args:
        record: the source as its desk saw it, quoting so many half-ticks from the mid.
        orders: None where they are not known.
    """
    touch, fills = measure_fills(record)
    found = Calibration(
        source=name,
        seconds=touch.blocks["mid"].size * touch.seconds,
        fills=fills,
        volatility=volatility(touch),
        hawkes=fit_hawkes(orders.times, HAWKES_SECONDS, orders.tick, orders.joined) if orders else None,
        size=fit_pareto(orders.lots, 1.0, orders.joined) if orders else None,
        facts={
            f.fact.name: Estimate(f.value, f.low, f.high)
            for f in facts.findings(touch)
            if not math.isnan(f.value)
        },
        presets={},
    )
    return dataclasses.replace(found, presets=presets(found, touch))


@dataclass(frozen=True)
class Orders:
    """Market orders by block of `HAWKES_SECONDS`: prints of one side at one exchange time are one order."""

    times: list[Array]
    """Seconds from the start of the block."""
    lots: list[Array]
    joined: list[bool]
    """Whether a block continues the one before."""
    tick: float
    """Of the exchange's clock, seconds."""


def tape_orders(days: Sequence[Tape], seconds: float, share: float) -> Orders:
    """Market orders in the first `share` of the recorded time of the days of a symbol."""
    trades = [np.concatenate([rows[rows["kind"] == TRADE] for rows in tape.rows()]) for tape in days]
    tick = int(np.gcd.reduce([np.gcd.reduce(each["exch_ns"]) for each in trades]))
    spans = [int(np.ptp(each["exch_ns"])) if len(each) else 0 for each in trades]
    found = Orders([], [], [], tick / 1e9)
    left = share * sum(spans)
    for each, span in zip(trades, spans, strict=True):
        rows = each[np.argsort(each["exch_ns"], kind="stable")]
        since = rows["exch_ns"] - rows["exch_ns"][:1]
        rows, since = rows[since < left], since[since < left]
        left -= span
        if not len(rows):
            continue
        start = np.ones(len(rows), bool)
        start[1:] = (np.diff(rows["exch_ns"]) > 0) | (np.diff(rows["side"]) != 0)
        at = np.flatnonzero(start)
        lots = np.add.reduceat(rows["size"], at).astype(float)
        time = since[at] / 1e9
        block = (time // seconds).astype(int)
        for k in range(int(block[-1])):  # the last one is not whole
            found.times.append(time[block == k] - seconds * k)
            found.lots.append(lots[block == k])
            found.joined.append(k > 0)
    return found


HAWKES_SECONDS = 20.0
"""Length of a block of the fit of the Hawkes process."""


def calibrate_tapes(days: Sequence[Tape], step_seconds: float) -> Calibration:
    """The training part of a symbol: the first of its recorded time over all `days`."""
    from mmenv.venue.replay import ReplayConfig  # here, for not all have hftbacktest

    def record(away: int) -> facts.Record:
        return facts.replay(days, step_seconds, away, split="train")

    orders = tape_orders(days, HAWKES_SECONDS, ReplayConfig().fractions[0])
    return measure(facts.tape_name(days[0]), record, orders)


def calibrate_market(market: str | dict[str, Any], options: Options) -> Calibration:
    """A simulated market, through the same eyes."""

    def record(away: int) -> facts.Record:
        return facts.simulate(market, options.environments, options.seconds, options.seed, away)

    return measure(market if isinstance(market, str) else str(market["name"]), record)


# Presets ----------------------------------------------------------------------------------------------------


def presets(found: Calibration, record: facts.Record) -> dict[str, dict[str, Any]]:
    """Parameters of `brownian`, and where there is a book of `book`, that look like what was found."""
    brownian = {
        "name": "brownian",
        "step_seconds": record.seconds,
        **dynamics(found.fills, found.volatility, record.scale),
    }
    if not record.has_book or found.hawkes is None or found.size is None:
        return {"brownian": brownian}
    return {"brownian": brownian, "book": _book(found, record, short_term(found.volatility))}


def _book(found: Calibration, record: facts.Record, volatility: float) -> dict[str, Any]:
    """The nearest preset with what was measured put in; its volatility and order rate are then scaled until
    the simulated mid and volume are as lively as the recorded ones."""
    b = record.blocks
    assert found.hawkes is not None
    assert found.size is not None
    unit = volatility / 2
    source = found.source.lower()
    same = [name for name in PRESETS if all(part in source for part in name.rsplit("-", 1))]
    nearest = min(same or PRESETS, key=lambda name: abs(math.log(PRESETS[name]["unit"] / unit)))
    volume = float((b["buy_lots"] + b["sell_lots"]).mean() / record.seconds)
    queue = float((b["best_bid_lots"] + b["best_ask_lots"]).mean() / 2)
    # `book` has two exponentials; a single one leaves the second without weight.
    branching = [*(e.value for e in found.hawkes.branching), 0.0][:2]
    branching = [share * min(0.9 / max(sum(branching), 1e-9), 1.0) for share in branching]
    seconds = [*(max(1 / e.value, 1e-3) for e in found.hawkes.decay), 1.0][:2]
    market: dict[str, Any] = {
        "name": "book",
        "preset": nearest,
        "step_seconds": record.seconds,
        "start_price": int(np.median(b["mid"] - b["spread"] // 2) // 2),
        "unit": unit,
        "volume": volume,
        "size_exponent": found.size.value,
        "excitation": tuple(branching),
        "excitation_seconds": tuple(seconds),
        "order_rate": found.hawkes.rate.value,
        "volatility": unit,
        "queue": queue,
        "refill": max(queue * PRESETS[nearest]["refill"] / PRESETS[nearest]["queue"], 1.0),
    }
    for _ in range(ROUNDS):
        simulated = facts.simulate(market, 16, 120.0, seed=1)
        s = simulated.blocks
        moves = simulated.returns(1.0)
        liveliness = volatility / max(float(np.sqrt((moves**2).mean())), 1e-9)
        trading = volume / max(float((s["buy_lots"] + s["sell_lots"]).mean() / record.seconds), 1e-9)
        market["volatility"] *= min(max(liveliness, 0.25), 4.0)
        market["order_rate"] *= min(max(trading, 0.25), 4.0)
    return market


ROUNDS = 4


# The command ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Measure markets and write them down as presets that gym.make takes."""

    source: tyro.conf.Positional[str]
    """A store, a tape.parquet, or a simulated market to check the method on."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("calibration.json")
    """Where the presets go. The page of plots lies beside it."""
    venue: str = "*"
    symbol: str = "*"
    """Which symbol of a store, as patterns; exactly one must match. All its days are measured."""
    step_seconds: float = 0.1
    """Time between two decisions on a tape."""
    seconds: float = 600.0
    """Length of each simulated path."""
    environments: int = 16
    """Number of simulated paths."""
    seed: int = 0


def write(found: Calibration, path: Path) -> None:
    """The JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(found), indent=2))


def table(found: Calibration) -> Table:
    """What was measured, with units."""
    result = Table(title=f"{found.source}: {found.seconds:,.0f} s")
    for heading in ("estimate", "unit", "value [95% interval]"):
        result.add_column(heading, justify="left" if heading == "estimate" else "right")
    fills = found.fills
    rows: list[tuple[str, str, object]] = [
        ("fill rate at the mid, A", "1/s", fills.rate),
        ("its decay, k", "1/half-tick", fills.decay),
        ("fills at the touch over the exponential", "", fills.touch),
        ("fit beyond the touch, p-value", "", f"{fills.p_value:.3f}"),
        *((f"volatility over {s} s", "half-ticks/sqrt(s)", e) for s, e in found.volatility.items()),
    ]
    if found.hawkes is not None:
        rows += [
            ("orders of their own", "1/s", found.hawkes.rate),
            *(("orders that each sets off", "", branching) for branching in found.hawkes.branching),
            *(("decay of their excitation", "1/s", decay) for decay in found.hawkes.decay),
            ("BIC, one exponential and two", "", "{:.1f}, {:.1f}".format(*found.hawkes.bic)),
            ("likelihood ratio of the two, p-value", "", f"{found.hawkes.ratio_p_value:.3g}"),
            ("fit of the orders' times, p-value", "", f"{found.hawkes.p_value:.3g}"),
            (
                "correlation of neighbouring residuals, p-value",
                "",
                f"{found.hawkes.correlation:.3f}, {found.hawkes.correlation_p_value:.3g}",
            ),
        ]
    if found.size is not None:
        rows.append(("Pareto exponent of order sizes", "", found.size))
    rows += [(name, "", estimate) for name, estimate in found.facts.items()]
    for name, unit, value in rows:
        result.add_row(name, unit, str(value).replace("[", "\\["))
    return result


def plot_fills(found: Calibration, path: Path) -> None:
    """Fills by distance, and the exponential through them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    fills = found.fills
    distance = np.linspace(0, max(fills.distance), 100)
    axes.plot(fills.distance, fills.per_second, "o", label="measured")
    axes.plot(distance, fills.rate.value * np.exp(-fills.decay.value * distance), label="A exp(-k d)")
    axes.set(xlabel="distance from the mid, half-ticks", ylabel="fills per second and side", yscale="log")
    axes.set_title(found.source)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=110)


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = tyro.cli(Options, args=args, prog="neuralmm calibrate")
    path = Path(options.source)
    if path.exists():
        days = [Tape(path)] if path.is_file() else tapes(path, options.venue, options.symbol)
        symbols = {f"{tape.info.venue} {tape.info.symbol}" for tape in days}
        if len(symbols) != 1:
            raise ConfigError(
                f"--venue {options.venue!r} and --symbol {options.symbol!r} match {len(symbols)} symbols "
                f"({', '.join(sorted(symbols))}): name one."
            )
        found = calibrate_tapes(days, options.step_seconds)
        shown = [facts.replay(days, options.step_seconds, split="train")]
    elif options.source in MARKETS:
        found = calibrate_market(options.source, options)
        shown = [facts.simulate(options.source, options.environments, options.seconds, options.seed)]
    else:
        raise ConfigError(
            f"{options.source!r} is neither the path of a store or tape nor a market ({', '.join(MARKETS)})."
        )
    write(found, options.output)
    Console().print(table(found))
    if "book" in found.presets:
        copy = facts.simulate(found.presets["book"], options.environments, options.seconds, options.seed)
        shown.append(dataclasses.replace(copy, name="book, calibrated"))
    page = options.output.with_suffix(".png")
    facts.plot(shown, page)
    plot_fills(found, page.with_stem(f"{page.stem}-fills"))
    names = " and ".join(f"{options.output}:{name}" for name in found.presets)
    print(
        f'Presets: {names}, as in gym.make("NeuralMM-v0", market="{options.output}:brownian")\nPlots: {page}'
    )


if __name__ == "__main__":
    main()
