"""`book`: a level-one order book on a tick grid, with our orders in its queues.

A latent *efficient price* diffuses and jumps. Around it others trade, mostly one tick apart, with a queue of
lots on each side:

* Limit orders and cancels come at rates that respond to the mispricing (efficient price minus mid): the queue
  in the way of the price thins out, the other one grows (queue-reactive; Huang, Lehalle and Rosenbaum 2015).
* Uninformed market orders have Pareto sizes. Part of them belong to a metaorder of Pareto length, so that the
  signs have long memory (Lillo, Mike and Farmer 2005). What they take of a queue moves the efficient price,
  less what was to be expected from past signs: the price stays unpredictable although the signs are not
  (Lillo and Farmer 2004; Bouchaud, Gefen, Potters and Wyart 2004).
* Informed traders lift everything up to the efficient price once it leaves the spread, and makers pull their
  quotes from its way; both race for a thin queue.
* Each market order excites further ones (Hawkes, a sum of two exponentials). Activity, which scales all rates
  and the volatility, is log-normal with three time constants.

When a queue is gone the price moves (Cont and de Larrard 2013), towards the efficient one and by at least a
tick; the other side follows, mostly at once.

Our orders rest in these queues; see `place` and `fill`. They do not change what others do: the path of the
market depends on the seed alone, so that policies are compared on the same paths. For orders that are small
against the queues that is harmless; large ones get fills here that would in truth have moved the market.

Prices are ticks here and half-ticks in the desk, sizes lots, rates per second. A decision is worked through
in `substeps` micro-steps, each with at most one market order and, per side, one limit order and one cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit, prange
from numba.np.numpy_support import carray

from mmenv.config import Market, MarketStages, require, require_number
from mmenv.kernel import LANES, Call, aligned_zeros, lanes, over_lanes, stage
from mmenv.market import register
from mmenv.market.by_lane import at, with_family
from mmenv.rng import RESET_STEP, philox
from mmenv.vmath import fitted, log, normal, unit

F = np.float32
I = np.int32  # noqa: E741
U = np.uint32

SCALES = 3
DECISION_SLOT = 0
FLOW_SLOT = 2  # two slots for each micro-step follow
FAR = I(100_000)  # ticks

STATE = np.dtype(
    [
        # The decision, copied here so that the micro-steps touch no other record: the compiler would have to
        # check whether they overlap, and then does not use vector instructions.
        lanes("age", "u4"),
        lanes("episode", "u4"),
        lanes("key0", "u4"),
        lanes("key1", "u4"),
        lanes("ask_wanted", "i4"),  # ticks
        lanes("bid_wanted", "i4"),
        lanes("ask_lots", "i4"),
        lanes("bid_lots", "i4"),
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
        # What chance alone decides of a micro-step.
        lanes("noise", "f4"),
        lanes("order_draw", "f4"),
        lanes("order_size", "i4"),
        lanes("multiple", "f4"),  # of the impact
        lanes("ask_cancel_draw", "f4"),
        lanes("bid_cancel_draw", "f4"),
        lanes("rounding", "f4"),
        lanes("ask_limit_draw", "f4"),
        lanes("bid_limit_draw", "f4"),
        lanes("lag_draw", "f4"),
        lanes("join_draw", "f4"),
        lanes("ask_fresh", "i4"),  # lots of the queue at a new best price
        lanes("bid_fresh", "i4"),
        # The last micro-step: the book before it, and what happened to it.
        lanes("old_ask", "i4"),
        lanes("old_bid", "i4"),
        lanes("old_ask_queue", "i4"),
        lanes("old_bid_queue", "i4"),
        lanes("buy", "i4"),  # lots of the market order
        lanes("sell", "i4"),
        lanes("ask_cancel", "f4"),  # part of what the market order left
        lanes("bid_cancel", "f4"),
        # Our orders.
        lanes("ask_price", "i4"),  # ticks
        lanes("bid_price", "i4"),
        lanes("ask_placed", "i4"),  # lots when placed
        lanes("bid_placed", "i4"),
        lanes("ask_left", "i4"),
        lanes("bid_left", "i4"),
        lanes("ask_ahead", "i4"),  # lots ahead of us at our price
        lanes("bid_ahead", "i4"),
        # Sums since the decision.
        lanes("buy_lots", "i4"),
        lanes("sell_lots", "i4"),
        lanes("trades", "i4"),
        lanes("value", "f8"),
        lanes("ask_fill", "i4"),
        lanes("bid_fill", "i4"),
        lanes("ask_late", "i4"),  # fills of the order of the last decision, before the new one took effect
        lanes("bid_late", "i4"),
        lanes("ask_late_price", "i4"),
        lanes("bid_late_price", "i4"),
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
        ("spread", "f4", (SCALES,)),  # its standard deviations
        ("variance", "f4"),  # the sum of their squares
        ("deviation", "f4"),  # of the efficient price in a micro-step, half-ticks
        ("jump", "f4"),  # chance per decision
        ("jump_size", "f4"),  # mean, half-ticks
        ("per_width", "f4"),  # 1 / half-ticks
        ("order", "f4"),  # chance of an uninformed market order per micro-step
        ("size", "f4"),
        ("size_power", "f4"),
        ("max_size", "f4"),
        ("informed", "f4"),  # chances per micro-step, per width outside the spread
        ("pull", "f4"),
        ("race", "f4"),  # lots
        ("depth", "f4"),  # lots a tick
        ("meta_share", "f4"),
        ("meta_length", "f4"),
        ("meta_power", "f4"),
        ("excite", "f4", (2,)),
        ("excite_decay", "f4", (2,)),
        ("excited", "f4", (2,)),  # mean excitation
        ("forget", "f4", (2,)),  # weight of a micro-step in the averages of signed orders
        ("expected", "f4", (2,)),
        ("impact", "f4"),  # half-ticks
        ("event", "f4"),  # chance of a limit order, or a cancel, per micro-step
        ("limit", "f4"),  # mean lots
        ("cancel", "f4"),  # mean part of the queue
        ("response", "f4"),
        ("refill", "f4"),  # mean lots
        ("lag", "f4"),
        ("follow", "f4"),
        ("close", "f4"),
        ("per_print", "f4"),
    ],
    align=True,
)

# The parameters are part of the state: for another record the compiler would have to check that it is apart.
FIXED = with_family(STATE, PARAMS, by_lane=False)
BY_LANE = with_family(STATE, PARAMS)

# 2^x on [-1/2, 1/2].
E0, E1, E2, E3, E4, E5 = fitted(lambda x: 2.0**x, -0.5, 0.5, 5)
PER_LN2 = F(1 / np.log(2.0))


@njit
def exp(x):  # type: ignore[no-untyped-def]
    """e^x for float32 x, which is clipped to +-40."""
    y = min(max(x, F(-40)), F(40)) * PER_LN2
    whole = np.floor(y + F(0.5))
    z = y - whole
    power = I(I(I(whole) + I(127)) << I(23))
    return power.view(np.float32) * (E0 + z * (E1 + z * (E2 + z * (E3 + z * (E4 + z * E5)))))


@njit
def bell(word):  # type: ignore[no-untyped-def]
    """A float32 of mean 0 and variance 1, the sum of two uniforms: Gaussian once a few are added."""
    total = I(I(word & U(0xFFFF)) + I(word >> U(16)))
    return (F(total) * F(2.0**-16) - F(65535.0 / 65536.0)) * F(np.sqrt(6.0))


@njit
def coin(word):  # type: ignore[no-untyped-def]
    """The lowest eight bits, which `unit` does not use, as a float32 in (0, 1)."""
    return (F(I(word & U(0xFF))) + F(0.5)) * F(1 / 256)


@njit
def exponential(word):  # type: ignore[no-untyped-def]
    """An exponential of mean 1 from the lowest 16 bits."""
    return -log((F(I(word & U(0xFFFF))) + F(0.5)) * F(1 / 65536))


@njit
def event(uniform, chance):  # type: ignore[no-untyped-def]
    """0 without an event, else exponential of mean 1: an event's uniform is one again, on (0, chance)."""
    size = -log(min(uniform / max(chance, F(1e-20)), F(1)))
    return size if uniform < chance else F(0)


@over_lanes
def take(s, w):  # type: ignore[no-untyped-def]
    """Take the decision over from the desk; clear what the micro-steps add up."""
    for i in prange(s.count):
        w.age[i], w.episode[i], w.key0[i], w.key1[i] = U(s.age[i]), s.episode[i], s.key0[i], s.key1[i]
        mid = s.mid[i]
        w.ask_wanted[i] = I(I(mid + s.ask_distance[i]) >> I(1))
        w.bid_wanted[i] = I(I(mid - s.bid_distance[i]) >> I(1))
        w.ask_lots[i], w.bid_lots[i] = s.ask_lots[i], s.bid_lots[i]
        w.ask_late_price[i], w.bid_late_price[i] = w.ask_price[i], w.bid_price[i]
        w.ask_late[i], w.bid_late[i] = I(0), I(0)
        w.ask_fill[i], w.bid_fill[i] = I(0), I(0)
        w.buy_lots[i], w.sell_lots[i], w.trades[i] = I(0), I(0), I(0)
        w.value[i] = 0.0


@over_lanes
def drift(own, count):  # type: ignore[no-untyped-def]
    """Once a decision: activity, jump of the efficient price, next metaorder."""
    w, p = own.own, own.family
    decay0_of, decay1_of, decay2_of = p.decay[0], p.decay[1], p.decay[2]
    shock0_of, shock1_of, shock2_of = p.shock[0], p.shock[1], p.shock[2]
    variance_of, deviation_of, jump_of, jump_size_of = p.variance, p.deviation, p.jump, p.jump_size
    meta_length_of, meta_power_of = p.meta_length, p.meta_power
    for i in prange(count):
        decay0, decay1, decay2 = at(decay0_of, i), at(decay1_of, i), at(decay2_of, i)
        shock0, shock1, shock2 = at(shock0_of, i), at(shock1_of, i), at(shock2_of, i)
        variance, deviation = at(variance_of, i), at(deviation_of, i)
        jump_chance, jump_mean = at(jump_of, i), at(jump_size_of, i)
        meta_length, meta_power = at(meta_length_of, i), at(meta_power_of, i)
        age, episode, key0, key1 = w.age[i], w.episode[i], w.key0[i], w.key1[i]
        word0, word1, word2, jump_word = philox(age, episode, U(DECISION_SLOT), U(0), key0, key1)
        size_word, meta_word, side_word, _ = philox(age, episode, U(DECISION_SLOT + 1), U(0), key0, key1)
        y0 = w.activity[0, i] * decay0 + bell(word0) * shock0
        y1 = w.activity[1, i] * decay1 + bell(word1) * shock1
        y2 = w.activity[2, i] * decay2 + bell(word2) * shock2
        w.activity[0, i], w.activity[1, i], w.activity[2, i] = y0, y1, y2
        # The rates have mean one, and so has the square of the volatility.
        w.rate[i] = exp(y0 + y1 + y2 - F(0.5) * variance)
        w.deviation[i] = deviation * exp(y0 + y1 + y2 - variance)
        size = -log(unit(size_word)) * jump_mean
        size = size if (jump_word & U(1)) != U(0) else -size
        gap = w.gap[i]
        w.gap[i] = gap + size if unit(jump_word) < jump_chance else gap
        left, sign = w.meta_left[i], w.meta_sign[i]
        length = meta_length * exp(meta_power * log(unit(meta_word)))
        side = F(1) if (side_word & U(1)) != U(0) else F(-1)
        w.meta_left[i] = length if left <= F(0) else left
        w.meta_sign[i] = side if left <= F(0) else sign


@over_lanes
def draws(own, count, k):  # type: ignore[no-untyped-def]
    """What chance alone decides of micro-step k."""
    w, p = own.own, own.family
    least_of, power_of, max_size_of, refill_of = p.size, p.size_power, p.max_size, p.refill
    for i in prange(count):
        age, episode, key0, key1 = w.age[i], w.episode[i], w.key0[i], w.key1[i]
        slot = U(FLOW_SLOT + 2 * k)
        order, size, noise, refill = philox(age, episode, slot, U(0), key0, key1)
        ask_limit, ask_cancel, bid_limit, bid_cancel = philox(age, episode, U(slot + U(1)), U(0), key0, key1)
        w.noise[i] = bell(noise)
        w.order_draw[i], w.join_draw[i] = unit(order), coin(order)
        lots = at(least_of, i) * exp(at(power_of, i) * log(unit(size)))
        w.order_size[i] = I(min(lots, at(max_size_of, i)))
        # Exponential, for the book behind the touch is now deep, now thin.
        w.multiple[i] = -log(coin(size))
        w.ask_cancel_draw[i], w.rounding[i] = unit(ask_cancel), coin(ask_cancel)
        w.ask_limit_draw[i], w.lag_draw[i] = unit(ask_limit), coin(ask_limit)
        w.bid_cancel_draw[i], w.bid_limit_draw[i] = unit(bid_cancel), unit(bid_limit)
        w.ask_fresh[i] = I(exponential(refill) * at(refill_of, i)) + I(1)
        w.bid_fresh[i] = I(exponential(U(refill >> U(16))) * at(refill_of, i)) + I(1)


@over_lanes
def flow(own, count):  # type: ignore[no-untyped-def]
    """A micro-step of the others: efficient price, market order, cancels, limit orders, move of the price."""
    w, p = own.own, own.family
    per_width_of, order_of, meta_share_of, informed_of = p.per_width, p.order, p.meta_share, p.informed
    pull_of, race_of, depth_of, impact_of, event_of = p.pull, p.race, p.depth, p.impact, p.event
    limit_of, cancel_of, lag_of, response_of = p.limit, p.cancel, p.lag, p.response
    follow_of, close_of, per_print_of = p.follow, p.close, p.per_print
    excite0_of, excite1_of, expected0_of, expected1_of = (
        p.excite[0],
        p.excite[1],
        p.expected[0],
        p.expected[1],
    )
    fade0_of, fade1_of, forget0_of, forget1_of = (
        p.excite_decay[0],
        p.excite_decay[1],
        p.forget[0],
        p.forget[1],
    )
    for i in prange(count):
        per_width, order, meta_share, informed = (
            at(per_width_of, i),
            at(order_of, i),
            at(meta_share_of, i),
            at(informed_of, i),
        )
        pull, race, impact, event_chance = at(pull_of, i), at(race_of, i), at(impact_of, i), at(event_of, i)
        limit, cancel, lag, response = at(limit_of, i), at(cancel_of, i), at(lag_of, i), at(response_of, i)
        follow, close, per_print = at(follow_of, i), at(close_of, i), at(per_print_of, i)
        half_depth = F(0.5) * at(depth_of, i)
        excite0, excite1, fade0, fade1 = (
            at(excite0_of, i),
            at(excite1_of, i),
            at(fade0_of, i),
            at(fade1_of, i),
        )
        expected0, expected1 = at(expected0_of, i), at(expected1_of, i)
        forget0, forget1 = at(forget0_of, i), at(forget1_of, i)
        ask, bid = w.ask[i], w.bid[i]
        ask_queue, bid_queue = w.ask_queue[i], w.bid_queue[i]
        w.old_ask[i], w.old_bid[i] = ask, bid
        w.old_ask_queue[i], w.old_bid_queue[i] = ask_queue, bid_queue
        rate = w.rate[i]
        gap = w.gap[i] + w.noise[i] * w.deviation[i]

        # A market order, informed or not, buy or sell, from one uniform. A thin queue is raced for.
        half_spread = F(I(ask - bid))
        above, below = max(gap - half_spread, F(0)), max(-gap - half_spread, F(0))
        ask_race = rate * above * per_width * race / (race + F(ask_queue))
        bid_race = rate * below * per_width * race / (race + F(bid_queue))
        informed_buy = min(informed * ask_race, F(0.25))
        informed_sell = min(informed * bid_race, F(0.25))
        excited0, excited1 = w.excitation[0, i], w.excitation[1, i]
        chance = F(0.5) * order * rate * (F(1) + excited0 + excited1)
        tilt = meta_share * w.meta_sign[i]
        plain_buy = min(chance * (F(1) + tilt), F(0.25))
        plain_sell = min(chance * (F(1) - tilt), F(0.25))
        draw = w.order_draw[i]
        knows_up, buys = draw < informed_buy, draw < informed_buy + plain_buy
        knows_down, sells = draw > F(1) - informed_sell, draw > F(1) - informed_sell - plain_sell
        size = w.order_size[i]
        buy = I(ask_queue + I(above * half_depth)) if knows_up else size
        sell = I(bid_queue + I(below * half_depth)) if knows_down else size
        buy, sell = buy if buys else I(0), sell if sells else I(0)
        w.buy[i], w.sell[i] = buy, sell
        trades = buys | sells
        plain = trades & (not knows_up) & (not knows_down)
        prints = I(I(1) + I(F(I(buy + sell)) * per_print))
        w.buy_lots[i] = I(w.buy_lots[i] + buy)
        w.sell_lots[i] = I(w.sell_lots[i] + sell)
        w.trades[i] = I(w.trades[i] + (prints if trades else I(0)))

        # What it does to later ones, and an uninformed one to the efficient price.
        w.excitation[0, i] = excited0 * fade0 + (excite0 if trades else F(0))
        w.excitation[1, i] = excited1 * fade1 + (excite1 if trades else F(0))
        taken = min(F(buy) / F(ask_queue), F(1)) - min(F(sell) / F(bid_queue), F(1))
        taken = taken if plain else F(0)
        fast, slow = w.pressure[0, i], w.pressure[1, i]
        gap += impact * (taken * w.multiple[i] - expected0 * fast - expected1 * slow)
        w.pressure[0, i] = fast + forget0 * (taken - fast)
        w.pressure[1, i] = slow + forget1 * (taken - slow)
        meta_left = w.meta_left[i]
        w.meta_left[i] = meta_left - F(1) if plain else meta_left
        ask_queue, bid_queue = max(I(ask_queue - buy), I(0)), max(I(bid_queue - sell), I(0))

        # Cancels, of part of a queue or of all of it, then limit orders.
        lean = min(max(gap * per_width * response, F(-1)), F(1))
        up, down = event_chance * rate * (F(1) + lean), event_chance * rate * (F(1) - lean)
        ask_draw, bid_draw = w.ask_cancel_draw[i], w.bid_cancel_draw[i]
        ask_cancel = min(event(ask_draw, up) * cancel, F(1))
        bid_cancel = min(event(bid_draw, down) * cancel, F(1))
        ask_cancel = F(1) if ask_draw > F(1) - pull * ask_race else ask_cancel
        bid_cancel = F(1) if bid_draw > F(1) - pull * bid_race else bid_cancel
        w.ask_cancel[i], w.bid_cancel[i] = ask_cancel, bid_cancel
        ask_queue = I(ask_queue - min(I(F(ask_queue) * ask_cancel + F(0.5)), ask_queue))
        bid_queue = I(bid_queue - min(I(F(bid_queue) * bid_cancel + F(0.5)), bid_queue))
        ask_empty = ask_queue == 0
        bid_empty = (bid_queue == 0) & (not ask_empty)
        ask_queue = I(ask_queue + I(event(w.ask_limit_draw[i], down) * limit))
        bid_queue = I(bid_queue + I(event(w.bid_limit_draw[i], up) * limit))

        # An empty queue moves the price to the efficient one; a wide spread closes towards it.
        follows = gap * (F(1) - lag * w.lag_draw[i])
        rise = max(I(np.floor(F(0.5) * (follows - half_spread) + F(1))), I(1))
        fall = max(I(np.floor(F(0.5) * (-follows - half_spread) + F(1))), I(1))
        new_ask = I(ask + (rise if ask_empty else I(0)))
        new_bid = I(bid - (fall if bid_empty else I(0)))
        moves = ask_empty | bid_empty
        joins = (w.join_draw[i] < (follow if moves else close)) & (I(new_ask - new_bid) > 1)
        bid_joins = joins & (ask_empty if moves else gap > F(0))
        ask_joins = joins & (not bid_joins)
        joined_bid = I(new_ask - I(1)) if bid_joins else new_bid
        joined_ask = I(new_bid + I(1)) if ask_joins else new_ask
        w.ask_queue[i] = w.ask_fresh[i] if joined_ask != ask else max(ask_queue, I(1))
        w.bid_queue[i] = w.bid_fresh[i] if joined_bid != bid else max(bid_queue, I(1))
        w.ask[i], w.bid[i] = joined_ask, joined_bid
        w.gap[i] = gap - F(I(I(joined_ask - ask) + I(joined_bid - bid)))


@njit
def place(order, wanted, lots, touch, queue, opposite, depth, side):  # type: ignore[no-untyped-def]
    """Our order once a quote of `lots` at `wanted` arrives; an order is (price, placed, left, ahead).

    `touch` and `queue` are best price and lots on our side, `side` is +1 for an ask. With its price
    unchanged, and lots those it was placed with or no more than are left, the order keeps its place.
    Otherwise it is new: at the back of the queue at the touch, behind the assumed depth if deeper, first
    inside the spread. One that would trade at once is refused.
    """
    price, placed, left, ahead = order
    keeps = (wanted == price) & (left > 0) & ((lots == placed) | (lots <= left))
    behind = I(side * I(wanted - touch))
    new_ahead = queue if behind == 0 else depth
    new_ahead = new_ahead if behind >= 0 else I(0)
    new_left = lots if I(side * I(wanted - opposite)) > 0 else I(0)
    return (
        wanted,
        placed if keeps else lots,
        min(left, lots) if keeps else new_left,
        ahead if keeps else new_ahead,
    )


@njit
def fill(order, volume, cancel, rounding, old, new, depth, side):  # type: ignore[no-untyped-def]
    """What a micro-step does to our order: (fill, ahead).

    `old` is the book's (touch, queue) on our side before it, `new` (touch, queue, opposite touch, opposite
    queue) after it. A market order takes the touch, then `depth` lots a tick, then those ahead of us, then
    us. Cancels at the touch are spread evenly over the queue, rounded by chance. The opposite touch at or
    past our price trades with us.
    """
    price, _, left, ahead = order
    touch, queue = old
    new_touch, new_queue, opposite, opposite_queue = new
    behind = min(I(side * I(price - touch)), FAR)
    first = I(queue + I(depth * I(behind - I(1)))) if behind > 0 else I(0)
    reached = max(I(volume - first), I(0))
    taken = min(left, max(I(reached - ahead), I(0)))
    ahead = max(I(ahead - reached), I(0))
    cancelled = I(F(ahead) * cancel + rounding) if behind == 0 else I(0)
    ahead = max(I(ahead - cancelled), I(0))
    distance = I(side * I(price - new_touch))
    ahead = min(ahead, new_queue) if distance == 0 else ahead
    ahead = ahead if distance >= 0 else I(0)
    crossed = I(side * I(opposite - price)) >= 0
    taken = I(taken + (min(I(left - taken), opposite_queue) if crossed else I(0)))
    return taken, ahead


@njit
def chosen(new, old, condition):  # type: ignore[no-untyped-def]
    """The order `new` where the condition holds, else `old`."""
    return (
        new[0] if condition else old[0],
        new[1] if condition else old[1],
        new[2] if condition else old[2],
        new[3] if condition else old[3],
    )


@over_lanes
def orders(own, latency, count, k):  # type: ignore[no-untyped-def]
    """Micro-step k of our orders, after `flow`: a new quote takes effect, then fills."""
    w, p = own.own, own.family
    arrives, late, depth_of = k == latency, k < latency, p.depth
    for i in prange(count):
        depth = I(at(depth_of, i))
        old_ask = w.old_ask[i], w.old_ask_queue[i]
        old_bid = w.old_bid[i], w.old_bid_queue[i]
        ask, ask_queue, bid, bid_queue = w.ask[i], w.ask_queue[i], w.bid[i], w.bid_queue[i]
        rounding = w.rounding[i]

        order = w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i]
        filled = w.ask_fill[i]
        lots = max(I(w.ask_lots[i] - filled), I(0))
        new = place(order, w.ask_wanted[i], lots, old_ask[0], old_ask[1], old_bid[0], depth, I(1))
        order = chosen(new, order, arrives)
        after = (ask, ask_queue, bid, bid_queue)
        taken, ahead = fill(order, w.buy[i], w.ask_cancel[i], rounding, old_ask, after, depth, I(1))
        w.ask_price[i], w.ask_placed[i] = order[0], order[1]
        w.ask_left[i], w.ask_ahead[i] = I(order[2] - taken), ahead
        w.ask_fill[i] = I(filled + taken)
        w.ask_late[i] = I(w.ask_late[i] + (taken if late else I(0)))

        order = w.bid_price[i], w.bid_placed[i], w.bid_left[i], w.bid_ahead[i]
        filled = w.bid_fill[i]
        lots = max(I(w.bid_lots[i] - filled), I(0))
        new = place(order, w.bid_wanted[i], lots, old_bid[0], old_bid[1], old_ask[0], depth, I(-1))
        order = chosen(new, order, arrives)
        after = (bid, bid_queue, ask, ask_queue)
        taken, ahead = fill(order, w.sell[i], w.bid_cancel[i], rounding, old_bid, after, depth, I(-1))
        w.bid_price[i], w.bid_placed[i] = order[0], order[1]
        w.bid_left[i], w.bid_ahead[i] = I(order[2] - taken), ahead
        w.bid_fill[i] = I(filled + taken)
        w.bid_late[i] = I(w.bid_late[i] + (taken if late else I(0)))


@over_lanes
def value(w, count):  # type: ignore[no-untyped-def]
    """Add the market order, at the touch, to the value traded. A loop of its own, because in float64."""
    for i in prange(count):
        bought = np.float64(w.buy[i]) * np.float64(w.old_ask[i])
        w.value[i] += bought + np.float64(w.sell[i]) * np.float64(w.old_bid[i])


@njit
def edge(lots, price, mid):  # type: ignore[no-untyped-def]
    """Lots x (price - mid), price in ticks, half-ticks x lots."""
    return np.float64(lots) * np.float64(I(I(2) * price - mid))


@over_lanes
def answer(s, w):  # type: ignore[no-untyped-def]
    """The market's answer to the desk. Money in float64, where integers are exact."""
    for i in prange(s.count):
        ask, bid, before = w.ask[i], w.bid[i], s.mid[i]
        mid = I(ask + bid)
        bought, sold = w.buy_lots[i], w.sell_lots[i]
        s.trade_value[i] = 2.0 * w.value[i] - np.float64(I(bought + sold)) * np.float64(before)
        fills, late, old, new = w.ask_fill[i], w.ask_late[i], w.ask_late_price[i], w.ask_price[i]
        s.ask_fill[i], s.ask_edge[i] = fills, edge(I(fills - late), new, before) + edge(late, old, before)
        fills, late, old, new = w.bid_fill[i], w.bid_late[i], w.bid_late_price[i], w.bid_price[i]
        s.bid_fill[i], s.bid_edge[i] = fills, -edge(I(fills - late), new, before) - edge(late, old, before)
        s.move[i], s.mid[i] = I(mid - before), mid
        s.spread[i] = I(I(2) * I(ask - bid))
        s.best_ask_lots[i], s.best_bid_lots[i] = w.ask_queue[i], w.bid_queue[i]
        s.buy_lots[i], s.sell_lots[i], s.trades[i] = bought, sold, w.trades[i]
        s.ask_reach[i], s.bid_reach[i] = I(-1), I(-1)
        # No part of the move is known to have mean zero given what can be seen.
        s.free_move[i], s.flow_move[i] = F(0), F(0)


@njit
def decide(s, own, params):  # type: ignore[no-untyped-def]
    """One decision: `substeps` micro-steps of the others and of our orders."""
    w = own.own
    count = s.count
    take(s, w)
    drift(own, count)
    for k in range(params.substeps):
        draws(own, count, k)
        flow(own, count)
        orders(own, params.latency, count, k)
        value(w, count)
    answer(s, w)


@over_lanes
def begin(s, own, params):  # type: ignore[no-untyped-def]
    """A book one tick wide at the start price, the efficient price at its mid, stationary activity."""
    w, p = own.own, own.family
    start = params.start
    for i in prange(s.count):
        if s.done[i] == 0:
            continue
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


@stage(FIXED, PARAMS)
def step(core, own, params, out):  # type: ignore[no-untyped-def]
    decide(carray(core, 1)[0], carray(own, 1)[0], carray(params, 1)[0])


@stage(BY_LANE, PARAMS)
def step_by_lane(core, own, params, out):  # type: ignore[no-untyped-def]
    decide(carray(core, 1)[0], carray(own, 1)[0], carray(params, 1)[0])


@stage(FIXED, PARAMS)
def reset(core, own, params, out):  # type: ignore[no-untyped-def]
    begin(carray(core, 1)[0], carray(own, 1)[0], carray(params, 1)[0])


@stage(BY_LANE, PARAMS)
def reset_by_lane(core, own, params, out):  # type: ignore[no-untyped-def]
    begin(carray(core, 1)[0], carray(own, 1)[0], carray(params, 1)[0])


COMMON: dict[str, Any] = {
    "activity": (0.35, 0.35, 0.35),
    "activity_seconds": (20.0, 300.0, 3600.0),
    "excitation": (0.3, 0.3),
    "excitation_seconds": (0.1, 2.0),
    "meta_share": 0.5,
    "meta_length": 5.0,
    "meta_exponent": 1.5,
    "pressure_seconds": (0.3, 3.0),
    "expected": (0.17, 0.0),
    "follow": 0.9,
    "close_rate": 20.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "binance-usdm-btc": COMMON
    | {
        "start_price": 617_000,
        "unit": 70.0,
        "volume": 6_200.0,
        "volatility": 36.0,
        "jump_rate": 0.012,
        "jump_size": 240.0,
        "order_rate": 7.3,
        "order_size": 2.0,
        "size_exponent": 0.555,
        "max_order_size": 20_000.0,
        "lots_per_print": 117.0,
        "impact": 60.0,
        "width": 25.0,
        "informed_rate": 1.15,
        "pull_rate": 1.0,
        "race": 0.4,
        "depth": 100.0,
        "queue": 5_500.0,
        "queue_rate": 0.9,
        "queue_events": 13.0,
        "response": 1.2,
        "refill": 1_900.0,
        "lag": 0.4,
    },
    "binance-usdm-eth": COMMON
    | {
        "start_price": 268_000,
        "unit": 30.0,
        "volume": 30_000.0,
        "volatility": 22.0,
        "jump_rate": 0.008,
        "jump_size": 60.0,
        "order_rate": 3.2,
        "order_size": 17.0,
        "size_exponent": 0.56,
        "max_order_size": 100_000.0,
        "lots_per_print": 750.0,
        "impact": 24.0,
        "width": 13.0,
        "informed_rate": 1.0,
        "pull_rate": 1.6,
        "race": 0.5,
        "depth": 1_500.0,
        "queue": 24_000.0,
        "queue_rate": 1.25,
        "queue_events": 15.0,
        "response": 2.5,
        "refill": 10_600.0,
        "lag": 0.23,
    },
    "binance-coinm-btc": COMMON
    | {
        "activity": (0.16, 0.16, 0.16),
        "start_price": 617_000,
        "unit": 55.0,
        "volume": 350.0,
        "volatility": 55.0,
        "jump_rate": 0.004,
        "jump_size": 120.0,
        "order_rate": 0.25,
        "order_size": 1.0,
        "size_exponent": 1.0,
        "max_order_size": 4_000.0,
        "lots_per_print": 100.0,
        "impact": 90.0,
        "width": 55.0,
        "informed_rate": 0.5,
        "pull_rate": 1.0,
        "race": 0.7,
        "depth": 20.0,
        "queue": 1_200.0,
        "queue_rate": 1.8,
        "queue_events": 10.0,
        "response": 1.7,
        "refill": 700.0,
        "lag": 0.2,
    },
    "binance-spot-btc": COMMON
    | {
        "start_price": 6_170_000,
        "unit": 600.0,
        "volume": 1_100_000.0,
        "volatility": 360.0,
        "jump_rate": 0.008,
        "jump_size": 1_800.0,
        "order_rate": 3.0,
        "order_size": 14.0,
        "size_exponent": 0.306,
        "max_order_size": 1_000_000.0,
        "lots_per_print": 42_000.0,
        "impact": 700.0,
        "width": 450.0,
        "informed_rate": 0.9,
        "pull_rate": 1.0,
        "race": 0.25,
        "depth": 4_400.0,
        "queue": 2_350_000.0,
        "queue_rate": 1.4,
        "queue_events": 6.5,
        "response": 2.9,
        "refill": 1_064_000.0,
        "lag": 0.5,
    },
}
"""Parameters by name, fitted by simulated moments to tapes of Binance of 2024-08-08, 23:54 to 24:00 UTC.

Tape / preset, as `python -m mmenv.facts` measures them. The last two rows were not fitted.

|  | usdm-btc | usdm-eth | coinm-btc | spot-btc |
|---|---|---|---|---|
| mid's move in 10 s, standard deviation, ticks | 243 / 251 | 84 / 102 | 235 / 196 | 2522 / 2234 |
| share of 0.1 s in which the mid moves | .12 / .12 | .14 / .13 | .07 / .08 | .08 / .08 |
| mean queue at the touch, lots | 3792 / 3673 | 20097 / 19526 | 1407 / 1431 | 2.3e6 / 2.5e6 |
| market volume, lots a second | 7291 / 5739 | 26383 / 26854 | 249 / 308 | 6.3e5 / 9.9e5 |
| AUC of the imbalance, 0.1 s | .90 / .90 | .93 / .92 | .96 / .97 | .95 / .96 |
| AUC of the imbalance, 1 s | .77 / .76 | .73 / .75 | .81 / .84 | .85 / .84 |
| fills of a lot at the touch, per second and side | .66 / .72 | .76 / .76 | .29 / .41 | .42 / .53 |
| mark-out after 1 s, standard deviations of a move | -1.6 / -2.0 | -1.9 / -2.0 | -4.3 / -2.9 | -2.9 / -2.5 |

Six minutes say little about tails, slow activity and metaorders: those (`COMMON`, and jumps) are set so that
the stylised facts of the literature hold.
"""


def from_preset() -> Any:
    """A field that takes its value from the preset where the user says nothing."""
    return field(default=None)


@register
@dataclass(frozen=True, kw_only=True)
class Book(Market):
    """A level-one order book around a latent efficient price, with our orders in its queues.

    `preset` names a calibration of `PRESETS`; any other parameter can be set on top of it. Prices in ticks,
    sizes in lots, rates per second.

        gym.make("NeuralMM-v0", market={"name": "book", "preset": "binance-usdm-eth", "latency_steps": 1})
    """

    name = "book"
    varied = (
        "volatility", "jump_rate", "jump_size", "order_rate", "order_size", "size_exponent", "meta_share",
        "meta_length", "meta_exponent", "impact", "width", "informed_rate", "pull_rate", "race", "depth",
        "queue", "queue_rate", "queue_events", "response", "refill", "lag", "follow", "close_rate"
    )  # fmt: skip

    step_seconds: float = 0.1
    preset: str = "binance-usdm-btc"
    """Where the parameters that are not given come from."""
    substeps: int = 5
    """Micro-steps in a decision."""
    latency_steps: int = 0
    """Micro-steps until our new quote takes effect; the old one can fill until then."""
    start_price: int = from_preset()
    """Best bid at the start of an episode, ticks."""
    unit: float = from_preset()
    """Standard deviation of the mid's move in a second, ticks: the scale of actions and observations."""
    volume: float = from_preset()
    """Lots traded in a second: the scale of volume in observations."""

    volatility: float = from_preset()
    """Of the efficient price between jumps, without impact, ticks per square root of a second."""
    jump_rate: float = from_preset()
    """Jumps of the efficient price, per second."""
    jump_size: float = from_preset()
    """Mean size of a jump, ticks; exponential."""
    activity: tuple[float, float, float] = from_preset()
    """Standard deviations of the three components of the logarithm of activity."""
    activity_seconds: tuple[float, float, float] = from_preset()
    """Their time constants."""

    order_rate: float = from_preset()
    """Uninformed market orders per second, of both sides, without excitation."""
    order_size: float = from_preset()
    """Smallest uninformed order, lots."""
    size_exponent: float = from_preset()
    """Pareto exponent of their sizes."""
    max_order_size: float = from_preset()
    """Largest uninformed order, lots."""
    lots_per_print: float = from_preset()
    """A market order counts as one trade for each of these lots that it takes, rounded up."""
    excitation: tuple[float, float] = from_preset()
    """Further uninformed orders that an order sets off, by component."""
    excitation_seconds: tuple[float, float] = from_preset()
    """Their time constants."""
    meta_share: float = from_preset()
    """Correlation of an uninformed order's side with that of the current metaorder."""
    meta_length: float = from_preset()
    """Shortest metaorder, in uninformed orders."""
    meta_exponent: float = from_preset()
    """Pareto exponent of their lengths: signs correlate as lag^-(meta_exponent - 1)."""
    impact: float = from_preset()
    """Mean move of the efficient price by an unexpected uninformed order that takes the queue, ticks."""
    pressure_seconds: tuple[float, float] = from_preset()
    """Time constants of the averages of past signed orders, from which the next are expected."""
    expected: tuple[float, float] = from_preset()
    """Their weights in the expectation."""

    width: float = from_preset()
    """Mispricing at which the rates below hold, ticks; they are proportional to it."""
    informed_rate: float = from_preset()
    """Informed orders per second at a mispricing of `width` outside the spread, against a thin queue."""
    pull_rate: float = from_preset()
    """As `informed_rate`: the makers on the wrong side cancel all their orders."""
    race: float = from_preset()
    """Both rates are halved where a queue is this multiple of `queue`: the thin one is raced for."""
    depth: float = from_preset()
    """Assumed lots at each tick behind the touch."""

    queue: float = from_preset()
    """Lots at the touch to which limit orders and cancels lead at no mispricing."""
    queue_rate: float = from_preset()
    """Part of the queue renewed in a second."""
    queue_events: float = from_preset()
    """Limit orders, and cancels, per second and side."""
    response: float = from_preset()
    """Relative change of the rates of limit orders and cancels at a mispricing of `width`; at most 1."""
    refill: float = from_preset()
    """Mean lots of the queue at a new best price; exponential."""
    lag: float = from_preset()
    """When a queue is gone the price goes at least 1 - lag of the way to the efficient one."""
    follow: float = from_preset()
    """Chance that the other side follows at once; the spread is then one tick."""
    close_rate: float = from_preset()
    """Rate at which a wider spread closes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.preset in PRESETS, "Book", "preset", self.preset, "one of " + ", ".join(PRESETS))
        for name, value in PRESETS[self.preset].items():
            given = getattr(self, name)
            value = value if given is None else given
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else value)
        require_number(self, "substeps", 1, 100, integer=True)
        require_number(self, "latency_steps", 0, self.substeps - 1, integer=True)
        require_number(self, "start_price", 1, 2**28, integer=True)
        for name, (low, high) in LIMITS.items():
            require_number(self, name, low, high)
        for name, count, high in (
            ("activity", SCALES, 2.0),
            ("activity_seconds", SCALES, 1e7),
            ("excitation", 2, 0.95),
            ("excitation_seconds", 2, 1e6),
            ("pressure_seconds", 2, 1e6),
            ("expected", 2, 1.0),
        ):
            value = getattr(self, name)
            low = 1e-3 if name.endswith("seconds") else 0.0
            good = isinstance(value, tuple) and len(value) == count
            good = good and all(isinstance(x, int | float) and low <= x <= high for x in value)
            require(good, "Book", name, value, f"{count} numbers from {low:g} to {high:g}")
        require(sum(self.excitation) < 1, "Book", "excitation", self.excitation, "less than 1 in sum")
        events = self.queue_events * self.micro_seconds
        require(
            events <= 0.5,
            "Book",
            "queue_events",
            self.queue_events,
            f"at most {0.5 / self.micro_seconds:g} with these substeps",
        )
        orders = self.order_rate / (1 - sum(self.excitation)) * self.micro_seconds
        require(
            orders <= 0.5,
            "Book",
            "order_rate",
            self.order_rate,
            f"at most {0.5 * self.order_rate / orders:g} with these substeps and excitation",
        )

    @property
    def micro_seconds(self) -> float:
        """Length of a micro-step."""
        return self.step_seconds / self.substeps

    @property
    def price_scale(self) -> int:
        return max(round(2 * self.unit * math.sqrt(self.step_seconds)), 1)

    @property
    def lot_scale(self) -> float:
        return max(self.volume * self.step_seconds, 1.0)

    def defaults(self) -> dict[str, Any]:
        return {
            "horizon": 600,
            "quote": {"max_half_spread": 12.0, "max_skew": 12.0, "max_distance": 12.0},
            "reward": {"inventory_penalty": 0.001, "terminal_penalty": 0.01},
        }

    def compiled(self) -> np.ndarray:
        micro = self.micro_seconds
        decay = np.exp(-self.step_seconds / np.array(self.activity_seconds))
        params = np.zeros(1, PARAMS)
        for name, value in {
            "substeps": self.substeps,
            "latency": self.latency_steps,
            "start": self.start_price,
            "decay": decay,
            "shock": np.array(self.activity) * np.sqrt(1 - decay**2),
            "spread": self.activity,
            "variance": float(np.square(self.activity).sum()),
            "deviation": 2 * self.volatility * math.sqrt(micro),
            "jump": -math.expm1(-self.jump_rate * self.step_seconds),
            "jump_size": 2 * self.jump_size,
            "per_width": 0.5 / self.width,
            "order": self.order_rate * micro,
            "size": self.order_size,
            "size_power": -1 / self.size_exponent,
            "max_size": self.max_order_size,
            "informed": self.informed_rate * micro,
            "pull": self.pull_rate * micro,
            "race": self.race * self.queue,
            "depth": self.depth,
            "meta_share": self.meta_share,
            "meta_length": self.meta_length,
            "meta_power": -1 / self.meta_exponent,
            "excite": np.array(self.excitation) / (self.order_rate * np.array(self.excitation_seconds)),
            "excite_decay": np.exp(-micro / np.array(self.excitation_seconds)),
            "excited": np.array(self.excitation) / (1 - sum(self.excitation)),
            "forget": -np.expm1(-micro / np.array(self.pressure_seconds)),
            "expected": self.expected,
            "impact": 2 * self.impact,
            "event": self.queue_events * micro,
            "limit": self.queue * self.queue_rate / self.queue_events,
            "cancel": self.queue_rate / self.queue_events,
            "response": self.response,
            "refill": self.refill,
            "lag": self.lag,
            "follow": self.follow,
            "close": -math.expm1(-self.close_rate * micro),
            "per_print": 1 / self.lots_per_print,
        }.items():
            params[name] = value
        return params

    def stages(self, blocks: int, by_lane: bool = False) -> MarketStages:
        params, own = self.compiled(), aligned_zeros(blocks, BY_LANE if by_lane else FIXED)
        if not by_lane:
            own["family"] = params
        return MarketStages(
            step=(Call(step_by_lane if by_lane else step, own, params),),
            reset=(Call(reset_by_lane if by_lane else reset, own, params),),
            family=own["family"] if by_lane else None,
        )


LIMITS = {
    "unit": (0.5, 1e6),
    "volume": (1e-3, 1e9),
    "volatility": (0.0, 1e6),
    "jump_rate": (0.0, 1e3),
    "jump_size": (0.0, 1e6),
    "order_rate": (1e-3, 1e3),
    "order_size": (1.0, 1e8),
    "size_exponent": (0.1, 10.0),
    "max_order_size": (1.0, 1e8),
    "lots_per_print": (1.0, 1e9),
    "meta_share": (0.0, 1.0),
    "meta_length": (1.0, 1e6),
    "meta_exponent": (1.01, 10.0),
    "impact": (0.0, 1e6),
    "width": (0.5, 1e6),
    "informed_rate": (0.0, 1e3),
    "pull_rate": (0.0, 1e3),
    "race": (1e-3, 1e6),
    "depth": (1.0, 1e4),
    "queue": (1.0, 1e8),
    "queue_rate": (1e-3, 1e3),
    "queue_events": (1e-3, 1e3),
    "response": (0.0, 100.0),
    "refill": (1.0, 1e8),
    "lag": (0.0, 1.0),
    "follow": (0.0, 1.0),
    "close_rate": (0.0, 1e4),
}
"""Bounds of the numbers of a `Book`."""
