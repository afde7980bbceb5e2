"""The loop of `mmenv.backtest.loop.simulated_steps` on a tape. Importing it needs hftbacktest."""

from __future__ import annotations

from typing import Any

from numba import njit

from mmenv.backtest.loop import choose, record
from mmenv.desk.desk import Desk
from mmenv.engine.memory import address
from mmenv.engine.plan import step_at
from mmenv.market.outside import give_outcomes, give_taken, take_market_orders, take_quotes
from mmenv.market.stretch import StretchFeed
from mmenv.venue.hft import HftVenue, advance_lanes


def tape_steps(desk: Desk, *arguments: Any) -> int:
    """Play one decision for each row of `quotes` (see `simulated_steps`) on the desk's stretch of a tape."""
    feed = desk.external
    assert isinstance(feed, StretchFeed)
    venue = feed.venue
    assert isinstance(venue, HftVenue)
    tape = (
        *(address(desk.decide_plan), address(desk.plan), feed.windows, feed.quotes, feed.takers),
        *(venue.lanes, venue.orders, venue.config.decision_interval_ns, venue.outcomes, venue.taken),
    )
    with venue.in_use():
        reached = _tape_steps(tape, *arguments)
        venue.check(max(-reached, 0), 0)
    return int(reached)


# Not cached: hftbacktest's functions hold addresses of its library.
@njit
def _tape_steps(tape, core, actions, observations, truncated, column, quotes, table, first):
    """Run the loop; where it ended, or the engine's error as a negative number."""
    decide, settle, windows, orders, takers, lanes, resting, interval_ns, outcomes, taken = tape
    for k in range(len(quotes)):
        t = first + k
        table[t, 0].time_ns = outcomes[0].time_ns
        choose(core, actions, observations, column, quotes, table, t, k)
        step_at(decide)
        take_quotes(core, windows, orders)
        take_market_orders(core, takers)
        _, error = advance_lanes(lanes, resting, orders, takers, interval_ns, outcomes, taken)
        if error != 0:
            return -error
        give_outcomes(core, outcomes)
        give_taken(core, taken)
        step_at(settle)
        record(core, actions, table, t)
        if truncated[0]:
            return t + 1
    return first + len(quotes)
