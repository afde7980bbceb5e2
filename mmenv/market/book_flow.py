"""The others in market `book`: activity, efficient price, orders and cancels, and what moves the price."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from mmenv.engine.maths import D, F, I, U, bell, clipped_exp, coin, exponential, log, unit
from mmenv.engine.rng import philox
from mmenv.engine.stage import at, over_lanes

DECISION_SLOT = 0
FLOW_SLOT = 2  # two slots for each micro-step follow


@njit
def event(uniform, chance):
    """0 without an event, else exponential of mean 1: an event's uniform is one again, on (0, chance)."""
    size = -log(min(uniform / max(chance, F(1e-20)), F(1)))
    return size if uniform < chance else F(0)


@over_lanes
def drift(w, p, count):
    """Once a decision: activity, jump of the efficient price, next metaorder."""
    for i in prange(count):
        decay0, decay1, decay2 = at(p.decay[0], i), at(p.decay[1], i), at(p.decay[2], i)
        shock0, shock1, shock2 = at(p.shock[0], i), at(p.shock[1], i), at(p.shock[2], i)
        variance, deviation = at(p.variance, i), at(p.deviation, i)
        jump_chance, jump_mean = at(p.jump, i), at(p.jump_size, i)
        meta_length, meta_power = at(p.meta_length, i), at(p.meta_power, i)
        age, episode, key0, key1 = w.age[i], w.episode[i], w.key0[i], w.key1[i]
        word0, word1, word2, jump_word = philox(age, episode, U(DECISION_SLOT), U(0), key0, key1)
        size_word, meta_word, side_word, _ = philox(age, episode, U(DECISION_SLOT + 1), U(0), key0, key1)
        y0 = w.activity[0, i] * decay0 + bell(word0) * shock0
        y1 = w.activity[1, i] * decay1 + bell(word1) * shock1
        y2 = w.activity[2, i] * decay2 + bell(word2) * shock2
        w.activity[0, i], w.activity[1, i], w.activity[2, i] = y0, y1, y2
        # The rates have mean one, and so has the square of the volatility.
        w.rate[i] = clipped_exp(y0 + y1 + y2 - F(0.5) * variance)
        w.deviation[i] = deviation * clipped_exp(y0 + y1 + y2 - variance)
        size = -log(unit(size_word)) * jump_mean
        size = size if (jump_word & U(1)) != U(0) else -size
        jump = size if unit(jump_word) < jump_chance else F(0)
        w.gap[i], w.innovation[i] = w.gap[i] + jump, jump
        left, sign = w.meta_left[i], w.meta_sign[i]
        length = meta_length * clipped_exp(meta_power * log(unit(meta_word)))
        side = F(1) if (side_word & U(1)) != U(0) else F(-1)
        w.meta_left[i] = length if left <= F(0) else left
        w.meta_sign[i] = side if left <= F(0) else sign


@over_lanes
def draws(w, p, count, k):
    """What chance alone decides of micro-step k."""
    for i in prange(count):
        age, episode, key0, key1 = w.age[i], w.episode[i], w.key0[i], w.key1[i]
        slot = U(FLOW_SLOT + 2 * k)
        order, size, noise, refill = philox(age, episode, slot, U(0), key0, key1)
        ask_limit, ask_cancel, bid_limit, bid_cancel = philox(age, episode, U(slot + U(1)), U(0), key0, key1)
        w.noise[i] = bell(noise)
        w.order_draw[i], w.join_draw[i] = unit(order), coin(order)
        lots = at(p.size, i) * clipped_exp(at(p.size_power, i) * log(unit(size)))
        w.order_size[i] = I(min(lots, at(p.max_size, i)))
        # Exponential, for the book behind the touch is now deep, now thin.
        w.multiple[i] = -log(coin(size))
        w.ask_cancel_draw[i], w.rounding[i] = unit(ask_cancel), coin(ask_cancel)
        w.ask_limit_draw[i], w.lag_draw[i] = unit(ask_limit), coin(ask_limit)
        w.bid_cancel_draw[i], w.bid_limit_draw[i] = unit(bid_cancel), unit(bid_limit)
        w.ask_fresh[i] = I(exponential(refill) * at(p.refill, i)) + I(1)
        w.bid_fresh[i] = I(exponential(U(refill >> U(16))) * at(p.refill, i)) + I(1)


@over_lanes
def flow(w, p, count):
    """A micro-step of the others: efficient price, market order, cancels, limit orders, move of the price.

    Long, because each line needs what the ones before it left of the book: cut apart, each part would read
    and write a dozen fields of every lane again.
    """
    for i in prange(count):
        per_width, order, meta_share = at(p.per_width, i), at(p.order, i), at(p.meta_share, i)
        informed, pull, race, flight = at(p.informed, i), at(p.pull, i), at(p.race, i), at(p.flight, i)
        impact, exact, event_chance, response = (
            at(p.impact, i),
            at(p.exact, i),
            at(p.event, i),
            at(p.response, i),
        )
        limit, cancel, lag = at(p.limit, i), at(p.cancel, i), at(p.lag, i)
        follow, close, per_print = at(p.follow, i), at(p.close, i), at(p.per_print, i)
        half_depth = F(0.5) * at(p.depth, i)
        excite0, excite1 = at(p.excite[0], i), at(p.excite[1], i)
        fade0, fade1 = at(p.excite_decay[0], i), at(p.excite_decay[1], i)
        expected0, expected1 = at(p.expected[0], i), at(p.expected[1], i)
        forget0, forget1 = at(p.forget[0], i), at(p.forget[1], i)
        ask, bid = w.ask[i], w.bid[i]
        ask_queue, bid_queue = w.ask_queue[i], w.bid_queue[i]
        w.old_ask[i], w.old_bid[i] = ask, bid
        w.old_ask_queue[i], w.old_bid_queue[i] = ask_queue, bid_queue
        rate = w.rate[i]
        shock = w.noise[i] * w.deviation[i]
        gap = w.gap[i] + shock
        w.innovation[i] += shock

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
        sweep_up, sweep_down = I(ask_queue + I(above * half_depth)), I(bid_queue + I(below * half_depth))
        w.plain_buy[i], w.informed_buy[i], w.sweep_up[i] = plain_buy, informed_buy, sweep_up
        w.plain_sell[i], w.informed_sell[i], w.sweep_down[i] = plain_sell, informed_sell, sweep_down
        buy, sell = sweep_up if knows_up else size, sweep_down if knows_down else size
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
        # The size was drawn whether or not an order came, so the mean given it is known exactly.
        bought = plain_buy * min(F(size) / F(ask_queue), F(1))
        sold = plain_sell * min(F(size) / F(bid_queue), F(1))
        surprise = impact * w.multiple[i] * (taken - bought + sold)
        gap += (
            impact * (taken * w.multiple[i] - expected0 * fast - expected1 * slow)
            if exact == F(0)
            else surprise
        )
        w.innovation[i] += exact * surprise
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
        # What is left behind an order of large impact flees.
        moved = taken * w.multiple[i] * flight
        ask_cancel = F(1) if moved > F(1) else ask_cancel
        bid_cancel = F(1) if moved < F(-1) else bid_cancel
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
        ask_fresh, bid_fresh = w.ask_fresh[i], w.bid_fresh[i]
        w.ask_queue[i] = ask_fresh if joined_ask != ask else max(ask_queue, I(1))
        w.bid_queue[i] = bid_fresh if joined_bid != bid else max(bid_queue, I(1))
        w.ask[i], w.bid[i] = joined_ask, joined_bid
        w.gap[i] = gap - F(I(I(joined_ask - ask) + I(joined_bid - bid)))


@over_lanes
def value(w, count):
    """Add the market order, at the touch, to the value traded. A loop of its own, because in float64."""
    for i in prange(count):
        bought = D(w.buy[i]) * D(w.old_ask[i])
        w.value[i] += bought + D(w.sell[i]) * D(w.old_bid[i])
