"""Markets outside the compiled step, such as a replay or a live feed: how they meet the core record."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import njit

from mmenv.engine.state import LANES
from mmenv.times import DAY


class ExternalMarket(Protocol):
    """A market outside the compiled step. `core` holds the blocks' records, `mmenv.engine.state.CORE`."""

    def reset(self, core: np.ndarray, lanes: np.ndarray) -> None:
        """Start the environments whose entry in `lanes`, bool (n,), is true: set `mid`, book and spread."""

    def advance(self, core: np.ndarray) -> None:
        """Take the quotes in `core` to the next decision: set the market's answer."""

    def take_market_orders(self) -> None:
        """The desk's action sends market orders too: said once, before the first reset."""

    def take_levels(self, levels: np.ndarray, orders: np.ndarray) -> None:
        """The desk's action quotes several orders a side: said once, before the first reset.

        `levels` is the action's record (`mmenv.actions.base.Further.levels`), `orders` one of
        `mmenv.step.levels.ORDERS`, both for each block of lanes; `take_levels` reads and writes them.
        """

    def close(self) -> None:
        """Give back what the market holds."""


@njit(cache=True)
def begin(core, lane, outcome):
    """The book at the start of a lane's episode, in half-ticks, from its OUTCOME."""
    s, i = core[lane // LANES], lane % LANES
    s.mid[i] = outcome.best_bid_ticks + outcome.best_ask_ticks
    _set_book(s, i, outcome)
    s.old_spread[i], s.old_ask_lots[i], s.old_bid_lots[i] = (
        s.spread[i],
        s.best_ask_lots[i],
        s.best_bid_lots[i],
    )


@njit(cache=True)
def give_outcomes(core, outcomes):
    """The market's answer, in half-ticks, from OUTCOME [n]."""
    for lane in range(len(outcomes)):
        s, i = core[lane // LANES], lane % LANES
        o = outcomes[lane]
        old = np.int64(s.mid[i])
        mid = o.best_bid_ticks + o.best_ask_ticks
        s.mid[i] = mid
        s.move[i] = mid - old
        _set_book(s, i, o)
        s.buy_lots[i], s.sell_lots[i], s.trades[i] = o.buy_lots, o.sell_lots, o.trades
        s.trade_value[i] = 2 * (o.buy_notional + o.sell_notional) - (o.buy_lots + o.sell_lots) * old
        s.ask_fill[i], s.bid_fill[i] = o.ask_fill_lots, o.bid_fill_lots
        s.ask_edge[i] = 2 * o.ask_fill_notional - o.ask_fill_lots * old
        s.bid_edge[i] = o.bid_fill_lots * old - 2 * o.bid_fill_notional
        s.truncated[i] = o.data_end


@njit(cache=True)
def give_taken(core, taken):
    """What market orders filled since the decision, in half-ticks, from TAKEN [n]; after `give_outcomes`."""
    for lane in range(len(taken)):
        s, i, t = core[lane // LANES], lane % LANES, taken[lane]
        old = np.int64(s.mid[i]) - np.int64(s.move[i])
        s.taken_ask[i], s.taken_bid[i] = t.sold_lots, t.bought_lots
        s.taken_ask_edge[i] = 2 * t.sold_notional - t.sold_lots * old
        s.taken_bid_edge[i] = t.bought_lots * old - 2 * t.bought_notional


@njit(cache=True)
def _set_book(s, i, outcome):
    s.spread[i] = 2 * (outcome.best_ask_ticks - outcome.best_bid_ticks)
    s.best_bid_lots[i], s.best_ask_lots[i] = outcome.best_bid_lots, outcome.best_ask_lots
    s.day_seconds[i] = outcome.time_ns % DAY * 1e-9


@njit(cache=True)
def take_quotes(core, windows, quotes):
    """Quotes (ask tick, lots, bid tick, lots) within what the lane's tape can take.

    `windows`, int64 (n, 2), are the lowest and the highest tick that can be quoted.
    """
    for lane in range(len(quotes)):
        s, i = core[lane // LANES], lane % LANES
        mid = np.int64(s.mid[i])
        ask = min(max((mid + s.ask_distance[i]) // 2, windows[lane, 0] + 1), windows[lane, 1])
        bid = min(max((mid - s.bid_distance[i]) // 2, windows[lane, 0]), ask - 1)
        quotes[lane, 0], quotes[lane, 1] = ask, s.ask_lots[i]
        quotes[lane, 2], quotes[lane, 3] = bid, s.bid_lots[i]


@njit(cache=True)
def take_levels(core, levels, orders, windows, prices, quotes):
    """Quotes of several orders a side, int64 (n, 4 x most orders): tick and lots of each ask, the nearest
    first, then of each bid.

    As `take_quotes`, within `windows`, with the lots of levels at one tick as one order; what is left over
    has no lots. A tick of the lane's tape is `prices`, int64 (n,), of the desk's.
    """
    most = quotes.shape[1] // 4
    for lane in range(len(quotes)):
        block, i = lane // LANES, lane % LANES
        s, w, o = core[block], levels[block], orders[block]
        mid, low, high, price = np.int64(s.mid[i]), windows[lane, 0], windows[lane, 1], prices[lane]
        nearest = min(max((mid + w.ask_distance[0, i]) // 2, low + 1), high)
        for side in range(2):
            row, left = quotes[lane, 2 * most * side :], s.bid_lots[i] if side else s.ask_lots[i]
            count = 0
            for k in range(most):
                if side:
                    tick = min(max((mid - w.bid_distance[k, i]) // 2, low), nearest - 1) // price
                else:
                    tick = -(-min(max((mid + w.ask_distance[k, i]) // 2, low + 1), high) // price)
                if k == 0:
                    row[: 2 * most : 2], row[1 : 2 * most : 2] = tick, 0
                lots = min(w.before[k + 1, i], left) - min(w.before[k, i], left)
                if left <= 0 or lots <= 0:
                    continue
                if count == 0 or row[2 * count - 2] != tick:
                    count += 1
                row[2 * count - 2] = tick
                row[2 * count - 1] += lots
            for k in range(most):
                o.asked[0, side, k, i], o.asked[1, side, k, i] = 2 * price * row[2 * k], row[2 * k + 1]


@njit(cache=True)
def take_market_orders(core, takers):
    """Market orders (tick, lots above 0 to buy) at the touch that the desk sees, if anything stands there."""
    for lane in range(len(takers)):
        s, i = core[lane // LANES], lane % LANES
        lots, mid, half = s.taker_lots[i], np.int64(s.mid[i]), np.int64(s.spread[i] >> 1)
        there = s.best_ask_lots[i] if lots > 0 else s.best_bid_lots[i]
        takers[lane, 0] = (mid + half if lots > 0 else mid - half) // 2
        takers[lane, 1] = lots if there > 0 else 0
