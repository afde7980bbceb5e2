"""A policy played over recorded paths: a thousand episodes take a second.

table[market, place, level] is the choice for one side of the book, of `policies.book.orders`: `market` is an
index of what the policy sees of the others, from that side; `place` says where the side's nearest order
stands; `level` is what a further lot costs there because of the position, a shadow price. Money is in
half-ticks x lots. How many lots are asked for, and how many orders, says a `Several`. Where the action has
market orders, a `Rule` sends them by a forecast of the efficient price.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.book.orders import terms_of
from policies.book.paths import Paths, compiled
from policies.book.several import ONE, PRICE, Several, arrive, ask, charge_all, do_not_meet, spread_out, trade


class Rule(NamedTuple):
    """When a market order is sent: where the forecast of the efficient price less mid, less what the position
    weighs, passes what it costs. Half-ticks."""

    margin: float
    """By how much it has to."""
    skew: float
    """What a lot of position weighs."""


@compiled
def cost_of_taking(row, side, terms):
    """What a lot bought (side 1) or sold by a market order pays beyond the mid, half-ticks: the half-spread
    and the fee."""
    price = row.ask if side == 1 else row.bid
    return row.ask - row.bid + terms.taker_fee * 2.0 * (price + terms.start)


@compiled
def market_order(row, forecast, position, room, rule, terms):
    """Lots of the market order, above 0 to buy, that a rule sends within limits and what stands at the
    touch."""
    worth = forecast - rule.skew * position
    side = 1 if worth > 0 else -1
    over = abs(worth) - rule.margin - cost_of_taking(row, side, terms)
    if not over > 0:
        return np.int64(0)
    most = min(terms.taken, row.ask_queue if side == 1 else row.bid_queue)
    if rule.skew > 0:  # each lot makes the next one worth less
        most = min(most, 1 + int(over / rule.skew))
    return np.int64(side * min(most, max(room - side * position, 0)))


@compiled
def _play(rows, index, table, scale, several, terms, charges, settle, forecasts, rule, out):
    count = several.orders
    orders, was = np.zeros((2, count, 4), np.int64), np.zeros((count, 4), np.int64)
    lots, want = np.zeros((2, count), np.int64), np.zeros((2, count), np.int64)
    apart, filled = np.zeros(2, np.int64), np.zeros(count, np.int64)
    for i in range(rows.shape[0]):
        position, halted, wait, orders[:] = np.int64(0), False, 0, 0
        for t in range(index.shape[1] - 1):
            row, end = rows[i, t * terms.substeps], rows[i, (t + 1) * terms.substeps]
            # The risk limits, as `mmenv.step.risk` has them.
            loss = -out[i].money - position * (row.ask + row.bid)
            halted = halted or loss >= terms.halted
            room = terms.limit if loss < terms.reducing else 0
            bought = np.int64(0)
            if len(forecasts) and wait <= 0 and not halted:
                bought = market_order(row, forecasts[i, t], position, room, rule, terms)
            wait = terms.spacing - 1 if bought != 0 else wait - 1
            for s in range(2):
                apart[s] = ask(
                    row, 1 - 2 * s, table[index[i, t, s]], position, scale, orders[s], several, terms,
                    lots[s], want[s],
                )  # fmt: skip
            do_not_meet(lots, want)
            if bought != 0:
                touch = row.ask if bought > 0 else row.bid
                cash = -2.0 * (bought * touch + abs(bought) * terms.taker_fee * (touch + terms.start))
                position += bought
                out[i].taken += abs(bought)
                out[i].money += cash
                if len(charges):
                    out[i].bounded += cash - bought * (settle[i, t + 1] - row.price)
            for s in range(2):
                side = 1 - 2 * s
                # Nothing stands that a market order would trade with; position counts it.
                most = 0 if halted or side * bought > 0 else max(room + side * position, 0)
                lots[s, 0] = min(lots[s, 0], most)
                spread_out(row, side, apart[s], terms, lots[s], want[s])
                arrive(row, side, lots[s], want[s], orders[s], was, terms.depth)
                if len(charges):
                    out[i].bounded -= charge_all(charges[i, t, s], row, side, orders[s], terms.depth)
            for k in range(t * terms.substeps, (t + 1) * terms.substeps):
                out[i].martingale += position * rows[i, k].innovation
                for s in range(2):
                    side = 1 - 2 * s
                    trade(rows[i, k], rows[i, k + 1], side, orders[s], terms.depth, filled)
                    for j in range(count):
                        if filled[j] > 0:
                            price = orders[s, j, PRICE]
                            cash = side * 2.0 * price - terms.fee * 2.0 * (price + terms.start)
                            position -= side * filled[j]
                            out[i].fills += filled[j]
                            out[i].money += filled[j] * cash
                            if len(charges):
                                gain = cash + side * (settle[i, t + 1] - end.price)
                                out[i].bounded += filled[j] * gain
            out[i].penalty += terms.phi * position * position
            out[i].inventory += abs(position) / (index.shape[1] - 1)
        last = rows[i, -1]
        out[i].money += position * (last.ask + last.bid)
        out[i].penalty += terms.alpha * position * position


RESULT = np.dtype(
    [
        ("money", "f8"),  # change of wealth, half-ticks x lots
        ("penalty", "f8"),  # on the position, price units
        (
            "martingale",
            "f8",
        ),  # part of the money with mean zero: position x innovation of the efficient price
        ("fills", "f8"),
        ("taken", "f8"),  # lots of market orders
        ("inventory", "f8"),  # mean absolute position
        ("bounded", "f8"),  # money less the penalties of the bound, where they are given
    ]
)
NOTHING = np.zeros((0, 0, 0, 0), np.float32), np.zeros((0, 0))
NEVER = np.zeros((0, 0), np.float32), Rule(0.0, 0.0)
"""No market orders."""


def play(
    paths: Paths,
    index: np.ndarray,
    table: np.ndarray,
    scale: float = 0.0,
    charges: tuple[np.ndarray, np.ndarray] = NOTHING,
    taking: tuple[np.ndarray, Rule] = NEVER,
    several: Several = ONE,
) -> np.recarray:
    """What a policy does on each path.

    Parameters
    ----------
    index
        Of the market as each side sees it, int16 (paths, horizon + 1, 2), ask first.
    table
        uint8 (markets, PLACES, 2 levels + 1).
    scale
        Levels per lot.
    charges
        The penalties and settlement of `policies.book.bound`, for the field `bounded`.
    taking
        Forecasts of the efficient price less mid, half-ticks, float32 (paths, horizon + 1), and the rule by
        which market orders are sent; `NEVER` where the action has none.
    several
        How many lots and orders of a side there are; one lot by default.

    Returns
    -------
    np.recarray
        RESULT (paths,).
    """
    out = np.zeros(len(paths.rows), RESULT)
    given = paths.rows, index, table, float(scale), several, terms_of(paths.config)
    _play(*given, *charges, *taking, out)
    return out.view(np.recarray)


def value(paths: Paths, result: np.recarray) -> np.ndarray:
    """The reward of each path without its part of mean zero, price units x lots."""
    return money(paths, result) - result.penalty


def money(paths: Paths, result: np.recarray) -> np.ndarray:
    """The same before the penalties on the position."""
    return (result.money - result.martingale) / paths.market.price_scale
