"""Coverage: how often do the 95% intervals of `neuralmm calibrate` hold the truth?

`python -m benchmarks.calibration` measures many short simulated recordings, as long as the training part of
the tapes of `docs/recorded.md` and cut into as few blocks, and counts. The truth of `brownian`, of the order
times and of the sizes is what they were made with; that of `book` is what the same estimator finds in `LONG`
such recordings taken as one, a mean over the market's levels of activity. Interrupted, it begins again;
`--only` chooses a part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tyro
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from tqdm import tqdm

from mmenv import make_config
from mmenv.measure.dynamics import volatility
from mmenv.measure.fill_curve import DISTANCES, measure_fills
from mmenv.measure.hawkes import Hawkes, fit_hawkes
from mmenv.measure.intervals import Estimate
from mmenv.measure.orders import BLOCK_SECONDS, fit_pareto
from mmenv.measure.record import make_record, simulate_paths

RATE, DECAY, DEVIATION = 5.0, 0.8, 4.0
BROWNIAN: dict[str, Any] = {
    "name": "brownian",
    "step_seconds": 0.1,
    "arrival_rate": RATE,
    "fill_decay": DECAY,
    "volatility": DEVIATION,
}
BOOK: dict[str, Any] = {"name": "book", "preset": "binance-usdm-btc"}
LONG = 400
"""Recordings that the truth of `book` is measured on."""
ONE = (7.0, [0.35], [50.0])
TWO = (7.4, [0.17, 0.22], [270.0, 10.0])
"""Rate, branching and decay of order times; about those of the tapes."""
TICK = 1e-3
"""Order times are seen by a clock of milliseconds, seconds."""
PARETO = 1.7

TESTED = "test of the residuals does not reject at 5%"
NEIGHBOURS = "test of neighbouring residuals does not reject at 5%"

Named = dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure simulated recordings and count how many intervals hold the truth."""

    series: int = 200
    """How many recordings of each kind."""
    seconds: float = 300.0
    """Length of each."""
    only: tuple[str, ...] = ("brownian", "book", "one-exponential", "two-exponentials", "sizes")
    """Which kinds."""
    seed: int = 0


def simulate_hawkes(
    rng: np.random.Generator, end: float, rate: float, branching: ArrayLike, decay: ArrayLike
) -> NDArray[np.float64]:
    """Order times in [0, end) by their branching structure (Hawkes and Oakes 1974): immigrants, and Poisson
    offspring of each."""
    waiting = list(rng.uniform(0, end, rng.poisson(rate * end)))
    times = []
    while waiting:
        time = waiting.pop()
        times.append(time)
        for share, speed in zip(np.atleast_1d(branching), np.atleast_1d(decay), strict=True):
            waiting += [t for t in time + rng.exponential(1 / speed, rng.poisson(share)) if t < end]
    return np.sort(times)


def of_market(
    market: dict[str, Any], count: int, seconds: float, seed: int, together: bool = False
) -> Iterator[Named]:
    """Fill curve and volatility of `count` recordings of a market, each alone, or of all of them as one."""
    step = make_config(market).market.step_seconds
    touch = simulate_paths(market, seconds, seed, np.zeros(count, np.int64))
    groups = [list(range(count))] if together else [[lane] for lane in range(count)]
    scale = np.zeros(count)
    for group in groups:
        scale[group] = make_record("", step, list(touch[group])).scale
    away = {m: np.round(m * scale).astype(int) for m in DISTANCES if m > 0}
    paths = [touch, *(simulate_paths(market, seconds, seed, each) for each in away.values())]
    for group in groups:
        records = [make_record("", step, list(each[group])) for each in paths]
        known = dict(zip([0, *(int(each[group[0]]) for each in away.values())], records, strict=True))
        measured, fills = measure_fills(known.__getitem__)
        found = {"fill rate at the mid, A": fills.rate, "decay of the fill rate, k": fills.decay}
        if measured.has_book:
            found["fills at the touch, multiple of the exponential"] = fills.touch
        yield found | {f"volatility over {scale} s": each for scale, each in volatility(measured).items()}


def brownian(options: Options) -> tuple[Iterator[Named], dict[str, float]]:
    scale = make_config(BROWNIAN).market.price_scale
    truth = {"fill rate at the mid, A": RATE, "decay of the fill rate, k": DECAY / scale}
    truth |= {f"volatility over {s:g} s": DEVIATION * scale for s in (0.1, 1.0, 10.0)}
    return of_market(BROWNIAN, options.series, options.seconds, 1000 * options.seed), truth


def book(options: Options) -> tuple[Iterator[Named], dict[str, float]]:
    [found] = of_market(BOOK, LONG, options.seconds, 1_000_000, together=True)
    truth = {name: estimate.value for name, estimate in found.items()}
    return of_market(BOOK, options.series, options.seconds, 1000 * options.seed), truth


def order_times(
    truth: tuple[float, list[float], list[float]], options: Options
) -> tuple[Iterator[Named], dict[str, float]]:
    """Fits of order times on a clock of `TICK`; recordings for which BIC takes another number of exponentials
    give no intervals."""
    rate, branching, decay = truth
    names = ["baseline intensity of market orders"]
    names += [f"branching ratio, {k + 1}" for k in range(len(decay))]
    names += [f"decay of the excitation, {k + 1}" for k in range(len(decay))]

    def found() -> Iterator[Named]:
        rng = np.random.default_rng(options.seed)
        burn = 60.0
        blocks = int(options.seconds // BLOCK_SECONDS)
        for _ in range(options.series):
            exact = simulate_hawkes(rng, burn + blocks * BLOCK_SECONDS, *truth) - burn
            times = exact[exact >= 0]
            cut = [times[times // BLOCK_SECONDS == k] - k * BLOCK_SECONDS for k in range(blocks)]
            yield named(fit_hawkes(cut, BLOCK_SECONDS, TICK))

    def named(fit: Hawkes) -> Named:
        if len(fit.decay) != len(decay):
            return {}
        estimates = [fit.rate, *fit.branching, *fit.decay]
        return dict(zip(names, estimates, strict=True)) | {
            TESTED: Estimate(fit.p_value, 0.0, fit.p_value),
            NEIGHBOURS: Estimate(fit.correlation_p_value, 0.0, fit.correlation_p_value),
        }

    values = [rate, *branching, *decay]
    return found(), dict(zip(names, values, strict=True)) | {TESTED: 0.05, NEIGHBOURS: 0.05}


def sizes(options: Options) -> tuple[Iterator[Named], dict[str, float]]:
    rng = np.random.default_rng(options.seed)
    blocks = int(options.seconds // BLOCK_SECONDS)
    name = "Pareto exponent of order sizes"
    drawn = ([1 + rng.pareto(PARETO, rng.poisson(100)) for _ in range(blocks)] for _ in range(options.series))
    return ({name: fit_pareto(each, 1.0)} for each in drawn), {name: PARETO}


KINDS: dict[str, Callable[[Options], tuple[Iterator[Named], dict[str, float]]]] = {
    "brownian": brownian,
    "book": book,
    "one-exponential": partial(order_times, ONE),
    "two-exponentials": partial(order_times, TWO),
    "sizes": sizes,
}


def main() -> None:
    options = tyro.cli(Options)
    print("| recording | estimate | truth | median estimate | intervals that hold the truth |")
    print("|---|---|---:|---:|---:|")
    for kind in options.only:
        found, truth = KINDS[kind](options)
        series = list(tqdm(found, desc=kind, total=options.series, leave=False))
        for name, value in truth.items():
            estimates = [each[name] for each in series if name in each]
            if not estimates:
                continue  # a scale of volatility that only the long recording has
            held = sum(e.low <= value <= e.high for e in estimates)
            low, high = stats.binomtest(held, len(estimates)).proportion_ci(method="wilson")
            median = np.median([e.value for e in estimates])
            print(
                f"| {kind} | {name} | {value:.4g} | {median:.4g} | {held} of {len(estimates)}: "
                f"{100 * held / len(estimates):.0f}% [{100 * low:.0f}, {100 * high:.0f}] |",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
