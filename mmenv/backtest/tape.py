"""The loop of `mmenv.backtest.record.simulated_steps` on a tape. Importing it needs hftbacktest."""

from __future__ import annotations

from typing import Any

from numba import njit

from mmenv.backtest.record import choose, record
from mmenv.backtest.stretch import StretchFeed
from mmenv.desk import Desk
from mmenv.kernel import step_blocks
from mmenv.market.replay import give_events, take_quotes
from mmenv.venue.replay import _advance


def tape_steps(desk: Desk, *arguments: Any) -> int:
    """Play one decision for each row of `quotes` (see `simulated_steps`) on the desk's stretch of a tape."""
    feed = desk.external
    assert isinstance(feed, StretchFeed)
    venue = feed.venue
    tape = (
        *(desk._decide, desk._plan, feed._windows, feed._quotes),
        *(venue._lanes, venue._orders, venue.config.decision_interval_ns, venue._events),
    )
    with venue._in_use():
        reached = _tape_steps(tape, *arguments)
        venue._check(max(-reached, 0), 0)
    feed._event = venue._events[0]
    return int(reached)


@njit
def _tape_steps(tape, core, actions, observations, truncated, column, quotes, table, first):  # type: ignore[no-untyped-def]
    """Where the loop ended, or the engine's error as a negative number."""
    decide, settle, windows, orders, lanes, resting, interval_ns, events = tape
    for k in range(len(quotes)):
        t = first + k
        table[t, 0].time_ns = events[0, 0]
        choose(core, actions, observations, column, quotes, table, t, k)
        step_blocks(decide)
        take_quotes(core, windows, orders)
        _, error = _advance(lanes, resting, orders, interval_ns, events)
        if error != 0:
            return -error
        give_events(core, events)
        step_blocks(settle)
        record(core, actions, table, t)
        if truncated[0]:
            return t + 1
    return first + len(quotes)
