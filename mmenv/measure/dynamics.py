"""What closed-form market makers need to know of a market: fill rate, its decay, and volatility."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from mmenv.checks import ConfigError
from mmenv.data.tape import Tape, tapes
from mmenv.engine.products import product
from mmenv.market.base import Market
from mmenv.market.replay import Replay
from mmenv.measure.fill_curve import FillCurve, measure_fills
from mmenv.measure.intervals import Array, Estimate, jackknife, parts
from mmenv.measure.record import Record, record_market, record_tape

SCALES = (0.1, 1.0, 10.0, 60.0)
"""Intervals at which volatility is measured, seconds."""

PATHS = 64
"""Paths of a simulated market that it is calibrated on, each of a minute or 60 decisions."""


def volatility(record: Record) -> dict[str, Estimate]:
    """Root mean square of the mid's moves by scale in seconds, half-ticks per square root of a second."""
    found = {}
    for scale in SCALES:
        squares = record.returns(scale) ** 2
        if scale > 0.99 * record.seconds and squares.shape[1] > 1:
            sums, counts = parts(squares)
            total, trials = sums.ravel(), np.tile(counts * record.lag(scale) * record.seconds, len(sums))

            def deviation(weights: Array, total: Array = total, trials: Array = trials) -> Array:
                return np.sqrt([product(weights, total) / product(weights, trials)])

            [found[f"{scale:g}"]] = jackknife(np.repeat(record.path, sums.shape[1]), deviation)
    return found


def short_term(volatility: dict[str, Estimate]) -> float:
    """The volatility over a second, or over the shortest scale there is."""
    return volatility.get("1", next(iter(volatility.values()))).value


def dynamics(fills: FillCurve, volatility: dict[str, Estimate], price_scale: float) -> dict[str, float]:
    """Put a calibration into price units and seconds, as `policies.analytic.Dynamics` takes it.

    `price_scale` is the number of half-ticks in a price unit.
    """
    return {
        "arrival_rate": fills.rate.value,
        "fill_decay": max(fills.decay.value * price_scale, 1e-2),
        "volatility": short_term(volatility) / price_scale,
    }


def read_dynamics(path: Path, price_scale: float) -> dict[str, float]:
    """Read the `dynamics` of a file of `neuralmm calibrate`; raise `ConfigError` where it is none."""
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
    """Measure the `dynamics` of a market: a simulated one on `PATHS` minutes, tapes on their training part.

    Tapes are replayed under the market's own latency and queue model. Several symbols give their mean, each
    in its own price units. Raises `ConfigError` where there are too few fills.
    """
    found = []
    try:
        if not isinstance(market, Replay):
            seconds = 60 * max(market.step_seconds, 1.0)
            touch, fills = measure_fills(lambda away: record_market(market, PATHS, seconds, 0, away))
            return dynamics(fills, volatility(touch), market.price_scale)
        for venue, symbol in market.measured.multiples:
            own = dataclasses.replace(market, venue=venue, symbol=symbol)
            days = tapes(own.store, venue, symbol, own.day)

            def recorded(away: int, own: Replay = own, days: list[Tape] = days) -> Record:
                return record_tape(days, own.step_seconds, away, "train", own.venue_config("train", 1, 1))

            touch, fills = measure_fills(recorded)
            found.append(dynamics(fills, volatility(touch), own.price_scale))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"market {market.name!r} cannot be calibrated: {error}.") from None
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}
