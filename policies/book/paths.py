"""Paths of `book` by micro-step: what the others do, which depends on the seed alone.

The one place outside the market that calls its compiled functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from mmenv.actions.ladder import Ladder
from mmenv.actions.size import Size
from mmenv.checks import ConfigError
from mmenv.config import EnvConfig, make_config
from mmenv.desk.networks import make_desk
from mmenv.engine.memory import aligned_zeros
from mmenv.engine.state import LANES
from mmenv.market.book import Book
from mmenv.market.book_flow import drift, flow
from mmenv.market.book_orders import fill, front, place, reach
from mmenv.market.book_state import PARAMS, STATE

__all__ = [
    "MOST_AHEAD",
    "ROW",
    "Paths",
    "advance",
    "decision",
    "extent",
    "fill",
    "front",
    "lots_of_side",
    "place",
    "reach",
    "record",
    "redraw",
    "require_book",
    "start",
    "workspace",
]

ROW = np.dtype(
    [
        # The book before the micro-step: prices in ticks less the first bid, queues in lots.
        ("ask", "i4"),
        ("bid", "i4"),
        ("ask_queue", "i4"),
        ("bid_queue", "i4"),
        ("price", "f4"),  # the efficient one, half-ticks less twice the first bid
        ("meta", "f4"),  # side of the metaorder
        ("meta_left", "f4"),  # its orders still to come
        ("rate", "f4"),  # activity as a multiple of all rates, in the micro-step before
        ("excitation", "f4"),  # of market orders by earlier ones, a multiple of their rate
        # What happens in it.
        ("buy", "i4"),  # lots of the market order
        ("sell", "i4"),
        ("ask_cancel", "f4"),  # part of the queue
        ("bid_cancel", "f4"),
        ("rounding", "f4"),
        ("innovation", "f4"),  # part of the efficient price's move with mean zero, half-ticks
    ],
    align=True,
)

OTHERS = np.dtype([("own", STATE), ("params", PARAMS)], align=True)
"""The market's state of a block of lanes, with its parameters."""

MOST_AHEAD = 4096
"""Longest queue for which every order that can stand in it is valued, lots."""

OTHER_FUTURE = 1_000_000
"""Episodes from this one on are futures that were redrawn; the recorded ones are episode 0."""

LOTS = "1, any number under the action `size`, that of the levels under `ladder`"

compiled = njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True)
class Paths:
    """Recorded paths: ROW (paths, horizon x substeps + 1), the last of which has only the book."""

    config: EnvConfig
    seeds: tuple[int, ...]
    rows: np.ndarray

    @property
    def market(self) -> Book:
        """The market of the configuration."""
        return require_book(self.config)

    @property
    def decisions(self) -> np.ndarray:
        """The rows at decisions, (paths, horizon + 1)."""
        return self.rows[:, :: self.market.substeps]

    @property
    def queues_are_short(self) -> bool:
        """Whether every order that can stand in a queue can be valued: they are below `MOST_AHEAD` lots."""
        return bool(max(self.rows[f"{side}_queue"].max() for side in ("ask", "bid")) < MOST_AHEAD)


def require_book(config: EnvConfig) -> Book:
    """The market of `config`; raises `ConfigError` for what the simulator of our orders does not know."""
    market, lots = config.market, config.risk.order_lots
    if not isinstance(market, Book):
        raise ConfigError(f"market = {market.name!r} is not possible: it must be 'book'.")
    for owner, name, value, good, need in (
        ("Book", "latency_steps", market.latency_steps, market.latency_steps == 0, "0"),
        ("RiskConfig", "order_lots", lots, _knows_lots(config), LOTS),
        ("EnvConfig", "randomise", config.randomise, not config.randomise, "empty"),
        ("quote", "withdraw", False, config.quote.leaves, "true, for the best policies leave a side"),
    ):
        if not good:
            raise ConfigError(
                f"{owner}.{name} = {value!r} is not possible: for the ladder of values it must be {need}."
            )
    return market


def lots_of_side(config: EnvConfig) -> tuple[int, int]:
    """The most lots of a side, and the most orders, of one lot each where they are several."""
    lots = config.risk.order_lots
    return lots, lots if isinstance(config.quote, Ladder) else 1


def _knows_lots(config: EnvConfig) -> bool:
    lots, quote = config.risk.order_lots, config.quote
    return lots == 1 or isinstance(quote, Size) or (isinstance(quote, Ladder) and lots == quote.levels)


def record(config: EnvConfig, seeds: Sequence[int]) -> Paths:
    """The paths that environments of `config` with these seeds see in their first episode."""
    market, n = require_book(config), len(seeds)
    rows = np.zeros((n, config.horizon * market.substeps + 1), ROW)
    for block, own in enumerate(start(market, seeds)):
        part = rows[block * LANES : (block + 1) * LANES]
        _record(own, len(part), config.horizon, market.substeps, market.start_price, part)
    return Paths(config, tuple(int(seed) for seed in seeds), rows)


def start(market: Book, seeds: Sequence[int]) -> np.ndarray:
    """The market's state of these seeds at the start of an episode, one record for each 128 of them."""
    desk = make_desk(make_config(market), len(seeds), autoreset=False)
    desk.seed(seeds)
    desk.reset()
    call = desk.stages.market[0]  # all share the state and the parameters
    states = aligned_zeros(desk.blocks, OTHERS)
    states["own"], states["params"] = call.own, call.params[0]
    for name in ("key0", "key1", "episode"):
        states["own"][name] = desk.core[name]
    return states


@compiled
def _look(w, i, first, row):
    """The book of lane i as it stands."""
    row.ask, row.bid = w.ask[i] - first, w.bid[i] - first
    row.ask_queue, row.bid_queue = w.ask_queue[i], w.bid_queue[i]
    row.price = w.gap[i] + np.float32(row.ask + row.bid)
    row.meta, row.meta_left = w.meta_sign[i], w.meta_left[i]
    row.rate, row.excitation = w.rate[i], w.excitation[0, i] + w.excitation[1, i]


@compiled
def decision(own, count, age, substeps, first, rows):
    """A decision of `count` lanes, into rows (substeps + 1, lanes)."""
    w, p = own.own, own.params
    count = np.uint64(count)  # as the market counts: its functions are compiled for that already
    for i in range(count):
        w.age[i] = np.uint32(age)
        _look(w, i, first, rows[0, i])
    drift(w, p, count)
    for k in range(substeps):
        for i in range(count):
            # The jump at the decision belongs to its first micro-step.
            rows[k, i].innovation = np.float32(0) if k == 0 else -w.innovation[i]
        flow(w, p, count)
        for i in range(count):
            row = rows[k, i]
            row.innovation += w.innovation[i]
            row.buy, row.sell = w.buy[i], w.sell[i]
            row.ask_cancel, row.bid_cancel, row.rounding = w.ask_cancel[i], w.bid_cancel[i], w.rounding[i]
            _look(w, i, first, rows[k + 1, i])


@compiled
def _record(own, count, horizon, substeps, first, rows):
    turned = rows.T
    for age in range(horizon):
        decision(own, count, age, substeps, first, turned[age * substeps : (age + 1) * substeps + 1])


@compiled
def extent(rows, substeps):
    """Of a path: widest spread (ticks), longest queue, farthest that a touch moves within a decision
    (ticks)."""
    spread, queue, moved = 1, 1, 0
    for m in range(rows.shape[0]):
        row, first = rows[m], rows[max(m - 1, 0) // substeps * substeps]
        spread = max(spread, row.ask - row.bid)
        queue = max(queue, row.ask_queue, row.bid_queue)
        moved = max(moved, abs(row.ask - first.ask), abs(row.bid - first.bid))
    return spread, queue, moved


@compiled
def advance(own, count, age, substeps):
    """One decision of the others, unrecorded."""
    w, p = own.own, own.params
    count = np.uint64(count)
    for i in range(count):
        w.age[i] = np.uint32(age)
    drift(w, p, count)
    for _ in range(substeps):
        flow(w, p, count)


@compiled
def redraw(own, i, other, count, age, substeps, first, rows):
    """`count` other futures of lane i over one decision, each as likely as its own, into rows
    (substeps + 1, count); `other` is a record of state to work in."""
    w, v = own.own, other.own
    for j in range(count):
        v.episode[j] = np.uint32(OTHER_FUTURE + j)
        v.key0[j], v.key1[j] = w.key0[i], w.key1[i]
        v.ask[j], v.bid[j], v.ask_queue[j], v.bid_queue[j] = (
            w.ask[i],
            w.bid[i],
            w.ask_queue[i],
            w.bid_queue[i],
        )
        v.gap[j], v.rate[j], v.deviation[j] = w.gap[i], w.rate[i], w.deviation[i]
        v.meta_sign[j], v.meta_left[j] = w.meta_sign[i], w.meta_left[i]
        for k in range(w.activity.shape[0]):
            v.activity[k, j] = w.activity[k, i]
        for k in range(2):
            v.excitation[k, j], v.pressure[k, j] = w.excitation[k, i], w.pressure[k, i]
    decision(other, count, age, substeps, first, rows)


def workspace(market: Book) -> Any:
    """A record of state for `redraw`."""
    other = aligned_zeros(1, OTHERS)
    other["params"] = market.compiled()
    return other[0]
