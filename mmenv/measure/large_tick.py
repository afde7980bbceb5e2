"""Fit a `book` to a large-tick market by simulated moments: a random search.

What is matched: how far and how often the mid moves, spread, queues, what joins and leaves them, how far
ahead their imbalance speaks, and fills and mark-outs of a lot that joins the touch at the back and stays.
Every candidate is simulated with seeds of its own, and the best ones again and again, so that none is chosen
for its luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from mmenv.checks import ConfigError
from mmenv.market.book import LIMITS
from mmenv.market.book_presets import PRESETS
from mmenv.measure import touch
from mmenv.measure.facts import area, ranks
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

KEPT = 10
"""Candidates from which new ones are made."""


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


def distance(found: dict[str, float], wanted: dict[str, float]) -> float:
    """Mean square of the errors in tolerances, over what is wanted and known; each at most 100."""
    errors = []
    for name, value in wanted.items():
        plain = name.startswith(PLAIN)
        if math.isnan(value) or (value <= 0 and not plain):
            continue  # of what never happens there is no logarithm
        here = found[name]
        if math.isnan(here) or (here <= 0 and not plain):
            errors.append(10.0)
        else:
            error = here - value if plain else math.log(here / value)
            errors.append(min(abs(error) / TOLERANCES[name], 10.0))
    return float(np.mean(np.square(errors)))


@dataclass
class Candidate:
    """Parameters, and the mean distance of so many simulations of them."""

    tuned: dict[str, float]
    distance: float = 0.0
    times: int = field(default=0)

    def add(self, distance: float) -> None:
        """Take one more simulation into the mean."""
        self.distance = (self.distance * self.times + distance) / (self.times + 1)
        self.times += 1


def fit(record: Record, evaluations: int, seed: int = 0) -> dict[str, Any]:
    """Parameters of a `book` that looks like `record`, whose quotes rest at the touch.

    Parameters
    ----------
    evaluations
        Simulations that the search may spend. 0: the model in the record's lots and price.
    seed
        Of the search; candidates are simulated with seeds of their own.
    """
    wanted = moments(record)
    base = start(record, wanted)
    generator = np.random.default_rng(seed)
    best = [Candidate({name: base[name] for name in TUNED})]
    for k in tqdm(range(evaluations), desc="fitting book", unit="simulation", leave=False, disable=None):
        again = k == 0 or generator.random() < 0.25
        if again:
            candidate = min(best[:4], key=lambda each: each.times)
        else:
            parent = best[0] if generator.random() < 0.6 else best[generator.integers(len(best))]
            candidate = Candidate(varied(parent.tuned, k / evaluations, generator))
        try:
            simulated = record_market({**base, **candidate.tuned}, PATHS, SECONDS, seed=PATHS * (k + 1))
        except ConfigError:
            continue  # such as a rate that is too high for the micro-steps
        candidate.add(distance(moments(simulated), wanted))
        best = best if again else [*best, candidate]
        best = sorted(best, key=lambda each: each.distance)[:KEPT]
    sure = [each for each in best if each.times > 1] or best
    return {**base, **sure[0].tuned}


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
        **{name: max(model[name] * lots, LIMITS[name][0]) for name in IN_LOTS},
        "volume": wanted["volume"],
        "step_seconds": record.seconds,
        "substeps": min(math.ceil(record.seconds / micro), 100),
        "start_price": int(np.median(b["mid"] - b["spread"] // 2) // TICK),
    }


def varied(tuned: dict[str, float], progress: float, generator: np.random.Generator) -> dict[str, float]:
    """Some of the parameters multiplied by log-normal factors, the smaller the later, within `LIMITS`."""
    width, chance = 0.35 * (1 - progress) + 0.05, 0.6 if progress < 0.3 else 0.3
    changed = dict(tuned)
    for name in tuned:
        if generator.random() < chance:
            low, high = LIMITS[name]
            new = tuned[name] * math.exp(width * generator.standard_normal())
            changed[name] = float(np.clip(new, low, high))
    return changed
