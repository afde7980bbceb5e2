"""What is recorded of a decision, and the compiled loop for policies that are tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from mmenv.desk.desk import Desk
from mmenv.engine.memory import address
from mmenv.engine.plan import step_at
from mmenv.engine.state import LANES

DECISION = np.dtype(
    [
        ("time_ns", "i8"),
        ("session", "i4"),
        ("mid", "i4"),  # half-ticks, at the decision, as all here
        ("spread", "i4"),
        ("best_bid_lots", "i4"),
        ("best_ask_lots", "i4"),
        ("position", "i4"),  # before the decision
        ("ask_distance", "i4"),
        ("bid_distance", "i4"),
        ("ask_lots", "i4"),  # quoted, after all limits
        ("bid_lots", "i4"),
        ("ask_fill", "i4"),
        ("bid_fill", "i4"),
        ("ask_edge", "f8"),  # lots x distance from the mid at the decision
        ("bid_edge", "f8"),
        ("taken_ask", "i4"),  # of ask_fill, what our market orders sold
        ("taken_bid", "i4"),
        ("taken_ask_edge", "f8"),
        ("taken_bid_edge", "f8"),
        ("move", "i4"),  # of the mid until the next decision
        ("buy_lots", "i4"),  # traded by others until then
        ("sell_lots", "i4"),
        ("risk_state", "i4"),
        ("unusable", "i4"),  # 1: the policy's action was not finite, so nothing was quoted
        ("signal", "f4"),
    ],
    align=True,
)
"""A decision and what came of it."""


@njit(cache=True)
def record_book(core, table, t):
    """Record the book that decision t sees."""
    for lane in range(table.shape[1]):
        s, i, row = core[lane // LANES], lane % LANES, table[t, lane]
        row.mid, row.spread = s.mid[i], s.spread[i]
        row.best_bid_lots, row.best_ask_lots = s.best_bid_lots[i], s.best_ask_lots[i]
        row.position = s.position[i]


@njit(cache=True)
def record(core, actions, table, t):
    """Record what was quoted at decision t, what came of it, and the book that the next one sees."""
    for lane in range(table.shape[1]):
        s, i, row = core[lane // LANES], lane % LANES, table[t, lane]
        row.ask_distance, row.bid_distance = s.ask_distance[i], s.bid_distance[i]
        row.ask_lots, row.bid_lots = s.ask_lots[i], s.bid_lots[i]
        row.ask_fill, row.bid_fill = s.ask_fill[i], s.bid_fill[i]
        row.ask_edge, row.bid_edge = s.ask_edge[i], s.bid_edge[i]
        row.taken_ask, row.taken_bid = s.taken_ask[i], s.taken_bid[i]
        row.taken_ask_edge, row.taken_bid_edge = s.taken_ask_edge[i], s.taken_bid_edge[i]
        row.move, row.risk_state = s.move[i], s.risk_state[i]
        row.buy_lots, row.sell_lots = s.buy_lots[i], s.sell_lots[i]
        row.unusable = 0
        for entry in range(actions.shape[1]):
            if not math.isfinite(actions[lane, entry]):
                row.unusable = 1
    record_book(core, table, t + 1)


@njit(cache=True)
def choose(core, actions, observations, column, quotes, table, t, k):
    """Set the actions of decision t for the positions that stand there from row k of `quotes`."""
    middle = quotes.shape[1] // 2
    for lane in range(len(actions)):
        row = table[t, lane]
        row.signal = observations[lane, column]
        for entry in range(actions.shape[1]):
            actions[lane, entry] = quotes[k, middle + row.position, entry]


def simulated_steps(desk: Desk, *arguments: Any) -> int:
    """Play one decision for each row of `quotes`, float32 (k, positions, A), from `first` on; where it ended.

    The arguments are core, actions, observations and truncated of the desk, the column of the signal,
    `quotes`, the record and `first`.
    """
    return int(_simulated_steps(address(desk.plan), *arguments))


@njit(cache=True)
def _simulated_steps(plan_at, core, actions, observations, truncated, column, quotes, table, first):
    """Run the loop; where it ended."""
    for k in range(len(quotes)):
        t = first + k
        choose(core, actions, observations, column, quotes, table, t, k)
        step_at(plan_at)
        record(core, actions, table, t)
        if truncated.any():
            return t + 1
    return first + len(quotes)
