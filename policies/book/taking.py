"""Market orders on `book`: a rule that sends them by a forecast of the efficient price, and the most that all
of them can add to the bound.

A lot bought at the ask is worth the efficient price less the ask. Who sees that the price is about to leave
takes what is left at the old one, and who holds too much pays to be rid of it (Cartea and Jaimungal 2013, by
impulse control); here the position's weight is linear.
"""

from __future__ import annotations

import itertools

import numpy as np

from policies.book.orders import Terms, terms_of
from policies.book.paths import Paths, compiled
from policies.book.play import NOTHING, Rule, cost_of_taking, market_order, play, value
from policies.book.programme import Programme, gap

MARGINS = -0.25, 0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, np.inf
SKEWS = 0.0, 0.025, 0.05, 0.1, 0.2, 0.4
"""What is tried of a `Rule`. Without end: no market order."""


def search(paths: Paths, index: np.ndarray, programme: Programme, forecasts: np.ndarray) -> Rule:
    """The rule with which a programme that also sends market orders earns most on the paths.

    Parameters
    ----------
    index
        As for `policies.book.play.play`.
    forecasts
        Of the efficient price less mid, half-ticks, float32 (paths, horizon + 1).
    """

    def earned(rule: Rule) -> float:
        taking = forecasts, rule
        return float(
            value(paths, play(paths, index, programme.table, programme.scale, NOTHING, taking)).mean()
        )

    return max(itertools.starmap(Rule, itertools.product(MARGINS, SKEWS)), key=earned)


def most_taken(paths: Paths, settle: np.ndarray) -> np.ndarray:
    """What market orders can add to the bound at most, price units x lots, float64 (paths,).

    After the penalties of `policies.book.bound` a lot bought at decision t is worth what is known of it then:
    the efficient price less the ask, the fee and the last mispricing's mean, `settle` as `Bound.charges` has
    it. The best are sent, without limits on position and rate: a maximum over more.
    """
    out = np.zeros(len(paths.rows))
    _most_taken(paths.decisions, gap(paths), settle, terms_of(paths.config), out)
    return out / paths.market.price_scale


def market_orders(
    rows: np.ndarray, forecasts: np.ndarray, positions: np.ndarray, rule: Rule, terms: Terms
) -> np.ndarray:
    """Lots of the market orders, above 0 to buy, int64 (n,), in n books (ROW: touch and queues) with such
    forecasts, half-ticks, and positions, lots."""
    lots = np.zeros(len(rows), np.int64)
    _market_orders(rows, forecasts.astype(np.float32), positions.astype(np.int64), rule, terms, lots)
    return lots


@compiled
def _market_orders(rows, forecasts, positions, rule, terms, lots):
    for i in range(len(rows)):
        lots[i] = market_order(rows[i], forecasts[i], positions[i], terms.limit, rule, terms)


@compiled
def _most_taken(decisions, gaps, settle, terms, out):
    for i in range(decisions.shape[0]):
        for t in range(decisions.shape[1] - 1):
            row, ahead = decisions[i, t], gaps[i, t] - settle[i, t + 1]
            for side in (1, -1):
                most = min(terms.taken, row.ask_queue if side == 1 else row.bid_queue)
                out[i] += most * max(side * ahead - cost_of_taking(row, side, terms), 0.0)
