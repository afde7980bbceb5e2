"""The records that stages share: the core of a block of environments, field by field, and parameters.

Every field of the core says who writes it; all may read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype

LANES = 128


FEE_DIGITS = 1_000_000
"""Fees are integers in 1 / FEE_DIGITS half-ticks x lots: exact for rates in hundredths of a basis point."""


def fee_rate(maker_fee_bp: float) -> int:
    """The fee as the kernel counts it: 1 / FEE_DIGITS of notional, so to hundredths of a basis point."""
    return round(maker_fee_bp * 1e-4 * FEE_DIGITS)


MOVE_WINDOW = 20


ASSETS = 8
"""Most assets that a market can show beside the quoted one."""


PARAMETERS = 8
"""Most parameters that episodes can draw."""


ACTIONS = 8
"""Most numbers that an action can have."""

LEVELS = 8
"""Most orders of a side that an action can quote at once."""

ACTIVE, REDUCING, HALTED = 0, 1, 2

STATES = ("ACTIVE", "REDUCING", "HALTED")
"""Names of the risk states."""


LEDGER = (
    "spread_capture",
    "adverse_selection",
    "carry",
    "fees",
    "inventory_penalty",
    "wealth",
    "noise",
    "fills",
    "position",
)
"""Rows of the published ledger, in price units x lots (`fills` and `position` in lots); `fees` is a cost."""


def per_lane(name: str, kind: str) -> tuple[str, str, tuple[int]]:
    """A field of a block: one value of type `kind` for each lane."""
    return (name, kind, (LANES,))


Record = np.dtype


def by_lane(record: Record) -> Record:
    """The record whose fields, of 4 bytes each, have a value for each lane: parameters of many markets."""
    assert all(record[name].base.itemsize == 4 for name in record.names or ()), "copied as 4-byte words"
    fields: list[Any] = [
        (name, record[name].base, (*record[name].shape, LANES)) for name in record.names or ()
    ]
    return np.dtype(fields, align=True)


CORE = np.dtype(
    [
        ("count", "u8"),  # lanes in use; unsigned as the indices below it, for numba lets others be negative
        (
            "clock",
            "i8",
        ),  # steps this block has made, never reset, by `mmenv.step.episode`: head of every ring
        ("any_done", "i8"),  # by `mmenv.step.ledger`
        ("padding", "i8", 5),  # so that vectors of lanes do not lie across cache lines
        # The decision: the stage of the action writes it (`mmenv.actions`), `mmenv.step.risk` cuts the lots.
        ("action", "f4", (ACTIONS, LANES)),
        per_lane("ask_distance", "i4"),  # half-ticks from the mid, at least 0
        per_lane("bid_distance", "i4"),
        per_lane("ask_lots", "i4"),  # 0: not quoted
        per_lane("bid_lots", "i4"),
        # The market's answer: its own stages write it, or `mmenv.market.outside` from the events of a venue.
        per_lane("mid", "i4"),
        per_lane("move", "i4"),  # of the mid, from this decision to the next
        per_lane("spread", "i4"),
        per_lane("best_bid_lots", "i4"),
        per_lane("best_ask_lots", "i4"),
        per_lane("buy_lots", "i4"),  # market orders since the decision, by aggressor
        per_lane("sell_lots", "i4"),
        per_lane("trades", "i4"),
        per_lane("trade_value", "f8"),  # sum over trades of lots x (price - mid at the decision)
        per_lane("ask_reach", "i4"),  # how far from the mid a market order would have filled us, -1: none
        per_lane("bid_reach", "i4"),
        per_lane("ask_fill", "i4"),  # our fills, lots
        per_lane("bid_fill", "i4"),
        per_lane("ask_edge", "f8"),  # sum over our fills of lots x distance from the mid at the decision
        per_lane("bid_edge", "f8"),
        per_lane("noise_move", "f4"),  # zero-mean part of the move, independent of this step's fills
        per_lane("order_flow_noise", "f4"),  # zero-mean part of the move that comes with this step's orders
        # What only simulated markets know.
        per_lane("latent", "f4"),  # the hidden state that decides where the market goes, 0: none
        ("asset_moves", "i4", (ASSETS, LANES)),  # of the observed assets' mids, half-ticks
        ("asset_flows", "f4", (ASSETS, LANES)),  # their signed market volume, standard deviations
        per_lane("latent_drift", "f4"),  # latent less its mean given the state before the step
        per_lane("latent_square_drift", "f4"),  # the same of its square
        per_lane("buy_chance", "f4"),  # chance of a market order in the step, given the state before it
        per_lane("sell_chance", "f4"),
        per_lane("mean_reach", "f4"),  # of a market order, exponential, half-ticks; 0: not known
        # What only recorded and live ones do: `mmenv.market.outside`.
        per_lane("day_seconds", "f4"),  # time of day, UTC; simulated markets stay at midnight
        # The ledger: `mmenv.step.ledger`; the terms of the reward write the last three (`mmenv.rewards`).
        per_lane("position", "i4"),
        per_lane("entry", "f4"),  # mid minus average entry price, half-ticks
        per_lane("spread_capture", "f8"),
        per_lane("adverse_selection", "f8"),
        per_lane("carry", "f8"),
        per_lane("fee", "f8"),
        per_lane("pnl", "f8"),  # since reset, before fees, half-ticks x lots
        per_lane("fees", "f8"),  # since reset, 1 / FEE_DIGITS half-ticks x lots
        per_lane("penalty", "f8"),
        per_lane("noise", "f8"),  # zero-mean part of the reward, see `mmenv.step.ledger`
        per_lane("reward", "f8"),
        # Moves of the mid in the last MOVE_WINDOW steps, which feature groups share: `mmenv.step.episode`.
        ("moves", "i4", (MOVE_WINDOW, LANES)),
        per_lane("move_sum", "i4"),
        per_lane("move_squares", "f8"),
        per_lane("move_mean", "f4"),  # price units
        per_lane("volatility", "f4"),  # root mean square, price units
        # The episode: `mmenv.step.ledger` counts and ends it, `mmenv.step.episode` begins the next.
        per_lane("age", "i4"),  # steps since reset
        per_lane("held_steps", "i4"),  # steps since the position was last zero or changed sign
        per_lane("risk_state", "i4"),  # by `mmenv.step.risk`
        per_lane("risk_floor", "i4"),  # the least state that a live desk's own rules ask for: `mmenv.live`
        per_lane("limit_reduction", "i4"),  # lots off the limit, by the risk manager: `mmenv.desk.networks`
        per_lane("terminated", "i4"),
        per_lane("truncated", "i4"),
        per_lane("done", "i4"),
        # What the desk asks of the next reset.
        per_lane("keep_position", "i4"),  # the next reset keeps `position`
        per_lane("chosen", "i4"),  # row of the family, from 1, that the next reset takes; 0: it draws one
        # What an episode has drawn: `mmenv.desk.family`.
        ("parameters", "f4", (PARAMETERS, LANES)),  # of the episode, in the order of `EnvConfig.randomise`
        ("range_place", "f4", (PARAMETERS, LANES)),  # where in their ranges they lie, -1 to 1
        per_lane("fee_rate", "f8"),  # 1 / FEE_DIGITS of notional
        # The random numbers: seeded by the desk; each episode has its own.
        per_lane("episode", "u4"),
        per_lane("key0", "u4"),
        per_lane("key1", "u4"),
        per_lane("activity", "f4"),  # hidden: how much faster than usual the market is
        # Our working orders: written by the market, or by `mmenv.step.orders` for a market outside.
        per_lane("own_ask", "i4"),  # price, half-ticks
        per_lane("own_bid", "i4"),
        per_lane("own_ask_lots", "i4"),  # left; 0: none
        per_lane("own_bid_lots", "i4"),
        per_lane("own_ask_ahead", "i4"),  # lots before ours in the queue
        per_lane("own_bid_ahead", "i4"),
        per_lane("own_ask_age", "i4"),  # decisions since it was placed
        per_lane("own_bid_age", "i4"),
        per_lane("old_spread", "i4"),  # at the decision before, kept by `mmenv.step.orders`
        per_lane("old_ask_lots", "i4"),
        per_lane("old_bid_lots", "i4"),
        per_lane("ask_fill_surprise", "f4"),  # what only `book` knows: our fills less their mean
        per_lane("bid_fill_surprise", "f4"),
        # Market orders beside the quotes, of actions that take: `mmenv.step.taker`. Lots bought are above 0.
        per_lane("taker_lots", "i4"),  # asked for, after all limits
        per_lane("taken_ask", "i4"),  # sold by them; among ask_fill once they are settled
        per_lane("taken_bid", "i4"),  # bought, among bid_fill
        per_lane("taken_ask_edge", "f8"),  # lots x distance from the mid at the decision, mostly below 0
        per_lane("taken_bid_edge", "f8"),
        per_lane("taker_wait", "i4"),  # decisions until the next may be sent
        per_lane(
            "surprise_given", "i4"
        ),  # 1: the surprises of our fills are as an action's own stage has them
    ],
    align=True,
)


EMPTY = np.dtype([("unused", "i8")])


TILE = np.dtype([("rows", "f4", (4096, LANES))])
"""Rows of the observation tile by number, as many as there are."""


STANDING = np.dtype(
    [
        *((name, "i4", (2, LEVELS, LANES)) for name in ("price", "lots", "ahead", "age")),
        ("most", "i4"),  # orders of a side
        ("padding", "i4", 15),  # so that vectors of lanes do not lie across cache lines
    ]
)
"""Our orders that stand where an action has several a side: by side, asks first, and from the nearest that is
left on. Price (half-ticks), lots left (0: there is none), lots ahead, decisions since it was placed."""


PARAMS = np.dtype(
    [
        ("horizon", "i4"),
        ("start_inventory", "i4"),
        ("position_limit", "i4"),
        ("order_lots", "i4"),
        ("assets", "i4"),  # observed
        ("parameters", "i4"),  # that episodes draw
        ("hidden", "i4"),  # states that learners are shown
        ("loss_limit", "f8"),  # half-ticks x lots
        ("reducing_loss", "f8"),
        ("per_unit", "f8"),  # price units in a half-tick
        ("per_lot", "f8"),  # 1 / typical lots in a step
    ],
    align=True,
)


CORE_TYPE = from_dtype(CORE)


PARAMS_TYPE = from_dtype(PARAMS)
