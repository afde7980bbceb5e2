"""A decision and a reset of market `book`: micro-steps of the others (`book_flow`) and of our orders
(`book_orders`)."""

from __future__ import annotations

from numba import prange

from mmenv.engine.maths import D, F, I, U, exponential, normal
from mmenv.engine.rng import RESET_STEP, philox
from mmenv.engine.stage import at, inlined, over_lanes, stage
from mmenv.market.book_flow import drift, quote, trade, value
from mmenv.market.book_orders import arrive, orders
from mmenv.market.book_state import PARAMS, STATE


@over_lanes
def take(s, w):
    """Take the decision over from the desk; clear what the micro-steps add up."""
    for i in prange(s.count):
        w.age[i], w.episode[i], w.key0[i], w.key1[i] = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        mid = s.mid[i]
        w.ask_wanted[i] = I(I(mid + s.ask_distance[i]) >> I(1))
        w.bid_wanted[i] = I(I(mid - s.bid_distance[i]) >> I(1))
        w.ask_lots[i], w.bid_lots[i] = s.ask_lots[i], s.bid_lots[i]
        w.ask_late_price[i], w.bid_late_price[i] = w.ask_price[i], w.bid_price[i]
        w.ask_fill[i], w.bid_fill[i] = I(0), I(0)
        w.buy_lots[i], w.sell_lots[i], w.trades[i] = I(0), I(0), I(0)
        w.ask_surprise[i], w.bid_surprise[i] = F(0), F(0)
        w.value[i] = 0.0


@inlined
def edge(lots, price, mid):
    """Lots x (price - mid), price in ticks, half-ticks x lots."""
    return D(lots) * D(I(I(2) * price - mid))


@over_lanes
def answer(s, w, p):
    """The market's answer to the desk. Money in float64, where integers are exact."""
    for i in prange(s.count):
        ask, bid, before = w.ask[i], w.bid[i], s.mid[i]
        mid = I(ask + bid)
        bought, sold = w.buy_lots[i], w.sell_lots[i]
        s.trade_value[i] = 2.0 * w.value[i] - D(I(bought + sold)) * D(before)
        fills, late, old, new = w.ask_fill[i], w.ask_late[i], w.ask_late_price[i], w.ask_price[i]
        s.ask_fill[i], s.ask_edge[i] = fills, edge(I(fills - late), new, before) + edge(late, old, before)
        fills, late, old, new = w.bid_fill[i], w.bid_late[i], w.bid_late_price[i], w.bid_price[i]
        s.bid_fill[i], s.bid_edge[i] = fills, -edge(I(fills - late), new, before) - edge(late, old, before)
        s.move[i], s.mid[i] = I(mid - before), mid
        s.spread[i] = I(I(2) * I(ask - bid))
        s.best_ask_lots[i], s.best_bid_lots[i] = w.ask_queue[i], w.bid_queue[i]
        s.buy_lots[i], s.sell_lots[i], s.trades[i] = bought, sold, w.trades[i]
        s.ask_reach[i], s.bid_reach[i] = I(-1), I(-1)
        # The innovations of the efficient price come with orders that fill us in the same decision.
        s.noise_move[i], s.order_flow_noise[i] = F(0), w.innovation[i]
        s.ask_fill_surprise[i], s.bid_fill_surprise[i] = w.ask_surprise[i], w.bid_surprise[i]
        s.latent[i], s.activity[i] = w.gap[i] * at(p.per_unit, i), w.rate[i]
    for i in prange(s.count):
        price, left = I(I(2) * w.ask_price[i]), w.ask_left[i]
        kept = (s.own_ask_lots[i] > 0) & (s.own_ask[i] == price)
        s.own_ask_age[i] = I(s.own_ask_age[i] + I(1)) if kept else I(0)
        s.own_ask[i], s.own_ask_lots[i], s.own_ask_ahead[i] = price, left, w.ask_ahead[i]
        price, left = I(I(2) * w.bid_price[i]), w.bid_left[i]
        kept = (s.own_bid_lots[i] > 0) & (s.own_bid[i] == price)
        s.own_bid_age[i] = I(s.own_bid_age[i] + I(1)) if kept else I(0)
        s.own_bid[i], s.own_bid_lots[i], s.own_bid_ahead[i] = price, left, w.bid_ahead[i]


# Each a stage of its own, so that several processors compile them, and each is compiled once.


@stage(STATE, PARAMS)
def decision(s, w, p, x):
    """What is drawn once a decision."""
    take(s, w)
    drift(w, p, s.count)


@stage(STATE, PARAMS)
def traders(s, w, p, x):
    """First half of a micro-step: a market order of the others."""
    trade(w, p, s.count)
    value(w, s.count)


@stage(STATE, PARAMS)
def makers(s, w, p, x):
    """Second half of a micro-step: limit orders and cancels of the others."""
    quote(w, p, s.count)


@stage(STATE, PARAMS)
def ours(s, w, p, x):
    """What the micro-step does to our orders."""
    orders(w, p, s.count)


@stage(STATE, PARAMS)
def arrival(s, w, p, x):
    """Our quotes of this decision reach the book."""
    arrive(w, p, s.count)


@stage(STATE, PARAMS)
def outcome(s, w, p, x):
    """All that the desk is told."""
    answer(s, w, p)


@stage(STATE, PARAMS)
def reset(s, w, p, x):
    """A book one tick wide at the start price, the efficient price at its mid, stationary activity."""
    for i in prange(s.count):
        if s.done[i] == 0:
            continue
        start = at(p.start, i)
        step, episode, key0, key1 = U(RESET_STEP), s.episode[i], s.key0[i], s.key1[i]
        word0, word1, word2, word3 = philox(step, episode, U(1), U(0), key0, key1)
        word4, word5, queues, _ = philox(step, episode, U(2), U(0), key0, key1)
        w.activity[0, i] = at(p.spread[0], i) * normal(word0, word1)
        w.activity[1, i] = at(p.spread[1], i) * normal(word2, word3)
        w.activity[2, i] = at(p.spread[2], i) * normal(word4, word5)
        w.ask[i], w.bid[i] = I(start + 1), start
        w.ask_queue[i] = I(exponential(queues) * at(p.refill, i)) + I(1)
        w.bid_queue[i] = I(exponential(U(queues >> U(16))) * at(p.refill, i)) + I(1)
        w.gap[i] = F(0)
        for j in range(2):
            w.excitation[j, i] = at(p.excited[j], i)
            w.pressure[j, i] = F(0)
        w.meta_sign[i], w.meta_left[i] = F(1), F(0)
        w.ask_price[i], w.bid_price[i] = I(start + 1), start
        w.ask_placed[i], w.ask_left[i], w.ask_ahead[i] = I(0), I(0), I(0)
        w.bid_placed[i], w.bid_left[i], w.bid_ahead[i] = I(0), I(0), I(0)
        s.mid[i] = I(2 * start + 1)
        s.spread[i] = I(2)
        s.best_ask_lots[i], s.best_bid_lots[i] = w.ask_queue[i], w.bid_queue[i]
