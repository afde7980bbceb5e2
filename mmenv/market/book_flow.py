"""The others in market `book`: activity, efficient price, orders and cancels, and what moves the price.

All that chance decides of a decision comes from one generator for each environment, which `drift` seeds by
(key, episode, step); a micro-step takes five words of it. Lots and half-ticks are float32 here, where a
division has vector instructions: whole numbers, exact below 2^24.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from mmenv.engine.maths import (
    LN2,
    D,
    F,
    I,
    U,
    bell,
    clipped_exp,
    coin,
    fma,
    lower,
    quick_exp2,
    quick_log2,
    unit,
    upper,
)
from mmenv.engine.rng import philox, xoroshiro
from mmenv.engine.stage import at, over_lanes


@over_lanes
def drift(w, p, count):
    """Once a decision: activity, jump of the efficient price, next metaorder; the generator's seed."""
    for i in prange(count):
        # A loop of its own, for words are halves of 64 bits in it.
        word0, word1, word2, word3 = philox(w.age[i], w.episode[i], U(0), U(0), w.key0[i], w.key1[i])
        w.random[0, i], w.random[1, i], w.random[2, i], w.random[3, i] = word0 | U(1), word1, word2, word3
    for i in prange(count):
        decay0, decay1, decay2 = at(p.decay[0], i), at(p.decay[1], i), at(p.decay[2], i)
        shock0, shock1, shock2 = at(p.shock[0], i), at(p.shock[1], i), at(p.shock[2], i)
        jump_chance, jump_mean = at(p.jump, i), LN2 * at(p.jump_size, i)
        meta_power, meta_length = at(p.meta_power, i), at(p.meta_length, i)
        s0, s1, word0, word1 = w.random[0, i], w.random[1, i], w.random[2, i], w.random[3, i]
        word2, s0, s1 = xoroshiro(s0, s1)
        jump_word, s0, s1 = xoroshiro(s0, s1)
        size_word, s0, s1 = xoroshiro(s0, s1)
        w.random[0, i], w.random[1, i] = s0, s1
        y0 = w.activity[0, i] * decay0 + bell(word0) * shock0
        y1 = w.activity[1, i] * decay1 + bell(word1) * shock1
        y2 = w.activity[2, i] * decay2 + bell(word2) * shock2
        w.activity[0, i], w.activity[1, i], w.activity[2, i] = y0, y1, y2
        # The rates have mean one, and so has the square of the volatility.
        rate = clipped_exp(y0 + y1 + y2 - at(p.half_variance, i))
        w.rate[i], w.deviation[i] = rate, at(p.deviation, i) * rate
        w.log_event[i] = quick_log2(F(2.0**16) * at(p.event, i) * rate)
        size = (F(16) - quick_log2(upper(size_word))) * jump_mean
        size = size if (jump_word & U(1)) != U(0) else -size
        jump = size if unit(jump_word) < jump_chance else F(0)
        w.gap[i], w.innovation[i] = w.gap[i] + jump, jump
        left, sign = w.meta_left[i], w.meta_sign[i]
        length = meta_length * quick_exp2(meta_power * (quick_log2(lower(size_word)) - F(16)))
        side = F(1) if (jump_word & U(2)) != U(0) else F(-1)
        # At most and at least what they are: `length if ... else left` alone would be a masked store, slow on
        # some processors.
        w.meta_left[i] = max(length if left <= F(0) else left, F(0))
        w.meta_sign[i] = min(side if left <= F(0) else sign, F(1))


@over_lanes
def trade(w, p, count):
    """First half of a micro-step of the others: efficient price and market order."""
    for i in prange(count):
        informed, race, meta_share = at(p.informed, i), at(p.race, i), at(p.meta_share, i)
        half_order, per_race = F(0.5) * at(p.order, i), at(p.per_width, i) * race
        impact, exact, per_print = at(p.impact, i), at(p.exact, i), at(p.per_print, i)
        half_depth = F(0.5) * at(p.depth, i)
        size_power, max_size = at(p.size_power, i), at(p.max_size, i)
        excite0, excite1 = at(p.excite[0], i), at(p.excite[1], i)
        fade0, fade1 = at(p.excite_decay[0], i), at(p.excite_decay[1], i)
        expected0, expected1 = at(p.expected[0], i), at(p.expected[1], i)
        forget0, forget1 = at(p.forget[0], i), at(p.forget[1], i)
        s0, s1 = w.random[0, i], w.random[1, i]
        noise_word, s0, s1 = xoroshiro(s0, s1)
        order_word, s0, s1 = xoroshiro(s0, s1)
        size_word, s0, s1 = xoroshiro(s0, s1)
        w.random[0, i], w.random[1, i] = s0, s1
        w.lag_draw[i], w.join_draw[i] = coin(noise_word), coin(order_word)
        w.rounding[i] = coin(U(size_word >> U(8)))

        ask, bid = w.ask[i], w.bid[i]
        w.old_ask[i], w.old_bid[i] = ask, bid
        w.old_ask_queue[i], w.old_bid_queue[i] = w.ask_queue[i], w.bid_queue[i]
        ask_queue, bid_queue = F(w.ask_queue[i]), F(w.bid_queue[i])
        half_spread, rate = F(I(ask - bid)), w.rate[i]
        noise = I(I(noise_word >> U(20)) + I((noise_word >> U(8)) & U(0xFFF)))
        shock = (F(noise) - F(4095)) * w.deviation[i]
        gap = w.gap[i] + shock

        # One division in place of three.
        raced_queue = race + (ask_queue if gap > F(0) else bid_queue)
        product = ask_queue * bid_queue
        inverse = F(1) / (product * raced_queue)
        per_ask, per_bid = inverse * raced_queue * bid_queue, inverse * raced_queue * ask_queue
        # A market order, informed or not, buy or sell, from one uniform. A thin queue is raced for; the sign
        # of `outside` and `raced` is the side.
        outside = gap - max(min(gap, half_spread), -half_spread)
        raced = outside * rate * (product * inverse) * per_race
        w.raced[i] = raced
        informed_buy = min(max(informed * raced, F(0)), F(0.25))
        informed_sell = min(max(-informed * raced, F(0)), F(0.25))
        excited0, excited1 = w.excitation[0, i], w.excitation[1, i]
        chance = half_order * rate * (F(1) + excited0 + excited1)
        tilt = chance * (meta_share * w.meta_sign[i])
        plain_buy, plain_sell = min(chance + tilt, F(0.25)), min(chance - tilt, F(0.25))
        draw = unit(order_word)
        undrawn = F(1) - draw
        knows_up, buys = draw < informed_buy, draw < informed_buy + plain_buy
        knows_down, sells = undrawn < informed_sell, undrawn < informed_sell + plain_sell
        # Pareto, whether an order comes or not.
        power = fma(size_power, quick_log2(upper(size_word)), F(-16) * size_power)
        lots = at(p.size, i) * quick_exp2(min(power, F(100)))
        size = np.floor(min(max(lots, F(1)), max_size))
        behind = np.floor(abs(outside) * half_depth)
        sweep_up, sweep_down = ask_queue + behind, bid_queue + behind
        w.order_size[i], w.sweep_up[i], w.sweep_down[i] = I(size), I(sweep_up), I(sweep_down)
        w.plain_buy[i], w.informed_buy[i] = plain_buy, informed_buy
        w.plain_sell[i], w.informed_sell[i] = plain_sell, informed_sell
        buy, sell = sweep_up if knows_up else size, sweep_down if knows_down else size
        buy, sell = buy if buys else F(0), sell if sells else F(0)
        w.buy[i], w.sell[i] = I(buy), I(sell)
        trades = buys | sells
        plain = trades & (not knows_up) & (not knows_down)
        prints = I(I(1) + I((buy + sell) * per_print))
        w.buy_lots[i] = I(w.buy_lots[i] + I(buy))
        w.sell_lots[i] = I(w.sell_lots[i] + I(sell))
        w.trades[i] = I(w.trades[i] + (prints if trades else I(0)))

        # What it does to later ones, and an uninformed one to the efficient price. The size was drawn whether
        # or not an order came, so the mean given it is known exactly. The multiple is exponential, for the
        # book behind the touch is now deep, now thin.
        w.excitation[0, i] = fma(excited0, fade0, excite0 if trades else F(0))
        w.excitation[1, i] = fma(excited1, fade1, excite1 if trades else F(0))
        multiple = quick_log2(coin(size_word)) * -LN2
        by_buy, by_sell = min(size * per_ask, F(1)), min(size * per_bid, F(1))
        taken = by_buy if buys else -by_sell
        taken = taken if plain else F(0)
        mean = exact * (plain_buy * by_buy - plain_sell * by_sell)
        surprise = impact * multiple * (taken - mean)
        fast, slow = w.pressure[0, i], w.pressure[1, i]
        w.gap[i] = fma(-expected1, slow, fma(-expected0, fast, gap + surprise))
        w.innovation[i] += fma(exact, surprise, shock)
        w.moved[i] = taken * multiple
        w.pressure[0, i] = fma(forget0, taken - fast, fast)
        w.pressure[1, i] = fma(forget1, taken - slow, slow)
        w.meta_left[i] -= F(1) if plain else F(0)


@over_lanes
def quote(w, p, count):
    """Second half of a micro-step of the others: cancels, limit orders, move of the price."""
    for i in prange(count):
        event_lean, pull, flight = at(p.per_width, i) * at(p.response, i), at(p.pull, i), at(p.flight, i)
        limit, cancel, refill = LN2 * at(p.limit, i), LN2 * at(p.cancel, i), LN2 * at(p.refill, i)
        lag, follow, close, sweep = at(p.lag, i), at(p.follow, i), at(p.close, i), at(p.sweep, i)
        s0, s1 = w.random[0, i], w.random[1, i]
        cancels, s0, s1 = xoroshiro(s0, s1)
        limits, s0, s1 = xoroshiro(s0, s1)
        w.random[0, i], w.random[1, i] = s0, s1
        ask, bid, gap, raced, log_event = w.ask[i], w.bid[i], w.gap[i], w.raced[i], w.log_event[i]
        half_spread = F(I(ask - bid))
        ask_queue = F(max(I(w.ask_queue[i] - w.buy[i]), I(0)))
        bid_queue = F(max(I(w.bid_queue[i] - w.sell[i]), I(0)))

        # Cancels, of part of a queue or of all of it; chances (1 +- lean) x rate. What an exponential has
        # above -log(chance) is one again, and is there so often.
        lean = min(max(gap * event_lean, F(-1)), F(1))
        up, down = log_event + quick_log2(F(1) + lean), log_event + quick_log2(F(1) - lean)
        ask_draw, bid_draw = upper(cancels), lower(cancels)
        ask_cancel = min(max(up - quick_log2(ask_draw), F(0)) * cancel, F(1))
        bid_cancel = min(max(down - quick_log2(bid_draw), F(0)) * cancel, F(1))
        # Makers pull all of the side that is raced for; what is left behind an order of large impact flees.
        pulled = F(65536) * pull * raced
        moved = w.moved[i] * flight
        ask_gone = (ask_draw > F(65536) - pulled) | (moved > F(1))
        bid_gone = (bid_draw > F(65536) + pulled) | (moved < F(-1))
        ask_cancel, bid_cancel = F(1) if ask_gone else ask_cancel, F(1) if bid_gone else bid_cancel
        w.ask_cancel[i], w.bid_cancel[i] = ask_cancel, bid_cancel
        ask_queue -= min(np.floor(fma(ask_queue, ask_cancel, F(0.5))), ask_queue)
        bid_queue -= min(np.floor(fma(bid_queue, bid_cancel, F(0.5))), bid_queue)
        ask_empty = ask_queue == F(0)
        bid_empty = (bid_queue == F(0)) & (not ask_empty)

        # An empty queue moves the price to the efficient one; a wide spread closes towards it.
        follows = gap * fma(-lag, w.lag_draw[i], F(1))
        beyond = (follows if ask_empty else -follows) - half_spread
        # As far at least as the order that emptied it goes behind the touch.
        behind = F(I(w.buy[i] - w.ask_queue[i]) if ask_empty else I(w.sell[i] - w.bid_queue[i]))
        onward = max(fma(F(0.5), beyond, F(1)), fma(behind, sweep, F(1)))
        move = max(I(np.floor(onward)), I(1))
        new_ask = I(ask + (move if ask_empty else I(0)))
        new_bid = I(bid - (move if bid_empty else I(0)))
        moves = ask_empty | bid_empty
        joins = (w.join_draw[i] < (follow if moves else close)) & (I(new_ask - new_bid) > 1)
        bid_joins = joins & (ask_empty if moves else gap > F(0))
        ask_joins = joins & (not bid_joins)
        joined_bid = I(new_ask - I(1)) if bid_joins else new_bid
        joined_ask = I(new_bid + I(1)) if ask_joins else new_ask

        # One uniform for the limit order at a queue that stays, or for the lots of a new one.
        ask_new, bid_new = joined_ask != ask, joined_bid != bid
        ask_log, bid_log = quick_log2(upper(limits)), quick_log2(lower(limits))
        ask_more = (F(16) - ask_log) * refill if ask_new else max(down - ask_log, F(0)) * limit
        bid_more = (F(16) - bid_log) * refill if bid_new else max(up - bid_log, F(0)) * limit
        ask_kept, bid_kept = F(1) if ask_new else ask_queue, F(1) if bid_new else bid_queue
        w.ask_queue[i] = max(I(np.floor(ask_more) + ask_kept), I(1))
        w.bid_queue[i] = max(I(np.floor(bid_more) + bid_kept), I(1))
        w.ask[i], w.bid[i] = joined_ask, joined_bid
        w.gap[i] = gap - F(I(I(joined_ask - ask) + I(joined_bid - bid)))


@njit
def flow(w, p, count):
    """A micro-step of the others. In two loops: of one the processor would not see the end while it waits for
    the beginning."""
    trade(w, p, count)
    quote(w, p, count)


@over_lanes
def value(w, count):
    """Add the market order, at the touch, to the value traded. A loop of its own, because in float64."""
    for i in prange(count):
        bought = D(w.buy[i]) * D(w.old_ask[i])
        w.value[i] += bought + D(w.sell[i]) * D(w.old_bid[i])
