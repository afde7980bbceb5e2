"""The start of an episode, and the window of moves that several feature groups share."""

from __future__ import annotations

import numpy as np
from numba import prange

from mmenv.engine.rng import RESET_STEP, philox
from mmenv.engine.stage import stage
from mmenv.engine.state import MOVE_WINDOW

F = np.float32
D = np.float64
I = np.int32  # noqa: E741
U = np.uint32


@stage()
def turn(s, w, p, x):
    """A new step begins: no episode has ended in it yet."""
    s.clock += 1
    s.any_done = 0


@stage()
def begin(s, w, p, x):
    """Clear the lanes whose `done` is set and draw their starting position. Markets reset after this."""
    for i in prange(s.count):
        if s.done[i] == 0:
            continue
        s.episode[i] += U(1)
        word, _, _, _ = philox(RESET_STEP, s.episode[i], U(0), U(0), s.key0[i], s.key1[i])
        span = np.uint64(2 * p.start_inventory + 1)
        drawn = I((np.uint64(word) * span) >> np.uint64(32)) - p.start_inventory
        s.position[i] = s.position[i] if s.keep_position[i] != 0 else drawn
        # Where the market goes on, so does the rate of market orders.
        s.taker_wait[i] = s.taker_wait[i] if s.keep_position[i] != 0 else I(0)
        s.keep_position[i] = 0
        s.entry[i] = F(0)
        s.pnl[i] = 0
        s.fees[i] = 0
        s.age[i] = 0
        s.held_steps[i] = 0
        s.risk_state[i] = 0
        s.move[i] = 0
        s.buy_lots[i] = 0
        s.sell_lots[i] = 0
        s.trades[i] = 0
        s.trade_value[i] = 0
        s.ask_fill[i] = 0
        s.bid_fill[i] = 0
        s.move_sum[i] = 0
        s.move_squares[i] = 0
        s.move_mean[i] = F(0)
        s.volatility[i] = F(0)
        s.own_ask_lots[i], s.own_bid_lots[i] = I(0), I(0)
        s.own_ask_age[i], s.own_bid_age[i] = I(0), I(0)
        s.taker_lots[i] = I(0)
        s.taken_ask[i], s.taken_bid[i] = I(0), I(0)


@stage()
def began(s, w, p, x):
    """After the market's own reset: no lane is done any more."""
    s.any_done = 0
    for i in prange(s.count):
        s.done[i] = 0


@stage()
def moves(s, w, p, x):
    """Mean and root mean square of the last MOVE_WINDOW moves of the mid, from sums that are integers: they
    never drift.

    One ring head for all lanes and their age as a mask, so that a reset clears nothing.
    """
    unit = F(p.per_unit)
    head = s.clock % MOVE_WINDOW
    if head < 0:
        return
    for i in prange(s.count):
        age, new, old = s.age[i], s.move[i], s.moves[head, i]
        old = old if age > MOVE_WINDOW else I(0)
        s.moves[head, i] = new
        move_sum = I(s.move_sum[i] + new - old)
        squares = s.move_squares[i] + (D(new) * D(new) - D(old) * D(old))
        s.move_sum[i], s.move_squares[i] = move_sum, squares
        per_step = F(1) / F(min(age, I(MOVE_WINDOW)))
        s.move_mean[i] = F(move_sum) * unit * per_step
        s.volatility[i] = np.sqrt(F(squares) * unit * unit * per_step)
