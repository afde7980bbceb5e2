"""Measure a market and make presets of it; `mmenv.measure.calibrate_page` is the command.

From a recorded tape, or a simulated market, come with 95% intervals (`mmenv.measure.intervals.jackknife`):

* the fill rate of a quote by its distance from the mid (`mmenv.measure.fill_curve`);
* volatility at several scales (`mmenv.measure.dynamics`);
* clustering of market orders (`mmenv.measure.hawkes`), and the Pareto tail of their sizes
  (`mmenv.measure.orders`);
* spread, imbalance and mark-out, as `mmenv.measure.facts` measures them.

The result is a JSON file that `gym.make` takes for a market: `market="calibration.json:brownian"` or
`"calibration.json:book"`. Tapes are measured on one part alone (`ReplayConfig.fractions`), the training part
unless told otherwise, so that nothing that is evaluated on the rest has seen it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.checks import ConfigError
from mmenv.data.tape import Tape
from mmenv.files import replacing
from mmenv.market.book_presets import PRESETS
from mmenv.measure import facts, large_tick
from mmenv.measure.dynamics import dynamics, short_term, volatility
from mmenv.measure.fill_curve import FillCurve, measure_fills
from mmenv.measure.hawkes import Hawkes, fit_hawkes
from mmenv.measure.intervals import Estimate
from mmenv.measure.orders import BLOCK_SECONDS, Orders, fit_pareto, tape_orders
from mmenv.measure.record import TICK, MarketLike, Record, market_name, record_market, record_tape, tape_name
from mmenv.venue.settings import SPLITS, ReplayConfig


@dataclass(frozen=True)
class Calibration:
    """All that was measured of one source, and the presets made of it."""

    source: str
    seconds: float
    """Length of what was measured."""
    fills: FillCurve | None
    """None where nothing was filled."""
    volatility: dict[str, Estimate]
    """Volatility by scale in seconds, half-ticks per square root of a second."""
    hawkes: Hawkes | None
    size: Estimate | None
    """Pareto exponent of the sizes of market orders."""
    facts: dict[str, Estimate]
    presets: dict[str, dict[str, Any]]
    """Parameters of simulated markets that look like the source, by the market's name."""
    left_out: dict[str, str]
    """Why what is missing could not be fitted, by its name."""


def calibrate_tapes(
    days: Sequence[Tape],
    step_seconds: float,
    evaluations: int = 0,
    config: ReplayConfig | None = None,
) -> Calibration:
    """Calibrate to one part of the recorded time of a symbol over all `days`.

    `evaluations` are the simulations that the search for a large-tick `book` may spend; `config` says which
    part, by default the training part, and how fills are found.
    """
    settings = config or ReplayConfig(split="train")

    def record(away: int) -> Record:
        return record_tape(days, step_seconds, away, settings.split, settings)

    orders = tape_orders(days, BLOCK_SECONDS, shares(settings))
    return measure(tape_name(days[0]), record, orders, evaluations)


def shares(config: ReplayConfig) -> tuple[float, float]:
    """Where the part of the recorded time begins and ends that `config.split` names."""
    if config.split == "all":
        return 0.0, 1.0
    place = SPLITS.index(config.split)
    return sum(config.fractions[:place]), sum(config.fractions[: place + 1])


def calibrate_market(
    market: MarketLike,
    environments: int = 16,
    seconds: float = 600.0,
    seed: int = 0,
    evaluations: int = 0,
) -> Calibration:
    """Calibrate to a simulated market, seen through the same eyes: `environments` paths of `seconds` each."""

    def record(away: int) -> Record:
        return record_market(market, environments, seconds, seed, away)

    return measure(market_name(market), record, evaluations=evaluations)


def measure(
    name: str, record: Callable[[int], Record], orders: Orders | None = None, evaluations: int = 0
) -> Calibration:
    """Measure everything about one source.

    Parameters
    ----------
    record
        Gives the source as its desk saw it when it quoted so many half-ticks from the mid.
    orders
        Its market orders; None where they are not known.
    evaluations
        See `calibrate_tapes`.
    """
    left_out: dict[str, str] = {}
    fills, hawkes, size = None, None, None
    try:
        touch, fills = measure_fills(record)
    except ConfigError:
        raise
    except ValueError as error:
        touch = record(0)
        left_out["fills"] = str(error)
    try:
        if orders is not None:
            hawkes = fit_hawkes(orders.times, BLOCK_SECONDS, orders.tick, orders.joined)
            size = fit_pareto(orders.lots, 1.0, orders.joined)
    except ValueError as error:
        left_out["orders"] = str(error)
    found = Calibration(
        source=name,
        seconds=touch.blocks["mid"].size * touch.seconds,
        fills=fills,
        volatility=volatility(touch),
        hawkes=hawkes,
        size=size,
        facts={f.fact.name: f.estimate for f in facts.findings(touch) if not math.isnan(f.estimate.value)},
        presets={},
        left_out=left_out,
    )
    return presets(found, touch, evaluations)


WIDE = 4.0
"""Mean spread, ticks, beyond which no `book` is made: there the side that is left soon follows."""


def presets(found: Calibration, record: Record, evaluations: int) -> Calibration:
    """Add presets of `brownian`, and where there is a book of `book`, or the reason why there is none."""
    made: dict[str, dict[str, Any]] = {}
    left_out = dict(found.left_out)
    if found.fills is None:
        left_out["brownian"] = f"it needs the fill rate: {left_out['fills']}"
    else:
        units = dynamics(found.fills, found.volatility, record.scale)
        made["brownian"] = {"name": "brownian", "step_seconds": record.seconds, **units}
    if not record.has_book:
        left_out["book"] = "the market shows no book"
    elif facts.regime_of(record) == facts.REGIMES[0]:
        made["book"] = large_tick.fit(record, evaluations)
    elif (spread := record.blocks["spread"].mean() / TICK) > WIDE:
        left_out["book"] = f"the spread is {spread:.1f} ticks in the mean, and that of `book` soon closes"
    elif found.hawkes is None or found.size is None:
        left_out["book"] = f"it needs the market orders: {left_out.get('orders', 'they are not recorded')}"
    else:
        try:
            made["book"] = book_preset(found, found.hawkes, found.size, record)
        except ConfigError as error:
            left_out["book"] = str(error)
    return dataclasses.replace(found, presets=made, left_out=left_out)


MICRO_SECONDS = 0.02
"""Longest micro-step of a `book` that is made, that of the presets of Binance."""

ROUNDS = 4
"""Simulations by which `book_preset` is made as lively as the record."""


def book_preset(found: Calibration, hawkes: Hawkes, size: Estimate, record: Record) -> dict[str, Any]:
    """Put what was measured into the nearest preset of `book`; its volatility and order rate are then scaled
    until the simulated mid and volume are as lively as the recorded ones."""
    b = record.blocks
    wanted = short_term(found.volatility)
    unit = max(wanted / 2, 0.5)
    source = found.source.lower()
    same = [name for name in PRESETS if all(part in source for part in name.rsplit("-", 1))]
    nearest = min(same or PRESETS, key=lambda name: abs(math.log(PRESETS[name]["unit"] / unit)))
    volume = float((b["buy_lots"] + b["sell_lots"]).mean() / record.seconds)
    queue = float((b["best_bid_lots"] + b["best_ask_lots"]).mean() / 2)
    # `book` has two exponentials; a single one leaves the second without weight.
    branching = [*(e.value for e in hawkes.branching), 0.0][:2]
    branching = [share * min(0.9 / max(sum(branching), 1e-9), 1.0) for share in branching]
    seconds = [*(max(1 / e.value, 1e-3) for e in hawkes.decay), 1.0][:2]
    market: dict[str, Any] = {
        "name": "book",
        "preset": nearest,
        "step_seconds": record.seconds,
        "substeps": min(math.ceil(record.seconds / MICRO_SECONDS), 100),
        "start_price": int(np.median(b["mid"] - b["spread"] // 2) // 2),
        "unit": unit,
        "volume": volume,
        "size_exponent": size.value,
        "excitation": tuple(branching),
        "excitation_seconds": tuple(seconds),
        "order_rate": hawkes.rate.value,
        "volatility": wanted / 2,
        "queue": queue,
        "refill": max(queue * PRESETS[nearest]["refill"] / PRESETS[nearest]["queue"], 1.0),
    }
    for _ in range(ROUNDS):
        simulated = record_market(market, 16, 120.0, seed=1)
        s = simulated.blocks
        moves = simulated.returns(1.0)
        liveliness = wanted / max(float(np.sqrt((moves**2).mean())), 1e-9)
        trading = volume / max(float((s["buy_lots"] + s["sell_lots"]).mean() / record.seconds), 1e-9)
        market["volatility"] *= min(max(liveliness, 0.25), 4.0)
        market["order_rate"] *= min(max(trading, 0.25), 4.0)
    return market


def write(found: Calibration, path: Path) -> None:
    """Write the JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(found), indent=2))


def _plain(value: Any) -> Any:
    """Turn dataclasses and estimates into dicts, and leave what JSON knows as it is."""
    if isinstance(value, Estimate):
        return value._asdict()
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
