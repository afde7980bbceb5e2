"""Fit a `book` to a large-tick market by simulated moments: least squares by regression.

What is matched: how far and how often the mid moves, spread, queues, what joins and leaves them, how far
ahead their imbalance speaks, and fills and mark-outs of a lot that joins the touch at the back and stays.

The errors of the moments are nearly linear in the logarithms of the parameters. So each round simulates a
cloud of markets around the middle, draws a line through the errors of all clouds so far, the nearer ones
counting more, and moves the middle to where the line has the least squares: a Gauss-Newton step with slopes
that are regressed, for simulations are noisy. A moment that is noisier than its tolerance (volume is, by the
rare large order) counts less. No market is chosen for its luck: what comes out is a middle, which no cloud
holds.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from tqdm import tqdm

from mmenv.checks import ConfigError
from mmenv.engine.products import product, solve_linear
from mmenv.market.book import LIMITS
from mmenv.market.book_presets import PRESETS
from mmenv.measure import touch
from mmenv.measure.facts import area, ranks
from mmenv.measure.intervals import Array
from mmenv.measure.record import TICK, Record, record_market

MODEL = "nasdaq-msft"
"""The preset that the search starts from."""

SECONDS = 300.0
PATHS = 64
"""Simulated paths of a candidate, `SECONDS` each."""

TOLERANCES = {
    "move, 0.1 s": 0.08, "move, 1 s": 0.05, "move, 10 s": 0.05,
    "moving, 0.1 s": 0.15, "moving, 1 s": 0.1, "moving, 10 s": 0.1,
    "spread": 0.015, "queue": 0.06, "volume": 0.06, "revealed": 0.15, "formed": 0.15,
    "limit orders": 0.25, "cancels": 0.25,
    "auc, 0.1 s": 0.03, "auc, 1 s": 0.02, "auc, 5 s": 0.02,
    "fills": 0.08, "mark-out, 0.1 s": 0.06, "mark-out, 1 s": 0.06, "mark-out, 5 s": 0.07,
    "mark-out, 30 s": 0.12,
}  # fmt: skip
"""Moments with the error that counts as one: of the logarithm, but for the spread, AUCs and mark-outs."""

PLAIN = ("spread", "auc", "mark-out")

TUNED = (
    *("volatility", "order_rate", "order_size", "size_exponent", "impact", "width", "informed_rate"),
    *("pull_rate", "race", "flight", "queue", "queue_rate", "queue_events", "response", "refill", "lag"),
    *("follow", "close_rate", "meta_share", "meta_length", "jump_rate", "jump_size"),
)
"""Parameters of `book` that are searched; the others are those of `MODEL`."""

IN_LOTS = ("order_size", "max_order_size", "depth", "queue", "refill", "lots_per_print", "volume")
"""Parameters that grow with the size of a lot."""

LOTS = ("queue", "volume")
"""Moments that are counted in lots."""

WIDTH = 0.15
"""Standard deviation of the logarithm of a parameter in a cloud."""

FARTHEST = 0.5
"""Most that a logarithm changes in a step."""

RIDGE = 4.0
"""What a unit of change in a logarithm costs, in squared tolerances: parameters that no moment tells stay."""

CHECKS = 3
"""Simulations that what was found, and the start, are compared by, each."""

MOST = 10.0
"""Error of a moment, in tolerances, at which larger ones count the same."""


def moments(record: Record) -> dict[str, float]:
    """The moments of a record quoted at the touch, by the names of `TOLERANCES`; NaN where it cannot tell.

    Moves are root mean squares in ticks; *moving* is the share of intervals in which the mid moves, *spread*
    that of time with a spread of one tick; queues are lots, *revealed* and *formed* multiples of the mean
    one (`touch.queues`), volume lots a second, limit orders, cancels (`touch.rested`) and fills of one lot
    those of both sides in a minute, mark-outs half-ticks from the fill price.
    """
    b = record.blocks
    found = dict.fromkeys(TOLERANCES, math.nan)
    for seconds in (0.1, 1.0, 10.0):
        if seconds > 0.99 * record.seconds:
            moves = record.returns(seconds) / TICK
            found[f"move, {seconds:g} s"] = float(np.sqrt((moves**2).mean()))
            found[f"moving, {seconds:g} s"] = float((moves != 0).mean())
    found["spread"] = float((b["spread"] == TICK).mean())
    found["queue"] = float((b["best_bid_lots"] + b["best_ask_lots"]).mean() / 2)
    found["volume"] = float((b["buy_lots"] + b["sell_lots"]).mean() / record.seconds)
    for seconds in (0.1, 1.0, 5.0):
        found[f"auc, {seconds:g} s"] = area(ranks(record, seconds))
    for name, (lots, mean) in touch.moved_queues(record).items():
        found[name.split()[0]] = float(lots.sum() / mean.sum()) if mean.any() else math.nan
    for kind, sides in touch.rested(record).items():
        found[f"{kind}s"] = sum(int(seen.sum()) for _, seen in sides) / record.minutes
    rate, worth = touch.every_fill(record)
    found["fills"] = rate
    return found | {f"mark-out, {h:g} s": value for h, value in worth.items()}


def errors(found: dict[str, float], wanted: dict[str, float]) -> Array:
    """Errors in tolerances of all that is wanted and known, (moments,), each at most `MOST`."""
    listed = []
    for name, value in wanted.items():
        plain = name.startswith(PLAIN)
        if math.isnan(value) or (value <= 0 and not plain):
            continue  # of what never happens there is no logarithm
        here = found[name]
        if math.isnan(here) or (here <= 0 and not plain):
            listed.append(MOST)
        else:
            listed.append((here - value if plain else math.log(here / value)) / TOLERANCES[name])
    return np.clip(listed, -MOST, MOST)


def distance(found: dict[str, float], wanted: dict[str, float]) -> float:
    """Mean square of the errors in tolerances."""
    return float(np.square(errors(found, wanted)).mean())


def fit(record: Record, evaluations: int, seed: int = 0) -> dict[str, Any]:
    """Parameters of a `book` that looks like `record`, whose quotes rest at the touch.

    Parameters
    ----------
    evaluations
        Simulations that the search may spend, `len(TUNED) + 2` a round. Too few for a round: the model in the
        record's lots and price.
    seed
        Of the clouds; every market is simulated with seeds of its own.
    """
    wanted = moments(record)
    base = start(record, wanted)
    generator = np.random.default_rng(seed)
    first = middle = np.log([base[name] for name in TUNED])
    cloud = len(TUNED) + 2
    rounds = (evaluations - 2 * CHECKS) // cloud
    if rounds < 1:
        return base
    seeds = itertools.count(PATHS, PATHS)
    points, seen = [], []
    with progress(rounds * cloud + 2 * CHECKS) as bar:

        def simulated(logarithms: Array) -> Array:
            bar.update()
            market = record_market({**base, **tuned(logarithms)}, PATHS, SECONDS, seed=next(seeds))
            return errors(moments(market), wanted)

        for _ in range(rounds):
            for point in middle + WIDTH * generator.standard_normal((cloud, len(TUNED))):
                try:
                    seen.append(simulated(point))
                    points.append(point)
                except ConfigError:
                    continue  # such as a rate that is too high for the micro-steps
            if points:
                middle = stepped(middle, np.array(points), np.array(seen))
        try:
            far = [np.mean([np.square(simulated(x)) for _ in range(CHECKS)]) for x in (middle, first)]
        except ConfigError:
            return base
    return {**base, **tuned(middle)} if far[0] < far[1] else base


def progress(simulations: int) -> tqdm[Any]:
    """A bar of so many simulations."""
    return tqdm(total=simulations, desc="fitting book", unit="simulation", leave=False, disable=None)


def tuned(logarithms: Array) -> dict[str, float]:
    """The parameters `TUNED` from their logarithms, within `LIMITS`."""
    return {name: float(np.clip(np.exp(x), *LIMITS[name])) for name, x in zip(TUNED, logarithms, strict=True)}


def stepped(middle: Array, points: Array, seen: Array) -> Array:
    """The middle (n,) moved to the least squares of a line through the errors `seen`, (points, moments), at
    `points`, (points, n), which count less the farther they are; at most `FARTHEST` along each axis.

    A moment counts by what the line leaves of it, for simulations differ in it by as much.
    """
    away = points - middle
    near = np.exp(-np.square(away / (2 * WIDTH)).mean(axis=1) / 2)
    columns = np.concatenate([np.ones((len(away), 1)), away], axis=1)
    weighted = (near[:, None] * columns).T
    faint = 1e-2 * np.diag([1.0, *np.ones(len(middle))])  # what the points do not tell is none
    fitted = solve_linear(product(weighted, columns) + faint, product(weighted, seen))
    missed = near[:, None] * np.square(seen - product(columns, fitted))
    known = 1 / np.sqrt(1 + missed.sum(axis=0) / near.sum())
    level, slopes = fitted[0] * known, fitted[1:] * known
    curvature = product(slopes, slopes.T) + RIDGE * np.eye(len(middle))
    step = -solve_linear(curvature, product(slopes, level))
    return middle + np.clip(step, -FARTHEST, FARTHEST)


def start(record: Record, wanted: dict[str, float]) -> dict[str, Any]:
    """The model with the record's lots, price level and pace."""
    model = {k: v for k, v in PRESETS[MODEL].items() if k != "environment"}
    simulated = record_market({"name": "book", "preset": MODEL}, PATHS, SECONDS, seed=0)
    lots = wanted["queue"] / moments(simulated)["queue"]
    b = record.blocks
    micro = model["step_seconds"] / model["substeps"]
    return {
        "name": "book",
        "preset": MODEL,
        **model,
        **{name: float(np.clip(model[name] * lots, *LIMITS[name])) for name in IN_LOTS},
        "volume": wanted["volume"],
        "step_seconds": record.seconds,
        "substeps": min(math.ceil(record.seconds / micro), 100),
        "start_price": int(np.median(b["mid"] - b["spread"] // 2) // TICK),
    }
