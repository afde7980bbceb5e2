"""`book`: a level-one order book on a tick grid, with our orders in the queue.

A latent *efficient price* diffuses and jumps. Around it others trade, one tick apart most of the time, with a
queue of lots on each side of the book:

* Limit orders and cancels, at rates that respond to the mispricing (efficient price minus mid), so that the
  queue in the way of the price thins out and the other one grows (queue-reactive, Huang, Lehalle and
  Rosenbaum 2015).
* Uninformed market orders with Pareto sizes. Part of them belong to a metaorder, whose length in orders is
  Pareto too: the signs have long memory (Lillo, Mike and Farmer 2005). What they take of the queue moves the
  efficient price, less what was to be expected from past signs, so that the price stays unpredictable from
  them although the signs are not (Bouchaud, Gefen, Potters and Wyart 2004; Lillo and Farmer 2004).
* Informed traders, who lift everything up to the efficient price once that leaves the spread, and makers who
  then pull their quotes.
* Every market order excites further ones for a while (Hawkes, a sum of two exponentials), and the activity
  that scales all rates and the volatility is log-normal with three time constants.

When a queue is gone the price moves (Cont and de Larrard 2013), to the efficient price and by at least a
tick; the other side follows, mostly at once.

Our orders rest in the same queues and are filled by what reaches them, see `orders`. They do not change what
others do: the path of the market depends on the seed alone, so that policies are compared on the same paths.
That is an approximation for orders that are small against the queue.

Prices are ticks here and half-ticks in the desk, sizes lots, rates per second. A decision is worked through
in `substeps` micro-steps; at most one market order and, per side, one limit order and one cancel falls in
each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from mmenv.config import Market, MarketStages
from mmenv.kernel import LANES, Call, lanes, stage
from mmenv.market import register
from mmenv.rng import RESET_STEP, philox
from mmenv.vmath import fitted, log, unit

F = np.float32
I = np.int32  # noqa: E741
U = np.uint32

SCALES = 3
DECISION_SLOT = 0
FLOW_SLOT = 2  # two slots for each micro-step follow

STATE = np.dtype(
    [
        # The book of the others.
        lanes("ask", "i4"),  # ticks
        lanes("bid", "i4"),
        lanes("ask_queue", "i4"),  # lots
        lanes("bid_queue", "i4"),
        # What drives it.
        lanes("gap", "f4"),  # efficient price minus mid, half-ticks
        ("activity", "f4", (SCALES, LANES)),  # logarithms
        lanes("rate", "f4"),  # activity as a multiple of all rates
        lanes("deviation", "f4"),  # of the efficient price in a micro-step, half-ticks
        ("excitation", "f4", (2, LANES)),
        ("pressure", "f4", (2, LANES)),  # averages of signed market orders, fast and slow
        lanes("meta_sign", "f4"),
        lanes("meta_left", "f4"),  # orders
        # The last micro-step, for our orders: the book before it, and what happened to it.
        lanes("old_ask", "i4"),
        lanes("old_bid", "i4"),
        lanes("old_ask_queue", "i4"),
        lanes("old_bid_queue", "i4"),
        lanes("buy", "i4"),  # lots demanded by a market order
        lanes("sell", "i4"),
        lanes("ask_cancel", "f4"),  # part of the queue left by the trade
        lanes("bid_cancel", "f4"),
        lanes("rounding", "f4"),
        # Our orders.
        lanes("ask_price", "i4"),  # ticks
        lanes("bid_price", "i4"),
        lanes("ask_placed", "i4"),  # lots when placed
        lanes("bid_placed", "i4"),
        lanes("ask_left", "i4"),
        lanes("bid_left", "i4"),
        lanes("ask_ahead", "i4"),  # lots ahead of us at our price
        lanes("bid_ahead", "i4"),
    ],
    align=True,
)

PARAMS = np.dtype(
    [
        ("substeps", "i4"),
        ("latency", "i4"),
        ("start", "i4"),  # ticks
        ("decay", "f4", (SCALES,)),  # of the logarithm of activity, per decision
        ("shock", "f4", (SCALES,)),
        ("spread_of_activity", "f4", (SCALES,)),  # standard deviations
        ("activity_variance", "f4"),
        ("deviation", "f4"),
        ("jump", "f4"),  # chance per decision
        ("jump_size", "f4"),  # mean, half-ticks
        ("width", "f4"),  # half-ticks
        ("order", "f4"),  # chance of an uninformed market order per micro-step
        ("size", "f4"),
        ("size_power", "f4"),
        ("max_size", "f4"),
        ("informed", "f4"),
        ("pull", "f4"),
        ("depth", "f4"),
        ("meta_share", "f4"),
        ("meta_length", "f4"),
        ("meta_power", "f4"),
        ("excite", "f4", (2,)),
        ("excite_decay", "f4", (2,)),
        ("pressure_decay", "f4", (2,)),
        ("expected", "f4", (2,)),
        ("impact", "f4"),
        ("limit", "f4"),
        ("limit_size", "f4"),
        ("cancel", "f4"),
        ("cancel_part", "f4"),
        ("response", "f4"),
        ("refill", "f4"),
        ("follow", "f4"),
        ("close", "f4"),
        ("per_print", "f4"),
    ],
    align=True,
)

# 2^x on [-1/2, 1/2].
E0, E1, E2, E3, E4, E5 = fitted(lambda x: 2.0**x, -0.5, 0.5, 5)
PER_LN2 = F(1 / np.log(2.0))
LOG_LIMIT = F(40.0)


@njit(inline="always")
def exp(x):  # type: ignore[no-untyped-def]
    """e^x for float32 x, which is clipped to +-40."""
    y = min(max(x, -LOG_LIMIT), LOG_LIMIT) * PER_LN2
    whole = np.floor(y + F(0.5))
    z = y - whole
    power = I(I(whole) + I(127)) << I(23)
    return I(power).view(np.float32) * (E0 + z * (E1 + z * (E2 + z * (E3 + z * (E4 + z * E5)))))


@njit(inline="always")
def bell(word):  # type: ignore[no-untyped-def]
    """A float32 of mean 0 and variance 1, the sum of two uniforms: a Gaussian once a few are added."""
    total = I(word & U(0xFFFF)) + I(word >> U(16))
    return (F(total) * F(2.0**-16) - F(65535.0 / 65536.0)) * F(np.sqrt(6.0))


@njit(inline="always")
def low(word):  # type: ignore[no-untyped-def]
    """The lowest eight bits, which `unit` does not use, as a float32 in (0, 1)."""
    return (F(I(word & U(0xFF))) + F(0.5)) * F(1 / 256)


@njit(inline="always")
def half_unit(bits):  # type: ignore[no-untyped-def]
    """The lowest 16 bits as a float32 in (0, 1)."""
    return (F(I(bits & U(0xFFFF))) + F(0.5)) * F(1 / 65536)


@njit(inline="always")
def event_size(uniform, chance):  # type: ignore[no-untyped-def]
    """0 with probability 1 - chance, else exponential with mean 1: given an event, its uniform is one again."""
    safe = max(chance, F(1e-20))
    return -log(min(uniform / safe, F(1))) if uniform < chance else F(0)


@njit(inline="always")
def decide(s, w, p):  # type: ignore[no-untyped-def]
    """Once a decision: activity, jump, metaorder; clear what the micro-steps add up."""
    for i in range(LANES):
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        a0, a1, a2, jump = philox(age, episode, U(DECISION_SLOT), U(0), key0, key1)
        jump_size, meta_size, meta_side, _ = philox(age, episode, U(DECISION_SLOT + 1), U(0), key0, key1)
        y0 = w.activity[0, i] * p.decay[0] + bell(a0) * p.shock[0]
        y1 = w.activity[1, i] * p.decay[1] + bell(a1) * p.shock[1]
        y2 = w.activity[2, i] * p.decay[2] + bell(a2) * p.shock[2]
        w.activity[0, i] = y0
        w.activity[1, i] = y1
        w.activity[2, i] = y2
        # The rates have mean one, and so has the square of the volatility.
        rate = exp(y0 + y1 + y2 - F(0.5) * p.activity_variance)
        w.rate[i] = rate
        w.deviation[i] = p.deviation * rate * exp(F(-0.5) * p.activity_variance)
        size = -log(unit(jump_size)) * p.jump_size
        size = size if (jump & U(1)) != U(0) else -size
        w.gap[i] += size if unit(jump) < p.jump else F(0)
        over = w.meta_left[i] <= F(0)
        length = p.meta_length * exp(p.meta_power * log(unit(meta_size)))
        side = F(1) if (meta_side & U(1)) != U(0) else F(-1)
        w.meta_left[i] = length if over else w.meta_left[i]
        w.meta_sign[i] = side if over else w.meta_sign[i]
        s.buy_lots[i] = 0
        s.sell_lots[i] = 0
        s.trades[i] = 0
        s.trade_value[i] = 0
        s.ask_fill[i] = 0
        s.bid_fill[i] = 0
        s.ask_edge[i] = 0
        s.bid_edge[i] = 0


@njit(inline="always")
def flow(s, w, p, k):  # type: ignore[no-untyped-def]
    """Micro-step k of the others: efficient price, market order, cancels and limit orders, move of the price."""
    slot = U(FLOW_SLOT) + U(2) * U(k)
    for i in range(LANES):
        age, episode, key0, key1 = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        order_word, size_word, noise_word, refill_word = philox(age, episode, slot, U(0), key0, key1)
        ask_limit_word, ask_cancel_word, bid_limit_word, bid_cancel_word = philox(
            age, episode, slot + U(1), U(0), key0, key1
        )
        ask, bid = w.ask[i], w.bid[i]
        ask_queue, bid_queue = w.ask_queue[i], w.bid_queue[i]
        w.old_ask[i], w.old_bid[i] = ask, bid
        w.old_ask_queue[i], w.old_bid_queue[i] = ask_queue, bid_queue
        rate = w.rate[i]
        gap = w.gap[i] + bell(noise_word) * w.deviation[i]

        # A market order: informed or not, buy or sell, from one uniform.
        half_spread = F(ask - bid)
        above = max(gap - half_spread, F(0))
        below = max(-gap - half_spread, F(0))
        above_share, below_share = above / p.width, below / p.width
        above_square, below_square = above_share * above_share, below_share * below_share
        informed_buy = min(p.informed * rate * above_square, F(0.25))
        informed_sell = min(p.informed * rate * below_square, F(0.25))
        chance = F(0.5) * p.order * rate * (F(1) + w.excitation[0, i] + w.excitation[1, i])
        tilt = p.meta_share * w.meta_sign[i]
        plain_buy = min(chance * (F(1) + tilt), F(0.25))
        plain_sell = min(chance * (F(1) - tilt), F(0.25))
        draw = unit(order_word)
        knows_up = draw < informed_buy
        buys = draw < informed_buy + plain_buy
        knows_down = draw > F(1) - informed_sell
        sells = draw > F(1) - informed_sell - plain_sell
        size = I(min(p.size * exp(p.size_power * log(unit(size_word))), p.max_size)) + I(1)
        buy = ask_queue + I(F(0.5) * above * p.depth) if knows_up else size
        sell = bid_queue + I(F(0.5) * below * p.depth) if knows_down else size
        buy = buy if buys else I(0)
        sell = sell if sells else I(0)
        w.buy[i], w.sell[i] = buy, sell
        s.buy_lots[i] += buy
        s.sell_lots[i] += sell
        s.trades[i] += (I(1) if buys | sells else I(0)) + I(F(I(buy + sell)) * p.per_print)
        mid = s.mid[i]
        s.trade_value[i] += np.int64(buy) * np.int64(I(2) * ask - mid)
        s.trade_value[i] += np.int64(sell) * np.int64(I(2) * bid - mid)
        count = F(1) if buys | sells else F(0)
        w.excitation[0, i] = w.excitation[0, i] * p.excite_decay[0] + count * p.excite[0]
        w.excitation[1, i] = w.excitation[1, i] * p.excite_decay[1] + count * p.excite[1]
        taken_ask = min(F(buy) / F(ask_queue), F(1)) if not knows_up else F(0)
        taken_bid = min(F(sell) / F(bid_queue), F(1)) if not knows_down else F(0)
        taken = taken_ask - taken_bid
        fast, slow = w.pressure[0, i], w.pressure[1, i]
        gap += p.impact * (taken - p.expected[0] * fast - p.expected[1] * slow)
        w.pressure[0, i] = taken + p.pressure_decay[0] * (fast - taken)
        w.pressure[1, i] = taken + p.pressure_decay[1] * (slow - taken)
        plain = (buys & (not knows_up)) | (sells & (not knows_down))
        w.meta_left[i] -= F(1) if plain else F(0)
        ask_queue = max(I(ask_queue - buy), I(0))
        bid_queue = max(I(bid_queue - sell), I(0))

        # Cancels, of part of a queue or of all of it, then limit orders.
        lean = min(max(gap / p.width, F(-1)), F(1)) * p.response
        up = max(F(1) + lean, F(0)) * rate
        down = max(F(1) - lean, F(0)) * rate
        ask_draw, bid_draw = unit(ask_cancel_word), unit(bid_cancel_word)
        ask_cancel = min(event_size(ask_draw, p.cancel * up) * p.cancel_part, F(1))
        bid_cancel = min(event_size(bid_draw, p.cancel * down) * p.cancel_part, F(1))
        ask_cancel = F(1) if ask_draw > F(1) - p.pull * rate * above_square else ask_cancel
        bid_cancel = F(1) if bid_draw > F(1) - p.pull * rate * below_square else bid_cancel
        w.ask_cancel[i], w.bid_cancel[i] = ask_cancel, bid_cancel
        w.rounding[i] = low(size_word)
        ask_queue -= min(I(F(ask_queue) * ask_cancel + F(0.5)), ask_queue)
        bid_queue -= min(I(F(bid_queue) * bid_cancel + F(0.5)), bid_queue)
        ask_empty = ask_queue == 0
        bid_empty = (bid_queue == 0) & (not ask_empty)
        ask_queue += I(event_size(unit(ask_limit_word), p.limit * down) * p.limit_size)
        bid_queue += I(event_size(unit(bid_limit_word), p.limit * up) * p.limit_size)

        # An empty queue moves the price to the efficient one; a wide spread closes towards it.
        rise = max(I(np.floor(F(0.5) * (gap - half_spread) + F(1))), I(1))
        fall = max(I(np.floor(F(0.5) * (-gap - half_spread) + F(1))), I(1))
        new_ask = ask + (rise if ask_empty else I(0))
        new_bid = bid - (fall if bid_empty else I(0))
        quiet = (not ask_empty) & (not bid_empty)
        joins = low(order_word) < (p.close if quiet else p.follow)
        wide = joins & (I(new_ask - new_bid) > 1)
        bid_joins = wide & (ask_empty | (quiet & (gap > F(0))))
        ask_joins = wide & (bid_empty | (quiet & (gap <= F(0))))
        moved_bid = new_ask - I(1) if bid_joins else new_bid
        moved_ask = new_bid + I(1) if ask_joins else new_ask
        ask_fresh = I(-log(half_unit(refill_word)) * p.refill) + I(1)
        bid_fresh = I(-log(half_unit(refill_word >> U(16))) * p.refill) + I(1)
        w.ask_queue[i] = ask_fresh if moved_ask != ask else max(ask_queue, I(1))
        w.bid_queue[i] = bid_fresh if moved_bid != bid else max(bid_queue, I(1))
        w.ask[i], w.bid[i] = moved_ask, moved_bid
        w.gap[i] = gap - F(I(moved_ask - ask) + I(moved_bid - bid))


@njit(inline="always")
def place(price, lots, filled, order, touch, opposite, queue, depth, side):  # type: ignore[no-untyped-def]
    """Our order once the new quote reaches the market: (price, placed, left, ahead).

    `order` is that of the order there was, `touch` and `queue` the best price and lots on our side, `side` +1
    for an ask. Price unchanged, and lots those it was placed with or no more than are left: it keeps its
    place. Otherwise it is new, at the back of the queue at the touch, behind the assumed depth deeper, first
    inside the spread. An order that would trade at once is refused.
    """
    old_price, placed, left, ahead = order
    wanted = max(I(lots - filled), I(0))
    keeps = (price == old_price) & (left > 0) & ((wanted == placed) | (wanted <= left))
    behind = side * I(price - touch)
    new_ahead = (queue if behind == 0 else depth) if behind >= 0 else I(0)
    new_left = wanted if side * I(price - opposite) > 0 else I(0)
    return (
        price,
        placed if keeps else wanted,
        min(left, wanted) if keeps else new_left,
        ahead if keeps else new_ahead,
    )


@njit(inline="always")
def fill(order, volume, cancel, rounding, old, new, depth, side):  # type: ignore[no-untyped-def]
    """What a micro-step does to our order: (fill, ahead).

    `old` is the book's (touch, queue) on our side before it, `new` (touch, queue, opposite touch, opposite
    queue) after it. A market order takes the touch, then `depth` lots a tick, then those ahead of us, then
    us. Cancels at the touch are spread evenly over the queue. The opposite touch at or past our price trades
    with us.
    """
    price, _, left, ahead = order
    touch, queue = old
    new_touch, new_queue, opposite, opposite_queue = new
    behind = min(side * I(price - touch), I(100_000))
    first = queue + depth * I(behind - I(1)) if behind > 0 else I(0)
    reached = max(I(volume - first), I(0))
    taken = min(left, max(I(reached - ahead), I(0)))
    ahead -= min(ahead, reached)
    cancelled = I(F(ahead) * cancel + rounding) if behind == 0 else I(0)
    ahead -= min(ahead, cancelled)
    distance = side * I(price - new_touch)
    ahead = (min(ahead, new_queue) if distance == 0 else ahead) if distance >= 0 else I(0)
    crossed = side * I(opposite - price) >= 0
    taken += min(I(left - taken), opposite_queue) if crossed else I(0)
    return taken, ahead


@njit(inline="always")
def orders(s, w, p, k):  # type: ignore[no-untyped-def]
    """Micro-step k of our orders, after `flow`: a new quote takes effect, then fills."""
    depth = I(p.depth)
    takes_effect = k == p.latency
    for i in range(LANES):
        mid, rounding = s.mid[i], w.rounding[i]
        old_ask, old_ask_queue = w.old_ask[i], w.old_ask_queue[i]
        old_bid, old_bid_queue = w.old_bid[i], w.old_bid_queue[i]
        ask, ask_queue, bid, bid_queue = w.ask[i], w.ask_queue[i], w.bid[i], w.bid_queue[i]

        order = (w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i])
        wanted = (mid + s.ask_distance[i]) >> I(1)
        new = place(wanted, s.ask_lots[i], s.ask_fill[i], order, old_ask, old_bid, old_ask_queue, depth, I(1))
        price = new[0] if takes_effect else order[0]
        placed = new[1] if takes_effect else order[1]
        left = new[2] if takes_effect else order[2]
        ahead = new[3] if takes_effect else order[3]
        taken, ahead = fill(
            (price, placed, left, ahead),
            w.buy[i],
            w.ask_cancel[i],
            rounding,
            (old_ask, old_ask_queue),
            (ask, ask_queue, bid, bid_queue),
            depth,
            I(1),
        )
        w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i] = price, placed, left - taken, ahead
        s.ask_fill[i] += taken
        s.ask_edge[i] += np.int64(taken) * np.int64(I(2) * price - mid)

        order = (w.bid_price[i], w.bid_placed[i], w.bid_left[i], w.bid_ahead[i])
        wanted = (mid - s.bid_distance[i]) >> I(1)
        new = place(
            wanted, s.bid_lots[i], s.bid_fill[i], order, old_bid, old_ask, old_bid_queue, depth, I(-1)
        )
        price = new[0] if takes_effect else order[0]
        placed = new[1] if takes_effect else order[1]
        left = new[2] if takes_effect else order[2]
        ahead = new[3] if takes_effect else order[3]
        taken, ahead = fill(
            (price, placed, left, ahead),
            w.sell[i],
            w.bid_cancel[i],
            rounding,
            (old_bid, old_bid_queue),
            (bid, bid_queue, ask, ask_queue),
            depth,
            I(-1),
        )
        w.bid_price[i], w.bid_placed[i], w.bid_left[i], w.bid_ahead[i] = price, placed, left - taken, ahead
        s.bid_fill[i] += taken
        s.bid_edge[i] += np.int64(taken) * np.int64(mid - I(2) * price)


@njit(inline="always")
def answer(s, w):  # type: ignore[no-untyped-def]
    """The book at the next decision."""
    for i in range(LANES):
        ask, bid = w.ask[i], w.bid[i]
        mid = ask + bid
        s.move[i] = mid - s.mid[i]
        s.mid[i] = mid
        s.spread[i] = I(2) * I(ask - bid)
        s.best_ask_lots[i] = w.ask_queue[i]
        s.best_bid_lots[i] = w.bid_queue[i]
        s.ask_reach[i] = I(-1)
        s.bid_reach[i] = I(-1)
        s.free_move[i] = F(0)  # no part of the move is known to have mean zero given the book
        s.flow_move[i] = F(0)


@stage(STATE, PARAMS)
def step(core, own, params, out):  # type: ignore[no-untyped-def]
    """One decision: `substeps` micro-steps of the others and of our orders."""
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    p = carray(params, 1)[0]
    decide(s, w, p)
    for k in range(p.substeps):
        flow(s, w, p, k)
        orders(s, w, p, k)
    answer(s, w)


@stage(STATE, PARAMS)
def reset(core, own, params, out):  # type: ignore[no-untyped-def]
    """A book one tick wide at the start price, the efficient price at the mid, activity as it is distributed."""
    s = carray(core, 1)[0]
    w = carray(own, 1)[0]
    p = carray(params, 1)[0]
    for i in range(LANES):
        if s.done[i] == 0:
            continue
        episode, key0, key1 = s.episode[i], s.key0[i], s.key1[i]
        step = U(RESET_STEP)
        words0 = philox(step, episode, U(1), U(0), key0, key1)
        words1 = philox(step, episode, U(2), U(0), key0, key1)
        words2 = philox(step, episode, U(3), U(0), key0, key1)
        w.activity[0, i] = (
            p.spread_of_activity[0]
            * F(0.5)
            * (bell(words0[0]) + bell(words0[1]) + bell(words2[0]) + bell(words2[1]))
        )
        w.activity[1, i] = (
            p.spread_of_activity[1]
            * F(0.5)
            * (bell(words0[2]) + bell(words0[3]) + bell(words2[2]) + bell(words2[3]))
        )
        w.activity[2, i] = p.spread_of_activity[2] * F(0.70710678) * (bell(words1[0]) + bell(words1[1]))
        w.ask[i], w.bid[i] = p.start + I(1), p.start
        w.ask_queue[i] = I(-log(half_unit(words1[2])) * p.refill) + I(1)
        w.bid_queue[i] = I(-log(half_unit(words1[2] >> U(16))) * p.refill) + I(1)
        w.gap[i] = F(0)
        w.excitation[0, i] = w.excitation[1, i] = F(0)
        w.pressure[0, i] = w.pressure[1, i] = F(0)
        w.meta_sign[i] = F(1)
        w.meta_left[i] = F(0)
        w.ask_placed[i] = w.bid_placed[i] = 0
        w.ask_left[i] = w.bid_left[i] = 0
        w.ask_ahead[i] = w.bid_ahead[i] = 0
        w.ask_price[i], w.bid_price[i] = p.start + I(1), p.start
        s.mid[i] = I(2) * p.start + I(1)
        s.spread[i] = 2
        s.best_ask_lots[i] = w.ask_queue[i]
        s.best_bid_lots[i] = w.bid_queue[i]


@register
@dataclass(frozen=True, kw_only=True)
class Book(Market):
    """A level-one order book around a latent efficient price; see the module's docstring."""

    name = "book"

    step_seconds: float = 0.1
    substeps: int = 5
    latency_steps: int = 0
    start_price: int = 600_000
    volatility: float = 82.0
    jump_rate: float = 0.01
    jump_size: float = 100.0
    width: float = 60.0
    order_rate: float = 8.0
    order_size: float = 12.0
    size_exponent: float = 1.0
    max_order_size: float = 10_000.0
    informed_rate: float = 1.0
    pull_rate: float = 1.0
    depth: float = 30.0
    meta_share: float = 0.5
    meta_length: float = 5.0
    meta_exponent: float = 1.5
    excitation: tuple[float, float] = (0.3, 0.3)
    excitation_seconds: tuple[float, float] = (0.1, 2.0)
    pressure_seconds: tuple[float, float] = (1.0, 15.0)
    expected: tuple[float, float] = (0.2, 0.4)
    impact: float = 30.0
    queue: float = 4000.0
    queue_rate: float = 1.0
    queue_events: float = 8.0
    response: float = 0.9
    refill: float = 3000.0
    follow: float = 0.97
    close_rate: float = 30.0
    lots_per_print: float = 110.0
    activity: tuple[float, float, float] = (0.35, 0.35, 0.35)
    activity_seconds: tuple[float, float, float] = (20.0, 300.0, 3600.0)
    volume: float = 7000.0

    def __post_init__(self) -> None:
        super().__post_init__()

    @property
    def price_scale(self) -> int:
        return max(round(2 * self.volatility * math.sqrt(self.step_seconds)), 1)

    @property
    def lot_scale(self) -> float:
        return max(self.volume * self.step_seconds, 1.0)

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 600,
            "quote": {"max_half_spread": 6.0, "max_skew": 6.0, "max_distance": 6.0},
            "reward": {"inventory_penalty": 0.01, "terminal_penalty": 0.05},
        }

    def stages(self, blocks: int) -> MarketStages:
        own = np.zeros(blocks, STATE)
        params = np.zeros(1, PARAMS)
        micro = self.step_seconds / self.substeps
        decay = np.exp(-self.step_seconds / np.array(self.activity_seconds))
        variance = float(np.square(self.activity).sum())
        for name, value in {
            "substeps": self.substeps,
            "latency": self.latency_steps,
            "start": self.start_price,
            "decay": decay,
            "shock": np.array(self.activity) * np.sqrt(1 - decay**2),
            "spread_of_activity": self.activity,
            "activity_variance": variance,
            "deviation": 2 * self.volatility * math.sqrt(micro),
            "jump": self.jump_rate * self.step_seconds,
            "jump_size": 2 * self.jump_size,
            "width": 2 * self.width,
            "order": self.order_rate * micro,
            "size": self.order_size,
            "size_power": -1 / self.size_exponent,
            "max_size": self.max_order_size,
            "informed": self.informed_rate * micro,
            "pull": self.pull_rate * micro,
            "depth": self.depth,
            "meta_share": self.meta_share,
            "meta_length": self.meta_length,
            "meta_power": -1 / self.meta_exponent,
            "excite": np.array(self.excitation) / (self.order_rate * np.array(self.excitation_seconds)),
            "excite_decay": np.exp(-micro / np.array(self.excitation_seconds)),
            "pressure_decay": np.exp(-micro / np.array(self.pressure_seconds)),
            "expected": self.expected,
            "impact": 2 * self.impact,
            "limit": self.queue_events * micro,
            "limit_size": self.queue * self.queue_rate / self.queue_events,
            "cancel": self.queue_events * micro,
            "cancel_part": self.queue_rate / self.queue_events,
            "response": self.response,
            "refill": self.refill,
            "follow": self.follow,
            "close": -math.expm1(-self.close_rate * micro),
            "per_print": 1 / self.lots_per_print,
        }.items():
            params[name] = value
        return MarketStages(step=(Call(step, own, params),), reset=(Call(reset, own, params),))
