"""Records of market `book`: what it keeps for each environment, and its parameters in compiled code."""

from __future__ import annotations

import math

import numpy as np

from mmenv.engine.state import LANES, per_lane

SCALES = 3
"""Time constants of activity."""

NOISE = math.sqrt((4096**2 - 1) / 6)
"""Standard deviation of the sum of two uniform whole numbers below 4096."""

STATE = np.dtype(
    [
        # The decision, copied here so that the micro-steps touch no other record: the compiler would have to
        # check whether they overlap, and then does not use vector instructions.
        per_lane("age", "u4"),
        per_lane("episode", "u4"),
        per_lane("key0", "u4"),
        per_lane("key1", "u4"),
        per_lane("ask_wanted", "i4"),  # ticks
        per_lane("bid_wanted", "i4"),
        per_lane("ask_lots", "i4"),
        per_lane("bid_lots", "i4"),
        # The book of the others.
        per_lane("ask", "i4"),  # ticks
        per_lane("bid", "i4"),
        per_lane("ask_queue", "i4"),  # lots
        per_lane("bid_queue", "i4"),
        # What drives it.
        per_lane("gap", "f4"),  # efficient price minus mid, half-ticks
        ("activity", "f4", (SCALES, LANES)),  # logarithms
        per_lane("rate", "f4"),  # activity as a multiple of all rates
        per_lane("log_event", "f4"),  # to base 2, of 2^16 x chance of a limit order at no mispricing
        per_lane("deviation", "f4"),  # of the efficient price in a micro-step, half-ticks / NOISE
        ("excitation", "f4", (2, LANES)),
        ("pressure", "f4", (2, LANES)),  # averages of signed market orders, fast and slow
        per_lane("meta_sign", "f4"),
        per_lane("meta_left", "f4"),  # orders
        ("random", "u4", (4, LANES)),  # state of the generator for this decision
        # The last micro-step: the book before it, and what happened to it.
        per_lane("old_ask", "i4"),
        per_lane("old_bid", "i4"),
        per_lane("old_ask_queue", "i4"),
        per_lane("old_bid_queue", "i4"),
        per_lane("buy", "i4"),  # lots of the market order
        per_lane("sell", "i4"),
        per_lane("ask_cancel", "f4"),  # part of what the market order left
        per_lane("bid_cancel", "f4"),
        per_lane("rounding", "f4"),
        per_lane(
            "raced", "f4"
        ),  # activity x widths outside the spread x chance to be first, its sign the side
        per_lane("moved", "f4"),  # by an uninformed order, in multiples of the mean impact
        per_lane("join_draw", "f4"),
        per_lane("lag_draw", "f4"),
        per_lane("order_size", "i4"),  # lots of an uninformed one, had it come
        # What was known of its market order: chances, and lots of an informed one (`order_size` of another).
        per_lane("plain_buy", "f4"),
        per_lane("plain_sell", "f4"),
        per_lane("informed_buy", "f4"),
        per_lane("informed_sell", "f4"),
        per_lane("sweep_up", "i4"),
        per_lane("sweep_down", "i4"),
        # Our orders.
        per_lane("ask_price", "i4"),  # ticks
        per_lane("bid_price", "i4"),
        per_lane("ask_placed", "i4"),  # lots when placed
        per_lane("bid_placed", "i4"),
        per_lane("ask_left", "i4"),
        per_lane("bid_left", "i4"),
        per_lane("ask_ahead", "i4"),  # lots ahead of us at our price
        per_lane("bid_ahead", "i4"),
        # Sums since the decision.
        per_lane("buy_lots", "i4"),
        per_lane("sell_lots", "i4"),
        per_lane("trades", "i4"),
        per_lane("value", "f8"),
        per_lane("ask_fill", "i4"),
        per_lane("bid_fill", "i4"),
        per_lane("ask_late", "i4"),  # fills of the order of the last decision, before the new one took effect
        per_lane("bid_late", "i4"),
        per_lane("ask_late_price", "i4"),
        per_lane("bid_late_price", "i4"),
        per_lane("innovation", "f4"),  # of the efficient price in this decision, mean zero, half-ticks
        per_lane("ask_surprise", "f4"),  # lots that market orders took of ours, less their mean
        per_lane("bid_surprise", "f4"),
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
        ("half_variance", "f4"),  # half the sum of their squares
        ("deviation", "f4"),  # of the efficient price in a micro-step at activity 1, half-ticks / NOISE
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
        ("flight", "f4"),  # over the impact at which makers flee, in multiples of the mean one
        ("depth", "f4"),  # lots a tick
        ("sweep", "f4"),  # ticks that the price goes on for a lot taken behind the touch
        ("meta_share", "f4"),
        ("meta_length", "f4"),
        ("meta_power", "f4"),
        ("excite", "f4", (2,)),
        ("excite_decay", "f4", (2,)),
        ("excited", "f4", (2,)),  # mean excitation
        ("forget", "f4", (2,)),  # weight of a micro-step in the averages of signed orders
        ("expected", "f4", (2,)),  # half-ticks, taken off an order's impact
        ("impact", "f4"),  # half-ticks
        ("exact", "f4"),  # 1: the impact of an order less its exact mean
        ("event", "f4"),  # chance of a limit order, or a cancel, per micro-step
        ("limit", "f4"),  # mean lots
        ("cancel", "f4"),  # mean part of the queue
        ("response", "f4"),
        ("refill", "f4"),  # mean lots
        ("lag", "f4"),
        ("follow", "f4"),
        ("close", "f4"),
        ("per_print", "f4"),
        ("per_unit", "f4"),  # price units in a half-tick
    ],
    align=True,
)
