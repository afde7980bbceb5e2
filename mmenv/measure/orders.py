"""Market orders of recorded tapes, in blocks of time: when they came, and how large they were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmenv.data.rows import TRADE
from mmenv.data.tape import Tape
from mmenv.engine.products import product
from mmenv.measure.hawkes import follows
from mmenv.measure.intervals import Array, Estimate, jackknife
from mmenv.times import SECOND

BLOCK_SECONDS = 20.0
"""Length of a block in which the clustering of orders is fitted."""


@dataclass(frozen=True)
class Orders:
    """Market orders by block of time: prints of one side at one exchange time are one order."""

    times: list[Array]
    """Seconds from the start of the block."""
    lots: list[Array]
    joined: list[bool]
    """Whether a block continues the one before."""
    tick: float
    """Tick of the exchange's clock, seconds."""


def tape_orders(days: Sequence[Tape], seconds: float, part: tuple[float, float]) -> Orders:
    """Find the market orders in a part of the recorded time of a symbol's days.

    `part` is where it begins and ends, as shares of that time. Blocks are `seconds` long; the last one of a
    day is not whole and left out.
    """
    trades = [np.concatenate([rows[rows["kind"] == TRADE] for rows in tape.rows()]) for tape in days]
    tick = int(np.gcd.reduce([np.gcd.reduce(each["exch_ns"]) for each in trades]))
    spans = [int(np.ptp(each["exch_ns"])) if len(each) else 0 for each in trades]
    found = Orders([], [], [], tick / SECOND)
    begin, end = (share * sum(spans) for share in part)
    before = 0.0
    for each, span in zip(trades, spans, strict=True):
        rows = each[np.argsort(each["exch_ns"], kind="stable")]
        since = rows["exch_ns"] - rows["exch_ns"][:1]
        first = max(begin - before, 0.0)
        kept = (since >= first) & (since < end - before)
        rows, since = rows[kept], since[kept] - first
        before += span
        if not len(rows):
            continue
        start = np.ones(len(rows), bool)
        start[1:] = (np.diff(rows["exch_ns"]) > 0) | (np.diff(rows["side"]) != 0)
        at = np.flatnonzero(start)
        lots = np.add.reduceat(rows["size"], at).astype(float)
        time = since[at] / SECOND
        block = (time // seconds).astype(int)
        for k in range(int(block[-1])):
            found.times.append(time[block == k] - seconds * k)
            found.lots.append(lots[block == k])
            found.joined.append(k > 0)
    return found


def fit_pareto(blocks: Sequence[Array], smallest: float, joined: Sequence[bool] | None = None) -> Estimate:
    """Fit the Pareto exponent of sizes of at least `smallest` (Hill's estimator over all of them).

    `joined` is that of `mmenv.measure.hawkes.fit_hawkes`. Raises `ValueError` where all have one size.
    """
    logs = [np.log(block[block >= smallest] / smallest) for block in blocks]
    counts, totals = np.array([len(each) for each in logs]), np.array([each.sum() for each in logs])
    if not sum(totals) > 0:
        raise ValueError("all market orders have the same size, so that their tail is not known")

    def exponent(weights: Array) -> Array:
        total = product(weights, totals)
        return np.array([product(weights, counts) / total if total > 0 else math.nan])

    return jackknife(np.cumsum(~follows(len(blocks), joined)), exponent)[0]
