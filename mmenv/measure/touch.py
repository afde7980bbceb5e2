"""A lot that joins the queue at the touch and stays there: when it fills, what that is worth, and what the
book around it does. Measured alike on tapes and in simulated markets. Intervals are those of the minutes
recorded, by moving blocks of time; those of `mmenv.measure.facts` are for the market.

Fills and mark-outs come by the place in the queue when it was joined and by the time at the touch; beside
them what a queue is when the price has moved, and the response of the price to each kind of event (as
LOB-Bench measures it; Nagy et al. 2025). All is seen at decisions: an event is what happened between two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenv.measure.intervals import Array, Estimate, bootstrap, parts
from mmenv.measure.record import Record

HORIZONS = (0.1, 1.0, 5.0, 30.0)
"""Seconds after a fill, or an event, at which the mid is looked at."""

LONG_SECONDS = 5.0
"""Time at the touch beyond which an order has waited long."""


@dataclass(frozen=True)
class Row:
    """What one kind of order, or event, is followed by."""

    name: str
    rate: Estimate
    """Fills, or events, a minute: of both sides together, in the time in which there is such an order."""
    after: dict[float, Estimate]
    """By horizon: mark-out from the fill price, or the mid's move in the direction of the event; half-ticks,
    mean of all lots, or events."""


def horizons(record: Record) -> list[float]:
    """Those of `HORIZONS` that the record can tell."""
    length = record.blocks["mid"].shape[1]
    return [h for h in HORIZONS if h > 0.99 * record.seconds and record.lag(h) < length / 2]


def fills(record: Record) -> list[Row]:
    """Fills and mark-outs of a lot at the touch: all, by place when joined, by time at the touch.

    The record's quotes rest at the touch (`away` 0).
    """
    b = record.blocks
    half = b["spread"] // 2
    found: dict[str, list[tuple[NDArray[Any], ...]]] = {}
    for side, name in ((1, "ask"), (-1, "bid")):
        price, queue, filled = b["mid"] + side * half, b[f"best_{name}_lots"], b[f"{name}_fill"]
        joined = joined_at(price, filled)
        ahead = np.take_along_axis(queue, joined, axis=1)[:, :-1]
        age = (np.arange(price.shape[1]) - joined)[:, :-1] * record.seconds
        mean = queue.mean()
        kinds = {
            "every order": np.ones_like(ahead, bool),
            "joined a queue below the mean": ahead < mean,
            "joined a longer queue": ahead >= mean,
            f"at the touch for less than {LONG_SECONDS:g} s": age < LONG_SECONDS,
            "at the touch for longer": age >= LONG_SECONDS,
        }
        worth = [marked(record, side, name, h) for h in horizons(record)]
        for kind, chosen in kinds.items():
            found.setdefault(kind, []).append((chosen * filled[:, 1:], chosen, *(chosen * w for w in worth)))
    return [make_row(record, kind, sides) for kind, sides in found.items()]


def every_fill(record: Record) -> tuple[float, dict[float, float]]:
    """Fills a minute of both sides, and by horizon their mean mark-out from the fill price, half-ticks."""
    b = record.blocks
    filled = {1: b["ask_fill"][:, 1:], -1: b["bid_fill"][:, 1:]}
    rate = sum(each.sum() for each in filled.values()) / (b["mid"].size * record.seconds / 60)
    worth = {}
    for h in horizons(record):
        sums = [(marked(record, side, name, h), filled[side]) for side, name in ((1, "ask"), (-1, "bid"))]
        total = sum(np.nansum(value) for value, _ in sums)
        lots = sum(lots[~np.isnan(value)].sum() for value, lots in sums)
        worth[h] = float(total / lots) if lots else np.nan
    return float(rate), worth


def joined_at(price: NDArray[np.int64], filled: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the decision at which the order that rests at each decision joined the queue, (blocks, n)."""
    new = np.ones(price.shape, bool)
    new[:, 1:] = (price[:, 1:] != price[:, :-1]) | (filled[:, 1:] > 0)
    return np.maximum.accumulate(np.where(new, np.arange(price.shape[1]), 0), axis=1)


def marked(record: Record, side: int, name: str, seconds: float) -> Array:
    """What the fills of a side between two decisions had earned so long after the first, half-ticks x lots.

    NaN where the block ends before, (blocks, decisions - 1).
    """
    b = record.blocks
    later = after(b["mid"], record.lag(seconds))
    return side * (b[f"{name}_value"][:, 1:] - b[f"{name}_fill"][:, 1:] * later)


def after(mid: NDArray[np.int64], lag: int) -> Array:
    """The mid `lag` decisions after each but the last, NaN past the end of the block."""
    later = np.full((len(mid), mid.shape[1] - 1), np.nan)
    later[:, : mid.shape[1] - lag] = mid[:, lag:]
    return later


def rested(record: Record) -> dict[str, list[tuple[int, NDArray[np.bool_]]]]:
    """Limit orders and cancels at a touch that stays: for each side, +1 where they push the price up, and
    whether more lots joined than left between two decisions, or more left, (blocks, decisions - 1)."""
    b = record.blocks
    half = b["spread"] // 2
    found: dict[str, list[tuple[int, NDArray[np.bool_]]]] = {"limit order": [], "cancel": []}
    for side, name, taken in ((-1, "ask", b["buy_lots"]), (1, "bid", b["sell_lots"])):
        price = b["mid"] - side * half
        stays = price[:, 1:] == price[:, :-1]
        change = np.diff(b[f"best_{name}_lots"], axis=1) + taken[:, 1:]
        found["limit order"].append((side, stays & (change > 0)))
        found["cancel"].append((-side, stays & (change < 0)))
    return found


def events(record: Record) -> list[Row]:
    """What the mid does after orders of each kind at the touch, in the direction in which they push."""
    b = record.blocks
    bought, sold = b["buy_lots"][:, 1:], b["sell_lots"][:, 1:]
    market = [(1, (bought > 0) & (sold == 0)), (-1, (sold > 0) & (bought == 0))]
    found = []
    for kind, sides in {"market order": market, **rested(record)}.items():
        table = []
        for sign, happened in sides:
            moves = [after(b["mid"], record.lag(h)) - b["mid"][:, :-1] for h in horizons(record)]
            worth = [np.where(happened, sign * move, 0.0 * move) for move in moves]
            table.append((happened, np.ones_like(happened), *worth))
        found.append(make_row(record, kind, table))
    return found


def make_row(record: Record, name: str, sides: list[tuple[NDArray[Any], ...]]) -> Row:
    """A row from, for each side, (count, in force, sum at each horizon), each (blocks, decisions - 1)."""
    count, force = (np.sum([side[k] for side in sides], axis=0) for k in (0, 1))
    cells = [parts(count)[0], parts(force * record.seconds / 120)[0]]
    for k in range(len(horizons(record))):
        known = [~np.isnan(side[2 + k]) for side in sides]
        worth = np.sum(
            [np.where(ok, side[2 + k], 0.0) for ok, side in zip(known, sides, strict=True)], axis=0
        )
        counted = np.sum([side[0] * ok for ok, side in zip(known, sides, strict=True)], axis=0)
        cells += [parts(worth)[0], parts(counted)[0]]
    rate, *rest = [quotient(*cells[k : k + 2]) for k in range(0, len(cells), 2)]
    return Row(name, rate, dict(zip(horizons(record), rest, strict=True)))


def quotient(part: Array, whole: Array) -> Estimate:
    """Sum of the parts over the sum of the wholes, of cells in order of time, by moving blocks of them.

    How long blocks are goes by what each cell does to the quotient: both sums follow the activity.
    """

    def total(a: Array, b: Array) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return a.sum(axis=-1) / b.sum(axis=-1)

    cells = part.ravel(), whole.ravel()
    influence = cells[0] - np.nan_to_num(total(*cells)) * cells[1]
    return bootstrap(total, cells, lead=influence, resamples=300)


def queues(record: Record) -> dict[str, Estimate]:
    """The queue at the touch once the price has moved, as a multiple of the mean queue.

    Measured at the first decision after: what was behind the touch that is gone; what the side that followed
    has formed; and, where a price is the touch again within 10 s, what is there over what was there when it
    was left.
    """
    found = {name: quotient(*map(cells_of, pair)) for name, pair in moved_queues(record).items()}
    back = [returned(price, queue, record.lag(10.0)) for _, price, queue in touches(record)]
    now, before = (np.sum([side[k] for side in back], axis=0) for k in (0, 1))
    return {**found, "found again": quotient(cells_of(now), cells_of(before))}


def touches(record: Record) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Of each side: +1 for the ask, price of the touch, half-ticks, and its queue; (blocks, decisions)."""
    b = record.blocks
    half = b["spread"] // 2
    return [
        (side, b["mid"] + side * half, b[f"best_{name}_lots"]) for side, name in ((1, "ask"), (-1, "bid"))
    ]


def moved_queues(record: Record) -> dict[str, tuple[Array, Array]]:
    """Queues at a touch that is new at a decision, and mean queues there, (blocks, decisions - 1); else 0."""
    sides = touches(record)
    mean = float(np.mean([queue.mean() for _, _, queue in sides]))
    found = {}
    for name, sign in (("revealed behind the touch", 1), ("formed at a new touch", -1)):
        moved = [sign * side * np.diff(price, axis=1) > 0 for side, price, _ in sides]
        lots = [np.where(m, queue[:, 1:], 0.0) for m, (_, _, queue) in zip(moved, sides, strict=True)]
        found[name] = np.sum(lots, axis=0), np.sum(moved, axis=0) * mean
    return found


def cells_of(values: NDArray[Any]) -> Array:
    """Sums of values (blocks, times) over the cells of `mmenv.measure.intervals.parts`."""
    return parts(values)[0]


def returned(price: NDArray[np.int64], queue: NDArray[np.int64], most: int) -> tuple[Array, Array]:
    """Per decision but the first: the queue at a price that is the touch again within `most` decisions, and
    the one that was left there; zeros elsewhere."""
    now, before = np.zeros((2, len(price), price.shape[1] - 1))
    for block in range(len(price)):
        left: dict[int, int] = {}
        for t in np.flatnonzero(np.diff(price[block])):
            left[int(price[block, t])] = int(t)
            since = left.get(int(price[block, t + 1]))
            if since is not None and t + 1 - since <= most:
                now[block, t], before[block, t] = queue[block, t + 1], queue[block, since]
    return now, before
