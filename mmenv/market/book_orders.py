"""Our orders in the queues of market `book`: where a new one stands, and what fills it."""

from __future__ import annotations

from numba import njit, prange

from mmenv.engine.maths import F, I
from mmenv.engine.stage import at, over_lanes

FAR = I(100_000)
"""Ticks behind the touch that count as any further ones."""


@njit
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
        placed if keeps else lots,
        min(left, lots) if keeps else new_left,
        ahead if keeps else new_ahead,
    )


@njit
def reach(order, volume, old, depth, side):
    """What a market order does to our order: (lots taken of it, lots then ahead).

    It takes the touch, then `depth` lots a tick, then those ahead of us, then us; `old` is the book's
    (touch, queue) on our side before it.
    """
    price, _, left, ahead = order
    touch, queue = old
    behind = min(I(side * I(price - touch)), FAR)
    first = I(queue + I(depth * I(behind - I(1)))) if behind > 0 else I(0)
    reached = max(I(volume - first), I(0))
    return min(left, max(I(reached - ahead), I(0))), max(I(ahead - reached), I(0))


@njit
def fill(order, volume, cancel, rounding, old, new, depth, side):
    """What a micro-step does to our order: (fill, ahead).

    `old` is the book's (touch, queue) on our side before it, `new` (touch, queue, opposite touch, opposite
    queue) after it. Cancels at the touch are spread evenly over the queue, rounded by chance. The opposite
    touch at or past our price trades with us.
    """
    price, _, left, _ = order
    new_touch, new_queue, opposite, opposite_queue = new
    taken, ahead = reach(order, volume, old, depth, side)
    cancelled = I(F(ahead) * cancel + rounding) if price == old[0] else I(0)
    ahead = max(I(ahead - cancelled), I(0))
    distance = I(side * I(price - new_touch))
    ahead = min(ahead, new_queue) if distance == 0 else ahead
    ahead = ahead if distance >= 0 else I(0)
    crossed = I(side * I(opposite - price)) >= 0
    taken = I(taken + (min(I(left - taken), opposite_queue) if crossed else I(0)))
    return taken, ahead


@njit
def surprise(order, volume, plain, size, informed, sweep, old, depth, side):
    """Lots that a market order took of ours, less their mean given all but whether one came.

    `plain` and `informed` are the chances of an order of `size` and of one of `sweep` lots.
    """
    taken, _ = reach(order, volume, old, depth, side)
    by_plain, _ = reach(order, size, old, depth, side)
    by_informed, _ = reach(order, sweep, old, depth, side)
    return F(taken) - (plain * F(by_plain) + informed * F(by_informed))


@njit
def chosen(new, old, condition):
    """The order `new` where the condition holds, else `old`."""
    return (
        new[0] if condition else old[0],
        new[1] if condition else old[1],
        new[2] if condition else old[2],
        new[3] if condition else old[3],
    )


@over_lanes
def orders(w, p, count, k):
    """Micro-step k of our orders, after `flow`: a new quote takes effect, then fills."""
    latency = at(p.latency, 0)  # of all lanes
    arrives, late = k == latency, k < latency
    for i in prange(count):
        depth = I(at(p.depth, i))
        old_ask = w.old_ask[i], w.old_ask_queue[i]
        old_bid = w.old_bid[i], w.old_bid_queue[i]
        ask, ask_queue, bid, bid_queue = w.ask[i], w.ask_queue[i], w.bid[i], w.bid_queue[i]
        rounding, size = w.rounding[i], w.order_size[i]

        order = w.ask_price[i], w.ask_placed[i], w.ask_left[i], w.ask_ahead[i]
        filled = w.ask_fill[i]
        lots = max(I(w.ask_lots[i] - filled), I(0))
        new = place(order, w.ask_wanted[i], lots, old_ask[0], old_ask[1], old_bid[0], depth, I(1))
        order = chosen(new, order, arrives)
        after = (ask, ask_queue, bid, bid_queue)
        taken, ahead = fill(order, w.buy[i], w.ask_cancel[i], rounding, old_ask, after, depth, I(1))
        w.ask_surprise[i] += surprise(
            order, w.buy[i], w.plain_buy[i], size, w.informed_buy[i], w.sweep_up[i], old_ask, depth, I(1)
        )
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
        w.bid_surprise[i] += surprise(
            order,
            w.sell[i],
            w.plain_sell[i],
            size,
            w.informed_sell[i],
            w.sweep_down[i],
            old_bid,
            depth,
            I(-1),
        )
        w.bid_price[i], w.bid_placed[i] = order[0], order[1]
        w.bid_left[i], w.bid_ahead[i] = I(order[2] - taken), ahead
        w.bid_fill[i] = I(filled + taken)
        w.bid_late[i] = I(w.bid_late[i] + (taken if late else I(0)))
