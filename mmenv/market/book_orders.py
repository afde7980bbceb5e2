"""Our orders in the queues of market `book`: where a new one stands, and what fills it."""

from __future__ import annotations

from numba import prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import at, inlined, over_lanes

FAR = I(100_000)
"""Ticks behind the touch that count as any further ones."""


@inlined
def either(condition, number, other):
    """One of two numbers of at least 0; the result may go where the other comes from.

    The largest of it and 0, or the compiler would store lanes by a mask there: with AVX2 that takes AMD's
    processors longer than all the rest of a loop.
    """
    return max(number if condition else other, I(0))


@inlined
def place(order, wanted, lots, touch, queue, opposite, depth, side):
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
        either(keeps, placed, lots),
        min(left, lots) if keeps else new_left,
        either(keeps, ahead, new_ahead),
    )


@inlined
def front(order, old, depth, side):
    """Lots that a market order takes before our order: the touch, then `depth` lots a tick, then those ahead.

    `old` is the book's (touch, queue) on our side before it.
    """
    price, _, _, ahead = order
    touch, queue = old
    behind = min(I(side * I(price - touch)), FAR)
    first = I(queue + I(depth * I(behind - I(1)))) if behind > 0 else I(0)
    return I(first + ahead)


@inlined
def reach(order, before, volume):
    """Lots that a market order takes of our order, `before` which it takes so many."""
    _, _, left, _ = order
    return max(min(I(volume - before), left), I(0))


@inlined
def fill(order, before, volume, cancel, rounding, old, new, side):
    """What a micro-step does to our order: (fill, ahead).

    `old` is the book's (touch, queue) on our side before it, `new` (touch, queue, opposite touch, opposite
    queue) after it. Cancels at the touch are spread evenly over the queue, rounded by chance. The opposite
    touch at or past our price trades with us.
    """
    price, _, left, ahead = order
    new_touch, new_queue, opposite, opposite_queue = new
    taken = reach(order, before, volume)
    ahead = min(ahead, max(I(before - volume), I(0)))
    cancelled = I(F(ahead) * cancel + rounding) if price == old[0] else I(0)
    ahead = max(I(ahead - cancelled), I(0))
    distance = I(side * I(price - new_touch))
    ahead = min(ahead, new_queue) if distance == 0 else ahead
    ahead = ahead if distance >= 0 else I(0)
    crossed = I(side * I(opposite - price)) >= 0
    taken = I(taken + (min(I(left - taken), opposite_queue) if crossed else I(0)))
    return taken, ahead


@inlined
def surprise(order, before, volume, chances):
    """Lots that a market order took of ours, less their mean given all but whether one came.

    `chances` is (chance, lots, chance, lots): of an uninformed order and of an informed one.
    """
    plain, size, informed, sweep = chances
    mean = plain * F(reach(order, before, size)) + informed * F(reach(order, before, sweep))
    return F(reach(order, before, volume)) - mean


@over_lanes
def arrive(w, p, count):
    """The quotes of the decision take effect, at the book as it stands."""
    for i in prange(count):
        depth = I(at(p.depth, i))
        ask, ask_queue, bid, bid_queue = w.ask[i], w.ask_queue[i], w.bid[i], w.bid_queue[i]
        late = w.ask_fill[i]
        order = w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i]
        lots = max(I(w.ask_lots[i] - late), I(0))
        price, placed, left, ahead = place(order, w.ask_wanted[i], lots, ask, ask_queue, bid, depth, I(1))
        w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i] = price, placed, left, ahead
        w.ask_late[i] = late
        late = w.bid_fill[i]
        order = w.bid_price[i], w.bid_placed[i], w.bid_left[i], w.bid_ahead[i]
        lots = max(I(w.bid_lots[i] - late), I(0))
        price, placed, left, ahead = place(order, w.bid_wanted[i], lots, bid, bid_queue, ask, depth, I(-1))
        w.bid_price[i], w.bid_placed[i], w.bid_left[i], w.bid_ahead[i] = price, placed, left, ahead
        w.bid_late[i] = late


@over_lanes
def orders(w, p, count):
    """What the last micro-step does to our orders."""
    for i in prange(count):
        depth = I(at(p.depth, i))
        old_ask = w.old_ask[i], w.old_ask_queue[i]
        old_bid = w.old_bid[i], w.old_bid_queue[i]
        ask, ask_queue, bid, bid_queue = w.ask[i], w.ask_queue[i], w.bid[i], w.bid_queue[i]
        rounding, size = w.rounding[i], w.order_size[i]
        buy, sell = w.buy[i], w.sell[i]

        order = w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i]
        after = ask, ask_queue, bid, bid_queue
        before = front(order, old_ask, depth, I(1))
        taken, ahead = fill(order, before, buy, w.ask_cancel[i], rounding, old_ask, after, I(1))
        chances = w.plain_buy[i], size, w.informed_buy[i], w.sweep_up[i]
        w.ask_surprise[i] += surprise(order, before, buy, chances)
        w.ask_left[i], w.ask_ahead[i], w.ask_fill[i] = I(order[2] - taken), ahead, I(w.ask_fill[i] + taken)

        order = w.bid_price[i], w.bid_placed[i], w.bid_left[i], w.bid_ahead[i]
        after = bid, bid_queue, ask, ask_queue
        before = front(order, old_bid, depth, I(-1))
        taken, ahead = fill(order, before, sell, w.bid_cancel[i], rounding, old_bid, after, I(-1))
        chances = w.plain_sell[i], size, w.informed_sell[i], w.sweep_down[i]
        w.bid_surprise[i] += surprise(order, before, sell, chances)
        w.bid_left[i], w.bid_ahead[i], w.bid_fill[i] = I(order[2] - taken), ahead, I(w.bid_fill[i] + taken)
